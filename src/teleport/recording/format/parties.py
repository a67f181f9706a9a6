"""Who was in a session, and who sent which bytes of its input: notes of a recording that programs read.

They are frames of kind note whose text is a JSON object with `"about": "party"` or `"about": "typed"`
(docs/recording-format.md). A recording without any has one party, its user, who sent all of the input. Offsets count
the bytes of input of the whole session, whether or not their content is recorded.
"""

from __future__ import annotations

from typing import Literal

import msgspec

MAX_NAME = 512  # characters


class PartyNote(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="about", tag="party"):
    """Somebody is in the session from here on, or is not any more. The first party is number 1."""

    party: int
    action: Literal["there", "joined", "left"]  # there: since the beginning, told when the first other party comes
    user: str
    mode: str
    client: str = ""  # address, host:port
    offset: int = 0  # of the input, at this moment


class TypedNote(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="about", tag="typed"):
    """A party sent so many bytes of input, from this offset on, since the note before about input."""

    party: int
    offset: int
    size: int


Note = PartyNote | TypedNote

_decoder = msgspec.json.Decoder(PartyNote | TypedNote)


def encode_note(note: Note) -> str:
    """The text of the note's frame."""
    return msgspec.json.encode(note).decode()


def decode_note(payload: bytes) -> Note | None:
    """The note, or None for a sentence, which most notes are."""
    if not payload.startswith(b'{"about":'):
        return None
    try:
        note: Note = _decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return note
