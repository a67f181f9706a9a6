"""Heads of HTTP/1.1 messages, read so that nobody behind can read them in another way (threat T55, RFC 9112). Pure.

h11 parses; before it does, `find_head` looks at the raw lines, because what two readers may take in two ways is gone
once it is parsed: folded lines, lines that end in a bare LF, several lengths, a length beside chunks, several hosts.
All of that is refused, in requests as in answers. `forwarded` gives the headers that may go on: none that concern one
connection only, whether by their own name or because `Connection` names them, and none that say who somebody is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from teleport.errors import BadRequest

MAX_HEAD: Final = 64 * 1024  # bytes
MAX_LINES: Final = 200
Headers = Sequence[tuple[bytes, bytes]]

_END: Final = b"\r\n\r\n"
_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_BARE: Final = re.compile(rb"\r(?!\n)|(?<!\r)\n|\x00")
_ONE_CONNECTION: Final = frozenset(
    {
        b"connection",
        b"content-length",  # written anew by whoever frames the body
        b"expect",
        b"http2-settings",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_SAYS_WHO: Final = frozenset(
    {
        b"authorization",
        b"cookie",
        b"forwarded",
        b"host",
        b"sec-websocket-protocol",  # Kubernetes takes bearer tokens there
        b"set-cookie",
        b"x-http-method",
        b"x-http-method-override",
        b"x-method-override",
        b"x-original-uri",
        b"x-original-url",
        b"x-real-ip",
        b"x-rewrite-url",
    }
)
_SAYS_WHO_BEGINS: Final = (b"impersonate-", b"proxy-", b"x-auth-request-", b"x-forwarded-", b"x-remote-", b"x-ssl-")
_ONCE: Final = (b"content-length", b"transfer-encoding", b"host", b"upgrade", b"expect")


class BadHead(BadRequest):
    """A head that is refused. What comes after it on the connection cannot be told apart, so the connection ends."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"The HTTP message is refused: {why}.", hint="use kubectl, or another client that sends plain HTTP/1.1"
        )


def find_head(buffer: bytes, looked: int = 0) -> int:
    """How many bytes of `buffer` are the first message's head; 0 when it has not ended yet. For the first `looked`
    bytes that was the answer already: a head that comes byte by byte is read once. Raises `BadHead`."""
    end = buffer.find(_END, max(looked - len(_END) + 1, 0))
    if end < 0:
        if len(buffer) > MAX_HEAD:
            raise BadHead("its head is too long")
        known = len(buffer) - buffer.endswith(b"\r")  # which may be half of a line's end
        if _BARE.search(buffer, max(looked - 1, 0), known):
            raise BadHead("a line of its head ends in another way than by CR LF")
        return 0
    if end > MAX_HEAD:
        raise BadHead("its head is too long")
    _check(buffer[:end])
    return end + len(_END)


def _check(head: bytes) -> None:
    if _BARE.search(head):
        raise BadHead("a line of its head ends in another way than by CR LF")
    lines = head.split(b"\r\n")[1:]
    if len(lines) > MAX_LINES:
        raise BadHead("it has too many headers")
    found: dict[bytes, int] = {}
    for line in lines:
        if line[:1] in (b" ", b"\t"):
            raise BadHead("a header goes on in the next line")
        name, colon, value = line.partition(b":")
        if not colon or not _NAME.fullmatch(name):
            raise BadHead("a header's name is none")
        key = plain_name(name)
        found[key] = found.get(key, 0) + 1
        if key == b"transfer-encoding" and value.strip().lower() != b"chunked":
            raise BadHead("its transfer encoding is not chunked")
        if key == b"content-length" and not re.fullmatch(rb"[0-9]{1,18}", value.strip(b" \t")):
            raise BadHead("its length is no number")
    for name in _ONCE:
        if found.get(name, 0) > 1:
            raise BadHead(f"it has several headers {name.decode()}")
    if b"content-length" in found and b"transfer-encoding" in found:
        raise BadHead("it has a length and is chunked")


def plain_name(name: bytes) -> bytes:
    """The name as those compare it who take `_` for `-`, as some servers do."""
    return name.lower().replace(b"_", b"-")


def values(headers: Headers, name: bytes) -> list[bytes]:
    """The values of a header, by its plain name."""
    return [value for key, value in headers if plain_name(key) == name]


def named_by_connection(headers: Headers) -> frozenset[bytes]:
    """The headers that `Connection` names as its own."""
    return frozenset(
        plain_name(token.strip()) for value in values(headers, b"connection") for token in value.split(b",")
    )


def forwarded(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Those that may go on, in their order."""
    gone = named_by_connection(headers)
    return [(name, value) for name, value in headers if _goes_on(plain_name(name), gone)]


def _goes_on(name: bytes, gone: Iterable[bytes]) -> bool:
    return not (name in _ONE_CONNECTION or name in _SAYS_WHO or name.startswith(_SAYS_WHO_BEGINS) or name in gone)


def asks_upgrade(headers: Headers) -> bool:
    """Whether another protocol is asked for, in whatever form."""
    return bool(values(headers, b"upgrade")) or b"upgrade" in named_by_connection(headers)
