"""Moves packets fast and in bounded memory: the part of an SSH connection that every byte of a session crosses.

asyncssh does three things here that a relay cannot afford: it puts an ignore packet before every packet (a remedy
for CBC ciphers, which we do not offer), makes one `send` of each packet, and takes no notice when the socket is full.
`PacketPath` and `DataPath` replace just these: packets of one turn of the loop leave in one write; while the socket is
full, channels keep their data and tell their producer to stop; data packets under AES-GCM are built with one copy.

Rules: order on the wire is the order of the calls; what was queued is flushed before a connection is closed; nothing
here decides anything.
"""

from __future__ import annotations

import os
import struct
import sys
from asyncio.selector_events import _SelectorSocketTransport  # type: ignore[attr-defined]
from typing import TYPE_CHECKING, Any, cast

from asyncssh.channel import SSHChannel
from asyncssh.constants import EXTENDED_DATA_STDERR, MSG_CHANNEL_EOF, MSG_CHANNEL_WINDOW_ADJUST, MSG_IGNORE
from asyncssh.encryption import GCMEncryption
from asyncssh.kex import get_kex_algs
from asyncssh.packet import String, UInt32

from teleport.ssh.incoming import AMPLE_WINDOW, IncomingPath
from teleport.ssh.sealing import Sealer
from teleport.ssh.surface import KEY_EXCHANGES

if TYPE_CHECKING:
    from asyncio import BaseTransport, Transport

_MSG_CHANNEL_DATA = 94
_MSG_CHANNEL_EXTENDED_DATA = 95
_EMPTY = String(b"")
_SOCKET_HIGH_WATER = 1024 * 1024  # bytes in a socket's write buffer at which channels stop
_QUEUE_HIGH_WATER = 1024 * 1024  # bytes queued in one turn of the loop at which they are written at once
_LARGEST_PACKET = 256 * 1024  # bytes of data, whatever larger packet a peer would take
_MUCH = 64 * 1024  # bytes of data that are worth a write of their own ...
_LEAST_OF_MUCH = 4 * 1024  # ... in packets of at least so many
_WINDOW_MAX = 32 * 1024 * 1024  # bytes to which a channel's receive window may grow
_LONG_PATH = 0.02  # seconds there and back; below, 2 MiB carry 100 MiB/s and more
_PARTS = 8  # in which a window is renewed on a long path
_GROWN_MAX = 32 * 1024 * 1024  # bytes by which the windows of one connection may grow together
_DATA_HEADER = struct.Struct(">BBII")
_EXTENDED_HEADER = struct.Struct(">BBIII")
_LENGTH = struct.Struct(">I")


