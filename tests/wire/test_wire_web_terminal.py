"""Envelopes, payloads and credit of web terminals."""

from __future__ import annotations

import json
import os
import random

import pytest

from teleport.errors import BadRequest
from teleport.wire.web_terminal import (
    MAX_MESSAGE,
    BadMessage,
    Granted,
    Kind,
    Params,
    Resize,
    Size,
    decode,
    encode,
    read,
)

# made with protoc from: message Envelope { string version = 1; string type = 2; string payload = 3; }
VECTOR = bytes.fromhex("0a01311201721a0568656c6c6f")


def test_an_envelope_is_that_of_the_field() -> None:
    assert encode(Kind.RAW, b"hello") == VECTOR
    assert decode(VECTOR) == (Kind.RAW, b"hello")
    assert decode(VECTOR + b"\x22\x03new" + b"\x28\x01") == (Kind.RAW, b"hello"), "fields that are not known"
    assert decode(VECTOR.replace(b"\x72", b"Z")) == (None, b""), "a type that is not known"


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16383, 16384, 65536])
def test_every_size_comes_through(size: int) -> None:
    payload = os.urandom(size)
    assert decode(encode(Kind.RAW, payload)) == (Kind.RAW, payload)


@pytest.mark.parametrize(
    "data",
    [b"", b"\x0a", b"\x0a\x01", b"\x0a\x012", b"\x0a\x7f1", b"\x00\x00", b"\x0b", b"\xff" * 9, VECTOR[:-1],
     VECTOR + b"\x0d", b"\x0a\xff\xff\xff\xff\x7f", bytes(MAX_MESSAGE + 1)],
)  # fmt: skip
def test_what_is_no_envelope_is_refused(data: bytes) -> None:
    with pytest.raises(BadMessage):
        decode(data)


def test_anything_at_all_is_read_or_refused() -> None:
    """A thousand envelopes with a byte changed."""
    chance = random.Random(7)
    for _ in range(1000):
        data = bytearray(encode(Kind.RESIZE, b'{"size": "80:25"}'))
        data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            kind, payload = decode(bytes(data[: chance.randrange(len(data) + 1)]))
            if kind is Kind.RESIZE:
                assert read(payload, Resize).parsed.w <= 1000
        except BadMessage:
            pass


def test_params_say_where_to() -> None:
    found = Params.parse('{"server_id": "node1:22", "login": "ann", "term": {"w": 100, "h": 30}, "future": 1}')
    assert (found.server_id, found.login, found.term, found.sid) == ("node1:22", "ann", Size(w=100, h=30), "")


@pytest.mark.parametrize(
    "said",
    [
        {"sid": "nonsense"},
        {"sid": "0B6F1A52-8F0E-4D0C-9D53-5D7A3C1E2F40"},
        {"sid": "{0b6f1a52-8f0e-4d0c-9d53-5d7a3c1e2f40}"},
        {"sid": "0b6f1a52-8f0e-4d0c-9d53-5d7a3c1e2f40\n"},
        {"sid": "0b6f1a52-8f0e-4d0c-9d53-5d7a3c1e2f40", "mode": "watcher"},
        {"mode": "peer"},
    ],
)
def test_what_is_to_be_joined_is_said_exactly(said: dict[str, str]) -> None:
    """Else a host would begin a new session, or choose the mode by itself."""
    with pytest.raises(BadRequest):
        Params.parse(json.dumps({"server_id": "node1", "login": "ann", **said}))
    good = {"sid": "0b6f1a52-8f0e-4d0c-9d53-5d7a3c1e2f40", "mode": "observer"}
    assert Params.parse(json.dumps({"server_id": "node1", "login": "ann", **good})).mode == "observer"


@pytest.mark.parametrize("size", ["80", "80:", ":25", "80:25:1", "-1:25", "80:0", "1001:25", "8e1:25", "٨:25", ""])
def test_a_size_is_two_numbers(size: str) -> None:
    with pytest.raises(BadMessage):
        assert Resize(size=size).parsed


def test_credit_is_spent_once() -> None:
    held = Granted(10, 20)
    assert (held.take(7), held.take(7), held.take(7)) == (7, 3, 0)
    held.grant(20)
    for bad in (1, -1):
        with pytest.raises(BadMessage):
            held.grant(bad)
    held.spend(20)
    with pytest.raises(BadMessage):
        held.spend(1)
