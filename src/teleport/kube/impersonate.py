"""In whose name a call goes on: reading what the client asks for, and writing what the API server is told. Pure.

The server is told by the headers `Impersonate-User` and `Impersonate-Group` (kubernetes.io, "User impersonation"). What
the client sent of these is an *asking* that `authz.kube` answers; nothing of it goes on as it came. Other headers of
impersonation (a UID, extra fields) are refused: to leave them out would answer another question than was asked.
"""

from __future__ import annotations

from typing import Final

from teleport.authz.kube import ActAs, KubeAccessPermit
from teleport.errors import BadRequest
from teleport.kube.heads import Headers, forwarded, plain_name

MAX_GROUPS: Final = 100


def asked(headers: Headers) -> ActAs:
    """Whom the client asks to act as. Raises `BadRequest`."""
    users: list[str] = []
    groups: list[str] = []
    for name, value in headers:
        match plain_name(name):
            case b"impersonate-user":
                users.append(_text(value))
            case b"impersonate-group":
                groups.append(_text(value))
            case other if other.startswith(b"impersonate-"):
                raise BadRequest(
                    f"{other.decode()} is not taken here: only a user and groups can be chosen.",
                    hint="kubectl: leave --as-uid out, use --as and --as-group",
                )
    if len(users) > 1 or len(groups) > MAX_GROUPS or (users and not users[0]) or "" in groups:
        raise BadRequest("The request names whom to act as in a way that cannot be.", hint="kubectl --as=USER")
    return ActAs(users[0] if users else "", tuple(groups))


def _text(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequest("The request names whom to act as in no UTF-8 text.", hint="kubectl --as=USER") from None


def repeated(act_as: ActAs) -> list[tuple[bytes, bytes]]:
    """The headers by which the same is asked once more."""
    return [
        *([(b"Impersonate-User", act_as.user.encode())] if act_as.user else []),
        *((b"Impersonate-Group", group.encode()) for group in act_as.groups),
    ]


def told(headers: Headers, permit: KubeAccessPermit, client_address: str) -> list[tuple[bytes, bytes]]:
    """The headers for the API server: those of the client that may go on, and in whose name it asks."""
    return [
        *forwarded(headers),
        (b"X-Forwarded-For", client_address.encode("ascii", "replace")),  # for the server's own audit log
        (b"Impersonate-User", permit.kube_user.encode()),
        *((b"Impersonate-Group", group.encode()) for group in permit.kube_groups),
    ]
