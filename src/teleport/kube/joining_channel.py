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
from teleport.sharing.party_channel import FULL, PartyChannel
from teleport.ssh.handlers import SessionChannel
from teleport.ssh.surface import Refusal, Shell, Start, TerminalRequest
from teleport.wire.returning import TERMINAL_VARIABLE

if TYPE_CHECKING:
    from teleport.kube.joining import GuestConnection

log = logging.getLogger(__name__)

NOTHING_ELSE: Final = Refusal.told("Sessions in pods are joined here, and nothing is started.", "tsh join SESSION")


class GuestChannel(PartyChannel[LiveSession]):
    """One session channel: it names a session, and then takes part in it (`ssh.handlers.SessionHandler`)."""

    def __init__(self, connection: GuestConnection, channel: SessionChannel) -> None:
        super().__init__(Party(connection, channel, lambda: None))
        self._connection = connection
        self._sid: UUID | None = None
        self._mode: JoinMode | None = None
        self._window: UUID | None = None

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
        self.party.size = request.size
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
            return self._may_not_join(sid, decision)
        assert session is not None, "what does not exist is not permitted"
        if self.party.size is not None:
            self.party.window = self._window
        try:
            refusal = await connection.enter(decision)
            if refusal is not None:
                return refusal
            decision = connection.decide(session, self._mode)  # that took time: what has changed meanwhile counts
            if isinstance(decision, AccessDenial):
                return self._may_not_join(sid, decision)
            if not await session.company.join(self.party, decision.join):
                return FULL
        except TeleportError as error:
            log.error("joining cannot be put on record sid=%s error=%s", sid, error)
            return Refusal("This proxy cannot write its audit log now, so nobody joins a session.")
        self._session = session
        if self._gone or connection.over:
            session.company.leave(self.party)
            return Refusal("This session is over for you.")
        self._tell_session(sid, 0)
        return None

    def signalled(self, name: str) -> bool:
        return False  # these protocols carry none
