"""Messages about a second factor for one session: certificates that are marked with it, and leases."""

from __future__ import annotations

from datetime import datetime

from teleport.api.messages.base import Message, Request
from teleport.api.messages.factors import FactorResponse


class SessionChallengeRequest(Request, frozen=True, kw_only=True):
    """What the caller's devices are to be asked for: one session on `host` as `login`, or, without a host, calls to the
    auth API."""

    host: str = ""  # as it was typed: a name, an address or a UUID
    port: int = 0
    login: str = ""


class SessionCertRequest(SessionChallengeRequest, frozen=True, kw_only=True):
    """The caller proves a second factor for what a challenge was asked for. The key and everything else are those of
    the caller's certificate."""

    factor: FactorResponse


class LeaseRequest(Request, frozen=True, kw_only=True):
    """A proxy passes on what somebody answered who has just proved a certificate to it."""

    certificate: str  # the SSH user certificate, an OpenSSH line
    client_addr: str  # address of the client without a port, as the proxy saw it
    factor: FactorResponse


class Lease(Message, frozen=True, kw_only=True):
    """A lease that was made."""

    name: str
    expires: datetime
