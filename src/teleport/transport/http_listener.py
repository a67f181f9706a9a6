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
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from teleport.resources.names import peer_address
from teleport.transport.accepting import Accepting
from teleport.transport.balancers import Headers
from teleport.transport.entrance import ConnectionLimits
from teleport.transport.feeding import feed
from teleport.transport.first_bytes import Address, Believe, FirstBytes, through
from teleport.transport.limits import Heard
from teleport.transport.mux import PREFACE, Mux
from teleport.transport.one_port import Port, Sorter, Turns
from teleport.transport.probes import probe
from teleport.transport.slots import Slot, Slots
from teleport.wire import proxy_protocol

SECONDS = 15.0  # from the connection to the end of the first request's head, TLS included
KEPT_ALIVE = 75.0  # from the end of a request to the end of the next one's head; clients of ours hang up sooner
SILENT = 500  # connections without a request at once
WITHIN = 500  # connections within requests at once of which it is not known yet whose they are
CARRIED = 400  # connections of hosts without a request that proxies lead here within their own
PATIENCE = 5.0  # seconds in which hosts that are led here make no room for others; clients of ours wait for 10
WAITING = 1000  # connections without a client certificate that wait for a next request
BUFFER = 16 * 1024  # bytes that TLS reads at once
LINGER = 1.0  # seconds that the rest of a refused body is thrown away, so that the client reads why

Context = ssl.SSLContext | Callable[[], ssl.SSLContext]
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
    forged: Callable[[], None] | None = None  # hears of a PROXY header in place of TLS
    _extra: dict[str, Any]
    _ssl_buffer_view: memoryview

    def vouched(self, client: Address, via: tuple[str, ...]) -> None:
        """Whoever asks for the peer gets the client; `vouched_by` are the addresses of the proxies."""
        self._extra |= {"peername": client, "vouched_by": via}

    def buffer_updated(self, nbytes: int) -> None:
        forged, self.forged = self.forged, None
        if forged is not None and proxy_protocol.begins(bytes(self._ssl_buffer_view[: min(nbytes, 16)])):
            forged()  # TLS then refuses it as it refuses everything else that is none
        super().buffer_updated(nbytes)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)  # which tells aiohttp nothing of a connection that ended in the handshake
        self.lost()


