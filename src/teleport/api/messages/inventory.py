"""Messages about live certificates."""

from __future__ import annotations

from datetime import datetime

from teleport.api.messages.base import Message, Request


class ListCertsRequest(Request, frozen=True, kw_only=True):
    """A page of the live certificates of users or of hosts, by serial number; `subject` names one user or host."""

    type: str = "user"  # user, host
    subject: str = ""
    start_key: str = ""
    limit: int = 1000


class CertInfo(Message, frozen=True, kw_only=True):
    """A live certificate: the SSH and the TLS certificate of one issue."""

    type: str  # user, host
    serial: str  # decimal, as ssh-keygen -L prints it
    subject: str  # user name, host UUID
    issued: datetime
    expires: datetime
    roles: list[str] = []
    system_roles: list[str] = []
    logins: list[str] = []
    names: list[str] = []
    key_fingerprint: str = ""
    addr: str = ""
    by: str = ""
    factor: str = ""
    mfa_device: str = ""
    source_ip: str = ""
    renewed_from: str = ""
    last_use: datetime | None = None  # to ten minutes
    stopped: str = ""  # why it does not count: a lock, the user gone; empty when it does


class CertsPage(Message, frozen=True, kw_only=True):
    items: list[CertInfo]
    next_key: str = ""


class RevokeCertRequest(Request, frozen=True, kw_only=True):
    """Ends a certificate, and those that it was renewed to."""

    serial: str
    message: str = ""


class RevocationListRequest(Request, frozen=True, kw_only=True):
    """A list that knows of this revision of the cluster's state; without one, a list of now."""

    at_least: int = 0


class RevocationList(Message, frozen=True, kw_only=True):
    """An OpenSSH revocation list."""

    krl: str  # base64 of the file
    version: int  # the revision of the cluster's state that it knows of
    serials: int  # how many certificates it names by number


class RevokedCerts(Message, frozen=True, kw_only=True):
    """What ended; each by a lock of its own, which lifts it again when it is removed."""

    serials: list[str]
    locks: list[str]
    known: bool  # whether the certificate is in the inventory
    subject: str = ""
    type: str = ""
