"""One session: a program started by the launcher, recorded and audited, with the parties that see it and type.

Order of a session's life (threat T40): the recording exists on disk, then its start is on record, then those who have
to be there are (`moderation`), then the process starts; every byte is noted in the recording before it is sent; the
recording is closed (a long one: on disk) and the end is on record before the client learns the exit status. What cannot
be recorded or put on record does not start, and ends when it fails. That somebody joins is on record before they see
anything.

A session is its first party's: it runs under that permit, also once that party has left, and ends with it. It ends
when nobody who may type is left, unless the client asked for it to live on for a while (`linger`).
"""

from __future__ import annotations

import asyncio
import logging
from enum import StrEnum
from typing import Any

from teleport.authz.decision import AccessDenial
from teleport.authz.joining import JoinPermit, Participant, RunningSession, is_own
from teleport.errors import LimitExceeded, TeleportError
from teleport.launcher.values import SIGNALS, Exit, LauncherRefused, SessionLost
from teleport.node.environment import spawn_request
from teleport.node.moderation import Action, Moderation
from teleport.node.needs import Process, Recording, Unrecorded
from teleport.node.parties import Party
from teleport.node.programs import Asked, Program
from teleport.node.story import Story
from teleport.node.streams import Streams
from teleport.node.tools import Tools
from teleport.node.who_typed import WhoTyped
from teleport.resources.joining import JoinMode
from teleport.ssh.surface import Refusal, TerminalSize

log = logging.getLogger(__name__)

_SPAWN_SECONDS = 20.0
_KILL_SECONDS = 15.0
_CLOSE_SECONDS = 20.0
_SEAL_SECONDS = 900.0
MOST_PARTIES = 32
_INTERRUPT = b"\x03"  # what Ctrl-C sends
_TERMINATE = b"t"  # of a moderator


