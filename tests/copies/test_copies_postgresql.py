"""Events to a table of a real PostgreSQL: each once, whatever comes twice."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.copies.test_copies import opened, running

from teleport.backend.postgresql.settings import parse
from teleport.copies import copier as copier_module
from teleport.copies import postgresql as place_module
from teleport.copies.places import place_of
from teleport.copies.postgresql import row
from teleport.copies.settings import PostgresqlCopy
from teleport.errors import TeleportError
from teleport.testing import postgresql
from teleport.testing.running import wait_until


@pytest.fixture(scope="module")
def server() -> Iterator[postgresql.PostgresqlServer]:
    if postgresql.programs() is None:
        pytest.skip(postgresql.MISSING)
    with postgresql.PostgresqlServer() as running_server:
        yield running_server


def copy(server: postgresql.PostgresqlServer, schema: str) -> PostgresqlCopy:
    return PostgresqlCopy(replace(parse(server.url()), schema=schema))


async def lines_in(server: postgresql.PostgresqlServer, schema: str) -> list[bytes]:
    found = await asyncio.to_thread(server.sql, f"SELECT line FROM {schema}.events ORDER BY line")
    return [line.encode() for line in found.splitlines()]


async def test_what_comes_twice_is_once_and_columns_can_be_asked_for(
    tmp_path: Path, server: postgresql.PostgresqlServer
) -> None:
    async with opened(tmp_path) as rig:
        place = place_of(copy(server, "copies_a"), "auth")
        rig.place = place  # type: ignore[assignment]
        await rig.tell(30)
        await rig.copier().step()
        await place.write(rig.log.lines())
        assert await lines_in(server, "copies_a") == sorted(rig.log.lines())
        await place.write([b'{"event":"login","user":"a\\u0000b","time":"2021-05-01T10:00:00Z"}', b"damaged \xff\0"])
        query = (
            "SELECT count(*), min(time) IS NOT NULL FROM copies_a.events WHERE event = 'login' AND \"user\" LIKE 'a%b'"
        )
        assert await asyncio.to_thread(server.sql, query) == "1|t"
        await place.close()


async def test_a_server_that_is_stopped_in_the_middle_has_every_event_later(
    tmp_path: Path, server: postgresql.PostgresqlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copier_module, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(copier_module, "MOST_PAUSE", 0.1)
    monkeypatch.setattr(copier_module, "LINES", 10)
    monkeypatch.setattr(place_module, "WITHIN", 0.5)
    async with opened(tmp_path) as rig:
        rig.place = place_of(copy(server, "copies_b"), "auth")  # type: ignore[assignment]
        copier = rig.copier()
        async with running(copier):
            await rig.tell(60)
            await asyncio.to_thread(server.kill)
            await rig.tell(20)
            await wait_until(lambda: copier.problem != "", 60)
            await asyncio.to_thread(server.start)
            await wait_until(lambda: not copier.problem, 60)
            async with asyncio.timeout(60):
                while await lines_in(server, "copies_b") != sorted(rig.log.lines()):
                    continue


async def test_a_password_never_stands_in_a_problem(server: postgresql.PostgresqlServer) -> None:
    settings = replace(parse(server.url()), password="sesame", schema="copies_c", database="none")
    place = place_of(PostgresqlCopy(settings), "auth")
    with pytest.raises(TeleportError) as caught:
        await place.write([b"{}"])
    assert "sesame" not in str(caught.value) + caught.value.hint
    await place.close()


def test_a_damaged_line_is_kept_as_its_text() -> None:
    assert row(b"x\0\xff")[1:] == (None, "", "", "", "", "", "", "x\ufffd\ufffd", None, b"", "", "")


def test_no_value_is_longer_than_an_index_takes() -> None:
    """A host that says an endless session id stops no copy."""
    found = row(b'{"event":"exec","time":"2021-05-01T10:00:00Z","uid":"u","sid":"%s"}' % (b"s" * 60_000))
    assert found[5] == "s" * 500
