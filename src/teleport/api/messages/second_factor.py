"""Messages about a second factor for one session: certificates that are marked with it, and leases."""

from __future__ import annotations

from datetime import datetime

from teleport.api.messages.base import Message, Request
from teleport.api.messages.factors import FactorChallenge, FactorResponse


class SessionChallengeRequest(Request, frozen=True, kw_only=True):
    """What the caller's devices are to be asked for: one session on `host` as `login`; calls to the Kubernetes cluster
    `kube_cluster`; or, with neither, calls to the auth API."""

    host: str = ""  # as it was typed: a name, an address or a UUID
    port: int = 0
    login: str = ""
    kube_cluster: str = ""  # of this cluster of ours
    joins: bool = False  # with kube_cluster: to take part in sessions in its pods (SSH), and make no calls


class SessionCertRequest(SessionChallengeRequest, frozen=True, kw_only=True):
    """The caller proves a second factor for what a challenge was asked for. The key and everything else are those of
    the caller's certificate."""

    factor: FactorResponse


class LeaseRequest(Request, frozen=True, kw_only=True):
    """A proxy passes on what somebody answered who has just proved a certificate to it."""

    certificate: str  # the SSH user certificate, an OpenSSH line
    client_addr: str  # address of the client without a port, as the proxy saw it
    factor: FactorResponse


class LeaseChallengeRequest(Request, frozen=True, kw_only=True):
    """A proxy asks how somebody who has just proved a certificate to it can prove a second factor."""

    certificate: str  # the SSH user certificate, an OpenSSH line
    client_addr: str  # address of the client without a port, as the proxy saw it


class LeaseChallenge(Message, frozen=True, kw_only=True):
    """What would do. `link` is secret: whoever has it reads who asks, and needs a device of theirs to approve."""

    totp: bool  # whether a one-time code would do
    link: str = ""  # where a hardware key approves in a browser; empty when none would do


class LeaseApprovalRequest(Request, frozen=True, kw_only=True):
    """What the page behind such a link asks."""

    token: str


class LeaseApproval(Message, frozen=True, kw_only=True):
    """Who asks for a lease, from where and for how long, and the question to a hardware key."""

    user: str
    cluster: str
    client_addr: str
    key_fingerprint: str
    until: datetime
    challenge: FactorChallenge


class ApproveLeaseRequest(Request, frozen=True, kw_only=True):
    """What the hardware key answered."""

    token: str
    factor: FactorResponse


class Lease(Message, frozen=True, kw_only=True):
    """A lease that was made."""

    name: str
    expires: datetime
