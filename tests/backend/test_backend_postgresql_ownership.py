"""Other users of the same PostgreSQL server, who lay something out for the auth server to step on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from secrets import token_hex

import pytest
from tests.backend.postgresql_engines import sql

from teleport.backend.postgresql.engine import PostgresqlBackend
from teleport.backend.postgresql.settings import parse
from teleport.clock import SystemClock
from teleport.errors import AccessDenied
from teleport.testing import postgresql
from teleport.testing.postgresql import PostgresqlServer

pytestmark = pytest.mark.skipif(postgresql.programs() is None, reason=postgresql.MISSING)


@pytest.fixture(scope="module")
def shared() -> Iterator[PostgresqlServer]:
    """One server; `mallory` is another user of it."""
    with PostgresqlServer() as server:
        server.sql("CREATE ROLE mallory LOGIN", "CREATE ROLE plain LOGIN")
        yield server


def storage(server: PostgresqlServer, schema: str) -> PostgresqlBackend:
    return PostgresqlBackend(replace(parse(server.url("plain")), schema=schema), SystemClock(), sweep_every=None)


async def test_a_function_that_others_made_is_never_run(shared: PostgresqlServer) -> None:
    await sql(
        shared,
        "GRANT CREATE ON SCHEMA public TO mallory",
        "SET ROLE mallory; CREATE FUNCTION public.unnest(a text[]) RETURNS SETOF text LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'run as %', current_user; END $$; RESET ROLE",
        "CREATE SCHEMA own AUTHORIZATION plain",
    )
    async with storage(shared, "own") as backend:
        await backend.put("k", b"v")
        assert await backend.revision() == 1


@pytest.mark.parametrize(
    ("laid", "told"),
    [
        ("CREATE SCHEMA {0} AUTHORIZATION mallory; GRANT ALL ON SCHEMA {0} TO plain", "mallory owns the schema"),
        ("CREATE SCHEMA {0} AUTHORIZATION plain; GRANT CREATE ON SCHEMA {0} TO PUBLIC", "everybody may make things"),
        ("CREATE SCHEMA {0} AUTHORIZATION plain; GRANT CREATE ON SCHEMA {0} TO mallory", "mallory may make things"),
        (
            "CREATE SCHEMA {0} AUTHORIZATION plain; CREATE TABLE {0}.meta (program text); "
            "ALTER TABLE {0}.meta OWNER TO mallory",
            "mallory owns a table",
        ),
        (
            "CREATE SCHEMA {0} AUTHORIZATION plain; CREATE FUNCTION {0}.f() RETURNS int LANGUAGE sql AS 'SELECT 1'; "
            "ALTER FUNCTION {0}.f() OWNER TO mallory",
            "mallory owns a function",
        ),
    ],
)
async def test_a_schema_in_which_others_have_rights_is_not_used(shared: PostgresqlServer, laid: str, told: str) -> None:
    name = f"t_{token_hex(8)}"
    await sql(shared, laid.format(name))
    with pytest.raises(AccessDenied, match=told) as caught:
        await storage(shared, name).open()
    assert "AUTHORIZATION plain" in caught.value.hint


async def test_rights_on_the_tables_that_others_were_given_later_are_seen_at_the_next_start(
    shared: PostgresqlServer,
) -> None:
    name = f"t_{token_hex(8)}"
    await sql(shared, f"CREATE SCHEMA {name} AUTHORIZATION plain")
    async with storage(shared, name):
        pass
    await sql(shared, f"GRANT SELECT ON {name}.item TO mallory")  # who makes backups
    async with storage(shared, name):
        pass
    for right, whom in (("TRIGGER", "mallory"), ("SELECT", "PUBLIC")):
        await sql(shared, f"GRANT {right} ON {name}.item TO {whom}")
        with pytest.raises(AccessDenied, match="get at the keys"):
            await storage(shared, name).open()
        await sql(shared, f"REVOKE {right} ON {name}.item FROM {whom}")
