"""Frames of ours between those that are relayed: one direction of a stream into a pod.

What is relayed goes on unchanged; something of ours goes in only where a frame has just ended, so that neither reader
takes it for a part of another one. Until then it waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final

from teleport.kube.exec_channels import Channel, Reader

PIECE: Final = 16 * 1024  # bytes in one frame
FULL: Final = 64 * 1024  # bytes that wait, or that the other side has not taken, from which on no more should come


class Inserting:
    """`wrote` is to be called after each write of relayed bytes."""

    def __init__(
        self,
        reader: Reader,
        writer: asyncio.StreamWriter,
        in_background: Callable[[Coroutine[Any, Any, None]], None],
        taken: Callable[[], None] = lambda: None,
    ) -> None:
        """`reader` reads this direction; `taken` is called when something may be put again after it was `full`."""
        self._reader = reader
        self._writer = writer
        self._in_background = in_background
        self._taken = taken
        self._waiting: deque[tuple[Channel, bytes]] = deque()
        self._size = 0
        self._draining = False
        self.clean = True  # what was written so far ends with a frame

    @property
    def full(self) -> bool:
        """Whether the other side does not keep up."""
        return self._size >= FULL

    def wrote(self) -> None:
        """What the reader has read was written."""
        self.clean = self._reader.between
        self._go()

    def put(self, channel: Channel, data: bytes) -> bool:
        """Sends `data` as soon as it can be; False where there is no place for it."""
        if not self._reader.piece(channel, b""):
            return False
        for at in range(0, len(data), PIECE):
            self._waiting.append((channel, data[at : at + PIECE]))
        self._size += len(data)
        self._go()
        return True

    def _go(self) -> None:
        was_full = self.full
        while self._waiting and self.clean and not self._draining:
            if self._writer.transport.get_write_buffer_size() >= FULL:
                self._draining = True
                self._in_background(self._drained())
                break
            channel, data = self._waiting.popleft()
            self._size -= len(data)
            self._writer.write(self._reader.piece(channel, data))
        if was_full and not self.full:
            self._taken()

    async def _drained(self) -> None:
        try:
            await self._writer.drain()
        except OSError:
            self._waiting.clear()  # nobody is there any more
            self._size = 0
        finally:
            self._draining = False
        self._go()
