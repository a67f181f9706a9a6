"""Whose PROXY header is believed, and the reading of it: the first thing on a connection from a listed balancer.

A header names whoever its sender likes, so it is taken from listed addresses only, and asked of them always: a
connection of a balancer without one would carry the balancer's address into limits, source pins and the audit log. A
connection from anywhere else that begins with one is refused, never read on as something else (threat T24).

Bounds: the bytes of the longest header, `SECONDS` for all of them, and the listener's slot of the balancer's address
until the client's is known.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from teleport.wire import proxy_protocol

SECONDS: Final = 5.0  # for the header to come whole

Address = tuple[str, int]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Go = Callable[[asyncio.Transport, Address, bytes], None]
"""Goes on with a connection: the client, and the bytes that were read and are not the header's."""
Refused = Callable[[Address, str], None]
"""Hears of a connection that was refused, from where and why."""


@dataclass(frozen=True)
class Balancers:
    """The addresses that say for whom they connect. `key` names the setting in what is told of a refusal."""

    networks: tuple[Network, ...] = ()
    key: str = "proxy_service.proxy_protocol_from"

    @classmethod
    def of(cls, networks: Sequence[str], key: str) -> Balancers:
        """Raises `ValueError` for what is no address or network."""
        return cls(tuple(ipaddress.ip_network(one) for one in networks), key)

    def listed(self, address: str) -> bool:
        """Whether a header is asked of, and believed from, this address (in its one spelling)."""
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(found in network for network in self.networks)

    def why_forged(self, address: str) -> str:
        """What the log says of a header from an address that is not listed."""
        return (
            f"it begins with a PROXY header and {address} is not listed; "
            f"if it is your balancer, add it to {self.key}, else send no header"
        )

    def why_missing(self, address: str) -> str:
        """What the log says of a listed address that sends no header."""
        return (
            f"it begins with no PROXY header that can be read and {address} is listed in {self.key}; "
            f"make the balancer send one (haproxy: send-proxy-v2), or take the address off the list"
        )


class HeaderReader(asyncio.Protocol):
    """The first protocol of a connection from a listed balancer; hands the transport over when the header is there."""

    def __init__(self, peer: Address, balancers: Balancers, go: Go, lost: Callable[[], None], refused: Refused) -> None:
        """`lost` is called when the connection ends before it was handed over, `refused` when that is our doing."""
        self._peer = peer
        self._balancers = balancers
        self._go = go
        self._lost = lost
        self._refused = refused
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._timer = asyncio.get_running_loop().call_later(SECONDS, self._refuse)

    def data_received(self, data: bytes) -> None:
        if self._transport is None:
            return
        self._buffer += data
        try:
            header = proxy_protocol.parse(self._buffer)
        except proxy_protocol.Malformed:
            self._refuse()
            return
        if header is None:
            return
        transport = self._forget()
        assert transport is not None
        self._go(transport, header.client or self._peer, self._buffer[header.size :])

    def _refuse(self) -> None:
        transport = self._forget()
        if transport is not None:
            self._refused(self._peer, self._balancers.why_missing(self._peer[0]))
            transport.abort()
            self._lost()

    def _forget(self) -> asyncio.Transport | None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        transport, self._transport = self._transport, None
        return transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._forget() is not None:
            self._lost()


class Headers:
    """Stands before a listener: reads the headers of listed balancers."""

    def __init__(self, balancers: Balancers, refused: Refused) -> None:
        self.balancers = balancers
        self._refused = refused

    def read(self, transport: asyncio.Transport, peer: Address, go: Go, lost: Callable[[], None]) -> bool:
        """Whether a header comes first: then either `go` is called or `lost`, later, once."""
        if not self.balancers.listed(peer[0]):
            return False
        reader = HeaderReader(peer, self.balancers, go, lost, self._refused)
        transport.set_protocol(reader)
        reader.connection_made(transport)
        return True

    def forged(self, peer: Address) -> None:
        """A connection that begins with a header came from elsewhere and was refused."""
        self._refused(peer, self.balancers.why_forged(peer[0]))
