"""A loopback door to auth for a daemon that reaches it only through a proxy: by its tunnel, or by a websocket.

The websocket is for whoever has no tunnel (yet). A proxy lets strangers have few of those, while hosts have proved who
they are by the time that their tunnel stands; and a channel costs the proxy less than a TLS connection of its own.

What is relayed is TLS between this daemon's services and auth: the relay and the proxy see ciphertext. The websocket's
own TLS proves nothing and need not: whoever answers cannot prove that it is auth (decision 18).

Everybody on the host can connect to the loopback. Sockets of other users, and those of which the kernel does not say
whose they are, are turned away before anything is opened for them: they take none of the daemon's connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Protocol, Self, TypeVar

import aiohttp

from teleport.errors import BadRequest, ConnectionProblem
from teleport.transport.blocking import shown_address
from teleport.transport.problems import said
from teleport.transport.site_proxy import for_aiohttp
from teleport.transport.socket_owner import GONE, Address, owner
from teleport.transport.tls import unproved_client_context
from teleport.transport.upgrade import stays

log = logging.getLogger(__name__)

CHUNK = 65536
SPARED_FIRST = 5.0  # seconds without a websocket after one that was refused, doubled for each more ...
SPARED_MOST = 120.0  # ... up to so many
HELD = 65536  # bytes for which there is no way yet, about
TUNNEL_PATH = "/webapi/auth/tunnel"


MOST: Final = 1000  # connections at once; a daemon has a handful, and a proxy one for each person who comes from afar
MOST_TOLD: Final = 100  # users of this host whose refusal the log tells of
REFUSED: Final = "a way to auth by the loopback is refused to the user %d of this host"
UNKNOWN: Final = (
    "the kernel does not say whose connections come by the loopback, so none of them gets to auth: let this daemon read"
    " /proc/net/tcp (mount /proc for it) or ask by sock_diag (systemd: AF_NETLINK in RestrictAddressFamilies)"
)
HIGH_WATER: Final = 256 * 1024  # bytes for this daemon that it has not taken, at which the tunnel is told to wait


class Carrier(Protocol):
    """A connection by a tunnel."""

    def write(self, data: bytes) -> None: ...
    async def drain(self) -> None: ...
    def pause_output(self) -> None: ...
    def resume_output(self) -> None: ...
    def close(self) -> None: ...
    async def wait(self) -> object:
        """Until it is over."""
        ...


ByTunnel = Callable[[Callable[[bytes, bool], None], Callable[[], None]], Coroutine[Any, Any, Carrier | None]]
T = TypeVar("T")


class Sparing:
    """When a host that has tunnels, as a rule, asks a proxy for a websocket instead: seldom where it gets none.

    A proxy that has just begun again and that thousands of hosts ask for both would be busy with what it refuses.
    Times are seconds of a monotonic clock."""

    def __init__(self, draw: Callable[[], float]) -> None:
        """`draw` gives numbers from 0 to 1."""
        self._draw = draw
        self._failures = 0
        self._until = 0.0

    def may(self, now: float) -> bool:
        return now >= self._until

    def gave(self, one: bool, now: float) -> None:
        """An attempt is over, which gave one or none."""
        self._failures = 0 if one else self._failures + 1
        pause = min(SPARED_FIRST * 2.0 ** (self._failures - 1), SPARED_MOST) if self._failures else 0.0
        self._until = now + pause * (0.5 + self._draw() / 2)


class AuthRelay:
    """Listens on the loopback while entered; each connection goes by a tunnel, or becomes a websocket of a proxy."""

    by_tunnel: ByTunnel | None = None
    """Opens a connection by a tunnel of this host; gets who takes its output, and who hears that there is no more. None
    when no tunnel leads to auth."""

    def __init__(
        self, proxies: Sequence[tuple[str, int]], *, owner: Callable[[Address, Address], int | None] = owner
    ) -> None:
        """`owner` says whose socket is connected with ours."""
        self._proxies = list(proxies)
        self._owner = owner
        self._told: set[int | None] = set()  # users whom the log told of
        self._full = False  # the log told of that
        self._sparing = Sparing(random.random)
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
        if not self._may(writer):
            writer.transport.abort()
            return
        task = asyncio.create_task(self._relay(reader, writer), name="auth relay")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _may(self, writer: asyncio.StreamWriter) -> bool:
        """Whether it is a process of this daemon's user, and there is room."""
        theirs = writer.get_extra_info("peername")
        user = self._owner(theirs[:2], self.address) if theirs else GONE
        if user != os.geteuid():
            if user != GONE and user not in self._told and len(self._told) < MOST_TOLD:
                self._told.add(user)
                log.warning(UNKNOWN if user is None else REFUSED, *(() if user is None else (user,)))
            return False
        if len(self._tasks) >= MOST:
            if not self._full:
                self._full = True
                log.warning("this daemon has %d connections to auth by the loopback, and gets no more", MOST)
            return False
        self._full = False
        return True

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        local = _Local(reader)
        try:
            if self.by_tunnel is not None and await self._carried(self.by_tunnel, local, writer):
                return
            if self.by_tunnel is not None and not self._sparing.may(_now()):
                return
            tunnel = await local.unless_gone(self._open())
            self._sparing.gave(tunnel is not None, _now())
            if tunnel is None:
                return
            async with tunnel:
                down = asyncio.create_task(_down(tunnel, writer), name="auth relay down")
                try:
                    while data := await local.read():
                        await tunnel.send_bytes(data)
                finally:
                    down.cancel()
                    await asyncio.gather(down, return_exceptions=True)
        except (OSError, aiohttp.ClientError) as error:
            log.debug("relay to auth ended: %s", error)
        finally:
            local.close()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _carried(self, open_one: ByTunnel, local: _Local, writer: asyncio.StreamWriter) -> bool:
        """Relays by a tunnel until either end has gone; False when there is none."""
        output = _Output(writer)
        carrier = await local.unless_gone(open_one(output.take, writer.close))
        if carrier is None:
            return False
        output.carrier = carrier
        over = asyncio.create_task(_until_over(carrier, writer), name="auth relay, a tunnel")
        try:
            while data := await local.read():
                carrier.write(data)
                await carrier.drain()
        finally:
            carrier.close()
            over.cancel()
            await asyncio.gather(over, *output.waiting, return_exceptions=True)
        return True

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


