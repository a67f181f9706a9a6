"""Where auth keeps events: day files, and copies elsewhere.

`FileSink` is the store: `<dir>/<host uuid>/YYYY-MM-DD.00:00:00.log`, the UTC day in which auth took the event in, one
line an event; `<dir>/events.log` points at the current file (`reference/audit-events.md` 4). Only the newest file
ever grows, so that readers outside can follow it and older ones can be put away.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from teleport.audit.appendlog import AppendLog, cut_torn_line, make_directory
from teleport.audit.groupcommit import GroupCommit
from teleport.audit.store_lock import StoreLock
from teleport.clock import Clock
from teleport.errors import BadRequest, TeleportError

FILE_MODE = 0o640
DAY_FORMAT = "%Y-%m-%d.00:00:00.log"
PUT_AWAY = timedelta(days=2)  # a file that is gone before is missing
DAY_GLOB = "????-??-??.00:00:00.log"


class Sink(Protocol):
    """Takes lines for good."""

    async def append(self, lines: Sequence[bytes]) -> None:
        """Returns when the lines (without newlines) are kept; raises `TeleportError` and keeps none otherwise."""
        ...


def day_files(store: Path) -> list[Path]:
    """The day files of one auth server, oldest first."""
    return sorted(store.glob(DAY_GLOB))


class FileSink:
    """The day files of this auth server. `position` names how far the store reaches, for `lines_after`.

    Append while holding `lock`: another process of this host may have the same files open.
    """

    def __init__(
        self, directory: Path, host_id: str, clock: Clock, *, directory_mode: int = 0o750, shared: bool = False
    ) -> None:
        """Makes the folders, and cuts the torn last line that a crash left; blocks for that.

        `shared`: other auth servers have stores beside this one, and the lock is one for all.
        """
        if not host_id or "/" in host_id or host_id.startswith("."):
            raise BadRequest(f"{host_id!r} cannot name a folder of the audit store")
        self.directory = directory
        self.store = directory / host_id
        self._clock = clock
        self._log: AppendLog | None = None
        self.syncs = 0
        try:
            make_directory(directory, directory_mode)
            make_directory(self.store, directory_mode)
            self.lock = StoreLock(directory / (".cluster" if shared else f".{host_id}"))
            with self.lock.blocking():
                for path in day_files(self.store)[-1:]:
                    cut_torn_line(path)
        except OSError as error:
            raise TeleportError(
                f"the audit store {self.store} cannot be opened: {error.strerror}",
                hint="give the daemon's user this folder, or set audit_events_uri to another one",
            ) from error
        self.lock.after_others(self._look_again)
        self._commit: GroupCommit[Sequence[bytes]] = GroupCommit(self._write, "audit store")

    @property
    def position(self) -> str:
        """How far the store reaches now: file name and length."""
        if self._log is not None:
            return f"{self._log.path.name} {self._log.length}"
        return next((f"{path.name} {path.stat().st_size}" for path in day_files(self.store)[-1:]), "")

    async def append(self, lines: Sequence[bytes]) -> None:
        await self._commit.put(lines)

    def lines_after(self, position: str) -> list[bytes]:
        """All lines kept after `position` (empty: all), oldest first. Blocks."""
        return _read_on(self.store, position)[0]

    def beyond(self, positions: Mapping[str, str]) -> list[Beyond]:
        """What any store of the folder holds after its position; those without one are read from their begin. Blocks.

        Raises `TeleportError` when a store does not reach its position, unless old files were put away: then this is
        not the folder that the others write to.
        """
        found = []
        stores = {path.name for path in self.directory.iterdir() if path.is_dir() and not path.is_symlink()}
        for name in sorted(stores | positions.keys()):
            position = positions.get(name, "")
            lines, end = _read_on(self.directory / name, position)
            if end < in_order(position) and (end[0] or in_order(position)[0] >= self._recent()):
                raise TeleportError(
                    f"the audit log in {self.directory} lacks events that auth server {name} has written: it is not "
                    "the folder that the others share, or an old copy of it",
                    hint="mount the folder of teleport.storage.audit_events_uri that the other auth servers use",
                )
            if end > in_order(position):
                found.append(Beyond(name, lines, f"{end[0]} {end[1]}"))
        return found

    def _recent(self) -> str:
        """The name of a file that nobody has put away yet."""
        return (self._clock.now() - PUT_AWAY).strftime(DAY_FORMAT)

    def close(self) -> None:
        """Finishes what waits and closes the file."""
        self._commit.close()
        self._forget_file()
        self.lock.close()

    async def _look_again(self) -> None:
        """Another process may have made the file longer, or begun a new one."""
        await asyncio.to_thread(self._forget_file)

    def _forget_file(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None

    def _write(self, batches: list[Sequence[bytes]]) -> list[TeleportError | None]:
        log = self._file_for(self._clock.now())
        log.append(list(itertools.chain.from_iterable(batches)))
        self.syncs += 1
        return [None] * len(batches)

    def _file_for(self, now: datetime) -> AppendLog:
        """Today's file; never an older one than that in use, should the clock go back."""
        name = now.strftime(DAY_FORMAT)
        newest = self._log.path if self._log is not None else next(iter(day_files(self.store)[-1:]), None)
        if newest is not None:
            name = max(name, newest.name)
        if self._log is None or self._log.path.name != name:
            if self._log is not None:
                self._log.close()
                self._log = None
            self._log = AppendLog(self.store / name, FILE_MODE)
            self._point_at(self._log.path)
        return self._log

    def _point_at(self, path: Path) -> None:
        """Turns events.log to the current file, in one step."""
        draft = self.directory / f".events.log.{self.store.name}"
        draft.unlink(missing_ok=True)
        draft.symlink_to(path.relative_to(self.directory))
        draft.replace(self.directory / "events.log")


@dataclass(frozen=True, slots=True)
class Beyond:
    """What a store holds after a position, and how far it reaches with that."""

    store: str
    lines: list[bytes]
    position: str


def in_order(position: str) -> tuple[str, int]:
    """Positions by file and then by length."""
    name, _, length = position.partition(" ")
    return name, int(length) if length.isdecimal() else 0


def _read_on(store: Path, position: str) -> tuple[list[bytes], tuple[str, int]]:
    """The whole lines after a position, and where the last of them ends. Of another host's file only an `open` says
    for sure how long it is."""
    name, offset = in_order(position)
    found: list[bytes] = []
    end = ("", 0)
    for path in day_files(store):
        if path.name < name:
            continue
        with path.open("rb") as file:
            begin = offset if path.name == name else 0
            if begin > (size := os.fstat(file.fileno()).st_size):
                return found, (path.name, size)
            file.seek(begin)
            for raw in file:
                if raw.endswith(b"\n"):
                    found.append(raw[:-1])
                    begin += len(raw)
            end = (path.name, begin)
    return found, end


class MultiSink:
    """The store and copies elsewhere. Copies are written first: the store then holds each event exactly once.

    When a later step fails the batch is delivered again, so a copy may hold an event twice (its uid tells), but none
    lacks an event that the store holds.
    """

    def __init__(self, store: Sink, copies: Sequence[Sink]) -> None:
        self.store = store
        self._copies = tuple(copies)

    async def append(self, lines: Sequence[bytes]) -> None:
        for copy in self._copies:
            await copy.append(lines)
        await self.store.append(lines)
