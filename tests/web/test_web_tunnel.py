"""The tunnel to auth: leads there only, refuses browsers, carries what it cannot read, and ends at both ends."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from tests.web.test_web_service import Calls
from tests.web.web_rig import NAME, RunningWeb, running_web, web_before

from teleport.api import messages as m
from teleport.api import routes
from teleport.api.client import AuthClient
from teleport.api.sync_client import SyncAuthClient, through_proxy
from teleport.errors import ConnectionProblem
from teleport.pki.x509cert import auth_server_name
from teleport.testing.auth import CLUSTER, running_auth
from teleport.transport.auth_relay import AuthRelay
from teleport.transport.blocking import TLSStream, dial_tcp
from teleport.transport.tls import unproved_client_context

TUNNEL = "/webapi/auth/tunnel"


def client_through(web: RunningWeb, context: ssl.SSLContext) -> SyncAuthClient:
    def open_web() -> TLSStream:
        return TLSStream(dial_tcp(*web.address, 10), web.trust, NAME)

    return SyncAuthClient(through_proxy(open_web, NAME, context, auth_server_name(CLUSTER)), "auth")


class Target:
    """What stands where auth would: one TCP connection at a time, in the hands of the test."""

    def __init__(self) -> None:
        self.accepted: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

    async def next(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with asyncio.timeout(5):
            return await self.accepted.get()


@asynccontextmanager
async def tunnel_to_target(tmp_path: Path, *, max_tunnels: int = 100) -> AsyncIterator[tuple[RunningWeb, Target]]:
    target = Target()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await target.accepted.put((reader, writer))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()[:2]
    try:
        async with running_web(tmp_path, Calls(), (address,), max_tunnels=max_tunnels) as web:
            yield web, target
    finally:
        server.close()


def websocket(web: RunningWeb, **headers: str) -> aiohttp.client._WSRequestContextManager:
    return web.session.ws_connect(web.url + TUNNEL, headers=headers)


async def test_a_certificate_is_proved_to_auth_itself_through_the_tunnel(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth, web_before(auth, tmp_path) as web:
        person = await auth.user("alice", ["access"])

        def work() -> tuple[m.WhoAmI, bytes]:
            with client_through(web, auth.context(person)) as client:
                found = client.call(routes.WHO_AM_I, m.Empty())
                assert client._connection is not None
                stream = client._connection.stream
                assert isinstance(stream, TLSStream)
                return found, stream.peer_certificate()

        found, shown = await auth.in_thread(work)
        assert (found.kind, found.name) == ("user", "alice")
        assert shown == ssl.PEM_cert_to_DER_cert((tmp_path / "auth.crt").read_text()), "TLS inside ends at auth"


async def test_a_caller_cannot_choose_where_the_tunnel_leads(tmp_path: Path) -> None:
    async with tunnel_to_target(tmp_path) as (web, target):
        address = f"{web.url}{TUNNEL}?target=127.0.0.1:22&host=example.com"
        async with web.session.ws_connect(address, headers={"X-Forwarded-Host": "example.com"}) as opened:
            await opened.send_bytes(b"hello")
            reader, writer = await target.next()
            assert await reader.readexactly(5) == b"hello"
            writer.close()


async def test_browsers_are_refused(tmp_path: Path) -> None:
    async with tunnel_to_target(tmp_path) as (web, target):
        for origin in ("https://localhost", "https://evil.example.com", "null"):
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await websocket(web, Origin=origin)
            assert caught.value.status == 403
        assert target.accepted.empty()


async def test_what_is_no_websocket_does_not_reach_auth(tmp_path: Path) -> None:
    async with tunnel_to_target(tmp_path) as (web, target):
        answer = await web.ask("GET", TUNNEL)
        assert answer.status == 400
        assert "websocket" in answer.json["error"]["message"]
        assert target.accepted.empty()


async def test_the_opening_carries_the_security_headers(tmp_path: Path) -> None:
    async with tunnel_to_target(tmp_path) as (web, target), websocket(web) as opened:
        assert opened._response.status == 101
        assert opened._response.headers["X-Content-Type-Options"] == "nosniff"
        (await target.next())[1].close()


async def test_without_auth_the_tunnel_does_not_open(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        dead = probe.getsockname()
    async with running_web(tmp_path, Calls(), (dead,)) as web:
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await websocket(web)
        assert caught.value.status == 502


async def test_the_next_auth_server_is_dialled_when_the_first_is_away(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        dead = probe.getsockname()
    async with running_auth(tmp_path) as auth, running_web(tmp_path, Calls(), (dead, auth.address)) as web:
        admin = await auth.admin()

        def work() -> str:
            with client_through(web, auth.context(admin)) as client:
                return client.call(routes.STATUS, m.Empty()).cluster

        assert await auth.in_thread(work) == CLUSTER


async def test_bytes_pass_both_ways_unchanged(tmp_path: Path) -> None:
    data = bytes(range(256)) * 4096
    async with tunnel_to_target(tmp_path) as (web, target), websocket(web) as opened:
        reader, writer = await target.next()
        for start in range(0, len(data), 65536):
            await opened.send_bytes(data[start : start + 65536])
        assert await reader.readexactly(len(data)) == data
        writer.write(data)
        found = bytearray()
        while len(found) < len(data):
            found += await opened.receive_bytes(timeout=5)
        assert found == data
        writer.close()


async def test_auth_learns_that_the_client_left(tmp_path: Path) -> None:
    async with tunnel_to_target(tmp_path) as (web, target):
        async with websocket(web) as opened:
            await opened.send_bytes(b"bye")
            reader, writer = await target.next()
            assert await reader.readexactly(3) == b"bye"
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()


async def test_auth_learns_that_the_client_died(tmp_path: Path) -> None:
    async with tunnel_to_target(tmp_path) as (web, target):
        opened = await websocket(web)
        reader, writer = await target.next()
        transport = opened._response.connection.transport  # type: ignore[union-attr]
        assert transport is not None
        transport.abort()
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()
        await opened.close()


@pytest.mark.parametrize("reset", [False, True], ids=["a clean end", "a reset"])
async def test_the_client_learns_that_auth_left(tmp_path: Path, reset: bool) -> None:
    async with tunnel_to_target(tmp_path) as (web, target), websocket(web) as opened:
        _, writer = await target.next()
        if reset:
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        else:
            writer.close()
        message = await opened.receive(timeout=5)
        assert message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)


async def test_text_in_the_tunnel_ends_it(tmp_path: Path) -> None:
    async with tunnel_to_target(tmp_path) as (web, target), websocket(web) as opened:
        reader, writer = await target.next()
        await opened.send_str("GET / HTTP/1.1\r\n\r\n")
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()


async def test_only_so_many_tunnels_are_open_at_once(tmp_path: Path) -> None:
    async with tunnel_to_target(tmp_path, max_tunnels=2) as (web, target):
        first, second = await websocket(web), await websocket(web)
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await websocket(web)
        assert caught.value.status == 429
        (await target.next())[1].close()
        await first.receive(timeout=5)
        await first.close()

        async def again() -> aiohttp.ClientWebSocketResponse[bool]:
            while True:
                try:
                    return await websocket(web)
                except aiohttp.WSServerHandshakeError:
                    await asyncio.sleep(0.01)

        async with asyncio.timeout(5):
            third = await again()
        for opened in (second, third):
            (await target.next())[1].close()
            await opened.close()


# the other end: a daemon that reaches auth through a proxy


async def test_a_daemon_behind_a_proxy_calls_and_watches_auth_through_it(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth, web_before(auth, tmp_path) as web, AuthRelay([web.address]) as relay:
        admin = await auth.admin()
        assert relay.address[0] == "127.0.0.1"
        async with AuthClient([relay.address], lambda: auth.context(admin), auth_server_name(CLUSTER)) as client:
            assert (await client.call(routes.STATUS, m.Empty())).cluster == CLUSTER
            lines = client.watch(m.WatchRequest(kinds=["role"]))
            assert (await anext(lines)).snapshot
            await lines.aclose()


async def test_a_relay_without_a_proxy_is_a_connection_problem(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        dead = probe.getsockname()
    async with (
        AuthRelay([dead]) as relay,
        AuthClient([relay.address], unproved_client_context, auth_server_name(CLUSTER)) as client,
    ):
        with pytest.raises(ConnectionProblem, match="no auth server answers"):
            await client.call(routes.STATUS, m.Empty())


@pytest.mark.parametrize("side", ["daemon", "auth"])
async def test_a_relay_ends_at_both_ends(tmp_path: Path, side: str) -> None:
    async with tunnel_to_target(tmp_path) as (web, target), AuthRelay([web.address]) as relay:
        near = await asyncio.open_connection(*relay.address)
        near[1].write(b"hi")
        far = await target.next()
        assert await far[0].readexactly(2) == b"hi"
        closing, other = (near, far) if side == "daemon" else (far, near)
        closing[1].close()
        async with asyncio.timeout(5):
            assert await other[0].read() == b""
        other[1].close()
