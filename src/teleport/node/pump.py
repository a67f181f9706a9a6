"""Moves bytes between a session's descriptors and callbacks, with back-pressure both ways.

The descriptors are non-blocking pipe ends or terminal masters, owned and closed here. Reads are as large as the kernel
gives; what arrives from the client in one turn of the loop leaves in one `writev`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Callable

from teleport.node.backlog import Backlog

_READ = 256 * 1024  # bytes
_PIPE = 1024 * 1024  # bytes a pipe may hold: fewer wake-ups of both sides; the kernel's limit for ordinary users
_INPUT_HIGH_WATER = 1024 * 1024  # bytes waiting for the process before the client is stopped
_INPUT_LOW_WATER = 256 * 1024


def _widen(fd: int) -> None:
    with contextlib.suppress(OSError):  # a terminal, or the host's limit on pipes is lower
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE)


class Output:
    """Reads a descriptor into `deliver` until its end, then calls `ended`."""

    def __init__(self, fd: int, deliver: Callable[[bytes], None], ended: Callable[[], None]) -> None:
        _widen(fd)
        self._fd = fd
        self._deliver = deliver
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._reading = False
        self.delivered = 0  # bytes

    @property
    def open(self) -> bool:
        """Whether more may come."""
        return self._fd >= 0

    def resume(self) -> None:
        """Reads on (or begins to)."""
        if self.open and not self._reading:
            self._reading = True
            self._loop.add_reader(self._fd, self._readable)

    def pause(self) -> None:
        """Delivers nothing until `resume`."""
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, _READ)
        except BlockingIOError:
            return
        except OSError:  # EIO: the terminal's other side is closed
            data = b""
        if data:
            self.delivered += len(data)
            self._deliver(data)
        else:
            self.close()
            self._ended()

    def close(self) -> None:
        """Reads no more and closes the descriptor."""
        self.pause()
        if self.open:
            os.close(self._fd)
            self._fd = -1


class Input:
    """Writes to a descriptor what it takes, and keeps the rest in memory, up to a bound that stops the client."""

    def __init__(self, fd: int, stop: Callable[[], None], go_on: Callable[[], None]) -> None:
        _widen(fd)
        self._fd = fd
        self._stop = stop
        self._go_on = go_on
        self._loop = asyncio.get_running_loop()
        self._backlog = Backlog()
        self._stopped = False
        self._writing = False
        self._due = False
        self._end_asked = False

    @classmethod
    def duplicate(cls, fd: int, stop: Callable[[], None], go_on: Callable[[], None]) -> Input:
        """Writes to a duplicate of `fd`, which stays its owner's."""
        return cls(os.dup(fd), stop, go_on)

    def write(self, data: bytes) -> None:
        """Takes `data`; dropped when the process no longer reads."""
        if self._fd < 0 or self._end_asked:
            return
        self._backlog.push(data)
        if not self._due and not self._writing:
            self._due = True
            self._loop.call_soon(self._flush)
        if self._backlog.size > _INPUT_HIGH_WATER and not self._stopped:
            self._stopped = True
            self._stop()

    def end(self) -> None:
        """Closes the descriptor once everything has been written."""
        self._end_asked = True
        if not self._backlog:
            self.close()

    def drop(self) -> None:
        """Forgets what the process has not taken yet."""
        self._backlog.clear()
        self._flush()

    def _flush(self) -> None:
        self._due = False
        if self._fd < 0:
            return
        try:
            self._backlog.write_to(self._fd)
        except BlockingIOError:
            if not self._writing:
                self._writing = True
                self._loop.add_writer(self._fd, self._flush)
        except OSError:  # EPIPE, EIO: nobody reads any more; the process's end is seen elsewhere
            self.close()
            return
        if not self._backlog and self._writing:
            self._writing = False
            self._loop.remove_writer(self._fd)
        if self._stopped and self._backlog.size <= _INPUT_LOW_WATER:
            self._stopped = False
            self._go_on()
        if self._end_asked and not self._backlog:
            self.close()

    def close(self) -> None:
        """Drops what was not written and closes the descriptor."""
        self._backlog.clear()
        if self._fd < 0:
            return
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._fd)
        os.close(self._fd)
        self._fd = -1
        if self._stopped:
            self._stopped = False
            self._go_on()
