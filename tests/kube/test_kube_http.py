"""Bodies of messages, as they are relayed."""

from __future__ import annotations

import asyncio

import h11
import pytest

from teleport.kube.http import Server
from teleport.testing.loopback import LOOPBACK

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def answered(wire: bytes, *later: bytes) -> tuple[list[bytes], str]:
    """The parts of a body of which `wire` is there at once, and `later` comes once each former part was taken; and
    what broke it, empty for nothing."""
    sent = asyncio.Event()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await sent.wait()
        writer.close()

    async with await asyncio.start_server(serve, LOOPBACK, 0) as listener:
        _, writer = await asyncio.open_connection(*listener.sockets[0].getsockname()[:2])
        reader = asyncio.StreamReader()
        reader.feed_data(HEAD + wire)
        server = Server(reader, writer)
        await server.ask("GET", "/", [(b"Host", b"kube")])
        await server.end()
        await server.answer()
        parts, broken, coming = [], "", list(later)
        try:
            async with asyncio.timeout(10):
                async for part in server.body():
                    parts.append(part)
                    if coming:
                        reader.feed_data(coming.pop(0))
        except h11.RemoteProtocolError as error:
            broken = str(error) or "broken"
        server.close()
        sent.set()
    return parts, broken


async def test_chunks_that_come_at_once_go_on_at_once() -> None:
    """A log comes in chunks of a line, each of which would cost as much as a large one."""
    lines = [b"line %d\n" % number for number in range(1000)]
    wire = b"".join(map(chunk, lines))
    assert await answered(wire + chunk(b"")) == ([b"".join(lines)], "")


async def test_what_is_there_is_not_kept_waiting() -> None:
    """Of a log that is followed each line goes on when it comes."""
    assert await answered(chunk(b"a") + chunk(b"b"), chunk(b"c"), chunk(b"d") + b"0\r\n\r\n") == (
        [b"ab", b"c", b"d"],
        "",
    )


@pytest.mark.parametrize("bad", [b"zz\r\n", b"-1\r\n"])
async def test_what_came_before_a_break_goes_on(bad: bytes) -> None:
    parts, broken = await answered(chunk(b"a") + bad)
    assert parts == [b"a"]
    assert broken
