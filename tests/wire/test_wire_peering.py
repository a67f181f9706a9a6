"""What proxies say to each other: frames however they are cut, vectors, and what is refused."""

from __future__ import annotations

import itertools
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teleport.errors import BadRequest
from teleport.wire import peering
from teleport.wire.peering import Answer, Ask, Frames, Kind, frame, host_of, message, read

CLUSTER = "lab.test"
HOST = "0b0f7d5e-2d4a-4a39-9d3b-3a0f1f3f8a11"

# as the first version sent them: later ones must read these
VECTORS = (
    (
        b"\x01\x00\x00\x64"
        b'{"version":1,"server_id":"0b0f7d5e-2d4a-4a39-9d3b-3a0f1f3f8a11.lab.test","conn_type":"node","more":2}',
        Kind.ASK,
    ),
    (b'\x02\x00\x00\x26{"version":1,"error":"no","here":false}', Kind.ANSWER),
    (b"\x03\x00\x00\x03abc", Kind.DATA),
    (b"\x04\x00\x00\x00", Kind.END),
)


def taken(*pieces: bytes) -> list[tuple[Kind, bytes]]:
    """The frames of what comes in these pieces, parts of `DATA` joined."""
    frames, found = Frames(), list[tuple[Kind, bytes]]()
    for piece in pieces:
        for kind, body in frames.feed(piece):
            if kind is Kind.DATA and found and found[-1][0] is Kind.DATA:
                found[-1] = (kind, found[-1][1] + body)
            else:
                found.append((kind, body))
    return found


@pytest.mark.parametrize(("sent", "kind"), VECTORS, ids=lambda value: getattr(value, "name", ""))
def test_what_the_first_version_sent_is_read(sent: bytes, kind: Kind) -> None:
    sent = sent[:1] + (len(sent) - 4).to_bytes(3, "big") + sent[4:]
    ((found, body),) = taken(sent)
    assert (found, body) == (kind, sent[4:])
    if kind is Kind.ASK:
        assert host_of(read(body, Ask), CLUSTER) == HOST
    if kind is Kind.ANSWER:
        assert read(body, Answer) == Answer(error="no")


@given(st.binary(max_size=300), st.lists(st.integers(0, 700), max_size=12))
def test_frames_are_the_same_however_they_are_cut(data: bytes, cuts: list[int]) -> None:
    ask = Ask(server_id=f"{HOST}.{CLUSTER}")
    sent = message(Kind.ASK, ask) + (frame(Kind.DATA, data) if data else b"") + frame(Kind.END)
    places = [0, *sorted(cut % len(sent) for cut in cuts), len(sent)]
    found = taken(*(sent[begin:end] for begin, end in itertools.pairwise(places)))
    assert found[0][0] is Kind.ASK
    assert read(found[0][1], Ask) == ask
    assert found[-1] == (Kind.END, b"")
    assert b"".join(body for kind, body in found if kind is Kind.DATA) == data


@given(st.lists(st.binary(max_size=64), max_size=8))
def test_no_bytes_raise_anything_but_a_refusal(pieces: list[bytes]) -> None:
    frames = Frames()
    try:
        for piece in pieces:
            for kind, body in frames.feed(piece):
                if kind is Kind.ASK:
                    host_of(read(body, Ask), CLUSTER)
                if kind is Kind.ANSWER:
                    read(body, Answer)
    except BadRequest:
        pass


@pytest.mark.parametrize(
    "head",
    [
        b"\x00\x00\x00\x00",
        b"\x05\x00\x00\x01",
        b"SSH-",
        b"GET ",
        b"\x01\x01\x00\x01",  # a byte more than a question has at most
        b"\x02\xff\xff\xff",
        b"\x04\x00\x00\x01",
    ],
)
def test_what_is_no_frame_is_refused_by_its_first_bytes(head: bytes) -> None:
    with pytest.raises(BadRequest):
        taken(head)


def test_a_frame_has_a_longest() -> None:
    with pytest.raises(ValueError, match="at most"):
        frame(Kind.DATA, bytes(peering.MAX_DATA + 1))


@pytest.mark.parametrize(
    "ask",
    [
        Ask(server_id="127.0.0.1:22"),
        Ask(server_id="@remote-auth-server"),
        Ask(server_id="169.254.169.254:80." + CLUSTER),
        Ask(server_id=HOST),
        Ask(server_id=f"{HOST}.other.test"),
        Ask(server_id=f"{HOST.upper()}.{CLUSTER}"),
        Ask(server_id=f"{{{HOST}}}.{CLUSTER}"),
        Ask(server_id=f"{HOST}.{CLUSTER}", conn_type="app"),
        Ask(server_id=f"{HOST}.{CLUSTER}", version=2),
        Ask(server_id=""),
    ],
    ids=lambda ask: f"{ask.server_id} {ask.conn_type} {ask.version}",
)
def test_nothing_but_a_node_of_the_cluster_can_be_asked_for(ask: Ask) -> None:
    with pytest.raises(BadRequest, match="nothing else is led to"):
        host_of(ask, CLUSTER)


def test_a_node_of_the_cluster_can_be_asked_for() -> None:
    host = str(uuid4())
    assert host_of(Ask(server_id=f"{host}.{CLUSTER}"), CLUSTER) == host
