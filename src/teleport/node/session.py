"""One session: a program started by the launcher, recorded and audited, with the parties that see it and type.

Order of a session's life (threat T40): the recording exists on disk, then its start is on record, then those who have
to be there are (`company`), then the process starts; every byte is noted in the recording before it is sent; the
recording is closed (a long one: on disk) and the end is on record before the client learns the exit status. What cannot
be recorded or put on record does not start, and ends when it fails.

A session is its first party's: it runs under that permit, also once that party has left, and ends with it. It ends
when nobody who may type is left, unless the client asked for it to live on for a while (`linger`).
"""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime
from typing import Any

from teleport.authz.joining import RunningSession
from teleport.errors import LimitExceeded, TeleportError
from teleport.launcher.values import SIGNALS, Exit, LauncherRefused, SessionLost
from teleport.node.environment import spawn_request
from teleport.node.needs import Process, Recording, Unrecorded
from teleport.node.party import NodeParty
from teleport.node.programs import Asked, Program
from teleport.node.story import Story
from teleport.node.streams import Streams
from teleport.node.tools import Tools
from teleport.node.transfers import Transfers
from teleport.sharing.company import Company, State
from teleport.ssh.surface import Refusal

log = logging.getLogger(__name__)

_SPAWN_SECONDS = 20.0
_KILL_SECONDS = 15.0
_CLOSE_SECONDS = 20.0
_SEAL_SECONDS = 900.0
_UNRECORDED = "the recording failed"


