"""Hosts whose proxy stands behind a balancer that ends TLS: their tunnels go inside a websocket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from tests.transport.transport_peers import server_context, tls_pair
from tests.tunnel.test_tunnel_server import Client, Tunnels, tunnels

from teleport.errors import AccessDenied, ConnectionProblem
from teleport.identity import SystemRole
from teleport.testing.running import wait_until
from teleport.tunnel.reaching import Ways
from teleport.web.tunnel import relay_inside
from teleport.wire.alpn import UPGRADE_PATH

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def balancer(folder: Path, handler: Handler) -> AsyncIterator[int]:
    """What ends TLS; gives its port on the loopback."""
    app = web.Application()
    app.router.add_get(UPGRADE_PATH, handler)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server_context(tls_pair(folder, "localhost")))
        await site.start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def to(lab: Tunnels) -> Handler:
    async def upgrade(request: web.Request) -> web.StreamResponse:
        return await relay_inside(request, lab.server.accepted)

    return upgrade


async def _no_tasks_of_websockets() -> None:
    await wait_until(lambda: not any("websocket" in task.get_name() for task in asyncio.all_tasks()))


async def test_a_host_keeps_its_tunnel_inside_a_websocket_where_tls_is_ended(tmp_path: Path) -> None:
    """Found out by itself; the way that led somewhere is the first one the next time."""
    async with tunnels() as lab, balancer(tmp_path, to(lab)) as port:
        host = lab.hosts.host(SystemRole.NODE, "node")
        agent = await lab.agent(host, seeds=[f"127.0.0.1:{port}"])
        await wait_until(lambda: agent.tunnels == 1)
        client = await lab.server.connect(str(host.host_id), Client)
        await client.says(b"x" * 300_000, b"hello " + b"x" * 300_000)
        (link,) = agent._links.values()
        assert link.peer == ("127.0.0.1", port)
        assert list(agent.login._upgrades) == [f"127.0.0.1:{port}"]
        (tunnel,) = lab.server.registry.every()
        tunnel._abort("cut")
        await (await lab.server.connect(str(host.host_id), Client)).says(b"again", b"hello again")
        (tunnel,) = lab.server.registry.every()
        await lab.stack.aclose()
        await _no_tasks_of_websockets()


async def test_who_answers_inside_a_websocket_has_to_be_a_proxy_all_the_same(tmp_path: Path) -> None:
    async with tunnels() as lab, balancer(tmp_path, to(lab)) as port:
        lab.hosts.refused[str(lab.proxy.host_id)] = AccessDenied("The host is locked.")
        agent = await lab.agent(lab.hosts.host(SystemRole.NODE, "node"), seeds=[f"127.0.0.1:{port}"])
        await wait_until(lambda: any("locked" in said for said in agent.login._said.values()))
        assert agent.tunnels == 0
        await lab.stack.aclose()
        await _no_tasks_of_websockets()


async def test_a_websocket_is_not_looked_for_elsewhere(tmp_path: Path) -> None:
    """SSRF: whoever answers has proved nothing, and must not send this host anywhere."""
    reached = asyncio.Event()

    def come(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()
        writer.close()

    trap = await asyncio.start_server(come, "127.0.0.1", 0)

    async def away(request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound(f"http://127.0.0.1:{trap.sockets[0].getsockname()[1]}/latest/meta-data/")

    async with trap, balancer(tmp_path, away) as port:
        with pytest.raises(ConnectionProblem, match="leads elsewhere"):
            await Ways(("127.0.0.1",)).upgrade(asyncio.Protocol(), "127.0.0.1", port)
        assert not reached.is_set()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "169.254.169.254"])
async def test_the_same_addresses_are_refused_as_without_one(tmp_path: Path, host: str) -> None:
    asked = asyncio.Event()

    async def never(request: web.Request) -> web.StreamResponse:
        asked.set()
        raise web.HTTPForbidden

    async with balancer(tmp_path, never) as port:
        with pytest.raises(AccessDenied, match="is not dialled"):
            await Ways(("proxy.example.com",)).upgrade(asyncio.Protocol(), host, port)
        assert not asked.is_set()
