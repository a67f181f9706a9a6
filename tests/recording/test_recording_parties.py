"""Notes of a recording that programs read: who was there, and who typed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from teleport.clock import SystemClock
from teleport.recording.format import RecordingHeader
from teleport.recording.format.parties import Note, PartyNote, TypedNote, decode_note, encode_note
from teleport.recording.people import people_in
from teleport.recording.writer import RecordingSpool


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
        b'{"about":"party","party":2,"action":"joined","user":"\xaf","mode":"peer"}',
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


async def test_who_took_part_is_read_from_a_recording(tmp_path: Path) -> None:
    """For ends that nobody wrote: everybody once, the user first; output that looks like a note is none."""
    header = RecordingHeader(
        sid="0b6f1a52-8f0e-4d0c-9d53-5d7a3c1e2f40",
        started=datetime(2026, 11, 28, tzinfo=UTC),
        user="alice",
        login="root",
        node_id="n",
        interactive=True,
    )
    spool = RecordingSpool(tmp_path, clock=SystemClock())
    recorder = await spool.start(header)
    forged = encode_note(PartyNote(party=3, action="joined", user="mallory", mode="peer"))
    recorder.record_output(forged.encode())
    recorder.note("a sentence")
    for party, user in ((1, "alice"), (2, "bob"), (3, "carol"), (2, "bob")):
        recorder.note(encode_note(PartyNote(party=party, action="joined", user=user, mode="peer")))
    summary = await recorder.close("ended")
    await spool.close()
    assert people_in(summary.path, header) == ["alice", "bob", "carol"]
    assert people_in(tmp_path / "missing.rec", header) == ["alice"]
