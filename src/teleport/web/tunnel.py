"""A websocket whose binary messages are the bytes of a TCP connection to the auth service.

What travels inside is TLS that ends at auth: this end can neither read nor change it (decision 18). The tunnel leads
to the configured auth servers and nowhere else.

Behind a balancer that hides its clients all tunnels have one address. `Relays` bounds them so that whoever takes all
places and says little keeps nobody out: the one that was silent longest makes room.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import WSMsgType, web

from teleport.errors import BadRequest, ConnectionProblem, LimitExceeded
from teleport.resources.names import peer_address
from teleport.transport import memory_pair

CHUNK = 65536  # bytes
MAX_MESSAGE = 1024 * 1024  # bytes of one websocket message
DIAL_TIMEOUT = 10.0  # seconds
IDLE_TIMEOUT = 300.0  # seconds without a byte from the client
SPARED = 5.0  # seconds of silence within which a tunnel makes room for nobody


class Relay:
    """One tunnel, as it counts."""

    def __init__(self, address: str, now: float, close: Callable[[], None]) -> None:
        self.address = address
        self.since = now  # it last carried something
        self.close = close


class Relays:
    """The tunnels that there are, by address. `now` gives seconds, monotonic."""

    def __init__(self, most: int, now: Callable[[], float]) -> None:
        self._most = most
        self._now = now
        self._held: dict[str, set[Relay]] = {}
        self.total = 0

    def enter(self, address: str, close: Callable[[], None], *, of_one: int) -> Relay:
        """Counts a tunnel; `close` ends it when it has to make room. Raises `LimitExceeded`."""
        if len(self._held.get(address, ())) >= of_one and not self._room(address):
            raise LimitExceeded("this proxy relays as many connections from one address as it may; close some")
        if self.total >= self._most and not self._room(max(self._held, key=lambda one: len(self._held[one]))):
            raise LimitExceeded("this proxy relays as many connections as it may; try again")
        made = Relay(address, self._now(), close)
        self._held.setdefault(address, set()).add(made)
        self.total += 1
        return made

    def carried(self, relay: Relay) -> None:
        """It has just carried something."""
        relay.since = self._now()

    def leave(self, relay: Relay) -> None:
        """It is over (may be called again)."""
        held = self._held.get(relay.address, set())
        if relay in held:
            held.discard(relay)
            self.total -= 1
        if not held:
            self._held.pop(relay.address, None)

    def _room(self, address: str) -> bool:
        """Ends the one of an address that was silent longest, if that is long enough."""
        silent = min(self._held[address], key=lambda one: one.since)
        if self._now() - silent.since < SPARED:
            return False
        self.leave(silent)
        silent.close()
        return True


async def dial_auth(addresses: Sequence[tuple[str, int]]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the first auth server that answers."""
    for host, port in addresses:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(DIAL_TIMEOUT):
                return await asyncio.open_connection(host, port)
    raise ConnectionProblem("the proxy cannot reach the auth service")


async def relay_to_auth(
    request: web.Request,
    addresses: Sequence[tuple[str, int]],
    first: Callable[[], bytes] = lambda: b"",
    carried: Callable[[], None] = lambda: None,
) -> web.StreamResponse:
    """Answers `request` with a websocket to auth and copies both ways until either end closes.

    `first` makes what auth reads before the client's first byte: the line that says who the client is. `carried` is
    called for each piece.
    """
    return await relay(request, lambda: dial_auth(addresses), first, carried)


async def relay(
    request: web.Request,
    dial: Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]],
    first: Callable[[], bytes] = lambda: b"",
    carried: Callable[[], None] = lambda: None,
) -> web.StreamResponse:
    """As `relay_to_auth`, with what `dial` connects with."""
    socket = web.WebSocketResponse(max_msg_size=MAX_MESSAGE, compress=False, heartbeat=30, timeout=2)
    if not socket.can_prepare(request):
        raise BadRequest("the tunnel to auth is a websocket")
    reader, writer = await dial()
    try:
        writer.write(first())
        await socket.prepare(request)
        await _both_ways(socket, reader, writer, carried)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        if socket.prepared:
            await socket.close()
    return socket


async def _both_ways(
    socket: web.WebSocketResponse,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    carried: Callable[[], None] = lambda: None,
) -> None:
    """Until either end has gone."""
    down = asyncio.create_task(_down(reader, socket, carried), name="a websocket, down")
    try:
        await _up(socket, writer, carried)
    finally:
        down.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await down


async def _up(socket: web.WebSocketResponse, writer: asyncio.StreamWriter, carried: Callable[[], None]) -> None:
    while True:
        try:
            message = await socket.receive(timeout=IDLE_TIMEOUT)
        except TimeoutError:
            return
        if message.type is not WSMsgType.BINARY:
            return
        carried()
        writer.write(message.data)
        try:
            await writer.drain()
        except OSError:
            return


async def _down(reader: asyncio.StreamReader, socket: web.WebSocketResponse, carried: Callable[[], None]) -> None:
    try:
        while data := await reader.read(CHUNK):
            carried()
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
