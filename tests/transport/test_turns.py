"""Costly work: a few at once, one of each caller, and bounded lines."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from teleport.errors import LimitExceeded
from teleport.transport.turns import Turns


async def test_who_asks_for_much_is_in_the_way_of_nobody() -> None:
    """With two places, one caller takes one of them, whatever it asks for."""
    turns, done, go = Turns("searches", at_once=2, of_one=4), list[str](), asyncio.Event()

    async def work(who: str) -> None:
        async with turns.of(who):
            await go.wait()
            done.append(who)

    async with asyncio.TaskGroup() as group:
        for who in ("greedy", "greedy", "greedy", "greedy", "ann"):
            group.create_task(work(who))
        await asyncio.sleep(0)
        with pytest.raises(LimitExceeded, match="4 searches of yours"):
            async with turns.of("greedy"):
                pass
        go.set()
    assert done.index("ann") <= 1
    assert Counter(done) == {"greedy": 4, "ann": 1}
    async with turns.of("greedy"):
        pass
    assert not turns._turns, "nothing is kept of who waits for nothing"


async def test_who_leaves_gives_the_turn_back() -> None:
    """Waiting and working alike."""
    turns = Turns("searches", at_once=1, of_one=2)
    tasks = []
    for who in ("ann", "ann", "bob"):
        tasks.append(asyncio.create_task(hold(turns, who)))
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    async with turns.of("ann"):
        pass
    assert not turns._turns


async def hold(turns: Turns, who: str) -> None:
    async with turns.of(who):
        await asyncio.Event().wait()
