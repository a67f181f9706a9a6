"""What of a session goes on record: the header of its recording, and its events from start to end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from teleport.audit.events import Exec as ExecEvent
from teleport.audit.events import (
    Resize,
    Rsync,
    SessionData,
    SessionEnd,
    SessionHeld,
    SessionJoin,
    SessionLeave,
    SessionStart,
    Subsystem,
)
from teleport.launcher.values import Exit, Kind
from teleport.node.facts import Facts, SessionEvents
from teleport.node.programs import Program
from teleport.node.tools import Tools
from teleport.recording.format import RecordingHeader
from teleport.sharing.parties import Party
from teleport.ssh.surface import TerminalRequest, TerminalSize
from teleport.wire.transfer_command import RsyncCommand


class Story:
    """One session, as the audit log and its recording tell it. Every call returns once its events are durable."""

    def __init__(
        self,
        tools: Tools,
        facts: Facts,
        sid: UUID,
        program: Program,
        terminal: TerminalRequest | None,
        *,
        record: bool,
        mfa: tuple[str, str] = ("", ""),
    ) -> None:
        """`mfa`: the second factor that was proved for the session, and the lease that stood for it."""
        assert facts.user is not None, "a session belongs to a user"
        self._clock = tools.clock
        self._facts = facts
        self._user = facts.user
        self._sid = sid
        self._program = program
        self._terminal = terminal
        self._mfa = mfa
        self.events = SessionEvents(facts, sid, tools.emitter)
        self.began = tools.clock.now()
        self._common: dict[str, Any] = {
            "initial_command": [program.shown] if program.shown else [],
            "session_recording": tools.config.recording_mode() if record else "off",
            "interactive": terminal is not None,
        }

    def header(self) -> RecordingHeader:
        """What the recording begins with."""
        facts, terminal = self._facts, self._terminal
        return RecordingHeader(
            sid=str(self._sid),
            started=self.began,
            user=self._user.name,
            login=facts.login,
            node_id=str(facts.config.host_id),
            node_name=facts.config.hostname,
            cluster=facts.config.cluster,
            command=self._program.shown,
            interactive=terminal is not None,
            terminal=terminal.term if terminal else "",
            width=terminal.size.columns if terminal else 0,
            height=terminal.size.rows if terminal else 0,
            client=str(facts.client),
        )

    async def started(self) -> None:
        """The session is about to start its program."""
        device, lease = self._mfa
        factor: dict[str, Any] = {"with_mfa": device, "mfa_lease": lease}
        given = {name: value for name, value in factor.items() if value}
        size = str(self._terminal.size) if self._terminal else ""
        serial = self._user.serial
        await self.events.emit(SessionStart, self.began, size=size, cert_serial=serial, **self._common, **given)

    async def resized(self, size: TerminalSize) -> None:
        await self.events.emit(Resize, self._clock.now(), size=str(size))

    async def joined(self, party: Party, granted_by: str) -> None:
        """Somebody else, on another connection, is about to take part."""
        now, mode = self._clock.now(), str(party.mode)
        await self.events.emit(SessionJoin, now, facts=_facts(party), mode=mode, granted_by=granted_by)

    async def left(self, party: Party) -> None:
        """Somebody takes part no more, and the session goes on."""
        await self.events.emit(SessionLeave, self._clock.now(), facts=_facts(party), mode=str(party.mode))

    async def held(self, missing: Sequence[str], *, started: bool) -> None:
        """The session stands still because of what is missing, or with nothing missing goes on."""
        now = self._clock.now()
        await self.events.emit(SessionHeld, now, held=bool(missing), started=started, missing=list(missing))

    async def ended(
        self,
        ended: Exit | None,
        reason: str,
        *,
        sent: int,
        received: int,
        recording_hash: str,
        participants: Sequence[str] = (),
        enhanced: bool = False,
    ) -> None:
        """The session is over. `ended` is None when its program never ran or its end is unknown.

        `enhanced`: whether the kernel's view of it is on record, too.
        """
        now = self._clock.now()
        if self._program.kind is Kind.SFTP:
            await self.events.emit(
                Subsystem,
                now,
                name=self._program.shown,
                exit_error=(f"signal {ended.signal}" if ended and ended.signal else "")
                or reason
                or (f"exit status {ended.status}" if ended and ended.status else ""),
            )
        elif self._program.command:
            if self._program.rsync is not None:
                await self._moved(self._program.rsync, ended, reason)
            await self.events.emit(
                ExecEvent,
                now,
                command=self._program.shown,
                exit_code=str(ended.status) if ended and ended.status is not None else "",
                exit_error=(f"signal {ended.signal}" if ended and ended.signal else "") or reason,
            )
        await self.events.emit(SessionData, now, numbered=False, tx=sent, rx=received)
        await self.events.emit(
            SessionEnd,
            now,
            participants=list(participants) or [self._user.name],
            session_start=self.began,
            session_stop=now,
            reason=reason,
            recording_hash=recording_hash,
            enhanced_recording=enhanced,
            **self._common,
        )

    async def _moved(self, command: RsyncCommand, ended: Exit | None, reason: str) -> None:
        """rsync has run: its own protocol, of which no more is known than what it was told to do."""
        status = str(ended.status) if ended and ended.status is not None else ""
        error = (f"signal {ended.signal}" if ended and ended.signal else "") or reason
        await self.events.emit(
            Rsync,
            self._clock.now(),
            action="download" if command.sender else "upload",
            paths=[path.text if path.home is None else f"~{path.home}/{path.text}" for path in command.paths],
            command=self._program.shown,
            exit_code=status,
            hash_reason="rsync",
            error=error or (f"exit status {status}" if status not in ("", "0") else ""),
        )


def _facts(party: Party) -> Facts:
    facts = party.connection.facts
    assert isinstance(facts, Facts), "parties are connections of this node"
    return facts
