"""One session: a program started by the launcher, recorded and audited, with the parties that see it and type.

Order of a session's life (threat T40): the recording exists on disk, then its start is on record, then the process
starts; every byte is noted in the recording before it is sent; the recording is closed (a long one: on disk) and the
end is on record before the client learns the exit status. What cannot be recorded or put on record does not start, and
ends when it fails.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from enum import StrEnum
from typing import Any

from teleport.errors import LimitExceeded, TeleportError
from teleport.launcher.values import SIGNALS, Exit, LauncherRefused, SessionLost, SpawnRequest
from teleport.node.needs import Process, Recording, Unrecorded
from teleport.node.parties import Party
from teleport.node.programs import Asked, Program
from teleport.node.story import Story
from teleport.node.streams import Streams
from teleport.node.tools import Tools
from teleport.ssh.surface import Refusal, TerminalSize

log = logging.getLogger(__name__)

_SPAWN_SECONDS = 20.0
_KILL_SECONDS = 15.0
_CLOSE_SECONDS = 20.0
_SEAL_SECONDS = 900.0


class State(StrEnum):
    """A session's life. It only moves down this list."""

    STARTING = "starting"
    RUNNING = "running"
    ENDED = "ended"


class Session:
    """Owns the id, the recording, the events, the process and its bytes, the size, the state and the end."""

    def __init__(
        self,
        tools: Tools,
        first: Party,
        program: Program,
        asked: Asked,
        *,
        record: bool,
        mfa: tuple[str, str] = ("", ""),
        over: Callable[[], None],
    ) -> None:
        """`first` is who starts it, under whose name it runs; `over` is called once, when nothing of it is left."""
        self._tools = tools
        self._record = record
        self._first = first
        self._program = program
        self._asked = asked
        self._over = over
        self._facts = first.connection.facts
        self.parties: list[Party] = [first]
        self.state = State.STARTING
        self._process: Process | None = None
        self._streams: Streams | None = None
        self._recording: Recording = Unrecorded()
        self._stop: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._size_waiting: TerminalSize | None = None
        self._size_busy = False
        self.sid = tools.registry.claim()
        self._story = Story(tools, self._facts, self.sid, program, asked.terminal, record=record, mfa=mfa)

    # the start

    async def start(self) -> Refusal | None:
        """Begins the recording, puts the start on record and starts the program, or says why not. Called once."""
        try:
            return await self._start()
        except BaseException:
            self._finished()
            raise

    async def _start(self) -> Refusal | None:
        tools, program = self._tools, self._program
        try:
            if self._record:
                self._recording = await tools.recordings.start(self._story.header())
        except TeleportError as error:
            what = "exec" if program.command else "shell"
            self._first.connection.denied(what, f"cannot be recorded: {error.message}")
            self._finished()
            why = f": {error.message}" if isinstance(error, LimitExceeded) else ""
            return Refusal(f"This node cannot record sessions now, so none is started{why}. Tell its administrator.")
        try:
            await self._story.started()
        except Exception:
            log.exception("session start cannot be put on record sid=%s", self.sid)
            if await self._close_recording("not put on record"):
                tools.recordings.on_record(str(self.sid))
            self._finished()
            return Refusal("This node cannot write its audit log now, so no session is started.")
        try:
            async with asyncio.timeout(_SPAWN_SECONDS):
                process = await tools.launcher.spawn(self._request())
        except (LauncherRefused, TimeoutError) as error:
            message = error.message if isinstance(error, LauncherRefused) else "The session took too long to start."
            hint = f" Next: {error.hint}" if isinstance(error, LauncherRefused) and error.hint else ""
            await self._end(None, f"not started: {message}")
            return Refusal(message + hint)
        except BaseException:
            tools.in_background(self._end(None, "not started"), f"end session {self.sid}")
            raise
        self._process = process
        self.state = State.RUNNING
        self._streams = Streams(
            process,
            self._recording,
            self.parties,
            lambda work: tools.in_background(work, f"drain session {self.sid}"),
        )
        self._recording.failed.add_done_callback(lambda _: self.end("the recording failed"))
        tools.in_background(self._run(process, self._streams), f"session {self.sid}")
        return None

    def _request(self) -> SpawnRequest:
        facts, config, program = self._facts, self._tools.config, self._program
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
            *((("SSH_ORIGINAL_COMMAND", program.original),) if program.original else ()),
        )
        return SpawnRequest(
            login=facts.login,
            kind=program.kind,
            command=program.command,
            client_env=tuple(self._asked.environment),
            session_env=session_env,
            pty=self._asked.pty,
            permit_user_env=config.permit_user_env,
        )

    # what parties do

    def typed(self, party: Party, data: bytes) -> None:
        """Input of a party."""
        party.received += len(data)
        party.connection.active()
        if self._streams is not None:
            self._streams.typed(data)

    def end_input(self, party: Party) -> None:
        """A party sends no more."""
        if self._streams is not None:
            self._streams.end_input()

    def full(self, party: Party, full: bool) -> None:
        """A party does not take what is written, or does again."""
        party.full = full
        if self._streams is None:
            return
        if full:
            self._streams.flow()
        else:
            self._streams.drained()

    def resized(self, party: Party, size: TerminalSize) -> None:
        """A party's window has another size."""
        party.connection.active()
        if self.state is not State.RUNNING or self._streams is None or not self._streams.resize(size):
            return
        self._size_waiting = size
        if not self._size_busy:
            self._size_busy = True
            self._tools.in_background(self._report_sizes(), f"resize session {self.sid}")

    async def _report_sizes(self) -> None:
        """Events of sizes, one at a time: of many sizes in a row the last one counts."""
        try:
            while self._size_waiting is not None:
                size, self._size_waiting = self._size_waiting, None
                await self._story.resized(size)
        finally:
            self._size_busy = False

    def signalled(self, party: Party, name: str) -> bool:
        """A party sends a signal; True when it was delivered."""
        if self.state is not State.RUNNING or self._process is None or name not in SIGNALS:
            return False
        party.connection.active()
        self._process.signal(name)
        return True

    def broke(self, party: Party) -> bool:
        """A party sends a break; True when it was delivered."""
        return self._streams is not None and self._streams.send_break()

    def leave(self, party: Party) -> None:
        """A party is gone; the last one takes the session with it."""
        self.end("the client disconnected")

    # the end

    def end(self, reason: str) -> None:
        """Ends the session's processes, whoever asks: a lock, an expiry, a failing recording, the service's stop."""
        if not self._stop.done():
            self._stop.set_result(reason)

    async def _run(self, process: Process, streams: Streams) -> None:
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
                await streams.copy_rest(self._stop)
                reason = self._stop.result() if self._stop.done() and streams.open else ""
            if waiting.done():
                ended = waiting.result()
        except SessionLost as error:
            reason = reason or error.message
        except asyncio.CancelledError:
            reason = "the node's service stopped"
            raise
        finally:
            waiting.cancel()
            streams.close()
            process.close()
            await self._conclude(ended, reason)

    async def _conclude(self, ended: Exit | None, reason: str) -> None:
        """Closes the recording, puts the end on record, tells the parties.

        A long recording takes seconds for each GiB to close: there they wait for the bytes to be on disk only.
        """
        if not self._recording.slow_to_close:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._end(ended, reason)
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
            await self._end(ended, reason)

    def _answer(self, ended: Exit | None, reason: str) -> None:
        for party in list(self.parties):
            party.answer(ended, reason)

    async def _end(self, ended: Exit | None, reason: str) -> None:
        """Closes the recording and puts the end on record."""
        try:
            digest = await self._close_recording(reason)
            sent, received = (self._streams.sent, self._streams.received) if self._streams is not None else (0, 0)
            await self._story.ended(ended, reason, sent=sent, received=received, recording_hash=digest)
            # Not before: a recording that has left tells the next process nothing of an end that is still to be told.
            if digest:
                self._tools.recordings.on_record(str(self.sid))
        except Exception:
            log.exception("session end cannot be put on record sid=%s", self.sid)
        finally:
            self._finished()

    async def _close_recording(self, reason: str) -> str:
        try:
            return (await self._recording.close(reason or "ended")).sha256
        except TeleportError as error:
            log.error("recording not closed sid=%s error=%s", self.sid, error)
            return ""

    def _finished(self) -> None:
        if self.state is not State.ENDED:
            self.state = State.ENDED
            self._tools.registry.release(self.sid)
            self._over()
