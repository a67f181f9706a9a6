"""Who may change the audit store: one process at a time, as many of its tasks as like.

During a restart two processes of one host run side by side, each with an auth service; auth servers of one storage
share a store, on a file system whose locks hold between hosts. Intake, the outbox and the
checkpoints each rest on what they remember, so each step of them is taken while the process holds this lock, and
what it remembers is read anew when another process held the lock in between. A killed process lets go by itself.

    <path>.lock    held while changing the store; names the process that held it last
    <path>.door    held while waiting for `.lock`: whoever holds `.lock` sees that somebody waits, and makes room

A step of which half may be done says so in `.lock` behind that name: who comes after a process that was killed over it
looks. A process alone pays for a few system calls. Memory of one holder is never older than the lock's last change of
hands.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final

from teleport.errors import TeleportError

PAUSE = 0.005  # seconds between two tries while another process holds it
NAME_SIZE = 16  # bytes that name a holder
_HALF, _WHOLE = b"1", b"0"
TELL_AFTER: Final = 10.0  # seconds of waiting until the log says so ...
TELL_AGAIN: Final = 60.0  # ... and until it says so again

log = logging.getLogger(__name__)


class StoreLock:
    """The lock of one store; use it as a context. Not to be entered again by a task that holds it."""

    def __init__(self, path: Path) -> None:
        """Raises `TeleportError` when the lock's files cannot be made."""
        self._name = os.urandom(NAME_SIZE)
        self._path = path
        self._after_others: list[Callable[[], Awaitable[None]]] = []
        self._gate = asyncio.Lock()
        self._idle = asyncio.Event()
        self._holders = 0
        try:
            self._lock = _open(path.with_name(f"{path.name}.lock"))
            self._door = _open(path.with_name(f"{path.name}.door"))
        except OSError as error:
            raise TeleportError(
                f"the audit store cannot be locked with {path}.lock: {error.strerror}",
                hint="give the daemon's user this folder",
            ) from error

    def after_others(self, again: Callable[[], Awaitable[None]]) -> None:
        """`again` is awaited, holding the lock, whenever it was held by another process (or nobody) before."""
        self._after_others.append(again)

    async def __aenter__(self) -> None:
        async with self._gate:
            if self._holders:
                if self._nobody_waits():
                    self._holders += 1
                    return
                await self._idle.wait()
            await _take(self._door, self._path)
            try:
                await _take(self._lock, self._path)
            finally:
                fcntl.flock(self._door, fcntl.LOCK_UN)
            try:
                if os.pread(self._lock, NAME_SIZE, 0) != self._name:
                    for again in self._after_others:
                        await again()
                    os.pwrite(self._lock, self._name, 0)
            except BaseException:
                fcntl.flock(self._lock, fcntl.LOCK_UN)
                raise
            self._holders = 1
            self._idle.clear()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._holders -= 1
        if not self._holders:
            fcntl.flock(self._lock, fcntl.LOCK_UN)
            self._idle.set()

    @property
    def half_done(self) -> bool:
        """Whether the step of somebody who held the lock was not finished."""
        return os.pread(self._lock, 1, NAME_SIZE) == _HALF

    def begin_step(self) -> None:
        """What follows may be left half done when this process is killed."""
        os.pwrite(self._lock, _HALF, NAME_SIZE)

    def finish_step(self) -> None:
        os.pwrite(self._lock, _WHOLE, NAME_SIZE)

    @contextmanager
    def blocking(self) -> Iterator[None]:
        """Holds it without a loop, for a few quick steps at start. What was remembered counts as old afterwards."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("waiting for %s.lock, which another process holds", self._path)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            yield
            os.pwrite(self._lock, bytes(NAME_SIZE), 0)
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def close(self) -> None:
        """Gives the files back; more than once is fine."""
        for descriptor in (self._lock, self._door):
            if descriptor >= 0:
                os.close(descriptor)
        self._lock = self._door = -1

    def _nobody_waits(self) -> bool:
        try:
            fcntl.flock(self._door, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        fcntl.flock(self._door, fcntl.LOCK_UN)
        return True


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


async def _take(descriptor: int, path: Path) -> None:
    clock = asyncio.get_running_loop().time
    began, told = clock(), TELL_AFTER
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if clock() - began >= told:
                log.warning(
                    "audit events wait: another process has held %s.lock for %.0f s; see whether an auth server of this"
                    " cluster is stopped or does not get on, and end it",
                    path,
                    clock() - began,
                )
                told += TELL_AGAIN
            await asyncio.sleep(PAUSE)
