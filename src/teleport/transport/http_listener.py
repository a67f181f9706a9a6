"""HTTPS for aiohttp applications, with bounds on what a connection may cost between requests (threats T17, T19).

aiohttp waits for a first request without end, and asyncio keeps 256 KiB for each TLS connection (trap T-9): some
thousand silent connections would take the memory and the descriptors of the daemon. Here a connection has a slot until
its first request is there with its body, and `SECONDS` to send that request's head; between requests it has
`KEPT_ALIVE`, in which the next one's head has to come whole. Connections without a client certificate that wait between
requests are bounded too. TLS has a small buffer.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from asyncio import sslproto
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from teleport.resources.names import peer_address
from teleport.transport.entrance import ConnectionLimits
from teleport.transport.slots import Slot, Slots

SECONDS = 15.0  # from the connection to the end of the first request's head, TLS included
KEPT_ALIVE = 75.0  # from the end of a request to the end of the next one's head; clients of ours hang up sooner
SILENT = 500  # connections without a request at once
WAITING = 1000  # connections without a client certificate that wait for a next request
BUFFER = 16 * 1024  # bytes that TLS reads at once
LINGER = 1.0  # seconds that the rest of a refused body is thrown away, so that the client reads why
AT_ONCE = 32  # connections accepted in one turn of the loop, so that a burst of them holds up nobody else
BACKLOG = 1024  # connections that wait in the kernel

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _NoNoise(logging.Filter):
    """A request that cannot be read is its sender's mistake: a traceback for each would fill the log."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, HttpProcessingError | ConnectionError)


_log = logging.getLogger("teleport.transport.http")
_log.addFilter(_NoNoise())


class _TLS(sslproto.SSLProtocol):
    max_size = BUFFER
    lost: Callable[[], None] = staticmethod(lambda: None)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)  # which tells aiohttp nothing of a connection that ended in the handshake
        self.lost()


class _Connection:
    """What is known of one connection."""

    __slots__ = ("slot", "timer", "transport", "waiting")

    def __init__(self, transport: asyncio.Transport, slot: Slot, timer: asyncio.TimerHandle) -> None:
        self.transport = transport
        self.slot = slot
        self.timer = timer
        self.waiting: Slot | None = None  # while it has nothing to ask

    def asks(self) -> None:
        """The head of a request is there."""
        self.timer.cancel()
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            waiting.over(blamed=False)


class HTTPListener:
    """Make the application's runner with `runner`, set it up, then `serve` it."""

    def __init__(
        self,
        what: str = "https",
        *,
        silent: int = SILENT,
        waiting: int = WAITING,
        seconds: float = SECONDS,
        kept_alive: float = KEPT_ALIVE,
        limits: ConnectionLimits | None = None,
    ) -> None:
        """`what` names the listener in the log; `limits` hold for each client address."""
        self._slots = Slots(silent, what, limits=limits, rated=False)
        self._waiting = Slots(waiting, f"{what}, between requests")
        self._seconds = seconds
        self._kept_alive = kept_alive
        self._connections: dict[Any, _Connection] = {}

    @property
    def silent(self) -> int:
        """Connections that have not asked for anything yet."""
        return self._slots.taken

    def runner(self, app: web.Application, **options: Any) -> web.AppRunner:
        """The runner of `app`, with the bounds of this listener; `options` are aiohttp's."""
        app.middlewares.insert(0, self.middleware)
        options = {"lingering_time": LINGER, "logger": _log, **options}
        return web.AppRunner(app, access_log=None, handle_signals=False, keepalive_timeout=self._kept_alive, **options)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        connection = self._connections.get(request.protocol)
        if connection is None:
            return await handler(request)
        connection.asks()
        if _certified(request):
            connection.slot.proved()
            return await handler(request)
        request.content.on_eof(connection.slot.released)
        try:
            if not self._slots.allows(connection.slot.address):
                return web.json_response({"error": {"message": "too many requests; wait a moment"}}, status=429)
            return await handler(request)
        finally:
            connection.slot.released()
            if request.transport is not None:
                connection.waiting = self._waiting.take(connection.slot.address, connection.transport.abort)

    @asynccontextmanager
    async def serve(
        self, runner: web.AppRunner, listener: socket.socket, context: ssl.SSLContext | None
    ) -> AsyncIterator[None]:
        """Takes connections while entered; the runner's own clean-up ends those that are open."""
        loop = asyncio.get_running_loop()
        assert runner.server is not None, "the runner is set up"
        lost = runner.server.connection_lost

        def connection_lost(http: Any, exc: BaseException | None = None) -> None:
            self._lost(http)
            lost(http, exc)

        runner.server.connection_lost = connection_lost  # type: ignore[assignment, method-assign]  # aiohttp tells nobody else
        server = await loop.create_server(lambda: _Accepted(self, runner, context), sock=listener, backlog=AT_ONCE)
        listener.listen(BACKLOG)
        try:
            yield
        finally:
            server.close()

    def accepted(self, transport: asyncio.Transport, runner: web.AppRunner, context: ssl.SSLContext | None) -> None:
        """Goes on with a connection that was just made."""
        assert runner.server is not None, "the runner is set up"
        loop = asyncio.get_running_loop()
        address, _ = peer_address(transport.get_extra_info("peername"))
        slot = self._slots.take(address, transport.abort)
        if not slot.arrived(slot.address):
            slot.over()
            transport.abort()
            return
        http = runner.server()
        timer = loop.call_later(self._seconds, transport.abort)
        self._connections[http] = _Connection(transport, slot, timer)
        protocol: asyncio.BaseProtocol = http
        if context is not None:
            waiter = loop.create_future()
            waiter.add_done_callback(_fetched)
            protocol = _TLS(loop, http, context, waiter, server_side=True)
            protocol.lost = lambda: self._lost(http)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)

    def _lost(self, http: Any) -> None:
        connection = self._connections.pop(http, None)
        if connection is not None:
            connection.asks()
            connection.slot.over()


def _fetched(done: asyncio.Future[None]) -> None:
    """A failed handshake is the peer's business; that it failed is not to be logged as forgotten."""
    if not done.cancelled():
        done.exception()


def _certified(request: web.Request) -> bool:
    """Whether the peer proved a client certificate."""
    return bool(request.transport is not None and request.transport.get_extra_info("peercert"))


class _Accepted(asyncio.Protocol):
    """The first protocol of a connection: hands the transport over at once."""

    def __init__(self, listener: HTTPListener, runner: web.AppRunner, context: ssl.SSLContext | None) -> None:
        self._listener = listener
        self._runner = runner
        self._context = context

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._listener.accepted(transport, self._runner, self._context)
