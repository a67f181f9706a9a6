"""The websocket of one terminal: messages in, messages out, within their bounds."""

from __future__ import annotations

import asyncio
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import WSMsgType, web

from teleport.wire import web_terminal as wt
from teleport.wire.web_terminal import End, Kind

PING: Final = 15.0  # seconds between pings; a page that does not answer one within half of that is gone
CLOSING: Final = 1.5  # seconds for the other end to close, too
HELLO: Final = 10.0  # seconds for the first message to come
HARD_LIMIT: Final = 2 * wt.MAX_MESSAGE  # bytes of a message that are read, to say that it is too large
_REASON: Final = 120  # bytes of a close reason
T = TypeVar("T")


class Gone(Exception):
    """The page is gone."""


class Closing(Exception):
    """The socket is to be closed, for this reason."""

    def __init__(self, code: End, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class TerminalSocket:
    """Reads and writes envelopes. One task reads, and any may write."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self.response = web.WebSocketResponse(max_msg_size=HARD_LIMIT, compress=False, heartbeat=PING, timeout=CLOSING)

    async def prepare(self, request: web.Request) -> None:
        """Answers the request: the socket is open."""
        self._transport = request.transport
        await self.response.prepare(request)

    async def receive(self, seconds: float | None = None) -> tuple[Kind | None, bytes]:
        """The next message. Raises `Gone`, `BadMessage`, and `Closing` when none comes in time."""
        try:
            message = await self.response.receive(timeout=seconds)
        except TimeoutError:
            raise Closing(End.LATE, "nothing came in time") from None
        if message.type is WSMsgType.BINARY:
            if len(message.data) > wt.MAX_MESSAGE:
                raise Closing(End.TOO_LARGE, f"a message has at most {wt.MAX_MESSAGE} bytes")
            return wt.decode(message.data)
        if message.type is WSMsgType.TEXT:
            raise wt.BadMessage("messages are binary")
        raise Gone

    async def expect(self, kind: Kind, form: type[T], seconds: float) -> T:
        """The next message, which has to be this one. Messages of other types that may come at any time are passed
        over. Raises as `receive` does."""
        until = asyncio.get_running_loop().time() + seconds
        while True:
            found, payload = await self.receive(max(until - asyncio.get_running_loop().time(), 0.001))
            if found is kind:
                return wt.read(payload, form)
            if found is Kind.QUIT:
                raise Gone
            if kind is Kind.HELLO or found is Kind.RAW:
                raise wt.BadMessage("a message came out of turn")

    async def send(self, kind: Kind, payload: msgspec.Struct | dict[str, Any]) -> None:
        """Raises `Gone`."""
        await self._send(wt.encode_json(kind, payload))

    async def output(self, data: bytes) -> None:
        """Bytes of the terminal. Raises `Gone`."""
        await self._send(wt.encode(Kind.RAW, data))

    async def _send(self, envelope: bytes) -> None:
        try:
            await self.response.send_bytes(envelope)
        except (ConnectionError, RuntimeError) as error:  # aiohttp raises the latter on a socket that is closing
            raise Gone from error

    async def close(self, code: End, reason: str = "") -> None:
        """Closes it; does not wait for long, also for who reads nothing."""
        told = reason.encode()[:_REASON].decode("utf-8", "ignore").encode()
        try:
            async with asyncio.timeout(CLOSING):
                await self.response.close(code=code, message=told)
        except TimeoutError:
            if self._transport is not None:
                self._transport.abort()
