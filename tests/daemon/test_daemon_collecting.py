"""Python's collector holds up nobody for long, and nothing that it would have freed is kept for good."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from teleport.daemon import collecting
from teleport.daemon.collecting import Collecting
from teleport.testing.running import wait_until


class Ring:
    """Refers to itself: only the collector frees it."""

    def __init__(self) -> None:
        self.me = self


def ring() -> weakref.ref[Ring]:
    return weakref.ref(Ring())


class Fakes:
    def __init__(self) -> None:
        self.bytes = 100 * 1024 * 1024
        self.time = 1000.0


@asynccontextmanager
async def running(fakes: Fakes, long: float) -> AsyncIterator[Collecting]:
    made = Collecting(lambda: fakes.bytes, lambda: fakes.time, long)
    task = asyncio.create_task(made.run())
    await asyncio.sleep(0)
    try:
        yield made
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_where_collections_are_short_python_goes_on_as_always() -> None:
    usual = gc.get_threshold()
    async with running(Fakes(), long=1000.0) as made:
        gone = ring()
        gc.collect()
        made.look()
        assert gone() is None
        assert not made.sparing
        assert gc.get_threshold() == usual
        assert gc.get_freeze_count() == 0


async def test_after_a_long_one_what_is_old_is_walked_only_when_much_has_been_added(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(collecting, "MIDDLE", 0)
    usual, fakes = gc.get_threshold(), Fakes()
    async with running(fakes, long=0.0) as made:
        gc.collect()
        assert made.sparing
        assert gc.get_threshold() == collecting.THRESHOLDS
        assert made.look(), "all of it is new"
        assert gc.get_freeze_count() > 1000, "all of it is set aside"
        new, old = ring(), Ring()
        kept = weakref.ref(old)
        assert not made.look()
        assert new() is None, "what is new is collected"
        del old
        made.look()
        assert kept() is not None, "its cycle was set aside"
        fakes.bytes *= 3
        made.look()
        assert kept() is not None, "all was walked not long ago"
        fakes.time += collecting.APART
        assert made.look(), "it has grown by far"
        assert kept() is None
        assert gc.get_freeze_count() > 1000
        again = Ring()
        kept = weakref.ref(again)
        made.look()
        del again
        fakes.time += collecting.APART
        assert not made.look()
        assert kept() is not None, "it has not grown since"
    assert gc.get_threshold() == usual
    assert gc.get_freeze_count() == 0
    gc.collect()
    assert kept() is None


def test_the_memory_of_this_process_is_known() -> None:
    assert 5_000_000 < collecting.resident() < 100_000_000_000


async def test_what_stays_for_long_is_put_into_large_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "EVERY", 0.01)
    done = 0

    def collapse() -> int:
        nonlocal done
        done += 1
        return 0

    monkeypatch.setattr(collecting, "collapse", collapse)
    fakes = Fakes()
    async with running(fakes, long=1000.0):
        gc.collect()
        await asyncio.sleep(0.1)
        assert done == 0, "there is not much"
    async with running(fakes, long=0.0):
        gc.collect()
        await wait_until(lambda: done == 1)
        await asyncio.sleep(0.05)
        assert done == 1
