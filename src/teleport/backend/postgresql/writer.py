"""The one task that writes: what waits while a transaction is committed goes into the next one together.

A commit costs the server one sync of its disk however many writes are in it, and all processes write one after the
other. Each write stays its own: it is decided after those before it, fails alone and has its own revision. Nobody is
answered, refused ones included, before the transaction is committed: a refusal may rest on a write of the same one.

A transaction that fails is made again, as long as its writes may wait. When the answer to COMMIT was lost, the next one
finds out first, in the table `writer`: it locks the row that every transaction locks, so the lost one is over by then,
one way or the other. One whose COMMIT was never sent cannot happen any more.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

from teleport.backend.decide import Decision
from teleport.backend.interface import BackendClosed, DeleteOp, Item, PutOp, Write
from teleport.backend.postgresql.changes import item_of
from teleport.backend.postgresql.refusals import Kind
from teleport.backend.postgresql.schema import HISTORY, LEAP, LOCK, Schema, changed
from teleport.backend.postgresql.servers import COMMITTING, LONG, PAUSE, PAUSE_MOST, Refused, Servers, Session
from teleport.clock import Clock
from teleport.errors import ConnectionProblem, TeleportError

GROUP: Final = 256  # writes in one transaction at most
GROUP_BYTES: Final = 4 * 1024 * 1024  # of values, unless one write has more
PART_BYTES: Final = 8 * 1024 * 1024  # of values in one statement, about
SLOW: Final = 1.0  # seconds; a transaction that takes longer is told in the log

_STATE: Final = (
    "SELECT version, made, history, revision, kept, "  # noqa: S608 # constants
    f"{HISTORY} AS current, (SELECT number FROM writer WHERE process = $1) AS number FROM meta"
)
_LOOK: Final = "SELECT key, value, revision, expires FROM item WHERE key = ANY($1::text[])"
_CHANGE: Final = """
    WITH logged AS (
        INSERT INTO change (revision, part, key, value, expires)
        SELECT * FROM unnest($1::bigint[], $2::int[], $3::text[], $4::bytea[], $5::timestamptz[])
        RETURNING revision, key, value, expires
    ), last AS (
        SELECT DISTINCT ON (key) key, value, revision, expires FROM logged ORDER BY key, revision DESC
    ), gone AS (
        DELETE FROM item USING last WHERE item.key = last.key AND last.value IS NULL
    )
    INSERT INTO item (key, value, revision, expires)
    SELECT key, value, revision, expires FROM last WHERE value IS NOT NULL
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, revision = excluded.revision, expires = excluded.expires
"""
_DONE: Final = """
    WITH mark AS (
        INSERT INTO writer (process, number) VALUES ($1, $2)
        ON CONFLICT (process) DO UPDATE SET number = excluded.number, at = now()
    )
    UPDATE meta SET revision = $3, kept = $4, history = $5 RETURNING pg_notify(current_schema()::text, $3::bigint::text)
