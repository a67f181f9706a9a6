"""What etcd and grpc answer when they do not do what was asked: whether to try again, and what a person reads. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from teleport.errors import AccessDenied, ConnectionProblem, LimitExceeded, TeleportError


class Kind(StrEnum):
    """What to do about an answer."""

    AGAIN = "again"  # this server or the whole cluster is away, or busy; it may or may not have happened
    TOKEN = "token"  # noqa: S105 # who we are was forgotten: log in, then again. It has not happened
    TLS = "tls"  # the other end or we were not believed
    COMPACTED = "compacted"  # the revision that was asked for is not kept any more
    NO_LEASE = "no lease"  # the lease that was named is gone. It has not happened
    TAKEN = "taken"  # a lease of this number exists
    NO_LOGIN = "no login"  # user or password are wrong, or missing
    NOT_ALLOWED = "not allowed"
    LOGIN_OFF = "login off"  # the cluster asks nobody for a password
    TOO_LARGE = "too large"
    FULL = "full"
    REFUSED = "refused"  # anything else


_BY_TEXT: Final = (
    ("requested lease not found", Kind.NO_LEASE),
    ("lease already exists", Kind.TAKEN),
    ("has been compacted", Kind.COMPACTED),
    ("invalid auth token", Kind.TOKEN),
    ("revision in header is old", Kind.TOKEN),
    ("revision of auth store is old", Kind.TOKEN),
    ("authentication failed", Kind.NO_LOGIN),
    ("user name is empty", Kind.NO_LOGIN),
    ("user name not found", Kind.NO_LOGIN),
    ("permission denied", Kind.NOT_ALLOWED),
    ("authentication is not enabled", Kind.LOGIN_OFF),
    ("request is too large", Kind.TOO_LARGE),
    ("too many operations", Kind.TOO_LARGE),
    ("message larger than max", Kind.TOO_LARGE),
    ("database space exceeded", Kind.FULL),
)
# whole words of the library's: a server may have "tls" in its name
_TLS: Final = (
    "handshake failed",
    "certificate_",
    "certificate verify",
    "ssl_error",
    "hostname verification",
    "peer name",
)
_AGAIN: Final = {
    *("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "UNKNOWN", "INTERNAL", "ABORTED", "RESOURCE_EXHAUSTED"),
    "DATA_LOSS",  # etcd says so of a member whose disk or log is broken; others answer
}


def kind_of(code: str, details: str) -> Kind:
    """What an answer means; `code` is grpc's name of its status."""
    told = details.lower()
    for text, kind in _BY_TEXT:
        if text in told:
            return kind
    if code == "UNAVAILABLE" and any(text in told for text in _TLS):
        return Kind.TLS
    return Kind.AGAIN if code in _AGAIN else Kind.REFUSED


def explain(doing: str, where: str, kind: Kind, details: str, *, prefix: str, username: str) -> TeleportError:
    """The error for what cannot be mended by trying again, or was tried long enough."""
    what = f"cannot {doing} the storage in etcd ({where})"
    match kind:
        case Kind.TLS:
            return ConnectionProblem(
                f"{what}: the server's certificate or ours was not accepted: {details}",
                hint="check tls_ca_file, tls_cert_file and tls_key_file of teleport.storage, and that each server's "
                "certificate names the host as peers does",
            )
        case Kind.NO_LOGIN if username:
            return AccessDenied(
                f"{what}: etcd does not accept the password of the user {username}",
                hint="check username and password_file of teleport.storage: etcdctl user get NAME",
            )
        case Kind.NO_LOGIN:
            return AccessDenied(
                f"{what}: etcd asks for a user, and none is configured",
                hint="set username and password_file of teleport.storage",
            )
        case Kind.NOT_ALLOWED:
            return AccessDenied(
                f"{what}: etcd does not allow it to this user",
                hint=f"grant its role all below the prefix: etcdctl role grant-permission ROLE readwrite --prefix=true "
                f"{prefix}",
            )
        case Kind.TOO_LARGE:
            return LimitExceeded(
                f"{what}: the request is larger than etcd takes: {details}",
                hint="etcd takes 1.5 MiB and 128 operations in one request unless it was started with other values of "
                "--max-request-bytes and --max-txn-ops",
            )
        case Kind.FULL:
            return LimitExceeded(
                f"{what}: its database has reached its quota, nothing can be written",
                hint="compact and defragment it, then etcdctl alarm disarm; --auto-compaction-retention=1h keeps it so",
            )
        case Kind.AGAIN:
            return ConnectionProblem(
                f"{what}: {details}",
                hint="check that the servers named in peers are up and have a leader: etcdctl endpoint status",
            )
        case _:
            return TeleportError(
                f"{what}: {details}", hint="see what etcd logs about it: journalctl -u etcd, etcdctl endpoint status"
            )
