"""Reading: items as of now, and what changed after a revision, as whole transactions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

from teleport.backend.feed import BATCH_EVENTS, Entry
from teleport.backend.interface import LAST_CODE_POINT, MAX_KEY, Deleted, Event, Item, Put, WatchCompacted, prefix_end
from teleport.backend.postgresql.refusals import Kind
from teleport.backend.postgresql.schema import HISTORY
from teleport.backend.postgresql.servers import LONG, Refused, Servers, Session

AFTER_ALL: Final = LAST_CODE_POINT * (MAX_KEY // 4 + 1)  # longer than any key, and after all of them
BATCH_BYTES: Final = 4 * 1024 * 1024  # of values that are read at once, about
EMPTIED: Final = "the table meta is empty"
POLL: Final = 2.0  # seconds without a notice after which the changes, and the server, are looked for

_GET: Final = "SELECT key, value, revision, expires FROM item WHERE key = $1"
_RANGE: Final = """
    SELECT key, value, revision, expires FROM item
    WHERE key >= $1 AND key > $2 AND key < $3 AND (expires IS NULL OR expires > $4) ORDER BY key LIMIT $5
"""
_SNAPSHOT: Final = """
    SELECT m.revision AS last, i.* FROM meta m LEFT JOIN LATERAL (
        SELECT item.key, item.value, item.revision, item.expires FROM unnest($1::text[], $2::text[]) AS p (first, after)
        JOIN item ON item.key >= p.first AND item.key < p.after WHERE item.expires IS NULL OR item.expires > $3
    ) i ON true ORDER BY i.key
"""
# one statement, so of one moment: what is kept, and as many whole transactions as are not too large together
_CHANGES: Final = """
    WITH sized AS (
        SELECT revision, sum(count(*)) OVER w AS events, sum(sum(coalesce(octet_length(value), 0))) OVER w AS bytes
        FROM change WHERE revision > $1 AND revision <= $1 + $2 GROUP BY revision WINDOW w AS (ORDER BY revision)
    ), upto AS (
        SELECT coalesce(max(revision) FILTER (WHERE events <= $2 AND bytes <= $3), min(revision)) AS revision FROM sized
    )
    SELECT m.kept, m.revision AS last, c.revision, c.key, c.value, c.expires FROM meta m LEFT JOIN change c
    ON c.revision > $1 AND c.revision <= (SELECT revision FROM upto) ORDER BY c.revision, c.part
"""


def storable(text: str) -> bool:
    """Whether any key can begin with it."""
    if "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def item_of(row: Any) -> Item:
    expires = row["expires"]
    if (
        expires is not None and expires.tzinfo is None
    ):  # asyncpg's word for infinity, which it stores for the last moment
        expires = expires.replace(tzinfo=UTC)
    return Item(row["key"], row["value"], row["revision"], expires)


async def get(session: Session, key: str) -> Item | None:
    row = await session.row(_GET, key)
    return None if row is None else item_of(row)


async def in_range(session: Session, prefix: str, start: str, limit: int, now: datetime) -> list[Item]:
    after = prefix_end(prefix) or AFTER_ALL
    rows = await session.rows(_RANGE, prefix, start, after, now, limit or None, within=LONG)
    return [item_of(row) for row in rows]


async def under(session: Session, prefixes: list[str], now: datetime) -> tuple[list[Item], int]:
    """The live items under `prefixes`, of which none covers another, and the revision they are of."""
    ends = [prefix_end(prefix) or AFTER_ALL for prefix in prefixes]
    rows = await session.rows(_SNAPSHOT, prefixes, ends, now, within=LONG)
    if not rows:
        raise Refused(Kind.ABSENT, EMPTIED)
    return [item_of(row) for row in rows if row["key"] is not None], int(rows[0]["last"])


async def revision(session: Session) -> int:
    """The revision of the last change."""
    row = await session.row("SELECT revision FROM meta")
    if row is None:
        raise Refused(Kind.ABSENT, EMPTIED)
    return int(row["revision"])


async def same_history(session: Session) -> bool:
    """Whether the server's history is the one that revisions were last given out in."""
    row = await session.row(f"SELECT history = {HISTORY} AS same FROM meta")  # noqa: S608 # a constant
    return row is not None and bool(row["same"])


async def after(session: Session, position: int) -> tuple[list[Entry], int, bool]:
    """Some whole transactions after revision `position`, up to which revision they are all, and whether more follow.

    Raises `WatchCompacted` when what followed is not kept.
    """
    rows = await session.rows(_CHANGES, position, BATCH_EVENTS, BATCH_BYTES, within=LONG)
    if not rows:
        raise Refused(Kind.ABSENT, EMPTIED)
    if position < rows[0]["kept"]:
        raise WatchCompacted(f"cannot watch from revision {position}: its changes are no longer kept")
    last = int(rows[0]["last"])
    if position > last:
        raise WatchCompacted(f"cannot watch from revision {position}: the last is {last}")
    grouped: dict[int, list[Event]] = {}
    for row in rows:
        if (number := row["revision"]) is None:
            continue
        event: Event = Deleted(row["key"], number) if row["value"] is None else Put(item_of(row))
        grouped.setdefault(number, []).append(event)
    entries = [Entry(number, tuple(events)) for number, events in grouped.items()]
    upto = entries[-1].revision if entries else last
    return entries, upto, upto < last


async def history(servers: Servers, position: int) -> AsyncGenerator[tuple[list[Entry], int], None]:
    """The changes after revision `position` as far as there are any, and up to which revision they are all."""
    while True:
        entries, position, more = await servers.read(lambda session: after(session, position))  # noqa: B023 # awaited
        yield entries, position
        if not more:
            return


async def live(
    servers: Servers, position: int, greeted: Callable[[Session], Any]
) -> AsyncGenerator[tuple[list[Entry], int], None]:
    """The changes after revision `position` without end, on a session that is told of each; at first, none.

    Raises `Refused` when the session breaks, and `WatchCompacted`. `greeted` is awaited with each new session.
    """
    session = await servers.session()
    try:
        await greeted(session)
        bell = asyncio.Event()
        await session.listen(servers.schema, bell.set)
        yield [], position
        while True:
            bell.clear()
            # asked first, and briefly: a server that is gone is to be missed soon, also by who has much to read
            if await revision(session) != position:
                entries, position, more = await after(session, position)
                yield entries, position
                if more:
                    continue
            else:
                yield [], position
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL):
                    await bell.wait()
    finally:
        session.cut()