"""
_CONFIRM: Final = "UPDATE writer SET at = now() WHERE process = $1"
_LEAVE: Final = "DELETE FROM writer WHERE process = $1 OR at < now() - interval '1 day'"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    decision: Decision
    future: asyncio.Future[int]
    until: float  # of the loop's clock


@dataclass(slots=True)
class _Sent:
    """A transaction whose COMMIT was sent and not answered."""

    number: int
    jobs: list[_Job]
    outcomes: list[int | Exception]


@dataclass(slots=True)
class _Changes:
    """What one transaction does, in columns."""

    revisions: list[int] = field(default_factory=list)
    parts: list[int] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    values: list[bytes | None] = field(default_factory=list)
    expires: list[Any] = field(default_factory=list)

    def add(self, revision: int, writes: Sequence[Write]) -> None:
        for part, write in enumerate(writes):
            put = isinstance(write, PutOp)
            self.revisions.append(revision)
            self.parts.append(part)
            self.keys.append(write.key)
            self.values.append(bytes(write.value) if isinstance(write, PutOp) else None)
            self.expires.append(write.expires if isinstance(write, PutOp) else None)
            assert put or isinstance(write, DeleteOp)

    def pieces(self) -> list[tuple[list[Any], ...]]:
        """In order, none larger than one statement should be."""
        found: list[tuple[list[Any], ...]] = []
        start = size = 0
        for at, value in enumerate(self.values):
            size += len(value or b"")
            if size >= PART_BYTES or at + 1 == len(self.values):
                cut = slice(start, at + 1)
                found.append(
                    (self.revisions[cut], self.parts[cut], self.keys[cut], self.values[cut], self.expires[cut])
                )
                start, size = at + 1, 0
        return found


class Writer:
    """Of one open storage. `run` it in a task."""

    def __init__(self, servers: Servers, schema: Schema, clock: Clock) -> None:
        self._servers = servers
        self._schema = schema
        self._clock = clock
        self._process = uuid4()
        self._number = 0
        self._session: Session | None = None
        self._jobs: deque[_Job] = deque()
        self._more = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._sent: _Sent | None = None
        self._closing = False

    async def submit(self, decision: Decision) -> int:
        """Decide and write in the next transaction; the revision after it, once it is committed."""
        if self._closing:
            raise BackendClosed("the storage is not open")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[int] = loop.create_future()
        self._jobs.append(_Job(decision, future, loop.time() + self._servers.within))
        self._idle.clear()
        self._more.set()
        return await future

    async def close(self) -> None:
        """Commit what was submitted. End the task that runs afterwards."""
        self._closing = True
        await self._idle.wait()
        session, self._session = self._session, None
        if session is not None:
            try:
                await session.rows(_LEAVE, self._process, within=1.0)
            except Refused as error:
                log.debug("a row of the table writer was left error=%s", error.details)
            await session.close()

    async def run(self) -> None:
        """Write what is submitted, until cancelled."""
        try:
            while True:
                await self._more.wait()
                jobs = self._take()
                if jobs:
                    await self._write(jobs)
                if not self._jobs:
                    self._more.clear()
                    self._idle.set()
        finally:
            if self._session is not None:
                self._session.cut()

    def _take(self) -> list[_Job]:
        jobs: list[_Job] = []
        size = 0
        while self._jobs and len(jobs) < GROUP and (not jobs or size + self._jobs[0].decision.size <= GROUP_BYTES):
            job = self._jobs.popleft()
            if not job.future.done():  # its caller may have been cancelled
                jobs.append(job)
                size += job.decision.size
        return jobs

    async def _write(self, jobs: list[_Job]) -> None:
        """Each of `jobs` is answered when this returns."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        pause = PAUSE
        while jobs:
            try:
                await self._transact(jobs)
                break
            except Refused as error:
                failure: Exception = self._servers.explain("write to", error)
                again = error.kind in (Kind.AGAIN, Kind.STANDBY)
                one_of_them = error.kind is Kind.REFUSED
            except TeleportError as error:
                failure, again, one_of_them = error, False, False
            except Exception as error:
                log.exception("a transaction failed storage=%s", self._servers.where)
                failure, again, one_of_them = error, False, True
            self._drop_session()
            if one_of_them and len(jobs) > 1 and self._sent is None:  # whichever it is: the others do not suffer
                for job in jobs:
                    await self._write([job])
                return
            jobs = self._give_up(jobs, failure, loop.time() if again else None)
            if jobs:
                log.info("a transaction is made again writes=%d error=%s", len(jobs), failure)
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311
                pause = min(2 * pause, PAUSE_MOST)
        if (took := loop.time() - began) > SLOW:
            log.warning("slow transaction storage=%s seconds=%.1f", self._servers.where, took)

    def _give_up(self, jobs: list[_Job], failure: Exception, now: float | None) -> list[_Job]:
        """Tell those that may not wait any longer (None: nobody may); the others."""
        sent = self._sent.jobs if self._sent is not None else ()
        kept = [job for job in jobs if now is not None and now < job.until and not job.future.done()]
        for job in jobs:
            if job not in kept:
                _answer(job, _unknown(failure) if job in sent else failure)
        if self._sent is not None and not any(job in kept for job in sent):
            self._sent = None  # nobody asks any more
        return kept

    async def _transact(self, jobs: list[_Job]) -> None:
        if self._session is None or self._session.ended:
            self._session = await self._servers.session()
        session = self._session
        await session.run(LOCK)
        state = await session.row(_STATE, self._process)
        if state is None or (state["version"], state["made"]) != (self._schema.version, self._schema.made):
            raise changed(self._servers)
        if self._sent is not None:
            if state["number"] == self._sent.number:
                # written once more, so that whoever has to confirm commits has confirmed that one before we tell
                await session.rows(_CONFIRM, self._process)
                await session.run("COMMIT", within=COMMITTING)
                sent, self._sent = self._sent, None
                _answer_all(sent)
                jobs[:] = [job for job in jobs if job not in sent.jobs]
                if jobs:
                    await self._transact(jobs)
                return
            self._sent = None  # it has not happened, and cannot any more
        revision, kept = int(state["revision"]), int(state["kept"])
        if state["history"] != state["current"]:
            log.warning(
                "the storage has another history than before: it was restored, or a standby took over storage=%s",
                self._servers.where,
            )
            revision += LEAP
            kept = revision
            await session.rows("DELETE FROM change", within=LONG)
        looked: dict[str, Item] = {}
        keys = list({key for job in jobs for key in job.decision.keys})
        if keys:
            looked = {row["key"]: item_of(row) for row in await session.rows(_LOOK, keys, within=LONG)}
        changes = _Changes()
        outcomes: list[int | Exception] = []
        # the time is read under the lock, so that what one process found expired none finds alive later
        now = self._clock.now()
        for job in jobs:
            try:
                writes = job.decision(looked.get, now)
            except TeleportError as error:
                outcomes.append(error)
                continue
            if writes:
                revision += 1
                changes.add(revision, writes)
                for write in writes:
                    if isinstance(write, PutOp):
                        looked[write.key] = Item(write.key, bytes(write.value), revision, write.expires)
                    else:
                        looked.pop(write.key, None)
            outcomes.append(revision)
        for piece in changes.pieces():
            await session.rows(_CHANGE, *piece, within=LONG)
        sent = _Sent(self._number + 1, list(jobs), outcomes)
        if revision == state["revision"]:
            await session.run("ROLLBACK")
            _answer_all(sent)
            return
        self._number = sent.number
        await session.rows(_DONE, self._process, sent.number, revision, kept, state["current"])
        self._sent = sent
        await session.run("COMMIT", within=COMMITTING)
        self._sent = None
        _answer_all(sent)

    def _drop_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.cut()


def _answer_all(sent: _Sent) -> None:
    for job, outcome in zip(sent.jobs, sent.outcomes, strict=True):
        _answer(job, outcome)


def _answer(job: _Job, outcome: int | Exception) -> None:
    if job.future.done():  # its caller may have been cancelled
        return
    if isinstance(outcome, Exception):
        job.future.set_exception(outcome)
    else:
        job.future.set_result(outcome)


def _unknown(failure: Exception) -> Exception:
    """For a write that was committed or was not: nobody could be asked."""
    return ConnectionProblem(
        f"it is not known whether this was written: {failure}",
        hint=getattr(failure, "hint", "") or "see what is stored, then do it again if it is not there",
    )
