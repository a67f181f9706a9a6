"""HTTPS for aiohttp applications, with bounds on what a connection may cost between requests (threat T17).

aiohttp waits for a first request without end, and asyncio keeps 256 KiB for each TLS connection (trap T-9): some
thousand silent connections would take the memory and the descriptors of the daemon. Here a connection has a slot until
its first request is read, and `SECONDS` to send it; between requests it has `KEPT_ALIVE`, in which the next one's
head has to come whole. TLS has a small buffer.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from asyncio import sslproto
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from teleport.resources.names import peer_address
from teleport.transport.slots import Slots

SECONDS = 15.0  # from the connection to the end of the first request's head, TLS included
KEPT_ALIVE = 75.0  # from the end of a request to the end of the next one's head; clients of ours hang up sooner
SILENT = 500  # connections without a request at once
BUFFER = 16 * 1024  # bytes that TLS reads at once

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _TLS(sslproto.SSLProtocol):
    max_size = BUFFER


class HTTPListener:
    """Make the application's runner with `runner`, set it up, then `serve` it."""

    def __init__(self, *, silent: int = SILENT, seconds: float = SECONDS, kept_alive: float = KEPT_ALIVE) -> None:
        self._slots = Slots(silent)
        self._seconds = seconds
        self._kept_alive = kept_alive
        self._silent: dict[asyncio.BaseProtocol, Callable[[], None]] = {}

    @property
    def silent(self) -> int:
        """Connections that have not asked for anything yet."""
        return self._slots.taken

    def runner(self, app: web.Application, **options: Any) -> web.AppRunner:
        """The runner of `app`, with the bounds of this listener; `options` are aiohttp's."""
        app.middlewares.insert(0, self.middleware)
        return web.AppRunner(app, access_log=None, handle_signals=False, keepalive_timeout=self._kept_alive, **options)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._settle(request.protocol)
        return await handler(request)

    @asynccontextmanager
    async def serve(
        self, runner: web.AppRunner, listener: socket.socket, context: ssl.SSLContext | None
    ) -> AsyncIterator[None]:
        """Takes connections while entered; the runner's own clean-up ends those that are open."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Accepted(self, runner, context), sock=listener, backlog=1024)
        try:
            yield
        finally:
            server.close()

    def accepted(self, transport: asyncio.Transport, runner: web.AppRunner, context: ssl.SSLContext | None) -> None:
        """Goes on with a connection that was just made."""
        assert runner.server is not None, "the runner is set up"
        loop = asyncio.get_running_loop()
        address, _ = peer_address(transport.get_extra_info("peername"))
        http = runner.server()
        release = self._slots.take(address, transport.abort)
        # A connection that ends meanwhile keeps its slot for these seconds; when slots run out, the oldest goes first.
        timer = loop.call_later(self._seconds, self._too_late, http, transport)

        def settled() -> None:
            timer.cancel()
            release()

        self._silent[http] = settled
        protocol: asyncio.BaseProtocol = http
        if context is not None:
            waiter = loop.create_future()
            waiter.add_done_callback(_fetched)
            protocol = _TLS(loop, http, context, waiter, server_side=True)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)

    def _too_late(self, http: asyncio.BaseProtocol, transport: asyncio.Transport) -> None:
        self._settle(http)
        transport.abort()

    def _settle(self, http: asyncio.BaseProtocol) -> None:
        settled = self._silent.pop(http, None)
        if settled is not None:
            settled()


def _fetched(done: asyncio.Future[None]) -> None:
    """A failed handshake is the peer's business; that it failed is not to be logged as forgotten."""
    if not done.cancelled():
        done.exception()


class _Accepted(asyncio.Protocol):
    """The first protocol of a connection: hands the transport over at once."""

    def __init__(self, listener: HTTPListener, runner: web.AppRunner, context: ssl.SSLContext | None) -> None:
        self._listener = listener
        self._runner = runner
        self._context = context

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._listener.accepted(transport, self._runner, self._context)
