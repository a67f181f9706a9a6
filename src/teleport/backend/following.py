"""How one process follows the changes of a storage that is elsewhere: one stream for all its watchers.

The stream fills a feed. A watcher that is behind the feed reads what it missed from the storage's history. A server
that goes away costs a moment: the stream is taken up where it broke. When none answers for `RESUME_WITHIN` the watches
end with the error, so that nobody takes old news for the newest.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from teleport.backend.feed import Entry, Feed, select
from teleport.backend.interface import BackendClosed, Event, WatchCompacted
from teleport.errors import ConnectionProblem, TeleportError

FEED_EVENTS: Final = 10_000
FEED_BYTES: Final = 32 * 1024 * 1024
RESUME_WITHIN: Final = 5.0  # seconds without a stream, until watchers are told
RETRY: Final = 1.0  # seconds until the changes are followed again after that
AGAIN: Final = 0.05  # seconds until a broken stream is taken up

Stream = AsyncGenerator[tuple[list[Entry], int], None]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Source:
    """What an engine knows of its storage. A stream gives changes and up to which revision they are all."""

    where: str
    revision: Callable[[], Awaitable[int]]
    begin: Callable[[], Awaitable[int]]  # the revision from which to follow
    stream: Callable[[int], Stream]  # the changes after a revision, without end
    history: Callable[[int], Stream]  # likewise, perhaps with one; for a watcher that is behind
    heard: Callable[[Entry], None]  # is told of each change before watchers are


class Following:
    """Of one open storage. `run` it in a task."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.feed = _new_feed()

    def close(self) -> None:
        """The watches there are end."""
        self.feed.fail(BackendClosed("the storage is not open"))

    async def watch(self, prefixes: Sequence[str], start: int) -> AsyncGenerator[list[Event], None]:
        """As `Backend.watch`."""
        feed = self.feed
        wanted = tuple(prefixes)
        position = start
        if start > (last := await self._source.revision()):
            raise WatchCompacted(f"cannot watch from revision {start}: the last is {last}")
        while True:
            interest = feed.interest(wanted)
            if feed.failure is not None:
                raise feed.failure
            entries = feed.after(position)
            if entries is None:
                async with aclosing(self._source.history(position)) as history:
                    async for missed, upto in history:
                        position = upto
                        if events := select(missed, wanted):
                            yield events
                        if feed.failure is not None or feed.after(position) is not None:
                            break
                if not feed.following:  # all there was is told, and nobody says yet what is new
                    await interest.changed.wait()
                continue
            if entries:
                position = entries[-1].revision
                if events := select(entries, wanted):
                    yield events
                continue
            await interest.changed.wait()
            position = max(position, interest.before)

    async def run(self) -> None:
        """Keep the feed at the end of the changes. An error that lasts ends the watches there are."""
        while True:
            try:
                await self._follow_on()
            except WatchCompacted:  # this process stood still for long: let each watcher find out by itself
                log.warning("the changes since are not kept: everything is read again storage=%s", self._source.where)
            except Exception as error:
                if isinstance(error, TeleportError):
                    log.warning("following the changes failed error=%s", error)
                else:
                    log.exception("following the changes failed storage=%s", self._source.where)
                failed, self.feed = self.feed, _new_feed()
                failed.fail(error)
                await asyncio.sleep(RETRY)

    async def _follow_on(self) -> None:
        loop = asyncio.get_running_loop()
        position = await self._source.begin()
        self.feed.reset(position)
        broke: float | None = None
        while True:
            try:
                async with aclosing(self._source.stream(position)) as stream:
                    async for entries, upto in stream:
                        for entry in entries:
                            self._source.heard(entry)
                            self.feed.append(entry)
                        position = upto
                        broke = None
            except ConnectionProblem as error:
                broke = broke or loop.time()
                if loop.time() - broke > RESUME_WITHIN:
                    raise
                log.info("the stream of changes broke, taken up again revision=%d error=%s", position, error)
                await asyncio.sleep(AGAIN)


def _new_feed() -> Feed:
    return Feed(base=None, max_events=FEED_EVENTS, max_bytes=FEED_BYTES)
