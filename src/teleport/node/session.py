"""One session: a process started by the launcher, wired to an SSH channel, recorded and audited.

Order of a session's life (threat T40): the recording exists on disk, then its start is on record, then the process
starts; every byte is noted in the recording before it is sent; the recording is closed (a long one: on disk) and the
end is on record before the client learns the exit status. What cannot be recorded or put on record does not start, and
ends when it fails.
"""

from __future__ import annotations

import asyncio
import logging
import termios
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from teleport.audit.events import Exec as ExecEvent
from teleport.audit.events import Resize, SessionData, SessionEnd, SessionStart
from teleport.errors import LimitExceeded, TeleportError
from teleport.launcher.client import resize_terminal
from teleport.launcher.environment import filter_environment
from teleport.launcher.values import SIGNALS, Exit, Kind, LauncherRefused, Pty, SessionLost, SpawnRequest
from teleport.node.facts import Facts, SessionEvents
from teleport.node.needs import Process, Recording, Unrecorded
from teleport.node.pump import Input, Output
from teleport.node.tools import Tools
from teleport.recording.format import RecordingHeader
from teleport.ssh.handlers import SessionChannel
from teleport.ssh.surface import Exec, Refusal, Shell, Start, Subsystem, TerminalRequest, TerminalSize

log = logging.getLogger(__name__)

_SPAWN_SECONDS = 20.0
_KILL_SECONDS = 15.0
_COPY_SECONDS = 5.0  # without a byte, for output that outlives the process (`protocols.md` 7)
_CLOSE_SECONDS = 20.0
_SEAL_SECONDS = 900.0


class Connection(Protocol):
    """What a session needs of its connection."""

    facts: Facts

    def active(self) -> None:
        """The client did something."""
        ...

    def left(self, session: NodeSession) -> None:
        """The session is over."""
        ...

    def denied(self, what: str, reason: str) -> None:
        """Puts a refusal on record."""
        ...


class State(StrEnum):
    """A session's life. It only moves down this list."""

    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    ENDED = "ended"