class State(StrEnum):
    """A session's life. It only moves down this list."""

    STARTING = "starting"
    WAITING = "waiting"  # for those who have to be in it
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
    ) -> None:
        """`first` is who starts it, under whose name it runs."""
        self._tools = tools
        self._record = record
        self.first = first
        self._program = program
        self._asked = asked
        self._facts = first.connection.facts
        assert self._facts.user is not None, "a session belongs to a user"
        self.parties: list[Party] = [first]
        self._came = 1  # parties so far
        self._people = {first.user: None}  # who took part, in order
        self._joining: set[Party] = set()
        self.state = State.STARTING
        self._moderation = Moderation()
        self._process: Process | None = None
        self._streams: Streams | None = None
        self._recording: Recording = Unrecorded()
        self._loop = asyncio.get_running_loop()
        self._stop: asyncio.Future[str] = self._loop.create_future()
        self._met = asyncio.Event()
        self._lingering: asyncio.TimerHandle | None = None
        self._size_waiting: TerminalSize | None = None
        self._size_busy = False
        self.sid = tools.registry.claim(self)
        self._story = Story(tools, self._facts, self.sid, program, asked.terminal, record=record, mfa=mfa)
        self._enhanced = tools.enhanced.session(
            first.connection.permit.enhanced_recording, self._story.events, self.end
        )
        self._typed: WhoTyped | None = None
        self.about = RunningSession(
            sid=str(self.sid),
            cluster=tools.config.cluster,
            user=first.user,
            user_cluster=self._facts.user.cluster,
            login=self._facts.login,
            roles=self._facts.user.roles,
            interactive=asked.terminal is not None,
        )

    @property
    def began(self) -> Any:
        """When it was begun."""
        return self._story.began

    @property
    def command(self) -> str:
        """What it runs, for people to read; empty for a shell."""
        return self._program.shown

    @property
    def missing(self) -> str:
        """Who has to be in it and is not, for people to read."""
        return self._moderation.told

    @property
    def held(self) -> bool:
        """Whether it stands still, for want of people who have to be in it."""
        return self._moderation.held

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
        except TeleportError as error:
            what = "exec" if program.command else "shell"
            self.first.connection.denied(what, f"cannot be recorded: {error.message}")
            self._finished()
            why = f": {error.message}" if isinstance(error, LimitExceeded) else ""
            return Refusal(f"This node cannot record sessions now, so none is started{why}. Tell its administrator.")
        if self.about.interactive:
            self._typed = WhoTyped(self._recording)
        try:
            await self._story.started()
        except Exception:
            log.exception("session start cannot be put on record sid=%s", self.sid)
            if await self._close_recording("not put on record"):
                tools.recordings.on_record(str(self.sid))
            self._finished()
            return Refusal("This node cannot write its audit log now, so no session is started.")
        if self._moderate() is Action.HOLD:
            self.state = State.WAITING
            tools.in_background(self._begin_later(), f"wait to start session {self.sid}")
            self._changed()
            return None
        return await self._begin()

    async def _begin_later(self) -> None:
        """Starts the program once those are there who have to be."""
        met = asyncio.ensure_future(self._met.wait())
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
            for party in list(self.parties):
                party.answer(None, reason)
            return
        refusal = await self._begin()
        if refusal is not None:
            for party in list(self.parties):
                party.dismiss(refusal.message, status=255)

    async def _begin(self) -> Refusal | None:
        tools = self._tools
        try:
            async with asyncio.timeout(_SPAWN_SECONDS):
                request = spawn_request(self._facts, tools.config, self._program, self._asked, self.sid)
                held = self._enhanced.begin if self._enhanced is not None else None
                process = await tools.launcher.spawn(request, held=held)
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
        self._set_lead()
        for party in self.parties:
            if party is not self.first:
                self._replay_to(party, anew=False)
        self._streams.hold(self._moderation.held)
        self._recording.failed.add_done_callback(lambda _: self.end("the recording failed"))
        tools.in_background(self._run(process, self._streams), f"session {self.sid}")
        self._changed()
        return None

    # who is in it

    async def join(self, party: Party, permit: JoinPermit) -> bool:
        """Lets somebody take part, with the permit for that; False when the session is over, or full, instead.

        It is on record before they see anything.
        """
        if not self.lives_on or len(self.parties) + len(self._joining) >= MOST_PARTIES:
            return False
        self._joining.add(party)
        try:
            party.mode = permit.mode
            await self._story.joined(party.connection.facts, permit.mode, permit.granted_by)
        finally:
            self._joining.discard(party)
        if not self.lives_on:
            await self._story.left(party.connection.facts, party.mode)
            return False
        self._came += 1
        party.number = self._came
        self._people[party.user] = None
        if self._typed is not None:
            self._typed.joined(party, list(self.parties))
        if self._lingering is not None and party.types:
            self._lingering.cancel()
            self._lingering = None
        for other in self.parties:
            other.tell(f"{party.shown} has joined this session as {party.mode}.")
        self.parties.append(party)
        self._set_lead()
        self._replay_to(party, anew=False)
        if party.types and party.size is not None:
            self.resized(party, party.size)
        self._moderate()
        self._changed()
        return True

    @property
    def lives_on(self) -> bool:
        """Whether nothing has ended it so far."""
        return self.state is not State.ENDED and not self._stop.done()

    def _replay_to(self, party: Party, *, anew: bool) -> None:
        if self._streams is None:
            party.tell(f"This session begins once {self._moderation.told} is there.")
            return
        own = is_own(party.connection.identity, self.about)
        catching_up = party.catch_up(self._streams.replay(), own=own, anew=anew)
        self._tools.in_background(catching_up, f"last output of session {self.sid}")

    def leave(self, party: Party, told: str = "", *, status: int = 0) -> None:
        """A party is gone, or has to go: then it is `told` why."""
        if party not in self.parties:
            return
        if self.state is State.ENDED:
            return
        others = [one for one in self.parties if one is not party]
        in_use = any(one.types for one in others) and not (self.state is State.WAITING and party is self.first)
        goes_on = in_use or (self._asked.linger > 0 and self.state is State.RUNNING)
        if not goes_on:
            self.end(told or "the client disconnected")
            if not others:
                return
        self.parties.remove(party)
        if self._typed is not None:
            self._typed.left(party)
        self._tools.in_background(self._story.left(party.connection.facts, party.mode), f"leave session {self.sid}")
        for other in self.parties:
            other.tell(f"{party.shown} has left this session.")
        if told:
            party.dismiss(told, status=status)
        if party is not self.first:
            party.over()
        self._set_lead()
        if goes_on and not in_use and self._lingering is None:
            self._lingering = self._loop.call_later(self._asked.linger, self.end, "nobody came back")
        self._moderate()
        self._changed()

    def _set_lead(self) -> None:
        if self._streams is not None:
            self._streams.lead = next((party for party in self.parties if party.types), None)
            self._streams.drained()

    def reconsider(self, party: Party) -> None:
        """Rules changed, and the party's connection goes on: may it still be in here, and may this go on?"""
        if party is not self.first:
            decision = party.connection.may_join(self.about, party.mode)
            if isinstance(decision, AccessDenial):
                party.connection.denied("join", f"no longer allowed: {'; '.join(decision.reasons)}")
                self.leave(party, "You may not be in this session any more.", status=255)
                return
        if self.state in (State.WAITING, State.RUNNING):
            self._moderate()

    def _moderate(self) -> Action:
        """Asks whether this may go on with who is there, and carries that out."""
        required = self.first.connection.permit.required_joins
        if not required and self._moderation.begun and not self._moderation.held:
            return Action.NOTHING
        present = [Participant(party.connection.identity, party.mode) for party in self.parties]
        started = self._moderation.begun
        action = self._moderation.step(required, self.about, present)
        match action:
            case Action.HOLD:
                self._hold(started=started)
            case Action.BEGIN:
                if self.state is State.WAITING:
                    self._tell("This session begins now.")
                    self._report_held(started=False)
                self._met.set()
            case Action.GO_ON:
                self._tell("This session goes on.")
                self._report_held(started=True)
                if self._streams is not None:
                    self._streams.hold(False)
            case Action.END:
                if self._streams is not None:
                    self._streams.hold(True)
                self.end(f"{self._moderation.told} had to be there, and left")
        return action

    def _hold(self, *, started: bool) -> None:
        if self._streams is not None:
            self._streams.hold(True)
        what = "stands still: it goes on" if started else "waits: it begins"
        self._tell(f"This session {what} once {self._moderation.told} is there.")
        self._report_held(started=started)

    def _report_held(self, *, started: bool) -> None:
        missing = [str(one) for one in self._moderation.missing]
        self._tools.in_background(self._story.held(missing, started=started), f"moderate session {self.sid}")
        self._changed()

    def _tell(self, text: str) -> None:
        for party in self.parties:
            party.tell(text)

    def _changed(self) -> None:
        self._tools.registry.changed()

    # what parties do

    def typed(self, party: Party, data: bytes) -> None:
        """Input of a party."""
        party.received += len(data)
        party.connection.active()
        if not party.types or self._moderation.held:
            self._not_typed(party, data)
        elif self._streams is not None:
            if self._typed is not None:
                self._typed.typed(party, len(data))
                for other in self.parties:
                    if other is self.first or not other.types:
                        other.connection.active()  # who watches, and whose session it is, is not idle while it is used
            self._streams.typed(data)

    def _not_typed(self, party: Party, data: bytes) -> None:
        """What a party sends that is no input: some keys mean something, the rest is dropped."""
        if not party.types:
            if data == _TERMINATE and party.mode is JoinMode.MODERATOR:
                self.end(f"{party.shown} ended it as moderator")
            elif _INTERRUPT in data:
                self.leave(party, "You have left this session.")
            else:
                keys = "t ends it, Ctrl-C leaves" if party.mode is JoinMode.MODERATOR else "Ctrl-C leaves"
                party.tell_once(f"You are here as {party.mode}: what you type is not passed on. {keys}.")
        elif self.state is State.WAITING and _INTERRUPT in data:
            if party is self.first:
                self.end("its user did not wait")
            else:
                self.leave(party, "You have left this session.")
        else:
            party.tell_once("Nothing passes while this session stands still: what you type is dropped.")

    def end_input(self, party: Party) -> None:
        """A party sends no more."""
        if self._streams is not None and party is self.first:
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
            if party.wants_replay:
                self._replay_to(party, anew=True)

    def resized(self, party: Party, size: TerminalSize) -> None:
        """A party's window has another size: the terminal follows the latest of those who may type."""
        party.connection.active()
        party.size = size
        if not party.types or self.state is not State.RUNNING or self._streams is None or self._moderation.held:
            return
        if not self._streams.resize(size):
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

    def _may_act(self, party: Party) -> bool:
        return self.state is State.RUNNING and party.types and not self._moderation.held

    def signalled(self, party: Party, name: str) -> bool:
        """A party sends a signal; True when it was delivered."""
        if not self._may_act(party) or self._process is None or name not in SIGNALS:
            return False
        party.connection.active()
        self._process.signal(name)
        return True

    def broke(self, party: Party) -> bool:
        """A party sends a break; True when it was delivered."""
        return self._may_act(party) and self._streams is not None and self._streams.send_break()

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
            watched = await self._enhanced.settle() if self._enhanced is not None else False
            await self._story.ended(
                ended,
                reason,
                sent=sent,
                received=received,
                recording_hash=digest,
                participants=list(self._people),
                enhanced=watched,
            )
            # Not before: a recording that has left tells the next process nothing of an end that is still to be told.
            if digest:
                self._tools.recordings.on_record(str(self.sid))
        except Exception:
            log.exception("session end cannot be put on record sid=%s", self.sid)
        finally:
            if self._enhanced is not None:
                self._enhanced.over()
            self._finished()

    async def _close_recording(self, reason: str) -> str:
        if self._typed is not None:
            self._typed.flush()
        try:
            return (await self._recording.close(reason or "ended")).sha256
        except TeleportError as error:
            log.error("recording not closed sid=%s error=%s", self.sid, error)
            return ""

    def _finished(self) -> None:
        if self.state is not State.ENDED:
            self.state = State.ENDED
            if self._lingering is not None:
                self._lingering.cancel()
            self._tools.registry.release(self.sid)
            for party in {*self.parties, self.first}:
                party.over()
