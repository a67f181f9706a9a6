"""Lines of the log that wait for a receiver, on disk: in batches, which are brought as one and removed then.

    <folder>/<time, 20 digits>-<run>.lines    a batch: whole lines, in order
    <folder>/<run>.lock                       held by the living process that writes batches of this run

Two processes of one host run side by side during a restart. What a dead one left is the next one's. The spool has a
bound; beyond it the oldest batches go, and whoever calls is told how many lines that were. Nothing is synced: a log
line may be lost with the machine, and nothing may wait for it. Everything blocks.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from teleport.errors import TeleportError

BATCH: Final = 256 * 1024  # bytes after which a new batch begins
_LINES: Final = ".lines"
_LOCK: Final = ".lock"


@dataclass(frozen=True, slots=True)
class Batch:
    """One file, complete."""

    path: Path
    size: int


class LogSpool:
    """Of one receiver. `open` it first."""

    def __init__(self, folder: Path, most: int, *, batch: int = BATCH) -> None:
        """`most`: bytes."""
        self.folder = folder
        self.waiting = 0  # bytes
        self.most = most
        self._batch = min(batch, most)
        self._run = f"{os.getpid()}.{time.time_ns()}"
        self._lock = -1
        self._known: list[Batch] = []  # oldest first; the last may be open
        self._file = -1
        self._size = 0  # of the open one
        self._last = 0

    def open(self) -> int:
        """Makes what is missing, and takes over what dead processes left; how many lines were too many."""
        try:
            for folder in (self.folder.parent, self.folder):
                folder.mkdir(mode=0o700, exist_ok=True)
            if self._lock < 0:
                self._lock = _locked(self.folder / f"{self._run}{_LOCK}", make=True)
            return self.adopt()
        except OSError as error:
            raise TeleportError(
                f"log lines cannot be kept in {self.folder}: {error.strerror}",
                hint="see whether the disk is full, and whether the folder is the daemon's user's",
            ) from None

    def adopt(self) -> int:
        """Takes over batches of processes that are dead; how many lines were too many. Raises `OSError`."""
        self._end()
        batches = list(self.folder.glob(f"*{_LINES}"))  # before the locks: each was made before its first batch
        runs = {path.name.removesuffix(_LOCK) for path in self.folder.glob(f"*{_LOCK}")} - {self._run}
        held = {run: descriptor for run in runs if (descriptor := _locked(self.folder / f"{run}{_LOCK}")) >= 0}
        try:
            found = self._take(batches, runs - held.keys())
            for run in held:
                (self.folder / f"{run}{_LOCK}").unlink(missing_ok=True)
        finally:
            for descriptor in held.values():
                os.close(descriptor)
        self._known = sorted([*self._known, *found], key=lambda one: one.path.name)
        self.waiting += sum(one.size for one in found)
        return self._make_room(0)

    def _take(self, batches: Sequence[Path], living: Collection[str]) -> list[Batch]:
        """Makes batches ours that no living process writes."""
        found = []
        for path in batches:
            when, _, run = path.name.removesuffix(_LINES).partition("-")
            ours = self.folder / f"{when}-{self._run}{_LINES}"
            if run == self._run or run in living or ours.exists():
                continue
            with suppress(FileNotFoundError):  # another process took it
                path.rename(ours)
                found.append(Batch(ours, ours.stat().st_size))
        return found

    def append(self, lines: Sequence[bytes]) -> int:
        """Keeps lines (without newlines); how many older ones had to go for them. Raises `OSError`."""
        gone = 0
        for line in lines:
            size = len(line) + 1
            gone += self._make_room(size)
            if self._file < 0 or self._size + size > self._batch:
                self._begin()
            view = memoryview(line + b"\n")
            while view:
                view = view[os.write(self._file, view) :]
            self._size += size
            self.waiting += size
        return gone

    def next(self) -> Batch | None:
        """The oldest batch, which gets no more lines; nothing when no line waits."""
        if len(self._known) == 1 and self._file >= 0:
            self._end()
        return self._known[0] if self._known else None

    def lines(self, batch: Batch) -> list[bytes]:
        """Those of a batch that are whole: a killed process may have left a piece of one."""
        try:
            return batch.path.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []

    def done(self, batch: Batch) -> bool:
        """It is not needed any more. False when it was dropped before."""
        if batch not in self._known:
            return False
        self._known.remove(batch)
        self.waiting -= batch.size
        batch.path.unlink(missing_ok=True)
        return True

    def close(self) -> None:
        """What waits stays for the next process."""
        self._end()
        if self._lock >= 0:
            if not self._known:
                (self.folder / f"{self._run}{_LOCK}").unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = -1

    def _begin(self) -> None:
        self._end()
        self._last = max(time.time_ns(), self._last + 1)
        path = self.folder / f"{self._last:020d}-{self._run}{_LINES}"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = 0
        self._known.append(Batch(path, 0))

    def _end(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            open_one = self._known.pop()
            self._known.append(Batch(open_one.path, self._size))

    def _make_room(self, size: int) -> int:
        gone = 0
        while self.waiting + size > self.most and self._known:
            oldest = self.next()
            assert oldest is not None, "there is one"
            gone += len(self.lines(oldest))
            self.done(oldest)
        return gone


def _locked(path: Path, *, make: bool = False) -> int:
    """The descriptor of a lock that nobody held, else -1."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if make else 0)
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileNotFoundError:
        return -1
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return -1
    return descriptor
