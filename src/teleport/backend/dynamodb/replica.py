"""What this process knows of the storage: all items as of a revision, made true to the log whenever somebody asks.

Reading means: see in the row `head` whether there is more than is known, read that from the log, and answer from
memory. Whoever asks while others are being answered waits for the next turn, together with all that ask meanwhile: so
what a read costs the table does not grow with how many read.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Final

from teleport.aws.answers import Kind
from teleport.backend.dynamodb.rows import CHECKPOINT, HEAD, PIECE, Record, int_of, item_of, padded, records_of
from teleport.backend.dynamodb.schema import Schema, changed
from teleport.backend.dynamodb.table import Refused, Table
from teleport.backend.expiring import Expiring
from teleport.backend.feed import Entry, Feed
from teleport.backend.following import FEED_BYTES, FEED_EVENTS
from teleport.backend.interface import BackendClosed, Item, Put, WatchCompacted
from teleport.backend.ordered import OrderedItems
from teleport.errors import ConnectionProblem, TeleportError

READS: Final = 5  # times that reading all is begun anew because the log was cut meanwhile
FILLED: Final = 0.02  # seconds until a row of the log is looked for again whose transaction is being finished
POLL: Final = 0.25  # seconds between looks for what others wrote
FRESH: Final = 2.5  # seconds that who follows waits for an answer: others take what it has for the newest
FAR: Final = ".99"  # after all parts of a record


class Replica:
    """Of one open storage. `load` it, then `run` it in a task."""

    def __init__(self, table: Table, schema: Schema) -> None:
        self._table = table
        self._schema = schema
        self._waiting: list[asyncio.Future[None]] = []
        self._asked = asyncio.Event()
        self._closed = False
        self.items = OrderedItems()
        self.expiring = Expiring()
        self.dirty: dict[str, int] = {}  # keys changed since the last known checkpoint, and by which revision last
        self.dirty_bytes = 0  # of the log since
        self.large: set[str] = set()  # keys whose value was, at some time, more than one row holds
        self.applied = 0  # the last known checkpoint
        self.position = 0
        self.last: Record | None = None  # the newest that is known
        self.feed = Feed(base=0, max_events=FEED_EVENTS, max_bytes=FEED_BYTES)

    async def load(self) -> None:
        """All there is. Rows of items may be newer than the checkpoint: the log since then tells all of it."""
        for _ in range(READS):
            about = await self._table.get(CHECKPOINT)
            if not about:
                raise changed(self._table)
            applied = int_of(about, "applied")
            items, torn = await self._read_items()
            self.items = OrderedItems(items)
            self.position = self.applied = applied
            self.dirty, self.dirty_bytes = {}, 0
            self.expiring = Expiring()
            self.expiring.note(Put(item) for item in items)
            self.feed.reset(applied)
            try:
                await self._look()
            except WatchCompacted:
                continue
            if torn <= self.dirty.keys():
                return
        raise ConnectionProblem(
            f"cannot read the storage in DynamoDB ({self._table.where}): it changes faster than it can be read",
            hint="raise the read capacity of the table",
        )

    async def catch_up(self) -> None:
        """All that was written before this call is known when it returns."""
        if self._closed:
            raise BackendClosed("the storage is not open")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._asked.set()
        await future

    async def run(self) -> None:
        """Answer those that wait, until cancelled."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            waiting, self._waiting = self._waiting, []
            waiting = [one for one in waiting if not one.done()]
            if not waiting:
                continue
            failure: Exception | None = None
            try:
                await self._look()
            except Refused as error:
                failure = self._table.explain("read", error)
            except WatchCompacted:  # this process stood still for long
                failure = await self._anew()
            except Exception as error:
                failure = error
            except BaseException:
                self._waiting += waiting
                raise
            for one in waiting:
                if not one.done():
                    one.set_result(None) if failure is None else one.set_exception(failure)

    def close(self) -> None:
        """Nobody waits any more."""
        self._closed = True
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if not one.done():
                one.set_exception(BackendClosed("the storage is not open"))
        self.feed.fail(BackendClosed("the storage is not open"))

    def take(self, record: Record) -> None:
        """A record that follows what is known, or is known."""
        if record.revision <= self.position or record.before != self.position:
            return
        for entry in record.entries:
            for event in entry.events:
                if isinstance(event, Put):
                    self.items.put(event.item)
                    if len(event.item.value) > PIECE:
                        self.large.add(event.key)
                else:
                    self.items.remove(event.key)
                self.dirty[event.key] = event.revision
            self.expiring.note(entry.events)
        self.position = record.revision
        self.last = record
        self.dirty_bytes += record.size
        for entry in record.entries:
            self.feed.append(entry)

    async def was_written(self, record: Record) -> bool:
        """Whether the record is in the log. Raises `Refused`, also when the log does not go back to its place."""
        if record.before < int_of(await self._table.get(CHECKPOINT), "kept"):
            raise Refused(Kind.REFUSED, "the log does not tell any more whether it was written", unsure=True)
        async with aclosing(self._records(record.before)) as records:
            async for found in records:
                return found.before == record.before and found.by == record.by
        return False

    def written_out(self, applied: int) -> None:
        """The checkpoint is there now."""
        if applied > self.applied:
            self.applied = applied
            self.dirty = {key: revision for key, revision in self.dirty.items() if revision > applied}
            self.dirty_bytes = 0 if not self.dirty else self.dirty_bytes

    async def stream(self, position: int) -> AsyncGenerator[tuple[list[Entry], int], None]:
        """The changes after a revision as they come, for those who follow. Raises `WatchCompacted`."""
        while True:
            interest = self.feed.interest(("",))
            if self.feed.failure is not None:
                raise self.feed.failure
            entries = self.feed.after(position)
            if entries is None:
                raise WatchCompacted(f"cannot watch from revision {position}: its changes are no longer kept")
            if entries:
                position = entries[-1].revision
                yield entries, position
                continue
            try:
                async with asyncio.timeout(POLL):
                    await interest.changed.wait()
            except TimeoutError:
                await self._catch_up_soon()
                yield [], position

    async def _catch_up_soon(self) -> None:
        try:
            async with asyncio.timeout(FRESH):
                await self.catch_up()
        except TimeoutError:
            raise ConnectionProblem(
                f"cannot watch the storage in DynamoDB ({self._table.where}): no answer in time",
                hint="check that the service is reached from here (TCP 443)",
            ) from None

    async def history(self, position: int) -> AsyncGenerator[tuple[list[Entry], int], None]:
        """The changes after a revision from the log, for a watcher that is behind. Raises `WatchCompacted`."""
        try:
            if position < int_of(await self._table.get(CHECKPOINT), "kept"):
                raise _compacted(position)
            async with aclosing(self._records(position)) as records:
                async for record in records:
                    if record.before > position:  # it was cut since
                        raise _compacted(position)
                    entries = [entry for entry in record.entries if entry.revision > position]
                    position = record.revision
                    yield entries, position
        except Refused as error:
            raise self._table.explain("watch", error) from error

    async def _anew(self) -> Exception | None:
        try:
            await self.load()
        except Refused as error:
            return self._table.explain("read", error)
        except TeleportError as error:
            return error
        return None

    async def _look(self) -> None:
        """Take what the log has more. Raises `Refused`, `WatchCompacted`, or `TeleportError` when it is another one."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._table.within
        while True:
            head = await self._table.get(HEAD)
            if not head or Schema.of(head) != self._schema:
                raise changed(self._table)
            wanted = int_of(head, "revision")
            if wanted < self.position and not await self._is_there():  # our own write may have overtaken the answer
                raise changed(self._table)
            if wanted <= self.position:
                return
            async with aclosing(self._records(self.position)) as records:
                async for record in records:
                    if record.before > self.position:
                        if self.position < int_of(await self._table.get(CHECKPOINT), "kept"):
                            raise _compacted(self.position)
                        break  # one before it is being made visible
                    self.take(record)
            if self.position >= wanted:
                return
            if self.position < int_of(await self._table.get(CHECKPOINT), "kept"):
                raise _compacted(self.position)
            if loop.time() > deadline:
                raise TeleportError(
                    f"the storage in DynamoDB ({self._table.where}) is not whole: of its changes up to revision "
                    f"{wanted} those after {self.position} are missing",
                    hint="restore the table as of another moment: a backup may have caught a write half-way",
                )
            await asyncio.sleep(FILLED)

    async def _is_there(self) -> bool:
        position = self.position
        return int_of(await self._table.get(HEAD), "revision") >= position

    async def _records(self, position: int) -> AsyncGenerator[Record, None]:
        """The records of the log that end after `position`."""
        rows: list[Mapping[str, Any]] = []
        async with aclosing(self._table.pages("log", after=padded(position) + FAR)) as pages:
            async for page in pages:
                rows += page
                records = records_of(rows)
                for record in records:
                    yield record
                    rows = rows[record.rows :]

    async def _read_items(self) -> tuple[list[Item], set[str]]:
        """The items, and the keys of those that were rewritten while they were read."""
        found: list[Item] = []
        torn: set[str] = set()
        async with aclosing(self._table.pages("item")) as pages:
            async for page in pages:
                for row in page:
                    key, parts = row["key"]["S"], int_of(row, "parts", 1)
                    more: list[Mapping[str, Any]] = []
                    if parts > 1:
                        self.large.add(key)
                        at = padded(int_of(row, "revision"))
                        async with aclosing(self._table.pages(f"part/{key}", after=at, upto=at + FAR)) as rest:
                            async for one in rest:
                                more += one
                        if len(more) != parts - 1:
                            torn.add(key)
                            continue
                    found.append(item_of(row, more))
        return found, torn


def _compacted(position: int) -> WatchCompacted:
    return WatchCompacted(f"cannot watch from revision {position}: its changes are no longer kept")
