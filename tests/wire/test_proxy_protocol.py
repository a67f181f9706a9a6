"""PROXY headers, whole, in pieces, damaged, and too long."""

from __future__ import annotations

import contextlib
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teleport.wire.proxy_protocol import MAX_HEADER, MAX_LINE, SIGNATURE, Header, Malformed, begins, parse

REST = b"SSH-2.0-after\r\n"


def v2(command: int, family: int, body: bytes) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(body)) + body


FOUR = socket.inet_aton("203.0.113.9") + socket.inet_aton("192.0.2.1") + struct.pack("!HH", 40000, 443)
SIX = (
    socket.inet_pton(socket.AF_INET6, "2001:db8::9")
    + socket.inet_pton(socket.AF_INET6, "::1")
    + struct.pack("!HH", 1, 2)
)
MAPPED = socket.inet_pton(socket.AF_INET6, "::ffff:203.0.113.9") + bytes(16) + struct.pack("!HH", 7, 2)
TLV = b"\x04\x00\x03\x00\x00\x00"
GOOD = {
    "1, TCP4": (b"PROXY TCP4 203.0.113.9 192.0.2.1 40000 443\r\n", ("203.0.113.9", 40000)),
    "1, TCP6": (b"PROXY TCP6 2001:db8::9 ::1 65535 0\r\n", ("2001:db8::9", 65535)),
    "1, mapped": (b"PROXY TCP6 ::ffff:203.0.113.9 ::1 5 6\r\n", ("203.0.113.9", 5)),
    "1, UNKNOWN": (b"PROXY UNKNOWN\r\n", None),
    "1, UNKNOWN with what nobody reads": (b"PROXY UNKNOWN ffff:f...f 1 2\r\n", None),
    "2, TCP4": (v2(0x21, 0x11, FOUR), ("203.0.113.9", 40000)),
    "2, TCP4 with TLVs": (v2(0x21, 0x11, FOUR + TLV * 100), ("203.0.113.9", 40000)),
    "2, TCP6": (v2(0x21, 0x21, SIX), ("2001:db8::9", 1)),
    "2, mapped": (v2(0x21, 0x21, MAPPED), ("203.0.113.9", 7)),
    "2, LOCAL": (v2(0x20, 0x00, b""), None),
    "2, LOCAL with addresses": (v2(0x20, 0x11, FOUR), None),
    "2, unspecified": (v2(0x21, 0x00, b"whatever"), None),
}
BAD = {
    "nothing of it": b"SSH-2.0-x\r\n",
    "lower case": b"proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
    "two blanks": b"PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
    "a tab": b"PROXY TCP4\t1.2.3.4 1.2.3.4 1 2\r\n",
    "a word too many": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
    "a word too few": b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
    "leading zero of an address": b"PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n",
    "leading zero of a port": b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
    "a port too high": b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n",
    "a port of other digits": "PROXY TCP4 1.2.3.4 1.2.3.4 \u0661 2\r\n".encode(),
    "a sign": b"PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
    "TCP4 of IPv6": b"PROXY TCP4 ::1 ::1 1 2\r\n",
    "TCP6 of IPv4": b"PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
    "a zone": b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
    "UDP": b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
    "a newline alone, and no end": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n" + b"x" * MAX_LINE,
    "no end": b"PROXY UNKNOWN " + b"x" * MAX_LINE,
    "version 3": v2(0x31, 0x11, FOUR),
    "an unknown command": v2(0x22, 0x11, FOUR),
    "UDP in 2": v2(0x21, 0x12, FOUR),
    "a unix socket": v2(0x21, 0x31, bytes(216)),
    "addresses too short": v2(0x21, 0x11, FOUR[:-1]),
    "IPv6 too short": v2(0x21, 0x21, FOUR),
    "too long": SIGNATURE + b"\x21\x11\xff\xff",
}


@pytest.mark.parametrize("name", GOOD)
def test_a_header_is_taken_as_soon_as_it_is_whole(name: str) -> None:
    """Whatever pieces it comes in, and what follows stays."""
    header, client = GOOD[name]
    for size in range(len(header)):
        assert parse(header[:size]) is None, size
    assert parse(header) == parse(header + REST) == Header(client, len(header))
    assert begins(header)


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_header_is_refused(name: str) -> None:
    """One spelling for everything: nobody may be taken for somebody else by a second reading."""
    with pytest.raises(Malformed):
        parse(BAD[name])


@given(st.binary(max_size=64), st.sampled_from([b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21\x11", b""]))
def test_nothing_waits_for_more_than_the_longest_header(tail: bytes, start: bytes) -> None:
    """More bytes never turn a refusal into a header, and a decision comes within the bound."""
    data = start + tail
    try:
        found = parse(data)
    except Malformed:
        with pytest.raises(Malformed):
            parse(data + REST)
        return
    if found is not None:
        assert found.size <= len(data)
        assert parse(data + REST) == found
        return
    filled = data + b"a" * MAX_HEADER
    with contextlib.suppress(Malformed):
        assert parse(filled) is not None
