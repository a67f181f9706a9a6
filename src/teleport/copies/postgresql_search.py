"""Finding events in the table of PostgreSQL: the same events, order and pages as in auth's own log.

The database narrows down; whether an event is meant is decided here, from its line, as for the log. It loads asyncpg:
import it when a place is searched (`places`).
"""

from __future__ import annotations

import asyncio
from typing import Final

from teleport.audit.cursor import Cursor
from teleport.audit.search import Page, Query, fits, has_text, micros, place_after, read_head
from teleport.backend.postgresql.servers import Servers, Session
from teleport.backend.postgresql.settings import PostgresqlSettings
from teleport.copies.postgresql import kept, mark_in
from teleport.copies.searching import NotReady

WITHIN: Final = 3.0  # seconds for which servers that are away are tried
QUERY: Final = 10.0  # seconds for one statement
LINES: Final = 500  # read at once
_MOST: Final = 2**63 - 1
_READY: Final = """
SELECT EXISTS (
    SELECT FROM pg_attribute WHERE attrelid = to_regclass($1) AND attname = 'tie' AND NOT attisdropped
)
"""
_UNREAD: Final = "SELECT 1 FROM {schema}.events WHERE tie IS NULL LIMIT 1"
# Text is compared in any case as Python does. The database does that for plain ASCII alone, in both: other lines are
# looked at here.
_TEXT: Final = r"""(line ~ '[^\x01-\x7f]' OR position({text}::text IN lower(line COLLATE "C")) > 0)"""


class PostgresqlSearch:
    """One schema."""

    def __init__(self, settings: PostgresqlSettings) -> None:
        self._settings = settings
        self._servers: Servers | None = None
        self._made = False

    async def search(self, query: Query) -> Page:
        after = place_after(query)

        async def look(session: Session) -> Page:
            await self._check(session)
            return await _found(session, self._settings.schema, query, after)

        return await (await self._opened()).read(look, "search audit events")

    async def mark(self) -> Cursor:
        """How far the database itself says that it has events."""

        async def look(session: Session) -> Cursor:
            return await mark_in(session, self._settings.schema)

        return await (await self._opened()).read(look, "search audit events")

    async def _opened(self) -> Servers:
        if self._servers is None:
            self._servers = await asyncio.to_thread(Servers, self._settings, within=WITHIN)
        return self._servers

    async def close(self) -> None:
        servers, self._servers = self._servers, None
        if servers is not None:
            await servers.close()

    async def _check(self, session: Session) -> None:
        """Who brings events makes the table, and fills in what an older version left out; a search makes nothing."""
        schema = self._settings.schema
        if not self._made and not (await session.row(_READY, f"{schema}.events"))[0]:
            raise NotReady("the table of events is not there, or an older version made it")
        self._made = True
        if await session.rows(_UNREAD.format(schema=schema)):
            raise NotReady("events that an older version has brought there are being made ready for searches")


async def _found(session: Session, schema: str, query: Query, after: tuple[int, str] | None) -> Page:
    lines: list[bytes] = []
    text, last, taken = query.text.casefold(), after, after
    while True:
        asked, values = statement(schema, query, last)
        rows = await session.rows(asked, *values, within=QUERY)
        for at, tie, stored in rows:
            last = (at if query.oldest_first else -at), bytes(tie).decode("utf-8", "replace")
            line = stored.encode()
            head = read_head(line)
            if head is not None and fits(head, query) and has_text(line, text):
                if len(lines) == query.limit:
                    assert taken is not None, "lines were taken"
                    return Page(lines, f"{taken[0]}/{taken[1]}")
                lines.append(line)
                taken = last
        if len(rows) < LINES:
            return Page(lines)


def statement(schema: str, query: Query, after: tuple[int, str] | None) -> tuple[str, list[object]]:
    """The next rows behind `after`, a superset of what is meant; and the values that go with it."""
    values: list[object] = []

    def value(given: object) -> str:
        values.append(given)
        return f"${len(values)}"

    wanted = ["micros IS NOT NULL"]
    if query.start is not None:
        wanted.append(f"micros >= {value(micros(query.start))}")
    if query.end is not None:
        wanted.append(f"micros < {value(micros(query.end))}")
    if query.types:
        wanted.append(f"event = ANY({value([kept(one) for one in query.types])}::text[])")
    for column, given in (('"user"', query.user), ("login", query.login), ("sid", query.sid)):
        if given:
            wanted.append(f"{column} = {value(kept(given))}")
    if query.host:
        wanted.append(f"{value(kept(query.host))} = ANY(hosts)")
    text = query.text.casefold()
    if text.isascii() and text and "\0" not in text:
        wanted.append(_TEXT.format(text=value(text)))
    if after is not None:
        order, tie = after
        at = value(max(-_MOST, min(order if query.oldest_first else -order, _MOST)))
        beyond = ">" if query.oldest_first else "<"
        place = value(tie.encode("utf-8", "surrogatepass"))
        wanted.append(f"micros {beyond}= {at} AND (micros {beyond} {at} OR tie > {place})")
    order_by = "micros, tie" if query.oldest_first else "micros DESC, tie"
    return (
        f"SELECT micros, tie, line FROM {schema}.events WHERE {' AND '.join(wanted)} ORDER BY {order_by} LIMIT {LINES}",  # noqa: S608 # the schema is checked, values go apart
        values,
    )
