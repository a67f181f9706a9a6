"""The engine over PostgreSQL. It loads asyncpg: import it when such a storage is opened, and only then (`load`).

A read is one statement on a session with the server that takes writes, so it sees whatever was written before. Writes
go through one task (`writer`), as revisions that all processes count together (`schema`). One session is told of
changes (NOTIFY) and reads them from the table that has them all, so a notice that is lost or late loses nothing.
Expired items and old changes are deleted by whichever process finds them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

from teleport.backend.decide import Decision
from teleport.backend.engine import SWEEP_EVERY, Engine
from teleport.backend.following import Following, Source, Stream
from teleport.backend.interface import Event, Item, Snapshot, disjoint
from teleport.backend.kept_snapshots import KeptSnapshots
from teleport.backend.postgresql import changes
from teleport.backend.postgresql.schema import LOCK, changed, open_schema
from teleport.backend.postgresql.servers import COMMITTING, LONG, WITHIN, Refused, Servers, Session
from teleport.backend.postgresql.settings import PostgresqlSettings
from teleport.backend.postgresql.writer import Writer
from teleport.backend.removal import Removal
from teleport.clock import Clock

LOG_KEEP: Final = 50_000  # revisions
LOG_KEEP_FOR: Final = timedelta(minutes=30)
SWEEP_CHUNK: Final = 500  # items in one transaction
TRIM_CHUNK: Final = 2_000  # revisions in one transaction

_EXPIRED: Final = "SELECT key FROM item WHERE expires <= $1 LIMIT $2"
_EXCESS: Final = """
    SELECT max(revision) AS upto FROM (SELECT revision, at FROM change ORDER BY revision LIMIT $3) AS oldest
    WHERE revision <= (SELECT revision FROM meta) - $1 OR at <= now() - $2::interval
"""
_FORGET: Final = "DELETE FROM change WHERE revision <= $1"
_FORGOTTEN: Final = "UPDATE meta SET kept = greatest(kept, $1) RETURNING kept"


class PostgresqlBackend(Engine):
    """Storage in a schema of a database. `async with` opens and closes it."""

    def __init__(
        self,
        settings: PostgresqlSettings,
        clock: Clock,
        *,
        log_keep: int = LOG_KEEP,
        log_keep_for: timedelta = LOG_KEEP_FOR,
        sweep_every: float | None = SWEEP_EVERY,
        may_migrate: bool = True,
        within: float = WITHIN,
    ) -> None:
        """`may_migrate`: no other process uses the storage in an older version. `within`: seconds for one call."""
        super().__init__(sweep_every=sweep_every)
        self._settings = settings
        self._clock = clock
        self._log_keep = log_keep
        self._log_keep_for = log_keep_for
        self._may_migrate = may_migrate
        self._within = within
        self._kept = KeptSnapshots(self.snapshot)

    async def open(self) -> None:
        """Reach the server, and make or migrate the schema. Raises `TeleportError` when that is not possible."""
        self._servers = Servers(self._settings, within=self._within)
        schema = self._schema = await open_schema(self._servers, may_change=self._may_migrate)
        self._writer = Writer(self._servers, schema, self._clock)
        self._following = Following(
            Source(
                where=self._servers.where,
                revision=self.revision,
                begin=self.revision,
                stream=self._stream,
                history=lambda position: changes.history(self._servers, position),
                heard=lambda entry: None,
            )
        )
        await super().open()
        self._start(self._writer.run(), "backend writer")
        self._start(self._following.run(), "backend follow")
        try:
            await self._writer.submit(NOTHING)  # a history that is another is found before anybody reads revisions
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        await self._writer.close()
        await super().close()
        self._following.close()
        await self._servers.close()

    # Reads

    async def get(self, key: str) -> Item | None:
        self._check_open()
        if not changes.storable(key):
            return None
        item = await self._servers.read(lambda session: changes.get(session, key))
        return item if item is not None and item.live(self._clock.now()) else None

    async def range(self, prefix: str = "", *, start: str = "", limit: int = 0) -> list[Item]:
        self._check_open()
        if not changes.storable(prefix + start):
            return []
        now = self._clock.now()
        return await self._servers.read(lambda session: changes.in_range(session, prefix, start, limit, now))

    async def snapshot(self, prefixes: Sequence[str]) -> Snapshot:
        self._check_open()
        wanted = disjoint([prefix for prefix in prefixes if changes.storable(prefix)])
        now = self._clock.now()
        items, revision = await self._servers.read(lambda session: changes.under(session, wanted, now))
        return Snapshot(items, revision)

    async def watched_snapshot(self, prefixes: Sequence[str]) -> Snapshot:
        self._check_open()
        return await self._kept.get(prefixes, self._following.feed)

    async def revision(self) -> int:
        self._check_open()
        return await self._servers.read(changes.revision)

    # Writes

    async def _write(self, decision: Decision) -> int:
        self._check_open()
        return await self._writer.submit(decision)

    async def sweep(self) -> int:
        self._check_open()
        swept = 0
        while True:
            now = self._clock.now()
            rows = await self._servers.read(partial(_expired, now), "sweep")
            if not rows:
                break
            removal = Removal([row["key"] for row in rows])
            await self._writer.submit(removal.decision)
            swept += removal.removed
        await self._trim()
        return swept

    async def _trim(self) -> None:
        """Forget changes that are too many or too old."""
        while True:
            upto = await self._servers.read(self._excess, "sweep")
            if upto is None:
                return
            await self._servers.read(partial(self._forget, upto), "sweep")
            self._following.feed.forget(upto)

    async def _excess(self, session: Session) -> int | None:
        for chunk in (1, TRIM_CHUNK):  # most often the oldest one may stay
            row = await session.row(_EXCESS, self._log_keep, self._log_keep_for, chunk)
            if row["upto"] is None:
                return None
        return int(row["upto"])

    async def _forget(self, upto: int, session: Session) -> None:
        await session.run(LOCK)
        if not await session.rows("SELECT 1 FROM meta WHERE made = $1", self._schema.made):
            raise changed(self._servers)
        await session.rows(_FORGET, upto, within=LONG)
        await session.rows(_FORGOTTEN, upto)
        await session.run("COMMIT", within=COMMITTING)

    # Watches

    async def watch(self, prefixes: Sequence[str], *, start: int) -> AsyncGenerator[list[Event], None]:
        self._check_open()
        async with aclosing(self._following.watch(prefixes, start)) as batches:
            async for batch in batches:
                yield batch

    async def _stream(self, position: int) -> Stream:
        try:
            async with aclosing(changes.live(self._servers, position, self._check_history)) as stream:
                async for told in stream:
                    yield told
        except Refused as error:
            raise self._servers.explain("watch", error) from error

    async def _check_history(self, session: Session) -> None:
        """Another server, or the same after a restart: what it has is what we know, or else it is made to say so."""
        if not await changes.same_history(session):
            await self._writer.submit(NOTHING)


NOTHING: Final = Decision(lambda look, now: [])


async def _expired(now: datetime, session: Session) -> list[Any]:
    return await session.rows(_EXPIRED, now, SWEEP_CHUNK)
