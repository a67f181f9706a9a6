"""Joins a socket of this host and a channel: a forward's bytes, both ways, as fast as the machine allows.

Rules: nothing is looked into; each direction ends by itself (half-close); a side that does not take its bytes stops the
other side's producer; what is counted is what the other side was given (threat T39). `over` is called once, when the
socket is closed and no byte moves any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable

from teleport.node.backlog import Backlog
from teleport.ssh.handlers import Channel

_READ = 256 * 1024  # bytes
_HIGH_WATER = 1024 * 1024  # bytes waiting for the socket before the client is stopped
_LOW_WATER = 256 * 1024
_REST_SECONDS = 10.0  # for the socket to take what the client sent before it closed the channel


class Relay:
    """One forward (`ssh.handlers.StreamHandler`). It owns the socket, and reads it from the next turn of the loop on:
    by then the channel is open."""

    def __init__(
        self,
        sock: socket.socket,
        channel: Channel,
        *,
        active: Callable[[], None],
        over: Callable[[Relay], None],
        first: bytes = b"",
    ) -> None:
        """`active` is called whenever bytes move; `first` was read from the socket before."""
        self._sock = sock
        self._fd = sock.fileno()
        self._channel = channel
        self._active = active
        self._over = over
        self._first = first
        self._loop = asyncio.get_running_loop()
        self._backlog = Backlog()
        self._due = self._writing = self._reading = self._stopped = False
        self._full = False  # the client does not take more now
        self._local_done = self._client_done = self._deaf = self._channel_gone = False
        self._rest: asyncio.TimerHandle | None = None
        self.sent = 0  # bytes to the client
        self.why = ""  # it was ended, when neither side did it
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._loop.call_soon(self._begin)

    @property
    def open(self) -> bool:
        return self._fd >= 0

    # from the socket

    def _begin(self) -> None:
        if self.open and self._first:
            self.sent += len(self._first)
            self._channel.write(self._first)
            self._first = b""
        self._read_on()

    def _read_on(self) -> None:
        wanted = self.open and not (self._full or self._local_done or self._channel_gone)
        if wanted and not self._reading:
            self._reading = True
            self._loop.add_reader(self._fd, self._readable)
        elif not wanted and self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, _READ)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # reset by the other side: it takes nothing either
            self._deaf = True
            data = b""
        if data:
            self._active()
            self.sent += len(data)
            self._channel.write(data)
            return
        self._local_done = True
        self._read_on()
        self._channel.write_eof()
        self._close_when_done()

    # from the client

    def data_received(self, data: bytes) -> None:
        if self._deaf or not self.open:
            return
        self._active()
        self._backlog.push(data)
        if not self._due and not self._writing:
            self._due = True
            self._loop.call_soon(self._flush)
        if self._backlog.size > _HIGH_WATER and not self._stopped:
            self._stopped = True
            self._channel.pause_reading()

    def eof_received(self) -> None:
        self._client_done = True
        self._settle()

    @property
    def received(self) -> int:
        """Bytes from the client that the socket took."""
        return self._backlog.written

    def pause_writing(self) -> None:
        self._full = True
        self._read_on()

    def resume_writing(self) -> None:
        self._full = False
        self._read_on()

    def closed(self) -> None:
        """The channel is gone; the socket still gets what came before that."""
        if self._channel_gone:
            return
        self._channel_gone = self._client_done = True
        self._read_on()
        if self.open and self._backlog:
            self._rest = self._loop.call_later(_REST_SECONDS, self._shut)
        else:
            self._shut()

    def _flush(self) -> None:
        self._due = False
        if not self.open:
            return
        try:
            self._backlog.write_to(self._fd)
        except (BlockingIOError, InterruptedError):
            if not self._writing:
                self._writing = True
                self._loop.add_writer(self._fd, self._flush)
        except OSError:  # it takes no more; what it still sends is read
            self._deaf = True
            self._backlog.clear()
        self._settle()

    def _settle(self) -> None:
        """What follows from how much is left to be written."""
        if not self.open:
            return
        if not self._backlog and self._writing:
            self._writing = False
            self._loop.remove_writer(self._fd)
        if self._stopped and self._backlog.size <= _LOW_WATER:
            self._stopped = False
            self._channel.resume_reading()
        if self._client_done and not self._backlog:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)
            if self._channel_gone:
                self._shut()
            else:
                self._close_when_done()

    # the end

    def _close_when_done(self) -> None:
        if self._local_done and (self._deaf or (self._client_done and not self._backlog)):
            self._channel.close()
            self._shut()

    def end(self, why: str) -> None:
        """Ends it now: what was not sent is dropped."""
        if self.open:
            self.why = why
        self._channel.abort()
        self._shut()

    def _shut(self) -> None:
        if not self.open:
            return
        if self._rest is not None:
            self._rest.cancel()
        for watched, unwatch in ((self._reading, self._loop.remove_reader), (self._writing, self._loop.remove_writer)):
            if watched:
                unwatch(self._fd)
        self._reading = self._writing = False
        self._backlog.clear()
        self._fd = -1
        self._sock.close()
        self._over(self)
