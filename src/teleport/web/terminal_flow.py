"""The bytes of one terminal between its page and its host, each direction as far as the other end grants.

What comes from the host waits here while the page grants nothing, and then the host is not read from any more; what
comes from the page is counted, and granted anew as the host takes it. So memory is bounded, whatever runs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from teleport.wire import web_terminal as wt
from teleport.wire.web_terminal import BadMessage, Granted

HELD: Final = 128 * 1024  # bytes that wait for the page before the host is not read from
INPUT: Final = 64 * 1024  # bytes that a page may send ahead


class Host(Protocol):
    """The session on the host."""

    def write(self, data: bytes) -> None: ...

    async def drain(self) -> None: ...

    def pause_output(self) -> None: ...

    def resume_output(self) -> None: ...


class Output:
    """From the host to the page."""

    def __init__(self, credit: int) -> None:
        self.credit = Granted()
        self.credit.grant(credit)
        self._held: deque[bytes] = deque()
        self._size = 0
        self._host: Host | None = None
        self._paused = False
        self._news = asyncio.Event()
        self._over = False

    def of(self, host: Host) -> None:
        """Where it comes from."""
        self._host = host
        self._settle()

    def came(self, data: bytes) -> None:
        """The host sent something."""
        self._held.append(data)
        self._size += len(data)
        self._settle()

    def granted(self, size: int) -> None:
        """The page takes more. Raises `BadMessage`."""
        self.credit.grant(size)
        self._settle()

    def end(self) -> None:
        """Nothing more comes."""
        self._over = True
        self._news.set()

    @property
    def held(self) -> int:
        """Bytes that wait for the page."""
        return self._size

    async def next(self) -> bytes:
        """What may be sent now; waits for it. Empty at the end."""
        while not (self._size and self.credit.left):
            if self._over and not self._size:
                return b""
            self._news.clear()
            await self._news.wait()
        size = self.credit.take(min(self._size, wt.MAX_OUTPUT))
        self._size -= size
        pieces, left = [], size
        while left:
            piece = self._held.popleft()
            if len(piece) > left:
                self._held.appendleft(piece[left:])
                piece = piece[:left]
            pieces.append(piece)
            left -= len(piece)
        self._settle()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _settle(self) -> None:
        self._news.set()
        if self._host is None:
            return
        if self._size >= HELD and not self._paused:
            self._paused = True
            self._host.pause_output()
        elif self._size < HELD // 2 and self._paused:
            self._paused = False
            self._host.resume_output()


class Input:
    """From the page to the host."""

    def __init__(self, host: Host, grant: Callable[[int], None]) -> None:
        """`grant` tells the page that it may send so many bytes more."""
        self._host = host
        self._grant = grant
        self._credit = Granted(INPUT, INPUT)
        self._used = 0  # bytes that the host has taken, and that were not granted anew
        self._waiting = 0  # bytes that it has not taken
        self._news = asyncio.Event()

    def came(self, data: bytes) -> None:
        """The page sent something. Raises `BadMessage` for more than was granted."""
        if not data:
            raise BadMessage("a message of the terminal's bytes is empty")
        self._credit.spend(len(data))
        self._host.write(data)
        self._waiting += len(data)
        self._news.set()

    async def run(self) -> None:
        """Grants anew what the host has taken, in pieces that are worth a message."""
        while True:
            await self._news.wait()
            self._news.clear()
            await self._host.drain()
            self._used += self._waiting
            self._waiting = 0
            if self._used >= INPUT // 4:
                self._credit.grant(self._used)
                self._grant(self._used)
                self._used = 0
