"""Many connections within one: a proxy leads ten thousand hosts to auth, and neither needs a descriptor for each.

What a stream carries is what a connection of its own would: first the line that says who the client is
(`first_bytes`), then TLS between the host and auth. So nothing rests on this framing: whoever could change it on its
way could break connections, as with TCP itself, and no more. `docs/proxy-to-node.md` is the description for other
implementations.

    preface      "TELEPORT-MUX-1" CR LF, from the end that opens streams
    frame        type (1 byte), stream (4, big endian), size (4), body
    OPEN      1  a new stream; numbers grow, none comes twice
    DATA      2  bytes, no more than the other end has granted
    END       3  the sender of this has no more bytes
    RESET     4  the stream is over, both ways
    GRANT     5  so many bytes more (4 bytes, big endian) may be sent; `WINDOW` is granted at first
    LEAVING   6  stream 0: the receiver of this opens no more streams here

Rules it keeps: nothing is held beyond what was granted; a stream that nobody reads stops nobody else; a frame that is
too large, of an unknown type or against these rules ends the whole connection.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Callable
from typing import Final, TypeVar

from teleport.transport import memory_pair

log = logging.getLogger(__name__)

PREFACE: Final = b"TELEPORT-MUX-1\r\n"
OPEN, DATA, END, RESET, GRANT, LEAVING = range(1, 7)
HEAD: Final = struct.Struct(">BII")
COUNT: Final = struct.Struct(">I")
WINDOW: Final = 256 * 1024  # bytes of a stream, each way, that were not granted anew yet
MAX_BODY: Final = 64 * 1024  # bytes of a frame
STREAMS: Final = 60_000  # of one connection at once
LAST: Final = 2**32 - 1
MAX_GRANTED: Final = 1 << 30

P = TypeVar("P", bound=asyncio.Protocol)
Accept = Callable[[asyncio.Transport], None]


class _Broken(Exception):
    """The other end does not keep to the rules."""


class Mux(asyncio.Protocol):
    """Either end. With `accept` it takes streams, else it opens them."""

    def __init__(
        self,
        accept: Accept | None,
        over: Callable[[Mux], None],
        *,
        first: bytes = b"",
        streams: int = STREAMS,
        **accepted: object,
    ) -> None:
        """`accept` gets a stream as a listener gets a connection; `accepted` is what that one says of itself
        (`get_extra_info`). `over` hears of the end. `first` is what comes before the preface."""
        self._accept = accept
        self._over = over
        self._most = streams
        self._accepted = accepted
        self._first = first + PREFACE
        self._transport: asyncio.Transport | None = None
        self._begun = accept is None  # the preface is there
        self._rest = b""  # bytes of a frame, or of the preface
        self._out: list[bytes] = []  # what this turn of the loop has to send
        self._streams: dict[int, _Stream] = {}
        self._number = 0  # of the last stream that was opened
        self._full = False  # the connection takes nothing more for now
        self._held: set[_Stream] = set()  # those that wait for it
        self.leaving = False  # no more streams are to be opened

    @property
    def streams(self) -> int:
        """How many there are."""
        return len(self._streams)

    @property
    def usable(self) -> bool:
        """Whether a stream can be opened."""
        return (
            self._transport is not None
            and not self._transport.is_closing()
            and not self.leaving
            and self._number < LAST
            and len(self._streams) < self._most
        )

    def open(self, make: Callable[[], P]) -> P:
        """Connects the protocol that `make` gives with the other end. When the connection is gone, it learns that as of
        any connection that was reset."""
        assert self._accept is None, "streams are opened from the other end"
        self._number += 1
        stream = _Stream(self, self._number)
        self._streams[self._number] = stream
        self.send(OPEN, self._number)
        made = memory_pair.connect(make, stream.begin)
        if self._transport is None:
            stream.lost()
        return made

    def leave(self) -> None:
        """Asks the other end to open no more streams here; it ends the connection when the last one has ended."""
        if not self.leaving:
            self.leaving = True
            self.send(LEAVING, 0)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self._accept is None:
            transport.write(self._first)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._out.clear()
        streams, self._streams = list(self._streams.values()), {}
        self._held.clear()
        for stream in streams:
            stream.lost()
        self._over(self)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        held, self._held = self._held, set()
        for stream in held:
            stream.go_on()

    def data_received(self, data: bytes) -> None:
        try:
            self._read(data)
        except _Broken as error:
            log.warning("a connection of many ended: %s", error)
            self.abort()

    def _read(self, data: bytes) -> None:
        data, at = self._rest + data if self._rest else data, 0
        if not self._begun:
            if not data.startswith(PREFACE):
                self._rest = data
                if not PREFACE.startswith(data):
                    raise _Broken("it begins as no such connection does")
                return
            self._begun, at = True, len(PREFACE)
        while len(data) - at >= HEAD.size:
            kind, number, size = HEAD.unpack_from(data, at)
            if size > MAX_BODY:
                raise _Broken(f"a frame of {size} bytes")
            end = at + HEAD.size + size
            if end > len(data):
                break
            body, at = data[at + HEAD.size : end], end
            self._frame(kind, number, body)
        self._rest = data[at:]

    def _frame(self, kind: int, number: int, body: bytes) -> None:
        if kind == LEAVING and self._accept is None:
            self.leaving = True
            self._close_if_done()
            return
        if kind == OPEN:
            self._opened(number)
            return
        if not DATA <= kind <= GRANT:
            raise _Broken(f"a frame of type {kind}")
        stream = self._streams.get(number)
        if stream is None:
            # it has ended here, and the other end does not know yet
            if number > self._number:
                raise _Broken(f"there was no stream {number}")
            return
        if kind == DATA:
            stream.came(body)
        elif kind == END:
            stream.came_to_end()
        elif kind == RESET:
            self._streams.pop(number)
            stream.lost()
            self._close_if_done()
        else:
            if len(body) != COUNT.size:
                raise _Broken(f"a grant of {len(body)} bytes")
            stream.granted(COUNT.unpack(body)[0])

    def _opened(self, number: int) -> None:
        if self._accept is None or number <= self._number:
            raise _Broken(f"the stream {number} may not be opened")
        self._number = number
        if len(self._streams) >= self._most:
            self.send(RESET, number)
            return
        stream = _Stream(self, number)
        self._streams[number] = stream
        memory_pair.connect(lambda: stream, self._accept, **self._accepted)

    # for the streams

    def send(self, kind: int, number: int, body: bytes = b"") -> None:
        """In the next turn of the loop: what many streams have to say goes in one piece."""
        if self._transport is None:
            return
        if not self._out:
            asyncio.get_running_loop().call_soon(self._flush)
        self._out += (HEAD.pack(kind, number, len(body)), body)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._transport is not None and out:
            self._transport.write(b"".join(out))

    def must_wait(self, stream: _Stream) -> bool:
        """Whether `stream` is to send no more until it hears `go_on`."""
        if self._full:
            self._held.add(stream)
        return self._full

    def ended(self, stream: _Stream, *, reset: bool) -> None:
        """A stream is over at this end."""
        self._held.discard(stream)
        if self._streams.pop(stream.number, None) is not None:
            if reset:
                self.send(RESET, stream.number)
            self._close_if_done()

    def _close_if_done(self) -> None:
        if self.leaving and self._accept is None and not self._streams and self._transport is not None:
            self._flush()
            self._transport.write_eof()  # and read on: what the other end still says must not break what it reads


class _Stream(asyncio.Protocol):
    """One stream at this end: between the connection and the memory pair whose other end its user has."""

    def __init__(self, mux: Mux, number: int) -> None:
        self._mux = mux
        self.number = number
        self._transport: asyncio.Transport | None = None
        self._unsent = b""
        self._may_send = WINDOW
        self._ends = False  # the user sends no more
        self._said_end = False
        self._may_come = WINDOW
        self._took = 0  # bytes that were not granted anew
        self._slow = False  # the user does not read
        self._all_came = False

    def begin(self, transport: asyncio.Transport) -> None:
        transport.set_protocol(self)
        self.connection_made(transport)

    # the user's end

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._unsent = self._unsent + data if self._unsent else data
        self.go_on()

    def eof_received(self) -> bool:
        self._ends = True
        self.go_on()
        return True

    def pause_writing(self) -> None:
        self._slow = True

    def resume_writing(self) -> None:
        self._slow = False
        self._grant()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._mux.ended(self, reset=not (self._said_end and self._all_came))

    def go_on(self) -> None:
        """Sends what may be sent, and takes more when there is room."""
        if self._transport is None:
            return
        while self._unsent and self._may_send and not self._mux.must_wait(self):
            size = min(len(self._unsent), self._may_send, MAX_BODY)
            self._mux.send(DATA, self.number, self._unsent[:size])
            self._unsent = self._unsent[size:]
            self._may_send -= size
        if self._unsent or self._mux.must_wait(self):
            self._transport.pause_reading()
            return
        self._transport.resume_reading()
        if self._ends and not self._said_end:
            self._said_end = True
            self._mux.send(END, self.number)
            self._close_if_done()

    # the connection

    def granted(self, count: int) -> None:
        if self._may_send + count > MAX_GRANTED:
            raise _Broken(f"more than {MAX_GRANTED} bytes are granted")
        self._may_send += count
        self.go_on()

    def came(self, data: bytes) -> None:
        self._may_come -= len(data)
        if self._may_come < 0 or self._all_came:
            raise _Broken("more bytes than were granted, or after their end")
        if self._transport is not None and data:
            self._took += len(data)
            self._transport.write(data)
            self._grant()

    def came_to_end(self) -> None:
        if not self._all_came:
            self._all_came = True
            if self._transport is not None:
                self._transport.write_eof()
                self._close_if_done()

    def lost(self) -> None:
        """It is over at the other end."""
        self._all_came = self._said_end = True
        if self._transport is not None:
            self._transport.abort()

    def _grant(self) -> None:
        if not self._slow and self._took >= WINDOW // 2 and not self._all_came:
            count, self._took = self._took, 0
            self._may_come += count
            self._mux.send(GRANT, self.number, COUNT.pack(count))

    def _close_if_done(self) -> None:
        if self._said_end and self._all_came and self._transport is not None:
            self._transport.close()