class PacketPath(IncomingPath):
    """The sending half of a connection: one write for each turn of the loop, and a stop when the socket is full."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._queue: list[bytes] = []
        self._queued = 0
        self._flush_scheduled = False
        self._socket_full = False
        self._granted = 0  # bytes by which windows have grown
        self.delay: float | None = None  # seconds there and back; 0 until it is known
        # Padding is sealed with the packet; under AEAD it need not be new each time, and asking for it costs a call.
        self._padding = os.urandom(32)
        self._sealer: Sealer | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        writable: Transport = transport  # type: ignore[assignment]
        writable.set_write_buffer_limits(high=_SOCKET_HIGH_WATER)
        super().connection_made(transport)

    def _send(self, data: bytes) -> None:
        self._queue.append(data)
        self._queued += len(data)
        if self._queued >= _QUEUE_HIGH_WATER:
            self._flush_queue()
        elif not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush_queue)

    def _flush_queue(self) -> None:
        self._flush_scheduled = False
        if self._queue:
            data = b"".join(self._queue)
            self._queue.clear()
            self._queued = 0
            if self._transport is not None:
                self._transport.write(data)

    def _force_close(self, exc: Exception | None) -> None:
        self._flush_queue()
        super()._force_close(exc)

    def pause_writing(self) -> None:
        self._socket_full = True

    def resume_writing(self) -> None:
        self._socket_full = False
        self._flush_channels()

    def _send_deferred_packets(self) -> None:
        super()._send_deferred_packets()
        self._flush_channels()

    def _flush_channels(self) -> None:
        for channel in list(self._channels.values()):
            channel._flush_send_buf()

    async def measure_delay(self) -> None:
        """Learns the path's delay end to end, once, by a request that every SSH peer answers. Call it while idle."""
        if self.delay is None:
            self.delay = 0.0
            begun = self._loop.time()
            await self._make_global_request(b"keepalive@openssh.com")
            self.delay = self._loop.time() - begun

    def grant(self, size: int) -> bool:
        """Whether a channel's receive window may grow by `size` bytes, within what a connection may keep in memory."""
        if self._granted + size > _GROWN_MAX:
            return False
        self._granted += size
        return True

    @property
    def takes_data(self) -> bool:
        """Whether channels may hand over data now: not in a key exchange either, where it would pile up."""
        return not self._socket_full and self._kex_complete

    def send_packet(self, pkttype: int, *args: bytes, handler: Any = None) -> None:
        if pkttype == MSG_IGNORE and args == (_EMPTY,):
            return  # asyncssh's chaff against CBC attacks; every cipher offered here is AEAD or CTR
        super().send_packet(pkttype, *args, handler=handler)

    def _sealer_now(self) -> Sealer | None:
        """For the short way; None unless the cipher is AES-GCM and no key exchange is due."""
        cipher = self._send_encryption
        if (
            not isinstance(cipher, GCMEncryption)
            or not self._kex_complete
            or not self._auth_complete
            or self._compressor is not None
            or self._rekey_bytes_sent >= self._rekey_bytes
        ):
            return None
        if self._sealer is None or self._sealer.encryption is not cipher:
            self._sealer = Sealer(cipher, self._padding)
        return self._sealer

    def send_much(self, channel: int, data: memoryview, largest: int) -> int:
        """Sends much data in one write; how much of it, 0 when it cannot go the short way now."""
        sealer = self._sealer_now()
        if sealer is None or self._transport is None:
            return 0
        self._flush_queue()
        sealed, taken, packets, counted = sealer.seal(channel, data, largest)
        # A transport may keep what it could not send at once: a channel does, and sockets from Python 3.12 on.
        self._transport.write(sealed if _keeps_nothing(self._transport) else bytes(sealed))
        self._send_seq = (self._send_seq + packets) & 0xFFFFFFFF
        self._rekey_bytes_sent += counted
        self._sent_much = True
        return taken

    def send_data(self, channel: int, data: memoryview, datatype: int | None) -> None:
        """Sends one data packet, by the short way where the cipher is AES-GCM and no key exchange is due."""
        sealer = self._sealer_now()
        if sealer is None:
            number = channel.to_bytes(4, "big")
            if datatype is None:
                self.send_packet(_MSG_CHANNEL_DATA, number, String(bytes(data)))
            else:
                self.send_packet(_MSG_CHANNEL_EXTENDED_DATA, number, datatype.to_bytes(4, "big"), String(bytes(data)))
            return
        size = len(data)
        length = size + (10 if datatype is None else 14)  # padding length, type, channel, (data type,) data length
        padding = -length % 16
        if padding < 4:
            padding += 16
        if datatype is None:
            head = _DATA_HEADER.pack(padding, _MSG_CHANNEL_DATA, channel, size)
        else:
            head = _EXTENDED_HEADER.pack(padding, _MSG_CHANNEL_EXTENDED_DATA, channel, datatype, size)
        packet_length = _LENGTH.pack(length + padding)
        gcm = sealer.encryption._cipher
        sealed = sealer.aead.encrypt(gcm._iv, b"".join((head, data, self._padding[:padding])), packet_length)
        gcm._update_iv()
        self._queue.append(packet_length)
        self._send(sealed)
        self._queued += 4
        self._send_seq = (self._send_seq + 1) & 0xFFFFFFFF
        self._rekey_bytes_sent += length + padding


