"""Events to a table of DynamoDB, each once: what is there already is not written again.

The table is made when it is absent. It loads aiobotocore: import it when such a copy is wanted (`places`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, Final

from teleport.aws.answers import Kind
from teleport.backend.dynamodb.rows import Row
from teleport.backend.dynamodb.table import CONNECTIONS, Refused, Table
from teleport.clock import Clock
from teleport.copies.dynamodb_rows import day_of, day_row, event_row
from teleport.copies.dynamodb_table import open_events
from teleport.copies.settings import DynamoCopy

WITHIN: Final = 10.0  # seconds for which a service that is away or throttles is tried at once
DOING: Final = "write audit events to"


class DynamoPlace:
    """One table."""

    doubtful = 0.0

    def __init__(self, settings: DynamoCopy, clock: Clock, *, within: float = WITHIN) -> None:
        self._settings = settings
        self._clock = clock
        self._within = within
        self._table: Table | None = None
        self._days: set[str] = set()  # that the table knows of

    async def write(self, lines: Sequence[bytes]) -> None:
        now = self._clock.now()
        rows = [event_row(line, self._settings.keep, now) for line in lines]
        if self._table is None:
            self._table = await open_events(self._settings.settings, DOING, within=self._within, make=True)
        try:
            # A search goes by the days that are known, so these come first.
            days = {day_of(row) for row in rows} - self._days - {""}
            await self._put(self._table, [day_row(day) for day in sorted(days)])
            self._days |= days
            await self._put(self._table, rows)
        except Refused as error:
            failure = self._table.explain(DOING, error)
            await self.close()  # whoever removed the table meanwhile: it is made anew
            raise failure from None
        except BaseException:
            await self.close()
            raise

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
