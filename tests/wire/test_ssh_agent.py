"""The agent's protocol: what is sent, and answers of every kind (threats T51, T61)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teleport.errors import ConnectionProblem
from teleport.pki.sshwire import string
from teleport.wire import ssh_agent as wire


def test_requests() -> None:
    assert wire.list_request() == b"\0\0\0\1\x0b"
    assert wire.remove_request(b"ab") == b"\0\0\0\7\x12\0\0\0\2ab"
    added = wire.add_request(wire.P256Certificate(b"cert", 0x80, "c"), 60).reveal()
    assert added[4:] == (
        b"\x19" + string(b"ecdsa-sha2-nistp256-cert-v01@openssh.com") + string(b"cert") + b"\0\0\0\2\0\x80"
        + string(b"c") + b"\x01\0\0\0\x3c"
    )  # fmt: skip
    assert int.from_bytes(added[:4], "big") == len(added) - 4


def test_a_key_is_not_shown() -> None:
    assert "7" not in repr(wire.P256Certificate(b"", 77777, "c"))


def test_answers() -> None:
    assert wire.succeeded(b"\x06")
    assert not wire.succeeded(b"\x05")
    listed = b"\x0c\0\0\0\1" + string(b"blob") + string("ä".encode())
    assert wire.identities(listed) == [wire.Identity(b"blob", "ä")]
    assert wire.identities(b"\x05") == []
    assert wire.answer_size(b"\0\0\0\5") == 5


@pytest.mark.parametrize("head", [b"", b"\0\0\0", b"\0\0\0\0", b"\0\4\0\1", b"\xff\xff\xff\xff"])
def test_a_size_that_cannot_be_is_refused_before_anything_is_kept(head: bytes) -> None:
    with pytest.raises(ConnectionProblem):
        wire.answer_size(head)


@pytest.mark.parametrize("body", [b"", b"\x06", b"\x0c", b"\x0c\xff\xff\xff\xff", b"\x0c\0\0\0\1\0\0\0\4blo"])
def test_success_where_a_list_is_due_and_damaged_lists_are_refused(body: bytes) -> None:
    with pytest.raises(ConnectionProblem):
        wire.identities(body)


@given(st.binary(max_size=100))
def test_any_bytes_are_an_answer_or_a_sentence(body: bytes) -> None:
    for read in (wire.identities, wire.succeeded):
        try:
            read(body)
        except ConnectionProblem as error:
            assert error.hint  # noqa: PT017
