"""The tables in PostgreSQL: who makes them, who may not, and who stops when they are not his any more."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from secrets import token_hex

import pytest
from tests.backend.postgresql_engines import engine, settings, sql

from teleport.backend.postgresql.engine import PostgresqlBackend
from teleport.backend.postgresql.schema import open_schema
from teleport.backend.postgresql.servers import Servers
from teleport.backend.postgresql.settings import parse
from teleport.clock import SystemClock
from teleport.errors import AccessDenied, TeleportError
from teleport.testing import postgresql
from teleport.testing.postgresql import PostgresqlServer

pytestmark = pytest.mark.skipif(postgresql.programs() is None, reason=postgresql.MISSING)


@pytest.fixture(scope="module")
def shared() -> Iterator[PostgresqlServer]:
    """One server, which no test may stop."""
    with PostgresqlServer() as server:
        yield server


async def test_many_that_open_at_once_make_the_tables_once(shared: PostgresqlServer) -> None:
    name = f"t_{token_hex(8)}"
    servers = Servers(settings(shared, name))
    made = await asyncio.gather(*(open_schema(servers) for _ in range(6)))
    assert len({one.made for one in made}) == 1
    await servers.close()


async def test_tables_of_another_program_are_left_alone(shared: PostgresqlServer) -> None:
    for number, statement in enumerate(
        ("CREATE TABLE {}.kv (a int)", "CREATE TABLE {}.meta (a int)", "CREATE TABLE {}.meta (program text)")
    ):
        name = f"theirs_{number}"
        await sql(shared, f"CREATE SCHEMA {name}", statement.format(name))
        with pytest.raises(TeleportError, match="another program") as caught:
            await engine(shared, name).open()
        assert "schema" in caught.value.hint


async def test_a_newer_schema_is_refused_and_stops_those_that_know_the_old_one(shared: PostgresqlServer) -> None:
    migrations = ("ALTER TABLE item ADD COLUMN note text",)
    async with engine(shared) as old:
        await old.put("k", b"")
        servers = Servers(old._settings)
        with pytest.raises(TeleportError, match="from 1 to 2"):
            await open_schema(servers, migrations=migrations, may_change=False)
        assert (await open_schema(servers, migrations=migrations)).version == 2
        assert (await open_schema(servers, migrations=migrations)).version == 2
        await servers.close()
        with pytest.raises(TeleportError, match="another version"):
            await old.put("k", b"late")
        with pytest.raises(TeleportError, match="version 2, this program knows up to 1") as caught:
            await engine(shared, old._settings.schema).open()
        assert "newer version" in caught.value.hint


async def test_a_storage_that_was_removed_or_made_anew_is_not_written_to(shared: PostgresqlServer) -> None:
    async with engine(shared) as backend:
        await backend.put("k", b"")
        await sql(shared, f"DROP SCHEMA {backend._settings.schema} CASCADE")
        with pytest.raises(TeleportError, match="not there any more") as caught:
            await backend.put("k", b"")
        assert caught.value.hint
        with pytest.raises(TeleportError, match="not there any more"):
            await backend.get("k")
        async with engine(shared, backend._settings.schema):
            with pytest.raises(TeleportError, match="removed"):
                await backend.put("k", b"")
            with pytest.raises(TeleportError, match="removed"):
                await backend._servers.read(lambda session: backend._forget(1, session))


async def test_a_user_needs_to_own_the_tables_and_no_more(shared: PostgresqlServer) -> None:
    name = f"t_{token_hex(8)}"
    await sql(shared, f"CREATE ROLE {name} LOGIN")
    plain = replace(parse(shared.url(name)), schema=name)
    with pytest.raises(AccessDenied, match=f"user {name} may not") as caught:
        await PostgresqlBackend(plain, SystemClock()).open()
    assert f"CREATE SCHEMA {name} AUTHORIZATION {name}" in caught.value.hint
    await sql(shared, f"CREATE SCHEMA {name} AUTHORIZATION {name}")
    async with PostgresqlBackend(plain, SystemClock(), sweep_every=None) as backend:
        await backend.put("k", b"")
        assert await backend.revision() == 1


async def test_a_database_that_cannot_hold_every_key_is_refused(shared: PostgresqlServer) -> None:
    await sql(shared, "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    with pytest.raises(TeleportError, match="LATIN1"):
        await PostgresqlBackend(parse(shared.url(database="latin")), SystemClock()).open()
    with pytest.raises(TeleportError, match="no such database") as caught:
        await PostgresqlBackend(parse(shared.url(database="absent")), SystemClock()).open()
    assert "CREATE DATABASE" in caught.value.hint
