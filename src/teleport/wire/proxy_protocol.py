"""The header by which a TCP balancer says for whom it connects: PROXY protocol, versions 1 and 2. Pure.

Format: HAProxy's `proxy-protocol.txt` (2.1: one line of text of at most 107 bytes; 2.2: twelve fixed bytes, command,
family, length, addresses, TLVs). Strict, since what is read here becomes the client's address in limits, source pins
and the audit log: one spelling for each number, no family but TCP, TLVs skipped by their length and never read.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"  # how version 2 begins
WORD: Final = b"PROXY "  # how version 1 begins
MAX_LINE: Final = 107  # bytes of a version 1 header, its end included
MAX_REST: Final = 2048  # bytes after the fixed 16 of version 2: more than any balancer's TLVs need
MAX_HEADER: Final = 16 + MAX_REST

_PORT: Final = re.compile(r"0|[1-9][0-9]{0,4}")
_TCP4: Final = 0x11
_TCP6: Final = 0x21
_UNSPECIFIED: Final = 0x00


class Malformed(ValueError):
    """What came is no header of the protocol, or none that may be believed here."""


@dataclass(frozen=True, slots=True)
class Header:
    """A whole header. Without a `client` the connection is the balancer's own (LOCAL) or of a kind it cannot name."""

    client: tuple[str, int] | None
    size: int  # bytes that it took


def begins(data: bytes) -> bool | None:
    """Whether a connection begins with a header: None while that cannot be told yet (of nothing at all neither)."""
    for mark in (WORD, SIGNATURE):
        if data.startswith(mark):
            return True
    return None if any(mark.startswith(data) for mark in (WORD, SIGNATURE)) else False


def parse(data: bytes) -> Header | None:
    """The header at the start of `data`, None when more bytes are needed. Raises `Malformed`."""
    match begins(data):
        case None:
            return None
        case False:
            raise Malformed("no PROXY header")
    return _version_1(data) if data.startswith(WORD) else _version_2(data)


def _version_1(data: bytes) -> Header | None:
    end = data.find(b"\r\n", 0, MAX_LINE)
    if end < 0:
        if len(data) >= MAX_LINE:
            raise Malformed("a version 1 header has at most 107 bytes")
        return None
    try:
        words = data[:end].decode("ascii").split(" ")
    except UnicodeDecodeError:
        raise Malformed("a version 1 header is ASCII") from None
    size = end + 2
    if words[1] == "UNKNOWN":
        return Header(None, size)
    if words[1] not in ("TCP4", "TCP6") or len(words) != 6:
        raise Malformed("a version 1 header is TCP4 or TCP6, two addresses and two ports")
    version = 4 if words[1] == "TCP4" else 6
    client, _ = (_address(word, version) for word in words[2:4])
    port, _ = (_port(word) for word in words[4:6])
    return Header((client, port), size)


def _address(word: str, version: int) -> str:
    try:
        address = ipaddress.ip_address(word)
    except ValueError:
        raise Malformed("no IP address") from None
    if address.version != version or "%" in word:
        raise Malformed("an address of another family")
    return _plain(address)


def _plain(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """`::ffff:10.0.0.1` is 10.0.0.1, as everywhere (`resources.names.canonical_address`)."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)


def _port(word: str) -> int:
    if not _PORT.fullmatch(word) or int(word) > 65535:
        raise Malformed("no port")
    return int(word)


def _version_2(data: bytes) -> Header | None:
    if len(data) < 16:
        return None
    command, family = data[12], data[13]
    rest = int.from_bytes(data[14:16], "big")
    if command not in (0x20, 0x21):
        raise Malformed("version 2 has the commands LOCAL and PROXY")
    if rest > MAX_REST:
        raise Malformed("a version 2 header that long is not taken")
    size = 16 + rest
    local = command == 0x20
    if not local and family not in (_TCP4, _TCP6, _UNSPECIFIED):
        raise Malformed("only TCP over IPv4 or IPv6 is taken")
    length = 0 if local or family == _UNSPECIFIED else 12 if family == _TCP4 else 36
    if rest < length:
        raise Malformed("the header is shorter than its addresses")
    if len(data) < size:
        return None
    if not length:
        return Header(None, size)
    width = 4 if family == _TCP4 else 16
    client = ipaddress.ip_address(data[16 : 16 + width])
    return Header((_plain(client), int.from_bytes(data[16 + 2 * width : 18 + 2 * width], "big")), size)
