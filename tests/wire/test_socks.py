"""Requests of SOCKS clients, whole, in pieces, and damaged."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teleport.wire.socks import NotSocks, SocksRequest, Wanted

FIVE = b"\x05\x01\x00" + b"\x05\x01\x00\x03\x08web.test\x00\x50"
CASES = {
    "5, a name": (FIVE, b"\x05\x00", "web.test", 80),
    "5, IPv4": (b"\x05\x02\x02\x00\x05\x01\x00\x01\x7f\x00\x00\x01\x1f\x90", b"\x05\x00", "127.0.0.1", 8080),
    "5, IPv6": (b"\x05\x01\x00\x05\x01\x00\x04" + bytes(15) + b"\x01\x00\x16", b"\x05\x00", "::1", 22),
    "4": (b"\x04\x01\x00\x50\x0a\x00\x00\x01me\x00", b"", "10.0.0.1", 80),
    "4a": (b"\x04\x01\x00\x50\x00\x00\x00\x01\x00web\x00", b"", "web", 80),
}


def fed(pieces: list[bytes]) -> tuple[bytes, Wanted | None, bytes]:
    request, answered, wanted = SocksRequest(), b"", None
    for piece in pieces:
        answer, found = request.feed(piece)
        answered += answer
        wanted = wanted or found
    return answered, wanted, request.rest


@pytest.mark.parametrize("name", CASES)
def test_a_request_in_any_pieces(name: str) -> None:
    data, answer, host, port = CASES[name]
    whole = fed([data])
    assert whole[0] == answer
    assert whole[1] is not None
    assert (whole[1].host, whole[1].port, whole[2]) == (host, port, b"")
    assert fed([bytes([byte]) for byte in data]) == whole


def test_what_follows_the_request_is_kept() -> None:
    assert fed([FIVE + b"GET /"])[2] == b"GET /"


def test_answers_tell_a_connection_from_a_refusal() -> None:
    wanted = fed([FIVE])[1]
    assert wanted is not None
    assert (wanted.granted[:2], wanted.refused[:2]) == (b"\x05\x00", b"\x05\x05")


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"GET / HTTP/1.1\r\n", b""),
        (b"\x05\x01\x02", b"\x05\xff"),  # wants to authenticate
        (b"\x05\x01\x00\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x01", b"\x05\x07"),  # BIND
        (b"\x05\x01\x00\x05\x01\x00\x09\x7f\x00\x00\x01\x00\x01", b"\x05\x08"),
        (b"\x05\x01\x00\x05\x01\x00\x03\x03a b\x00\x01", b"\x05\x01"),
        (b"\x04\x02\x00\x50\x0a\x00\x00\x01\x00", b"\x00\x5b"),
        (b"\x04\x01\x00\x50\x0a\x00\x00\x01" + b"x" * 600, b""),
    ],
)
def test_what_cannot_be_met_is_refused(data: bytes, answer: bytes) -> None:
    with pytest.raises(NotSocks) as caught:
        fed([data])
    assert caught.value.answer[:2] == answer


@given(st.lists(st.binary(max_size=40), max_size=12))
def test_any_bytes_end_in_a_request_or_a_refusal(pieces: list[bytes]) -> None:
    """And nothing is kept beyond a request's size."""
    try:
        _, wanted, rest = fed(pieces)
    except NotSocks:
        return
    if wanted is None:
        assert len(rest) < 600
