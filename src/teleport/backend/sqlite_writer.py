"""The one thread that writes: what waits while a commit is synced goes into the next commit together.

A commit costs one sync of the disk however many writes are in it, so fifty writers wait for about one sync each, not
for fifty. Each write stays its own: it is decided after those before it, fails alone (a savepoint each), and has
its own revision. Nobody is answered, refused ones included, before the commit is on disk: a refusal may rest on a
write of the same commit.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from teleport.backend.interface import BackendClosed, DeleteOp, Item, PutOp, Write
from teleport.backend.sqlite_file import connect, explain, explained, from_micros, micros, migrate
from teleport.clock import Clock

GROUP = 256  # writes in one commit at most
SLOW = 1.0  # seconds; a commit that takes longer says that the disk is too slow or the storage outgrown

log = logging.getLogger(__name__)


class Transaction:
    """What a write sees and does, inside a transaction and a savepoint of its own."""

    def __init__(self, connection: sqlite3.Connection, now: datetime) -> None:
        self.connection = connection
        self.now = now
        self.revision: int = connection.execute("SELECT number FROM state WHERE name = 'revision'").fetchone()[0]

    def look(self, key: str) -> Item | None:
        row = self.connection.execute("SELECT value, revision, expires FROM item WHERE key = ?", (key,)).fetchone()
        return None if row is None else Item(key, row[0], row[1], from_micros(row[2]))

    def apply(self, changes: Sequence[Write]) -> int:
        """Carry out decided changes as one revision; the revision after it."""
        if not changes:
            return self.revision
        revision = self.revision + 1
        at = micros(self.now)
        for change in changes:
            match change:
                case PutOp(key, value, expires):
                    until = None if expires is None else micros(expires)
                    self.connection.execute(
                        "INSERT INTO item (key, value, revision, expires) VALUES (?, ?, ?, ?) ON CONFLICT (key) DO"
                        " UPDATE SET value = excluded.value, revision = excluded.revision, expires = excluded.expires",
                        (key, bytes(value), revision, until),
                    )
                    self._log(revision, key, bytes(value), until, at)
                case DeleteOp(key):
                    self.connection.execute("DELETE FROM item WHERE key = ?", (key,))
                    self._log(revision, key, None, None, at)
        self.connection.execute("UPDATE state SET number = ? WHERE name = 'revision'", (revision,))
        self.revision = revision
        return revision

    def _log(self, revision: int, key: str, value: bytes | None, until: int | None, at: int) -> None:
        self.connection.execute(
            "INSERT INTO log (revision, key, value, expires, at) VALUES (?, ?, ?, ?, ?)",
            (revision, key, value, until, at),
        )


Work = Callable[[Transaction], int]


@dataclass(frozen=True, slots=True)
class _Job:
    work: Work
    future: asyncio.Future[int]


class Writer:
    """Takes work from the loop that made it, and answers there."""

    def __init__(self, path: Path, clock: Clock, *, committed: Callable[[], None]) -> None:
        """`committed` is called in the loop after each commit that changed something."""
        self._path = path
        self._clock = clock
        self._committed = committed
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._closing = False
        # A daemon thread: what is not committed was not acknowledged, so a process that exits need not wait.
        self._thread = threading.Thread(target=self._run, name="storage writer", daemon=True)

    async def open(self) -> None:
        """Open and migrate the file. Raises `TeleportError`."""
        self._thread.start()
        await self._opened

    async def submit(self, work: Work) -> int:
        """Run `work` in the next commit; its result once that is on disk."""
        if self._closing:
            raise BackendClosed(f"the storage {self._path} is closed")
        future: asyncio.Future[int] = self._loop.create_future()
        self._jobs.put(_Job(work, future))
        return await future

    async def close(self) -> None:
        """Commit what was submitted, then end the thread."""
        if self._thread.ident is None:
            return
        if not self._closing:
            self._closing = True
            self._jobs.put(None)
        await asyncio.shield(self._ended)

    # In the thread

    def _run(self) -> None:
        try:
            try:
                with explained(self._path, "open"):
                    connection = connect(self._path, writing=True)
                    try:
                        migrate(connection, self._path, self._clock.now())
                    except BaseException:
                        connection.close()
                        raise
            except BaseException as error:
                self._tell(_fail, self._opened, error)
                return
            self._tell(_resolve, self._opened, None)
            try:
                self._serve(connection)
            finally:
                connection.close()
        finally:
            self._tell(_resolve, self._ended, None)

    def _serve(self, connection: sqlite3.Connection) -> None:
        while True:
            jobs: list[_Job] = []
            job = self._jobs.get()
            while job is not None:
                jobs.append(job)
                if len(jobs) == GROUP or self._jobs.empty():
                    break
                job = self._jobs.get()
            if jobs:
                began = self._clock.monotonic()
                changed, outcomes = self._commit(connection, jobs)
                if (took := self._clock.monotonic() - began) > SLOW:
                    log.warning("slow transaction path=%s seconds=%.1f writes=%d", self._path, took, len(jobs))
                self._tell(self._answer, jobs, outcomes, changed)
            if job is None:
                return

    def _commit(self, connection: sqlite3.Connection, jobs: list[_Job]) -> tuple[bool, list[int | BaseException]]:
        """One commit of `jobs`: whether anything changed, and what becomes of each."""
        try:
            connection.execute("BEGIN IMMEDIATE")
            # The time is read while the file is locked, so that what one process found expired none finds alive later.
            transaction = Transaction(connection, self._clock.now())
            before = connection.total_changes
            outcomes = [self._attempt(transaction, job.work) for job in jobs]
            changed = connection.total_changes != before
            connection.execute("COMMIT")
        except BaseException as error:
            with suppress(sqlite3.Error):  # the thread must live on, whatever the file does
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            shown = explain(self._path, "write to", error) if isinstance(error, sqlite3.Error) else error
            return False, [shown] * len(jobs)
        return changed, outcomes

    def _attempt(self, transaction: Transaction, work: Work) -> int | BaseException:
        connection = transaction.connection
        before = transaction.revision
        connection.execute("SAVEPOINT attempt")
        try:
            result = work(transaction)
        except Exception as error:
            if not connection.in_transaction:
                raise  # SQLite gave up the whole transaction (disk full, input/output error): nobody's write is in
            connection.execute("ROLLBACK TO attempt")
            connection.execute("RELEASE attempt")
            transaction.revision = before
            return explain(self._path, "write to", error) if isinstance(error, sqlite3.Error) else error
        connection.execute("RELEASE attempt")
        return result

    def _tell(self, call: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:
            log.debug("the loop ended before the storage was closed path=%s", self._path)

    # In the loop

    def _answer(self, jobs: list[_Job], outcomes: list[int | BaseException], changed: bool) -> None:
        if changed:
            self._committed()
        for job, outcome in zip(jobs, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                _fail(job.future, outcome)
            else:
                _resolve(job.future, outcome)


def _resolve(future: asyncio.Future[int] | asyncio.Future[None], result: int | None) -> None:
    if not future.done():  # its caller may have been cancelled
        future.set_result(result)  # type: ignore[arg-type]


def _fail(future: asyncio.Future[int] | asyncio.Future[None], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
