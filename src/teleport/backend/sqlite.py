"""Storage in one SQLite file: the default engine, for one auth server (and, during a restart, two processes of it).

One thread writes (`sqlite_writer`), another reads on a connection of its own; WAL lets both go on at once. What is a
few rows is read in the loop itself on a third connection: that takes some microseconds, waiting for a thread ten times
as long, and ten thousand hosts that announce themselves feel it. It never waits for a lock: where SQLite would, the
thread does.

The log of changes lies in the file, so a watch sees what any process wrote: a task follows the log while somebody
watches, woken by this process's own commits at once and by another's within `POLL` (it asks SQLite's `data_version`,
which costs microseconds). The log is trimmed by age and count when sweeping.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

from teleport.backend.decide import Decision
from teleport.backend.engine import CLOSED, SWEEP_EVERY, Engine
from teleport.backend.feed import BATCH_EVENTS, Entry, Feed, select
from teleport.backend.interface import (
    BackendClosed,
    Deleted,
    DeleteOp,
    Event,
    Item,
    Put,
    Snapshot,
    WatchCompacted,
    disjoint,
    prefix_end,
)
from teleport.backend.kept_snapshots import KeptSnapshots
from teleport.backend.sqlite_file import connect, explained, from_micros, micros, prepare
from teleport.backend.sqlite_writer import Transaction, Writer
from teleport.clock import Clock
from teleport.errors import TeleportError

LOG_KEEP = 50_000  # events
LOG_KEEP_FOR = timedelta(minutes=30)
POLL = 0.04  # seconds
RETRY = 1.0  # seconds until the log is followed again after an error
FEED_EVENTS = 10_000
FEED_BYTES = 32 * 1024 * 1024
FEW = 32  # rows that are read in the loop
IN_A_ROW = 64  # reads in the loop before others have their turn
SWEEP_CHUNK = 500  # items or log rows in one write, so that others are not held up

T = TypeVar("T")

log = logging.getLogger(__name__)


class _Many(Exception):
    """There is more to read than is read in the loop."""


class SqliteBackend(Engine):
    """Storage in `directory`, which is made (0700) when missing. `async with` opens and closes it."""

    def __init__(
        self,
        directory: Path,
        clock: Clock,
        *,
        log_keep: int = LOG_KEEP,
        log_keep_for: timedelta = LOG_KEEP_FOR,
        sweep_every: float | None = SWEEP_EVERY,
    ) -> None:
        super().__init__(sweep_every=sweep_every)
        self._directory = directory
        self._clock = clock
        self._log_keep = log_keep
        self._log_keep_for = log_keep_for
        self._watchers = 0
        self._kept = KeptSnapshots(self.snapshot)
        self._quick: sqlite3.Connection | None = None
        self._reads = 0  # in the loop

    async def open(self) -> None:
        """Open the file, making or migrating it. Raises `TeleportError` when that is not possible."""
        self._path = prepare(self._directory)
        self._bell = asyncio.Event()
        self._watched = asyncio.Event()
        self._feed = _new_feed()
        self._writer = Writer(self._path, self._clock, committed=self._bell.set)
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="storage reader")
        try:
            await self._writer.open()
            self._connection = await self._in_reader(lambda: connect(self._path, writing=False), "open")
            with explained(self._path, "open"):
                self._quick = connect(self._path, writing=False, waits=False)
        except BaseException:
            await self._writer.close()
            if self._quick is not None:
                self._quick.close()
            self._reader.shutdown(wait=False)
            raise
        await super().open()
        self._start(self._follow(), "backend follow")

    async def close(self) -> None:
        if not self._is_open:
            return
        await super().close()
        quick, self._quick = self._quick, None
        if quick is not None:
            quick.close()
        self._feed.fail(BackendClosed(CLOSED))
        try:
            await self._writer.close()
            await self._in_reader(self._connection.close, "close")
        finally:
            self._reader.shutdown(wait=False)

    # Reads

    async def get(self, key: str) -> Item | None:
        return await self._few(lambda connection: self._get(connection, key))

    async def range(self, prefix: str = "", *, start: str = "", limit: int = 0) -> list[Item]:
        def few(connection: sqlite3.Connection) -> list[Item]:
            items = self._range(connection, prefix, start, min(limit or FEW + 1, FEW + 1))
            if len(items) > FEW:
                raise _Many
            return items

        try:
            return await self._few(few)
        except _Many:
            return await self._read(lambda connection: self._range(connection, prefix, start, limit))

    async def snapshot(self, prefixes: Sequence[str]) -> Snapshot:
        wanted = disjoint(prefixes)

        def work(connection: sqlite3.Connection) -> Snapshot:
            items = [item for prefix in wanted for item in self._range(connection, prefix, "", 0)]
            return Snapshot(items, _state(connection, "revision"))

        return await self._read(work)

    async def watched_snapshot(self, prefixes: Sequence[str]) -> Snapshot:
        return await self._kept.get(prefixes, self._feed)

    async def revision(self) -> int:
        return await self._read(lambda connection: _state(connection, "revision"))

    async def _few(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work`, one statement that finds a few rows, in the loop; in the reader thread where that would wait."""
        self._check_open()
        self._reads += 1
        if self._reads % IN_A_ROW == 0:
            await asyncio.sleep(0)
            self._check_open()
        assert self._quick is not None
        try:
            return work(self._quick)
        except sqlite3.Error:
            return await self._read(work)

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in the reader thread, in one read transaction: it sees one state of the whole file."""
        self._check_open()

        def run() -> T:
            self._connection.execute("BEGIN")
            try:
                return work(self._connection)
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("COMMIT")

        return await self._in_reader(run, "read")

    async def _in_reader(self, call: Callable[[], T], doing: str) -> T:
        def run() -> T:
            with explained(self._path, doing):
                return call()

        return await asyncio.get_running_loop().run_in_executor(self._reader, run)

    def _get(self, connection: sqlite3.Connection, key: str) -> Item | None:
        row = connection.execute("SELECT value, revision, expires FROM item WHERE key = ?", (key,)).fetchone()
        item = None if row is None else Item(key, row[0], row[1], from_micros(row[2]))
        return item if item is not None and item.live(self._clock.now()) else None

    def _range(self, connection: sqlite3.Connection, prefix: str, start: str, limit: int) -> list[Item]:
        query = "SELECT key, value, revision, expires FROM item WHERE key >= ? AND key > ?"
        arguments: list[str | int] = [prefix, start]
        end = prefix_end(prefix)
        if end is not None:
            query += " AND key < ?"
            arguments.append(end)
        query += " AND (expires IS NULL OR expires > ?) ORDER BY key LIMIT ?"
        arguments += [micros(self._clock.now()), limit or -1]
        rows = connection.execute(query, arguments).fetchall()
        return [Item(key, value, revision, from_micros(expires)) for key, value, revision, expires in rows]

    # Writes

    async def _write(self, decision: Decision) -> int:
        self._check_open()
        return await self._writer.submit(lambda change: change.apply(decision(change.look, change.now)))

    async def sweep(self) -> int:
        swept = 0
        while await self._read(self._has_expired):
            swept += await self._submit_sweep()
        while (upto := await self._read(self._log_excess)) is not None:
            await self._writer.submit(partial(_trim, upto))
        return swept

    async def _submit_sweep(self) -> int:
        count = 0

        def work(change: Transaction) -> int:
            nonlocal count
            rows = change.connection.execute(
                "SELECT key FROM item WHERE expires <= ? ORDER BY key LIMIT ?", (micros(change.now), SWEEP_CHUNK)
            ).fetchall()
            count = len(rows)
            return change.apply([DeleteOp(key) for (key,) in rows])

        await self._writer.submit(work)
        return count

    def _has_expired(self, connection: sqlite3.Connection) -> bool:
        now = micros(self._clock.now())
        return connection.execute("SELECT 1 FROM item WHERE expires <= ? LIMIT 1", (now,)).fetchone() is not None

    def _log_excess(self, connection: sqlite3.Connection) -> int | None:
        """The revision up to which a chunk of the log may be forgotten, None when all of it is kept."""
        (first, last) = connection.execute("SELECT (SELECT min(seq) FROM log), (SELECT max(seq) FROM log)").fetchone()
        if first is None:
            return None
        horizon = micros(self._clock.now() - self._log_keep_for)
        # Never the newest transaction as a whole: an empty log would begin counting anew.
        (upto,) = connection.execute(
            "SELECT max(revision) FROM (SELECT seq, revision, at FROM log ORDER BY seq LIMIT ?)"
            " WHERE (seq <= ? OR at <= ?) AND revision < (SELECT number FROM state WHERE name = 'revision')",
            (SWEEP_CHUNK, last - self._log_keep, horizon),
        ).fetchone()
        return None if upto is None else int(upto)

    # Watches

    async def watch(self, prefixes: Sequence[str], *, start: int) -> AsyncGenerator[list[Event], None]:
        self._check_open()
        feed = self._feed
        wanted = tuple(prefixes)
        position = start
        if start > (last := await self.revision()):
            raise WatchCompacted(f"cannot watch from revision {start}: the last is {last}")
        self._watchers += 1
        self._watched.set()
        try:
            while True:
                interest = feed.interest(wanted)
                if feed.failure is not None:
                    raise feed.failure
                entries = feed.after(position)
                if entries is None:
                    entries, position = await self._read_log(position)
                elif entries:
                    position = entries[-1].revision
                if events := select(entries, wanted):
                    yield events
                elif not entries:
                    await interest.changed.wait()
                    position = max(position, interest.before)
        finally:
            self._watchers -= 1
            if not self._watchers:
                self._watched.clear()

    async def _follow(self) -> None:
        """Keep the feed at the end of the log while somebody watches. An error ends the watches there are."""
        while True:
            try:
                await self._follow_watched()
            except Exception as error:
                if not isinstance(error, TeleportError):
                    log.exception("following the log failed path=%s", self._path)
                failed, self._feed = self._feed, _new_feed()
                failed.fail(error)
                await asyncio.sleep(RETRY)

    async def _follow_watched(self) -> None:
        await self._watched.wait()
        position = await self.revision()
        self._feed.reset(position)
        version = -1
        while self._watched.is_set():
            self._bell.clear()
            seen, version = version, await self._in_reader(self._data_version, "read")
            if seen != version:
                position = await self._catch_up(position)
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL):
                    await self._bell.wait()
        self._feed.reset(None)

    async def _catch_up(self, position: int) -> int:
        while True:
            try:
                entries, position = await self._read_log(position)
            except WatchCompacted:  # this process stood still for long: let each watcher find out by itself
                position = await self.revision()
                self._feed.reset(position)
                continue
            if not entries:
                return position
            for entry in entries:
                self._feed.append(entry)

    async def _read_log(self, after: int) -> tuple[list[Entry], int]:
        return await self._read(lambda connection: _log(connection, after))

    def _data_version(self) -> int:
        """A number that changes when any other connection, of this process or another, commits."""
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        return int(version)


def _new_feed() -> Feed:
    return Feed(base=None, max_events=FEED_EVENTS, max_bytes=FEED_BYTES)


def _state(connection: sqlite3.Connection, name: str) -> int:
    (number,) = connection.execute("SELECT number FROM state WHERE name = ?", (name,)).fetchone()
    return int(number)


def _log(connection: sqlite3.Connection, after: int) -> tuple[list[Entry], int]:
    """Some whole transactions after revision `after`, and the revision that these lead up to."""
    if after < _state(connection, "compacted"):
        raise WatchCompacted(f"cannot watch from revision {after}: its changes are no longer kept")
    row = connection.execute(
        "SELECT revision FROM log WHERE revision > ? ORDER BY revision LIMIT 1 OFFSET ?", (after, BATCH_EVENTS - 1)
    ).fetchone()
    upto = _state(connection, "revision") if row is None else int(row[0])
    grouped: dict[int, list[Event]] = {}
    for revision, key, value, expires in connection.execute(
        "SELECT revision, key, value, expires FROM log WHERE revision > ? AND revision <= ? ORDER BY revision, seq",
        (after, upto),
    ):
        deleted = value is None
        event = Deleted(key, revision) if deleted else Put(Item(key, value, revision, from_micros(expires)))
        grouped.setdefault(revision, []).append(event)
    return [Entry(revision, tuple(events)) for revision, events in grouped.items()], upto


def _trim(upto: int, change: Transaction) -> int:
    """Forget the log up to and with revision `upto`. Does not count as a change."""
    change.connection.execute("DELETE FROM log WHERE revision <= ?", (upto,))
    change.connection.execute("UPDATE state SET number = max(number, ?) WHERE name = 'compacted'", (upto,))
    return change.revision
