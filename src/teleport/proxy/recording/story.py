"""What of a session at a recording proxy goes on record: the header of its recording, and its events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from teleport.audit.events import Exec as ExecEvent
from teleport.audit.events import Resize, SessionData, SessionEnd, SessionStart
from teleport.audit.events import Subsystem as SubsystemEvent
from teleport.authz.ssh import SSHAccessPermit
from teleport.proxy.recording.facts import Facts, SessionEvents
from teleport.proxy.recording.needs import Tools
from teleport.recording.format import RecordingHeader
from teleport.ssh.client_session import RemoteExit
from teleport.ssh.surface import Exec, Start, Subsystem, TerminalRequest, TerminalSize


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client wants of a session."""

    what: Start
    terminal: TerminalRequest | None

    @property
    def command(self) -> str:
        """As events and the recording name it; empty for a shell."""
        match self.what:
            case Exec(command=text) | Subsystem(name=text):
                return text.encode("utf-8", "backslashreplace").decode()
        return ""


class Story:
    """One session, as the audit log and its recording tell it."""

    def __init__(self, tools: Tools, facts: Facts) -> None:
        self._tools = tools
        self._facts = facts
        self.sid = tools.new_id()
        self.events = SessionEvents(facts, self.sid, tools.emitter)
        self.began = tools.clock.now()
        self.sent = self.received = 0  # bytes to and from the client
        self._size_waiting: TerminalSize | None = None
        self._size_busy = False

    def header(self, asked: Asked) -> RecordingHeader:
        """What the recording begins with."""
        facts, terminal = self._facts, asked.terminal
        assert facts.user is not None, "a session belongs to a user"
        return RecordingHeader(
            sid=str(self.sid),
            started=self.began,
            user=facts.user.name,
            login=facts.login,
            node_id=facts.node.host_id,
            node_name=facts.node.hostname,
            cluster=facts.cluster,
            command=asked.command,
            interactive=terminal is not None,
            terminal=terminal.term if terminal else "",
            width=terminal.size.columns if terminal else 0,
            height=terminal.size.rows if terminal else 0,
            client=str(facts.client),
            recorder=str(self._tools.config.proxy_id),
            told_by_node=not facts.told_here,
        )

    def _common(self, asked: Asked, permit: SSHAccessPermit) -> dict[str, Any]:
        return {
            "initial_command": [asked.command] if asked.command else [],
            "session_recording": self._tools.view.mode() if permit.record else "off",
            "interactive": asked.terminal is not None,
        }

    async def started(self, asked: Asked, permit: SSHAccessPermit) -> None:
        """The session is about to start; returns when that is durable."""
        user = self._facts.user
        assert user is not None
        device, lease = (user.mfa_device if permit.mfa_verified else ""), ""
        if permit.lease is not None:
            device, lease = permit.lease.spec.device, permit.lease.name
        given = (("with_mfa", device), ("mfa_lease", lease))
        factor: dict[str, Any] = {name: value for name, value in given if value}
        size = str(asked.terminal.size) if asked.terminal else ""
        common = self._common(asked, permit)
        await self.events.emit(SessionStart, self.began, size=size, cert_serial=user.serial, **common, **factor)

    def resized(self, size: TerminalSize) -> None:
        """Puts a size on record in the background."""
        self._size_waiting = size
        if not self._size_busy:
            self._size_busy = True
            self._tools.in_background(self._report_sizes(), f"resize session {self.sid}")

    async def _report_sizes(self) -> None:
        """Events of sizes, one at a time: of many sizes in a row the last one counts."""
        try:
            while self._size_waiting is not None:
                size, self._size_waiting = self._size_waiting, None
                await self.events.emit(Resize, self._tools.clock.now(), size=str(size))
        finally:
            self._size_busy = False

    async def ended(
        self, asked: Asked, permit: SSHAccessPermit, ended: RemoteExit | None, reason: str, digest: str
    ) -> None:
        """The session is over; returns when that is durable. `ended` is None when it never began, or nobody knows how
        it ended; `digest` is of its recording, empty without one."""
        now, facts = self._tools.clock.now(), self._facts
        assert facts.user is not None
        failed = (f"signal {ended.signal}" if ended and ended.signal else "") or reason
        if isinstance(asked.what, Exec):
            status = str(ended.status) if ended and ended.status is not None else ""
            await self.events.emit(ExecEvent, now, command=asked.command, exit_code=status, exit_error=failed)
        elif isinstance(asked.what, Subsystem):
            await self.events.emit(SubsystemEvent, now, name=asked.what.name, exit_error=failed)
        await self.events.emit(SessionData, now, numbered=False, tx=self.sent, rx=self.received)
        await self.events.emit(
            SessionEnd,
            now,
            participants=[facts.user.name],
            session_start=self.began,
            session_stop=now,
            reason=reason,
            recording_hash=digest,
            **self._common(asked, permit),
        )
