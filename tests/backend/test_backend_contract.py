"""What every storage engine promises, checked on each of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from secrets import token_hex

import pytest

from teleport.backend import (
    Absent,
    Backend,
    BackendClosed,
    ConditionFailed,
    Deleted,
    DeleteOp,
    Event,
    Exists,
    Put,
    PutOp,
    WatchCompacted,
)
from teleport.backend.dynamodb.engine import DynamoBackend
from teleport.backend.etcd.engine import EtcdBackend
from teleport.backend.etcd.settings import EtcdSettings
from teleport.backend.feed import BATCH_EVENTS
from teleport.backend.follow import follow
from teleport.backend.interface import MAX_KEY, MAX_VALUE, MAX_WRITES, Changes, Snapshot, disjoint, prefix_end
from teleport.backend.memory import MemoryBackend
from teleport.backend.postgresql.engine import PostgresqlBackend
from teleport.backend.postgresql.settings import parse
from teleport.backend.sqlite import SqliteBackend
from teleport.errors import AlreadyExists, BadRequest, CompareFailed, LimitExceeded, NotFound
from teleport.testing import dynamodb, etcd, postgresql
from teleport.testing.clock import FakeClock

Engine = MemoryBackend | SqliteBackend | EtcdBackend | PostgresqlBackend | DynamoBackend
Open = Callable[..., AbstractAsyncContextManager[Engine]]

CLOCK_STEP = 10.0
PATIENCE = 10.0  # seconds until a test that waits gives up


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(scope="module")
def etcd_urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ...]]:
    """A real server."""
    if etcd.program() is None:
        pytest.skip(etcd.MISSING)
    with etcd.EtcdCluster(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster.urls


@pytest.fixture(scope="module")
def postgresql_url() -> Iterator[str]:
    """A real server."""
    if postgresql.programs() is None:
        pytest.skip(postgresql.MISSING)
    with postgresql.PostgresqlServer() as server:
        yield server.url()


@pytest.fixture(scope="module")
def dynamodb_server() -> Iterator[dynamodb.DynamoServer]:
    """moto."""
    if dynamodb.program() is None:
        pytest.skip(dynamodb.MISSING)
    with dynamodb.DynamoServer() as server:
        yield server


Make = Callable[..., Engine]


@pytest.fixture(params=["memory", "sqlite", "etcd", "postgresql", "dynamodb"])
def make(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> Make:
    """Makes a fresh engine, not open yet."""
    if request.param == "etcd":
        settings = EtcdSettings(request.getfixturevalue("etcd_urls"), f"/contract-{token_hex(8)}/", insecure=True)
    if request.param == "postgresql":
        server = replace(parse(request.getfixturevalue("postgresql_url")), schema=f"contract_{token_hex(8)}")

    if request.param == "dynamodb":
        table = request.getfixturevalue("dynamodb_server").settings()

    def make_engine(*, log_keep: int = 10_000, sweep_every: float | None = None) -> Engine:
        match request.param:
            case "memory":
                return MemoryBackend(clock, log_keep=log_keep, sweep_every=sweep_every)
            case "sqlite":
                return SqliteBackend(tmp_path / "backend", clock, log_keep=log_keep, sweep_every=sweep_every)
            case "dynamodb":
                return DynamoBackend(table, clock, log_keep=log_keep, sweep_every=sweep_every)
            case "postgresql":
                return PostgresqlBackend(server, clock, log_keep=log_keep, sweep_every=sweep_every)
        return EtcdBackend(settings, clock, log_keep=log_keep, sweep_every=sweep_every)

    return make_engine


@pytest.fixture
def opened(make: Make) -> Open:
    """Opens a fresh engine, which sweeps only when told to."""

    @asynccontextmanager
    async def open_engine(*, log_keep: int = 10_000) -> AsyncIterator[Engine]:
        async with make(log_keep=log_keep) as engine:
            yield engine

    return open_engine


def later(clock: FakeClock, seconds: float) -> datetime:
    return clock.now() + timedelta(seconds=seconds)


async def collect(backend: Backend, prefixes: list[str], start: int, count: int) -> list[Event]:
    """The first `count` or more events after `start`."""
    found: list[Event] = []
    async with asyncio.timeout(PATIENCE), aclosing(backend.watch(prefixes, start=start)) as batches:
        async for batch in batches:
            assert batch, "a batch is never empty"
            found += batch
            if len(found) >= count:
                break
    return found


# Reading


async def test_an_engine_is_a_backend(opened: Open) -> None:
    async with opened() as engine:
        backend: Backend = engine  # the type checker's word
        assert await backend.revision() == 0
        assert await backend.get("nothing") is None
        assert await backend.range() == []


async def test_range_is_ordered_by_code_point_and_bounded_by_its_prefix(opened: Open) -> None:
    keys = [
        "nodes/b",
        "nodes/a",
        "nodes",
        "nodes/",
        "nodes0",
        "node",
        "nodes/\U0001f600",
        "nodes/é",
        "nodes/\uffff",
        "o",
    ]
    async with opened() as backend:
        for key in keys:
            await backend.put(key, key.encode())
        assert [item.key for item in await backend.range()] == sorted(keys)
        under = sorted(key for key in keys if key.startswith("nodes/"))
        assert [item.key for item in await backend.range("nodes/")] == under
        assert [item.value for item in await backend.range("nodes/")] == [key.encode() for key in under]
        assert await backend.range("absent/") == []


async def test_range_pages_continue_after_the_last_key(opened: Open, clock: FakeClock) -> None:
    async with opened() as backend:
        await backend.put("a", b"")
        for number in range(7):
            await backend.put(f"k/{number}", b"", expires=later(clock, 5) if number % 2 else None)
        await backend.put("z", b"")
        clock.advance(CLOCK_STEP)  # what lapsed takes no place on a page
        pages: list[list[str]] = []
        start = ""
        while page := await backend.range("k/", start=start, limit=2):
            pages.append([item.key for item in page])
            start = page[-1].key
        assert pages == [["k/0", "k/2"], ["k/4", "k/6"]]


async def test_a_prefix_of_the_last_code_point_has_no_end(opened: Open) -> None:
    last = "\U0010ffff"
    async with opened() as backend:
        for key in ("a", last, last + last, last + "a", "x" + last, "y"):
            await backend.put(key, b"")
        assert {item.key for item in await backend.range(last)} == {last, last + last, last + "a"}
        assert [item.key for item in await backend.range("x" + last)] == ["x" + last]


@pytest.mark.parametrize(
    ("prefix", "end"),
    [("", None), ("a", "b"), ("nodes/", "nodes0"), ("a\U0010ffff", "b"), ("\ud7ff", "\ue000"), ("\U0010ffff", None)],
)
def test_prefix_end_is_the_first_text_without_the_prefix(prefix: str, end: str | None) -> None:
    assert prefix_end(prefix) == end


def test_disjoint_drops_what_another_prefix_covers() -> None:
    assert disjoint(["b/c", "a/", "b/", "a/x/", "a/"]) == ["a/", "b/"]


async def test_snapshot_has_each_item_once_and_the_revision_to_watch_from(opened: Open) -> None:
    async with opened() as backend:
        for key in ("a/1", "b/1", "a/2", "c/1"):
            await backend.put(key, b"")
        snapshot = await backend.snapshot(["c/", "a/", "a/2"])
        assert [item.key for item in snapshot.items] == ["a/1", "a/2", "c/1"]
        assert snapshot.revision == await backend.revision() == 4
        assert (await backend.snapshot([])).items == []


# Writing


async def test_put_writes_and_overwrites_with_a_new_revision_each(opened: Open) -> None:
    async with opened() as backend:
        first = await backend.put("k", b"one")
        second = await backend.put("k", b"two")
        assert (first, second) == (1, 2)
        item = await backend.get("k")
        assert item is not None
        assert (item.key, item.value, item.revision, item.expires) == ("k", b"two", 2, None)


async def test_create_refuses_an_existing_key(opened: Open) -> None:
    async with opened() as backend:
        await backend.create("k", b"one")
        with pytest.raises(AlreadyExists, match="k"):
            await backend.create("k", b"two")
        item = await backend.get("k")
        assert item is not None
        assert item.value == b"one"
        assert await backend.revision() == 1, "what is refused takes no revision"


async def test_compare_and_swap_writes_only_over_the_given_revision(opened: Open) -> None:
    async with opened() as backend:
        first = await backend.create("k", b"one")
        second = await backend.compare_and_swap("k", first, b"two")
        with pytest.raises(CompareFailed):
            await backend.compare_and_swap("k", first, b"three")
        with pytest.raises(CompareFailed):
            await backend.compare_and_swap("absent", 0, b"")
        item = await backend.get("k")
        assert item is not None
        assert (item.value, item.revision) == (b"two", second)


async def test_delete_removes_once_and_only_the_given_revision(opened: Open) -> None:
    async with opened() as backend:
        revision = await backend.put("k", b"")
        with pytest.raises(CompareFailed):
            await backend.delete("k", revision=revision + 1)
        await backend.delete("k", revision=revision)
        assert await backend.get("k") is None
        with pytest.raises(NotFound):
            await backend.delete("k")
        again = await backend.create("k", b"")
        assert again > revision + 1, "a deletion takes a revision"


async def test_a_commit_writes_all_with_one_revision(opened: Open) -> None:
    async with opened() as backend:
        await backend.put("old", b"")
        revision = await backend.commit(
            [PutOp("state", b"new"), PutOp("audit/1", b"event"), DeleteOp("old"), DeleteOp("absent", missing_ok=True)],
            conditions=[Absent("state"), Exists("old"), Exists("old", 1)],
        )
        assert revision == 2
        assert [(item.key, item.revision) for item in await backend.range()] == [("audit/1", 2), ("state", 2)]
        events = await collect(backend, [""], 1, 3)
        assert {(event.key, event.revision) for event in events} == {("state", 2), ("audit/1", 2), ("old", 2)}


@pytest.mark.parametrize(
    "condition", [Absent("there"), Exists("absent"), Exists("there", 99), Exists("absent", 1)], ids=str
)
async def test_a_commit_whose_condition_fails_writes_nothing_and_names_it(
    opened: Open, condition: Absent | Exists
) -> None:
    async with opened() as backend:
        await backend.put("there", b"")
        with pytest.raises(ConditionFailed, match="nothing written") as caught:
            await backend.commit([PutOp("a", b""), PutOp("b", b"")], conditions=[Exists("there", 1), condition])
        assert caught.value.condition == condition
        assert [item.key for item in await backend.range()] == ["there"]
        assert await backend.revision() == 1


async def test_a_commit_that_deletes_a_missing_key_writes_nothing(opened: Open) -> None:
    async with opened() as backend:
        with pytest.raises(NotFound, match="absent"):
            await backend.commit([PutOp("a", b""), DeleteOp("absent")])
        assert await backend.range() == []


async def test_a_commit_that_changes_nothing_takes_no_revision(opened: Open) -> None:
    async with opened() as backend:
        await backend.put("k", b"")
        assert await backend.commit([], conditions=[Exists("k")]) == 1
        assert await backend.commit([DeleteOp("absent", missing_ok=True)]) == 1
        assert await backend.revision() == 1


async def test_malformed_writes_are_refused(opened: Open) -> None:
    async with opened() as backend:
        for key in ("", "a\0b", "\ud800"):
            with pytest.raises(BadRequest):
                await backend.put(key, b"")
        with pytest.raises(LimitExceeded):
            await backend.put("k" * (MAX_KEY + 1), b"")
        with pytest.raises(LimitExceeded):
            await backend.put("k", b"v" * (MAX_VALUE + 1))
        with pytest.raises(BadRequest, match="zone"):
            await backend.put("k", b"", expires=datetime(2026, 1, 1))  # noqa: DTZ001
        with pytest.raises(BadRequest, match="only once"):
            await backend.commit([PutOp("k", b""), DeleteOp("k", missing_ok=True)])
        with pytest.raises(LimitExceeded):
            await backend.commit([PutOp(f"k{number}", b"") for number in range(MAX_WRITES + 1)])
        assert await backend.range() == []


async def test_the_largest_allowed_key_and_value_are_stored(opened: Open) -> None:
    async with opened() as backend:
        await backend.put("k" * MAX_KEY, b"\0" * MAX_VALUE)
        item = await backend.get("k" * MAX_KEY)
        assert item is not None
        assert item.value == b"\0" * MAX_VALUE


async def test_values_stay_out_of_reprs(opened: Open) -> None:
    async with opened() as backend:
        await backend.put("k", b"private")
        item = await backend.get("k")
        assert item is not None
        assert "private" not in repr([item, Put(item), PutOp("k", b"private")])


# Leases


async def test_an_item_is_gone_for_everyone_the_moment_it_expires(opened: Open, clock: FakeClock) -> None:
    async with opened() as backend:
        await backend.put("lease", b"", expires=later(clock, 10))
        await backend.put("stays", b"")
        clock.advance(9.999)
        assert await backend.get("lease") is not None
        clock.advance(0.001)
        assert await backend.get("lease") is None
        assert [item.key for item in await backend.range()] == ["stays"]
        assert [item.key for item in (await backend.snapshot([""])).items] == ["stays"]
        with pytest.raises(CompareFailed):
            await backend.commit([], conditions=[Exists("lease")])
        await backend.commit([], conditions=[Absent("lease")])
        with pytest.raises(CompareFailed):
            await backend.compare_and_swap("lease", 1, b"")
        with pytest.raises(NotFound):
            await backend.delete("lease")
        with pytest.raises(NotFound):
            await backend.renew("lease", later(clock, 10))
        with pytest.raises(NotFound):
            await backend.commit([DeleteOp("lease")])
        await backend.create("lease", b"next owner")


async def test_the_expiry_is_read_back_to_the_microsecond(opened: Open, clock: FakeClock) -> None:
    expires = later(clock, 10).replace(microsecond=123457)
    async with opened() as backend:
        await backend.put("lease", b"", expires=expires)
        item = await backend.get("lease")
        assert item is not None
        assert item.expires == expires


async def test_a_renewed_lease_keeps_its_value_and_lives_on(opened: Open, clock: FakeClock) -> None:
    async with opened() as backend:
        first = await backend.create("lease", b"mine", expires=later(clock, 10))
        clock.advance(9)
        second = await backend.renew("lease", later(clock, 10), revision=first)
        with pytest.raises(CompareFailed):
            await backend.renew("lease", later(clock, 99), revision=first)
        clock.advance(9)
        item = await backend.get("lease")
        assert item is not None
        assert (item.value, item.revision) == (b"mine", second)
        events = await collect(backend, [""], first, 1)
        assert events == [Put(item)], "watchers learn the new expiry"


async def test_sweeping_deletes_what_expired_and_tells_watchers(opened: Open, clock: FakeClock) -> None:
    async with opened() as backend:
        await backend.put("short", b"", expires=later(clock, 1))
        await backend.put("long", b"", expires=later(clock, 100))
        await backend.put("stays", b"")
        assert await backend.sweep() == 0
        clock.advance(CLOCK_STEP)
        assert await backend.sweep() == 1
        assert await backend.sweep() == 0
        assert await collect(backend, [""], 3, 1) == [Deleted("short", 4)]


async def test_an_open_engine_sweeps_by_itself(make: Make, clock: FakeClock) -> None:
    async with make(sweep_every=0.01) as backend:
        await backend.put("short", b"", expires=later(clock, 1))
        clock.advance(CLOCK_STEP)
        assert await collect(backend, [""], 1, 1) == [Deleted("short", 2)]


# Watches


async def test_a_watch_gives_every_change_after_its_start_in_order(opened: Open) -> None:
    async with opened() as backend:
        for number in range(5):
            await backend.put(f"k/{number}", b"")
        await backend.put("other", b"")
        await backend.delete("k/3")
        events = await collect(backend, ["k/"], 2, 4)
        assert [(type(event), event.key, event.revision) for event in events] == [
            (Put, "k/2", 3),
            (Put, "k/3", 4),
            (Put, "k/4", 5),
            (Deleted, "k/3", 7),
        ]


async def test_a_watch_gives_what_happens_while_it_waits(opened: Open) -> None:
    async with opened() as backend, asyncio.TaskGroup() as group:
        watching = group.create_task(collect(backend, ["a/", "b/"], 0, 3))
        for key in ("a/1", "c/1", "b/1", "a/2"):
            await backend.put(key, key.encode())
        events = await watching
        assert [event.key for event in events] == ["a/1", "b/1", "a/2"]
        assert [event.item.value for event in events if isinstance(event, Put)] == [b"a/1", b"b/1", b"a/2"]


async def test_a_watch_of_nothing_gives_nothing(opened: Open) -> None:
    async with opened() as backend:
        await backend.put("k", b"")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), aclosing(backend.watch([], start=0)) as batches:
                await anext(batches)


async def test_a_watch_resumes_at_the_last_event_without_gap_or_repeat(opened: Open) -> None:
    """Broken off after each batch, while others write in transactions of three."""
    rounds = 60

    async def write(backend: Backend) -> None:
        for number in range(rounds):
            await backend.commit([PutOp(f"k/{number}/{part}", b"") for part in range(3)])

    async with opened() as backend, asyncio.TaskGroup() as group:
        group.create_task(write(backend))
        seen: list[Event] = []
        while len(seen) < rounds * 3:
            seen += await collect(backend, ["k/"], seen[-1].revision if seen else 0, 1)
        assert [event.key for event in seen] == [f"k/{number}/{part}" for number in range(rounds) for part in range(3)]


async def test_watchers_far_behind_and_up_to_date_see_the_same(opened: Open) -> None:
    """More changes than fit in a batch, and transactions that straddle its end."""
    async with opened() as backend:
        size = 7
        count = BATCH_EVENTS * 2 // size + 3
        live = asyncio.create_task(collect(backend, [""], 0, count * size))
        for number in range(count):
            await backend.commit([PutOp(f"{number:04}/{part}", b"") for part in range(size)])
        behind = await collect(backend, [""], 0, count * size)
        assert [event.key for event in behind] == sorted(event.key for event in behind)
        assert len(behind) == count * size
        assert await live == behind


async def test_a_watch_from_before_the_kept_log_is_told_so(opened: Open) -> None:
    async with opened(log_keep=5) as backend:
        for number in range(20):
            await backend.put(f"k/{number}", b"")
        await backend.sweep()
        with pytest.raises(WatchCompacted):
            await collect(backend, [""], 3, 1)
        assert [event.revision for event in await collect(backend, [""], 15, 5)] == [16, 17, 18, 19, 20]


async def test_a_watch_from_the_future_is_told_so(opened: Open) -> None:
    """As after a restore: the reader knows changes that the storage does not."""
    async with opened() as backend:
        await backend.put("k", b"")
        with pytest.raises(WatchCompacted):
            await collect(backend, [""], 2, 1)


async def test_closing_ends_watches_and_refuses_calls(opened: Open) -> None:
    async with opened() as backend:
        await backend.put("k", b"")
        watching = asyncio.create_task(collect(backend, [""], 0, 2))
        await collect(backend, [""], 0, 1)
    with pytest.raises(BackendClosed):
        await watching
    with pytest.raises(BackendClosed):
        await backend.put("k", b"")
    with pytest.raises(BackendClosed):
        await backend.get("k")
    await backend.close()


# Following: a snapshot, then changes, whatever happens to the log


async def test_following_gives_a_snapshot_then_changes_and_a_new_snapshot_when_compacted(opened: Open) -> None:
    async with opened(log_keep=5) as backend:
        await backend.put("k/1", b"")
        await backend.put("other", b"")
        async with asyncio.timeout(PATIENCE), aclosing(follow(backend, ["k/"], heartbeat=60)) as updates:
            first = await anext(updates)
            assert isinstance(first, Snapshot)
            assert ([item.key for item in first.items], first.revision) == (["k/1"], 2)
            await backend.put("k/2", b"")
            second = await anext(updates)
            assert isinstance(second, Changes)
            assert ([event.key for event in second.events], second.revision) == (["k/2"], 3)
            for number in range(3, 30):
                await backend.put(f"k/{number}", b"")
            await backend.sweep()
            keys = {"k/1", "k/2"}
            while len(keys) < 29:
                update = await anext(updates)
                if isinstance(update, Snapshot):
                    keys = {item.key for item in update.items}
                else:
                    keys |= {event.key for event in update.events}


async def test_following_says_that_it_is_there_when_nothing_changes(opened: Open) -> None:
    async with (
        opened() as backend,
        asyncio.timeout(PATIENCE),
        aclosing(follow(backend, ["k/"], heartbeat=0.01)) as updates,
    ):
        assert isinstance(await anext(updates), Snapshot)
        assert await anext(updates) == Changes([], 0)
        await backend.put("k/1", b"")
        while not (update := await anext(updates)).revision:
            assert update == Changes([], 0)
        assert isinstance(update, Changes)
        assert [event.key for event in update.events] == ["k/1"]


# Concurrency


async def test_a_counter_of_fifty_writers_by_compare_and_swap_ends_exact(opened: Open) -> None:
    writers, rounds = 50, 4

    async def count_up(backend: Backend) -> None:
        for _ in range(rounds):
            while True:
                item = await backend.get("counter")
                assert item is not None
                try:
                    await backend.compare_and_swap("counter", item.revision, str(int(item.value) + 1).encode())
                    break
                except CompareFailed:
                    continue

    async with opened() as backend:
        await backend.create("counter", b"0")
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for _ in range(writers):
                group.create_task(count_up(backend))
        item = await backend.get("counter")
        assert item is not None
        assert item.value == str(writers * rounds).encode()
        assert item.revision == 1 + writers * rounds


async def test_of_fifty_parallel_creates_of_one_key_exactly_one_wins(opened: Open) -> None:
    async with opened() as backend:
        results = await asyncio.gather(
            *(backend.create("once", str(number).encode()) for number in range(50)), return_exceptions=True
        )
        winners = [number for number, result in enumerate(results) if isinstance(result, int)]
        assert len(winners) == 1
        assert sum(isinstance(result, AlreadyExists) for result in results) == 49
        item = await backend.get("once")
        assert item is not None
        assert item.value == str(winners[0]).encode()


async def test_a_refused_write_among_concurrent_ones_fails_alone(opened: Open) -> None:
    async with opened() as backend:
        await backend.put("taken", b"")
        results = await asyncio.gather(
            *(backend.create("taken" if number % 2 else f"free/{number}", b"") for number in range(40)),
            return_exceptions=True,
        )
        assert [isinstance(result, AlreadyExists) for result in results] == [bool(number % 2) for number in range(40)]
        assert len(await backend.range("free/")) == 20
        revisions = [result for result in results if isinstance(result, int)]
        assert sorted(revisions) == list(range(2, 22)), "each write has a revision of its own"
