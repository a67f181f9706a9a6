"""What stands before TLS: read in whatever pieces it comes, believed line by line, bounded."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from teleport.errors import AccessDenied
from teleport.transport.feeding import feed
from teleport.transport.first_bytes import MAX_LINES, Address, FirstBytes
from teleport.wire import vouch

PEER = ("192.0.2.1", 1000)
HELLO = b"\x16\x03\x01" + bytes(range(256)) * 4


class Wire(asyncio.Transport):
    """A transport in the hands of the test: pieces wait while reading is paused."""

    def __init__(self) -> None:
        super().__init__()
        self.protocol: asyncio.Protocol | None = None
        self.waiting: list[bytes] = []
        self.paused = self.aborted = False

    def give(self, piece: bytes) -> None:
        self.waiting.append(piece)
        self._deliver()

    def _deliver(self) -> None:
        while self.waiting and not self.paused and not self.aborted:
            assert self.protocol is not None
            self.protocol.data_received(self.waiting.pop(0))

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False
        self._deliver()

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


class Rest(asyncio.Protocol):
    """What follows."""

    def __init__(self) -> None:
        self.data = b""

    def data_received(self, data: bytes) -> None:
        self.data += data


class Connection:
    """A connection of which the first bytes are read."""

    def __init__(self) -> None:
        self.wire, self.rest = Wire(), Rest()
        self.went: list[tuple[Address, tuple[str, ...]]] = []
        self.asked: list[tuple[bytes, str]] = []
        self.lost = 0
        self.first = FirstBytes(PEER, self.believe, self.go, self.gone)
        self.wire.protocol = self.first
        self.first.connection_made(self.wire)

    async def believe(self, line: bytes, peer: str) -> Address:
        self.asked.append((line, peer))
        await asyncio.sleep(0)
        word = line.removeprefix(vouch.PREFIX).strip().decode()
        if not word.isdecimal():
            raise AccessDenied("not believed")
        return f"198.51.100.{word}", int(word)

    def go(self, transport: asyncio.Transport, client: Address, via: tuple[str, ...], data: bytes) -> None:
        assert transport is self.wire
        self.went.append((client, via))
        self.wire.protocol = self.rest
        feed(self.rest, data)

    def gone(self) -> None:
        self.lost += 1

    async def until(self, found: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not found():  # noqa: ASYNC110 - the loop itself makes it true
                await asyncio.sleep(0)


def line(number: int) -> bytes:
    return vouch.PREFIX + str(number).encode() + b"\r\n"


@pytest.mark.parametrize("lines", range(MAX_LINES + 1))
async def test_in_whatever_pieces_it_comes_it_is_read_the_same(lines: int) -> None:
    """Nothing of what follows is lost, doubled or read before the lines were believed."""
    said = b"".join(line(number) for number in range(1, lines + 1)) + HELLO
    for seed in range(40):
        chance = random.Random(seed)
        connection, at = Connection(), 0
        while at < len(said):
            size = chance.choice((1, 2, 17, 18, 19, 300, len(said)))
            connection.wire.give(said[at : at + size])
            at += size
            if chance.random() < 0.3:
                await asyncio.sleep(0)
        await connection.until(lambda: connection.rest.data == HELLO)  # noqa: B023 - awaited within the turn
        chain = [PEER, *((f"198.51.100.{number}", number) for number in range(1, lines + 1))]
        assert connection.went == [(chain[-1], tuple(host for host, _ in chain[:-1]))], seed
        assert [peer for _, peer in connection.asked] == [host for host, _ in chain[:-1]]
        assert not connection.wire.aborted


@pytest.mark.parametrize(
    "said",
    [
        b"".join(line(number) for number in range(1, MAX_LINES + 2)) + HELLO,
        vouch.PREFIX + b"nobody\r\n" + HELLO,
        line(1) + vouch.PREFIX + b"nobody\r\n" + HELLO,
        vouch.PREFIX + b"x" * vouch.MAX_LINE,
        vouch.PREFIX + b"x" * vouch.MAX_LINE + b"\r\n" + HELLO,
    ],
    ids=["too many lines", "not believed", "the second not believed", "no end", "too long"],
)
async def test_what_is_not_believed_ends_the_connection(said: bytes) -> None:
    """However it is cut; and nothing is handed on."""
    for size in (1, 100, len(said)):
        connection = Connection()
        for start in range(0, len(said), size):
            connection.wire.give(said[start : start + size])
        await connection.until(lambda: connection.wire.aborted)  # noqa: B023 - awaited within the turn
        connection.first.connection_lost(None)
        assert (connection.went, connection.lost) == ([], 1)


@pytest.mark.parametrize("said", [HELLO, b"GET / HTTP/1.1\r\n", b"TE", b"TELEPORT-VOUCH-2 x\r\n", b"\r\n"])
async def test_what_is_no_line_is_handed_on_with_the_peers_address(said: bytes) -> None:
    connection = Connection()
    connection.wire.give(said)
    if vouch.PREFIX.startswith(said):
        assert connection.went == []  # it may become one
        connection.wire.give(b"X")
        said += b"X"
    assert connection.went == [(PEER, ())]
    assert connection.rest.data == said


async def test_a_connection_that_ends_meanwhile_is_told_of_once() -> None:
    """While a line is being believed, and before anything came."""
    for said in (b"", line(1), line(1)[:5]):
        connection = Connection()
        if said:
            connection.wire.give(said)
        connection.first.connection_lost(None)
        for _ in range(5):
            await asyncio.sleep(0)
        assert (connection.went, connection.lost) == ([], 1)


async def test_a_buffered_protocol_gets_every_byte() -> None:
    class Small(asyncio.BufferedProtocol):
        def __init__(self) -> None:
            self.buffer, self.data = bytearray(7), b""

        def get_buffer(self, sizehint: int) -> memoryview:
            return memoryview(self.buffer)

        def buffer_updated(self, nbytes: int) -> None:
            self.data += bytes(self.buffer[:nbytes])

    protocol = Small()
    feed(protocol, HELLO)
    assert protocol.data == HELLO
