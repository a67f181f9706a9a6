"""The channel of somebody who takes part in a session: what happens on it goes to the session's company."""

from __future__ import annotations

from typing import Final, Generic, Protocol, TypeVar
from uuid import UUID

from teleport.authz.decision import AccessDenial
from teleport.sharing.company import Company
from teleport.sharing.parties import Party
from teleport.ssh.surface import Refusal, TerminalSize

FULL: Final = Refusal("This session is over, or as many people are in it as may be.")


class Shared(Protocol):
    """A session that several people may be in."""

    @property
    def company(self) -> Company: ...


S = TypeVar("S", bound=Shared)


class PartyChannel(Generic[S]):
    """What every such channel does, wherever its session runs; what it asks for, and how it comes to a session, is for
    who builds on this (`ssh.handlers.SessionHandler`). Until it has one, what happens on it has no effect."""

    def __init__(self, party: Party) -> None:
        self.party = party
        self._session: S | None = None
        self._gone = False  # the channel is closed

    # what happens on it

    def data_received(self, data: bytes) -> None:
        if self._session is not None:
            self._session.company.typed(self.party, data)

    def eof_received(self) -> None:
        if self._session is not None:
            self._session.company.end_input(self.party)

    def pause_writing(self) -> None:
        self._full(True)

    def resume_writing(self) -> None:
        self._full(False)

    def _full(self, full: bool) -> None:
        self.party.full = full  # also for the session that it may get
        if self._session is not None:
            self._session.company.full(self.party, full)

    def resized(self, size: TerminalSize) -> None:
        if self._session is not None:
            self._session.company.resized(self.party, size)

    def broke(self, milliseconds: int) -> bool:
        return self._session is not None and self._session.company.broke(self.party)

    # what it is told

    def _tell_session(self, sid: UUID, waits: float) -> None:
        """A terminal that may come back, for `waits` seconds, has to know to what."""
        if self.party.window is not None:
            self.party.channel.tell_session(str(sid), int(waits), str(self.party.mode))

    def _may_not_join(self, sid: UUID, denial: AccessDenial) -> Refusal:
        """Puts on record why it does not take part in that session; what the client is told."""
        self.party.connection.denied("join", f"session {sid}: {'; '.join(denial.reasons)}")
        return Refusal.told(denial.public, denial.hint)

    # the end

    def end(self, reason: str) -> None:
        """The connection may not go on."""
        if self._session is not None:
            self._session.company.leave(self.party, over_for_you(reason), status=255)

    def reconsider(self) -> None:
        """Rules changed, and the connection goes on."""
        if self._session is not None:
            self._session.company.reconsider(self.party)

    def closed(self) -> None:
        self._gone = True
        if self._session is not None:
            self._session.company.leave(self.party)


def over_for_you(reason: str) -> str:
    """What somebody is told whose connection may not go on."""
    return f"This session is over for you: {reason}"
