"""The one task that writes: each transaction is made by `committing`, and is one of the server's.

A commit costs the server one sync of its disk however many writes are in it, and all processes write one after the
other. When the answer to COMMIT was lost, the next transaction finds out first, in the table `writer`: it locks the row
that every transaction locks, so the lost one is over by then, one way or the other. One whose COMMIT was never sent
cannot happen any more.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

from teleport.backend.committing import Committing, Failed, Job, Sent, answer_all
from teleport.backend.interface import DeleteOp, Item, PutOp, Write
from teleport.backend.postgresql.changes import item_of
from teleport.backend.postgresql.refusals import Kind
from teleport.backend.postgresql.schema import HISTORY, LEAP, LOCK, Schema, changed
from teleport.backend.postgresql.servers import COMMITTING, LONG, Refused, Servers, Session
from teleport.clock import Clock
from teleport.errors import TeleportError

GROUP_BYTES: Final = 4 * 1024 * 1024  # of values, unless one write has more
PART_BYTES: Final = 8 * 1024 * 1024  # of values in one statement, about

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


class Writer(Committing):
    """Of one open storage. `run` it in a task."""

    def __init__(self, servers: Servers, schema: Schema, clock: Clock) -> None:
        super().__init__(servers.where, within=servers.within, group_bytes=GROUP_BYTES)
        self._servers = servers
        self._schema = schema
        self._clock = clock
        self._process = uuid4()
        self._number = 0
        self._session: Session | None = None

    async def close(self) -> None:
        await super().close()
        session, self._session = self._session, None
        if session is not None:
            try:
                await session.rows(_LEAVE, self._process, within=1.0)
            except Refused as error:
                log.debug("a row of the table writer was left error=%s", error.details)
            await session.close()

    async def run(self) -> None:
        try:
            await super().run()
        finally:
            if self._session is not None:
                self._session.cut()

    def _failed(self, error: Exception) -> Failed:
        session, self._session = self._session, None
        if session is not None:
            session.cut()
        if isinstance(error, Refused):
            again = error.kind in (Kind.AGAIN, Kind.STANDBY)
            return Failed(self._servers.explain("write to", error), again, error.kind is Kind.REFUSED)
        if isinstance(error, TeleportError):
            return Failed(error, False, False)
        log.error("a transaction failed storage=%s", self._servers.where, exc_info=error)
        return Failed(error, False, True)

    async def _transact(self, jobs: list[Job]) -> None:
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
                answer_all(sent)
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
        sent = Sent(self._number + 1, list(jobs), outcomes)
        if revision == state["revision"]:
            await session.run("ROLLBACK")
            answer_all(sent)
            return
        self._number = sent.number
        await session.rows(_DONE, self._process, sent.number, revision, kept, state["current"])
        self._sent = sent
        await session.run("COMMIT", within=COMMITTING)
        self._sent = None
        answer_all(sent)
