"""The auth API as services call it: asyncio, one pool of connections, several auth servers in turn."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, Protocol, TypeVar

import aiohttp
import msgspec

from teleport import spans
from teleport.api.codec import MAX_BODY, decode_error, decode_reply, encode_call
from teleport.api.messages import Answer, HeartbeatRequest, Message, Request, WatchLine, WatchRequest
from teleport.api.routes import HEARTBEAT, WATCH, Route
from teleport.errors import ConnectionProblem
from teleport.spans import Kind, span
from teleport.transport.blocking import AGAIN, shown_address
from teleport.transport.problems import said
from teleport.transport.whole_answers import whole

Req = TypeVar("Req", bound=Request)
Rep = TypeVar("Rep", bound=Message)

CALL_TIMEOUT = 30.0  # seconds for one call
CONNECT = 10.0  # seconds for a connection, and before it for a way
WATCH_SILENCE = 60.0  # seconds without a line after which a watch counts as dead, unless auth said how long it may take
WATCH_SILENCE_MOST = 285.0  # ... of which we believe so much
WATCH_SILENCE_LATE = 20.0  # seconds by which a line may be later than auth said, and ...
WATCH_SILENCE_PART = 10  # ... by this part of the time, if that is more
MOST_LATE = 2  # answers within a watch that nobody waits for any more, until nothing more is said there
WATCH_AGAIN = 5.0  # seconds in which a watch that broke is waited for by what is said within it


class _Connections:
    """The connections of one generation of certificates, and how many calls and streams use them."""

    def __init__(self, connector: aiohttp.BaseConnector) -> None:
        self.session = aiohttp.ClientSession(connector=whole(connector), auto_decompress=False)
        self.used = 0
        self.retired = asyncio.Event()

    async def left(self) -> None:
        """One use is over; the last one of what is retired closes the connections."""
        self.used -= 1
        if self.retired.is_set() and not self.used:
            await self.session.close()


class _WatchEnded(ConnectionProblem):
    """What was said in the watch was perhaps not heard."""


class _Spoken:
    """What is said within a watch, one thing at a time, and what is answered: in this order, so that an answer which
    nobody waits for any more is told from the next one. An auth server that is behind is not asked by a new connection
    as well."""

    def __init__(self) -> None:
        self._lines: asyncio.Queue[bytes] = asyncio.Queue()
        self._turn = asyncio.Lock()
        self._answer: asyncio.Future[Answer] | None = None
        self._late = 0  # answers for nobody that are still to come
        self.over = False

    async def lines(self) -> AsyncIterator[bytes]:
        """The body of the watch's request; its head is sent with the first piece."""
        yield b"\n"
        while line := await self._lines.get():
            yield line

    async def ask(self, line: bytes) -> Answer:
        async with self._turn:
            if self.over:
                raise _WatchEnded("the watch has ended", hint=AGAIN)
            if self._late >= MOST_LATE:
                raise ConnectionProblem("auth does not answer within the watch", hint=AGAIN)
            self._answer = asyncio.get_running_loop().create_future()
            self._lines.put_nowait(line + b"\n")
            try:
                async with asyncio.timeout(CALL_TIMEOUT):
                    return await self._answer
            except TimeoutError:
                raise ConnectionProblem("auth does not answer within the watch", hint=AGAIN) from None
            finally:
                if not self._answer.done() or self._answer.cancelled():
                    self._late += 1
                self._answer = None

    def answered(self, answer: Answer) -> None:
        if self._late:
            self._late -= 1
        elif self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)

    def end(self) -> None:
        self.over = True
        self._lines.put_nowait(b"")
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(_WatchEnded("the watch ended", hint=AGAIN))


class Turn(Protocol):
    """Who says that others come first (`tunnel.turn`)."""

    @property
    def waiting(self) -> bool:
        """Whether they do."""
        ...

    async def wait(self) -> None:
        """Until they do not."""
        ...


