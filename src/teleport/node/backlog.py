"""What waits to be written to a descriptor that does not take it yet: in order, without copies."""

from __future__ import annotations

import os
from collections import deque
from typing import Final

_PIECES: Final = 64  # to one writev


class Backlog:
    """A queue of bytes for one non-blocking descriptor."""

    __slots__ = ("_pieces", "size", "written")

    def __init__(self) -> None:
        self._pieces: deque[bytes | memoryview] = deque()
        self.size = 0  # bytes that wait
        self.written = 0  # bytes that the descriptor took

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def push(self, data: bytes) -> None:
        self._pieces.append(data)
        self.size += len(data)

    def clear(self) -> None:
        """Forgets what waits."""
        self._pieces.clear()
        self.size = 0

    def write_to(self, descriptor: int) -> None:
        """Writes until nothing waits. `OSError` as the kernel says: `BlockingIOError` when it takes no more now."""
        while self._pieces:
            batch = [self._pieces[place] for place in range(min(len(self._pieces), _PIECES))]
            self._wrote(os.writev(descriptor, batch))

    def _wrote(self, count: int) -> None:
        self.size -= count
        self.written += count
        while count:
            piece = self._pieces[0]
            if count < len(piece):
                self._pieces[0] = memoryview(piece)[count:]
                return
            count -= len(piece)
            self._pieces.popleft()
