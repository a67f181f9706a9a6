"""HTTP over connections that are led somewhere: real auth, real TLS, and how they end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.api.client import AuthClient
from teleport.errors import AccessDenied, ConnectionProblem
from teleport.pki.x509cert import auth_server_name
from teleport.testing.auth import CLUSTER, RunningAuth, running_auth
from teleport.transport.led import LedConnector, Streams


class Way:
    """Leads to auth, and counts."""

    def __init__(self, auth: RunningAuth) -> None:
        self._auth = auth
        self.made: list[asyncio.StreamWriter] = []

    async def dial(self) -> Streams:
        reader, writer = await asyncio.open_connection(*self._auth.address)
        self.made.append(writer)
        return reader, writer

    async def gone(self) -> None:
        for writer in self.made:
            await writer.wait_closed()


@asynccontextmanager
async def led(auth: RunningAuth, way: Way, *, name: str = "", most: int = 1 << 20) -> AsyncGenerator[AuthClient, None]:
    admin = await auth.admin()
    client = AuthClient(
        [("nowhere.invalid", 1)],
        lambda: auth.context(admin),
        name or auth_server_name(CLUSTER),
        connector=lambda: LedConnector(way.dial, 2),
        most=most,
    )
    async with client:
        yield client


async def test_calls_go_where_they_are_led_and_no_name_is_looked_up(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        way = Way(auth)
        async with led(auth, way) as client:
            for _ in range(3):
                assert (await client.call(routes.LIST["role"], m.ListRequest())).items
            assert len(way.made) == 1, "a connection is kept"
            found = await asyncio.gather(*(client.call(routes.LIST["role"], m.ListRequest()) for _ in range(20)))
            assert len(found) == 20
            assert len(way.made) <= 2, "others wait"
        await way.gone()


async def test_who_does_not_prove_the_name_is_told_nothing(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        way = Way(auth)
        async with led(auth, way, name=auth_server_name("other.test")) as client:
            with pytest.raises(ConnectionProblem):
                await client.call(routes.LIST["role"], m.ListRequest())
        await way.gone()


async def test_a_large_answer_is_not_held(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth, led(auth, Way(auth), most=100) as client:
        with pytest.raises(ConnectionProblem, match="larger than 100 bytes"):
            await client.call(routes.LIST["role"], m.ListRequest())


async def test_a_way_that_is_refused_is_refused_as_it_says(tmp_path: Path) -> None:
    async def no() -> Streams:
        raise AccessDenied("not there")

    async with running_auth(tmp_path) as auth:
        way = Way(auth)
        way.dial = no  # type: ignore[method-assign]
        async with led(auth, way) as client:
            with pytest.raises(AccessDenied, match="not there"):
                await client.call(routes.LIST["role"], m.ListRequest())


async def test_a_way_that_breaks_is_a_connection_problem(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        way = Way(auth)
        async with led(auth, way) as client:
            await client.call(routes.LIST["role"], m.ListRequest())
            way.made[0].transport.abort()
            await client.call(routes.LIST["role"], m.ListRequest())
            assert len(way.made) == 2, "a new one is made"
