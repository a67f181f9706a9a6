"""Notes of a recording that programs read: who was there, and who typed."""

from __future__ import annotations

import pytest

from teleport.recording.format.parties import Note, PartyNote, TypedNote, decode_note, encode_note


@pytest.mark.parametrize(
    ("note", "text"),
    [
        (
            PartyNote(party=2, action="joined", user="bob", mode="observer", client="10.0.0.1:5", offset=7),
            '{"about":"party","party":2,"action":"joined","user":"bob","mode":"observer","client":"10.0.0.1:5","offset":7}',
        ),
        (TypedNote(party=1, offset=7, size=3), '{"about":"typed","party":1,"offset":7,"size":3}'),
    ],
    ids=["party", "typed"],
)
def test_the_form_of_notes(note: Note, text: str) -> None:
    """docs/recording-format.md; readers outside hold on to it."""
    assert encode_note(note) == text
    assert decode_note(text.encode()) == note


@pytest.mark.parametrize(
    "payload",
    [
        b"a sentence of the recorder",
        b"",
        b'{"about":"weather"}',
        b'{"about":"typed","party":1}',
        b'{"about":"typed","party":"x","offset":0,"size":1}',
        b'{"about":\xff',
    ],
)
def test_what_is_no_such_note_is_passed_over(payload: bytes) -> None:
    """A session cannot write notes, but other versions may write others."""
    assert decode_note(payload) is None


def test_unknown_fields_are_passed_over() -> None:
    """Formats grow."""
    assert decode_note(b'{"about":"typed","party":1,"offset":0,"size":1,"speed":9}') == TypedNote(
        party=1, offset=0, size=1
    )
