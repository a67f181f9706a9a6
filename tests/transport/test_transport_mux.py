"""Many connections within one: each is bounded, none stops another, and who breaks the rules loses them all.

That a stream keeps what a socket promises is in `test_memory_pair`.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from tests.transport.test_memory_pair import Noting

from teleport.testing.running import wait_until
from teleport.transport import mux
from teleport.transport.auth_links import AuthLinks
from teleport.transport.mux import DATA, END, GRANT, HEAD, LEAVING, MAX_BODY, OPEN, PREFACE, RESET, WINDOW, Mux


@dataclass
class Pair:
    """Both ends, and what was accepted."""

    opening: Mux
    taking: Mux
    accepted: list[Noting] = field(default_factory=list)
    over: list[Mux] = field(default_factory=list)

    async def stream(self, keeps: bool = True) -> tuple[Noting, Noting]:
        count = len(self.accepted)
        near = self.opening.open(lambda: Noting(keeps=keeps))
        await wait_until(lambda: len(self.accepted) > count)
        return near, self.accepted[-1]


def noting_in(accepted: list[Noting], *, reads: bool = True) -> mux.Accept:
    """Takes each stream, and keeps what becomes of it; without `reads` nobody reads what comes."""

    def accept(transport: asyncio.Transport) -> None:
        accepted.append(Noting())
        transport.set_protocol(accepted[-1])
        accepted[-1].connection_made(transport)
        if not reads:
            transport.pause_reading()

    return accept


@asynccontextmanager
async def a_pair(streams: int = mux.STREAMS) -> AsyncIterator[Pair]:
    loop = asyncio.get_running_loop()
    here, there = socket.socketpair()
    accepted: list[Noting] = []
    over: list[Mux] = []

    _, taking = await loop.connect_accepted_socket(
        lambda: Mux(noting_in(accepted), over.append, streams=streams, peername=("192.0.2.1", 0)), there
    )
    _, opening = await loop.connect_accepted_socket(lambda: Mux(None, over.append), here)
    try:
        yield Pair(opening, taking, accepted, over)
    finally:
        opening.abort()
        taking.abort()
        await wait_until(lambda: len(over) == 2)


async def test_streams_are_told_apart_and_say_who_they_are() -> None:
    async with a_pair() as pair:
        ends = [await pair.stream() for _ in range(50)]
        order = random.Random(1).sample(range(50), 50)
        for number in order:
            ends[number][0].transport.write(b"to %d" % number)
            ends[number][1].transport.write(b"from %d" % number)
        await wait_until(lambda: all(bool(near.got and far.got) for near, far in ends))
        for number, (near, far) in enumerate(ends):
            assert (bytes(near.got), bytes(far.got)) == (b"from %d" % number, b"to %d" % number)
            assert far.transport.get_extra_info("peername") == ("192.0.2.1", 0)
        assert pair.opening.streams == pair.taking.streams == 50
        for near, far in ends:
            near.transport.close()
            far.transport.close()
        await wait_until(lambda: pair.opening.streams == pair.taking.streams == 0)


async def test_who_does_not_read_stops_its_own_writer_and_nobody_else() -> None:
    async with a_pair() as pair:
        stuck, deaf = await pair.stream()
        free, hearing = await pair.stream()
        deaf.transport.pause_reading()
        for _ in range(40):
            stuck.transport.write(bytes(100_000))
        assert not stuck.writable.is_set()
        for _ in range(40):
            await free.writable.wait()
            free.transport.write(bytes(100_000))
        await wait_until(lambda: len(hearing.got) == 4_000_000)
        kept = deaf.transport._unread + stuck.transport.other._unread
        assert kept >= 4_000_000 - 2 * WINDOW  # most of it is still where it was written
        assert deaf.transport._unread <= WINDOW
        deaf.transport.resume_reading()
        await wait_until(lambda: len(deaf.got) == 4_000_000)
        assert stuck.writable.is_set()


async def test_a_stream_that_is_aborted_resets_the_other_end_alone() -> None:
    async with a_pair() as pair:
        one, other = await pair.stream()
        kept, too = await pair.stream()
        one.transport.abort()
        await wait_until(other.lost.is_set)
        assert isinstance(other.error, ConnectionResetError)
        kept.transport.write(b"still here")
        await wait_until(lambda: too.got == b"still here")
        assert pair.taking.streams == 1


async def test_when_the_connection_is_lost_all_its_streams_are() -> None:
    async with a_pair() as pair:
        ends = [await pair.stream() for _ in range(3)]
        pair.taking.abort()
        await wait_until(lambda: all(end.lost.is_set() for two in ends for end in two))
        assert not pair.opening.usable


async def test_who_leaves_keeps_its_streams_and_gets_no_new_ones() -> None:
    async with a_pair() as pair:
        near, far = await pair.stream()
        pair.taking.leave()
        await wait_until(lambda: not pair.opening.usable)
        near.transport.write(b"as before")
        await wait_until(lambda: far.got == b"as before")
        assert not pair.over
        near.transport.write_eof()
        await far.ended.wait()
        far.transport.write(b"last words")
        far.transport.write_eof()
        await wait_until(lambda: len(pair.over) == 2)
        assert near.got == b"last words"


async def test_more_streams_than_the_bound_are_reset_and_those_there_stay() -> None:
    async with a_pair(streams=2) as pair:
        await pair.stream()
        near, far = await pair.stream()
        third = pair.opening.open(Noting)
        await wait_until(third.lost.is_set)
        near.transport.write(b"here")
        await wait_until(lambda: far.got == b"here")


def frame(kind: int, number: int, body: bytes = b"") -> bytes:
    return HEAD.pack(kind, number, len(body)) + body


AGAINST_THE_RULES = {
    "no preface": b"GET / HTTP/1.1\r\n",
    "another version": b"TELEPORT-MUX-2\r\n",
    "a frame too large": PREFACE + HEAD.pack(DATA, 1, MAX_BODY + 1),
    "an unknown type": PREFACE + frame(9, 0),
    "type 0": PREFACE + frame(0, 0),
    "data for what was never opened": PREFACE + frame(DATA, 7, b"x"),
    "a number twice": PREFACE + frame(OPEN, 2) + frame(OPEN, 2),
    "a number again": PREFACE + frame(OPEN, 2) + frame(RESET, 2) + frame(OPEN, 1),
    "stream 0": PREFACE + frame(OPEN, 0),
    "more than was granted": PREFACE + frame(OPEN, 1) + frame(DATA, 1, bytes(MAX_BODY)) * (WINDOW // MAX_BODY + 4),
    "data after the end": PREFACE + frame(OPEN, 1) + frame(END, 1) + frame(DATA, 1, b"x"),
    "a grant of three bytes": PREFACE + frame(OPEN, 1) + frame(GRANT, 1, b"abc"),
    "a grant beyond all bounds": PREFACE + frame(OPEN, 1) + frame(GRANT, 1, b"\xff\xff\xff\xff"),
    "it says that it leaves": PREFACE + frame(LEAVING, 0),
}


@pytest.mark.parametrize("said", AGAINST_THE_RULES.values(), ids=AGAINST_THE_RULES)
@pytest.mark.parametrize("size", [1 << 20, 3], ids=["at once", "in drips"])
async def test_who_breaks_the_rules_loses_the_connection(said: bytes, size: int) -> None:
    accepted: list[Noting] = []
    over: list[Mux] = []

    loop = asyncio.get_running_loop()
    here, there = socket.socketpair()
    here.setblocking(False)
    await loop.connect_accepted_socket(lambda: Mux(noting_in(accepted, reads=False), over.append), there)
    with here:
        if size == 3:
            said = said[:4000]
        for at in range(0, len(said), size):
            if over:
                break
            try:
                await loop.sock_sendall(here, said[at : at + size])
            except ConnectionError:
                break
            await asyncio.sleep(0)
        if size == 3 and len(said) == 4000:  # it was cut: what is not whole is no mistake yet
            here.close()
        await wait_until(lambda: bool(over))
    await wait_until(lambda: all(one.lost.is_set() for one in accepted))


async def test_nothing_that_is_read_fails_with_anything_but_the_end_of_the_connection() -> None:
    chance = random.Random(4)
    for _ in range(300):
        pieces = [PREFACE]
        for _ in range(chance.randrange(30)):
            size = chance.choice([0, 1, 4, 100])
            pieces.append(frame(chance.randrange(8), chance.randrange(4), chance.randbytes(size)))
        said = b"".join(pieces)
        if chance.random() < 0.3:
            at = chance.randrange(len(said))
            said = said[:at] + chance.randbytes(3) + said[at:]
        over: list[Mux] = []

        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        there.setblocking(False)
        failures: list[object] = []
        loop.set_exception_handler(lambda _, context, failures=failures: failures.append(context))  # type: ignore[misc]
        await loop.connect_accepted_socket(lambda: Mux(noting_in([]), over.append), there)  # noqa: B023 - awaited here
        with here:
            here.sendall(said)
        await wait_until(lambda: bool(over))  # noqa: B023
        assert not failures


async def test_one_connection_to_each_auth_server_is_made_when_it_is_needed_and_anew_when_it_is_lost() -> None:
    loop = asyncio.get_running_loop()
    taken: list[Mux] = []
    accepted: list[Noting] = []
    firsts: list[bytes] = []

    class Line(asyncio.Protocol):
        """Reads the line before the preface."""

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport, self.buffer = transport, b""

        def data_received(self, data: bytes) -> None:
            self.buffer += data
            line, newline, rest = self.buffer.partition(b"\n")
            if newline:
                firsts.append(line)
                taken.append(Mux(noting_in(accepted), lambda _: None))
                assert isinstance(self.transport, asyncio.Transport)
                self.transport.set_protocol(taken[-1])
                taken[-1].connection_made(self.transport)
                taken[-1].data_received(rest)

    nobody = socket.create_server(("127.0.0.1", 0))
    gone = nobody.getsockname()[:2]
    nobody.close()
    server = await loop.create_server(Line, "127.0.0.1", 0)
    links = AuthLinks([gone, server.sockets[0].getsockname()[:2]], lambda: b"line\n")
    run = asyncio.create_task(links.run())
    async with server:
        ends = [Noting() for _ in range(20)]
        await asyncio.gather(*(links.connect(lambda end=end: end) for end in ends))  # type: ignore[misc]
        await wait_until(lambda: len(accepted) == 20)
        assert (len(taken), links.streams, firsts) == (1, 20, [b"line"])
        taken[0].abort()
        await wait_until(lambda: all(end.lost.is_set() for end in ends))
        await links.connect(Noting)
        await wait_until(lambda: len(taken) == 2)
        taken[1].leave()
        await wait_until(lambda: len(accepted) == 21)
        await wait_until(lambda: not all(link.usable for link in links._all))
        await links.connect(Noting)
        await wait_until(lambda: len(taken) == 3)
        assert links.streams == 2  # the one that leaves keeps what it has
        run.cancel()
        await asyncio.wait([run])
        await wait_until(lambda: not links.streams)
