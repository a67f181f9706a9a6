"""The small HTTP server of the diagnostics listener: what it answers, and what a hostile client costs (T17, T19)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from teleport.transport.short_answers import MAX_BODY, Answer, ShortAnswers

OK = Answer(200, b'{"status": "ok"}')


@asynccontextmanager
async def serving(server: ShortAnswers) -> AsyncIterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with server.serve(listener):
            yield listener.getsockname()[1]


def answers(**bounds: float) -> ShortAnswers:
    def answer(path: str) -> Answer | None:
        return OK if path == "/healthz" else None

    return ShortAnswers(answer, "test", **bounds)  # type: ignore[arg-type]


async def exchange(port: int, sent: bytes) -> bytes:
    """Everything that comes back until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    try:
        return await asyncio.wait_for(reader.read(), 20)
    except ConnectionError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("request_line", "status", "body"),
    [
        (b"GET /healthz HTTP/1.1", b"200", OK.body),
        (b"GET /healthz?pretty HTTP/1.1", b"200", OK.body),
        (b"HEAD /healthz HTTP/1.1", b"200", b""),
        (b"GET /healthz HTTP/1.0", b"200", OK.body),
        (b"GET /other HTTP/1.1", b"404", b"404: Not Found"),
        (b"GET http://[ HTTP/1.1", b"404", b"404: Not Found"),
        (b"POST /healthz HTTP/1.1", b"405", b"405: Method Not Allowed"),
        (b"\x16\x03\x01\x02\x00", b"400", b"400: Bad Request"),
    ],
    ids=lambda value: value[:24].decode("latin-1") if isinstance(value, bytes) else None,
)
async def test_each_request_has_its_answer(request_line: bytes, status: bytes, body: bytes) -> None:
    async with serving(answers()) as port:
        told = await exchange(port, request_line + b"\r\nHost: here\r\nConnection: close\r\n\r\n")
    head, _, rest = told.partition(b"\r\n\r\n")
    assert head.split(b" ")[1] == status
    assert rest == body


async def test_a_head_without_end_is_refused_early() -> None:
    async with serving(answers()) as port:
        told = await exchange(port, b"GET /" + b"a" * 20_000)
    assert told.startswith(b"HTTP/1.1 400 ")


async def test_a_connection_answers_one_request_after_another() -> None:
    one = b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n"
    last = b"GET /healthz HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"
    server = answers()
    async with serving(server) as port:
        told = await exchange(port, one + one + last)  # all at once, as pipelining clients do
        assert told.count(b"HTTP/1.1 200") == 3
    assert server.open == 0


async def test_a_body_that_nobody_reads_is_bounded() -> None:
    head = b"GET /healthz HTTP/1.1\r\nHost: here\r\nContent-Length: 10000000000\r\n\r\n"
    async with serving(answers()) as port:
        told = await exchange(port, head + bytes(2 * MAX_BODY))
    assert told.startswith(b"HTTP/1.1 413 ") or told == b"", "a reset may overtake the answer"


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HT"], ids=["silent", "half a head"])
async def test_who_does_not_finish_a_head_is_hung_up_on(sent: bytes) -> None:
    server = answers(seconds=0.05)
    async with serving(server) as port:
        assert await exchange(port, sent) == b""
    assert server.open == 0


async def test_silent_connections_give_way_to_those_that_come_after() -> None:
    server = answers(silent=4)
    async with serving(server) as port:
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
        told = await exchange(port, b"GET /healthz HTTP/1.0\r\n\r\n")
        assert told.startswith(b"HTTP/1.1 200 ")
        assert server.slots.taken <= 4
        for _, writer in silent:
            writer.close()


async def test_a_pause_leaves_what_arrives_waiting() -> None:
    server = answers()
    async with serving(server) as port:
        server.pause()
        asked = asyncio.create_task(exchange(port, b"GET /healthz HTTP/1.0\r\n\r\n"))
        await asyncio.sleep(0)
        assert not asked.done()
        await server.resume()
        assert (await asked).startswith(b"HTTP/1.1 200 ")


async def test_who_asks_and_never_reads_is_not_listened_to() -> None:
    """T18, T21: answers that nobody takes must not pile up."""
    server = ShortAnswers(lambda path: Answer(200, b"x" * 1000), "test")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with server.serve(listener):
            with socket.create_connection(listener.getsockname()) as client:
                client.setblocking(False)
                asked = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n" * 1000
                refused = 0
                while refused < 200:  # turns of the loop in which the client could send nothing more
                    await asyncio.sleep(0)
                    try:
                        client.send(asked)
                        refused = 0
                    except BlockingIOError:
                        refused += 1
                    held = sum(one._transport.get_write_buffer_size() for one in server.connections)
                    assert held < 1024 * 1024
