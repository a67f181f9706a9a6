"""Starts the process that takes this one's place, learns whether it is ready, and follows it to its end.

The child is started from the same path and arguments, in the same directory and environment, so that whatever lies at
that path now is what runs. `posix_spawn` is used, since a fork inside a running loop hangs (trap T-7).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Final

from teleport.daemon.restarts.first_process import NONE
from teleport.daemon.restarts.handover import (
    FIRST_DESCRIPTOR,
    FIRST_PIPE,
    GUARD_PIPE,
    LOCK,
    MAX_REASON,
    NOWHERE,
    READY_PIPE,
    VARIABLE,
    Handed,
    describe,
)
from teleport.errors import TeleportError

READY_SECONDS: Final = 120.0  # until every service of the child must take connections
KILL_AFTER: Final = 10.0  # seconds that a child which is not wanted any more has to end
_CLEAR: Final = 200  # descriptors are moved above this while they get their final numbers


def own_command() -> tuple[str, ...]:
    """How this process was started: the program by its absolute path, links left alone, so that a link which was
    turned to a newer release leads there; read it at start, before anything changes the directory."""
    program = sys.argv[0]
    if os.path.isfile(program) and os.access(program, os.X_OK):
        return (os.path.abspath(program), *sys.argv[1:])
    return (sys.executable, *sys.orig_argv[1:])  # python -m


class Child:
    """A process started by `start_child`; reaped as soon as it ends."""

    def __init__(self, pid: int, ended: Callable[[Child], None]) -> None:
        self.pid = pid
        self.status: int | None = None  # as of `subprocess`: negative is a signal
        self.ready = False
        self._ended = ended
        self._over = asyncio.Event()
        self._pidfd = os.pidfd_open(pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._reap)

    @property
    def alive(self) -> bool:
        return self.status is None

    def shown_end(self) -> str:
        if self.status is not None and self.status < 0:
            with contextlib.suppress(ValueError):
                return f"was ended by {signal.Signals(-self.status).name}"
        return f"ended with status {self.status}"

    async def wait(self) -> None:
        await self._over.wait()

    async def put_down(self) -> None:
        """Ends it, if need be by force."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not self.alive:
                return
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(KILL_AFTER):
                    await self._over.wait()
                    return

    def forget(self) -> None:
        """This process ends: the child is not its business any more."""
        if self.alive and self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        try:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        except ChildProcessError:
            self.status = 0
        self._over.set()
        self._ended(self)


async def start_child(
    command: Sequence[str],
    listeners: Sequence[tuple[str, str, int]],
    lock: int,
    ended: Callable[[Child], None],
    *,
    first: int = NONE,
    seconds: float = READY_SECONDS,
) -> tuple[Child, int]:
    """Starts `command` with these listeners (type, address, descriptor) and the lock, and waits until it is ready.
    `first` is the pipe to process 1 of a container.

    Returns the child and the write end of its guard pipe: closing that says that this process serves no more. Raises
    `TeleportError`, with the child gone, when it does not get ready within `seconds`, and says why.
    `ended` is called when a child that was ready ends.
    """
    ready_read, ready_write = os.pipe()
    guard_read, guard_write = os.pipe()
    given = [
        *listeners,
        (READY_PIPE, NOWHERE, ready_write),
        (LOCK, NOWHERE, lock),
        (GUARD_PIPE, NOWHERE, guard_read),
        *([] if first == NONE else [(FIRST_PIPE, NOWHERE, first)]),
    ]
    child: Child | None = None
    try:
        try:
            pid = _spawn(command, given)
        finally:
            os.close(ready_write)
            os.close(guard_read)
        child = Child(pid, lambda one: ended(one) if one.ready else None)
        said = await _said(ready_read, seconds)
        if said.strip() == str(pid) and child.alive:
            child.ready = True
            return child, guard_write
        raise TeleportError(await _why_not(child, said, seconds))
    except BaseException:
        try:
            if child is not None and child.alive:
                await child.put_down()
        finally:
            os.close(guard_write)  # after its end: one that became ready too late must not take this one for gone
        raise
    finally:
        os.close(ready_read)


def _spawn(command: Sequence[str], given: Sequence[tuple[str, str, int]]) -> int:
    handed = [
        Handed(kind, address, FIRST_DESCRIPTOR + place, optional=kind == FIRST_PIPE)
        for place, (kind, address, _) in enumerate(given)
    ]
    moved: list[int] = []
    try:
        for _, _, descriptor in given:
            # first out of the way: a descriptor may have the number that another one is to get
            moved.append(fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _CLEAR))
        actions = [(os.POSIX_SPAWN_DUP2, high, one.descriptor) for high, one in zip(moved, handed, strict=True)]
        environment = {**os.environ, VARIABLE: describe(handed)}
        try:
            return os.posix_spawn(command[0], list(command), environment, file_actions=actions)
        except OSError as error:
            raise TeleportError(f"{command[0]} cannot be started: {error.strerror}") from None
    finally:
        for descriptor in moved:
            os.close(descriptor)


async def _said(pipe: int, seconds: float) -> str:
    """What the child writes to its ready pipe; empty when it closes it, or says nothing in time."""
    loop = asyncio.get_running_loop()
    os.set_blocking(pipe, False)
    readable = asyncio.Event()
    loop.add_reader(pipe, readable.set)
    try:
        async with asyncio.timeout(seconds):
            await readable.wait()
    except TimeoutError:
        return "time-out"
    finally:
        loop.remove_reader(pipe)
    return os.read(pipe, MAX_REASON).decode(errors="replace")


async def _why_not(child: Child, said: str, seconds: float) -> str:
    if said == "time-out":
        return f"it was not ready within {seconds:.0f} s"
    if said.startswith("failed: "):
        return said.removeprefix("failed: ").strip()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(KILL_AFTER):
            await child.wait()
    if child.alive:
        return "it closed the pipe on which it should have said that it is ready"
    return f"it {child.shown_end()} before it was ready; what it said is where this process logs, or on its stderr"
