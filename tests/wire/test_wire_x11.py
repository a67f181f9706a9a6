"""The first message of X11 clients, in both byte orders, in pieces, and as nonsense."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teleport.wire.x11 import MOST, Setup, parse_setup


def made(order: str, name: bytes, cookie: bytes, *, major: int = 11) -> bytes:
    head = struct.pack(f"{order}BxHHHHxx", 0x6C if order == "<" else 0x42, major, 0, len(name), len(cookie))
    return head + name + bytes(-len(name) % 4) + cookie + bytes(-len(cookie) % 4)


@pytest.mark.parametrize("order", ["<", ">"])
@given(name=st.text("ABC-", max_size=40), cookie=st.binary(max_size=256), more=st.binary(max_size=9))
def test_name_and_cookie_are_found_once_all_is_there(order: str, name: str, cookie: bytes, more: bytes) -> None:
    data = made(order, name.encode(), cookie)
    assert len(data) <= MOST
    for size in range(len(data)):
        assert parse_setup(data[:size]) is None
    assert parse_setup(data + more) == Setup(name, cookie)


@pytest.mark.parametrize("data", [b"GET / HTTP/1.0", made("<", b"", b"", major=10), made(">", b"n" * 257, b"")])
def test_what_is_no_setup_is_told_at_once(data: bytes) -> None:
    with pytest.raises(ValueError, match="X11"):
        parse_setup(data)


@given(st.binary(max_size=600))
def test_anything_is_a_setup_or_not_yet_one_or_none(data: bytes) -> None:
    """No other exception, whatever a program sends."""
    try:
        parse_setup(data)
    except ValueError:
        return
