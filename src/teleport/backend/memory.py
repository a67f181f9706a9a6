"""Storage in memory, with the same semantics as the durable engines: for tests, and for what may be lost."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from teleport.backend.decide import Decision
from teleport.backend.engine import CLOSED, SWEEP_EVERY, Engine
from teleport.backend.feed import Entry, Feed, select
from teleport.backend.interface import (
    BackendClosed,
    Deleted,
    DeleteOp,
    Event,
    Item,
    Put,
    PutOp,
    Snapshot,
    WatchCompacted,
    Write,
    disjoint,
)
from teleport.backend.ordered import OrderedItems
from teleport.clock import Clock

LOG_KEEP = 10_000  # events
LOG_KEEP_BYTES = 64 * 1024 * 1024


class MemoryBackend(Engine):
    """Every call is one step of the loop, hence atomic."""

    def __init__(self, clock: Clock, *, log_keep: int = LOG_KEEP, sweep_every: float | None = SWEEP_EVERY) -> None:
        super().__init__(sweep_every=sweep_every)
        self._clock = clock
        self._items = OrderedItems()
        self._revision = 0
        self._feed = Feed(base=0, max_events=log_keep, max_bytes=LOG_KEEP_BYTES)

    async def get(self, key: str) -> Item | None:
        self._check_open()
        item = self._items.get(key)
        return item if item is not None and item.live(self._clock.now()) else None

    async def range(self, prefix: str = "", *, start: str = "", limit: int = 0) -> list[Item]:
        self._check_open()
        return self._range(prefix, start, limit)

    async def snapshot(self, prefixes: Sequence[str]) -> Snapshot:
        self._check_open()
        return Snapshot([item for prefix in disjoint(prefixes) for item in self._range(prefix)], self._revision)

    async def revision(self) -> int:
        self._check_open()
        return self._revision

    async def watch(self, prefixes: Sequence[str], *, start: int) -> AsyncGenerator[list[Event], None]:
        self._check_open()
        wanted = tuple(prefixes)
        position = start
        if start > self._revision:
            raise WatchCompacted(f"cannot watch from revision {start}: the last is {self._revision}")
        while True:
            interest = self._feed.interest(wanted)
            if self._feed.failure is not None:
                raise self._feed.failure
            entries = self._feed.after(position)
            if entries is None:
                raise WatchCompacted(f"cannot watch from revision {position}: its changes are no longer kept")
            if not entries:
                await interest.changed.wait()
                position = max(position, interest.before)
                continue
            position = entries[-1].revision
            if events := select(entries, wanted):
                yield events

    async def sweep(self) -> int:
        self._check_open()
        now = self._clock.now()
        gone = [DeleteOp(item.key) for item in self._items.under() if not item.live(now)]
        self._apply(gone)
        return len(gone)

    async def open(self) -> None:
        """Start, or start again: the items are still there."""
        self._feed.failure = None
        await super().open()

    async def close(self) -> None:
        await super().close()
        self._feed.fail(BackendClosed(CLOSED))

    async def _write(self, decision: Decision) -> int:
        self._check_open()
        return self._apply(decision(self._items.get, self._clock.now()))

    def _range(self, prefix: str, start: str = "", limit: int = 0) -> list[Item]:
        now = self._clock.now()
        found: list[Item] = []
        for item in self._items.under(prefix, start=start):
            if item.live(now):
                found.append(item)
                if len(found) == limit:
                    break
        return found

    def _apply(self, changes: Sequence[Write]) -> int:
        if not changes:
            return self._revision
        self._revision += 1
        events: list[Event] = []
        for change in changes:
            match change:
                case PutOp(key, value, expires):
                    item = Item(key, bytes(value), self._revision, expires)
                    self._items.put(item)
                    events.append(Put(item))
                case DeleteOp(key):
                    self._items.remove(key)
                    events.append(Deleted(key, self._revision))
        self._feed.append(Entry(self._revision, tuple(events)))
        return self._revision
