"""Events to a table of PostgreSQL, each once: its key is the SHA-256 of the stored line.

The schema is made when it is not there. It loads asyncpg: import it when such a copy is wanted (`places`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

from teleport.backend.postgresql.servers import Servers, Session
from teleport.backend.postgresql.settings import PostgresqlSettings

WITHIN: Final = 10.0  # seconds for which servers that are away are tried at once
_MAKE: Final = """
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
"""
_INSERT: Final = """
INSERT INTO {schema}.events (id, time, event, code, "user", sid, host, uid, line)
SELECT * FROM unnest(
    $1::text[], $2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[])
ON CONFLICT DO NOTHING
"""


class _About(msgspec.Struct):
    time: datetime | None = None
    event: str = ""
    code: str = ""
    user: str = ""
    sid: str = ""
    server_id: str = ""
    uid: str = ""


_ABOUT = msgspec.json.Decoder(_About)


def row(line: bytes) -> tuple[str, datetime | None, str, str, str, str, str, str, str]:
    """The columns of an event; of a damaged one its text alone."""
    text = line.decode("utf-8", "replace").replace("\0", "\ufffd")
    try:
        about = _ABOUT.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        about = _About()
    time = about.time
    if time is not None and time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    words = (about.event, about.code, about.user, about.sid, about.server_id, about.uid)
    event, code, user, sid, host, uid = (word.replace("\0", "\ufffd") for word in words)
    return hashlib.sha256(line).hexdigest(), time, event, code, user, sid, host, uid, text


class PostgresqlPlace:
    """One schema."""

    doubtful = 0.0

    def __init__(self, settings: PostgresqlSettings) -> None:
        self._settings = settings
        self._servers: Servers | None = None
        self._made = False

    async def write(self, lines: Sequence[bytes]) -> None:
        columns = [list(column) for column in zip(*map(row, lines), strict=True)]
        if self._servers is None:
            self._servers = Servers(self._settings, within=WITHIN)

        async def insert(session: Session) -> None:
            if not self._made:
                await session.run(_MAKE.format(schema=self._settings.schema))
                self._made = True
            await session.rows(_INSERT.format(schema=self._settings.schema), *columns)

        try:
            await self._servers.read(insert, "write audit events")
        except BaseException:
            self._made = False
            raise

    async def close(self) -> None:
        servers, self._servers = self._servers, None
        if servers is not None:
            await servers.close()
