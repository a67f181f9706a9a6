"""The company of one session: who comes and goes, who types, and whether it may go on with those who are there.

That somebody joins is on record before they see anything. Who has no business there any more leaves at once, when rules
change as well. While people are missing who have to be there (`moderation`) nothing passes in either direction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from enum import StrEnum
from typing import Any, Final, Protocol

from teleport.authz.decision import AccessDenial
from teleport.authz.joining import JoinPermit, Participant, RunningSession, is_own
from teleport.resources.joining import JoinMode
from teleport.sharing.moderation import Action, Moderation
from teleport.sharing.parties import Party
from teleport.sharing.scrollback import Replay
from teleport.sharing.who_typed import Notes, WhoTyped
from teleport.ssh.surface import KeepAlive, TerminalSize

MOST_PARTIES: Final = 32
MOST_OF_ONE: Final = 8  # parties of one user: nobody takes every place
_INTERRUPT: Final = b"\x03"  # what Ctrl-C sends
_TERMINATE: Final = b"t"  # of a moderator


class State(StrEnum):
    """A session's life. It only moves down this list."""

    STARTING = "starting"
    WAITING = "waiting"  # for those who have to be in it
    RUNNING = "running"
    ENDED = "ended"


class Life(Protocol):
    """What the company needs of its session."""

    state: State

    @property
    def lives_on(self) -> bool:
        """Whether nothing has ended it so far."""
        ...

    def end(self, reason: str) -> None:
        """Ends it."""
        ...


class Streams(Protocol):
    """The bytes of a session, on their way between its program and the parties."""

    def replay(self) -> Replay:
        """The last output."""
        ...

    def wait_for(self, parties: Sequence[Party]) -> None:
        """These hold the session up while they do not keep up."""
        ...

    def hold(self, held: bool) -> None:
        """Lets nothing through, either way, or does again."""
        ...

    def flow(self) -> None:
        """A party does not take what is written."""
        ...

    def drained(self) -> None:
        """A party takes what is written again."""
        ...

    def typed(self, data: bytes) -> None:
        """Input of a party."""
        ...

    def end_input(self) -> None:
        """No more input comes."""
        ...

    def resize(self, size: TerminalSize) -> bool:
        """Gives the terminal another size; True when it was done, and is in the recording."""
        ...

    def send_break(self) -> bool:
        """Sends a break to the terminal, if there is one."""
        ...


class Story(Protocol):
    """What goes on record. Every call returns once it is durable."""

    async def joined(self, party: Party, granted_by: str) -> None:
        """Somebody else, in the party's mode, is about to take part."""
        ...

    async def left(self, party: Party) -> None:
        """Somebody takes part no more, and the session goes on."""
        ...

    async def resized(self, size: TerminalSize) -> None: ...

    async def held(self, missing: Sequence[str], *, started: bool) -> None:
        """The session stands still because of what is missing, or with nothing missing goes on."""
        ...


