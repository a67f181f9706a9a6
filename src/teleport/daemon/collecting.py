"""Python's collector in a process that holds much: ten thousand hosts are millions of objects, and to walk them all, as
it does each time that they grew by a quarter, holds up everybody for seconds.

While a full collection is short nothing is changed. After the first one that was long, full collections are no longer
begun by the interpreter. Instead, every few seconds, what was made since the last time is collected, and what is left
is set aside (`gc.freeze`): it will not be walked again. What is set aside is freed as always when nobody refers to it;
only cycles among it stay. So once the process has grown by far more than it had, all of it is walked once.
Then, too, what is there is put into large pages (`large_pages`).
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from teleport.daemon.large_pages import collapse

log = logging.getLogger(__name__)

LONG: Final = 0.1  # seconds of a full collection
EVERY: Final = 5.0  # seconds between looks
MIDDLE: Final = 10  # collections of the middle generation that make one of all that is new worth while
THRESHOLDS: Final = (5_000, 20, 1_000_000_000)  # the last: never by itself
GROWN: Final = 1.5  # times what it had after all was walked the last time ...
AND_MORE: Final = 64 * 1024 * 1024  # ... and so many bytes more
APART: Final = 300.0  # seconds between two walks over all


def resident() -> int:
    """Bytes of this process that are in memory (proc(5), statm); 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


class Collecting:
    """Of this process. `run` until it ends."""

    def __init__(
        self, memory: Callable[[], int] = resident, now: Callable[[], float] = time.monotonic, long: float = LONG
    ) -> None:
        self._memory = memory
        self._now = now
        self._long = long
        self._began = 0.0
        self._walked: tuple[float, int] = (0.0, 0)  # all of it: when, and what there was in memory afterwards
        self.sparing = False

    async def run(self) -> None:
        """Looks every few seconds until cancelled."""
        usual = gc.get_threshold()
        gc.callbacks.append(self._seen)
        try:
            while True:
                await asyncio.sleep(EVERY)
                if self.look():
                    await asyncio.to_thread(self._settle)
        finally:
            gc.callbacks.remove(self._seen)
            if self.sparing:
                gc.set_threshold(*usual)
                gc.unfreeze()

    def _seen(self, phase: str, info: Mapping[str, int]) -> None:
        """Called by the collector."""
        if info["generation"] != 2 or self.sparing:
            return
        now = time.perf_counter()
        if phase == "start":
            self._began = now
        elif now - self._began >= self._long:
            self.sparing = True
            gc.set_threshold(*THRESHOLDS)

    def _settle(self) -> None:
        """Puts what is here now, and stays for long, into large pages."""
        log.info("memory in large pages bytes=%d", collapse())

    def look(self) -> bool:
        """Collects what is due. Whether the process has much that it had not the last time."""
        if not self.sparing:
            return False
        if not self._walked[0]:  # the collection that was long has just been over all of it
            gc.freeze()
            self._walked = self._now(), self._memory()
            return True
        since, had = self._walked
        if self._now() - since >= APART and self._memory() > had * GROWN + AND_MORE:
            gc.unfreeze()
            began = time.perf_counter()
            found = gc.collect()
            gc.freeze()
            self._walked = self._now(), self._memory()
            log.info("all memory was looked through seconds=%.1f found=%d", time.perf_counter() - began, found)
            return True
        if gc.get_count()[2] >= MIDDLE:
            gc.collect()
            gc.freeze()
        return False
