"""One session of a client on a host behind the proxy: relayed, recorded, audited.

Order of a session's life, as at a node (threat T40): the recording exists on disk, then its start is on record, then
the host is asked to start something; every byte is noted in the recording before it is sent on; the recording is closed
and the end is on record before the client learns the exit status. What cannot be recorded or put on record does not
start, and ends when it fails.
"""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from teleport.audit.events import Exec as ExecEvent
from teleport.audit.events import Resize, SessionData, SessionEnd, SessionStart
from teleport.audit.events import Subsystem as SubsystemEvent
from teleport.authz.channels import exec_is_limited, why_no_command, why_no_shell
from teleport.authz.decision import AccessDenial
from teleport.authz.ssh import SSHAccessPermit
from teleport.errors import LimitExceeded, TeleportError
from teleport.proxy.recording.facts import SessionEvents
from teleport.proxy.recording.files import Files
from teleport.proxy.recording.needs import Recording
from teleport.recording.format import RecordingHeader
from teleport.recording.outgoing import Outgoing
from teleport.ssh.client_session import RemoteExit, RemoteSession
from teleport.ssh.handlers import SessionChannel
from teleport.ssh.surface import Exec, Refusal, Shell, Start, Subsystem, TerminalRequest, TerminalSize, X11Request
from teleport.wire import vouch

if TYPE_CHECKING:
    from teleport.proxy.recording.connection import RecordedConnection

log = logging.getLogger(__name__)

_CLOSE_SECONDS = 900.0  # a long recording takes seconds for each GiB
_UNRECORDED = "the recording failed"
_CLOSE_REMOTE_SECONDS = 0.4  # for the host to say how what it was told to end has ended
SFTP: Final = "sftp"
JOIN: Final = "TELEPORT_SESSION"
# What a client may set: locale and terminal. The host's sshd has a list of its own (AcceptEnv) beside it.
_VARIABLE = re.compile(r"LANG|LANGUAGE|LC_[A-Z]+|TERM|COLORTERM|NO_COLOR|GIT_PROTOCOL")
_VALUE = re.compile(r"[A-Za-z0-9_.:,=@+ -]{0,256}")
_SIGNALS = frozenset(
    ["ABRT", "ALRM", "FPE", "HUP", "ILL", "INT", "KILL", "PIPE", "QUIT", "SEGV", "TERM", "USR1", "USR2"]
)  # RFC 4254 section 6.10


