"""The engine over DynamoDB. It loads aiobotocore: import it when such a storage is opened, and only then (`load`).

The table holds a log of all changes, in which each write has its place (`writer`), and the items as of some revision
(`checkpoint`). A process knows all items and reads what others appended whenever somebody asks (`replica`), so a read
sees whatever was written before, a snapshot is of one revision, and a transaction may be larger than one of DynamoDB's.
Changes are followed by looking at the log: a stream of DynamoDB is for two readers at most, has no order over several
keys, and is looked at in the same way.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import timedelta
from typing import Final

from teleport.backend.decide import Decision
from teleport.backend.dynamodb.adopting import adopt, is_copy
from teleport.backend.dynamodb.checkpoint import Checkpoints
from teleport.backend.dynamodb.replica import Replica
from teleport.backend.dynamodb.schema import open_schema
from teleport.backend.dynamodb.settings import DynamoSettings
from teleport.backend.dynamodb.table import WITHIN, Refused, Table
from teleport.backend.dynamodb.writer import Writer
from teleport.backend.engine import SWEEP_EVERY, Engine
from teleport.backend.following import Following, Source
from teleport.backend.interface import Event, Item, Snapshot, disjoint
from teleport.backend.kept_snapshots import KeptSnapshots
from teleport.backend.removal import Removal
from teleport.clock import Clock

LOG_KEEP: Final = 50_000  # revisions
LOG_KEEP_FOR: Final = timedelta(minutes=30)
SWEEP_CHUNK: Final = 500  # items in one transaction


class DynamoBackend(Engine):
    """Storage in a table. `async with` opens and closes it."""

    def __init__(
        self,
        settings: DynamoSettings,
        clock: Clock,
        *,
        log_keep: int = LOG_KEEP,
        log_keep_for: timedelta = LOG_KEEP_FOR,
        sweep_every: float | None = SWEEP_EVERY,
        within: float = WITHIN,
    ) -> None:
        """`within`: seconds for one call."""
        super().__init__(sweep_every=sweep_every)
        self._settings = settings
        self._clock = clock
        self._log_keep = log_keep
        self._log_keep_for = log_keep_for
        self._within = within
        self._kept = KeptSnapshots(self.snapshot)

    async def open(self) -> None:
        """Reach the service, and make the table if it is absent. Raises `TeleportError` when that is not possible."""
        self._table = table = Table(self._settings, within=self._within)
        try:
            await table.open()
            schema, identity = await open_schema(table)
            copied = await is_copy(table, identity)
            self._replica = replica = Replica(table, schema)
            await replica.load()
        except Refused as error:
            await table.close()
            raise table.explain("open", error) from error
        except BaseException:
            await table.close()
            raise
        self._writer = Writer(table, schema, replica, self._clock)
        self._checkpoints = Checkpoints(
            table, replica, self._clock, log_keep=self._log_keep, log_keep_for=self._log_keep_for
        )
        self._following = Following(
            Source(
                where=table.where,
                revision=self.revision,
                begin=self.revision,
                stream=replica.stream,
                history=replica.history,
                heard=lambda entry: None,
            )
        )
        await super().open()
        self._start(replica.run(), "backend reader")
        self._start(self._writer.run(), "backend writer")
        try:
            if copied:
                await adopt(table, identity, schema, self._writer, self._checkpoints)
        except Refused as error:
            await self.close()
            raise table.explain("open", error) from error
        except BaseException:
            await self.close()
            raise
        self._start(self._following.run(), "backend follow")

    async def close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        await self._writer.close()
        self._following.close()
        self._replica.close()
        await super().close()
        await self._table.close()

    # Reads

    async def get(self, key: str) -> Item | None:
        await self._catch_up()
        item = self._replica.items.get(key)
        return item if item is not None and item.live(self._clock.now()) else None

    async def range(self, prefix: str = "", *, start: str = "", limit: int = 0) -> list[Item]:
        await self._catch_up()
        return self._range(prefix, start, limit)

    async def snapshot(self, prefixes: Sequence[str]) -> Snapshot:
        await self._catch_up()
        items = [item for prefix in disjoint(prefixes) for item in self._range(prefix)]
        return Snapshot(items, self._replica.position)

    async def watched_snapshot(self, prefixes: Sequence[str]) -> Snapshot:
        self._check_open()
        return await self._kept.get(prefixes, self._following.feed)

    async def revision(self) -> int:
        await self._catch_up()
        return self._replica.position

    async def _catch_up(self) -> None:
        self._check_open()
        await self._replica.catch_up()

    def _range(self, prefix: str, start: str = "", limit: int = 0) -> list[Item]:
        now = self._clock.now()
        found: list[Item] = []
        for item in self._replica.items.under(prefix, start=start):
            if item.live(now):
                found.append(item)
                if len(found) == limit:
                    break
        return found

    # Writes

    async def _write(self, decision: Decision) -> int:
        self._check_open()
        return await self._writer.submit(decision)

    async def sweep(self) -> int:
        self._check_open()
        swept = 0
        expiring = self._replica.expiring
        while due := expiring.due(now := self._clock.now(), SWEEP_CHUNK):
            removal = Removal([key for key, _ in due])
            try:
                await self._writer.submit(removal.decision)
            except BaseException:
                expiring.put_back(due, now)
                raise
            swept += removal.removed
        try:
            await self._checkpoints.run_if_due()
        except Refused as error:
            raise self._table.explain("sweep", error) from error
        self._following.feed.forget(self._checkpoints.kept)
        return swept

    # Watches

    async def watch(self, prefixes: Sequence[str], *, start: int) -> AsyncGenerator[list[Event], None]:
        self._check_open()
        async with aclosing(self._following.watch(prefixes, start)) as batches:
            async for batch in batches:
                yield batch
