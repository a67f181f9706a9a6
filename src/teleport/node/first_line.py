"""Reads what comes before the SSH version: nothing, or the line with which a proxy vouches for the client.

Rules: bounded in bytes and seconds; a line that is not believed ends the connection; without a line the peer's own
address counts. The server's version is sent at once, because some clients wait for it before they say anything.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable

from teleport.errors import TeleportError
from teleport.ssh.listener import Slot
from teleport.ssh.surface import Peer
from teleport.wire import vouch

_SSH = b"SSH-"
_MSG_DISCONNECT = 1
_NOT_ALLOWED = 1  # SSH_DISCONNECT_HOST_NOT_ALLOWED_TO_CONNECT
_BLOCK = 8  # bytes, without a cipher
_LEAST_PADDING = 4
_LAST_WORDS_SECONDS = 2.0  # for a client to read why it is not let in


class FirstLine(asyncio.Protocol):
    """The first protocol of a connection to a node; hands the transport over when it knows who the client is."""

    def __init__(
        self,
        peer: Peer,
        *,
        greeting: bytes,
        believe: Callable[[bytes], vouch.Vouch],
        make: Callable[[Peer, bool, str], asyncio.Protocol],
        refused: Callable[[Peer, str], None],
        slot: Slot,
        seconds: float = 8.0,
    ) -> None:
        """`believe` checks a line and raises `TeleportError`; `make` gives the SSH protocol for the true client, and is
        told whether a proxy vouched for its address, and to which trace the connection belongs."""
        self._peer = peer
        self._greeting = greeting
        self._believe = believe
        self._make = make
        self._refused = refused
        self._slot = slot
        self._seconds = seconds
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._end)
        transport.write(self._greeting)

    def data_received(self, data: bytes) -> None:
        if self._transport is None:
            return  # what a client says that has been told why it is not let in
        self._buffer += data
        start = self._buffer[: len(vouch.PREFIX)]
        if self._buffer.startswith(_SSH):
            self._hand_over(self._peer, self._buffer)
        elif vouch.PREFIX.startswith(start):
            self._read_vouch()
        elif not _SSH.startswith(self._buffer):
            self._end()

    def _read_vouch(self) -> None:
        line, newline, rest = self._buffer.partition(b"\n")
        if not newline:
            if len(self._buffer) > vouch.MAX_LINE:
                self._end("the line before the SSH version is too long")
            return
        try:
            believed = self._believe(line)
        except vouch.ClocksDiffer as error:
            self._end(error.message, error.told)
            return
        except TeleportError as error:
            self._end(error.message)
            return
        self._hand_over(Peer(believed.client_host, believed.client_port, believed.cluster), rest, believed)

    def _hand_over(self, client: Peer, rest: bytes, believed: vouch.Vouch | None = None) -> None:
        transport, self._transport = self._transport, None
        self._stop_timer()
        if transport is None:
            return
        if not self._slot.arrived(client.counted):
            transport.abort()
            self._slot.over()
            return
        protocol = self._make(client, believed is not None, believed.trace if believed is not None else "")
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if rest:
            protocol.data_received(rest)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._transport = None
        self._slot.over()

    def _end(self, reason: str = "", told: str = "") -> None:
        """Ends the connection. `reason` goes on record, `told` to the client."""
        self._stop_timer()
        transport, self._transport = self._transport, None
        if transport is None:
            return
        if told:
            # What the client has sent and we do not read would make the kernel drop what we say: it is read till the
            # client is gone, for a while.
            transport.write(_disconnect(told))
            transport.write_eof()
            asyncio.get_running_loop().call_later(_LAST_WORDS_SECONDS, transport.abort)
        else:
            transport.abort()
            self._slot.over()
        if reason:
            self._refused(self._peer, reason)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _disconnect(text: str) -> bytes:
    """SSH_MSG_DISCONNECT as it is sent before any key exchange (RFC 4253 sections 6 and 11.1)."""
    said = text.encode()
    payload = struct.pack(">BII", _MSG_DISCONNECT, _NOT_ALLOWED, len(said)) + said + struct.pack(">I", 0)
    padding = _BLOCK - (5 + len(payload)) % _BLOCK
    padding += _BLOCK if padding < _LEAST_PADDING else 0
    return struct.pack(">IB", 1 + len(payload) + padding, padding) + payload + bytes(padding)
