"""Who is in a session: each party is one channel, with its own back-pressure, its own count of bytes and its part.

One party who may type holds the session up while it does not keep up, and so do those whom it needs to be watched by.
Another one is left behind: output goes past it until it takes some again, and then it is shown the last output anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol
from uuid import UUID

from teleport.authz.decision import AccessDenial
from teleport.authz.joining import JoinPermit, Requirement, RunningSession
from teleport.identity import UserIdentity
from teleport.recording.sanitise import RESET_TERMINAL, TerminalSanitiser, one_line
from teleport.resources.joining import JoinMode
from teleport.sharing.scrollback import Replay
from teleport.ssh.handlers import SessionChannel
from teleport.ssh.surface import Peer, TerminalSize
from teleport.wire.returning import ELSEWHERE

BACKLOG: Final = 1024 * 1024  # bytes kept for a party that is being shown the last output


class Facts(Protocol):
    """Who a party's connection belongs to, as far as that is known."""

    @property
    def user(self) -> UserIdentity | None: ...
    @property
    def client(self) -> Peer: ...


class Permit(Protocol):
    """Under what a party's connection is here."""

    @property
    def required_joins(self) -> tuple[Requirement, ...]:
        """Who has to be in its sessions for anything to be done there."""
        ...


class Ended(Protocol):
    """How a program ended."""

    @property
    def status(self) -> int | None: ...
    @property
    def signal(self) -> str | None: ...
    @property
    def core_dumped(self) -> bool: ...


class Connection(Protocol):
    """What a session needs of a party's connection."""

    @property
    def facts(self) -> Facts: ...
    @property
    def permit(self) -> Permit: ...

    @property
    def identity(self) -> UserIdentity:
        """Who it is, as the cluster knows them now."""
        ...

    def active(self) -> None:
        """The client did something."""
        ...

    def denied(self, what: str, reason: str) -> None:
        """Puts a refusal on record."""
        ...

    def may_join(self, session: RunningSession, mode: JoinMode | None) -> JoinPermit | AccessDenial:
        """Decides, as rules are now, about joining a session."""
        ...


class Party:
    """Somebody in a session."""

    def __init__(self, connection: Connection, channel: SessionChannel, over: Callable[[], None]) -> None:
        """`over` is called once, when the session has nothing to do with this party any more."""
        self.connection = connection
        self.channel = channel
        self.over = over
        self.mode = JoinMode.PEER
        self.number = 1  # in the order in which they came
        self.size: TerminalSize | None = None  # of its window
        self.full = False  # the client does not take what was written
        self.received = 0  # bytes from the client
        self.sent = 0  # bytes to the client
        self.waited_for = False  # whether it holds the session up
        self.window: UUID | None = None  # which of its user's terminals it is, when it may come back
        self.done = False  # it has said that it does not come back
        self.probed = False  # whether its client is asked often whether it is there
        self._told: set[str] = set()
        self._filter: TerminalSanitiser | None = None  # between the session and somebody else's terminal
        self._behind = False  # output went past it
        self._backlog: list[bytes] | None = None  # output since it began to be shown the last output
        self._backlog_size = 0

    @property
    def user(self) -> str:
        """The name of the user."""
        found = self.connection.facts.user
        return found.name if found is not None else ""

    @property
    def shown(self) -> str:
        """The user's name as it may be written on another user's terminal."""
        return one_line(self.user)

    @property
    def types(self) -> bool:
        """Whether what it sends is input of the session."""
        return self.mode is JoinMode.PEER

    def write(self, data: bytes, *, stderr: bool = False) -> None:
        """Sends output of the session."""
        self.sent += len(data)
        self.channel.write(data, stderr=stderr)

    # who has joined

    def show(self, data: bytes) -> None:
        """As `write`, for who has joined: cleaned where it is somebody else's session, and past whom it does not wait
        for while they do not keep up."""
        if self._backlog is not None:
            self._backlog.append(data)
            self._backlog_size += len(data)
            if self._backlog_size > BACKLOG:
                self._backlog, self._behind = None, True
        elif self._behind or (self.full and not self.waited_for):
            self._behind = True
        else:
            self.write(self._filter.feed(data) if self._filter is not None else data)

    @property
    def busy(self) -> bool:
        """Whether it does not take output now, or has not been shown all there was."""
        return self.full or self._behind or self._backlog is not None

    @property
    def wants_replay(self) -> bool:
        """Whether output went past it, and it takes some again."""
        return self._behind and not self.full

    def await_replay(self) -> None:
        """From now on output waits for `catch_up`."""
        self._behind, self._backlog, self._backlog_size = False, [], 0

    async def catch_up(self, what: Replay, *, own: bool, anew: bool) -> None:
        """Shows the last output, as it was when `await_replay` was called, then what came meanwhile.

        Of an own session, `own`, the terminal gets every mode; of somebody else's what a viewer's terminal may get
        (threat T44). `anew`: it was shown something already.
        """
        cleaner = TerminalSanitiser()
        # Some tenths of a second of work for a MiB.
        shown = await asyncio.to_thread(cleaner.feed, what.output)
        self._filter = None if own else cleaner
        after = what.after if own else TerminalSanitiser().feed(what.after)
        self.write((RESET_TERMINAL if anew else b"") + shown + after)
        backlog, self._backlog = self._backlog, None
        for data in backlog or ():
            self.show(data)

    def tell(self, text: str) -> None:
        """A line from the node, beside the session's output; not for who takes nothing now."""
        if self.full:
            return
        self.channel.write(f"\r\n{text}\r\n".encode(), stderr=True)

    def tell_once(self, text: str) -> None:
        """As `tell`, the first time."""
        if text not in self._told:
            self._told.add(text)
            self.tell(text)

    # the end

    def answer(self, ended: Ended | None, reason: str) -> None:
        """Tells the client how the session ended, and closes the channel."""
        if reason:
            told = reason.rstrip(".\n").replace("\n", "\r\n")
            self.channel.write(f"\r\nThis session was ended: {told}.\r\n".encode(), stderr=True)
        if ended is not None and ended.signal is not None:
            self.channel.exit_with_signal(ended.signal, core_dumped=ended.core_dumped)
        elif ended is not None and ended.status is not None:
            self.channel.exit(ended.status)
        else:
            self.channel.exit_with_signal("KILL", message=reason)

    def succeeds(self, other: Party) -> bool:
        """Whether it is the same terminal of the same user, come back."""
        ours, theirs = self.connection.facts.user, other.connection.facts.user
        if self is other or self.window is None or self.window != other.window or ours is None or theirs is None:
            return False
        return (ours.name, ours.cluster) == (theirs.name, theirs.cluster)

    def replaced(self) -> None:
        """Its terminal is in the session by another connection now."""
        self.channel.exit_with_signal("HUP", message=ELSEWHERE)

    def dismiss(self, told: str, *, status: int) -> None:
        """Ends this party's part, and its channel, while the session goes on."""
        if self.size is not None:
            self.channel.write(RESET_TERMINAL)
        self.channel.write(f"\r\n{told}\r\n".encode(), stderr=True)
        self.channel.exit(status)