class Session:
    """Owns the id, the recording, the events, the process and its bytes, the size, the state and the end."""

    def __init__(
        self,
        tools: Tools,
        first: NodeParty,
        program: Program,
        asked: Asked,
        *,
        record: bool,
        mfa: tuple[str, str] = ("", ""),
    ) -> None:
        """`first` is who starts it, under whose name it runs."""
        self._tools = tools
        self._record = record
        self.first = first
        self._program = program
        self._asked = asked
        self._facts = first.connection.facts
        assert self._facts.user is not None, "a session belongs to a user"
        self.state = State.STARTING
        self._process: Process | None = None
        self._streams: Streams | None = None
        self._transfers: Transfers | None = None
        self._recording: Recording = Unrecorded()
        self._stop: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.sid = tools.registry.claim(self, asked.recorded_as)
        recorded = record or asked.recorded_as is not None
        self._story = Story(tools, self._facts, self.sid, program, asked.terminal, record=recorded, mfa=mfa)
        self._enhanced = tools.enhanced.session(
            first.connection.permit.enhanced_recording, self._story.events, self.end
        )
        self.about = RunningSession(
            sid=str(self.sid),
            cluster=tools.config.cluster,
            user=first.user,
            user_cluster=self._facts.user.cluster,
            login=self._facts.login,
            roles=self._facts.user.roles,
            # One that a proxy records ends with its connection there: nobody could be in it unrecorded.
            interactive=asked.terminal is not None and asked.recorded_as is None,
        )
        self.company = Company(
            self,
            first,
            self.about,
            self._story,
            linger=asked.linger,
            probe=tools.config.probe,
            in_background=tools.in_background,
            changed=tools.registry.changed,
        )

    @property
    def lives_on(self) -> bool:
        """Whether nothing has ended it so far."""
        return self.state is not State.ENDED and not self._stop.done()

    @property
    def began(self) -> datetime:
        """When it was begun."""
        return self._story.began

    @property
    def command(self) -> str:
        """What it runs, for people to read; empty for a shell."""
        return self._program.shown

    # the start

    async def start(self) -> Refusal | None:
        """Begins the recording, puts the start on record and starts the program, or says why not. Called once.

        Where others have to be there it returns before the program is started, and the first party is told to wait.
        """
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
            else:
                await tools.recordings.unrecorded(self._story.header())
        except TeleportError as error:
            what = "exec" if program.command else "shell"
            self.first.connection.denied(what, f"cannot be recorded: {error.message}")
            self._finished()
            why = f": {error.message}" if isinstance(error, LimitExceeded) else ""
            return Refusal(f"This node cannot record sessions now, so none is started{why}. Tell its administrator.")
        self._recording.failed.add_done_callback(lambda _: self.end("the recording failed"))
        if self.about.interactive:
            self.company.recorded(self._recording)
        try:
            await self._story.started()
        except Exception:
            log.exception("session start cannot be put on record sid=%s", self.sid)
            if await self._close_recording("not put on record") or not self._record:
                tools.recordings.on_record(str(self.sid))
            self._finished()
            return Refusal("This node cannot write its audit log now, so no session is started.")
        if not self.company.moderate():
            self.state = State.WAITING
            tools.in_background(self._begin_later(), f"wait to start session {self.sid}")
            tools.registry.changed()
            return None
        return await self._begin()

    async def _begin_later(self) -> None:
        """Starts the program once those are there who have to be."""
        met = asyncio.ensure_future(self.company.complete.wait())
        try:
            either: set[asyncio.Future[Any]] = {met, self._stop}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self._end(None, "the node's service stopped")
            raise
        finally:
            met.cancel()
        if self._stop.done():
            reason = self._stop.result()
            await self._end(None, f"not started: {reason}")
            self._answer(None, reason)
            return
        refusal = await self._begin()
        if refusal is not None:
            for party in list(self.company.parties):
                party.dismiss(refusal.message, status=255)

    async def _begin(self) -> Refusal | None:
        tools, program = self._tools, self._program
        try:
            async with asyncio.timeout(_SPAWN_SECONDS):
                request = spawn_request(
                    self._facts,
                    tools.config,
                    program,
                    self._asked,
                    self.sid,
                    self.first.connection.permit.host_groups,
                )
                held = self._enhanced.begin if self._enhanced is not None else None
                process = await tools.launcher.spawn(request, held=held)
        except (LauncherRefused, TimeoutError) as error:
            message = error.message if isinstance(error, LauncherRefused) else "The session took too long to start."
            hint = f" Next: {error.hint}" if isinstance(error, LauncherRefused) and error.hint else ""
            await self._end(None, f"not started: {message}")
            return Refusal(message + hint)
        except BaseException:
            tools.in_background(self._end_unstarted(), f"end session {self.sid}")
            raise
        self._process = process
        self.state = State.RUNNING
        self._streams = Streams(
            process,
            self._recording,
            self.first,
            self.company.parties,
            lambda work: tools.in_background(work, f"drain session {self.sid}"),
            files=program.transfer is not None,
            sync=self._record and tools.config.recording_mode().endswith("-sync"),
        )
        self.company.begun(self._streams)
        if program.transfer is not None:
            assert process.control is not None
            self._transfers = Transfers(
                process.control,
                program,
                lambda: self.first.connection.permit.channels,
                self._story.events,
                self._recording,
                tools.clock,
                in_background=tools.in_background,
                denied=self.first.connection.denied,
                fail=self.end,
            )
        tools.in_background(self._run(process, self._streams), f"session {self.sid}")
        tools.registry.changed()
        return None

    def signalled(self, party: NodeParty, name: str) -> bool:
        """A party sends a signal; True when it was delivered."""
        if not self.company.may_act(party) or self._process is None or name not in SIGNALS:
            return False
        party.connection.active()
        self._process.signal(name)
        return True

    # the end

    def end(self, reason: str) -> None:
        """Ends the session's processes, whoever asks: a lock, an expiry, a failing recording, the service's stop."""
        if not self._stop.done():
            self._stop.set_result(reason)

    def reconsider(self, party: NodeParty) -> None:
        """Rules changed, and the connection of a party goes on."""
        if self._transfers is not None:
            self._transfers.reconsider()
        self.company.reconsider(party)

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
        """Closes the recording, puts the end on record, tells the parties: of a good end only with a whole recording.

        A long recording takes seconds for each GiB to close: there they wait for the bytes to be on disk only.
        """
        if not self._recording.slow_to_close:
            async with asyncio.timeout(_CLOSE_SECONDS):
                unkept = await self._end(ended, reason)
            self._answer(*((None, reason or unkept) if unkept else (ended, reason)))
            return
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                if self._streams is not None:
                    await self._streams.release()
                await self._recording.sync()
        except (TeleportError, TimeoutError) as error:
            log.error("recording not on disk sid=%s error=%r", self.sid, error)
            ended, reason = None, reason or _UNRECORDED
        self._answer(ended, reason)
        async with asyncio.timeout(_SEAL_SECONDS):
            await self._end(ended, reason)

    def _answer(self, ended: Exit | None, reason: str) -> None:
        for party in list(self.company.parties):
            party.answer(ended, reason)

    async def _end(self, ended: Exit | None, reason: str) -> str:
        """Closes the recording and puts the end on record; why the recording is not whole, or nothing. An end that
        cannot be put on record now is made up for."""
        recordings, sid = self._tools.recordings, str(self.sid)
        digest, kept, unrecorded = "", False, False
        try:
            if self._transfers is not None:
                await self._transfers.settle()
            if self._streams is not None:
                await self._streams.release()
            digest = await self._close_recording(reason)
            unrecorded = self._record and (not digest or self._recording.failed.done())
            sent, received = (self._streams.sent, self._streams.received) if self._streams is not None else (0, 0)
            watched = await self._enhanced.settle() if self._enhanced is not None else False
            await self._story.ended(
                ended,
                reason or (_UNRECORDED if unrecorded else ""),
                sent=sent,
                received=received,
                recording_hash=digest,
                participants=self.company.people,
                enhanced=watched,
            )
            kept = bool(digest) or not self._record
        except TeleportError as error:
            log.error("session end cannot be put on record sid=%s error=%s", self.sid, error)
        except Exception:
            log.exception("session end cannot be put on record sid=%s", self.sid)
        finally:
            # Not before: a recording that has left tells the next process nothing of an end that is still to be told.
            if kept:
                recordings.on_record(sid)
            else:
                recordings.unended(sid)
            if self._enhanced is not None:
                self._enhanced.over()
            self._finished()
        return _UNRECORDED if unrecorded else ""

    async def _end_unstarted(self) -> None:
        await self._end(None, "not started")

    async def _close_recording(self, reason: str) -> str:
        self.company.note_rest()
        try:
            return (await self._recording.close(reason or "ended")).sha256
        except TeleportError as error:
            log.error("recording not closed sid=%s error=%s", self.sid, error)
            return ""

    def _finished(self) -> None:
        if self.state is not State.ENDED:
            self.state = State.ENDED
            self._tools.registry.release(self.sid)
            self.company.over()
