"""Both ends of a relayed call: the client's connection, read as requests, and one to an API server.

h11 frames bodies anew, so that what one side takes for the end of a message the other does, too; heads are looked
at first (`heads`). Answers in chunks go on as they came, where they can be read in one way only (`chunks`). Nothing is
read ahead of what the other side takes: a writer that is full stops its reader.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

import h11

from teleport.errors import ConnectionProblem
from teleport.kube.chunks import Chunks
from teleport.kube.heads import MAX_HEAD, BadHead, Headers, find_head

READ: Final = 64 * 1024  # bytes at once
_EVENT: Final = MAX_HEAD + READ  # what h11 holds of one head
_INFORMS: Final = re.compile(rb"HTTP/1\.1 1(?!01)[0-9][0-9] ")  # heads after which the answer is still to come


@dataclass(frozen=True, slots=True)
class Request:
    """The head of a request."""

    method: str
    target: str
    headers: Headers
    length: bytes | None  # of the body, empty when none is told; None: it is chunked

    @property
    def has_body(self) -> bool:
        return self.length is None or bool(self.length.lstrip(b"0"))


class _End:
    """What both have in common: bytes in, events out."""

    _http: h11.Connection

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._buffer = b""

    async def _head(self) -> int:
        """Waits until a whole head is in the buffer: of how many bytes, 0 when the connection ends instead. Raises
        `BadHead`."""
        looked = 0
        while not (end := find_head(self._buffer, looked)):
            looked = len(self._buffer)
            data = await self.reader.read(READ)
            if not data:
                return 0
            self._buffer += data
        return end

    def _told(self, end: int) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """What the head in the buffer says, of so many bytes; what follows it stays there. Raises `BadHead`."""
        self._http.receive_data(self._buffer[:end])
        self._buffer = self._buffer[end:]
        try:
            return self._http.next_event()
        except h11.RemoteProtocolError as error:
            raise BadHead(str(error)) from None

    async def body(self) -> AsyncIterator[bytes]:
        """What of the message's body is there, as much at once as came at once: API servers write logs in chunks of a
        line or two, each of which costs as much as a large one. Raises `h11.RemoteProtocolError`."""
        http = self._http
        found: list[bytes] = []
        if self._buffer:
            http.receive_data(self._buffer)
            self._buffer = b""
        while True:
            try:
                event = http.next_event()
            except h11.RemoteProtocolError:
                if found:
                    yield b"".join(found)
                raise
            if isinstance(event, h11.Data):
                found.append(bytes(event.data))
                continue
            if found:
                yield b"".join(found)
                found = []
            if isinstance(event, h11.EndOfMessage):
                return
            elif event is h11.NEED_DATA:
                if http.they_are_waiting_for_100_continue:
                    self._write(h11.InformationalResponse(status_code=100, headers=[]))
                http.receive_data(await self.reader.read(READ))
            else:
                raise h11.RemoteProtocolError("the connection ended within a message")

    async def part(self, data: bytes) -> None:
        self._write(h11.Data(data))
        await self.writer.drain()

    async def end(self) -> None:
        self._write(h11.EndOfMessage())
        await self.writer.drain()

    def _write(self, event: h11.Event) -> None:
        self._send(self._http.send(event) or b"")

    def _send(self, data: bytes) -> None:
        self.writer.write(data)

    def rest(self) -> bytes:
        """What came after the heads by which the connection changed its protocol."""
        return self._http.trailing_data[0] + self._buffer

    def close(self) -> None:
        """Ends the connection at once."""
        self.writer.transport.abort()


class Client(_End):
    """A client's connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(reader, writer)
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_EVENT)
        self.bodiless = False  # the answer has no body, because only its head was asked for
        self.last = False  # the next answer is the last one on this connection
        self._held = b""  # head of an answer, which goes out with the first of its body

    async def request(self) -> Request | None:
        """The next request; None when the client has left. Raises `BadHead`."""
        end = await self._head()
        if not end:
            return None
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_EVENT)
        event = self._told(end)
        if not isinstance(event, h11.Request) or event.http_version != b"1.1":
            raise BadHead("it is not HTTP/1.1")
        length: bytes | None = b""
        for name, value in event.headers:
            if name == b"content-length":
                length = value
            elif name == b"transfer-encoding":
                length = None
        self.bodiless = event.method == b"HEAD"
        return Request(
            event.method.decode("ascii"), event.target.decode("ascii", "replace"), list(event.headers), length
        )

    async def begin(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """The head of the answer. It waits for what follows in the same turn of the loop, and no longer: one record
        and one call of the system less for whoever reads a short answer, and no delay for whoever watches."""
        closing = [(b"Connection", b"close")] if self.last else []
        self._held += self._http.send(h11.Response(status_code=status, headers=[*headers, *closing])) or b""
        asyncio.get_running_loop().call_soon(self._flush)
        await self.writer.drain()

    def _flush(self) -> None:
        if self._held and not self.writer.is_closing():
            self._send(b"")

    def _send(self, data: bytes) -> None:
        held, self._held = self._held, b""
        if held or data:
            self.writer.write(held + data)

    async def chunks(self, data: bytes) -> None:
        """A part of the answer's body, which is chunked, in the frame that it came in."""
        self._send(data)
        await self.writer.drain()

    async def change(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Tells the client that the connection has another protocol from here on."""
        self._write(h11.InformationalResponse(status_code=101, headers=list(headers)))
        await self.writer.drain()

    def next(self) -> bool:
        """Whether another request may follow: both messages ended, and nobody said that it was the last."""
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._buffer = self._http.trailing_data[0] + self._buffer
        return True


class Server(_End):
    """A connection to an API server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(reader, writer)
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_EVENT)
        self.used = False  # for an earlier call
        self.heard = False  # anything, since the call began

    @property
    def stale(self) -> bool:
        """Whether the server has ended it, or said something that nobody asked for."""
        reading = self.reader.read(1)
        try:
            reading.send(None)
        except (StopIteration, OSError):  # something is there, or the end
            return True
        reading.close()
        return bool(self._buffer) or self.writer.is_closing()

    async def ask(self, method: str, target: str, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_EVENT)
        self.heard = False
        self._write(h11.Request(method=method, target=target, headers=list(headers)))
        await self.writer.drain()

    async def answer(self) -> h11.Response | h11.InformationalResponse:
        """The head of the answer, without those that only say that one will come; an `InformationalResponse` is 101,
        after which the protocol begins that was asked for. Raises `ConnectionProblem` when the server ends the
        connection instead, and `BadHead`."""
        while True:
            end = await self._head()
            if not end:
                raise ConnectionProblem("the API server ended the connection", hint="try again")
            self.heard = True
            if not _INFORMS.match(self._buffer):
                break
            self._buffer = self._buffer[end:]
        event = self._told(end)
        if not isinstance(event, h11.Response | h11.InformationalResponse):
            raise BadHead("it answers nothing that was asked")
        if isinstance(event, h11.InformationalResponse) and event.status_code != 101:
            raise BadHead("it says that an answer will come, in another way than HTTP/1.1")
        return event

    async def chunks(self) -> AsyncIterator[bytes]:
        """Of a body in chunks what goes on as it came; `body` has what is left. Raises `h11.RemoteProtocolError`."""
        chunks = Chunks()
        data, self._buffer = self._buffer, b""
        while chunks.rest is None:
            if data and (whole := chunks.feed(data)):
                yield whole
            if chunks.rest is None and not (data := await self.reader.read(READ)):
                raise h11.RemoteProtocolError("the connection ended within a message")
        self._buffer = chunks.rest

    def ended(self) -> bool:
        """Whether the call is over and the connection can take another one."""
        done = self._http.our_state is h11.DONE and self._http.their_state is h11.DONE
        return done and not self._http.trailing_data[0] and not self._buffer
