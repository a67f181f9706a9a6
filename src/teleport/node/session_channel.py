"""One session channel of a client: what it asks for, until it starts something, and then its part in that session."""

from __future__ import annotations

from typing import Protocol

from teleport.authz.decision import AccessDenial
from teleport.authz.ssh import SSHAccessPermit
from teleport.launcher.environment import filter_environment
from teleport.node import parties
from teleport.node.parties import Party
from teleport.node.programs import Asked, choose
from teleport.node.session import Session
from teleport.node.tools import Tools
from teleport.ssh.handlers import SessionChannel
from teleport.ssh.surface import Refusal, Shell, Start, TerminalRequest, TerminalSize


class Connection(parties.Connection, Protocol):
    """What a channel needs of its connection."""

    permit: SSHAccessPermit

    def left(self, channel: SessionChannelHandler) -> None:
        """Nothing of the channel, nor of what it started, is left."""
        ...


class SessionChannelHandler:
    """Serves one session channel (`ssh.handlers.SessionHandler`)."""

    def __init__(
        self,
        tools: Tools,
        connection: Connection,
        channel: SessionChannel,
        *,
        record: bool,
        mfa: tuple[str, str] = ("", ""),
    ) -> None:
        """`mfa`: the second factor that was proved for the session, and the lease that stood for it."""
        self._tools = tools
        self._connection = connection
        self._record = record
        self._mfa = mfa
        self._asked = Asked()
        self.party = Party(connection, channel)
        self._session: Session | None = None
        self._over = False

    # what the client asks for

    def environment(self, name: str, value: str) -> bool:
        # TELEPORT_SESSION is not taken: who could choose an id could choose that of a stored recording, and the
        # recording of the new session would have nowhere to go.
        kept, _ = filter_environment([(name, value)])
        self._asked.environment.extend(kept)
        return bool(kept)

    def terminal(self, request: TerminalRequest) -> bool:
        self._asked.terminal = request
        return True

    async def start(self, what: Start) -> Refusal | None:
        user = self._connection.facts.user
        forced = user.force_command if user is not None else ""
        program = choose(what, forced=forced, terms=self._connection.permit.channels)
        if isinstance(program, AccessDenial):
            asked = "shell" if isinstance(what, Shell) else "exec"
            self._connection.denied(asked, f"{program.code}: {'; '.join(program.reasons)}")
            return Refusal.told(program.public, program.hint)
        if isinstance(program, Refusal):
            return program
        self._session = Session(
            self._tools,
            self.party,
            program,
            self._asked,
            record=self._record,
            mfa=self._mfa,
            over=self._left,
        )
        return await self._session.start()

    # what happens on it once something runs

    def data_received(self, data: bytes) -> None:
        if self._session is not None:
            self._session.typed(self.party, data)

    def eof_received(self) -> None:
        if self._session is not None:
            self._session.end_input(self.party)

    def pause_writing(self) -> None:
        self._full(True)

    def resume_writing(self) -> None:
        self._full(False)

    def _full(self, full: bool) -> None:
        self.party.full = full
        if self._session is not None:
            self._session.full(self.party, full)

    def resized(self, size: TerminalSize) -> None:
        if self._session is not None:
            self._session.resized(self.party, size)

    def signalled(self, name: str) -> bool:
        return self._session is not None and self._session.signalled(self.party, name)

    def broke(self, milliseconds: int) -> bool:
        return self._session is not None and self._session.broke(self.party)

    # the end

    def end(self, reason: str) -> None:
        """The connection may not go on: what it started ends."""
        if self._session is not None:
            self._session.end(reason)

    def closed(self) -> None:
        if self._session is not None:
            self._session.leave(self.party)
        else:
            self._left()

    def _left(self) -> None:
        if not self._over:
            self._over = True
            self._connection.left(self)
