"""Messages about the cluster as a whole."""

from __future__ import annotations

from datetime import datetime

from teleport.api.messages.base import Message


class ClusterCA(Message, frozen=True, kw_only=True):
    """The public half of the host authority: what a joiner compares with its pin."""

    cluster: str
    tls_certs: list[str]  # PEM
    now: datetime | None = None  # auth's clock, which a joiner compares with its own; older servers leave it out


class AuthorityStatus(Message, frozen=True, kw_only=True):
    """An authority, without its keys. What follows `keys` came later: servers before that leave it out."""

    kind: str
    rotation: str  # in words
    keys: int  # sets of keys that are trusted
    phase: str = ""
    mode: str = ""
    rotation_id: str = ""
    started: datetime | None = None
    grace_period: float = 0  # seconds
    last_rotated: datetime | None = None
    schedule: dict[str, datetime] = {}  # when which phase follows, of a rotation that runs by itself
    ca_pins: list[str] = []  # of the host authority: of the keys that sign, then of those that are only trusted


class ClusterStatus(Message, frozen=True, kw_only=True):
    cluster: str
    version: str
    authorities: list[AuthorityStatus]
    ca_pins: list[str]
    now: datetime


class WhoAmI(Message, frozen=True, kw_only=True):
    """How auth reads the caller's certificate."""

    kind: str  # user, host, anonymous
    name: str
    roles: list[str]
    cluster: str
    client_addr: str


class HostSigner(Message, frozen=True, kw_only=True):
    """A cluster whose hosts a client may trust (`protocols.md` 2.2)."""

    domain_name: str
    checking_keys: list[str]  # OpenSSH public key lines
    tls_certs: list[str]  # PEM


class ProxyAddresses(Message, frozen=True, kw_only=True):
    """Where the proxies of this cluster are reached, as they announce it."""

    web: str
    ssh: str
    tunnel: str = ""
