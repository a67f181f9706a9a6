"""Who may change the audit store: one process at a time, as many of its tasks as like.

During a restart two processes of one host run side by side, each with an auth service; auth servers of one storage
share a store, on a file system whose locks hold between hosts. Intake, the outbox and the
checkpoints each rest on what they remember, so each step of them is taken while the process holds this lock, and
what it remembers is read anew when another process held the lock in between. A killed process lets go by itself.

    <path>.lock    held while changing the store; names the process that held it last
    <path>.door    held while waiting for `.lock`: whoever holds `.lock` sees that somebody waits, and makes room

A step of which half may be done says so in `.lock` behind that name: who comes after a process that was killed over it
looks. Both files end with words for people: which process of which machine it was. A process that is stopped while it
holds either keeps all others out; `held_up` tells who waits for whom. A process alone pays for a few system calls.
Memory of one holder is never older than the lock's last change of hands.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from teleport.errors import TeleportError

PAUSE = 0.005  # seconds between two tries while another process holds it
NAME_SIZE = 16  # bytes that name a holder
_HALF, _WHOLE = b"1", b"0"
_WHO_AT: Final = NAME_SIZE + 1
_WHO_SIZE: Final = 160  # bytes
TELL_AFTER: Final = 10.0  # seconds of waiting until the log says so ...
TELL_AGAIN: Final = 60.0  # ... and until it says so again

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HeldUp:
    """Nothing gets into the store: somebody holds the lock for longer than its steps take."""

    path: Path  # of the lock
    seconds: float  # that this process has waited
    holder: str  # "process 17 on host"; empty when the file does not say

    def __str__(self) -> str:
        return f"{self.holder or 'another process'} holds {self.path}"


class StoreLock:
    """The lock of one store; use it as a context. Not to be entered again by a task that holds it."""

    def __init__(self, path: Path) -> None:
        """Raises `TeleportError` when the lock's files cannot be made."""
        self._name = os.urandom(NAME_SIZE)
        self._who = f"process {os.getpid()} on {socket.gethostname()}".encode()[:_WHO_SIZE].ljust(_WHO_SIZE, b"\0")
        self._path = path
        self._waits: dict[object, float] = {}  # since when, by the loop's clock
        self._at_door = False
        self._after_others: list[Callable[[], Awaitable[None]]] = []
        self._gate = asyncio.Lock()
        self._idle = asyncio.Event()
        self._holders = 0
        try:
            self._lock = _open(self._file("lock"))
            self._door = _open(self._file("door"))
        except OSError as error:
            raise TeleportError(
                f"the audit store cannot be locked with {path}.lock: {error.strerror}",
                hint="give the daemon's user this folder",
            ) from error

    def after_others(self, again: Callable[[], Awaitable[None]]) -> None:
        """`again` is awaited, holding the lock, whenever it was held by another process (or nobody) before."""
        self._after_others.append(again)

    def held_up(self) -> HeldUp | None:
        """Who holds it, when somebody here has waited for `TELL_AFTER` seconds."""
        if not self._waits:
            return None
        waited = asyncio.get_running_loop().time() - min(self._waits.values())
        return HeldUp(self._file("lock"), waited, self._holder()) if waited >= TELL_AFTER else None

    async def __aenter__(self) -> None:
        waiting = object()
        self._waits[waiting] = asyncio.get_running_loop().time()
        try:
            await self._enter()
        finally:
            del self._waits[waiting]

    async def _enter(self) -> None:
        async with self._gate:
            if self._holders:
                if self._nobody_waits():
                    self._holders += 1
                    return
                await self._idle.wait()
            self._at_door = True
            try:
                await self._take(self._door)
            finally:
                self._at_door = False
            try:
                self._sign(self._door)
                await self._take(self._lock)
            finally:
                fcntl.flock(self._door, fcntl.LOCK_UN)
            try:
                self._sign(self._lock)
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
            self._sign(self._lock)
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
        return _is_free(self._door)

    async def _take(self, descriptor: int) -> None:
        clock = asyncio.get_running_loop().time
        began, told = clock(), TELL_AFTER
        while not _try(descriptor):
            if clock() - began >= told:
                log.warning(
                    "audit events wait: another process has held %s.lock for %.0f s (%s); see whether an auth server of"
                    " this cluster is stopped or does not get on, and end it",
                    self._path,
                    clock() - began,
                    self._holder() or "it does not say which",
                )
                told += TELL_AGAIN
            await asyncio.sleep(PAUSE)

    def _file(self, kind: str) -> Path:
        return self._path.with_name(f"{self._path.name}.{kind}")

    def _sign(self, descriptor: int) -> None:
        """For who holds it: says who that is, to people."""
        if os.pread(descriptor, _WHO_SIZE, _WHO_AT) != self._who:
            os.pwrite(descriptor, self._who, _WHO_AT)

    def _holder(self) -> str:
        """Who keeps this process waiting: at the door one that waits, too, unless it could have the lock."""
        return _signed(self._file("door" if self._at_door and _is_free(self._lock) else "lock"))


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_free(descriptor: int) -> bool:
    """Of a lock that this process does not hold."""
    if not _try(descriptor):
        return False
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return True


def _signed(path: Path) -> str:
    """Opened anew: a network's file system shows only then what another host wrote."""
    found = b""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = os.pread(descriptor, _WHO_SIZE, _WHO_AT)
        finally:
            os.close(descriptor)
    return "".join(char for char in found.rstrip(b"\0").decode(errors="replace") if char.isprintable())
