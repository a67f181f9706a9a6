"""What comes before TLS on a listener that proxies may vouch on: nothing, or lines that say who the client is.

A proxy that relays somebody to auth begins with the line of `wire.vouch`: else whoever comes through it would seem to
come from the proxy's own address. TLS begins with the byte 22 and a line with a letter, so that the first byte
decides. A proxy that itself reaches auth through another one begins after that one's line with its own: each is
believed by itself, and the last one counts.

Rules: bounded in bytes and lines, and in time by the listener; a line that is not believed ends the connection (the
peer's address is no substitute); nothing of TLS is read meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from teleport.errors import TeleportError
from teleport.wire import vouch

log = logging.getLogger(__name__)

MAX_LINES: Final = 3  # proxies behind one another
Address = tuple[str, int]
Believe = Callable[[bytes, str], Awaitable[Address]]
"""Who the client is, from a line and the address of whoever sent it; raises `TeleportError` for one not believed."""
Go = Callable[[asyncio.Transport, Address, tuple[str, ...], bytes], None]
"""Goes on with a connection: the client, the addresses of the proxies that vouched (first the peer), the bytes read."""


class Led(tuple[str, int]):
    """The address of a client as another cluster's proxy says, who can invent it."""

    cluster: str

    @staticmethod
    def by(cluster: str, address: Address) -> Address:
        """`address` itself when no other cluster says it."""
        if not cluster:
            return address
        led = Led(address)
        led.cluster = cluster
        return led


def through(address: object) -> str:
    """The other cluster whose proxy says this address; empty when none does."""
    return address.cluster if isinstance(address, Led) else ""


class FirstBytes(asyncio.Protocol):
    """The first protocol of a connection; hands the transport over when it knows who the client is."""

    def __init__(
        self, peer: Address, believe: Believe, go: Go, lost: Callable[[], None], via: tuple[str, ...] = ()
    ) -> None:
        """`lost` is called when the connection ends before it was handed over. `via`: the proxies that lead `peer`
        here."""
        self._client = peer
        self._via = via
        self._believe = believe
        self._go = go
        self._lost = lost
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._task is None:
            self._look()

    def _look(self) -> None:
        """Decides by what has come so far."""
        if self._transport is None or not self._buffer:
            return
        if not vouch.PREFIX.startswith(self._buffer[: len(vouch.PREFIX)]):
            self._hand_over()
            return
        line, newline, rest = self._buffer.partition(b"\n")
        if len(line) >= vouch.MAX_LINE or (newline and len(self._via) >= MAX_LINES):
            self._transport.abort()
        elif newline:
            self._buffer = rest
            self._transport.pause_reading()
            self._task = asyncio.get_running_loop().create_task(self._check(line), name="a proxy's vouch")

    async def _check(self, line: bytes) -> None:
        try:
            client = await self._believe(line, self._client[0])
        except TeleportError:
            if self._transport is not None:
                self._transport.abort()
            return
        except Exception:
            log.exception("a proxy's vouch could not be checked")
            if self._transport is not None:
                self._transport.abort()
            return
        self._via = (*self._via, self._client[0])
        self._client = Led.by(through(client) or through(self._client), client)
        self._task = None
        if self._transport is not None:
            transport = self._transport
            self._look()
            if self._task is None and not transport.is_closing():
                transport.resume_reading()

    def _hand_over(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            self._go(transport, self._client, self._via, self._buffer)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._task is not None:
            self._task.cancel()
        if self._transport is not None:
            self._transport = None
            self._lost()
