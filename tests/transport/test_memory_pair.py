"""Connections inside one process keep what sockets promise: order, all before the end, half-close, back-pressure."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from teleport.testing.running import wait_until
from teleport.transport import memory_pair, mux
from teleport.transport.memory_pair import AT_ONCE


class Noting(asyncio.Protocol):
    """Writes down what happens to it."""

    def __init__(self, *, keeps: bool = True) -> None:
        self.transport: Any = None
        self.keeps = keeps
        self.got = bytearray()
        self.pieces: list[int] = []
        self.told: list[str] = []
        self.error: Exception | None = None
        self.lost = asyncio.Event()
        self.ended = asyncio.Event()
        self.writable = asyncio.Event()
        self.writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.told.append("made")

    def data_received(self, data: bytes) -> None:
        assert isinstance(data, bytes)
        self.got += data
        self.pieces.append(len(data))

    def eof_received(self) -> bool:
        self.told.append("eof")
        self.ended.set()
        return self.keeps

    def pause_writing(self) -> None:
        self.writable.clear()
        self.told.append("stop")

    def resume_writing(self) -> None:
        self.writable.set()
        self.told.append("go")

    def connection_lost(self, exc: Exception | None) -> None:
        self.error = exc
        self.told.append("lost")
        self.lost.set()
        self.ended.set()


async def by_memory(one: Noting, other: Noting) -> None:
    def accept(transport: asyncio.Transport) -> None:
        transport.set_protocol(other)
        other.connection_made(transport)

    assert memory_pair.connect(lambda: one, accept, peername=("127.0.0.1", 0)) is one


async def by_sockets(one: Noting, other: Noting) -> None:
    """What it stands in for, to show that the tests ask for no more than sockets give."""
    loop = asyncio.get_running_loop()
    here, there = socket.socketpair()
    await loop.connect_accepted_socket(lambda: other, there)
    await loop.connect_accepted_socket(lambda: one, here)


made: list[asyncio.Transport] = []
over: list[mux.Mux] = []


async def by_mux(one: Noting, other: Noting) -> None:
    """The same within a connection of many."""
    loop = asyncio.get_running_loop()
    here, there = socket.socketpair()

    def accept(transport: asyncio.Transport) -> None:
        transport.set_protocol(other)
        other.connection_made(transport)

    taking, _ = await loop.connect_accepted_socket(lambda: mux.Mux(accept, over.append), there)
    opening, far = await loop.connect_accepted_socket(lambda: mux.Mux(None, over.append), here)
    made.extend([taking, opening])
    far.open(lambda: one)
    far.leaving = True  # it ends with its only stream
    await wait_until(lambda: other.transport is not None)


Connecting = Callable[[Noting, Noting], Awaitable[None]]
both = pytest.mark.parametrize("connect", [by_memory, by_sockets, by_mux])


async def closed(*ends: Noting) -> None:
    for end in ends:
        end.transport.close()
    async with asyncio.timeout(10):
        for end in ends:
            await end.lost.wait()
    for transport in made:
        transport.abort()
    await wait_until(lambda: len(over) == len(made))
    made.clear()
    over.clear()


@both
@pytest.mark.parametrize("seed", range(20))
async def test_bytes_arrive_in_order_and_before_the_end_however_they_are_read(connect: Connecting, seed: int) -> None:
    chance = random.Random(seed)
    one, other = Noting(), Noting()
    await connect(one, other)
    sent = {one: bytearray(), other: bytearray()}

    async def talk(end: Noting) -> None:
        for _ in range(chance.randrange(60)):
            await end.writable.wait()
            data = chance.randbytes(chance.choice([1, 100, 40_000, 400_000]))
            end.transport.write(chance.choice([bytes, bytearray, memoryview])(data))
            sent[end] += data
            if chance.random() < 0.3:
                await asyncio.sleep(0)
            if chance.random() < 0.2:
                end.transport.pause_reading()
                asyncio.get_running_loop().call_later(0.001, end.transport.resume_reading)
        end.transport.write_eof()

    async with asyncio.timeout(30):
        await asyncio.gather(talk(one), talk(other))
        await asyncio.gather(one.ended.wait(), other.ended.wait())
    assert other.got == sent[one]
    assert one.got == sent[other]
    for end in (one, other):
        assert end.told[0] == "made"
        assert end.told.count("eof") == 1 or connect is by_sockets  # which tell it anew with each `resume_reading`
        assert end.told.count("stop") - end.told.count("go") in (0, 1)
    await closed(one, other)
    assert (one.error, other.error) == (None, None)


async def test_a_reader_that_stops_stops_the_writer_and_no_more_is_kept_than_was_written() -> None:
    one, other = Noting(), Noting()
    await by_memory(one, other)
    one.transport.set_write_buffer_limits(high=1000)
    other.transport.pause_reading()
    one.transport.write(bytes(900))
    assert one.writable.is_set()
    one.transport.write(bytes(200))
    assert not one.writable.is_set()
    assert one.transport.get_write_buffer_size() == 1100
    await asyncio.sleep(0)
    assert not other.got
    other.transport.resume_reading()
    await one.writable.wait()
    assert len(other.got) == 1100
    await closed(one, other)


async def test_one_turn_delivers_no_more_than_a_read_would() -> None:
    """So that one busy connection holds up nobody else."""
    one, other = Noting(), Noting()
    await by_memory(one, other)
    for _ in range(100):
        one.transport.write(bytes(AT_ONCE // 3))
    one.transport.write_eof()
    await other.ended.wait()
    assert sum(other.pieces) == 100 * (AT_ONCE // 3)
    assert max(other.pieces) <= AT_ONCE
    await closed(one, other)


@both
async def test_who_closes_is_lost_at_once_and_what_it_wrote_still_arrives(connect: Connecting) -> None:
    one, other = Noting(), Noting(keeps=False)
    await connect(one, other)
    other.transport.pause_reading()
    one.transport.write(b"last words")
    one.transport.close()
    async with asyncio.timeout(10):
        await one.lost.wait()
        assert not other.lost.is_set()
        other.transport.resume_reading()
        await other.lost.wait()
    assert other.got == b"last words"
    assert other.told == ["made", "eof", "lost"]
    assert (one.error, other.error) == (None, None)
    await closed()


@both
async def test_writing_to_a_closed_end_resets(connect: Connecting) -> None:
    one, other = Noting(), Noting()
    await connect(one, other)
    one.transport.close()
    async with asyncio.timeout(10):
        await other.ended.wait()
        while not other.lost.is_set():
            other.transport.write(b"too late")
            await asyncio.sleep(0)
    assert isinstance(other.error, ConnectionError)
    other.transport.write(b"and later")  # nothing happens
    assert other.transport.is_closing()
    await closed()


async def test_an_abort_reaches_the_other_end_and_releases_a_stopped_writer() -> None:
    one, other = Noting(), Noting()
    await by_memory(one, other)
    other.transport.pause_reading()
    one.transport.write(bytes(1_000_000))
    assert not one.writable.is_set()
    other.transport.abort()
    async with asyncio.timeout(10):
        await one.lost.wait()
        await other.lost.wait()
    assert isinstance(one.error, ConnectionResetError)
    assert other.error is None
    assert not other.got


async def test_who_is_not_accepted_learns_it_as_of_any_connection() -> None:
    one = Noting()
    memory_pair.connect(lambda: one, lambda transport: transport.abort())
    one.transport.write(b"hello")
    async with asyncio.timeout(10):
        await one.lost.wait()
    assert isinstance(one.error, ConnectionResetError)


async def test_a_protocol_that_fails_loses_its_connection_and_nothing_else() -> None:
    class Failing(Noting):
        def data_received(self, data: bytes) -> None:
            raise ValueError("no")

    problems: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
    one, other = Noting(), Failing()
    await by_memory(one, other)
    one.transport.write(b"x")
    async with asyncio.timeout(10):
        await one.lost.wait()
        await other.lost.wait()
    assert [str(problem["exception"]) for problem in problems] == ["no"]


async def test_the_accepted_end_says_who_it_is() -> None:
    one, other = Noting(), Noting()
    await by_memory(one, other)
    assert other.transport.get_extra_info("peername") == ("127.0.0.1", 0)
    assert other.transport.get_extra_info("socket") is None
    await closed(one, other)
