"""Changes of records by what is there, alone or with others.

Each announcement of a crowd would cost auth a transaction, and every proxy the news of it. Nobody waits for one, so
among thousands of hosts it waits a moment for others, and what was gathered is one transaction and one piece of news.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from teleport.backend.interface import Absent, Condition, Exists, Item, Write
from teleport.errors import CompareFailed, ConnectionProblem

GATHER: Final = 0.5  # seconds
MOST: Final = 40  # in one transaction, each with two conditions: storages take a hundred and some
TRIES: Final = 8  # at a record that two processes write

Wanted = Callable[[Item | None], Write | None]
Get = Callable[[str], Awaitable[Item | None]]
Commit = Callable[[Sequence[Write], Sequence[Condition]], Awaitable[int]]
Outcome = int | None | Exception


@dataclass(slots=True)
class _Asked:
    wanted: Wanted
    given: tuple[Condition, ...]
    done: asyncio.Future[int | None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def settle(self, outcome: Outcome) -> None:
        if self.done.done():  # whoever asked has gone
            return
        if isinstance(outcome, Exception):
            self.done.set_exception(outcome)
            self.done.exception()  # perhaps nobody waits for it any more
        else:
            self.done.set_result(outcome)


class Together:
    """Of an auth service there is one."""

    def __init__(self, get: Get, commit: Commit, *, gather: float = GATHER) -> None:
        self._get = get
        self._commit = commit
        self._gather = gather
        self._asked: dict[str, _Asked] = {}

    async def alone(self, key: str, wanted: Wanted, given: tuple[Condition, ...] = ()) -> int | None:
        """Writes what `wanted` makes of the record that is there, and gives the revision; asked anew when that changed
        meanwhile, since two processes of one host may speak at the same time. None: it makes nothing of it. Nothing is
        written unless all of `given` hold."""
        for _ in range(TRIES):
            item = await self._get(key)
            change = wanted(item)
            if change is None:
                return None
            with suppress(CompareFailed):
                return await self._commit([change], [_as_it_was(key, item), *given])
        raise CompareFailed("presence of this host is being changed from elsewhere", hint="it is tried again")

    async def change(self, key: str, wanted: Wanted, given: tuple[Condition, ...] = ()) -> int | None:
        """As `alone`, in a moment. Whoever comes first writes for all; raises what `wanted` and the storage raise."""
        if (earlier := self._asked.get(key)) is not None:
            await asyncio.wait([earlier.done])  # what was said first is written first
        if earlier is not None or len(self._asked) >= MOST:
            return await self.alone(key, wanted, given)
        asked = self._asked[key] = _Asked(wanted, given)
        if len(self._asked) == 1:
            await self._lead()
        return await asked.done

    async def _lead(self) -> None:
        gathered = self._asked
        outcomes: dict[str, Outcome] = {}
        otherwise: Exception = ConnectionProblem("auth is stopping", hint="it is tried again")
        try:
            await asyncio.sleep(self._gather)
            self._asked = {}
            await self._write(gathered, outcomes)
        except Exception as error:
            otherwise = error
        finally:
            if self._asked is gathered:
                self._asked = {}
            for key, one in gathered.items():
                one.settle(outcomes.get(key, otherwise))

    async def _write(self, gathered: Mapping[str, _Asked], outcomes: dict[str, Outcome]) -> None:
        """Puts into `outcomes` what becomes of each."""
        writes: dict[str, Write] = {}
        conditions: list[Condition] = []
        for key, one in gathered.items():
            item = await self._get(key)
            try:
                write = one.wanted(item)
            except Exception as error:
                outcomes[key] = error
                continue
            if write is None:
                outcomes[key] = None
                continue
            writes[key] = write
            conditions += [_as_it_was(key, item), *one.given]
        if not writes:
            return
        try:
            outcomes.update(dict.fromkeys(writes, await self._commit(list(writes.values()), conditions)))
        except CompareFailed:  # one of them changed meanwhile
            for key in writes:
                try:
                    outcomes[key] = await self.alone(key, gathered[key].wanted, gathered[key].given)
                except Exception as error:
                    outcomes[key] = error


def _as_it_was(key: str, item: Item | None) -> Condition:
    return Absent(key) if item is None else Exists(key, item.revision)
