"""One session channel of a client: what it asks for, until it starts something, and then its part in that session."""

from __future__ import annotations

import logging
from collections.abc import Coroutine
from typing import Any, Final, Protocol
from uuid import UUID

from teleport.authz.decision import AccessDenial
from teleport.authz.joining import JoinPermit, unknown_session
from teleport.errors import TeleportError
from teleport.launcher.environment import filter_environment
from teleport.launcher.values import Kind
from teleport.node.forwards import Forwards
from teleport.node.offers import Variables, take_agent, take_display
from teleport.node.party import Connection as PartyConnection
from teleport.node.party import NodeParty
from teleport.node.programs import NODE_VARIABLES, Asked, choose
from teleport.node.session import Session
from teleport.node.tools import Tools
from teleport.sharing.party_channel import FULL, PartyChannel, over_for_you
from teleport.spans import TraceContext, span
from teleport.ssh.handlers import SessionChannel
from teleport.ssh.surface import Exec, Refusal, Shell, Start, Subsystem, TerminalRequest, X11Request
from teleport.wire import vouch

log = logging.getLogger(__name__)

NOT_ALONE: Final = (
    "Your roles ask for somebody else in your sessions, so only a shell or a command in a terminal is started: ssh -t."
)

_ASKED: Final = {Shell: "shell", Exec: "exec", Subsystem: "subsystem"}


class Connection(PartyConnection, Protocol):
    """What a channel needs of its connection."""

    trace: TraceContext | None

    @property
    def forwards(self) -> Forwards: ...

    @property
    def second_factor(self) -> tuple[str, str]:
        """What was proved for its sessions, and the lease that stood for it."""
        ...

    def admit(self, what: str) -> Refusal | None:
        """Decides anew before something begins; a refusal is on record."""
        ...

    def left(self, channel: SessionChannelHandler) -> None:
        """Nothing of the channel, nor of what it started, is left."""
        ...


class SessionChannelHandler(PartyChannel[Session]):
    """Serves one session channel (`ssh.handlers.SessionHandler`)."""

    party: NodeParty

    def __init__(
        self,
        tools: Tools,
        connection: Connection,
        channel: SessionChannel,
    ) -> None:
        super().__init__(NodeParty(connection, channel, self._left))
        self._tools = tools
        self._connection = connection
        self._asked = Asked()
        self._over = False
        self._ended = ""  # why its connection may not go on

    # what the client asks for

    def environment(self, name: str, value: str) -> bool:
        user = self._connection.facts.user
        if name == vouch.RECORDED_AS and (user is None or not user.recorded_by):
            return False
        if name in NODE_VARIABLES:
            return self._asked.variable(name, value)
        kept, _ = filter_environment([(name, value)])
        self._asked.environment.extend(kept)
        return bool(kept)

    def terminal(self, request: TerminalRequest) -> bool:
        self._asked.terminal = request
        self.party.size = request.size
        return True

    async def agent(self) -> bool:
        return await self._offered(take_agent(self._connection.forwards, self))

    async def x11(self, request: X11Request) -> bool:
        return await self._offered(take_display(self._connection.forwards, self, request))

    async def _offered(self, taking: Coroutine[Any, Any, Variables | None]) -> bool:
        variables = await taking
        if variables is None:
            return False
        self._asked.offered.extend(variables)
        if self._over:
            self._connection.forwards.release(self)
        return True

    async def start(self, what: Start) -> Refusal | None:
        # The channel may be open for long: what counts is what the rules say now, of recording, too.
        if (refused := self._connection.admit(_ASKED[type(what)])) is not None:
            return refused
        if self._asked.terminal is not None:
            self.party.window = self._asked.window
        if self._asked.join is not None and isinstance(what, Shell):
            return await self._join(self._asked.join)
        user = self._connection.facts.user
        forced = user.force_command if user is not None else ""
        program = choose(what, forced=forced, terms=self._connection.permit.channels)
        if isinstance(program, AccessDenial):
            asked = _ASKED[type(what)]
            self._connection.denied(asked, f"{program.code}: {'; '.join(program.reasons)}")
            return Refusal.told(program.public, program.hint)
        if isinstance(program, Refusal):
            self._connection.denied(_ASKED[type(what)], program.message)
            return program
        if program.transfer is not None:
            self._asked.terminal = None  # bytes of files pass as they are
        if self._connection.permit.required_joins:
            if self._asked.terminal is None or program.kind not in (Kind.SHELL, Kind.EXEC):
                self._connection.denied("exec", "its user's sessions need others in them, and this has no terminal")
                return Refusal(NOT_ALONE)
            self._asked.linger = 0.0
        if self._asked.terminal is None:
            self._asked.linger = 0.0  # nobody could come back to it
        if idle := self._connection.permit.client_idle_timeout.total_seconds():
            self._asked.linger = min(self._asked.linger, idle)
        elsewhere = self._asked.recorded_as
        if elsewhere is not None:
            self._asked.linger = 0.0  # the proxy would see no more of it
            if self._tools.registry.find(elsewhere) is not None:
                return Refusal("A session is recorded under this id already.")
        record = self._connection.permit.record and elsewhere is None
        mfa = self._connection.second_factor
        self._session = Session(self._tools, self.party, program, self._asked, record=record, mfa=mfa)
        with span("node.session.start", parent=self._connection.trace, begins=False) as starting:
            starting.set("teleport.session.id", str(self._session.about.sid))
            starting.set("teleport.session.kind", _ASKED[type(what)])
            refused = await self._session.start()
            if refused is not None:
                starting.fail("refused")
        if refused is None:
            self._tell_session(self._session.sid, self._asked.linger)
        return refused

    async def _join(self, sid: UUID) -> Refusal | None:
        """Takes part in a running session, when the rules say so. An id that no session has is refused: who could
        choose an id could choose that of a stored recording, and the new one would have nowhere to go."""
        session = self._tools.registry.find(sid)
        if session is None:
            decision: JoinPermit | AccessDenial = unknown_session()
        else:
            decision = self._connection.may_join(session.about, self._asked.mode)
        if isinstance(decision, AccessDenial):
            return self._may_not_join(sid, decision)
        assert session is not None, "what does not exist is not permitted"
        try:
            if not await session.company.join(self.party, decision):
                return FULL
        except TeleportError as error:
            log.error("joining cannot be put on record sid=%s error=%s", sid, error)
            return Refusal("This node cannot write its audit log now, so nobody joins a session.")
        if self._ended:  # while that was put on record
            session.company.leave(self.party)
            return Refusal(over_for_you(self._ended))
        self._session = session
        if self._gone:
            session.company.leave(self.party)
        else:
            self._tell_session(sid, session.company.waits_for(self.party))
        return None

    # what happens on it once something runs

    def signalled(self, name: str) -> bool:
        return self._session is not None and self._session.signalled(self.party, name)

    # the end

    def end(self, reason: str) -> None:
        """The connection may not go on: what it started ends, and its part in what others started."""
        self._ended = reason
        if self._session is not None and self._session.first is self.party:
            self._session.end(reason)
        else:
            super().end(reason)

    def reconsider(self) -> None:
        if self._session is not None:
            self._session.reconsider(self.party)

    @property
    def lives_on(self) -> bool:
        """Whether what it started is not over."""
        return self._session is not None and self._session.first is self.party and self._session.lives_on

    def closed(self) -> None:
        super().closed()
        if self._session is None:
            self._left()

    def _left(self) -> None:
        if not self._over:
            self._over = True
            self._connection.left(self)
