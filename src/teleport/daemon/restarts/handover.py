"""What a daemon hands to the process that takes its place, and how that process takes it (`operations.md` 2).

`TELEPORT_OS_FILES` in the child's environment is a JSON list of `{"addr", "type", "fd", "fileName"}`; descriptors are
numbered from 3 on: the listeners, then `teleport-signal-pipe`, to which the child writes its pid when every service
takes connections (or why it cannot start), then those of our own: the lock on data_dir, a pipe that stays open for as
long as the parent serves, and in a container the pipe to its process 1. Only values and descriptors are handled here;
`child` starts and follows it.

The two may be of different releases, either one the newer. The entry of the ready pipe also has `format`, which the
parent writes, `needs`, the oldest format whose readers can take over from it, and `version`, its release. A reader
skips keys that it does not know, and closes a descriptor of an unknown type whose entry says `"optional": true`. What
is not understood is refused: the child says so by the ready pipe, whose meaning stays, and the parent serves on.

The variable is taken out of the environment and every descriptor is made private to this process before anything else
happens, so that neither the launcher nor any session ever sees them.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import socket
import stat
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from teleport import __version__
from teleport.errors import BadRequest

VARIABLE: Final = "TELEPORT_OS_FILES"
READY_PIPE: Final = "teleport-signal-pipe"
LOCK: Final = "teleport-data-dir-lock"
GUARD_PIPE: Final = "teleport-parent-pipe"
FIRST_PIPE: Final = "teleport-first-process-pipe"  # to process 1 of a container
NOWHERE: Final = "127.0.0.1:0"  # the address of what has none
FIRST_DESCRIPTOR: Final = 3
FORMAT: Final = 1  # of what this release hands over; without the key it is 1
NEEDS: Final = 1  # the oldest format whose readers understand what this release hands over
OLDEST: Final = 1  # the oldest format that this release can take over from
MAX_REASON: Final = 4096  # bytes that a child may say about its failure; a pipe takes that much at once


@dataclass(frozen=True, slots=True)
class Handed:
    """One descriptor as the variable names it."""

    type: str
    addr: str
    descriptor: int
    optional: bool = False  # a reader that does not know the type may do without


@dataclass(frozen=True, slots=True)
class Giver:
    """What handed over."""

    format: int = 1
    needs: int = 1
    version: str = "an earlier release"


@dataclass(slots=True)
class Inherited:
    """What the parent gave. Each descriptor has one owner: who takes one out closes it."""

    listeners: list[Handed] = field(default_factory=list)
    lock: int | None = None
    ready: int | None = None  # write end
    guard: int | None = None  # read end
    first: int | None = None  # write end
    parent: int = field(default_factory=os.getppid)  # its pid, if it lived when this was taken

    @property
    def descriptors(self) -> list[int]:
        """All that are still here."""
        others = [one for one in (self.lock, self.ready, self.guard, self.first) if one is not None]
        return [one.descriptor for one in self.listeners] + others

    def take_listener(self, kind: str, addresses: Sequence[tuple[str, int]]) -> socket.socket | None:
        """The inherited listener of a type whose address is one of these; a port 0 stands for any."""
        for handed in self.listeners:
            host, port = _address(handed.addr)
            if handed.type == kind and any(host == name and number in (0, port) for name, number in addresses):
                self.listeners.remove(handed)
                taken = socket.socket(fileno=handed.descriptor)
                taken.setblocking(False)
                return taken
        return None

    def has(self, kind: str) -> bool:
        """Whether a listener of a type was handed over."""
        return any(handed.type == kind for handed in self.listeners)

    def take_lock(self) -> int | None:
        lock, self.lock = self.lock, None
        return lock

    def close_listeners(self) -> list[str]:
        """Closes those that nobody wanted; their types and addresses."""
        left, self.listeners = self.listeners, []
        for handed in left:
            os.close(handed.descriptor)
        return [f"{handed.type} {handed.addr}" for handed in left]

    def tell_ready(self) -> None:
        """Every service takes connections: the parent may leave."""
        self._tell(f"{os.getpid()}\n")

    def tell_failed(self, reason: str) -> None:
        """This process cannot start; the parent's log will say why. Does nothing once it was ready."""
        self._tell(f"failed: {reason}\n")

    def _tell(self, text: str) -> None:
        if self.ready is None:
            return
        descriptor, self.ready = self.ready, None
        try:
            os.write(descriptor, text.encode(errors="replace")[:MAX_REASON])
        except OSError:
            pass  # the parent is gone, or has given up: nobody is left to tell
        finally:
            os.close(descriptor)

    def parent_serves(self) -> bool:
        """Whether the parent still takes connections, so that it goes on for this host when this process ends."""
        if self.guard is None:
            return False
        poll = select.poll()
        poll.register(self.guard, select.POLLIN | select.POLLHUP)
        return not poll.poll(0)  # at its end a pipe is always readable; nothing is ever written to it

    async def parent_leaves(self, seconds: float) -> bool:
        """Whether the parent takes no connections any more, or ceases to within this time."""
        if self.guard is None:
            return True
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self.guard, ended.set)  # nothing is ever written: it is readable at its end only
        try:
            async with asyncio.timeout(seconds):
                await ended.wait()
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(self.guard)
        return True


