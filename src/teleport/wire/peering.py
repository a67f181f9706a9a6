"""What two proxies say to each other inside TLS, when one has a client and the other the tunnel of its host. Pure.

A connection carries frames: a byte that says what it is, the body's length in three bytes (big-endian), the body.

| frame | from | body |
|---|---|---|
| `ASK` | the proxy that has the client | `Ask` as JSON: the host; or another cluster and the message for it |
| `ANSWER` | the other | `Answer` as JSON; a refusal leaves the connection as it was, for the next question |
| `DATA` | both, after an answer that says yes | bytes; the first are the line of `wire.vouch` |
| `END` | likewise, once each | empty: this side sends no more |

Frames are there because TLS has no half-close that both ends can rely on. Rules: one question at a time; a connection
that carried a client is not used again; messages only grow, and an `Ask` of a later version is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Final, TypeVar
from uuid import UUID

import msgspec

from teleport.errors import BadRequest
from teleport.pki import names

VERSION: Final = 1
MAX_MESSAGE: Final = 64 * 1024  # bytes of a question or an answer: one for another cluster has two certificates in it
MAX_DATA: Final = (1 << 24) - 1  # bytes of one frame
NODE: Final = "node"
KUBE: Final = "kube"
SERVICES: Final = frozenset({NODE, KUBE})
CLUSTER: Final = "cluster"
T = TypeVar("T")


class Kind(IntEnum):
    """What a frame is."""

    ASK = 1
    ANSWER = 2
    DATA = 3
    END = 4


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """Whom a client is to be led to: a service of a host, `<uuid>.<cluster>`; or (`CLUSTER`) what `dial`, a message of
    `tunnel.cluster_messages`, asks of the other cluster `server_id`."""

    version: int = VERSION
    server_id: str
    conn_type: str = NODE
    dial: str = ""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the client is led there; `error` is empty then. `here`: the other proxy holds a tunnel of the host.
    `refused`: the other cluster says that this client may not."""

    version: int = VERSION
    error: str = ""
    here: bool = False
    refused: bool = False


def frame(kind: Kind, body: bytes | memoryview = b"") -> bytes:
    """One frame. Raises `ValueError` for a body that is longer than `MAX_DATA`."""
    if len(body) > MAX_DATA:
        raise ValueError(f"a frame has at most {MAX_DATA} bytes")
    return b"".join((((kind << 24) | len(body)).to_bytes(4, "big"), body))


def message(kind: Kind, said: msgspec.Struct) -> bytes:
    """A question or an answer as it is sent."""
    return frame(kind, msgspec.json.encode(said))


def read(body: bytes, kind: type[T]) -> T:
    """Reads a message. Raises `BadRequest`, never anything else."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadRequest(f"what the other proxy says cannot be read: {error}") from error


def host_of(ask: Ask, cluster: str) -> str:
    """The UUID of the host that is asked for. Raises `BadRequest` for everything else, addresses among it."""
    host, dot, of = ask.server_id.partition(".")
    try:
        known = str(UUID(host)) == host
    except ValueError:
        known = False
    if ask.version != VERSION or ask.conn_type not in SERVICES or not known or not dot or of != cluster:
        raise BadRequest(
            f"{ask.server_id[:200]!r} ({ask.conn_type[:40]}) is no such service of this cluster; nothing else is led to"
        )
    return host


def cluster_of(ask: Ask) -> str:
    """The other cluster that is asked for; empty when it is a host. Raises `BadRequest`."""
    if ask.conn_type != CLUSTER:
        return ""
    if ask.version != VERSION or not ask.dial or not ask.server_id or names.cluster_problem(ask.server_id):
        raise BadRequest(f"{ask.server_id[:200]!r} is no cluster that a client can be led to")
    return ask.server_id


class Frames:
    """Takes bytes as they come and gives frames; of `DATA` it keeps nothing, and gives parts of the body."""

    def __init__(self) -> None:
        self._head = b""
        self._kind: Kind | None = None
        self._left = 0  # bytes of the body that have not come
        self._body = b""  # of a message

    def feed(self, data: bytes) -> Iterator[tuple[Kind, bytes]]:
        """What `data` completes. Raises `BadRequest` for what is no frame; nothing more may be fed then."""
        position, end = 0, len(data)
        while position < end:
            if self._kind is None:
                taken = min(4 - len(self._head), end - position)
                self._head += data[position : position + taken]
                position += taken
                if len(self._head) < 4:
                    return
                self._kind, self._left = self._begun()
                self._head = b""
                if not self._left:
                    kind, self._kind = self._kind, None
                    yield kind, b""
                continue
            taken = min(self._left, end - position)
            part = data[position : position + taken] if taken < end else data
            position += taken
            self._left -= taken
            if self._kind is Kind.DATA:
                if not self._left:
                    self._kind = None
                yield Kind.DATA, part
                continue
            self._body += part
            if not self._left:
                kind, self._kind = self._kind, None
                body, self._body = self._body, b""
                yield kind, body

    def _begun(self) -> tuple[Kind, int]:
        size = int.from_bytes(self._head[1:], "big")
        try:
            kind = Kind(self._head[0])
        except ValueError:
            raise BadRequest(f"no frame begins with {self._head[0]}") from None
        most = {Kind.DATA: MAX_DATA, Kind.END: 0}.get(kind, MAX_MESSAGE)
        if size > most:
            raise BadRequest(f"a frame {kind.name} of {size} bytes is longer than {most}")
        return kind, size
