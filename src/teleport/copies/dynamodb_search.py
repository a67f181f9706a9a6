"""Finding events in the table of DynamoDB: the same events, order and pages as in auth's own log.

The table is read by day and moment; whether an event is meant is decided here, from its line, as for the log. It loads
aiobotocore: import it when a place is searched (`places`).
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Final

from teleport.audit.cursor import Cursor
from teleport.audit.search import Page, Query, fits, has_text, micros, place_after, read_head
from teleport.aws.answers import Kind
from teleport.backend.dynamodb.table import Refused, Table
from teleport.copies.dynamodb_rows import DAY, EVENTS, place
from teleport.copies.dynamodb_table import mark_in, open_events
from teleport.copies.searching import NotReady
from teleport.copies.settings import DynamoCopy

WITHIN: Final = 3.0  # seconds for which a service that is away or throttles is tried
DOING: Final = "search audit events in"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST: Final = datetime.min.replace(tzinfo=UTC)
_LAST: Final = datetime.max.replace(tzinfo=UTC)

_Found = tuple[int, str, bytes]  # as in `audit.search`


class DynamoSearch:
    """One table."""

    def __init__(self, settings: DynamoCopy, *, within: float = WITHIN) -> None:
        self._settings = settings
        self._within = within
        self._table: Table | None = None
        self._opening = asyncio.Lock()

    async def search(self, query: Query) -> Page:
        after = place_after(query)
        table = await self._opened()
        try:
            return await _search(table, query, after)
        except Refused as error:
            raise table.explain(DOING, error) from None

    async def mark(self) -> Cursor:
        """How far the table itself says that it has events."""
        try:
            table = await self._opened()
        except NotReady:
            return Cursor()
        try:
            return await mark_in(table)
        except Refused as error:
            if error.kind is Kind.ABSENT:
                return Cursor()
            raise table.explain(DOING, error) from None

    async def _opened(self) -> Table:
        async with self._opening:
            if self._table is None:
                self._table = await open_events(self._settings.settings, DOING, within=self._within, make=False)
            return self._table

    async def close(self) -> None:
        table, self._table = self._table, None
        if table is not None:
            await table.close()


async def _search(table: Table, query: Query, after: tuple[int, str] | None) -> Page:
    found: list[_Found] = []
    text, wanted, at = query.text.casefold(), query.limit + 1, None
    async with aclosing(_lines(table, query, after)) as lines:
        async for line in lines:
            head = read_head(line)
            if head is None:
                continue
            order = micros(head.time) if query.oldest_first else -micros(head.time)
            if order != at and len(found) >= wanted:
                break  # what follows is of another moment
            at = order
            if (after is None or (order, head.tie) > after) and fits(head, query) and has_text(line, text):
                found.append((order, head.tie, line))
                if len(found) > 2 * wanted:  # all of one moment: the table does not have them in our order
                    found = heapq.nsmallest(wanted, found)
    found = heapq.nsmallest(wanted, found)
    page = [line for _, _, line in found[: query.limit]]
    if len(found) <= query.limit:
        return Page(page)
    order, tie, _ = found[query.limit - 1]
    return Page(page, f"{order}/{tie}")


async def _lines(table: Table, query: Query, after: tuple[int, str] | None) -> AsyncGenerator[bytes, None]:
    """The lines of the time that is meant and of the moment of `after` on, by moment."""
    low, high = _aware(query.start or _FIRST), _aware(query.end or _LAST)
    if after is not None and query.oldest_first:
        low = max(low, _moment(after[0]))
    elif after is not None:
        high = min(high, _moment(1 - after[0]))  # a bound that is not of the time any more
    if low >= high:
        return
    known = [row["key"]["S"] async for page in table.pages(DAY) for row in page]
    days = sorted(day for day in known if low.date().isoformat() <= day <= high.date().isoformat())
    for day in days if query.oldest_first else reversed(days):
        first = place(low) if day == low.date().isoformat() else ""
        last = place(high) if day == high.date().isoformat() and high < _LAST else ""
        pages = table.pages(EVENTS + day, after=first, upto=last, backward=not query.oldest_first)
        async with aclosing(pages):
            async for page in pages:
                for row in page:
                    yield row["line"]["S"].encode()


def _aware(when: datetime) -> datetime:
    """In UTC, as far as the calendar goes."""
    if when.tzinfo is None:
        return when.replace(tzinfo=UTC)
    try:
        return when.astimezone(UTC)
    except OverflowError:
        return _LAST if when.year > _EPOCH.year else _FIRST


def _moment(at: int) -> datetime:
    """Of microseconds since 1970, within the calendar."""
    try:
        return _EPOCH + timedelta(microseconds=at)
    except OverflowError:
        return _LAST if at > 0 else _FIRST
