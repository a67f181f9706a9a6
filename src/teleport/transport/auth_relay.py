"""A loopback door to auth for a daemon that reaches it only through a proxy.

What is relayed is TLS between this daemon's services and auth: the relay and the proxy see ciphertext. The websocket's
own TLS proves nothing and need not: whoever answers cannot prove that it is auth (decision 18).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Self

import aiohttp

from teleport.errors import BadRequest, ConnectionProblem
from teleport.transport.blocking import shown_address
from teleport.transport.problems import said
from teleport.transport.site_proxy import for_aiohttp
from teleport.transport.tls import unproved_client_context
from teleport.transport.upgrade import stays

log = logging.getLogger(__name__)

CHUNK = 65536
TUNNEL_PATH = "/webapi/auth/tunnel"


class AuthRelay:
    """Listens on the loopback while entered; each connection becomes a websocket of a proxy."""

    def __init__(self, proxies: Sequence[tuple[str, int]]) -> None:
        self._proxies = list(proxies)
        self._server: asyncio.Server | None = None
        self._session: aiohttp.ClientSession | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(auto_decompress=False, trace_configs=[stays()])
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        assert self._session is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()

    @property
    def address(self) -> tuple[str, int]:
        """Where services of this daemon connect instead of to auth."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()[:2]
        return str(host), int(port)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._relay(reader, writer), name="auth relay")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            tunnel = await self._open()
            if tunnel is None:
                return
            async with tunnel:
                down = asyncio.create_task(_down(tunnel, writer), name="auth relay down")
                try:
                    while data := await reader.read(CHUNK):
                        await tunnel.send_bytes(data)
                finally:
                    down.cancel()
                    await asyncio.gather(down, return_exceptions=True)
        except (OSError, aiohttp.ClientError) as error:
            log.debug("relay to auth ended: %s", error)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _open(self) -> aiohttp.ClientWebSocketResponse | None:
        assert self._session is not None
        for host, port in self._proxies:
            shown = shown_address(host, port)
            try:
                tunnel: aiohttp.ClientWebSocketResponse = await self._session.ws_connect(
                    f"wss://{shown}{TUNNEL_PATH}",
                    ssl=unproved_client_context(),
                    max_msg_size=1 << 20,
                    heartbeat=30,
                    compress=0,
                    **for_aiohttp(host, port),
                )
                return tunnel
            except (aiohttp.ClientError, TimeoutError, OSError, BadRequest, ConnectionProblem) as error:
                log.warning("the proxy %s opens no way to auth: %s", shown, said(error))
        return None


async def _down(tunnel: aiohttp.ClientWebSocketResponse, writer: asyncio.StreamWriter) -> None:
    try:
        async for message in tunnel:
            if message.type is not aiohttp.WSMsgType.BINARY:
                break
            writer.write(message.data)
            await writer.drain()
    finally:
        writer.close()  # wakes the other direction
