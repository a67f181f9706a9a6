"""A connection to the one port within a request: sorted as any other, refused to browsers, kept over a restart."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest
from tests.transport.transport_peers import tls_pair
from tests.web.test_web_service import Calls
from tests.web.web_rig import RunningWeb, running_web

from teleport.transport.balancers import Address
from teleport.transport.one_port import Contexts, Port
from teleport.transport.tls import one_port_context
from teleport.wire.alpn import HTTP, UPGRADE_PATH


class Echo(asyncio.Protocol):
    """Says what it gets, after who it is from."""

    def __init__(self, client: Address) -> None:
        self.client = client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(f"{self.client[0]}:".encode())

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


def _take(transport: asyncio.Transport, client: Address, data: bytes = b"") -> None:
    echo = Echo(client)
    transport.set_protocol(echo)
    echo.connection_made(transport)
    echo.data_received(data)


async def on_one_port(web: RunningWeb, folder: Path) -> None:
    """From here on; the client keeps the connection that it has by then."""
    assert (await web.ask("GET", UPGRADE_PATH)).status == 404
    contexts = Contexts(one_port_context(*tls_pair(folder / "inner", "localhost"), HTTP))
    web.service.edge.port = Port(_take, contexts)


async def _heard(socket: aiohttp.ClientWebSocketResponse, much: int) -> bytes:
    heard = b""
    async with asyncio.timeout(5):
        while len(heard) < much:
            message = await socket.receive()
            if message.type is not aiohttp.WSMsgType.BINARY:
                break
            heard += message.data
    return heard


async def test_what_is_inside_is_served_and_outlives_a_restart(tmp_path: Path) -> None:
    """The client is who made the request; a daemon that leaves ends its tunnels to auth, not somebody's session."""
    async with running_web(tmp_path, Calls(), ()) as web:
        await on_one_port(web, tmp_path)
        async with web.session.ws_connect(web.url + UPGRADE_PATH) as socket:
            await socket.send_bytes(b"SSH-2.0-x\r\n")
            assert await _heard(socket, 21) == b"127.0.0.1:SSH-2.0-x\r\n"
            web.service.edge.leave()
            web.service.edge.end_endless()
            await socket.send_bytes(b"still here")
            assert await _heard(socket, 10) == b"still here"


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\n\r\n", b"PROXY TCP4 203.0.113.9 192.0.2.1 1 2\r\nSSH-2.0-x\r\n"])
async def test_neither_the_web_nor_a_header_is_inside(tmp_path: Path, first: bytes) -> None:
    """Threat T24: nobody says there who they are."""
    async with running_web(tmp_path, Calls(), ()) as web:
        await on_one_port(web, tmp_path)
        async with web.session.ws_connect(web.url + UPGRADE_PATH) as socket:
            await socket.send_bytes(first)
            assert await _heard(socket, 1) == b""


async def test_browsers_and_plain_requests_are_refused(tmp_path: Path) -> None:
    async with running_web(tmp_path, Calls(), ()) as web:
        await on_one_port(web, tmp_path)
        assert (await web.ask("GET", UPGRADE_PATH, headers={"Origin": "https://evil.test"})).status == 403
        assert (await web.ask("GET", UPGRADE_PATH)).status == 400
