"""The local copy: filled from a stream, served without it, replaced whole, ordered, honest about its age."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta

import pytest

from teleport.backend import Changes, Deleted, Event, Item, Put, PutOp, Snapshot
from teleport.backend.follow import follow
from teleport.backend.memory import MemoryBackend
from teleport.errors import ConnectionProblem
from teleport.store.cache import Backoff, Cache, Update
from teleport.testing.clock import FakeClock

PATIENCE = 10.0  # seconds until a test that waits gives up


class Script:
    """Sources that say what the test tells them to, one connection after another."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Update | Exception | None] = asyncio.Queue()
        self.connections = 0
        self.closed = 0
        self.unreachable: Exception | None = None

    async def _source(self) -> AsyncGenerator[Update, None]:
        try:
            while (said := await self.queue.get()) is not None:
                if isinstance(said, Exception):
                    raise said
                yield said
        finally:
            self.closed += 1

    def connect(self) -> AsyncGenerator[Update, None]:
        self.connections += 1
        if self.unreachable is not None:
            raise self.unreachable
        return self._source()

    def say(self, *updates: Update | Exception | None) -> None:
        for update in updates:
            self.queue.put_nowait(update)


class Naps:
    """A sleep that takes no time, and remembers."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)
        await asyncio.sleep(0)


def item(key: str, revision: int, value: bytes = b"", **more: timedelta) -> Item:
    return Item(key, value, revision, FakeClock().now() + more["lives"] if more else None)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  (a condition of the code under test, with a deadline)
            await asyncio.sleep(0.001)


@asynccontextmanager
async def running(cache: Cache, connect: Callable[[], AsyncGenerator[Update, None]]) -> AsyncIterator[asyncio.Event]:
    ready = asyncio.Event()
    task = asyncio.create_task(cache.run(connect, ready.set))
    try:
        yield ready
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled(), "it runs until it is cancelled"


def make(clock: FakeClock, naps: Naps | None = None, *, silence: float = 60.0) -> Cache:
    return Cache("test", clock, jitter=lambda: 0.0, sleep=naps or Naps(), silence=silence)


async def test_a_cache_that_was_never_filled_refuses_to_answer() -> None:
    """Empty would read as "no locks"."""
    clock = FakeClock()
    cache = make(clock)
    assert not cache.ready
    assert cache.age(clock.now()) == float("inf")
    with pytest.raises(ConnectionProblem, match="not been reached"):
        cache.get("k")
    with pytest.raises(ConnectionProblem):
        cache.range("k")


async def test_it_is_ready_at_the_first_snapshot_and_reads_in_order() -> None:
    cache, script = make(FakeClock()), Script()
    async with running(cache, script.connect) as ready:
        await asyncio.sleep(0)
        assert not ready.is_set()
        script.say(Snapshot([item("n/b", 1), item("a", 2), item("n/a", 3, b"value"), item("n0", 4)], 7))
        await until(ready.is_set)
        assert cache.ready
        assert cache.revision == 7
        assert [found.key for found in cache.range("n/")] == ["n/a", "n/b"]
        assert [found.key for found in cache.range()] == ["a", "n/a", "n/b", "n0"]
        assert cache.get("n/a") == item("n/a", 3, b"value")
        assert cache.get("n/c") is None


async def test_changes_are_applied_a_whole_batch_at_a_time() -> None:
    """A callback, the first to run after a batch, sees all of it."""
    cache, script = make(FakeClock()), Script()
    seen: list[tuple[Event, list[str]]] = []
    cache.subscribe("n/", lambda event: seen.append((event, [found.key for found in cache.range()])))
    async with running(cache, script.connect):
        script.say(Snapshot([item("n/a", 1), item("n/b", 1)], 1))
        script.say(Changes([Deleted("n/a", 2), Put(item("n/c", 3)), Put(item("other", 3))], 3))
        await until(lambda: cache.revision == 3)
        after = ["n/b", "n/c", "other"]
        assert seen[2:] == [(Deleted("n/a", 2), after), (Put(item("n/c", 3)), after)]


async def test_changes_that_the_snapshot_had_already_are_not_news() -> None:
    cache, script = make(FakeClock()), Script()
    seen: list[Event] = []
    async with running(cache, script.connect):
        script.say(Snapshot([item("k", 5, b"new")], 5))
        await until(lambda: cache.ready)
        cache.subscribe("", seen.append)
        script.say(Changes([Put(item("k", 3, b"old")), Deleted("k", 4), Put(item("k", 5, b"new")), Deleted("x", 6)], 6))
        await until(lambda: cache.revision == 6)
        assert cache.get("k") == item("k", 5, b"new")
        assert seen == []


async def test_the_old_copy_is_served_while_the_source_is_away() -> None:
    cache, script, naps = make(FakeClock(), naps := Naps()), Script(), naps
    async with running(cache, script.connect):
        script.say(Snapshot([item("k", 1)], 1))
        await until(lambda: cache.ready)
        script.unreachable = ConnectionProblem("auth is away")
        script.say(OSError("reset"))
        await until(lambda: len(naps.taken) > 5)
        assert cache.get("k") is not None
        assert script.closed == 1, "the broken source was closed"
        script.unreachable = None
        script.say(Snapshot([item("k", 9)], 9))
        await until(lambda: cache.revision == 9)


async def test_the_pauses_grow_to_a_bound_and_begin_anew_after_a_good_connection() -> None:
    clock, naps, script = FakeClock(), Naps(), Script()
    cache = Cache("test", clock, jitter=lambda: 0.5, sleep=naps, backoff=Backoff(first=1.0, most=5.0))
    script.unreachable = OSError("no route")
    async with running(cache, script.connect) as ready:
        await until(lambda: len(naps.taken) >= 6)
        assert naps.taken[:6] == [0.75, 1.5, 3.0, 3.75, 3.75, 3.75]
        assert not ready.is_set()
        script.unreachable = None
        script.say(Snapshot([], 1), Changes([], 1), None)
        await until(ready.is_set)
        await until(lambda: naps.taken[-1] == 0.75)


async def test_a_pause_ends_when_there_is_a_way_again() -> None:
    script = Script()
    script.unreachable = OSError("no tunnel")
    cache = Cache("test", FakeClock(), jitter=lambda: 0.0, backoff=Backoff(first=1000.0, most=1000.0))
    async with running(cache, script.connect) as ready:
        cache.hurry()  # nothing waits yet: it shortens no later pause
        await until(lambda: len(asyncio.all_tasks()) > 3)
        script.unreachable = None
        script.say(Snapshot([], 1))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not ready.is_set()
        cache.hurry()
        await until(ready.is_set)


async def test_a_filled_cache_asks_a_source_anew_when_it_is_its_turn() -> None:
    class Waiting:
        def __init__(self) -> None:
            self.comes = asyncio.Event()
            self.told = 0

        async def wait(self) -> None:
            await self.comes.wait()

        def heard(self) -> None:
            self.told += 1

    script, turn = Script(), Waiting()
    cache = Cache("test", FakeClock(), jitter=lambda: 0.0, sleep=Naps())
    cache.turn = turn
    async with running(cache, script.connect):
        script.say(Snapshot([item("k", 1)], 1))
        await until(lambda: cache.ready)  # the first time nobody waits
        script.say(OSError("reset"), Snapshot([item("k", 9)], 9))
        await until(lambda: script.closed == 1)
        for _ in range(5):
            await asyncio.sleep(0)
        assert (cache.revision, turn.told) == (1, 1)
        turn.comes.set()
        await until(lambda: cache.revision == 9)
        assert turn.told == 2


async def test_a_source_that_only_gives_snapshots_and_breaks_off_is_asked_less_and_less() -> None:
    cache, script, naps = make(FakeClock(), naps := Naps()), Script(), naps
    async with running(cache, script.connect):
        for _ in range(3):
            script.say(Snapshot([], 1), None)
        await until(lambda: len(naps.taken) == 3)
        assert naps.taken == [0.5, 1.0, 2.0]


async def test_jitter_shortens_a_pause_by_up_to_half() -> None:
    chance = random.Random(7)
    delays = [Backoff(first=1.0, most=8.0).delay(10, chance.random()) for _ in range(1000)]
    assert 4.0 < min(delays) < 4.1
    assert 7.9 < max(delays) <= 8.0
    assert Backoff().delay(10**9, 0.0) == 30.0, "however many failures"


async def test_a_silent_source_is_given_up() -> None:
    """A connection whose other end vanished says nothing, for ever."""
    cache, script = make(FakeClock(), silence=0.02), Script()
    async with running(cache, script.connect):
        script.say(Snapshot([item("k", 1)], 1))
        await until(lambda: script.connections >= 3)
        assert script.closed >= 2
        assert cache.get("k") is not None


async def test_a_source_that_begins_without_a_snapshot_changes_nothing() -> None:
    cache, script = make(FakeClock()), Script()
    async with running(cache, script.connect):
        script.say(Snapshot([item("k", 1)], 1), None)
        script.say(Changes([Deleted("k", 2)], 2))
        await until(lambda: script.connections == 3)
        assert cache.get("k") is not None
        assert cache.revision == 1


async def test_a_new_snapshot_replaces_all_and_subscribers_get_the_difference() -> None:
    """Also when revisions went back, as after a restore."""
    cache, script = make(FakeClock()), Script()
    seen: list[Event] = []
    async with running(cache, script.connect):
        script.say(Snapshot([item("gone", 40), item("same", 41), item("changed", 42)], 50))
        await until(lambda: cache.ready)
        cache.subscribe("", seen.append)
        script.say(None, Snapshot([item("changed", 7), item("new", 8), item("same", 41)], 9))
        await until(lambda: cache.revision == 9)
        assert seen == [Deleted("gone", 9), Put(item("changed", 7)), Put(item("new", 8))]
        assert [found.key for found in cache.range()] == ["changed", "new", "same"]


async def test_expired_items_are_not_returned_though_the_source_is_away() -> None:
    clock = FakeClock()
    cache, script = make(clock), Script()
    async with running(cache, script.connect):
        script.say(Snapshot([item("lease", 1, lives=timedelta(seconds=10)), item("stays", 1)], 1))
        await until(lambda: cache.ready)
        assert len(cache.range()) == 2
        clock.advance(10)
        assert cache.get("lease") is None
        assert [found.key for found in cache.range()] == ["stays"]
        script.say(Changes([Put(item("lease", 2, lives=timedelta(seconds=20)))], 2))
        await until(lambda: cache.revision == 2)
        assert cache.get("lease") is not None, "renewed"


async def test_age_counts_from_the_last_word_of_the_source() -> None:
    clock = FakeClock()
    cache, script = make(clock), Script()
    async with running(cache, script.connect):
        script.say(Snapshot([], 1))
        await until(lambda: cache.ready)
        clock.advance(30)
        assert cache.age(clock.now()) == 30
        clock.jump(-3600)
        assert cache.age(clock.now()) == 30, "setting the wall clock back does not make the copy younger"
        clock.jump(3600 + 100)
        assert cache.age(clock.now()) == 130, "nor does a suspended machine"
        script.say(Changes([], 1))
        await until(lambda: cache.age(clock.now()) == 0)


async def test_a_failing_subscriber_is_logged_and_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    cache, script = make(FakeClock()), Script()
    seen: list[str] = []

    def fail(event: Event) -> None:
        raise ValueError("a mistake")

    cache.subscribe("", fail)
    cache.subscribe("", lambda event: seen.append(event.key))
    with caplog.at_level(logging.ERROR):
        async with running(cache, script.connect):
            script.say(Snapshot([item("a", 1), item("b", 1)], 1))
            await until(lambda: len(seen) == 2)
    assert sum("a subscriber of the cache failed" in record.message for record in caplog.records) == 2
    assert script.connections == 1


async def test_unsubscribing_ends_the_calls_also_from_within_one() -> None:
    cache, script = make(FakeClock()), Script()
    calls: list[str] = []

    def first(event: Event) -> None:
        calls.append("first")
        end_first()
        end_second()

    end_first = cache.subscribe("", first)
    end_second = cache.subscribe("", lambda event: calls.append("second"))
    async with running(cache, script.connect):
        script.say(Snapshot([item("a", 1), item("b", 1)], 1))
        await until(lambda: cache.ready)
    assert calls == ["first"]
    end_first()


async def test_a_failing_start_is_not_taken_for_a_broken_source() -> None:
    cache, script = make(FakeClock()), Script()

    def started() -> None:
        raise RuntimeError("cannot go on")

    script.say(Snapshot([], 1))
    with pytest.raises(RuntimeError):
        await cache.run(script.connect, started)
    assert (script.connections, script.closed) == (1, 1)


async def test_ten_thousand_nodes_filled_from_storage_and_followed() -> None:
    """The parts together: storage, its stream, the copy, which in the end equals what is stored."""
    clock = FakeClock()
    async with MemoryBackend(clock, sweep_every=None) as backend:
        for start in range(0, 10_000, 500):
            await backend.commit([PutOp(f"nodes/{number:05}", b"v") for number in range(start, start + 500)])
        await backend.put("secret/ca", b"")
        cache = make(clock)
        async with running(cache, lambda: follow(backend, ["nodes/"], heartbeat=60)) as ready:
            await until(ready.is_set)
            chance = random.Random(11)
            for step in range(500):
                key = f"nodes/{chance.randrange(12_000):05}"
                if await backend.get(key) is not None and step % 2:
                    await backend.delete(key)
                else:
                    await backend.put(key, b"w")
            last = await backend.revision()
            await until(lambda: cache.revision == last)
            assert cache.range("nodes/") == await backend.range("nodes/")
            assert cache.get("secret/ca") is None
            assert [found.key for found in cache.range("nodes/0012")] == [
                found.key for found in await backend.range("nodes/0012")
            ]
        async with aclosing(backend.watch(["nodes/"], start=await backend.revision() - 1)) as batches:
            assert await anext(batches), "the storage outlives its readers"
