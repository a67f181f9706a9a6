"""A connection between two protocols of one process: asyncio transports without a socket between them.

Where a proxy and the node that it leads to are one daemon, every byte of a session would cross the kernel twice more
for nothing. What holds for a TCP connection holds here: bytes arrive in order and in full before the end does, in a
later turn of the loop than they were written in; each direction ends by itself; who writes faster than the other reads
is told to stop; what is written to an end that was closed resets the connection.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeVar

from teleport.transport.feeding import feed

P = TypeVar("P", bound=asyncio.Protocol)

HIGH_WATER: Final = 64 * 1024  # bytes that the other has not taken, at which a writer is told to stop
AT_ONCE: Final = 256 * 1024  # bytes delivered in one turn of the loop, as a read of asyncio's sockets takes


def connect(make: Callable[[], P], accept: Callable[[asyncio.Transport], None], **accepted: object) -> P:
    """Connects the protocol that `make` gives with `accept`, which gets the other end as a listener would.

    `accepted` is what the other end says about itself (`get_extra_info`). When `accept` will not have it, the protocol
    learns that as of any connection that was reset. To be called in a running loop.
    """
    near, far = _End({}), _End(accepted)
    near.other, far.other = far, near
    accept(far)
    protocol = make()
    near.set_protocol(protocol)
    protocol.connection_made(near)
    return protocol


class _End(asyncio.Transport):
    other: _End

    def __init__(self, extra: dict[str, Any]) -> None:
        super().__init__(extra)
        self._loop = asyncio.get_running_loop()
        self._protocol: asyncio.BaseProtocol | None = None
        # towards this end
        self._inbox: deque[bytes] = deque()
        self._unread = 0  # bytes in it
        self._reading = True
        self._due = False  # a delivery in the next turn of the loop
        self._ends = False  # the other sends no more
        self._end_told = False
        # from this end
        self._high, self._low = HIGH_WATER, HIGH_WATER // 4
        self._stopped = False  # the protocol was told to stop writing
        self._said_end = False
        self._closing = False

    # what the protocol asks

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self._protocol is not None, "whoever takes an end gives it a protocol"
        return self._protocol

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return self._reading and not self._closing

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        if not self._reading:
            self._reading = True
            self._deliver_soon()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = high if high is not None else (4 * low if low is not None else HIGH_WATER)
        self._low = low if low is not None else self._high // 4
        if not 0 <= self._low <= self._high:
            raise ValueError(f"high ({self._high}) must not be below low ({self._low}), nor low below 0")
        self._stop_or_go()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def get_write_buffer_size(self) -> int:
        return self.other._unread

    def can_write_eof(self) -> bool:
        return True

    def write(self, data: Any) -> None:
        if self._said_end:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self._closing or not data:
            return
        other = self.other
        if other._closing:
            self._lose(ConnectionResetError("the other end is closed"))
            return
        other._inbox.append(data if type(data) is bytes else bytes(data))
        other._unread += len(data)
        other._deliver_soon()
        self._stop_or_go()

    def write_eof(self) -> None:
        if not self._said_end and not self._closing:
            self._said_end = True
            self.other._end()

    def close(self) -> None:
        """What was written still arrives; what was not read yet is dropped."""
        if not self._closing:
            self.other._end()
            self._lose(None)

    def abort(self) -> None:
        if not self._closing:
            self._lose(None)
            self.other._drop()
            self.other._lose(ConnectionResetError("the other end was aborted"))

    def _force_close(self, error: BaseException | None) -> None:
        """As asyncio's own transports; its TLS ends them so."""
        self.abort()

    # what comes from the other end

    def _end(self) -> None:
        self._ends = True
        self._deliver_soon()

    def _drop(self) -> None:
        self._inbox.clear()
        self._unread = 0

    def _deliver_soon(self) -> None:
        if not self._due and self._reading and not self._closing and (self._inbox or self._ends):
            self._due = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._due = False
        if not self._reading or self._closing:
            return
        protocol = self.get_protocol()
        assert isinstance(protocol, asyncio.Protocol | asyncio.BufferedProtocol), "a protocol of streams"
        try:
            if self._inbox:
                feed(protocol, self._taken())
                if not self._closing:
                    self.other._stop_or_go()
            elif self._ends and not self._end_told:
                self._end_told = True
                if not protocol.eof_received():
                    self.close()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._failed("a protocol failed over what it received", error)
            return
        if self._inbox or not self._end_told:
            self._deliver_soon()

    def _taken(self) -> bytes:
        """What one turn delivers: as many of the pieces as fit in."""
        first = self._inbox.popleft()
        pieces, size = [first], len(first)
        while self._inbox and size + len(self._inbox[0]) <= AT_ONCE:
            pieces.append(self._inbox.popleft())
            size += len(pieces[-1])
        self._unread -= size
        return first if len(pieces) == 1 else b"".join(pieces)

    # both

    def _stop_or_go(self) -> None:
        """Tells the writing protocol how much the other end holds of what it wrote, if that makes a difference."""
        if self._closing or self._protocol is None:
            return
        held = self.other._unread
        try:
            if not self._stopped and held > self._high:
                self._stopped = True
                self._protocol.pause_writing()
            elif self._stopped and held <= self._low:
                self._stopped = False
                self._protocol.resume_writing()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._failed("a protocol failed to stop or to go on", error)

    def _failed(self, what: str, error: BaseException) -> None:
        self._loop.call_exception_handler(
            {"message": what, "exception": error, "transport": self, "protocol": self._protocol}
        )
        self.abort()

    def _lose(self, error: Exception | None) -> None:
        if self._closing:
            return
        self._closing = True
        self._drop()
        self._loop.call_soon(self._lost, error)
        self.other._stop_or_go()

    def _lost(self, error: Exception | None) -> None:
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.connection_lost(error)
