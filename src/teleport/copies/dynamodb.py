"""Events to a table of DynamoDB, each once: what is there already is not written again.

The table is made when it is absent. It loads aiobotocore: import it when such a copy is wanted (`places`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

from teleport.audit.cursor import Cursor
from teleport.aws.answers import Kind
from teleport.backend.dynamodb.rows import Row
from teleport.backend.dynamodb.table import CONNECTIONS, Refused, Table
from teleport.clock import Clock
from teleport.copies.dynamodb_rows import day_of, day_row, event_row, mark_row
from teleport.copies.dynamodb_table import check, mark_in, open_events
from teleport.copies.marks import Lacking, covers, written
from teleport.copies.settings import DynamoCopy

WITHIN: Final = 10.0  # seconds for which a service that is away or throttles is tried at once
DOING: Final = "write audit events to"

T = TypeVar("T")


class DynamoPlace:
    """One table."""

    doubtful = 0.0

    def __init__(self, settings: DynamoCopy, clock: Clock, *, within: float = WITHIN) -> None:
        self._settings = settings
        self._clock = clock
        self._within = within
        self._table: Table | None = None
        self._days: set[str] = set()  # that the table knows of
        self._mark = Cursor()  # as it was written last

    async def write(self, lines: Sequence[bytes]) -> None:
        """Without a mark."""
        await self._work(lambda table: self._events(table, lines))

    async def bring(self, lines: Sequence[bytes], before: Cursor, after: Cursor) -> None:
        """As `marks.Marked` has it. The mark is written behind the rows that it is of."""

        async def all_of_it(table: Table) -> Cursor | None:
            found = await mark_in(table)
            if found != self._mark:  # another process brings events, too, or it is another table by now
                self._days.clear()
                await check(table, make=True)
            if not covers(found, before):
                return found
            await self._events(table, lines)
            old = dict(written(found))
            for store, place in written(after):
                if old.get(store) != place:
                    await table.call("put_item", TableName=table.settings.table, Item=mark_row(store, place))
            self._mark = Cursor({**found.places, **after.places})
            return None

        if (found := await self._work(all_of_it)) is not None:
            raise Lacking(found)

    async def _work(self, work: Callable[[Table], Awaitable[T]]) -> T:
        if self._table is None:
            self._table = await open_events(self._settings.settings, DOING, within=self._within, make=True)
        try:
            return await work(self._table)
        except Refused as error:
            failure = self._table.explain(DOING, error)
            await self.close()  # whoever removed the table meanwhile: it is made anew
            raise failure from None
        except BaseException:
            await self.close()
            raise

    async def _events(self, table: Table, lines: Sequence[bytes]) -> None:
        now = self._clock.now()
        rows = [event_row(line, self._settings.keep, now) for line in lines]
        # A search goes by the days that are known, so these come first.
        days = {day_of(row) for row in rows} - self._days - {""}
        await self._put(table, [day_row(day) for day in sorted(days)])
        self._days |= days
        await self._put(table, rows)

    async def close(self) -> None:
        table, self._table = self._table, None
        self._days.clear()
        if table is not None:
            await table.close()

    async def _put(self, table: Table, rows: Sequence[Row]) -> None:
        """All of them, some at once. Raises `Refused`; then any may be there."""
        waiting = iter(rows)
        refusals: list[Refused] = []

        async def some(left: Iterator[Row]) -> None:
            for row in left:
                if refusals:
                    return
                try:
                    await _put_once(table, row)
                except Refused as error:
                    refusals.append(error)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(CONNECTIONS, len(rows))):
                tasks.create_task(some(waiting), name="an audit event to DynamoDB")
        if refusals:
            raise refusals[0]


async def _put_once(table: Table, row: dict[str, Any]) -> None:
    """A row unless it is there: its key says all that is in it."""
    try:
        await table.call(
            "put_item", TableName=table.settings.table, Item=row, ConditionExpression="attribute_not_exists(kind)"
        )
    except Refused as error:
        if error.kind is not Kind.CONDITION:
            raise