class _Connection:
    """What is known of one connection."""

    __slots__ = ("asked", "slot", "timer", "transport", "waiting")

    def __init__(self, transport: asyncio.Transport, slot: Slot, timer: asyncio.TimerHandle) -> None:
        self.transport = transport
        self.slot = slot
        self.timer = timer
        self.asked = False  # for anything, since it was made
        self.waiting: Slot | None = None  # while it has nothing to ask

    def asks(self) -> None:
        """The head of a request is there."""
        self.timer.cancel()
        self.asked = True
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
        believe: Believe | None = None,
        headers: Headers | None = None,
    ) -> None:
        """`what` names the listener in the log; `limits` hold for each client address.

        With `believe`, proxies may say before TLS whom they relay (`first_bytes`): everything else then sees that
        client's address as the peer's, and the proxies' as the transport's extra information `vouched_by`. With
        `headers`, balancers say so before everything else (`balancers`).
        """
        self._headers = headers
        self.port: Port | None = None  # who else is reached by this listener
        self.alone: Port | None = None  # while that is nobody: how TLS is chosen for each name, in place of one context
        self._believe = believe
        self._first: set[asyncio.Transport] = set()  # of which it is not known yet whose they are
        self._slots = Slots(silent, what, limits=limits, rated=False)
        self._waiting = Slots(waiting, f"{what}, between requests")
        self._seconds = seconds
        self._kept_alive = kept_alive
        self._connections: dict[Any, _Connection] = {}
        self._endless: set[asyncio.Transport] = set()
        self._muxes: set[Mux] = set()  # of proxies
        self._carried = Slots(
            CARRIED, f"{what}, by proxies", limits=limits, rated=False, of_one=CARRIED, patience=PATIENCE
        )
        self._within = Slots(WITHIN, f"{what}, within requests")
        self._odd = Heard(rate=1.0, burst=20.0)  # of what came within requests
        self._upgraded = set[Any]()  # requests that became websockets: told to close, aiohttp reads nothing more of one
        self._accepting: Accepting | None = None
        self._make: Callable[[], asyncio.Protocol] = asyncio.Protocol
        self._socket: socket.socket | None = None
        self._leaving = False

    def begin_with(self, headers: Headers) -> None:
        """What balancers say before everything else."""
        self._headers = headers

    @property
    def silent(self) -> int:
        """Connections that have not asked for anything yet."""
        return self._slots.taken

    def runner(self, app: web.Application, **options: Any) -> web.AppRunner:
        """The runner of `app`, with the bounds of this listener; `options` are aiohttp's."""
        app.middlewares.insert(0, self.middleware)
        app.on_response_prepare.append(self._prepared)
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

    async def _prepared(self, _: web.Request, response: web.StreamResponse) -> None:
        """The last answer on a connection of a daemon that leaves."""
        if self._leaving:
            response.force_close()

    @asynccontextmanager
    async def serve(
        self, runner: web.AppRunner, listener: socket.socket, context: Context | None
    ) -> AsyncIterator[None]:
        """Takes connections while entered; the runner's own clean-up ends those that are open. `context` may be what
        gives the context of the next connection."""
        assert runner.server is not None, "the runner is set up"
        lost = runner.server.connection_lost

        def connection_lost(http: Any, exc: BaseException | None = None) -> None:
            self._lost(http)
            lost(http, exc)

        runner.server.connection_lost = connection_lost  # type: ignore[assignment, method-assign]  # aiohttp tells nobody else

        def make() -> asyncio.Protocol:
            return _Accepted(self, runner, context)

        self._make, self._socket = make, listener
        await self.resume()
        try:
            yield
        finally:
            self.pause()
            for mux in list(self._muxes):
                mux.abort()
            for transport in list(self._first):
                transport.abort()

    def pause(self) -> None:
        """Accepts nothing more. Connections stay, and so does the socket: what arrives waits, or goes elsewhere."""
        if self._accepting is not None:
            self._accepting.stop()
            self._accepting = None
        for mux in self._muxes:
            mux.leave()

    async def resume(self) -> None:
        """Accepts (again)."""
        self._leaving = False
        if self._accepting is None and self._socket is not None:
            self._accepting = Accepting(self._socket, self._make)

    def entrance(self) -> tuple[Sequence[socket.socket], Callable[[], asyncio.Protocol]]:
        """The sockets that are accepted from now, and what each connection begins with."""
        return ([self._socket] if self._accepting is not None and self._socket is not None else []), self._make

    def leave(self) -> None:
        """Lets clients go elsewhere: connections without a request are closed, the others after their answer. Who has
        just connected gets an answer first. What never ends by itself is for `end_endless`."""
        self._leaving = True
        for http, connection in list(self._connections.items()):
            if not connection.asked or http in self._upgraded:
                continue
            waiter = http._waiter
            idle = waiter is not None and not waiter.done()  # it waits for a request, and none has just come
            http.close()
            if idle and http.transport is not None:
                http.transport.close()  # aiohttp ends the waiting task only

    def end_endless(self) -> None:
        """Ends what never ends by itself; the clients of such streams come again."""
        for transport in list(self._endless):
            transport.close()

    def proved(self, request: web.Request) -> None:
        """Whoever asks has proved who it is by other means than a certificate: a body may take its time."""
        connection = self._connections.get(request.protocol)
        if connection is not None:
            connection.slot.proved()

    @contextmanager
    def endless(self, request: web.Request) -> Iterator[None]:
        """Marks a request as one that never ends by itself. A websocket carries both ways until `end_endless`."""
        transport = request.transport
        if transport is not None:
            self._endless.add(transport)
        try:
            with self.staying(request) if "Upgrade" in request.headers else nullcontext():
                yield
        finally:
            if transport is not None:
                self._endless.discard(transport)

    @contextmanager
    def staying(self, request: web.Request) -> Iterator[None]:
        """Marks a request that became a websocket: `leave` lets it be."""
        self._upgraded.add(request.protocol)
        try:
            yield
        finally:
            self._upgraded.discard(request.protocol)

    @property
    def open(self) -> int:
        """How many connections there are."""
        return len(self._connections) + len(self._first)

    def accepted(self, transport: asyncio.Transport, runner: web.AppRunner, context: ssl.SSLContext | None) -> None:
        """Goes on with a connection that was just made."""
        peer = peer_address(transport.get_extra_info("peername"))
        carried = transport.get_extra_info("carried_via")
        slot = (self._slots if carried is None else self._carried).take(peer[0], transport.abort)
        if transport.is_closing():
            return
        timer = asyncio.get_running_loop().call_later(self._seconds, transport.abort)
        self._first.add(transport)
        blamed = False  # a balancer looks whether the listener is there by connecting and leaving

        def go(transport: asyncio.Transport, client: Address, via: tuple[str, ...], data: bytes) -> None:
            self._first.discard(transport)
            self._begin(transport, slot, timer, client, via, data, runner, context)

        def lost() -> None:
            self._first.discard(transport)
            timer.cancel()
            slot.over(blamed=blamed)

        def known(transport: asyncio.Transport, client: Address, data: bytes) -> None:
            """It is known for whom a balancer connected, if one did."""
            nonlocal blamed
            blamed = True
            port = self.port or self.alone
            if port is not None:
                self._sort(port, transport, slot, timer, client, data, runner)
                return
            if self._believe is None:
                go(transport, client, (), data)
                return
            assert context is not None, "only TLS is told from a line"
            first = FirstBytes(client, self._believe, go, lost, carried or ())
            transport.set_protocol(first)
            first.connection_made(transport)
            feed(first, data)

        if carried is not None or self._headers is None or not self._headers.read(transport, peer, known, lost):
            known(transport, peer, b"")

    def _sort(
        self,
        port: Port,
        transport: asyncio.Transport,
        slot: Slot,
        timer: asyncio.TimerHandle,
        client: Address,
        data: bytes,
        runner: web.AppRunner,
    ) -> None:
        """Finds out whose the connection is."""

        def over(*, blamed: bool) -> None:
            self._first.discard(transport)
            timer.cancel()
            slot.over(blamed=blamed)

        def to_web(transport: asyncio.Transport, context: ssl.SSLContext | None, data: bytes) -> None:
            self._first.discard(transport)
            self._begin(transport, slot, timer, client, (), data, runner, context)

        def forged() -> None:
            if self._headers is not None:
                self._headers.forged(client)

        turns = Turns(to_web, lambda: over(blamed=False), lambda: over(blamed=True), forged)
        slot.moved(client[0])
        sorter = Sorter(port, client, turns)
        transport.set_protocol(sorter)
        sorter.connection_made(transport)
        if data:
            sorter.data_received(data)

    def inside(self, transport: asyncio.Transport, client: Address) -> None:
        """Takes a connection that came within a request. It leads to everybody but the web, which has it already, and
        what begins TLS there is refused. Until it is known whose it is, it has a slot and a time of its own."""
        assert self.port is not None
        slot = self._within.take(client[0], transport.abort)
        now = asyncio.get_running_loop().time
        timer = asyncio.get_running_loop().call_later(self._seconds, transport.abort)

        def over() -> None:
            timer.cancel()
            slot.over(blamed=False)  # many may come from one balancer

        def no_web(transport: asyncio.Transport, _: ssl.SSLContext | None, data: bytes) -> None:
            over()
            transport.abort()

        def no_tls() -> None:
            told = self._odd.told("it begins with TLS, which ends before the request", now())
            if told is not None:
                _log.warning("connection within a request refused peer=%s: %s", client[0], told)

        sorter = Sorter(self.port, client, Turns(no_web, over, over, no_tls=no_tls), tls=False)
        transport.set_protocol(sorter)
        sorter.connection_made(transport)

    def _begin(
        self,
        transport: asyncio.Transport,
        slot: Slot,
        timer: asyncio.TimerHandle,
        client: Address,
        via: tuple[str, ...],
        data: bytes,
        runner: web.AppRunner,
        context: ssl.SSLContext | None,
    ) -> None:
        """It is known who the client is; `data` was read already."""
        assert runner.server is not None, "the runner is set up"
        loop, headers = asyncio.get_running_loop(), self._headers
        peer = peer_address(transport.get_extra_info("peername"))
        led = through(client)
        if via and not led and data[:1] == PREFACE[:1] and transport.get_extra_info("carried_via") is None:
            timer.cancel()
            self._carry(transport, slot, via, data, runner, context)
            return
        if not slot.arrived(f"cluster {led}" if led else client[0]):
            timer.cancel()
            slot.over()
            transport.abort()
            return
        http = runner.server()
        self._connections[http] = _Connection(transport, slot, timer)
        protocol: asyncio.BaseProtocol = http
        if context is not None:
            waiter = loop.create_future()
            waiter.add_done_callback(_fetched)
            protocol = _TLS(loop, http, context, waiter, server_side=True)
            protocol.lost = lambda: self._lost(http)
            if via or client != peer:
                protocol.vouched(client, via)
            if headers is not None and client == peer:
                protocol.forged = lambda: headers.forged(peer)
        elif client != peer:
            transport._extra["peername"] = client  # type: ignore[attr-defined]  # aiohttp asks the transport who the client is
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        feed(protocol, data)

    def _carry(
        self,
        transport: asyncio.Transport,
        slot: Slot,
        via: tuple[str, ...],
        data: bytes,
        runner: web.AppRunner,
        context: ssl.SSLContext | None,
    ) -> None:
        """A proxy, which proved that it is one, leads many clients here: each of them is a connection like others."""
        if not slot.arrived(via[-1]):
            slot.over(blamed=False)
            transport.abort()
            return

        def over(mux: Mux) -> None:
            self._muxes.discard(mux)
            slot.over(blamed=False)

        def accept(stream: asyncio.Transport) -> None:
            self.accepted(stream, runner, context)

        mux = Mux(accept, over, peername=(via[-1], 0), carried_via=via[:-1])
        self._muxes.add(mux)
        slot.proved()
        probe(transport)
        transport.set_protocol(mux)
        mux.connection_made(transport)
        feed(mux, data)
        if self._accepting is None:
            mux.leave()

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

    def __init__(self, listener: HTTPListener, runner: web.AppRunner, context: Context | None) -> None:
        self._listener = listener
        self._runner = runner
        self._context = context

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        context = self._context() if callable(self._context) else self._context
        self._listener.accepted(transport, self._runner, context)
