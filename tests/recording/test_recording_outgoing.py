"""What a client of a recorded session is told, is kept before it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from teleport.recording.outgoing import MOST_HELD, Outgoing


class Told:
    """A client, and a disk that takes things when it is let."""

    def __init__(self) -> None:
        self.seen: list[tuple[bytes, bool]] = []
        self.room = asyncio.Semaphore(0)
        self.broken = False
        self.failures = 0
        self.tasks: list[asyncio.Task[None]] = []
        self.outgoing = Outgoing(
            lambda data, stderr: self.seen.append((data, stderr)),
            self._kept,
            in_background=self._start,
            flow=lambda: None,
            failed=self._fail,
        )

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.ensure_future(work))

    def _fail(self) -> None:
        self.failures += 1

    async def _kept(self) -> None:
        await self.room.acquire()
        if self.broken:
            raise OSError("the disk is full")


async def test_what_needs_nothing_kept_goes_on_at_once() -> None:
    told = Told()
    told.outgoing.send(b"a", False, hold=False)
    assert told.seen == [(b"a", False)]
    assert told.tasks == []


async def test_what_is_held_goes_on_in_order_once_it_is_kept() -> None:
    """Also what came while others waited: it waits for its own turn."""
    told = Told()
    told.outgoing.send(b"a", False, hold=True)
    told.outgoing.send(b"b", True, hold=False)
    await asyncio.sleep(0)
    told.outgoing.send(b"c", False, hold=True)
    flushed = asyncio.ensure_future(told.outgoing.release())
    await asyncio.sleep(0)
    assert told.seen == []
    told.room.release()
    for _ in range(10):
        await asyncio.sleep(0)
    assert told.seen == [(b"a", False), (b"b", True)]
    told.room.release()
    await flushed
    assert told.seen[2:] == [(b"c", False)]
    await asyncio.gather(*told.tasks)
    told.outgoing.send(b"d", False, hold=False)
    assert told.seen[3:] == [(b"d", False)]


async def test_what_cannot_be_kept_is_not_told() -> None:
    told = Told()
    told.broken = True
    told.room.release()
    told.outgoing.send(b"a", False, hold=True)
    await asyncio.gather(*told.tasks)
    told.outgoing.send(b"b", False, hold=False)
    assert (told.seen, told.failures, told.outgoing.lost) == ([], 1, True)


async def test_the_host_waits_when_much_is_held() -> None:
    told = Told()
    told.outgoing.send(bytes(MOST_HELD), False, hold=True)
    assert not told.outgoing.behind
    told.outgoing.send(b"a", False, hold=False)
    assert told.outgoing.behind
    told.room.release()
    await asyncio.gather(*told.tasks)
    assert not told.outgoing.behind
