"""The client's half of the SSH agent's protocol (draft-miller-ssh-agent): messages, no sockets.

An agent is not trusted with memory: answers are bounded before they are kept (threat T61). It is trusted with keys: it
gets those that are added, for as long as they are good.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from teleport.errors import ConnectionProblem
from teleport.pki.secret import Secret
from teleport.pki.sshwire import Reader, WireError, mpint, string

MAX_ANSWER = 256 * 1024  # bytes, as OpenSSH has it
_MAX_KEYS = 2048
_FAILURE, _SUCCESS = 5, 6
_REQUEST_IDENTITIES, _IDENTITIES_ANSWER = 11, 12
_ADD_IDENTITY, _REMOVE_IDENTITY, _ADD_ID_CONSTRAINED = 17, 18, 25
_LIFETIME = 1  # a constraint: seconds follow
_P256_CERTIFICATE = b"ecdsa-sha2-nistp256-cert-v01@openssh.com"


@dataclass(frozen=True, slots=True)
class Identity:
    """A key that an agent holds: its public part, or certificate, as SSH has it."""

    blob: bytes
    comment: str


@dataclass(frozen=True, slots=True)
class P256Certificate:
    """A certificate and the private number of its key."""

    blob: bytes
    scalar: int = field(repr=False)
    comment: str


def _framed(kind: int, *parts: bytes) -> bytes:
    body = bytes((kind,)) + b"".join(parts)
    return len(body).to_bytes(4, "big") + body


def list_request() -> bytes:
    """Asks for the identities."""
    return _framed(_REQUEST_IDENTITIES)


def add_request(key: P256Certificate, seconds: int) -> Secret:
    """Adds a certificate with its key; the agent forgets both after `seconds`."""
    parts = (string(_P256_CERTIFICATE), string(key.blob), mpint(key.scalar), string(key.comment.encode()))
    constraint = bytes((_LIFETIME,)) + min(seconds, 0xFFFFFFFF).to_bytes(4, "big")
    return Secret(_framed(_ADD_ID_CONSTRAINED, *parts, constraint))


def remove_request(blob: bytes) -> bytes:
    """Removes an identity."""
    return _framed(_REMOVE_IDENTITY, string(blob))


def answer_size(head: bytes) -> int:
    """Bytes that follow the four of `head`. Raises `ConnectionProblem`."""
    size = int.from_bytes(head, "big")
    if len(head) != 4 or not 1 <= size <= MAX_ANSWER:
        raise ConnectionProblem("the SSH agent answers something that is no answer", hint="check SSH_AUTH_SOCK")
    return size


def succeeded(body: bytes) -> bool:
    """Whether a request was done. Raises `ConnectionProblem` for what is neither yes nor no."""
    if body[:1] not in (bytes((_SUCCESS,)), bytes((_FAILURE,))):
        raise ConnectionProblem("the SSH agent answers something else than was asked", hint="check SSH_AUTH_SOCK")
    return body[0] == _SUCCESS


def identities(body: bytes) -> list[Identity]:
    """What the agent holds; none when it says that it cannot tell. Raises `ConnectionProblem`."""
    if body == bytes((_FAILURE,)):
        return []
    try:
        reader = Reader(body[1:])
        count = reader.uint32()
        if body[0] != _IDENTITIES_ANSWER or count > _MAX_KEYS:
            raise WireError("no list")
        return [Identity(reader.string(), reader.string().decode(errors="replace")) for _ in range(count)]
    except (WireError, IndexError):
        raise ConnectionProblem("the SSH agent's list of keys is damaged", hint="check SSH_AUTH_SOCK") from None
