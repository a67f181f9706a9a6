"""Accepts connections for an SSH service, with a bound on those that have not authenticated yet.

The listener owns every connection it accepted: when its `serve` ends, they are closed. The sockets stay their owner's:
it can stop accepting, so that another process which has them accepts all, and go on again.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Protocol
from weakref import WeakSet

from teleport.resources.names import peer_address
from teleport.ssh.surface import Peer
from teleport.transport.accepting import Accepting


class Slot(Protocol):
    """One connection, as it counts for those who come after it."""

    def arrived(self, address: str) -> bool:
        """The client's true address is known, by itself or because a proxy vouched; False: it may not come in."""
        ...

    def proved(self) -> None:
        """The peer has authenticated."""
        ...

    def over(self, *, blamed: bool = True) -> None:
        """The connection has ended (may be called again); it counts against its address when `blamed`."""
        ...


class NoSlot:
    """Where nobody counts."""

    def arrived(self, address: str) -> bool:
        return True

    def proved(self) -> None:
        return

    def over(self, *, blamed: bool = True) -> None:
        return


class Slots(Protocol):
    """Bounds the connections that have not authenticated yet."""

    def take(self, address: str, close: Callable[[], None]) -> Slot:
        """A slot for a connection from `address`; `close` ends it when its slot is needed."""
        ...


Address = tuple[str, int]


class Before(Protocol):
    """What stands before SSH on a connection and says who the client is: a balancer's header."""

    def read(
        self,
        transport: asyncio.Transport,
        peer: Address,
        go: Callable[[asyncio.Transport, Address, bytes], None],
        lost: Callable[[], None],
    ) -> bool:
        """Whether something is to be read first; then `go` is called with the client and what follows, or `lost`."""
        ...


class _Accepted(asyncio.Protocol):
    """The first protocol of a connection: finds a slot, then hands the transport to the real one."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._listener.accepted(transport, before=self._listener.before)


class Listener:
    """Serves sockets that somebody else bound; `make` gives the protocol of one connection.

    `make` gets the peer's address and the slot, which is to be told when the peer has authenticated or the connection
    is gone. It gives None when the peer may not come in.
    """

    def __init__(self, make: Callable[[Peer, Slot], asyncio.Protocol | None], *, slots: Slots) -> None:
        self.before: Before | None = None  # on connections accepted here
        self._make = make
        self._slots = slots
        self._transports: WeakSet[asyncio.Transport] = WeakSet()
        self._sockets: Sequence[socket.socket] = ()
        self._accepting: list[Accepting] = []

    async def serve(self, sockets: Sequence[socket.socket], started: Callable[[], None]) -> None:
        """Accepts until cancelled; `started` is called when all sockets are served."""
        self._sockets = sockets
        try:
            await self.resume()
            started()
            await asyncio.get_running_loop().create_future()
        finally:
            self.pause()
            for transport in list(self._transports):
                transport.abort()

    def pause(self) -> None:
        """Accepts nothing more. Connections stay, and so do the sockets: what arrives waits, or goes elsewhere."""
        for accepting in self._accepting:
            accepting.stop()
        self._accepting.clear()

    async def resume(self) -> None:
        """Accepts (again)."""
        if not self._accepting:
            self._accepting += [Accepting(sock, lambda: _Accepted(self)) for sock in self._sockets]

    def entrance(self) -> tuple[Sequence[socket.socket], Callable[[], asyncio.Protocol]]:
        """The sockets that are accepted from now, and what each connection begins with, also when somebody else took
        it from them."""
        return self._sockets if self._accepting else (), lambda: _Accepted(self)

    @property
    def accepting(self) -> bool:
        """Whether new connections are taken here now."""
        return bool(self._accepting)

    @property
    def open(self) -> int:
        """How many connections there are, authenticated or not."""
        return sum(not transport.is_closing() for transport in self._transports)

    def accepted(
        self,
        transport: asyncio.Transport,
        client: Address | None = None,
        data: bytes = b"",
        *,
        before: Before | None = None,
    ) -> None:
        """Takes over a connection that was accepted here or elsewhere (a port shared with other protocols).

        `client` is who comes, where that is not the transport's other end, and `data` what was read already.
        """
        peer = Peer(*(client or peer_address(transport.get_extra_info("peername"))))
        slot = self._slots.take(peer.host, transport.abort)
        self._transports.add(transport)

        def go(transport: asyncio.Transport, client: Address, data: bytes) -> None:
            self._begin(transport, Peer(*client), slot, data)

        # a balancer looks whether the listener is there by connecting and leaving: that blames nobody
        if before is None or not before.read(transport, (peer.host, peer.port), go, lambda: slot.over(blamed=False)):
            self._begin(transport, peer, slot, data)

    def _begin(self, transport: asyncio.Transport, peer: Peer, slot: Slot, data: bytes) -> None:
        protocol = self._make(peer, slot)
        if protocol is None:
            slot.over()
            transport.abort()
            return
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if data:
            protocol.data_received(data)
