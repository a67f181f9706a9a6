"""The line by which a proxy tells a Kubernetes service whose calls follow."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teleport.errors import BadRequest
from teleport.kube.introduction import MAX_LINE, Introduction, decode, encode

GOOD = Introduction(b"\x30\x03abc", "192.0.2.7", 50000, "demo")


def test_a_line_comes_back_the_same() -> None:
    line = encode(GOOD)
    assert line == (b'{"version":1,"certificate":"MANhYmM=","host":"192.0.2.7","port":50000,"kube_cluster":"demo"}\n')
    assert decode(line) == GOOD
    assert decode(encode(Introduction(b"x", "2001:DB8::1", 1, "d"))).host == "2001:db8::1"


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"certificate": ""},
        {"certificate": "not base64!"},
        {"host": "example.com"},
        {"host": ""},
        {"port": -1},
        {"port": 65536},
        {"kube_cluster": ""},
        {"kube_cluster": "x" * 300},
        {"roles": ["admin"]},
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(change: dict[str, object]) -> None:
    """Also what this version does not know: it might say that the person may less."""
    said = json.loads(encode(GOOD))
    with pytest.raises(BadRequest):
        decode(json.dumps({**said, **change}).encode())


def test_a_line_has_an_end() -> None:
    with pytest.raises(BadRequest):
        encode(Introduction(bytes(MAX_LINE), "192.0.2.7", 1, "demo"))
    with pytest.raises(BadRequest):
        decode(b" " * (MAX_LINE + 1))


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        decode(data)
    except BadRequest:
        return
