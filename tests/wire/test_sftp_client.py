"""SFTP's packets: vectors by hand from the draft, any pieces, and damage of every kind."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teleport.wire import sftp_client as wire
from teleport.wire.sftp import WRITE
from teleport.wire.sftp_client import Attributes, Broken, Data, Handle, Limits, Names, Packets, Reply, Said

STATUS = b"\x65\x00\x00\x00\x07\x00\x00\x00\x02\x00\x00\x00\x02no\x00\x00\x00\x00"
NAME = (
    b"\x68\x00\x00\x00\x01\x00\x00\x00\x01" + b"\x00\x00\x00\x01a" + b"\x00\x00\x00\x03ll1"
    + b"\x00\x00\x00\x0f" + struct.pack(">QIIIII", 5, 10, 20, 0o100644, 7, 8)
)  # fmt: skip
ANSWERS = {
    "status": (STATUS, (7, Said(2, "no"))),
    "status without text, as old servers": (b"\x65\x00\x00\x00\x07\x00\x00\x00\x00", (7, Said(0))),
    "handle": (b"\x66\x00\x00\x00\x01\x00\x00\x00\x02hh", (1, Handle(b"hh"))),
    "data": (b"\x67\x00\x00\x00\x01\x00\x00\x00\x03abc", (1, Data(memoryview(b"abc")))),
    "names": (NAME, (1, Names(((b"a", Attributes(5, 0o100644, 7, 8)),)))),
    "attributes": (b"\x69\x00\x00\x00\x02\x00\x00\x00\x01" + struct.pack(">Q", 2**63), (2, Attributes(2**63))),
    "extended": (b"\xc9\x00\x00\x00\x02rest", (2, Reply(b"rest"))),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_answers(name: str) -> None:
    data, wanted = ANSWERS[name]
    assert wire.parse_answer(memoryview(data)) == wanted


@pytest.mark.parametrize("name", [name for name in ANSWERS if name != "extended"])
def test_an_answer_cut_short_is_broken_or_says_less(name: str) -> None:
    data, wanted = ANSWERS[name]
    for end in range(1, len(data)):
        try:
            assert wire.parse_answer(memoryview(data[:end])) != wanted or name.startswith("status")
        except Broken:
            continue


def test_requests() -> None:
    assert wire.hello() == b"\x00\x00\x00\x05\x01\x00\x00\x00\x03"
    assert wire.read_request(1, b"h", 2, 3) == (
        b"\x00\x00\x00\x16\x05\x00\x00\x00\x01\x00\x00\x00\x01h" + struct.pack(">QI", 2, 3)
    )
    whole = wire.write_head(1, b"h", 2, 3) + b"abc"
    assert int.from_bytes(whole[:4], "big") == len(whole) - 4
    assert whole[4:] == b"\x06\x00\x00\x00\x01\x00\x00\x00\x01h" + struct.pack(">QI", 2, 3) + b"abc"
    opened = wire.open_request(9, b"p", WRITE, Attributes(mode=0o600))
    assert opened[4:] == b"\x03\x00\x00\x00\x09\x00\x00\x00\x01p" + struct.pack(">III", 2, 4, 0o600)
    assert Attributes(1, 2, None, 4).encoded() == struct.pack(">IQIII", 0xD, 1, 2, 4, 4)


def test_what_a_server_takes_is_bounded_both_ways() -> None:
    assert wire.parse_limits(struct.pack(">QQQQ", 1, 100_000, 0, 5)) == Limits(100_000, wire.MOST)
    assert wire.parse_limits(struct.pack(">QQQQ", 1, 2**63, 1, 5)) == Limits(wire.MOST, 1024)
    with pytest.raises(Broken):
        wire.parse_limits(b"short")


def test_the_first_answer() -> None:
    found = wire.parse_hello(memoryview(b"\x02\x00\x00\x00\x03\x00\x00\x00\x01a\x00\x00\x00\x01b"))
    assert found == wire.Hello(3, {b"a": b"b"})
    for bad in (
        b"\x02\x00\x00\x00\x02",
        b"\x65\x00\x00\x00\x03",
        b"\x02\x00",
        b"\x02\x00\x00\x00\x03\x00\x00\x00\x09a",
    ):
        with pytest.raises(Broken):
            wire.parse_hello(memoryview(bad))


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=8), st.lists(st.integers(1, 50), max_size=40))
def test_packets_come_whole_from_any_pieces(bodies: list[bytes], sizes: list[int]) -> None:
    data, packets, found = b"".join(struct.pack(">I", len(body)) + body for body in bodies), Packets(), []
    for size in [*sizes, len(data)]:
        found += [bytes(packet) for packet in packets.feed(data[:size])]
        data = data[size:]
    assert found == bodies


@pytest.mark.parametrize("length", [0, wire.MAX_PACKET + 1, 2**31, 2**32 - 1])
def test_a_length_that_cannot_be_is_refused_at_once(length: int) -> None:
    """Before anything is kept."""
    with pytest.raises(Broken):
        list(Packets().feed(struct.pack(">I", length)))


def test_many_names_in_one_answer_are_refused() -> None:
    with pytest.raises(Broken):
        wire.parse_answer(memoryview(b"\x68\x00\x00\x00\x01\xff\xff\xff\xff"))
    with pytest.raises(Broken):
        wire.parse_answer(memoryview(b"\x66\x00\x00\x00\x01\x00\x00\x02\x00" + bytes(512)))


@given(st.binary(min_size=1, max_size=200))
def test_any_bytes_are_an_answer_or_broken(data: bytes) -> None:
    for parse in (wire.parse_answer, wire.parse_hello):
        try:
            parse(memoryview(data))
        except Broken:
            continue
