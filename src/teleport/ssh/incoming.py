"""Opens packets fast: the receiving half of a connection.

asyncssh copies the rest of its input twice for every packet, and makes a cipher for each. Under AES-GCM, once the peer
has authenticated, the packets of one read are opened here one after another where they lie. Data and window adjustments
for an open channel go straight to it; everything else, and everything odd, goes through asyncssh's own handling, which
finds the packet already opened.

Rules: a packet is looked at after its tag has been checked; order is kept; a closed connection takes nothing more.
"""

from __future__ import annotations

import mmap
import secrets
import socket
import struct
import threading
from asyncio import BufferedProtocol, Transport
from asyncio.trsock import TransportSocket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from asyncssh.connection import SSHConnection
from asyncssh.encryption import GCMEncryption
from asyncssh.misc import MACError, ProtocolError
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from teleport.ssh.surface import KeepAlive

if TYPE_CHECKING:
    from asyncio import BaseTransport, TimerHandle

_MSG_CHANNEL_WINDOW_ADJUST = 93
_MSG_CHANNEL_DATA = 94
_TAG = 16  # bytes
_SHORTEST = 16  # bytes: a cipher block (RFC 4253 section 6)
_LENGTH = struct.Struct(">I")
_HEAD = struct.Struct(">BBII")  # padding length, type, channel; bytes of data that follow, or bytes to add
_LEAST_PADDING = 4  # bytes
_LEAST_LENGTH = 6  # bytes: the padding's length, a type, and the padding
_WINDOW_END = 0xFFFFFFFF  # bytes (RFC 4254 section 5.2)
_STILL_TAKING = ("eof_pending", "eof")
_SMALL_READ = 4096  # bytes; what comes in larger pieces keeps acknowledging itself
_REST = 0.001  # seconds for which window adjustments gather unread while much is sent
AMPLE_WINDOW = 1024 * 1024  # bytes a peer still takes; below, nothing rests
_INTERNET = (socket.AF_INET, socket.AF_INET6)
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)  # Linux has it
_KEEPIDLE: int | None = getattr(socket, "TCP_KEEPIDLE", None)
_USER_TIMEOUT: int | None = getattr(socket, "TCP_USER_TIMEOUT", None)


class _Scratch(threading.local):
    """Where a read goes, and where packets are opened; what is kept of one is copied before the next."""

    def __init__(self) -> None:
        self.read = memoryview(mmap.mmap(-1, 256 * 1024))  # pages that nobody used yet take no memory
        self.space = memoryview(mmap.mmap(-1, 64 * 1024))


_scratch = _Scratch()


class Opener(GCMEncryption):
    """asyncssh's AES-GCM with the cipher kept, and a packet that may have been opened already."""

    def __init__(self, encryption: GCMEncryption) -> None:
        super().__init__(encryption._cipher)
        self._aead = AESGCM(self._cipher._key)
        self._opened: bytes | None = None

    def open(self, packet: memoryview) -> memoryview:
        """The plain text of `packet` (length, sealed bytes, tag), good until the next one is opened."""
        size = len(packet) - 4 - _TAG
        if size > len(_scratch.space):
            _scratch.space = memoryview(bytearray(size))
        plain = _scratch.space[:size]
        try:
            self._aead.decrypt_into(self._cipher._iv, packet[4:], packet[:4], plain)
        except InvalidTag:
            raise MACError("MAC verification failed") from None
        self._cipher._update_iv()
        return plain

    def hand_over(self, plain: memoryview) -> None:
        """The next call of `decrypt_packet` answers with this."""
        self._opened = bytes(plain)

    def decrypt_packet(self, seq: int, first: bytes, rest: bytes, header_len: int, mac: bytes) -> bytes | None:
        opened, self._opened = self._opened, None
        return super().decrypt_packet(seq, first, rest, header_len, mac) if opened is None else opened


