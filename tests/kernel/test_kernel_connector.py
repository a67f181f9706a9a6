"""News of processes, from bytes as <linux/cn_proc.h> lays them out."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teleport.kernel.connector import Executed, Exited, Forked, listen, parse

CONNECTOR = struct.pack("=IIIIHH", 1, 1, 7, 0, 40, 0)


def packet(what: int, *numbers: int, index: int = 1) -> bytes:
    event = struct.pack("=IIQ", what, 0, 99) + struct.pack(f"={len(numbers)}I", *numbers)
    body = struct.pack("=IIIIHH", index, 1, 7, 0, len(event), 0) + event
    return struct.pack("=IHHII", 16 + len(body), 3, 0, 0, 0) + body


@pytest.mark.parametrize(
    ("data", "news"),
    [
        (packet(1, 5, 4, 9, 8), [Forked(4, 9, 8)]),
        (packet(2, 6, 5), [Executed(5)]),
        (packet(0x80000000, 6, 5, 0, 0), [Exited(6, 5)]),
        (packet(4, 6, 5, 0, 0), []),  # a change of uid
        (packet(1, 5, 4, 9, 8, index=2), []),
        (packet(1, 5), []),  # cut off
        (packet(2, 6, 5) + packet(2, 8, 7), [Executed(5), Executed(7)]),
        (b"", []),
    ],
)
def test_forks_programs_and_ends_are_told(data: bytes, news: list[object]) -> None:
    assert list(parse(data)) == news


def test_the_question_is_that_of_the_header() -> None:
    assert (
        listen(77).hex()
        == "28000000030000000000000" + "04d000000" + "0100000001000000000000000000000004000000" + "01000000"
    )


@given(st.binary(max_size=200))
def test_other_bytes_are_passed_over(data: bytes) -> None:
    list(parse(data))
    list(parse(packet(1, 5, 4, 9, 8)[: len(data) % 56] + data))