def _keeps_nothing(transport: object) -> bool:
    """Whether `write` has sent or copied all of its argument when it returns: asyncio's own sockets, to Python 3.11."""
    return sys.version_info < (3, 12) and type(transport) is _SelectorSocketTransport


class DataPath(SSHChannel[bytes]):
    """The data half of a channel on a `PacketPath`: no copies before encryption, back-pressure from the socket."""

    _largest = _LARGEST_PACKET
    _measured = 0.0  # loop time at which half of the receive window was last renewed
    _renewed = 0  # bytes of it renewed since

    def write(self, data: Any, datatype: int | None = None) -> None:
        if self._send_state != "open":
            raise BrokenPipeError("the channel is not open for sending")
        if not data:
            return
        self._send_buf.append((memoryview(data), datatype))  # type: ignore[arg-type]  # only the method below reads it
        self._send_buf_len += len(data)
        self._flush_send_buf()

    def _flush_send_buf(self) -> None:
        connection = cast("PacketPath | None", self._conn)
        buffer: list[Any] = self._send_buf
        if connection is not None and self._send_chan is not None:
            largest = min(self._send_pktsize, self._largest)
            while buffer and self._send_window and connection.takes_data:
                data, datatype = buffer[0]
                size = min(self._send_window, largest)
                if datatype is None and len(data) >= _MUCH and self._send_window >= _MUCH and largest >= _LEAST_OF_MUCH:
                    size = connection.send_much(self._send_chan, data[: self._send_window], largest)
                    if size:
                        self._send_buf_len -= size
                        self._send_window -= size
                        if self._send_window < AMPLE_WINDOW:
                            connection.read_on()
                        if size == len(data):
                            del buffer[0]
                        else:
                            buffer[0] = (data[size:], datatype)
                        continue
                    size = min(self._send_window, largest)
                if len(data) > size:
                    buffer[0] = (data[size:], datatype)
                    data = data[:size]
                else:
                    size = len(data)
                    del buffer[0]
                self._send_buf_len -= size
                self._send_window -= size
                connection.send_data(self._send_chan, data, datatype)
        if self._session is not None:
            self._pause_resume_writing()
        if not self._send_buf:
            if self._send_state == "eof_pending":
                self.send_packet(MSG_CHANNEL_EOF)
                self._send_state = "eof"
            elif self._send_state == "close_pending":
                self._close_send()

    def _deliver_data(self, data: bytes, datatype: int | None) -> None:
        connection = cast("PacketPath | None", self._conn)
        delay = (connection.delay or 0.0) if connection is not None else 0.0
        if delay > _LONG_PATH and (self._init_recv_window - self._recv_window) * _PARTS > self._init_recv_window:
            self._renew_early(delay)
        super()._deliver_data(data, datatype)

    def _renew_early(self, delay: float) -> None:
        """Renews the receive window before asyncssh would, and doubles it first when the path would have carried more.

        asyncssh waits until half of it is used: over a long path the sender then stands still for that half. On short
        paths nothing is gained, and a large window would only make OpenSSH clients stall.
        """
        self._renewed += self._init_recv_window - self._recv_window
        if self._renewed * 2 > self._init_recv_window:
            connection = cast("PacketPath", self._conn)
            now = self._loop.time()
            # what arrives within one delay fills half of the window: the window is the limit, not the path
            if (
                self._measured
                and self._init_recv_window < _WINDOW_MAX
                and self._renewed * delay > (now - self._measured) * self._init_recv_window / 2
                and connection.grant(self._init_recv_window)
            ):
                self._init_recv_window *= 2
            self._measured, self._renewed = now, 0
        self.send_packet(MSG_CHANNEL_WINDOW_ADJUST, UInt32(self._init_recv_window - self._recv_window))
        self._recv_window = self._init_recv_window


def key_exchanges() -> list[str]:
    """The key exchanges to offer: ours, as far as this machine's cryptography has them (ML-KEM is new)."""
    known = {name.decode() for name in get_kex_algs()}
    return [name for name in KEY_EXCHANGES if name in known]


STDERR: int = EXTENDED_DATA_STDERR
