"""Who took part in a recorded session, as the notes of its recording say."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from teleport.errors import TeleportError
from teleport.recording.format import FrameKind, RecordingHeader
from teleport.recording.format.parties import PartyNote, decode_note
from teleport.recording.player import RecordingReader

log = logging.getLogger(__name__)

LARGEST: Final = 256 * 1024 * 1024  # bytes of a file that is read for this
_MOST: Final = 100  # people


def people_in(path: Path, header: RecordingHeader) -> list[str]:
    """The session's user first, then who joined, in order. Of a file that cannot be read, or is larger than `LARGEST`,
    only the user."""
    people = {header.user: None}
    if not header.interactive:
        return list(people)
    try:
        if path.stat().st_size > LARGEST:
            return list(people)
        with path.open("rb") as file:
            for frame in RecordingReader(file, allow_unfinished=True).frames():
                note = decode_note(frame.payload) if frame.kind is FrameKind.NOTE else None
                if isinstance(note, PartyNote) and len(people) < _MOST:
                    people[note.user] = None
    except (TeleportError, OSError) as error:
        log.warning("who took part in session %s is not known: %s", header.sid, error)
    return list(people)