_BY_HAND = f"only a running daemon sets {VARIABLE}, for the process that follows it; to start one by hand, unset it"


def take(environment: MutableMapping[str, str]) -> Inherited | None:
    """What a parent handed over, None when there was none. Raises `BadRequest` when the variable cannot be meant."""
    text = environment.pop(VARIABLE, None)
    if text is None:
        return None
    handed, giver = _parsed(text)
    found = Inherited()
    # the ready pipe first, so that whatever else is wrong is told
    for one in sorted(handed, key=lambda one: one.type != READY_PIPE):
        try:
            _take_one(found, one)
        except BadRequest as error:
            found.tell_failed(f"{error}; {_way_out(giver)}")
            raise
    if giver.needs > FORMAT or giver.format < OLDEST:
        refused = BadRequest(
            f"release {__version__} cannot take over from a running {giver.version} (hand-over format {giver.format}, "
            f"for readers of {giver.needs} or later; this release reads {OLDEST} to {FORMAT})",
            hint="stop the running daemon and start this release",
        )
        found.tell_failed(f"{refused}; {_way_out(giver)}")
        raise refused
    return found


def _way_out(giver: Giver) -> str:
    if giver.version == __version__:
        return "stop this daemon and start it again"
    return f"to run {__version__}, stop this daemon and start that release: open sessions end then"


def _take_one(found: Inherited, handed: Handed) -> None:
    try:
        os.set_inheritable(handed.descriptor, False)
        mode = os.fstat(handed.descriptor).st_mode
    except OSError as error:
        raise BadRequest(f"{VARIABLE}: descriptor {handed.descriptor}: {error.strerror}", hint=_BY_HAND) from None
    match handed.type:
        case "teleport-signal-pipe" if stat.S_ISFIFO(mode):
            found.ready = handed.descriptor
        case "teleport-parent-pipe" if stat.S_ISFIFO(mode):
            found.guard = handed.descriptor
        case "teleport-first-process-pipe" if stat.S_ISFIFO(mode):
            found.first = handed.descriptor
        case "teleport-data-dir-lock" if stat.S_ISREG(mode):
            found.lock = handed.descriptor
        case _ if stat.S_ISSOCK(mode) and _listens(handed.descriptor):
            found.listeners.append(handed)
        case _ if handed.optional:
            os.close(handed.descriptor)  # of a newer release
        case _:
            raise BadRequest(f"{VARIABLE}: descriptor {handed.descriptor} is no {handed.type}", hint=_BY_HAND)


def describe(handed: Sequence[Handed]) -> str:
    """The variable's value."""
    about = {"format": FORMAT, "needs": NEEDS, "version": __version__}
    return json.dumps(
        [
            {"addr": one.addr, "type": one.type, "fd": one.descriptor, "fileName": one.type}
            | (about if one.type == READY_PIPE else {})
            | ({"optional": True} if one.optional else {})
            for one in handed
        ]
    )


def _parsed(text: str) -> tuple[list[Handed], Giver]:
    giver = Giver()
    try:
        given = json.loads(text)
        if not isinstance(given, list):
            raise TypeError("no list")
        found = [
            Handed(str(one["type"]), str(one["addr"]), int(one["fd"]), one.get("optional") is True) for one in given
        ]
        for one, entry in zip(found, given, strict=True):
            _address(one.addr)
            if one.type == READY_PIPE and "format" in entry:
                giver = Giver(int(entry["format"]), int(entry["needs"]), str(entry["version"]))
    except (ValueError, TypeError, KeyError) as error:
        raise BadRequest(
            f"{VARIABLE} is not a list of descriptors: {error}", hint=f"it is set by a running daemon; unset {VARIABLE}"
        ) from None
    numbers = [one.descriptor for one in found]
    if len(set(numbers)) != len(numbers) or any(number < FIRST_DESCRIPTOR for number in numbers):
        raise BadRequest(f"{VARIABLE}: descriptors {numbers} cannot be", hint=f"unset {VARIABLE}")
    return found, giver


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _listens(descriptor: int) -> bool:
    with socket.socket(fileno=os.dup(descriptor)) as probe:
        return bool(probe.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
