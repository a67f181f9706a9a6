"""A websocket whose binary messages are the bytes of a TCP connection to the auth service.

What travels inside is TLS that ends at auth: this end can neither read nor change it (decision 18). The tunnel leads
to the configured auth servers and nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from aiohttp import WSMsgType, web

from teleport.errors import BadRequest, ConnectionProblem
from teleport.resources.names import peer_address
from teleport.transport import memory_pair

CHUNK = 65536  # bytes
MAX_MESSAGE = 1024 * 1024  # bytes of one websocket message
DIAL_TIMEOUT = 10.0  # seconds
IDLE_TIMEOUT = 300.0  # seconds without a byte from the client


async def dial_auth(addresses: Sequence[tuple[str, int]]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the first auth server that answers."""
    for host, port in addresses:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(DIAL_TIMEOUT):
                return await asyncio.open_connection(host, port)
    raise ConnectionProblem("the proxy cannot reach the auth service")


async def relay_to_auth(
    request: web.Request, addresses: Sequence[tuple[str, int]], first: Callable[[], bytes] = lambda: b""
) -> web.StreamResponse:
    """Answers `request` with a websocket and copies both ways until either end closes.

    `first` makes what auth reads before the client's first byte: the line that says who the client is.
    """
    socket = web.WebSocketResponse(max_msg_size=MAX_MESSAGE, compress=False, heartbeat=30, timeout=2)
    if not socket.can_prepare(request):
        raise BadRequest("the tunnel to auth is a websocket")
    reader, writer = await dial_auth(addresses)
    try:
        writer.write(first())
        await socket.prepare(request)
        await _both_ways(socket, reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        if socket.prepared:
            await socket.close()
    return socket


async def _both_ways(socket: web.WebSocketResponse, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until either end has gone."""
    down = asyncio.create_task(_down(reader, socket), name="a websocket, down")
    try:
        await _up(socket, writer)
    finally:
        down.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await down


async def _up(socket: web.WebSocketResponse, writer: asyncio.StreamWriter) -> None:
    while True:
        try:
            message = await socket.receive(timeout=IDLE_TIMEOUT)
        except TimeoutError:
            return
        if message.type is not WSMsgType.BINARY:
            return
        writer.write(message.data)
        try:
            await writer.drain()
        except OSError:
            return


async def _down(reader: asyncio.StreamReader, socket: web.WebSocketResponse) -> None:
    try:
        while data := await reader.read(CHUNK):
            await socket.send_bytes(data)
    except ConnectionError:
        pass  # either end went away without a word
    finally:
        await socket.close()  # wakes the other direction


async def relay_inside(request: web.Request, take: Callable[[asyncio.Transport], None]) -> web.StreamResponse:
    """Answers `request` with a websocket that carries a connection to this very port; `take` gets that connection.

    For clients behind balancers that end TLS: what they cannot ask for by ALPN, they say inside.
    """
    socket = web.WebSocketResponse(max_msg_size=MAX_MESSAGE, compress=False, heartbeat=30, timeout=2)
    if not socket.can_prepare(request):
        raise BadRequest("a connection within a request is a websocket")
    await socket.prepare(request)
    reader = asyncio.StreamReader(limit=CHUNK)
    near = memory_pair.connect(lambda: _Near(reader), take, peername=peer_of(request))
    assert near.transport is not None
    writer = asyncio.StreamWriter(near.transport, near, reader, asyncio.get_running_loop())
    try:
        await _both_ways(socket, reader, writer)
    finally:
        writer.close()
        await socket.close()
    return socket


class _Near(asyncio.StreamReaderProtocol):
    """This end of a connection within the process."""

    transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        super().connection_made(transport)


def peer_of(request: web.Request) -> tuple[str, int]:
    """Who asks, as far as the listener knows."""
    return peer_address(request.transport.get_extra_info("peername") if request.transport else None)
