"""Terminal modes of RFC 4254 section 8."""

from __future__ import annotations

import os
import struct
import termios

import pytest

from teleport.launcher.modes import apply_modes, parse_modes


def _encoded(*pairs: tuple[int, int]) -> bytes:
    return b"".join(struct.pack(">BI", *pair) for pair in pairs) + b"\0"


@pytest.mark.parametrize(
    ("encoded", "pairs"),
    [
        (b"", []),
        (b"\0", []),
        (_encoded((53, 0), (128, 38400)), [(53, 0), (128, 38400)]),
        (_encoded((53, 1)) + b"\x01\0\0\0\x03", [(53, 1)]),  # nothing counts after the end
        (b"\x35\0\0", []),  # a cut argument
        (b"\xa0\0\0\0\0", []),  # the argument of an opcode from 160 on has no known length
    ],
)
def test_modes_are_read_to_their_end(encoded: bytes, pairs: list[tuple[int, int]]) -> None:
    """Garbage ends the reading and is no error: a client's modes are a wish."""
    assert list(parse_modes(encoded)) == pairs


def test_modes_reach_the_terminal() -> None:
    """ECHO off, ISIG on, another interrupt character, one switched off (255), 8 bits, IUTF8."""
    master, slave = os.openpty()
    try:
        apply_modes(slave, _encoded((53, 0), (50, 1), (1, 7), (10, 255), (91, 1), (42, 1), (99, 1)))
        inputs, _, control, local, _, _, characters = termios.tcgetattr(slave)
        assert not local & termios.ECHO
        assert local & termios.ISIG
        assert characters[termios.VINTR] == b"\x07"
        assert characters[termios.VSUSP] == b"\0"
        assert control & termios.CSIZE == termios.CS8
        assert inputs & 0o40000
    finally:
        os.close(master)
        os.close(slave)