class RecordedSession:
    """Serves one session channel (`ssh.handlers.SessionHandler`)."""

    def __init__(self, connection: RecordedConnection, channel: SessionChannel, permit: SSHAccessPermit) -> None:
        self._connection = connection
        self._tools = connection.tools
        self._facts = connection.facts
        self._channel = channel
        self._permit = permit
        self._environment: dict[str, str] = {}
        self._terminal: TerminalRequest | None = None
        self._display: X11Request | None = None  # of the client's
        self._started = self._over = self._joining = False
        self._noted = (
            False  # whether its end is told by the next process, should this one be killed, without a recording
        )
        self._remote: RemoteSession | None = None
        self._recording: Recording | None = None
        self._stop: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._client_full = self._recording_full = False
        self._size_waiting: TerminalSize | None = None
        self._size_busy = False
        self._sent = self._received = 0  # bytes to and from the client
        self.sid = self._tools.new_id()
        self._events = SessionEvents(self._facts, self.sid, self._tools.emitter)
        self._began = self._tools.clock.now()
        self._what: Start = Shell()
        self._files: Files | None = None  # of an sftp session
        self._sync = self._tools.view.mode().endswith("-sync")
        self._outgoing = Outgoing(
            lambda data, stderr: self._channel.write(data, stderr=stderr),
            self._kept,
            in_background=lambda work: self._tools.in_background(work, f"release session {self.sid}"),
            flow=self._flow,
            failed=lambda: self.end("what it did cannot be put on record"),
        )

    # what the client asks for

    def environment(self, name: str, value: str) -> bool:
        if name == JOIN:
            self._joining = True
            return True
        if not _VARIABLE.fullmatch(name) or not _VALUE.fullmatch(value):
            return False
        self._environment[name] = value
        return True

    def terminal(self, request: TerminalRequest) -> bool:
        self._terminal = request
        return True

    async def agent(self) -> bool:
        """The client offers its agent (`ssh.handlers.ForwardsSession`)."""
        return await self._connection.forwards.lend(self, "agent")

    async def x11(self, request: X11Request) -> bool:
        """The client offers its display."""
        if not await self._connection.forwards.lend(self, "x11"):
            return False
        self._display = request
        return True

    async def start(self, what: Start) -> Refusal | None:
        refused = self._refused(what)
        if refused is not None:
            return refused
        self._what = what
        self._started = True
        try:
            return await self._start()
        except BaseException:
            self._finished()
            raise

    def _refused(self, what: Start) -> Refusal | None:
        """Decides by what is so at this moment, and takes the permit that holds now."""
        if self._connection.over:
            return Refusal("The connection has ended.")
        decision = self._facts.decide(self._tools)
        if isinstance(decision, AccessDenial):
            self._connection.denied("session", f"{decision.code}: {'; '.join(decision.reasons)}")
            return Refusal.told(decision.public, decision.hint)
        if self._started:
            if decision.record and not self._permit.record:
                return Refusal("Sessions are recorded since a moment ago: begin it again.")
            decision = replace(decision, record=self._permit.record)
        self._permit = decision
        terms = self._permit.channels
        user = self._facts.user
        denied: AccessDenial | None = None
        if self._joining:
            self._connection.denied("join", "sessions are not joined where the proxy records")
            return Refusal("Sessions are not joined where the proxy records them.")
        match what:
            case Shell():
                asked, denied = "shell", why_no_shell(terms)
            case Exec(command=command):
                if not command or "\0" in command:
                    return Refusal("The command is empty or contains a zero byte.")
                asked, denied = "exec", why_no_command(terms, command)
            case Subsystem(name=name):
                asked = f"subsystem {name[:80]}"
                if name != SFTP:
                    self._connection.denied(asked, "not offered here")
                    return Refusal("The only subsystem that is offered here is sftp.")
                if exec_is_limited(terms) and self._facts.told_here:
                    self._connection.denied(asked, "the roles limit transfers, which a plain sshd does not hold to")
                    return Refusal("Your roles limit which files may move, and this host cannot hold to that.")
        if user is not None and user.force_command:
            # A plain sshd would run what is asked: a forced command is for hosts of ours.
            self._connection.denied(asked, "the certificate forces a command, which is not done at a plain sshd")
            return Refusal("Your certificate is good for one command, which this host cannot be held to.")
        if denied is not None:
            self._connection.denied(asked, f"{denied.code}: {'; '.join(denied.reasons)}")
            return Refusal.told(denied.public, denied.hint)
        return None

    @property
    def _command(self) -> str:
        """As events and the recording name it; empty for a shell."""
        match self._what:
            case Exec(command=text) | Subsystem(name=text):
                return text.encode("utf-8", "backslashreplace").decode()
        return ""

    # the start

    async def _start(self) -> Refusal | None:
        tools = self._tools
        self._noted = not self._permit.record and self._facts.told_here
        if self._permit.record or self._noted:
            try:
                if self._noted:
                    await tools.recordings.unrecorded(self._header())
                else:
                    self._recording = await tools.recordings.start(self._header())
            except TeleportError as error:
                self._connection.denied("session", f"cannot be recorded: {error.message}")
                self._finished()
                why = f": {error.message}" if isinstance(error, LimitExceeded) else ""
                return Refusal(f"The proxy cannot record sessions now, so none is started{why}.")
        if isinstance(self._what, Subsystem):
            self._files = Files(self._connection, self._events, self._recording, self.end, self._flow)
        environment = dict(self._environment)
        try:
            if self._facts.told_here:
                await self._events.emit(SessionStart, self._began, **self._start_fields())
            elif self._recording is not None:
                environment[vouch.RECORDED_AS] = str(self.sid)  # the node tells of it, under this id
        except Exception:
            log.exception("session start cannot be put on record sid=%s", self.sid)
            if await self._close_recording("not put on record") or self._noted:
                tools.recordings.on_record(str(self.sid))
            self._finished()
            return Refusal("The proxy cannot write its audit log now, so no session is started.")
        forwards, origin = self._connection.forwards, self._connection.origin
        agent, x11 = await forwards.lending(self, "agent"), await forwards.lending(self, "x11")
        refused = self._refused(self._what)  # what changed meanwhile counts
        if refused is not None:
            await self._end(None, f"not started: {refused.message}")
            return refused
        if x11:
            origin.display_for(forwards.display_came())
        try:
            remote = await origin.start(
                command=self._what.command if isinstance(self._what, Exec) else None,
                subsystem=self._what.name if isinstance(self._what, Subsystem) else None,
                terminal=self._terminal,
                environment=environment,
                agent_came=forwards.agent_came() if agent else None,
                display=self._display if x11 else None,
                on_output=self._output,
                on_writable=self._input_taken,
            )
        except TeleportError as error:
            await self._end(None, f"not started: {error.message}")
            return Refusal.told(f"The host did not start it: {error.message.rstrip('.')}.", "")
        except BaseException:
            tools.in_background(self._end_unstarted(), f"end session {self.sid}")
            raise
        self._remote = remote
        if agent and remote.agent_refused:
            forwards.not_lent(self, "agent", "the host does not take an agent")
        if x11 and not remote.display_taken:
            forwards.not_lent(self, "x11", "the host does not take a display")
        if self._recording is not None:
            self._recording.failed.add_done_callback(lambda _: self.end("the recording failed"))
        self._flow()
        tools.in_background(self._run(remote), f"session {self.sid}")
        return None

    def _header(self) -> RecordingHeader:
        facts, terminal = self._facts, self._terminal
        assert facts.user is not None, "a session belongs to a user"
        return RecordingHeader(
            sid=str(self.sid),
            started=self._began,
            user=facts.user.name,
            login=facts.login,
            node_id=facts.node.host_id,
            node_name=facts.node.hostname,
            cluster=facts.cluster,
            command=self._command,
            interactive=terminal is not None,
            terminal=terminal.term if terminal else "",
            width=terminal.size.columns if terminal else 0,
            height=terminal.size.rows if terminal else 0,
            client=str(facts.client),
            recorder=str(self._tools.config.proxy_id),
            told_by_node=not facts.told_here,
        )

    @property
    def _common(self) -> dict[str, Any]:
        return {
            "initial_command": [self._command] if self._command else [],
            "session_recording": self._tools.view.mode() if self._permit.record else "off",
            "interactive": self._terminal is not None,
        }

    def _start_fields(self) -> dict[str, Any]:
        user, permit = self._facts.user, self._permit
        assert user is not None
        device, lease = (user.mfa_device if permit.mfa_verified else ""), ""
        if permit.lease is not None:
            device, lease = permit.lease.spec.device, permit.lease.name
        factor = {name: value for name, value in (("with_mfa", device), ("mfa_lease", lease)) if value}
        size = str(self._terminal.size) if self._terminal else ""
        return {"size": size, "cert_serial": user.serial, **self._common, **factor}

    # bytes

    def _output(self, data: bytes, is_stderr: bool) -> None:
        recording = self._recording
        if recording is not None:
            if recording.failed.done():
                return  # ending: what is not recorded is not sent
            if is_stderr:
                recording.record_stderr(data)
            elif self._files is None:
                recording.record_output(data)
        if self._files is not None and not is_stderr and not self._files.server_sends(data):
            return
        self._sent += len(data)
        if self._terminal is None:
            self._connection.active()
        self._outgoing.send(data, is_stderr, hold=self._is_held(is_stderr))
        if recording is not None and recording.must_drain and not self._recording_full:
            self._recording_full = True
            self._flow()
            self._tools.in_background(self._drain(recording), f"drain session {self.sid}")

    def _is_held(self, is_stderr: bool) -> bool:
        """Whether what the host just said tells the client of something that may not outlive this process yet."""
        files = self._files
        if files is not None and files.untold:
            return True
        if self._recording is None or not self._sync:
            return False
        return is_stderr or files is None or files.noted > files.kept

    async def _kept(self) -> None:
        """Returns when all that was noted so far is where it outlives this process."""
        files = self._files
        if files is not None:
            await files.told()
        if self._sync and self._recording is not None and not self._over:
            noted = files.noted if files is not None else 0
            await self._recording.sync()
            if files is not None:
                files.kept = noted

    async def _drain(self, recording: Recording) -> None:
        await recording.drain()
        self._recording_full = False
        self._flow()

    def _flow(self) -> None:
        if self._remote is None:
            return
        files_behind = self._files is not None and self._files.behind
        if self._client_full or self._recording_full or files_behind or self._outgoing.behind:
            self._remote.pause_output()
        else:
            self._remote.resume_output()

    def _input_taken(self, writable: bool) -> None:
        if writable:
            self._channel.resume_reading()
        else:
            self._channel.pause_reading()

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        self._connection.active()
        if self._files is not None and not self._files.client_sends(data):
            return
        if self._remote is not None:
            self._remote.write(data)

    def eof_received(self) -> None:
        if self._remote is not None:
            self._remote.write_eof()

    def pause_writing(self) -> None:
        self._client_full = True
        self._flow()

    def resume_writing(self) -> None:
        self._client_full = False
        self._flow()

    # terminal and signals

    def resized(self, size: TerminalSize) -> None:
        self._connection.active()
        if self._remote is None or self._terminal is None or self._over:
            return
        self._remote.resize(size)
        if self._recording is not None and not self._recording.failed.done():
            self._recording.resize(size.columns, size.rows)
        self._size_waiting = size
        if not self._size_busy:
            self._size_busy = True
            self._tools.in_background(self._report_sizes(), f"resize session {self.sid}")

    async def _report_sizes(self) -> None:
        """Events of sizes, one at a time: of many sizes in a row the last one counts."""
        try:
            while self._size_waiting is not None:
                size, self._size_waiting = self._size_waiting, None
                await self._events.emit(Resize, self._tools.clock.now(), size=str(size))
        finally:
            self._size_busy = False

    def signalled(self, name: str) -> bool:
        if self._remote is None or name not in _SIGNALS:
            return False
        self._connection.active()
        self._remote.signal(name)
        return True

    def broke(self, milliseconds: int) -> bool:
        if self._remote is None:
            return False
        self._remote.send_break(min(milliseconds, 3000))
        return True

    # the end

    def end(self, reason: str) -> None:
        """Ends the session, whoever asks: a lock, an expiry, a failing recording, a client that is gone."""
        if not self._stop.done():
            self._stop.set_result(reason)

    def closed(self) -> None:
        self.end("the client disconnected")
        if not self._started:
            self._finished()

    async def _run(self, remote: RemoteSession) -> None:
        ended: RemoteExit | None = None
        reason = ""
        waiting = asyncio.ensure_future(remote.wait())
        try:
            either: set[asyncio.Future[Any]] = {waiting, self._stop}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                reason = self._stop.result()
                remote.signal("KILL")  # to the process group, where the sshd does that
                remote.close()
                remote.resume_output()  # or the host's own close would wait behind output that nobody takes
                await asyncio.wait({waiting}, timeout=_CLOSE_REMOTE_SECONDS)
            if waiting.done():
                ended = waiting.result()
                lost = ended.status is None and not ended.signal
                reason = reason or (ended.message if lost else "")
        except asyncio.CancelledError:
            reason = "the proxy's service stopped"
            raise
        finally:
            waiting.cancel()
            async with asyncio.timeout(_CLOSE_SECONDS):
                unkept = await self._end(ended, reason)
            if self._outgoing.lost:  # it did not end well for a client that lacks some of what was said
                unkept = unkept or self._stop.result()
            if unkept:
                ended, reason = None, reason or unkept
            self._answer(ended, reason)

    async def _end(self, ended: RemoteExit | None, reason: str) -> str:
        """Closes the recording and puts the end on record; why the recording is not whole, or nothing. An end that
        cannot be put on record now is made up for."""
        digest, kept, unrecorded = "", False, False
        try:
            if self._files is not None:
                await self._files.ended()
            await self._outgoing.release()
            digest = await self._close_recording(reason)
            recording = self._recording
            unrecorded = recording is not None and (not digest or recording.failed.done())
            if self._facts.told_here:
                await self._tell_end(ended, reason or (_UNRECORDED if unrecorded else ""), digest)
            kept = bool(digest) or recording is None
        except TeleportError as error:
            log.error("session end cannot be put on record sid=%s error=%s", self.sid, error)
        except Exception:
            log.exception("session end cannot be put on record sid=%s", self.sid)
        finally:
            # Not before: a recording that has left tells the next process nothing of an end that is still to be told.
            if not kept:
                self._tools.recordings.unended(str(self.sid))
            elif digest or self._noted:
                self._tools.recordings.on_record(str(self.sid))
            self._finished()
        return _UNRECORDED if unrecorded else ""

    async def _tell_end(self, ended: RemoteExit | None, reason: str, digest: str) -> None:
        now, facts = self._tools.clock.now(), self._facts
        assert facts.user is not None
        failed = (f"signal {ended.signal}" if ended and ended.signal else "") or reason
        if isinstance(self._what, Exec):
            status = str(ended.status) if ended and ended.status is not None else ""
            await self._events.emit(ExecEvent, now, command=self._command, exit_code=status, exit_error=failed)
        elif isinstance(self._what, Subsystem):
            await self._events.emit(SubsystemEvent, now, name=self._what.name, exit_error=failed)
        await self._events.emit(SessionData, now, numbered=False, tx=self._sent, rx=self._received)
        await self._events.emit(
            SessionEnd,
            now,
            participants=[facts.user.name],
            session_start=self._began,
            session_stop=now,
            reason=reason,
            recording_hash=digest,
            **self._common,
        )

    async def _end_unstarted(self) -> None:
        await self._end(None, "not started")

    async def _close_recording(self, reason: str) -> str:
        if self._recording is None:
            return ""
        try:
            return (await self._recording.close(reason or "ended")).sha256
        except TeleportError as error:
            log.error("recording not closed sid=%s error=%s", self.sid, error)
            return ""

    def _answer(self, ended: RemoteExit | None, reason: str) -> None:
        if reason:
            told = reason.rstrip(".\n").replace("\n", "\r\n")
            self._channel.write(f"\r\nThis session was ended: {told}.\r\n".encode(), stderr=True)
        if ended is not None and ended.signal:
            self._channel.exit_with_signal(ended.signal, core_dumped=ended.core_dumped)
        elif ended is not None and ended.status is not None:
            self._channel.exit(ended.status)
        else:
            self._channel.exit_with_signal("KILL", message=reason)

    def _finished(self) -> None:
        if not self._over:
            self._over = True
            self._connection.left(self)
