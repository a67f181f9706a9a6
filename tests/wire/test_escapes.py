"""`~.` and the like: only at the start of a line, in whatever pieces the keys come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teleport.errors import BadRequest
from teleport.wire.escapes import Command, Escapes, Send, escape_character

Act = Send | Command


def fed(*pieces: bytes, character: int | None = ord("~")) -> list[Act]:
    escapes, acts = Escapes(character), []
    for piece in pieces:
        acts += escapes.feed(piece)
    return acts


@pytest.mark.parametrize(
    ("keys", "acts"),
    [
        (b"~.", [Command.DROP]),
        (b"ls\r~.", [Send(b"ls\r"), Command.DROP]),
        (b"a~.b", [Send(b"a~.b")]),
        (b"~~.", [Send(b"~.")]),
        (b"~x", [Send(b"~x")]),
        (b"~\x1a", [Command.SUSPEND]),
        (b"~#~?", [Command.LIST, Command.HELP]),
        (b"~B\n~R", [Command.BREAK, Send(b"\n"), Command.REKEY]),
        (b"~\r~.", [Send(b"~\r"), Command.DROP]),
        (b"~", []),
    ],
)
def test_sequences(keys: bytes, acts: list[Act]) -> None:
    assert fed(keys) == acts


@given(st.lists(st.sampled_from([b"~", b".", b"\r", b"a", b"?", b"~~", b"\x1a"]), max_size=30))
def test_pieces_make_no_difference(pieces: list[bytes]) -> None:
    def joined(acts: list[Act]) -> list[object]:
        found: list[object] = []
        for act in acts:
            found += [bytes([key]) for key in act.data] if isinstance(act, Send) else [act]
        return found

    assert joined(fed(*pieces)) == joined(fed(b"".join(pieces)))


@given(st.binary(max_size=60))
def test_without_a_character_every_byte_is_sent(keys: bytes) -> None:
    assert fed(keys, character=None) == ([Send(keys)] if keys else [])


def test_the_character_can_be_another_one_or_none() -> None:
    assert (escape_character("%"), escape_character("^B"), escape_character("none")) == (ord("%"), 2, None)
    assert fed(b"%.~.", character=ord("%")) == [Command.DROP, Send(b"~.")]
    for bad in ("", "ab", " ", "é", "^"):
        if bad == "^":
            assert escape_character(bad) == ord("^")
            continue
        with pytest.raises(BadRequest):
            escape_character(bad)
