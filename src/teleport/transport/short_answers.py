"""A small HTTP/1.1 server (RFC 9112, by h11) for questions without a body whose answers are short texts.

What a node serves for diagnostics needs no framework, which would cost each of them more than a megabyte. A connection
has `SECONDS` for the head of each request, whose size is bounded, and those that have not asked for anything are
bounded in number, the oldest giving way (threats T17, T19).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import h11

from teleport.resources.names import peer_address
from teleport.transport.accepting import Accepting
from teleport.transport.slots import Slot, Slots

SECONDS: Final = 15.0  # for the head of a request, from the connection or the answer before
SILENT: Final = 100  # connections without a request at once
MAX_HEAD: Final = 8 * 1024  # bytes
MAX_BODY: Final = 64 * 1024  # bytes of what nobody reads


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back."""

    status: int
    body: bytes
    content_type: str = "application/json; charset=utf-8"


NOT_FOUND: Final = Answer(404, b"404: Not Found", "text/plain; charset=utf-8")
NOT_ALLOWED: Final = Answer(405, b"405: Method Not Allowed", "text/plain; charset=utf-8")
NOT_UNDERSTOOD: Final = Answer(400, b"400: Bad Request", "text/plain; charset=utf-8")
TOO_LARGE: Final = Answer(413, b"413: Content Too Large", "text/plain; charset=utf-8")

Answerer = Callable[[str], Answer | None]


class ShortAnswers:
    """Answers GET and HEAD by path; `answer` gives None for a path that there is not."""

    def __init__(self, answer: Answerer, what: str, *, silent: int = SILENT, seconds: float = SECONDS) -> None:
        """`what` names the listener in the log; the bounds are those of the module."""
        self.answer = answer
        self.seconds = seconds
        self.slots = Slots(silent, what)
        self.connections: set[_Connection] = set()
        self._listener: socket.socket | None = None
        self._accepting: Accepting | None = None

    @property
    def open(self) -> int:
        """How many connections there are."""
        return len(self.connections)

    def pause(self) -> None:
        """Accepts nothing more. Connections stay, and so does the socket: what arrives waits, or goes elsewhere."""
        if self._accepting is not None:
            self._accepting.stop()
            self._accepting = None

    async def resume(self) -> None:
        """Accepts (again)."""
        if self._accepting is None and self._listener is not None:
            self._accepting = Accepting(self._listener, lambda: _Connection(self))

    @asynccontextmanager
    async def serve(self, listener: socket.socket) -> AsyncIterator[None]:
        """Takes connections while entered; ends those that are open."""
        self._listener = listener
        await self.resume()
        try:
            yield
        finally:
            self.pause()
            self._listener = None
            for connection in list(self.connections):
                connection.end()


class _Connection(asyncio.Protocol):
    def __init__(self, server: ShortAnswers) -> None:
        self._server = server
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._request: h11.Request | None = None
        self._body = 0  # bytes of it so far
        self._full = False  # the client does not take what it is sent

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        address, _ = peer_address(transport.get_extra_info("peername"))
        self._slot: Slot = self._server.slots.take(address, transport.abort)
        self._server.connections.add(self)
        self._wait()

    def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._server.seconds, self._transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self._slot.over()
        self._server.connections.discard(self)

    def end(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._transport.is_closing():
            return
        self._http.receive_data(data)
        self._go_on()

    def pause_writing(self) -> None:
        self._full = True
        self._transport.pause_reading()  # until then `SECONDS` run, as they do for a request that does not come

    def resume_writing(self) -> None:
        self._full = False
        if not self._transport.is_closing():
            self._transport.resume_reading()
            self._go_on()

    def _go_on(self) -> None:
        try:
            self._answer_all()
        except h11.RemoteProtocolError:
            self._refuse(NOT_UNDERSTOOD)

    def _answer_all(self) -> None:
        while not self._full and not self._transport.is_closing():
            match self._http.next_event():
                case h11.Request() as request:
                    self._slot.released()
                    self._request, self._body = request, 0
                case h11.Data() as part:
                    self._body += len(part.data)
                    if self._body > MAX_BODY:
                        self._refuse(TOO_LARGE)
                case h11.EndOfMessage():
                    assert self._request is not None
                    self._send(self._answer(self._request))
                case h11.ConnectionClosed():
                    self._transport.close()
                case _:
                    return

    def _answer(self, request: h11.Request) -> Answer:
        if request.method not in (b"GET", b"HEAD"):
            return NOT_ALLOWED
        return self._server.answer(request.target.partition(b"?")[0].decode("ascii", "replace")) or NOT_FOUND

    def _refuse(self, answer: Answer) -> None:
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._write(answer, close=True)
        self._transport.close()

    def _send(self, answer: Answer) -> None:
        self._write(answer, close=False)
        if self._http.our_state is h11.MUST_CLOSE:
            self._transport.close()
            return
        self._http.start_next_cycle()
        self._timer.cancel()
        self._wait()

    def _write(self, answer: Answer, *, close: bool) -> None:
        headers = [("Content-Type", answer.content_type), ("Content-Length", str(len(answer.body)))]
        if close:
            headers.append(("Connection", "close"))
        head = self._request is not None and self._request.method == b"HEAD"
        body = [] if head else [h11.Data(answer.body)]
        parts = (h11.Response(status_code=answer.status, headers=headers), *body, h11.EndOfMessage())
        self._transport.write(b"".join(self._http.send(part) or b"" for part in parts))
