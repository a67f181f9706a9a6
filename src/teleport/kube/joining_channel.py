"""The channel of somebody who joins a session in a pod: it names the session, and then takes part in it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final
from uuid import UUID

from teleport.authz.decision import AccessDenial
from teleport.authz.joining import unknown_session
from teleport.errors import TeleportError
from teleport.kube.live import LiveSession
from teleport.recording.format import canonical_uuid
from teleport.resources.joining import JoinMode
from teleport.sharing.parties import Party
from teleport.ssh.handlers import SessionChannel
from teleport.ssh.surface import Refusal, Shell, Start, TerminalRequest, TerminalSize
from teleport.wire.returning import TERMINAL_VARIABLE

if TYPE_CHECKING:
    from teleport.kube.joining import GuestConnection

log = logging.getLogger(__name__)

NOTHING_ELSE: Final = Refusal.told("Sessions in pods are joined here, and nothing is started.", "tsh join SESSION")


class GuestChannel:
    """One session channel: it names a session, and then takes part in it (`ssh.handlers.SessionHandler`)."""

    def __init__(self, connection: GuestConnection, channel: SessionChannel) -> None:
        self._connection = connection
        self._party = Party(connection, channel, lambda: None)
        self._channel = channel
        self._sid: UUID | None = None
        self._mode: JoinMode | None = None
        self._window: UUID | None = None
        self._session: LiveSession | None = None
        self._gone = False

    def environment(self, name: str, value: str) -> bool:
        try:
            match name:
                case "TELEPORT_SESSION":
                    self._sid = UUID(canonical_uuid(value))
                case "TELEPORT_JOIN_MODE":
                    self._mode = JoinMode(value)
                case _ if name == TERMINAL_VARIABLE:
                    self._window = UUID(canonical_uuid(value))
                case _:
                    return False
        except (ValueError, TeleportError):
            return False
        return True

    def terminal(self, request: TerminalRequest) -> bool:
        self._party.size = request.size
        return True

    async def start(self, what: Start) -> Refusal | None:
        connection, sid = self._connection, self._sid
        if connection.over:
            return Refusal("This connection is over.")
        if sid is None or not isinstance(what, Shell):
            connection.denied("join", "no session was named" if sid is None else "something else was asked for")
            return NOTHING_ELSE
        session = connection.service.tools.live.find(sid)
        decision = connection.decide(session, self._mode) if session is not None else unknown_session()
        if isinstance(decision, AccessDenial):
            return self._denied(sid, decision)
        assert session is not None, "what does not exist is not permitted"
        if self._party.size is not None:
            self._party.window = self._window
        try:
            refusal = await connection.enter(decision)
            if refusal is not None:
                return refusal
            decision = connection.decide(session, self._mode)  # that took time: what has changed meanwhile counts
            if isinstance(decision, AccessDenial):
                return self._denied(sid, decision)
            if not await session.company.join(self._party, decision.join):
                return Refusal("This session is over, or as many people are in it as may be.")
        except TeleportError as error:
            log.error("joining cannot be put on record sid=%s error=%s", sid, error)
            return Refusal("This proxy cannot write its audit log now, so nobody joins a session.")
        self._session = session
        if self._gone or connection.over:
            session.company.leave(self._party)
            return Refusal("This session is over for you.")
        if self._party.window is not None:
            self._channel.tell_session(str(sid), 0, str(self._party.mode))
        return None

    def _denied(self, sid: UUID, denial: AccessDenial) -> Refusal:
        self._connection.denied("join", f"session {sid}: {'; '.join(denial.reasons)}")
        return Refusal.told(denial.public, denial.hint)

    # what happens on it once it takes part

    def data_received(self, data: bytes) -> None:
        if self._session is not None:
            self._session.company.typed(self._party, data)

    def eof_received(self) -> None:
        if self._session is not None:
            self._session.company.end_input(self._party)

    def pause_writing(self) -> None:
        self._full(True)

    def resume_writing(self) -> None:
        self._full(False)

    def _full(self, full: bool) -> None:
        self._party.full = full
        if self._session is not None:
            self._session.company.full(self._party, full)

    def resized(self, size: TerminalSize) -> None:
        if self._session is not None:
            self._session.company.resized(self._party, size)

    def signalled(self, name: str) -> bool:
        return False  # these protocols carry none

    def broke(self, milliseconds: int) -> bool:
        return False

    # the end

    def end(self, reason: str) -> None:
        """The connection may not go on."""
        if self._session is not None:
            self._session.company.leave(self._party, f"This session is over for you: {reason}", status=255)

    def reconsider(self) -> None:
        if self._session is not None:
            self._session.company.reconsider(self._party)

    def closed(self) -> None:
        self._gone = True
        if self._session is not None:
            self._session.company.leave(self._party)