class Company:
    """Everybody in one session. `first` began it: it is theirs, and stays so when they have left."""

    def __init__(
        self,
        life: Life,
        first: Party,
        about: RunningSession,
        story: Story,
        *,
        linger: float,
        probe: KeepAlive,
        in_background: Callable[[Coroutine[Any, Any, None], str], None],
        changed: Callable[[], None],
    ) -> None:
        """`linger`: seconds for which the session lives on without anybody who may type. `probe`: how often those are
        asked whether they are there who have to be. `changed` is called when what
        is told of the session is not true any more."""
        self._life = life
        self.first = first
        self._about = about
        self._story = story
        self._linger = linger
        self._probe = probe
        self._in_background = in_background
        self._changed = changed
        self.parties: list[Party] = [first]
        self._came = 1  # parties so far
        self._people = {first.user: None}  # who took part, in order
        self._joining: set[Party] = set()
        self._moderation = Moderation()
        self.complete = asyncio.Event()  # set once those are there without whom nothing begins
        self._lingering: asyncio.TimerHandle | None = None
        self._streams: Streams | None = None
        self._typed: WhoTyped | None = None
        self._replaying = asyncio.Semaphore(1)
        self._size_waiting: TerminalSize | None = None
        self._size_busy = False

    @property
    def people(self) -> list[str]:
        """The names of all who took part."""
        return list(self._people)

    @property
    def held(self) -> bool:
        """Whether the session stands still, for want of people who have to be in it."""
        return self._moderation.held

    @property
    def missing(self) -> str:
        """Who has to be in it and is not, for people to read."""
        return self._moderation.told

    def waits_for(self, party: Party) -> float:
        """Seconds for which the session lives on without the party: those it was begun with, for whose it is."""
        return self._linger if is_own(party.connection.identity, self._about) else 0.0

    def recorded(self, recording: Notes) -> None:
        """Who types is noted in this recording from now on."""
        self._typed = WhoTyped(recording)

    def note_rest(self) -> None:
        """The recording is about to end."""
        if self._typed is not None:
            self._typed.flush()

    def begun(self, streams: Streams) -> None:
        """The program runs; its bytes are for these parties."""
        self._streams = streams
        for party in self.parties:
            if party is not self.first:
                self._replay_to(party, anew=False)
        self._set_waited()
        streams.hold(self._moderation.held)
        if self._linger and self.first.window is None:
            self.first.tell(
                f"This session lives on for {self._linger:.0f} s without you. To come back: tsh join {self._about.sid}"
            )

    def over(self) -> None:
        """The session is over."""
        if self._lingering is not None:
            self._lingering.cancel()
        for party in {*self.parties, self.first}:
            party.over()

    # coming and going

    async def join(self, party: Party, permit: JoinPermit) -> bool:
        """Lets somebody take part, with the permit for that; False when the session is over, or full, instead."""
        there = [one.user for one in (*self.parties, *self._joining) if not party.succeeds(one)]
        if not self._life.lives_on or len(there) >= MOST_PARTIES or there.count(party.user) >= MOST_OF_ONE:
            return False
        self._joining.add(party)
        try:
            party.mode = permit.mode
            await self._story.joined(party, permit.granted_by)
        finally:
            self._joining.discard(party)
        if not self._life.lives_on:
            await self._story.left(party)
            return False
        self._came += 1
        party.number = self._came
        self._people[party.user] = None
        if self._typed is not None:
            self._typed.joined(party, list(self.parties))
        if self._lingering is not None and party.types:
            self._lingering.cancel()
            self._lingering = None
        former = next((one for one in self.parties if party.succeeds(one)), None)
        if former is None:
            self._tell(f"{party.shown} has joined this session as {party.mode}.")
        self.parties.append(party)
        if former is not None:
            self.leave(former)
        self._replay_to(party, anew=False)
        self._set_waited()
        if party.types and party.size is not None:
            self.resized(party, party.size)
        self.moderate()
        self._changed()
        self.reconsider(party)  # rules may have changed while the event was written
        return True

    def leave(self, party: Party, told: str = "", *, status: int = 0) -> None:
        """A party is gone, or has to go: then it is `told` why."""
        life = self._life
        if party not in self.parties or life.state is State.ENDED:
            return
        others = [one for one in self.parties if one is not party]
        in_use = any(one.types for one in others) and not (life.state is State.WAITING and party is self.first)
        goes_on = in_use or (self._linger > 0 and not party.done and life.state is State.RUNNING)
        if not goes_on:
            life.end(told or "the client disconnected")
            if not others:
                return
        self.parties.remove(party)
        if self._typed is not None:
            self._typed.left(party)
        self._in_background(self._story.left(party), f"leave session {self._about.sid}")
        if replaced := any(one.succeeds(party) for one in others):
            party.replaced()
        else:
            self._tell(f"{party.shown} has left this session.")
        if told and not replaced:
            party.dismiss(told, status=status)
        if party is not self.first:
            party.over()
        self._set_waited()
        if goes_on and not in_use and self._lingering is None:
            loop = asyncio.get_running_loop()
            self._lingering = loop.call_later(self._linger, life.end, "nobody came back")
        self.moderate()
        self._changed()

    def reconsider(self, party: Party) -> None:
        """Rules changed, and the party's connection goes on: may it still be in here, and may this go on?"""
        if party is not self.first:
            decision = party.connection.may_join(self._about, party.mode)
            if isinstance(decision, AccessDenial):
                party.connection.denied("join", f"no longer allowed: {'; '.join(decision.reasons)}")
                self.leave(party, "You may not be in this session any more.", status=255)
                return
        if self._life.state in (State.WAITING, State.RUNNING):
            self._set_waited()
            self.moderate()

    def _replay_to(self, party: Party, *, anew: bool) -> None:
        if self._streams is None:
            if self._moderation.missing:
                party.tell(f"This session begins once {self._moderation.told} is there.")
            return
        own = is_own(party.connection.identity, self._about)
        party.await_replay()
        showing = self._show_last(party, self._streams.replay(), own=own, anew=anew)
        self._in_background(showing, f"last output of session {self._about.sid}")

    async def _show_last(self, party: Party, what: Replay, *, own: bool, anew: bool) -> None:
        async with self._replaying:  # it takes the processor for a while: of one session, one after the other
            await party.catch_up(what, own=own, anew=anew)
        if self._streams is not None:
            self._streams.drained()
            if party.wants_replay:
                self._replay_to(party, anew=True)

    def _set_waited(self) -> None:
        """One who types is waited for, and those who have to be there: nothing passes them unseen."""
        if self._streams is None:
            return
        lead = next((party for party in self.parties if party.types), None)
        for party in self.parties:
            counts = self._counts(party)
            if counts and not party.probed:
                party.probed = True
                party.channel.keep_alive(self._probe)  # that they are gone has to be noticed
            party.waited_for = party is lead or counts
            if party.waited_for and party.wants_replay:
                self._replay_to(party, anew=True)
        self._streams.wait_for([party for party in self.parties if party.waited_for])

    def _counts(self, party: Party) -> bool:
        """Whether the party is one of those whom the session needs."""
        required = self.first.connection.permit.required_joins
        modes = {mode for one in required for entry in one.entries for mode in entry.modes}
        return party.mode in modes and not is_own(party.connection.identity, self._about)

    def _tell(self, text: str) -> None:
        for party in self.parties:
            party.tell(text)

    # who has to be there

    def moderate(self) -> bool:
        """Asks whether this may go on with who is there, and carries that out; whether it may."""
        required = self.first.connection.permit.required_joins
        if not required and self._moderation.begun and not self._moderation.held:
            return True
        if required and not self._about.interactive:
            self._life.end("others have to be in sessions of its user, and in this nobody can be")
            return False
        present = [Participant(party.connection.identity, party.mode) for party in self.parties]
        started = self._moderation.begun
        match self._moderation.step(required, self._about, present):
            case Action.HOLD:
                self._hold(started=started)
            case Action.BEGIN:
                if self._life.state is State.WAITING:
                    self._tell("This session begins now.")
                    self._report(started=False)
                self.complete.set()
            case Action.GO_ON:
                self._tell("This session goes on.")
                self._report(started=True)
                if self._streams is not None:
                    self._streams.hold(False)
            case Action.END:
                if self._streams is not None:
                    self._streams.hold(True)
                self._life.end(f"{self._moderation.told} had to be there, and left")
        return not self._moderation.held

    def _hold(self, *, started: bool) -> None:
        if self._streams is not None:
            self._streams.hold(True)
        what = "stands still: it goes on" if started else "waits: it begins"
        self._tell(f"This session {what} once {self._moderation.told} is there.")
        self._report(started=started)

    def _report(self, *, started: bool) -> None:
        missing = [str(one) for one in self._moderation.missing]
        self._in_background(self._story.held(missing, started=started), f"moderate session {self._about.sid}")
        self._changed()

    # what parties do

    def typed(self, party: Party, data: bytes) -> None:
        """Input of a party."""
        party.received += len(data)
        party.connection.active()
        if not party.types or self._moderation.held:
            self._not_typed(party, data)
        elif self._streams is not None:
            self.counted(party, len(data))
            self._streams.typed(data)

    def counted(self, party: Party, size: int) -> None:
        """So many bytes of a party's input reach the program."""
        if self._typed is not None:
            self._typed.typed(party, size)
            for other in self.parties:
                if not other.types:
                    other.connection.active()  # who watches is not idle while somebody types ...
            self.first.connection.active()  # ... and nor is whose session it is

    def _not_typed(self, party: Party, data: bytes) -> None:
        """What a party sends that is no input: some keys mean something, the rest is dropped."""
        if not party.types:
            if data == _TERMINATE and party.mode is JoinMode.MODERATOR:
                self._life.end(f"{party.shown} ended it as moderator")
            elif _INTERRUPT in data:
                self.leave(party, "You have left this session.")
            else:
                keys = "t ends it, Ctrl-C leaves" if party.mode is JoinMode.MODERATOR else "Ctrl-C leaves"
                party.tell_once(f"You are here as {party.mode}: what you type is not passed on. {keys}.")
        elif self._life.state is State.WAITING and _INTERRUPT in data:
            if party is self.first:
                self._life.end("its user did not wait")
            else:
                self.leave(party, "You have left this session.")
        else:
            party.tell_once("Nothing passes while this session stands still: what you type is dropped.")

    def end_input(self, party: Party) -> None:
        """A party sends no more: one that might come back does not."""
        party.done = True
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
        if not self.may_act(party) or self._streams is None or not self._streams.resize(size):
            return
        self._size_waiting = size
        if not self._size_busy:
            self._size_busy = True
            self._in_background(self._report_sizes(), f"resize session {self._about.sid}")

    async def _report_sizes(self) -> None:
        """Events of sizes, one at a time: of many sizes in a row the last one counts."""
        try:
            while self._size_waiting is not None:
                size, self._size_waiting = self._size_waiting, None
                await self._story.resized(size)
        finally:
            self._size_busy = False

    def may_act(self, party: Party) -> bool:
        """Whether what the party does reaches the program now."""
        return self._life.state is State.RUNNING and party.types and not self._moderation.held

    def broke(self, party: Party) -> bool:
        """A party sends a break; True when it was delivered."""
        return self.may_act(party) and self._streams is not None and self._streams.send_break()
