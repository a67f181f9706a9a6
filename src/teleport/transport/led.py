"""HTTP over connections that something else leads to where they go: aiohttp asks for one, and TLS begins inside it.

What leads gives streams (a channel of a tunnel); aiohttp and asyncio's TLS want a socket. Between them is a pair of
sockets within the process, and a task for each direction.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.tracing import Trace

from teleport.transport.vouching import connecting

CHUNK: Final = 65536  # bytes
KEPT: Final = 30.0  # seconds that a connection is kept for what is asked next
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class LedConnector(aiohttp.BaseConnector):
    """`dial` makes each connection; it may raise `TeleportError`. At most `most` are open, others wait."""

    def __init__(self, dial: Callable[[], Awaitable[Streams]], most: int) -> None:
        super().__init__(limit=most, keepalive_timeout=KEPT)
        self._dial = dial
        self._copying: set[asyncio.Task[None]] = set()

    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        """What `aiohttp.BaseConnector` asks its heirs for."""
        context = req.ssl
        assert isinstance(context, ssl.SSLContext), "auth is spoken to by TLS alone"
        with connecting(req, timeout):
            async with asyncio.timeout(timeout.sock_connect):
                far = await self._dial()
                near, inner = socket.socketpair()
                try:
                    near.setblocking(False)
                    inner.setblocking(False)
                    task = asyncio.create_task(_joined(inner, far), name="a led connection")
                except BaseException:
                    near.close()
                    inner.close()
                    far[1].close()
                    raise
                self._copying.add(task)
                task.add_done_callback(self._copying.discard)
                try:
                    _, protocol = await asyncio.get_running_loop().create_connection(
                        self._factory, sock=near, ssl=context, server_hostname=req.server_hostname
                    )
                except BaseException:
                    near.close()
                    task.cancel()
                    raise
        return protocol

    def close(self, **given: Any) -> Any:
        closed = super().close(**given)
        for task in self._copying:
            task.cancel()
        return closed


async def _joined(inner: socket.socket, far: Streams) -> None:
    """Copies both ways until either end has gone."""
    far_reader, far_writer = far
    try:
        reader, writer = await asyncio.open_connection(sock=inner, limit=CHUNK)
    except BaseException:
        inner.close()
        far_writer.close()
        raise
    ways = {
        asyncio.create_task(_copy(reader, far_writer), name="a led connection, up"),
        asyncio.create_task(_copy(far_reader, writer), name="a led connection, down"),
    }
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        writer.close()
        far_writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(CHUNK):
            sink.write(data)
            await sink.drain()
