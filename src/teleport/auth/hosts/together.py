"""Announcements of a crowd that are written together.

Each would cost auth a transaction, and every proxy the news of it. Nobody waits for an announcement, so among thousands
of hosts one waits a moment for others, and what was gathered is one transaction and one piece of news.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from teleport.backend.interface import Absent, Condition, Exists, Item, Write
from teleport.errors import CompareFailed, ConnectionProblem

GATHER: Final = 0.5  # seconds
MOST: Final = 100  # in one transaction

Wanted = Callable[[Item | None], Write | None]
Get = Callable[[str], Awaitable[Item | None]]
Commit = Callable[[Sequence[Write], Sequence[Condition]], Awaitable[int]]
Alone = Callable[[str, Wanted], Awaitable[int | None]]


@dataclass(slots=True)
class _Asked:
    key: str
    wanted: Wanted
    done: asyncio.Future[int | None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Together:
    """Of an auth service there is one."""

    def __init__(self, get: Get, commit: Commit, alone: Alone, *, gather: float = GATHER) -> None:
        """`alone` makes one change, asking anew when the record changed meanwhile."""
        self._get = get
        self._commit = commit
        self._alone = alone
        self._gather = gather
        self._asked: dict[str, _Asked] = {}

    async def change(self, key: str, wanted: Wanted) -> int | None:
        """As `alone`, in a moment. Whoever comes first writes for all; raises what `wanted` and the storage raise."""
        if (earlier := self._asked.get(key)) is not None:
            await asyncio.wait([earlier.done])  # what was said first is written first
        if earlier is not None or len(self._asked) >= MOST:
            return await self._alone(key, wanted)
        asked = self._asked[key] = _Asked(key, wanted)
        if len(self._asked) == 1:
            await self._lead()
        return await asked.done

    async def _lead(self) -> None:
        gathered: list[_Asked] = []
        try:
            try:
                await asyncio.sleep(self._gather)
            finally:
                gathered, self._asked = list(self._asked.values()), {}
            await self._write(gathered)
        except Exception as error:
            for one in gathered:
                if not one.done.done():
                    one.done.set_exception(error)
        finally:
            for one in gathered:
                if not one.done.done():  # this process ends
                    one.done.set_exception(ConnectionProblem("auth is stopping", hint="it is tried again"))
                    one.done.exception()  # perhaps nobody waits for it any more

    async def _write(self, gathered: Sequence[_Asked]) -> None:
        writes: list[Write] = []
        conditions: list[Condition] = []
        written: list[_Asked] = []
        for one in gathered:
            item = await self._get(one.key)
            try:
                write = one.wanted(item)
            except Exception as error:
                one.done.set_exception(error)
                continue
            if write is None:
                one.done.set_result(None)
                continue
            writes.append(write)
            conditions.append(Absent(one.key) if item is None else Exists(one.key, item.revision))
            written.append(one)
        if not writes:
            return
        try:
            revision = await self._commit(writes, conditions)
        except CompareFailed:  # one of them changed meanwhile
            for one in written:
                await self._by_itself(one)
            return
        for one in written:
            if not one.done.done():
                one.done.set_result(revision)

    async def _by_itself(self, one: _Asked) -> None:
        try:
            revision = await self._alone(one.key, one.wanted)
        except Exception as error:
            if not one.done.done():
                one.done.set_exception(error)
        else:
            if not one.done.done():
                one.done.set_result(revision)
