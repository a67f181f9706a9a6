"""Copies bytes between a client's channel and a connection to a node, both ways, as fast as the machine allows.

Rules: nothing is looked into; each direction ends by itself (half-close); a side that does not take its bytes stops
the other side's producer; what arrives before the node is connected cannot exist, because the channel is confirmed
only afterwards (direct-tcpip) or its deliveries begin only afterwards (subsystem).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from teleport.ssh.handlers import Channel

_HIGH_WATER = 1024 * 1024  # bytes waiting for the node before the client is stopped
_JOIN_ABOVE = 512 * 1024  # bytes collected in one turn of the loop before they are written


class NodeLeg(asyncio.Protocol):
    """The connection to the node; also the `StreamHandler` of the client's channel."""

    def __init__(self, channel: Channel, first: bytes, ended: Callable[[], None]) -> None:
        self._channel = channel
        self._first = first
        self._ended = ended
        self._transport: asyncio.Transport | None = None
        self._pieces: list[bytes] = []
        self._collected = 0
        self._flush_due = False
        self._client_done = False
        self._closed_to_node = False  # the node was told that the client sends no more
        self._node_done = False
        self._gone = False
        self._loop = asyncio.get_running_loop()
        self.sent = 0  # bytes towards the node
        self.received = 0  # bytes towards the client

    # from the node

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=_HIGH_WATER)
        if self._first:
            transport.write(self._first)

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        self._channel.write(data)

    def eof_received(self) -> bool:
        self._channel.write_eof()
        self._node_done = True
        # Nothing passes any more once both sides have ended, but nobody would close: a client that was killed leaves
        # its `ssh -W` behind, which waits for that.
        return not self._closed_to_node

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if not self._gone:
            self._gone = True
            self._ended()

    def pause_writing(self) -> None:
        self._channel.pause_reading()

    def resume_writing(self) -> None:
        self._channel.resume_reading()

    # from the client

    def from_client(self, data: bytes) -> None:
        """Collects the packets of one turn of the loop into one write."""
        self.sent += len(data)
        self._pieces.append(data)
        self._collected += len(data)
        if self._collected >= _JOIN_ABOVE:
            self._flush()
        elif not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        if self._pieces and self._transport is not None:
            self._transport.write(b"".join(self._pieces) if len(self._pieces) > 1 else self._pieces[0])
        self._pieces.clear()
        self._collected = 0
        if self._client_done and self._transport is not None and self._transport.can_write_eof():
            self._client_done = False
            # A node killed this very moment: asyncio's `write_eof` raises, `connection_lost` follows by itself.
            with suppress(OSError):
                self._transport.write_eof()
            self._closed_to_node = True
            if self._node_done:
                self._transport.close()

    def client_eof(self) -> None:
        """The client sends no more."""
        self._client_done = True
        self._flush()

    def client_stopped(self) -> None:
        """The client does not take what the node sends."""
        if self._transport is not None:
            self._transport.pause_reading()

    def client_goes_on(self) -> None:
        """The client takes bytes again."""
        if self._transport is not None:
            self._transport.resume_reading()

    def client_gone(self) -> None:
        """The client's channel is closed."""
        self._gone = True
        if self._transport is not None:
            self._flush()
            self._transport.close()


class RelayHandler:
    """The `StreamHandler` of a channel that leads to a node."""

    def __init__(self, leg: NodeLeg | None = None) -> None:
        self.leg = leg

    def data_received(self, data: bytes) -> None:
        if self.leg is not None:
            self.leg.from_client(data)

    def eof_received(self) -> None:
        if self.leg is not None:
            self.leg.client_eof()

    def pause_writing(self) -> None:
        if self.leg is not None:
            self.leg.client_stopped()

    def resume_writing(self) -> None:
        if self.leg is not None:
            self.leg.client_goes_on()

    def closed(self) -> None:
        if self.leg is not None:
            self.leg.client_gone()
