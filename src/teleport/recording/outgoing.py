"""What goes on to the client of a recorded session, in order: held back until what it tells is kept.

A client that is told that a file was written may rely on it: the answer leaves once that is on record. Where recordings
are sent while they are made, what a client sees is on this host's disk first. What cannot be kept is not sent.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

log = logging.getLogger(__name__)

MOST_HELD: Final = 1024 * 1024  # bytes above which the host has to wait


class Outgoing:
    """The bytes of both streams. `kept` waits until what was noted so far is kept, and raises when it cannot be."""

    def __init__(
        self,
        write: Callable[[bytes, bool], None],
        kept: Callable[[], Awaitable[None]],
        *,
        in_background: Callable[[Coroutine[Any, Any, None]], None],
        flow: Callable[[], None],
        failed: Callable[[], None],
    ) -> None:
        """`write` takes bytes and whether they are stderr; `flow` is called when `behind` may have changed, `failed`
        once when something could not be kept."""
        self._write = write
        self._kept = kept
        self._in_background = in_background
        self._flow = flow
        self._failed = failed
        self._held: deque[tuple[bytes, bool]] = deque()
        self._size = 0
        self._releasing = False
        self._turn = asyncio.Lock()
        self.lost = False  # whether something could not be kept, and the client does not get it

    def send(self, data: bytes, stderr: bool, *, hold: bool) -> None:
        """Sends at once, or with `hold`, and behind what is held, once all of it is kept."""
        if self.lost:
            return
        if not hold and not self._releasing:
            self._write(data, stderr)
            return
        self._held.append((data, stderr))
        self._size += len(data)
        if not self._releasing:
            self._releasing = True
            self._in_background(self.release())
        if self.behind:
            self._flow()

    @property
    def behind(self) -> bool:
        """Whether so much is held that the host has to wait."""
        return self._size > MOST_HELD

    async def release(self) -> None:
        """Sends what is held; returns when nothing is, or when it is dropped because it cannot be kept."""
        async with self._turn:
            try:
                while self._held:
                    count = len(self._held)
                    await self._kept()
                    for _ in range(count):
                        data, stderr = self._held.popleft()
                        self._size -= len(data)
                        self._write(data, stderr)
                    self._flow()
            except Exception as error:
                log.error("what was done cannot be kept, so the client does not learn of it: %s", error)
                self.lost = True
                self._held.clear()
                self._size = 0
                self._failed()
            finally:
                self._releasing = False
