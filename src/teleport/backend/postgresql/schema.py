"""The tables, their version, and who may change it.

    meta     one row: the version, the last revision, and up to which revision changes are not kept any more
    item     what is stored now
    change   what each revision wrote: a value, or null where the key was deleted
    writer   the last transaction of each process, to know whether it happened when its answer was lost

Every transaction that writes locks the row of `meta` first. So revisions become visible in their order, a reader that
has seen one has seen all before it, and nothing is to be decided twice. It also compares version and `made`: a process
that knows an older version, or whose tables were made anew, writes nothing more.

`history` names the server's history and the tables in it. When it is not what it was, the database was restored, or a
standby took over that may not have had the last changes. Revisions then go on far ahead of all that could have been
given out, and no change before is kept, so that nobody takes another's revision for one he has seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from teleport.backend.postgresql.ownership import check_owners
from teleport.backend.postgresql.refusals import Kind
from teleport.backend.postgresql.servers import Refused, Servers, Session
from teleport.errors import TeleportError

PROGRAM: Final = "teleport-access"
LEAP: Final = 2**32  # revisions that are passed over with a new history
LOCK_CLASS: Final = 0x7465_6C65  # of the advisory lock under which tables are made and changed

_MAKE: Final = """
    CREATE TABLE meta (
        one boolean PRIMARY KEY DEFAULT true CHECK (one),
        program text NOT NULL,
        version int NOT NULL,
        made uuid NOT NULL DEFAULT gen_random_uuid(),
        history text NOT NULL,
        revision bigint NOT NULL DEFAULT 0,
        kept bigint NOT NULL DEFAULT 0
    ) WITH (fillfactor = 10);
    CREATE TABLE item (
        key text COLLATE "C" PRIMARY KEY,
        value bytea NOT NULL,
        revision bigint NOT NULL,
        expires timestamptz
    );
    CREATE INDEX item_expires ON item (expires) WHERE expires IS NOT NULL;
    CREATE TABLE change (
        revision bigint NOT NULL,
        part int NOT NULL,
        key text COLLATE "C" NOT NULL,
        value bytea,
        expires timestamptz,
        at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (revision, part)
    );
    CREATE TABLE writer (
        process uuid PRIMARY KEY,
        number bigint NOT NULL,
        at timestamptz NOT NULL DEFAULT now()
    );
"""
# Each entry takes the schema from its index + 1 to the next version, in the transaction that says so. Entries are never
# changed, only added.
MIGRATIONS: Final[tuple[str, ...]] = ()
LOCK: Final = "BEGIN; SELECT 1 FROM meta FOR UPDATE"  # how every transaction that writes begins
HISTORY: Final = """
    (SELECT system_identifier FROM pg_control_system())::text || '/' ||
    left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) || '/' || 'meta'::regclass::oid::text
"""


@dataclass(frozen=True, slots=True)
class Schema:
    """As this process found it."""

    version: int
    made: UUID


async def open_schema(servers: Servers, *, migrations: Sequence[str] = MIGRATIONS, may_change: bool = True) -> Schema:
    """Make the tables, or bring them to this version. What is newer, or of another program, is refused, unchanged.

    With `may_change` false older ones are refused, too: another process uses them.
    """

    async def once() -> Schema:
        session = await servers.session()
        try:
            return await _open(servers, session, migrations, may_change)
        finally:
            await session.close()

    return await servers.lasting(once, "open")


async def _open(servers: Servers, session: Session, migrations: Sequence[str], may_change: bool) -> Schema:
    known = len(migrations) + 1
    await check_owners(servers, session)  # reading what is another's may already run what he wrote
    found = await _read(servers, session)
    if found is None or found.version < known:
        await session.run("BEGIN")
        # two at once make them one after the other; the second finds them made
        await session.row("SELECT pg_advisory_xact_lock($1, hashtext($2))", LOCK_CLASS, servers.schema)
        found = await _read(servers, session)
        if found is None:
            await _make(servers, session, known)
        elif found.version < known:
            await _migrate(session, found.version, migrations, may_change)
        await session.run("COMMIT")
        found = await _read(servers, session)
        if found is None:
            raise changed(servers)
    if found.version > known:
        raise TeleportError(
            f"cannot open the storage in PostgreSQL ({servers.where}): its schema is version {found.version}, this "
            f"program knows up to {known}, so a newer version of Teleport wrote it",
            hint="start that newer version, or restore the dump made before the upgrade: pg_restore",
        )
    return found


async def _read(servers: Servers, session: Session) -> Schema | None:
    """What is there; None when nothing is. Raises `TeleportError` for what is another program's."""
    tables = await session.rows(
        "SELECT c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1",
        servers.schema,
    )
    if not tables:
        return None
    row: Any = None
    if "meta" in {row["name"] for row in tables}:
        try:
            row = await session.row("SELECT program, version, made FROM meta")
        except Refused as error:
            if error.kind is not Kind.REFUSED:  # a table of that name, with other columns
                raise
    if row is None or row["program"] != PROGRAM:
        raise TeleportError(
            f"cannot open the storage in PostgreSQL ({servers.where}): its schema {servers.schema} holds tables of "
            "another program",
            hint="name a schema of its own for this cluster in teleport.storage: schema: teleport_access",
        )
    return Schema(int(row["version"]), row["made"])


async def _make(servers: Servers, session: Session, version: int) -> None:
    row = await session.row(
        "SELECT to_regnamespace(quote_ident($1)) IS NULL AS absent, quote_ident($1) AS quoted", servers.schema
    )
    if row["absent"]:
        await session.run(f"CREATE SCHEMA {row['quoted']}")
    await check_owners(servers, session)  # it may be there since this moment, and another's
    await session.run(_MAKE)
    await session.row(
        f"INSERT INTO meta (program, version, history) VALUES ($1, $2, {HISTORY}) RETURNING version",  # noqa: S608
        PROGRAM,
        version,
    )


async def _migrate(session: Session, version: int, migrations: Sequence[str], may_change: bool) -> None:
    known = len(migrations) + 1
    if not may_change:
        raise TeleportError(
            f"this version changes the schema of the storage in PostgreSQL from {version} to {known}, which the "
            "process that is running could not read any more",
            hint="stop every auth server of the cluster, then start this version",
        )
    await session.row("SELECT version FROM meta FOR UPDATE")
    for script in migrations[version - 1 :]:
        await session.run(script)
    await session.row("UPDATE meta SET version = $1 RETURNING version", known)


def changed(servers: Servers) -> TeleportError:
    """What a process says whose storage is not the one it opened any more."""
    return TeleportError(
        f"the storage in PostgreSQL ({servers.where}) was changed by another version of Teleport, or removed, under "
        "this process",
        hint="start all auth servers of the cluster anew, in the same version",
    )
