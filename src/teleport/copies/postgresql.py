"""Events to a table of PostgreSQL, each once: its key is the SHA-256 of the stored line.

How far events were brought is written beside them in the same transaction (`marks`), so that a database which lost
events has lost that, too.

The schema is made when it is not there. It loads asyncpg: import it when such a copy is wanted (`places`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Final, TypeVar

import msgspec

from teleport.audit.cursor import Cursor
from teleport.audit.search import Head, micros, read_head
from teleport.backend.postgresql.servers import COMMITTING, Servers, Session
from teleport.backend.postgresql.settings import PostgresqlSettings
from teleport.copies.marks import Lacking, covers, read, written

WITHIN: Final = 10.0  # seconds for which servers that are away are tried at once
MAKE_WITHIN: Final = 1800.0  # seconds: an index on what was there before
WORD: Final = 500  # characters of a value that a column has: an index takes no longer ones
UNREAD: Final = 500  # rows at once that an older version has written
MAKE: Final = """
SET LOCAL statement_timeout = '30min';
CREATE SCHEMA IF NOT EXISTS {schema};
CREATE TABLE IF NOT EXISTS {schema}.events (
    id text PRIMARY KEY,
    time timestamptz,
    event text NOT NULL,
    code text NOT NULL,
    "user" text NOT NULL,
    sid text NOT NULL,
    host text NOT NULL,
    uid text NOT NULL,
    line text NOT NULL
);
CREATE INDEX IF NOT EXISTS events_time ON {schema}.events (time);
CREATE INDEX IF NOT EXISTS events_sid ON {schema}.events (sid) WHERE sid <> '';
ALTER TABLE {schema}.events
    ADD COLUMN IF NOT EXISTS micros bigint,
    ADD COLUMN IF NOT EXISTS tie bytea,
    ADD COLUMN IF NOT EXISTS login text,
    ADD COLUMN IF NOT EXISTS hosts text[];
CREATE INDEX IF NOT EXISTS events_micros ON {schema}.events (micros);
CREATE INDEX IF NOT EXISTS events_unread ON {schema}.events (id) WHERE tie IS NULL;
CREATE TABLE IF NOT EXISTS {schema}.brought (store text PRIMARY KEY, place text NOT NULL);
"""
_MARKS: Final = "SELECT place FROM {schema}.brought"
_MARK: Final = """
INSERT INTO {schema}.brought (store, place)
SELECT store, place FROM unnest($1::text[], $2::text[]) AS new (store, place)
ON CONFLICT (store) DO UPDATE SET place = excluded.place
"""
# What searches go by (`postgresql_search`). A line of which nothing can be read has no `micros` and an empty `tie`.
_INSERT: Final = """
INSERT INTO {schema}.events (id, time, event, code, "user", sid, host, uid, line, micros, tie, login, hosts)
SELECT id, time, event, code, "user", sid, host, uid, line, micros, tie, login, string_to_array(hosts, E'\\x01')
FROM unnest($1::text[], $2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
    $9::text[], $10::bigint[], $11::bytea[], $12::text[], $13::text[])
    AS new (id, time, event, code, "user", sid, host, uid, line, micros, tie, login, hosts)
