"""One session of a client on a host behind the proxy: relayed, recorded, audited.

Order of a session's life, as at a node (threat T40): the recording exists on disk, then its start is on record, then
the host is asked to start something; every byte is noted in the recording before it is sent on; the recording is closed
and the end is on record before the client learns the exit status. What cannot be recorded or put on record does not
start, and ends when it fails.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from teleport.authz.decision import AccessDenial
from teleport.authz.ssh import SSHAccessPermit
from teleport.errors import LimitExceeded, TeleportError
from teleport.proxy.recording.beginning import may_set, why_not_begun
from teleport.proxy.recording.files import Files
from teleport.proxy.recording.needs import Recording
from teleport.proxy.recording.story import Asked, Story
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
JOIN: Final = "TELEPORT_SESSION"
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
        self._story = Story(self._tools, self._facts)
        self.sid = self._story.sid
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
        if not may_set(name, value):
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
        not_begun = why_not_begun(what, self._facts, decision.channels, joining=self._joining)
        if not_begun is None:
            return None
        if not_begun.asked:
            self._connection.denied(not_begun.asked, not_begun.reason)
        return not_begun.told

    @property
    def _asked(self) -> Asked:
        return Asked(self._what, self._terminal)

    # the start

    async def _start(self) -> Refusal | None:
        tools = self._tools
        self._noted = not self._permit.record and self._facts.told_here
        if self._permit.record or self._noted:
            try:
                if self._noted:
                    await tools.recordings.unrecorded(self._story.header(self._asked))
                else:
                    self._recording = await tools.recordings.start(self._story.header(self._asked))
            except TeleportError as error:
                self._connection.denied("session", f"cannot be recorded: {error.message}")
                self._finished()
                why = f": {error.message}" if isinstance(error, LimitExceeded) else ""
                return Refusal(f"The proxy cannot record sessions now, so none is started{why}.")
        if isinstance(self._what, Subsystem):
            self._files = Files(self._connection, self._story.events, self._recording, self.end, self._flow)
        environment = dict(self._environment)
        try:
            if self._facts.told_here:
                await self._story.started(self._asked, self._permit)
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
        self._story.sent += len(data)
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
        self._story.received += len(data)
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
        self._story.resized(size)

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
                why = reason or (_UNRECORDED if unrecorded else "")
                await self._story.ended(self._asked, self._permit, ended, why, digest)
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
