"""What a TLS client asks for before anything is proved: server name and protocols, from its ClientHello. Pure.

Which context a handshake gets is decided from these before it begins (trap T-3). Format: RFC 8446 4.1.2 and 5.1,
server_name RFC 6066 section 3, application_layer_protocol_negotiation RFC 7301 section 3.1. Strict where the result
depends on it: what is said twice, or in two spellings, is refused rather than read in one of two ways.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

MAX_BYTES: Final = 16 * 1024  # of a ClientHello with its record headers; today's largest have some 2 KiB
MAX_RECORDS: Final = 64  # that it may be split over; each piece that comes costs a look at all of them
_CLIENT_HELLO: Final = 1
_SERVER_NAME: Final = 0
_PROTOCOLS: Final = 16
_NAME: Final = re.compile(rb"[A-Za-z0-9_.-]{1,255}")


class Malformed(ValueError):
    """What came is no ClientHello, or one that is read in two ways."""


@dataclass(frozen=True, slots=True)
class ClientHello:
    """`server_name` is in lower case, empty when none was named; `protocols` in the client's order (ALPN)."""

    server_name: str = ""
    protocols: tuple[str, ...] = ()


def parse(data: bytes) -> ClientHello | None:
    """The ClientHello at the start of `data`, None when more bytes are needed. Raises `Malformed`."""
    message, at = bytearray(), 0
    wanted: int | None = None
    records = 0
    while wanted is None or len(message) < wanted:
        head = data[at : at + 5]
        if head[:1] not in (b"", b"\x16") or head[1:2] not in (b"", b"\x03"):
            raise Malformed("no TLS handshake")
        if len(head) < 5:
            _check_length(data)
            return None
        length = int.from_bytes(head[3:5], "big")
        if not 0 < length <= 1 << 14:
            raise Malformed("a record of a length that no handshake has")
        if at + 5 + length > MAX_BYTES:
            raise Malformed("a ClientHello that long is not taken")
        part = data[at + 5 : at + 5 + length]
        message += part
        if message[:1] not in (b"", bytes([_CLIENT_HELLO])):
            raise Malformed("TLS that does not begin with a ClientHello")
        if len(message) >= 4:
            wanted = 4 + int.from_bytes(message[1:4], "big")
            if wanted > MAX_BYTES:
                raise Malformed("a ClientHello that long is not taken")
        if len(part) < length and (wanted is None or len(message) < wanted):
            _check_length(data)
            return None
        at, records = at + 5 + length, records + 1
        if records >= MAX_RECORDS:
            raise Malformed("a ClientHello in that many records is not taken")
    return _hello(bytes(message[4:wanted]))


def _check_length(data: bytes) -> None:
    if len(data) >= MAX_BYTES:
        raise Malformed("a ClientHello that long is not taken")


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        found = self._data[self._at : self._at + size]
        if len(found) < size:
            raise Malformed("cut off")
        self._at += size
        return found

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> bytes:
        """Bytes after their length, which has `size` bytes."""
        return self.take(self.number(size))

    @property
    def left(self) -> bool:
        return self._at < len(self._data)


def _hello(body: bytes) -> ClientHello:
    reader = _Reader(body)
    reader.take(2 + 32)  # legacy_version, random
    reader.vector(1)  # session id
    reader.vector(2)  # cipher suites
    reader.vector(1)  # compression methods
    extensions = _Reader(reader.vector(2)) if reader.left else _Reader(b"")
    if reader.left:
        raise Malformed("more after the extensions")
    name, protocols = "", tuple[str, ...]()
    seen = set[int]()
    while extensions.left:
        kind, content = extensions.number(2), _Reader(extensions.vector(2))
        if kind in seen:
            raise Malformed("an extension twice")
        seen.add(kind)
        if kind == _SERVER_NAME:
            name = _server_name(content)
        elif kind == _PROTOCOLS:
            protocols = _protocols(content)
    return ClientHello(name, protocols)


def _server_name(content: _Reader) -> str:
    names = _Reader(content.vector(2))
    kind, name = names.number(1), names.vector(2)
    if kind != 0 or names.left or content.left or not _NAME.fullmatch(name):
        raise Malformed("one host name is taken")
    return name.decode("ascii").lower()


def _protocols(content: _Reader) -> tuple[str, ...]:
    listed, found = _Reader(content.vector(2)), list[str]()
    while listed.left:
        found.append(listed.vector(1).decode("latin-1"))
    if content.left or not all(found):
        raise Malformed("an empty protocol name")
    return tuple(found)