class AuthClient:
    """Calls auth with a host's certificate.

    `addresses` are tried in order, the one that answered last first, one that did not answer last. `context` is asked
    for at each new connection. Connections are kept, so that `renewed` has to be told when it would give another one.
    """

    way: Callable[[float], Awaitable[bool]] | None = None
    """Waits up to so many seconds for a way to auth that comes and goes; whether there is one. A handshake that nobody
    carries costs both ends as much as one that is answered."""

    turn: Turn | None = None
    """When auth may be asked for what can wait."""

    def __init__(
        self,
        addresses: Sequence[tuple[str, int]],
        context: Callable[[], ssl.SSLContext],
        server_name: str,
        *,
        connector: Callable[[], aiohttp.BaseConnector] = lambda: aiohttp.TCPConnector(
            limit=0, ttl_dns_cache=30, keepalive_timeout=30
        ),
        most: int = MAX_BODY,
    ) -> None:
        """`connector` makes what connects, for each generation of certificates anew. `most`: bytes of an answer."""
        self._most = most
        self._connector = connector
        self._addresses = list(addresses)
        self._context = context
        self._server_name = server_name
        self._connections: _Connections | None = None
        self._retired: set[_Connections] = set()
        self._spoken: _Spoken | None = None  # of the watch that is open
        self._watching: asyncio.Event | None = None  # set while one is asked for or open; None before the first one
        self._opening: asyncio.Future[None] | None = None  # of the one that is asked for: done when it is open or over

    async def __aenter__(self) -> AuthClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        found, self._connections = self._connections, None
        for one in (*self._retired, *([found] if found is not None else [])):
            await one.session.close()
        self._retired.clear()

    async def renewed(self) -> None:
        """Certificates or trust have changed: nothing new runs on the connections that there are.

        Calls under way come to their end, watches begin anew at once, and then those connections are closed.
        """
        found, self._connections = self._connections, None
        if found is None:
            return
        found.retired.set()
        if found.used:
            self._retired = {one for one in self._retired if one.used} | {found}
        else:
            await found.session.close()

    def _present(self) -> _Connections:
        if self._connections is None:
            self._connections = _Connections(self._connector())
        return self._connections

    @asynccontextmanager
    async def _request(
        self, method: str, target: str, body: bytes | AsyncIterator[bytes], timeout: float, *, streamed: bool
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        if self.way is not None and not await self.way(CONNECT):
            raise ConnectionProblem("there is no way to auth yet: no proxy holds a tunnel of this host", hint=AGAIN)
        connections = self._present()
        connections.used += 1
        try:
            async with await self._answer(connections, method, target, body, timeout, streamed=streamed) as response:
                yield response
        finally:
            await connections.left()

    async def _answer(
        self,
        connections: _Connections,
        method: str,
        target: str,
        body: bytes | AsyncIterator[bytes],
        timeout: float,
        *,
        streamed: bool,
    ) -> aiohttp.ClientResponse:
        problem = "no address is known"
        headers = {"Content-Type": "application/json"} if isinstance(body, bytes) and body else {}
        if traced := spans.header():
            headers["traceparent"] = traced
        limits = aiohttp.ClientTimeout(total=None if streamed else timeout, sock_connect=CONNECT, sock_read=timeout)
        for position, address in enumerate(list(self._addresses)):
            shown = shown_address(*address)
            try:
                response = await connections.session.request(
                    method,
                    # the target is encoded already
                    _url(f"https://{shown}{target}"),
                    data=body or None,
                    ssl=self._context(),
                    server_hostname=self._server_name,
                    timeout=limits,
                    headers=headers or None,
                    allow_redirects=False,
                )
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
                problem = said(error)
                continue
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                problem = said(error)
                if method == "GET":  # what changes something may have been done: it is not asked for twice
                    continue
                self._move(address, last=True)  # it may be frozen, or its machine gone without a word
                raise ConnectionProblem(f"the auth server at {shown} did not answer: {problem}", hint=AGAIN) from None
            if position:
                self._move(address, last=False)
            return response
        names = ", ".join(shown_address(*address) for address in self._addresses)
        raise ConnectionProblem(
            f"no auth server answers at {names}: {problem}", hint="check auth_servers and that the auth service runs"
        )

    def _move(self, address: tuple[str, int], *, last: bool) -> None:
        """Other calls may have moved it meanwhile."""
        self._addresses.remove(address)
        self._addresses.insert(len(self._addresses) if last else 0, address)

    async def call(self, route: Route[Req, Rep], request: Req, *, timeout: float = CALL_TIMEOUT) -> Rep:
        """One call and its answer; raises the error that auth answers with, or `ConnectionProblem`."""
        call = encode_call(route, request)
        with span("api.call", Kind.CLIENT, begins=False) as calling:
            calling.set("http.request.method", route.method)
            calling.set("http.route", route.path)
            async with self._request(call.method, call.target, call.body, timeout, streamed=False) as response:
                calling.set("http.response.status_code", response.status)
                return decode_reply(route, response.status, await _body(response, self._most))

    async def upload(
        self, route: Route[Req, Rep], request: Req, body: AsyncIterator[bytes], *, timeout: float = CALL_TIMEOUT
    ) -> Rep:
        """A call whose body is a stream of bytes; `timeout` bounds each silence, not the whole."""
        call = encode_call(route, request)
        async with self._request(call.method, call.target, body, timeout, streamed=True) as response:
            return decode_reply(route, response.status, await _body(response, self._most))

    @property
    def hears(self) -> bool:
        """Whether a watch is open."""
        return self._spoken is not None

    async def its_turn(self) -> None:
        """Until there is somebody to hear an announcement: in a watch at once; else when it may ask for one."""
        if self.turn is not None and not self.hears:
            await self.turn.wait()

    async def announce(self, request: HeartbeatRequest) -> float:
        """Said within the watch where there is one, which costs no connection; else by a call. One that broke is about
        to be asked for again, and is waited for a moment; one that is asked for, until it is open or refused: an auth
        server that is behind would be more so by another handshake. Returns the seconds after which to say it again.
        """
        if self._watching is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(WATCH_AGAIN):
                    await self._watching.wait()
            if self._opening is not None and not self._opening.done():
                await asyncio.wait([self._opening], timeout=CALL_TIMEOUT)
        spoken = self._spoken
        if spoken is not None:
            with suppress(_WatchEnded):  # to be announced twice is the same as once
                answer = await spoken.ask(encode_call(HEARTBEAT, request).body)
                return decode_reply(HEARTBEAT, answer.status, bytes(answer.body)).within
            if self.turn is not None and self.turn.waiting:  # thousands were cut off, and what is said may change
                raise ConnectionProblem("the watch ended, and it is not this host's turn to ask auth", hint=AGAIN)
        return (await self.call(HEARTBEAT, request)).within

    async def download(
        self,
        route: Route[Req, Any],
        request: Req,
        *,
        timeout: float = CALL_TIMEOUT,
        spoken: AsyncIterator[bytes] | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """The bytes of a streamed answer; `spoken` is what is said meanwhile."""
        call = encode_call(route, request)
        async with self._request(call.method, call.target, spoken or call.body, timeout, streamed=True) as response:
            if response.status != 200:
                raise decode_error(response.status, await _body(response, self._most))
            try:
                async for chunk in response.content.iter_any():
                    yield chunk
            except (aiohttp.ClientError, asyncio.IncompleteReadError, TimeoutError, OSError) as error:
                raise ConnectionProblem(f"{route.name}: the stream broke off: {said(error)}", hint=AGAIN) from None

    async def watch(self, request: WatchRequest) -> AsyncGenerator[WatchLine, None]:
        """The lines of a watch, until it breaks (`ConnectionProblem`). After `renewed` a snapshot comes again."""
        request = msgspec.structs.replace(request, patient=True)
        while True:
            retired = self._present().retired
            begun: list[bytes] = []  # of a line whose end has not come; a snapshot is one long line
            spoken = _Spoken()
            opening = self._asked_for()
            silence = _Silence()
            stream = self.download(WATCH, request, timeout=WATCH_SILENCE_MOST, spoken=spoken.lines())
            try:
                async with aclosing(stream), aclosing(_until(stream, retired, silence)) as chunks:
                    async for chunk in chunks:
                        *lines, rest = chunk.split(b"\n")
                        for line in lines:
                            begun.append(line)
                            told = _watch_line(b"".join(begun))
                            begun.clear()
                            if told.answer is not None:
                                spoken.answered(told.answer)
                                if not told.within:
                                    continue
                            silence.heard(told)
                            self._spoken = spoken
                            if not opening.done():
                                opening.set_result(None)
                            yield told
                        if rest:
                            begun.append(rest)
                            silence.broken()
            finally:
                spoken.end()
                self._over(opening, spoken)
            if not retired.is_set():
                break
        raise ConnectionProblem("watch: auth ended the stream", hint=AGAIN)

    def _asked_for(self) -> asyncio.Future[None]:
        """A watch is asked for, within which things may be said once it is open."""
        self._opening = asyncio.get_running_loop().create_future()
        self._watching = self._watching or asyncio.Event()
        self._watching.set()
        return self._opening

    def _over(self, opening: asyncio.Future[None], spoken: _Spoken) -> None:
        """That watch has ended, open or not."""
        if not opening.done():
            opening.set_result(None)
        if self._spoken is spoken:
            self._spoken = None
        if self._opening is opening and self._watching is not None:
            self._watching.clear()


class _Silence:
    """For how long a watch may say nothing."""

    def __init__(self) -> None:
        self.seconds = WATCH_SILENCE
        self.broken()

    @property
    def left(self) -> float:
        """Seconds from now on. Never none: whoever was busy meanwhile has not looked at what has come."""
        return max(self._until - time.monotonic(), min(self.seconds, 1.0))

    def broken(self) -> None:
        """Something was said that is more than an answer."""
        self._until = time.monotonic() + self.seconds

    def heard(self, line: WatchLine) -> None:
        if line.within:
            late = max(line.within / WATCH_SILENCE_PART, WATCH_SILENCE_LATE)
            self.seconds = min(max(line.within + late, WATCH_SILENCE), WATCH_SILENCE_MOST)
        self.broken()


async def _until(
    chunks: AsyncGenerator[bytes, None], ended: asyncio.Event, silence: _Silence
) -> AsyncGenerator[bytes, None]:
    """The chunks until there are no more, or `ended` is set. Raises `ConnectionProblem` when there is none for long."""
    ending = asyncio.ensure_future(ended.wait())
    try:
        while True:
            step = asyncio.ensure_future(anext(chunks, None))
            try:
                done, _ = await asyncio.wait([step, ending], timeout=silence.left, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not step.done():
                    step.cancel()
                    await asyncio.gather(step, return_exceptions=True)
            if not done:
                raise ConnectionProblem(f"watch: nothing heard from auth for {silence.seconds:g} s", hint=AGAIN)
            if step.cancelled() or (chunk := step.result()) is None:
                return
            yield chunk
    finally:
        ending.cancel()
        await asyncio.gather(ending, return_exceptions=True)


def _watch_line(line: bytes) -> WatchLine:
    try:
        return msgspec.json.decode(line, type=WatchLine)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ConnectionProblem(f"watch: a line cannot be read: {error}", hint=AGAIN) from None


async def _body(response: aiohttp.ClientResponse, most: int) -> bytes:
    body = bytearray()
    try:
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > most:
                raise ConnectionProblem(f"the answer of the auth server is larger than {most} bytes", hint=AGAIN)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise ConnectionProblem(f"the answer of the auth server broke off: {said(error)}", hint=AGAIN) from None
    return bytes(body)


def _url(text: str) -> Any:
    from yarl import URL

    return URL(text, encoded=True)
