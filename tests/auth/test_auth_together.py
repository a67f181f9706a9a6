"""Announcements that are written together: each as if it were alone, in one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from teleport.auth.hosts.together import MOST, Together
from teleport.backend.interface import Condition, Item, PutOp, Write
from teleport.backend.memory import MemoryBackend
from teleport.errors import AccessDenied, ConnectionProblem, TeleportError
from teleport.testing.clock import FakeClock


class Place:
    def __init__(self, backend: MemoryBackend, gather: float) -> None:
        self.backend = backend
        self.commits: list[int] = []
        self.failing: TeleportError | None = None
        self.before: Callable[[], object] | None = None
        self.together = Together(backend.get, self.commit, gather=gather)

    async def commit(self, writes: Sequence[Write], conditions: Sequence[Condition]) -> int:
        if self.failing is not None:
            raise self.failing
        if self.before is not None:
            before, self.before = self.before, None
            await self.backend.commit([PutOp("a", b"by another")])
            before()
        self.commits.append(len(writes))
        return await self.backend.commit(writes, conditions=conditions)

    async def value(self, key: str) -> bytes | None:
        item = await self.backend.get(key)
        return None if item is None else bytes(item.value)


@asynccontextmanager
async def place(gather: float = 0.02) -> AsyncIterator[Place]:
    async with MemoryBackend(FakeClock()) as backend:
        yield Place(backend, gather)


def put(key: str, value: bytes) -> Callable[[Item | None], Write | None]:
    return lambda _: PutOp(key, value)


async def test_what_comes_within_a_moment_is_one_transaction() -> None:
    async with place() as those:
        change = those.together.change
        revisions = await asyncio.gather(*(change(key, put(key, key.encode())) for key in "abc"))
        assert those.commits == [3]
        assert len(set(revisions)) == 1
        for key, revision in zip("abc", revisions, strict=True):
            item = await those.backend.get(key)
            assert item is not None
            assert (item.value, item.revision) == (key.encode(), revision)
        await change("a", put("a", b"again"))
        assert await those.value("a") == b"again"


async def test_what_is_refused_or_needs_no_write_concerns_nobody_else() -> None:
    def refuse(_: Item | None) -> Write | None:
        raise AccessDenied("not this one")

    async with place() as those:
        change = those.together.change
        a, b, c = await asyncio.gather(
            change("a", put("a", b"1")), change("b", refuse), change("c", lambda _: None), return_exceptions=True
        )
        assert isinstance(a, int)
        assert isinstance(b, AccessDenied)
        assert c is None
        assert those.commits == [1]
        assert await change("c", lambda _: None) is None
        assert those.commits == [1], "nothing to write is no transaction"


async def test_a_record_that_changed_meanwhile_is_asked_anew_and_the_others_are_written() -> None:
    seen: list[bytes | None] = []

    def wanted(item: Item | None) -> Write | None:
        seen.append(None if item is None else bytes(item.value))
        return PutOp("a", b"1")

    async with place() as those:
        those.before = lambda: None
        change = those.together.change
        await asyncio.gather(change("a", wanted), change("b", put("b", b"2")))
        assert seen == [None, b"by another"]
        assert (await those.value("a"), await those.value("b")) == (b"1", b"2")


async def test_two_of_one_host_and_more_than_fit_are_written_by_themselves() -> None:
    async with place() as those:
        change = those.together.change
        first = asyncio.create_task(change("a", put("a", b"1")))
        await asyncio.sleep(0)
        await change("a", put("a", b"2"))
        await first
        assert await those.value("a") == b"2", "it was said last"
        keys = [f"k{number}" for number in range(MOST + 2)]
        await asyncio.gather(*(change(key, put(key, b"")) for key in keys))
        assert sorted(those.commits[-3:]) == [1, 1, MOST]


async def test_a_failure_of_the_storage_and_the_end_of_auth_reach_all_who_wait() -> None:
    async with place() as those:
        change = those.together.change
        those.failing = ConnectionProblem("the database is away")
        both = await asyncio.gather(*(change(key, put(key, b"")) for key in "ab"), return_exceptions=True)
        assert [str(one) for one in both] == ["the database is away"] * 2
        those.failing = None
        leads, waits = (asyncio.create_task(change(key, put(key, b""))) for key in "ab")
        await asyncio.sleep(0)
        leads.cancel()
        with pytest.raises(ConnectionProblem, match="stopping"):
            await waits
        await asyncio.gather(leads, return_exceptions=True)
        waits = asyncio.create_task(change("c", put("c", b"")))
        await asyncio.gather(waits, change("d", put("d", b"")))
        assert those.commits == [2]


async def test_who_went_away_before_it_was_refused_concerns_nobody_else() -> None:
    def refuse(_: Item | None) -> Write | None:
        raise AccessDenied("not this one")

    async with place() as those:
        change = those.together.change
        stays, goes = asyncio.create_task(change("a", put("a", b"1"))), asyncio.create_task(change("b", refuse))
        await asyncio.sleep(0)
        goes.cancel()
        assert isinstance(await stays, int)
        assert await those.value("a") == b"1"
        await asyncio.gather(goes, return_exceptions=True)