class NodeSession:
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
        self._mfa = mfa
        user = connection.facts.user
        self._forced = user.force_command if user is not None else ""
        self._asked = ""  # for, by the client
        self._tools = tools
        self._record = record
        self._connection = connection
        self._channel = channel
        self._state = State.WAITING
        self._environment: list[tuple[str, str]] = []
        self._terminal: TerminalRequest | None = None
        self._process: Process | None = None
        self._recording: Recording | None = None
        self._outputs: list[Output] = []
        self._input: Input | None = None
        self._stop: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._output_moved = asyncio.Event()
        self._client_full = False
        self._recording_full = False
        self._size_waiting: TerminalSize | None = None
        self._size_busy = False
        self.received = 0  # bytes from the client
        self.sent = 0  # bytes to the client

    # requests of the client

    def environment(self, name: str, value: str) -> bool:
        # TELEPORT_SESSION is not taken: who could choose an id could choose that of a stored recording, and the
        # recording of the new session would have nowhere to go.
        kept, _ = filter_environment([(name, value)])
        self._environment.extend(kept)
        return bool(kept)

    def terminal(self, request: TerminalRequest) -> bool:
        self._terminal = request
        return True

    async def start(self, what: Start) -> Refusal | None:
        match what:
            case Shell():
                command = ""
            case Exec(command=command):
                if not command or "\0" in command:
                    return Refusal("The command is empty or contains a zero byte.")
            case Subsystem(name=name):
                command = name
                if not self._forced:
                    return Refusal("Subsystems are not offered here.")
        self._asked = command
        command = self._forced or command
        self._state = State.STARTING
        self.sid = self._tools.registry.claim()
        try:
            return await self._start(command)
        except BaseException:
            self._finished()
            raise

    async def _start(self, command: str) -> Refusal | None:
        tools, facts = self._tools, self._connection.facts
        began = tools.clock.now()
        shown = command.encode("utf-8", "backslashreplace").decode()
        try:
            recording = await self._open_recording(shown, began)
        except TeleportError as error:
            self._connection.denied("exec" if command else "shell", f"cannot be recorded: {error.message}")
            self._finished()
            why = f": {error.message}" if isinstance(error, LimitExceeded) else ""
            return Refusal(f"This node cannot record sessions now, so none is started{why}. Tell its administrator.")
        self._recording = recording
        self.events = SessionEvents(facts, self.sid, tools.emitter)
        interactive = self._terminal is not None
        size = str(self._terminal.size) if self._terminal else ""
        story: dict[str, Any] = {
            "initial_command": [shown] if shown else [],
            "session_recording": tools.config.recording_mode if self._record else "off",
            "interactive": interactive,
        }
        factor: dict[str, Any] = {"with_mfa": self._mfa[0], "mfa_lease": self._mfa[1]}
        try:
            serial = facts.user.serial if facts.user else ""
            given = {name: value for name, value in factor.items() if value}
            await self.events.emit(SessionStart, began, size=size, cert_serial=serial, **story, **given)
        except Exception:
            log.exception("session start cannot be put on record sid=%s", self.sid)
            if await self._close_recording("not put on record"):
                tools.recordings.on_record(str(self.sid))
            self._finished()
            return Refusal("This node cannot write its audit log now, so no session is started.")
        try:
            async with asyncio.timeout(_SPAWN_SECONDS):
                process = await tools.launcher.spawn(self._request(command))
        except (LauncherRefused, TimeoutError) as error:
            message = error.message if isinstance(error, LauncherRefused) else "The session took too long to start."
            hint = f" Next: {error.hint}" if isinstance(error, LauncherRefused) and error.hint else ""
            await self._end(shown, began, story, None, f"not started: {message}")
            return Refusal(message + hint)
        except BaseException:
            tools.in_background(self._end(shown, began, story, None, "not started"), f"end session {self.sid}")
            raise
        self._process = process
        self._state = State.RUNNING
        self._wire(process, recording)
        tools.in_background(self._run(process, shown, began, story), f"session {self.sid}")
        return None

    async def _open_recording(self, command: str, began: datetime) -> Recording:
        if not self._record:
            return Unrecorded()
        facts, terminal = self._connection.facts, self._terminal
        assert facts.user is not None, "a session belongs to a user"

        header = RecordingHeader(
            sid=str(self.sid),
            started=began,
            user=facts.user.name,
            login=facts.login,
            node_id=str(facts.config.host_id),
            node_name=facts.config.hostname,
            cluster=facts.config.cluster,
            command=command,
            interactive=terminal is not None,
            terminal=terminal.term if terminal else "",
            width=terminal.size.columns if terminal else 0,
            height=terminal.size.rows if terminal else 0,
            client=str(facts.client),
        )
        return await self._tools.recordings.start(header)

    def _request(self, command: str) -> SpawnRequest:
        facts, config = self._connection.facts, self._tools.config
        assert facts.user is not None
        client = facts.client
        server_host, _, server_port = config.address.rpartition(":")
        server = f"{server_host.strip('[]') or 'localhost'} {server_port or 0}"
        session_env = (
            ("SSH_TELEPORT_USER", facts.user.name),
            ("SSH_TELEPORT_CLUSTER_NAME", config.cluster),
            ("SSH_TELEPORT_HOST_UUID", str(config.host_id)),
            ("SSH_SESSION_ID", str(self.sid)),
            ("SSH_SESSION_WEBPROXY_ADDR", config.web_proxy),
            ("SSH_CLIENT", f"{client.host} {client.port} {server_port or 0}"),
            ("SSH_CONNECTION", f"{client.host} {client.port} {server}"),
            *((("SSH_ORIGINAL_COMMAND", self._asked),) if self._forced and self._asked else ()),
        )
        pty = None
        if self._terminal is not None:
            size = self._terminal.size
            pty = Pty(self._terminal.term, size.columns, size.rows, size.width, size.height, self._terminal.modes)
        return SpawnRequest(
            login=facts.login,
            kind=Kind.EXEC if command else Kind.SHELL,
            command=command,
            client_env=tuple(self._environment),
            session_env=session_env,
            pty=pty,
            permit_user_env=config.permit_user_env,
        )

    # bytes

    def _wire(self, process: Process, recording: Recording) -> None:
        if process.pty is not None:
            streams = [(process.pty, False)]
            # The input gets a descriptor of its own, so that each side closes what it owns.
            self._input = Input.duplicate(process.pty, self._channel.pause_reading, self._channel.resume_reading)
        else:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            streams = [(process.stdout, False), (process.stderr, True)]
            self._input = Input(process.stdin, self._channel.pause_reading, self._channel.resume_reading)
        for fd, stderr in streams:
            deliver = self._stderr if stderr else self._stdout
            self._outputs.append(Output(fd, deliver, self._output_moved.set))
        recording.failed.add_done_callback(lambda _: self.end("the recording failed"))
        self._flow()

    def _stdout(self, data: bytes) -> None:
        assert self._recording is not None
        self._recording.record_output(data)
        self._pass_on(data, stderr=False)

    def _stderr(self, data: bytes) -> None:
        assert self._recording is not None
        self._recording.record_stderr(data)
        self._pass_on(data, stderr=True)

    def _pass_on(self, data: bytes, *, stderr: bool) -> None:
        assert self._recording is not None
        self.sent += len(data)
        self._output_moved.set()
        if self._terminal is None:
            self._connection.active()
        if self._recording.failed.done():
            return  # ending: what is not recorded is not sent
        self._channel.write(data, stderr=stderr)
        if self._recording.must_drain and not self._recording_full:
            self._recording_full = True
            self._flow()
            self._tools.in_background(self._drain(self._recording), f"drain session {self.sid}")

    async def _drain(self, recording: Recording) -> None:
        await recording.drain()
        self._recording_full = False
        self._flow()

    def _flow(self) -> None:
        for output in self._outputs:
            if self._client_full or self._recording_full:
                output.pause()
            else:
                output.resume()

    def pause_writing(self) -> None:
        self._client_full = True
        self._flow()

    def resume_writing(self) -> None:
        self._client_full = False
        self._output_moved.set()
        self._flow()

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        self._connection.active()
        if self._input is not None:
            self._input.write(data)

    def eof_received(self) -> None:
        # A terminal has no half-close: its other direction would be lost.
        if self._input is not None and self._terminal is None:
            self._input.end()

    # terminal and signals

    def resized(self, size: TerminalSize) -> None:
        self._connection.active()
        process = self._process
        if self._state is not State.RUNNING or process is None or process.pty is None or self._recording is None:
            return
        if self._outputs and self._outputs[0].open and not self._recording.failed.done():
            resize_terminal(process.pty, size.columns, size.rows, size.width, size.height)
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
                await self.events.emit(Resize, self._tools.clock.now(), size=str(size))
        finally:
            self._size_busy = False

    def signalled(self, name: str) -> bool:
        if self._state is not State.RUNNING or self._process is None or name not in SIGNALS:
            return False
        self._connection.active()
        self._process.signal(name)
        return True

    def broke(self, milliseconds: int) -> bool:
        if self._process is None or self._process.pty is None or not self._outputs or not self._outputs[0].open:
            return False
        termios.tcsendbreak(self._process.pty, 0)
        return True

    # the end

    def end(self, reason: str) -> None:
        """Ends the session's processes, whoever asks: a lock, an expiry, a failing recording, the service's stop."""
        if not self._stop.done():
            self._stop.set_result(reason)

    def closed(self) -> None:
        self.end("the client disconnected")
        if self._state is State.WAITING:
            self._finished()

    async def _run(self, process: Process, command: str, began: datetime, story: dict[str, Any]) -> None:
        ended: Exit | None = None
        reason = ""
        waiting = asyncio.ensure_future(process.wait())
        try:
            either: set[asyncio.Future[Any]] = {waiting, self._stop}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                reason = self._stop.result()
                process.kill()
                await asyncio.wait({waiting}, timeout=_KILL_SECONDS)
            else:
                await self._copy_rest()
                reason = self._stop.result() if self._stop.done() and self._outputs_open() else ""
            if waiting.done():
                ended = waiting.result()
        except SessionLost as error:
            reason = reason or error.message
        except asyncio.CancelledError:
            reason = "the node's service stopped"
            raise
        finally:
            waiting.cancel()
            for output in self._outputs:
                output.close()
            if self._input is not None:
                self._input.close()
            process.close()
            await self._conclude(command, began, story, ended, reason)

    async def _conclude(
        self, command: str, began: datetime, story: dict[str, Any], ended: Exit | None, reason: str
    ) -> None:
        """Closes the recording, puts the end on record, tells the client.

        A long recording takes seconds for each GiB to close: there the client waits for the bytes to be on disk only.
        """
        if self._recording is None or not self._recording.slow_to_close:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._end(command, began, story, ended, reason)
            self._answer(ended, reason)
            return
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._recording.sync()
        except (TeleportError, TimeoutError) as error:
            log.error("recording not on disk sid=%s error=%r", self.sid, error)
            reason = reason or "the recording failed"
        self._answer(ended, reason)
        async with asyncio.timeout(_SEAL_SECONDS):
            await self._end(command, began, story, ended, reason)

    def _outputs_open(self) -> bool:
        return any(output.open for output in self._outputs)

    async def _copy_rest(self) -> None:
        """Output that was written before the end still goes to the client; so does, for a while, what comes after."""
        while self._outputs_open() and not self._stop.done():
            self._output_moved.clear()
            moved = asyncio.ensure_future(self._output_moved.wait())
            either: set[asyncio.Future[Any]] = {moved, self._stop}
            try:
                limit = None if self._client_full or self._recording_full else _COPY_SECONDS
                done, _ = await asyncio.wait(either, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            finally:
                moved.cancel()
            if not done:
                return

    async def _end(self, command: str, began: datetime, story: dict[str, Any], ended: Exit | None, reason: str) -> None:
        """Closes the recording and puts the end on record."""
        try:
            digest = await self._close_recording(reason)
            now, facts = self._tools.clock.now(), self._connection.facts
            assert facts.user is not None
            if command:
                await self.events.emit(
                    ExecEvent,
                    now,
                    command=command,
                    exit_code=str(ended.status) if ended and ended.status is not None else "",
                    exit_error=(f"signal {ended.signal}" if ended and ended.signal else "") or reason,
                )
            await self.events.emit(SessionData, now, numbered=False, tx=self.sent, rx=self.received)
            await self.events.emit(
                SessionEnd,
                now,
                participants=[facts.user.name],
                session_start=began,
                session_stop=now,
                reason=reason,
                recording_hash=digest,
                **story,
            )
            # Not before: a recording that has left tells the next process nothing of an end that is still to be told.
            if digest:
                self._tools.recordings.on_record(str(self.sid))
        except Exception:
            log.exception("session end cannot be put on record sid=%s", self.sid)
        finally:
            self._finished()

    async def _close_recording(self, reason: str) -> str:
        if self._recording is None:
            return ""
        try:
            return (await self._recording.close(reason or "ended")).sha256
        except TeleportError as error:
            log.error("recording not closed sid=%s error=%s", self.sid, error)
            return ""

    def _answer(self, ended: Exit | None, reason: str) -> None:
        if reason:
            told = reason.rstrip(".\n").replace("\n", "\r\n")
            self._channel.write(f"\r\nThis session was ended: {told}.\r\n".encode(), stderr=True)
        if ended is not None and ended.signal is not None:
            self._channel.exit_with_signal(ended.signal, core_dumped=ended.core_dumped)
        elif ended is not None and ended.status is not None:
            self._channel.exit(ended.status)
        else:
            self._channel.exit_with_signal("KILL", message=reason)

    def _finished(self) -> None:
        if self._state is not State.ENDED:
            if self._state is not State.WAITING:
                self._tools.registry.release(self.sid)
            self._state = State.ENDED
            self._connection.left(self)