ON CONFLICT DO NOTHING
"""
_UNREAD: Final = "SELECT id, line FROM {schema}.events WHERE tie IS NULL LIMIT $1"
_READ: Final = """
UPDATE {schema}.events AS e
SET micros = new.micros, tie = new.tie, login = new.login, hosts = string_to_array(new.hosts, E'\\x01')
FROM unnest($1::text[], $2::bigint[], $3::bytea[], $4::text[], $5::text[]) AS new (id, micros, tie, login, hosts)
WHERE e.id = new.id AND e.tie IS NULL
"""


T = TypeVar("T")


class _About(msgspec.Struct):
    time: datetime | None = None
    event: str = ""
    code: str = ""
    user: str = ""
    sid: str = ""
    server_id: str = ""
    uid: str = ""


_ABOUT = msgspec.json.Decoder(_About)


def kept(word: str) -> str:
    """A value as columns have it; what was cut off is found by the line."""
    return word[:WORD].replace("\0", "\ufffd").replace("\1", "\ufffd")


def searched(head: Head | None) -> tuple[int | None, bytes, str, str]:
    """What searches go by: time, what puts events of one moment in order, login, hosts."""
    if head is None:
        return None, b"", "", ""
    hosts = {head.server_id, head.server_hostname, head.host_id, head.hostname, head.emitter} - {""}
    return micros(head.time), head.tie.encode(), kept(head.login), "\1".join(sorted(kept(one) for one in hosts))


def row(line: bytes) -> tuple[object, ...]:
    """The columns of an event; of a damaged one its text alone."""
    text = line.decode("utf-8", "replace").replace("\0", "\ufffd")
    head = read_head(line)
    try:
        about = _ABOUT.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        about = _About(head.time, head.event) if head is not None else _About()
    time = about.time
    if time is not None and time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    words = (about.event, about.code, about.user, about.sid, about.server_id, about.uid)
    event, code, user, sid, host, uid = map(kept, words)
    name = hashlib.sha256(line).hexdigest()
    return name, time, event, code, user, sid, host, uid, text, *searched(head)


class PostgresqlPlace:
    """One schema."""

    doubtful = 0.0

    def __init__(self, settings: PostgresqlSettings) -> None:
        self._settings = settings
        self._servers: Servers | None = None
        self._made = False

    async def write(self, lines: Sequence[bytes]) -> None:
        """Without a mark."""

        async def insert(session: Session) -> None:
            await self._insert(session, lines)

        await self._work(insert)

    async def bring(self, lines: Sequence[bytes], before: Cursor, after: Cursor) -> None:
        """As `marks.Marked` has it."""

        async def insert(session: Session) -> Cursor | None:
            await session.run("BEGIN")
            found = await mark_in(session, self._settings.schema)
            if not covers(found, before):
                await session.run("ROLLBACK")
                return found
            await self._insert(session, lines)
            stores, places = zip(*written(after), strict=True) if after.places else ((), ())
            await session.rows(_MARK.format(schema=self._settings.schema), list(stores), list(places))
            await session.run("COMMIT", within=COMMITTING)
            return None

        if (found := await self._work(insert)) is not None:
            raise Lacking(found)

    async def _work(self, work: Callable[[Session], Awaitable[T]]) -> T:
        if self._servers is None:
            self._servers = Servers(self._settings, within=WITHIN)

        async def made(session: Session) -> T:
            if not self._made:
                await session.run(MAKE.format(schema=self._settings.schema), within=MAKE_WITHIN)
                self._made = True
            return await work(session)

        try:
            return await self._servers.read(made, "write audit events")
        except BaseException:
            self._made = False
            raise

    async def _insert(self, session: Session, lines: Sequence[bytes]) -> None:
        schema = self._settings.schema
        if lines:
            columns = [list(column) for column in zip(*map(row, lines), strict=True)]
            await session.rows(_INSERT.format(schema=schema), *columns)
        await _read_older(session, schema)

    async def close(self) -> None:
        servers, self._servers = self._servers, None
        self._made = False
        if servers is not None:
            await servers.close()


async def mark_in(session: Session, schema: str) -> Cursor:
    """How far the database says that it has events; the beginning of the log when it says nothing."""
    if (await session.row("SELECT to_regclass($1)", f"{schema}.brought"))[0] is None:
        return Cursor()
    return read([place for (place,) in await session.rows(_MARKS.format(schema=schema))])


async def _read_older(session: Session, schema: str) -> None:
    """Fills in what searches go by where an older version left it out, some rows each time."""
    rows = await session.rows(_UNREAD.format(schema=schema), UNREAD)
    if rows:
        read = [(name, *searched(read_head(line.encode()))) for name, line in rows]
        await session.rows(_READ.format(schema=schema), *([*column] for column in zip(*read, strict=True)))
