"""Watches that begin share what they begin with, and it is always true."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from teleport.backend.feed import Entry, Feed
from teleport.backend.follow import follow
from teleport.backend.interface import Deleted, Item, Put, PutOp, Snapshot
from teleport.backend.kept_snapshots import KEPT_FOR, KeptSnapshots
from teleport.backend.sqlite import SqliteBackend
from teleport.testing.clock import FakeClock
from teleport.testing.running import wait_until

PREFIXES = ("a/", "b/")


class Storage:
    """Reads that end when they are told to, and a feed."""

    def __init__(self, *, max_events: int = 1000) -> None:
        self.items = {"a/1": Item("a/1", b"one", 1, None)}
        self.revision = 1
        self.reads = 0
        self.go = asyncio.Event()
        self.go.set()
        self.feed = Feed(base=1, max_events=max_events, max_bytes=1 << 20)
        self.kept = KeptSnapshots(self.read)

    async def read(self, prefixes: Sequence[str]) -> Snapshot:
        self.reads += 1
        found = Snapshot(
            [item for _, item in sorted(self.items.items()) if item.key.startswith(tuple(prefixes))], self.revision
        )
        await self.go.wait()
        return found

    def put(self, key: str, value: bytes) -> None:
        self.revision += 1
        self.items[key] = Item(key, value, self.revision, None)
        self.feed.append(Entry(self.revision, (Put(self.items[key]),)))

    def delete(self, key: str) -> None:
        self.revision += 1
        del self.items[key]
        self.feed.append(Entry(self.revision, (Deleted(key, self.revision),)))

    async def get(self) -> Snapshot:
        return await self.kept.get(PREFIXES, self.feed)


async def test_all_who_come_during_a_read_wait_for_that_one() -> None:
    storage = Storage()
    storage.go.clear()
    waiting = [asyncio.create_task(storage.get()) for _ in range(100)]
    await wait_until(lambda: storage.reads == 1)
    waiting[0].cancel()  # whoever reads leaves: another one reads
    await asyncio.gather(waiting[0], return_exceptions=True)
    await wait_until(lambda: storage.reads == 2)
    storage.put("b/1", b"came while it was read")
    storage.go.set()
    found = await asyncio.gather(*waiting[1:])
    assert storage.reads == 2
    assert [item.key for item in found[-1].items] == ["a/1", "b/1"]
    assert found[-1].revision == storage.revision


async def test_what_came_since_is_in_it_without_another_read() -> None:
    storage = Storage()
    first = await storage.get()
    storage.put("c/1", b"of no interest")
    second = await storage.get()
    assert second.items is first.items, "what was made of the items holds for both"
    assert second.revision == storage.revision
    draw = random.Random(7)
    for number in range(200):
        key = draw.choice(["a/1", "a/2", "b/1", "b/2", "b/3"])
        if key in storage.items and draw.random() < 0.3:
            storage.delete(key)
        else:
            storage.put(key, str(number).encode())
        if draw.random() < 0.5:
            found = await storage.get()
            wanted = [item for key, item in sorted(storage.items.items()) if key.startswith(PREFIXES)]
            assert list(found.items) == wanted
            assert found.revision == storage.revision
    assert storage.reads == 1


async def test_it_is_read_anew_when_the_feed_has_forgotten_some_or_begins_anew_and_after_a_while() -> None:
    storage = Storage(max_events=3)
    await storage.get()
    for number in range(10):
        storage.put(f"a/{number}", b"")
    assert [item.key for item in (await storage.get()).items] == [f"a/{number}" for number in range(10)]
    assert storage.reads == 2
    storage.feed = Feed(base=storage.revision, max_events=3, max_bytes=1 << 20)
    await storage.get()
    assert storage.reads == 3
    await storage.get()
    assert storage.reads == 3
    storage.kept._kept[PREFIXES].read_at -= KEPT_FOR
    await storage.get()
    assert storage.reads == 4
    storage.feed.reset(None)
    await storage.get()
    await storage.get()
    assert storage.reads == 6, "nobody watches, so nobody would tell"


@asynccontextmanager
async def watched(folder: Path) -> AsyncIterator[SqliteBackend]:
    """A storage whose log is followed."""
    async with SqliteBackend(folder, FakeClock(datetime(2026, 1, 1, tzinfo=UTC))) as backend:
        await backend.put("a/x", b"1")
        stream = follow(backend, PREFIXES, heartbeat=60, shared=True)
        async with aclosing(stream):
            await anext(stream)
            waiting = asyncio.create_task(anext(stream))
            await wait_until(lambda: backend._feed.following)
            try:
                yield backend
            finally:
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)


async def test_a_storage_in_a_file_gives_the_same_items_until_they_change(tmp_path: Path) -> None:
    async with watched(tmp_path) as backend, asyncio.timeout(10):
        first = await backend.watched_snapshot(PREFIXES)
        assert (await backend.watched_snapshot(PREFIXES)).items is first.items
        revision = await backend.put("b/x", b"2")
        found = first
        while found.revision < revision:  # the feed hears of it within moments
            found = await backend.watched_snapshot(PREFIXES)
            await asyncio.sleep(0)
        assert [item.value for item in found.items] == [b"1", b"2"]


async def test_who_follows_keeps_nothing_of_what_there_was(tmp_path: Path) -> None:
    """Each of ten thousand would keep all of it."""
    async with SqliteBackend(tmp_path, FakeClock(datetime(2026, 1, 1, tzinfo=UTC))) as backend:
        await backend.commit([PutOp(f"a/followed/{number}", b"x" * 100) for number in range(500)])
        streams = [follow(backend, PREFIXES, heartbeat=60) for _ in range(20)]
        try:
            for stream in streams:
                await anext(stream)
            tasks = [asyncio.create_task(anext(stream)) for stream in streams]
            await wait_until(lambda: backend._watchers == len(streams))
            gc.collect()
            kept = [one for one in gc.get_objects() if isinstance(one, Item) and one.key.startswith("a/followed/")]
            assert len(kept) < 3 * 500
            await backend.put("b/1", b"")
            await asyncio.gather(*tasks)
        finally:
            for stream in streams:
                await stream.aclose()
