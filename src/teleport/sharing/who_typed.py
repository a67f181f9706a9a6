"""Notes in a recording who was in the session when, and who sent which bytes of its input.

Nothing is noted of a session with one party: its user sent it all. From the moment when a second one comes, what the
parties send is told with at most `GRAIN` of delay, one note for what one of them sent meanwhile.
"""

from __future__ import annotations

import asyncio
from typing import Final, Literal, Protocol

from teleport.recording.format.parties import Note, PartyNote, TypedNote, encode_note
from teleport.sharing.parties import Party

GRAIN: Final = 0.25  # seconds


class Notes(Protocol):
    """The recording, as far as it takes notes."""

    def note(self, text: str) -> None: ...


class WhoTyped:
    """The notes of one session."""

    def __init__(self, recording: Notes) -> None:
        self._recording = recording
        self._loop = asyncio.get_running_loop()
        self._begun = False
        self._offset = 0  # bytes of input so far
        self._since = 0  # offset of the first byte that is not told of
        self._typer = 0  # who sent those
        self._timer: asyncio.TimerHandle | None = None

    def joined(self, party: Party, there: list[Party]) -> None:
        """Somebody comes; `there` are those who are in the session."""
        if not self._begun:
            self._begun = True
            self._since = self._offset
            for one in there:
                self._note(self._about(one, "there"))
        self.flush()
        self._note(self._about(party, "joined"))

    def left(self, party: Party) -> None:
        """Somebody is gone."""
        if self._begun:
            self.flush()
            self._note(self._about(party, "left"))

    def typed(self, party: Party, size: int) -> None:
        """A party sent so many bytes, which reach the session."""
        if self._begun and self._typer != party.number:
            self.flush()
        self._offset += size
        if self._begun:
            self._typer = party.number
            if self._timer is None:
                self._timer = self._loop.call_later(GRAIN, self.flush)

    def flush(self) -> None:
        """Tells what is left to tell."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._begun and self._offset > self._since:
            self._note(TypedNote(party=self._typer, offset=self._since, size=self._offset - self._since))
            self._since = self._offset

    def _about(self, party: Party, action: Literal["there", "joined", "left"]) -> PartyNote:
        return PartyNote(
            party=party.number,
            action=action,
            user=party.user,
            mode=str(party.mode),
            client=str(party.connection.facts.client),
            offset=self._offset,
        )

    def _note(self, note: Note) -> None:
        self._recording.note(encode_note(note))
