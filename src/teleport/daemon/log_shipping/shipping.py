"""Brings the log to a receiver, and keeps nobody waiting: entries go into memory, a thread does the rest.

The thread writes them to a spool and brings its batches, again and again until the receiver has taken them. What the
receiver had no room for and the spool neither, oldest first, is dropped and counted; that is said once, and so is how
much it was. A line that the receiver never takes, since it is too long, is dropped and counted, too. The log of this
host (`teleport.log.output`) has everything as ever.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from teleport.copies.copier import AGAIN, FIRST_PAUSE, Place, TooLarge, pauses
from teleport.daemon.log_shipping.form import Entry, line_of
from teleport.daemon.log_shipping.spool import LogSpool
from teleport.errors import TeleportError

QUEUE: Final = 10_000  # entries in memory
QUEUE_BYTES: Final = 8 * 1024 * 1024  # of memory that they take
GATHER: Final = 0.5  # seconds in which entries come together to a batch
ADOPT: Final = 60.0  # seconds between looks for what a dead process left
LAST: Final = 2.0  # seconds at the end

log = logging.getLogger(__name__)


def size_of(entry: Entry) -> int:
    """Bytes of memory that an entry takes, about."""
    return 256 + sys.getsizeof(entry.message)


class Shipper:
    """One receiver. `add` entries from any thread; `start` once no process is forked any more; `close` at the end."""

    def __init__(
        self, name: str, make_place: Callable[[], Place], spool: LogSpool, host: str, *, gather: float = GATHER
    ) -> None:
        """`make_place` is called in the thread, since what it makes belongs to the loop there."""
        self.name = name
        self.sent = 0  # lines
        self.dropped = 0
        self.problem = ""
        self._make_place = make_place
        self._spool = spool
        self._host = host
        self._gather = gather
        self._pid = os.getpid()
        self._lock = threading.RLock()  # of what follows; an entry may be made while one is added, by the same thread
        self._entries: deque[Entry] = deque()
        self._size = 0  # bytes of memory
        self._woken = False  # the thread was told of them
        self._full = 0  # entries for which memory had no room, not counted among the dropped yet
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news = asyncio.Event()
        self._batches = asyncio.Event()
        self._ending = asyncio.Event()
        self._closing = False
        self._opened = False
        self._told = 0.0
        self._large_told: float | None = None
        self._dropping = 0  # `dropped` when that began

    @property
    def waiting(self) -> int:
        """Bytes in the spool."""
        return self._spool.waiting

    def add(self, entry: Entry) -> None:
        """Never waits for the receiver or the disk."""
        if os.getpid() != self._pid:
            return  # a child that was forked: nobody would bring it
        size = size_of(entry)
        with self._lock:
            if len(self._entries) >= QUEUE or self._size + size > QUEUE_BYTES:
                self._full += 1
                return
            self._entries.append(entry)
            self._size += size
            if self._woken:
                return
            self._woken = True
        self._call(self._news.set)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._main, name=f"log lines to {self.name}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Brings what is there where that is quick; the rest is in the spool for the next process."""
        thread, self._thread = self._thread, None
        if thread is not None and os.getpid() == self._pid:
            self._closing = True
            self._call(self._ending.set)
            thread.join(LAST * 3)

    def _call(self, what: Callable[[], object]) -> None:
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # it has ended
                loop.call_soon_threadsafe(what)

    def _main(self) -> None:
        try:
            asyncio.run(self._run())
        except Exception:  # the daemon goes on without
            log.exception("log lines are not brought to %s any more", self.name)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        if self._closing:
            self._ending.set()
        self._news.set()  # what came before there was a loop
        place = self._make_place()
        tasks = [
            asyncio.create_task(self._keep_on(), name=f"log lines for {self.name} to disk"),
            asyncio.create_task(self._bring_on(place), name=f"log lines to {self.name}"),
        ]
        try:
            await self._ending.wait()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self._keep()
            with suppress(TimeoutError, TeleportError):
                async with asyncio.timeout(LAST):
                    while await self._bring(place):
                        pass
        finally:
            with suppress(TeleportError, OSError):
                await place.close()
            self._spool.close()

    async def _keep_on(self) -> None:
        loop = asyncio.get_running_loop()
        adopted = loop.time()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(ADOPT):
                    await self._news.wait()
            self._news.clear()
            if loop.time() - adopted >= ADOPT:
                self._opened, adopted = False, loop.time()
            self._keep()
            await asyncio.sleep(self._gather)

    def _keep(self) -> None:
        """From memory to the spool."""
        with self._lock:
            entries, self._entries = self._entries, deque()
            full, self._full = self._full, 0
            self._size, self._woken = 0, False
        gone, why = full, "more came at once than memory has room for" if full else ""
        try:
            if not self._opened:
                gone += self._spool.open()
                self._opened = True
            older = self._spool.append([line_of(entry, self._host, self._pid) for entry in entries])
            if older:
                gone, why = gone + older, f"its spool {self._spool.folder} is full"
        except Exception as error:  # whatever it was: the thread goes on, and this is seen
            self._opened = False
            gone, why = gone + len(entries), error.message if isinstance(error, TeleportError) else str(error)
        if self._spool.waiting:
            self._batches.set()
        self._count(gone, why)

    def _count(self, gone: int, why: str) -> None:
        """The beginning is said, and the end with the number."""
        if gone and not self._dropping:
            self._dropping = self.dropped + 1
            log.error("log lines for %s are dropped, the oldest first: %s", self.name, why)
        self.dropped += gone

    async def _bring_on(self, place: Place) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                while await self._bring(place):
                    self._well()
                    pause = FIRST_PAUSE
                self._batches.clear()
                await self._batches.wait()
            except Exception as error:  # whatever it was: the receiver is tried again, and this is seen
                self._failed(error.message if isinstance(error, TeleportError) else repr(error))
                wait, pause = pauses(error, pause)
                await asyncio.sleep(wait)

    async def _bring(self, place: Place) -> bool:
        """One batch; whether there was any. Raises what the place does."""
        batch = self._spool.next()
        if batch is None:
            return False
        lines = self._spool.lines(batch)
        refused = 0
        if lines:
            try:
                await place.write(lines)
            except TooLarge as error:  # the others are there: one line is not to keep all that follow back for ever
                refused = error.lines
                self._too_large(refused, error.message)
        if self._spool.done(batch):  # else it was dropped meanwhile, and counted
            self.sent += len(lines) - refused
        return True

    def _too_large(self, lines: int, why: str) -> None:
        self.dropped += lines
        if self._dropping:
            self._dropping += lines  # that number is of those for which there was no room
        now = asyncio.get_running_loop().time()
        if self._large_told is None or now - self._large_told >= AGAIN:
            self._large_told = now
            log.error("a log line is dropped, the others are brought: %s", why)

    def _well(self) -> None:
        if self.problem:
            log.info("log lines arrive at %s again", self.name)
        self.problem = ""
        if self._dropping and self._spool.waiting < self._spool.most // 2:
            log.warning("%d log lines for %s were dropped", self.dropped - self._dropping + 1, self.name)
            self._dropping = 0

    def _failed(self, why: str) -> None:
        now = asyncio.get_running_loop().time()
        if why != self.problem or now - self._told >= AGAIN:
            self._told = now
            log.error("log lines do not arrive at %s; they are kept here and brought later: %s", self.name, why)
        self.problem = why