class IncomingPath(SSHConnection, BufferedProtocol):
    """The receiving half of a connection.

    Sockets are read into one place for all: otherwise asyncio asks for 256 KiB for each read and gives most of it back,
    and where ten thousand tunnels lie between, the C library looks for such a piece longer than the packet takes.
    """

    _of_hosts = False  # whether both ends are ours, with Nagle's algorithm off: nobody waits for an acknowledgement
    _prompt: TransportSocket | None = None
    _sent_much = False  # since the last read
    _only_windows = True  # whether the read at hand held nothing but adjustments, and windows are ample after them
    _rest: TimerHandle | None = None
    _heard_at = 0.0  # loop time
    _probed_after = _gone_after = 0  # seconds; 0: as whoever made the connection has it

    def connection_made(self, transport: BaseTransport) -> None:
        # OpenSSH's client leaves Nagle's algorithm on for connections that carry another (`ssh -J`, ProxyCommand) and
        # until a session begins: what it sends next waits for our acknowledgement, which the kernel delays by 40 ms.
        raw: Any = transport.get_extra_info("socket")
        if (
            not self._of_hosts
            and _QUICKACK is not None
            and isinstance(raw, TransportSocket)
            and raw.family in _INTERNET
        ):
            self._prompt = raw
        super().connection_made(transport)
        self._probe_later()

    def get_buffer(self, sizehint: int) -> memoryview:
        return _scratch.read

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(_scratch.read[:nbytes]))

    def data_received(self, data: bytes, datatype: int | None = None) -> None:
        small, much = len(data) < _SMALL_READ, self._sent_much
        self._sent_much, self._only_windows = False, True
        if self._prompt is not None and small and not much and _QUICKACK is not None:
            try:
                self._prompt.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
            except OSError:
                self._prompt = None  # the peer is gone; the transport says so in its own way
        super().data_received(data, datatype)
        if small and much and self._only_windows and isinstance(self._transport, Transport):
            # OpenSSH opens the window by 96 KiB at a time: reading each such packet by itself would cost half as much
            # as sending what it makes room for. Meanwhile they gather in the socket.
            self._transport.pause_reading()
            self._rest = self._loop.call_later(_REST, self.read_on)

    def read_on(self) -> None:
        """Ends a rest from reading, or lets none begin: a window has become small, or the time is over."""
        self._only_windows = False
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
            if self._transport is not None:
                self._transport.resume_reading()

    def ask_after(self, every: KeepAlive) -> None:
        """How often the other end is asked whether it is there, from the next time on."""
        later = secrets.randbelow(every.apart + 1)
        self._keepalive_interval, self._keepalive_count_max = every.seconds + later, every.count
        self._probed_after = every.probed_after and every.probed_after + later
        self._gone_after = every.gone_after and every.gone_after + later
        if self._transport is not None:
            self._probe_later()

    def _probe_later(self) -> None:
        raw: Any = self._transport.get_extra_info("socket") if self._transport is not None else None
        if self._probed_after and _KEEPIDLE is not None and raw is not None and raw.family in _INTERNET:
            with suppress(OSError):  # the peer is gone; the transport says so in its own way
                raw.setsockopt(socket.IPPROTO_TCP, _KEEPIDLE, self._probed_after)
                if self._gone_after and _USER_TIMEOUT is not None:
                    raw.setsockopt(socket.IPPROTO_TCP, _USER_TIMEOUT, self._gone_after * 1000)

    def _reset_keepalive_timer(self) -> None:
        # asyncssh makes a new timer with every read; here the one that runs looks how long ago the last read was.
        self._heard_at = self._loop.time()
        if self._keepalive_timer is None:
            super()._reset_keepalive_timer()

    def _keepalive_timer_callback(self) -> None:
        left = self._heard_at + self._keepalive_interval - self._loop.time()
        if left > 0:
            self._keepalive_timer = self._loop.call_later(left, self._keepalive_timer_callback)
        else:
            super()._keepalive_timer_callback()

    def _recv_pkthdr(self) -> bool:
        opener = self._recv_encryption
        if not isinstance(opener, Opener):
            if not self._auth_complete or self._decompressor is not None or not isinstance(opener, GCMEncryption):
                return super()._recv_pkthdr() and self._possible()
            opener = self._recv_encryption = Opener(opener)
        taken = self._inpbuf
        at, end = 0, len(taken)
        view = memoryview(taken)
        try:
            while self._transport is not None and end - at >= 4:
                (length,) = _LENGTH.unpack_from(taken, at)
                if not _SHORTEST <= length <= self._max_recv_pktlen:
                    raise ProtocolError(f"a packet cannot be {length} bytes long")
                begin, at_next = at, at + 4 + length + _TAG
                if at_next > end:
                    return False
                plain = opener.open(view[begin:at_next])
                if self._deliver(plain):
                    at = at_next
                    continue
                self._only_windows = False
                # asyncssh's handling expects the first block taken out of the input already
                first = begin + self._recv_blocksize
                self._packet, self._pktlen = taken[begin:first], length
                self._inpbuf = taken[first:]
                opener.hand_over(plain)
                self._recv_handler = self._recv_packet
                return self._recv_packet()
        finally:
            if self._inpbuf is taken:
                self._inpbuf = taken[at:]
        return False

    def _possible(self) -> bool:
        """Refuses a length with which asyncssh would count backwards; too long ones it has refused."""
        if self._pktlen < _LEAST_LENGTH:
            raise ProtocolError(f"a packet cannot be {self._pktlen} bytes long")
        return True

    def _deliver(self, plain: memoryview) -> bool:
        """Gives data or a window adjustment to its channel; False leaves the packet to asyncssh."""
        kind = plain[1]
        if kind != _MSG_CHANNEL_DATA and kind != _MSG_CHANNEL_WINDOW_ADJUST:
            return False
        padding, _, number, amount = _HEAD.unpack_from(plain)
        channel = self._channels.get(number)
        if channel is None or padding < _LEAST_PADDING:
            return False
        size = amount if kind == _MSG_CHANNEL_DATA else 0
        # who has sent its end of data still takes ours
        if channel._recv_state != "open" and (kind == _MSG_CHANNEL_DATA or channel._recv_state not in _STILL_TAKING):
            return False
        if len(plain) != _HEAD.size + size + padding or size > channel._recv_window:
            return False
        if kind == _MSG_CHANNEL_WINDOW_ADJUST and channel._send_window + amount > _WINDOW_END:
            return False
        self._auth_final = True
        self._recv_seq = (self._recv_seq + 1) & 0xFFFFFFFF
        if kind == _MSG_CHANNEL_DATA:
            self._only_windows = False
            channel._accept_data(bytes(plain[_HEAD.size : _HEAD.size + size]))
        else:
            channel._send_window += amount
            if channel._send_window < AMPLE_WINDOW:
                self._only_windows = False
            channel._flush_send_buf()
        return True
