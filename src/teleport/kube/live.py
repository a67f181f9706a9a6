"""Sessions in pods that run here and that others may take part in: terminals with company (`sharing.company`).

Who began a session talks to the API server by the stream that is relayed unchanged (`exec_session`). Who joins sees
what it shows, and what a peer types goes in between. A session ends with whoever began it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol
from uuid import UUID

from teleport.authz.decision import AccessDenial
from teleport.authz.joining import JoinPermit, Requirement, RunningSession, unknown_session
from teleport.authz.kube_resources import KubeCall
from teleport.identity import UserIdentity
from teleport.kube.credentials import KubeCluster
from teleport.resources.joining import JoinMode
from teleport.sharing.company import Company, State
from teleport.sharing.parties import Ended, Party
from teleport.sharing.scrollback import Replay, Scrollback
from teleport.sharing.who_typed import Notes
from teleport.ssh.handlers import SessionChannel
from teleport.ssh.surface import KeepAlive, Peer, TerminalSize

_PROBE: Final = KeepAlive(15.0, 3)  # of nobody, while no session in a pod has to wait for people


@dataclass(frozen=True, slots=True)
class Place:
    """Where a session runs, and by which call it was begun."""

    named: str  # the Kubernetes cluster, as it was chosen; empty: it was not
    name: str  # of the cluster
    now: Callable[[], KubeCluster | None]  # the cluster, as it is reached now
    call: KubeCall
    container: str


class Bytes(Protocol):
    """The stream of a session, as others act on it."""

    def type(self, data: bytes) -> bool:
        """Sends input of others; False while it should be no more."""
        ...

    def resize(self, width: int, height: int) -> bool:
        """Gives the terminal another size; False when that cannot be."""
        ...

    def tell(self, data: bytes) -> None:
        """Shows something of ours to whoever began it."""
        ...

    def active(self) -> None:
        """Somebody did something in it."""
        ...

    def stop(self, reason: str) -> None:
        """Ends it."""
        ...

    async def joined(self, party: Party, granted_by: str) -> None: ...
    async def left(self, party: Party) -> None: ...
    async def resized(self, size: TerminalSize) -> None: ...


class LiveSessions:
    """Those of one proxy."""

    def __init__(self, in_background: Callable[[Coroutine[Any, Any, None], str], None]) -> None:
        self.in_background = in_background
        self.changed: Callable[[], None] = lambda: None  # what is told of them is not true any more
        self._sessions: dict[UUID, LiveSession] = {}

    def __iter__(self) -> Iterator[LiveSession]:
        return iter(list(self._sessions.values()))

    def find(self, sid: UUID) -> LiveSession | None:
        return self._sessions.get(sid)

    def add(self, session: LiveSession) -> None:
        self._sessions[session.sid] = session
        self.changed()

    def remove(self, session: LiveSession) -> None:
        if self._sessions.pop(session.sid, None) is not None:
            self.changed()


class LiveSession:
    """One of them (`sharing.company.Life`, `Streams` and `Story`). `begin` it once its bytes go through."""

    def __init__(
        self,
        live: LiveSessions,
        sid: UUID,
        about: RunningSession,
        place: Place,
        began: datetime,
        command: str,
        who: First,
        stream: Bytes,
    ) -> None:
        self.sid = sid
        self.about = about
        self.place = place
        self.began = began
        self.command = command
        self.state = State.STARTING
        self._live = live
        self._stream = stream
        self._scrollback = Scrollback()
        self._first = Party(who, _FirstChannel(stream), lambda: None)
        self.company = Company(
            self,
            self._first,
            about,
            self,
            linger=0.0,
            probe=_PROBE,
            in_background=live.in_background,
            changed=live.changed,
        )

    def begin(self, recording: Notes) -> None:
        """From now on others may come."""
        self.state = State.RUNNING
        self.company.recorded(recording)
        self.company.moderate()
        self.company.begun(self)
        self._live.add(self)

    def shown(self, data: bytes) -> None:
        """The terminal shows this: what is recorded, and on its way to whoever began the session."""
        self._scrollback.feed(data)
        for party in self.company.parties:
            if party is not self._first:
                party.show(data)

    def typed_by_first(self, size: int) -> None:
        """Whoever began it typed so many bytes, which are relayed."""
        self.company.counted(self._first, size)

    def taken(self) -> None:
        """What others typed has gone on."""
        for party in self.company.parties:
            party.channel.resume_reading()

    def over(self, ended: Ended | None, reason: str) -> None:
        """The session is over; everybody else hears how it ended."""
        self._live.remove(self)
        if self.state is State.ENDED:
            return
        self.state = State.ENDED
        self.company.note_rest()
        for party in list(self.company.parties):
            if party is not self._first:
                party.answer(ended, reason)
        self.company.over()

    # sharing.company.Life

    @property
    def lives_on(self) -> bool:
        return self.state is State.RUNNING

    def end(self, reason: str) -> None:
        self._stream.stop(reason)

    # sharing.company.Streams

    def replay(self) -> Replay:
        return self._scrollback.replay()

    def typed(self, data: bytes) -> None:
        if not self._stream.type(data):
            for party in self.company.parties:
                if party.types:
                    party.channel.pause_reading()

    def resize(self, size: TerminalSize) -> bool:
        return self._stream.resize(size.columns, size.rows)

    def send_break(self) -> bool:
        return False  # these protocols have none

    def end_input(self) -> None:
        """Only whoever began the session ends its input, within what is relayed."""

    def wait_for(self, parties: Sequence[Party]) -> None:
        """Whoever began it is waited for by the relay; output goes past the others."""

    def hold(self, held: bool) -> None:
        """Nobody has to be there: such sessions are not begun in pods."""

    def flow(self) -> None: ...

    def drained(self) -> None: ...

    # sharing.company.Story

    async def joined(self, party: Party, granted_by: str) -> None:
        await self._stream.joined(party, granted_by)

    async def left(self, party: Party) -> None:
        await self._stream.left(party)

    async def resized(self, size: TerminalSize) -> None:
        await self._stream.resized(size)

    async def held(self, missing: Sequence[str], *, started: bool) -> None: ...


@dataclass(frozen=True, slots=True)
class Facts:
    """Whose connection it is."""

    user: UserIdentity | None
    client: Peer


@dataclass(frozen=True, slots=True)
class Unattended:
    """Nobody has to be in its sessions."""

    required_joins: tuple[Requirement, ...] = ()


@dataclass(frozen=True, slots=True)
class First:
    """The connection of whoever began a session (`sharing.parties.Connection`)."""

    facts: Facts
    stream: Bytes
    permit: Unattended = field(default_factory=Unattended)

    @property
    def identity(self) -> UserIdentity:
        assert self.facts.user is not None, "a session belongs to a user"
        return self.facts.user

    def active(self) -> None:
        self.stream.active()

    def denied(self, what: str, reason: str) -> None:
        """Nothing is asked of the session by this connection but its own bytes."""

    def may_join(self, session: RunningSession, mode: JoinMode | None) -> JoinPermit | AccessDenial:
        return unknown_session("it is in its own already")


class _FirstChannel(SessionChannel):
    """What a session says to whoever began it, beside the output, goes into the relayed stream."""

    def __init__(self, stream: Bytes) -> None:
        self._stream = stream

    def write(self, data: bytes | memoryview, *, stderr: bool = False) -> None:
        self._stream.tell(bytes(data))

    def write_eof(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def connection_abort(self, message: str) -> None: ...
    def keep_alive(self, every: KeepAlive) -> None: ...
    def exit(self, status: int) -> None: ...
    def exit_with_signal(self, name: str, *, core_dumped: bool = False, message: str = "") -> None: ...
    def tell_session(self, sid: str, waits: int, mode: str) -> None: ...
