"""Watchers are woken by what they watch, and by nothing else, and miss nothing for it."""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from teleport.backend.feed import Entry, Feed
from teleport.backend.interface import Item, Put, PutOp
from teleport.backend.memory import MemoryBackend
from teleport.backend.sqlite import SqliteBackend
from teleport.testing.clock import FakeClock

PREFIXES = ("a/", "b/", "c/")


def entry(revision: int, *keys: str) -> Entry:
    return Entry(revision, tuple(Put(Item(key, b"", revision, None)) for key in keys))


def test_an_interest_ends_with_the_first_change_that_it_is_about() -> None:
    feed = Feed(base=0, max_events=100, max_bytes=10_000)
    one, other = feed.interest(("a/", "b/")), feed.interest(("c/",))
    assert feed.interest(("c/",)) is other
    feed.append(entry(1, "c/x"))
    assert (one.changed.is_set(), other.changed.is_set(), other.before) == (False, True, 0)
    feed.append(entry(2, "d/x"))
    feed.append(entry(5, "d/x", "b/x"))
    assert (one.changed.is_set(), one.before) == (True, 4)
    assert feed.interest(("c/",)) is not other


@pytest.mark.parametrize("how", ["reset", "fail"])
def test_an_interest_ends_with_the_feed(how: str) -> None:
    feed = Feed(base=0, max_events=100, max_bytes=10_000)
    interest = feed.interest(("a/",))
    if how == "reset":
        feed.reset(None)
    else:
        feed.fail(OSError())
    assert (interest.changed.is_set(), interest.before) == (True, -1)


def test_a_watcher_that_slept_while_the_feed_moved_on_needs_no_new_snapshot() -> None:
    feed = Feed(base=0, max_events=10, max_bytes=10_000)
    interest = feed.interest(("a/",))
    for revision in range(1, 50):
        feed.append(entry(revision, "b/x"))
    feed.append(entry(50, "a/x"))
    assert feed.after(0) is None, "from where it was, changes are missing"
    assert [one.revision for one in feed.after(interest.before) or ()] == [50]


@pytest.mark.parametrize("engine", ["memory", "sqlite"])
@pytest.mark.parametrize("seed", range(3))
async def test_every_watcher_hears_every_change_of_its_own_in_order(tmp_path: Path, engine: str, seed: int) -> None:
    clock = FakeClock(datetime(2026, 1, 1, tzinfo=UTC))
    backend = MemoryBackend(clock) if engine == "memory" else SqliteBackend(tmp_path, clock)
    draw = random.Random(seed)
    wanted = [tuple(sorted(draw.sample(PREFIXES, draw.randint(1, 3)))) for _ in range(8)]
    heard: list[list[tuple[str, int]]] = [[] for _ in wanted]
    async with backend:

        async def watch(number: int) -> None:
            async with aclosing(backend.watch(wanted[number], start=0)) as batches:
                async for batch in batches:
                    heard[number] += [(event.key, event.revision) for event in batch]
                    if batch[-1].key == "c/end" or ("c/" not in wanted[number] and batch[-1].key.endswith("/end")):
                        return
                    if draw.random() < 0.3:
                        await asyncio.sleep(0)

        tasks = [asyncio.create_task(watch(number)) for number in range(len(wanted))]
        written: list[tuple[str, int]] = []
        for number in range(150):
            keys = [draw.choice(PREFIXES) + str(draw.randrange(5)) for _ in range(draw.randint(1, 3))]
            revision = await backend.commit([PutOp(key, str(number).encode()) for key in dict.fromkeys(keys)])
            written += [(key, revision) for key in dict.fromkeys(keys)]
            if draw.random() < 0.1:
                await asyncio.sleep(0)
        for key in ("a/end", "b/end", "c/end"):
            written.append((key, await backend.commit([PutOp(key, b"")])))
        async with asyncio.timeout(20):
            await asyncio.gather(*tasks)
    for prefixes, found in zip(wanted, heard, strict=True):
        mine = [one for one in written if one[0].startswith(prefixes)]
        assert sorted(found) == sorted(mine[: len(found)])
        assert [revision for _, revision in found] == sorted(revision for _, revision in found)
        assert len(found) >= len(mine) - 2, "all but the ends that came after its own"


def test_who_waits_for_what_never_changes_and_leaves_leaves_nothing() -> None:
    feed = Feed(base=0, max_events=10, max_bytes=1000)
    held = feed.interest(("locks/",))
    assert feed.interest(("locks/",)) is held
    for number in range(100):
        feed.interest((f"roles/{number}/",))
    assert list(feed._interests) == [("locks/",)]