def _now() -> float:
    return asyncio.get_running_loop().time()


class _Gone(ConnectionResetError):
    """Whoever asked for a way does not wait for it any more."""


class _Local:
    """What a service of this daemon sends. A TLS client speaks once and waits: what it does next while there is no way
    for it yet is to give up. Nothing is then opened for it: after a restart of the proxy, one that gave up three times
    would else have three connections made to auth, each for nobody."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._held = b""  # was read, and nobody took it yet
        self._next: asyncio.Task[bytes] | None = None

    async def unless_gone(self, opening: Coroutine[Any, Any, T]) -> T:
        """What `opening` gives; ends it and raises `_Gone` when the client leaves before."""
        opened = asyncio.create_task(opening, name="auth relay, a way")
        try:
            while not opened.done() and len(self._held) < HELD:
                if self._next is None:
                    self._next = asyncio.create_task(self._reader.read(CHUNK), name="auth relay, what is said")
                await asyncio.wait((opened, self._next), return_when=asyncio.FIRST_COMPLETED)
                if not opened.done():
                    said, self._next = self._next, None
                    if not said.result():
                        raise _Gone
                    self._held += said.result()
            return await opened
        finally:
            if not opened.done():
                opened.cancel()
                await asyncio.gather(opened, return_exceptions=True)

    async def read(self) -> bytes:
        """The next bytes; empty at the end."""
        if self._held:
            data, self._held = self._held, b""
            return data
        if self._next is not None:
            following, self._next = self._next, None
            return await following
        return await self._reader.read(CHUNK)

    def close(self) -> None:
        if self._next is not None and not self._next.cancel() and not self._next.cancelled():
            self._next.exception()  # nobody asks any more why it ended


class _Output:
    """What comes by a tunnel, to this daemon; a daemon that does not take it stops the tunnel's channel."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.carrier: Carrier | None = None
        self.waiting: set[asyncio.Task[None]] = set()

    def take(self, data: bytes, _: bool) -> None:
        if self._writer.is_closing():
            return
        self._writer.write(data)
        if (
            self.carrier is not None
            and not self.waiting
            and self._writer.transport.get_write_buffer_size() > HIGH_WATER
        ):
            self.carrier.pause_output()
            task = asyncio.create_task(self._resume(self.carrier), name="auth relay, output")
            self.waiting.add(task)
            task.add_done_callback(self.waiting.discard)

    async def _resume(self, carrier: Carrier) -> None:
        with contextlib.suppress(OSError):
            await self._writer.drain()
            carrier.resume_output()


async def _until_over(carrier: Carrier, writer: asyncio.StreamWriter) -> None:
    await carrier.wait()
    writer.close()  # wakes the other direction


async def _down(tunnel: aiohttp.ClientWebSocketResponse, writer: asyncio.StreamWriter) -> None:
    try:
        async for message in tunnel:
            if message.type is not aiohttp.WSMsgType.BINARY:
                break
            writer.write(message.data)
            await writer.drain()
    finally:
        writer.close()  # wakes the other direction
