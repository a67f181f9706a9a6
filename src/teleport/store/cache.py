"""A service's local copy of what it may read, kept up to date by one stream and served when the source is away.

Rules:

- Reads never wait and never leave the process. Before the first snapshot there is nothing to read, and a read
  says so by an error: an empty answer could mean "no locks" to a caller, and no data never means yes.
- While the source is away the old copy is served, for as long as it lasts; `age` tells callers who must not decide
  on old data how old it may be.
- A snapshot replaces the copy in one step, changes are applied a whole batch at a time: no reader sees half.
- An item whose time has come is not returned, whether or not the source said so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from teleport import counted
from teleport.backend.interface import Changes, Deleted, Event, Item, Put, Snapshot
from teleport.backend.ordered import OrderedItems
from teleport.clock import Clock
from teleport.errors import ConnectionProblem

CLOSE_WITHIN = 5.0  # seconds that a broken source gets to end

log = logging.getLogger(__name__)

Update = Snapshot | Changes


class Source(Protocol):
    """What the cache is filled from: a snapshot first, then changes; a further snapshot replaces all.

    Changes come in the order of their revisions, none twice. `backend.follow.follow` is one; an async generator fits.
    """

    def __aiter__(self) -> AsyncIterator[Update]: ...

    async def aclose(self) -> None: ...


SourceFactory = Callable[[], Source]
Callback = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before connecting again, in seconds: doubling from `first` up to `most`."""

    first: float = 0.5
    most: float = 30.0

    def delay(self, failures: int, jitter: float) -> float:
        """The pause after so many failures in a row (from 1); `jitter` in [0, 1) takes away up to half of it."""
        full = min(self.most, self.first * 2.0 ** min(failures - 1, 32))
        return full * (1 - jitter / 2)


BACKOFF = Backoff()
SILENCE = 295.0  # seconds; whoever reads from afar notices sooner that nothing comes (`api.client`)


class Turn(Protocol):
    """When a filled cache may ask its source anew (`tunnel.turn`)."""

    async def wait(self) -> None:
        """Until it may."""
        ...

    def heard(self) -> None:
        """The source said something."""
        ...


class Cache:
    """Reads are plain calls; `run` keeps the copy up to date until it is cancelled."""

    def __init__(
        self,
        name: str,
        clock: Clock,
        *,
        jitter: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        backoff: Backoff = BACKOFF,
        silence: float = SILENCE,
    ) -> None:
        """`name` is for logs. `jitter` gives numbers in [0, 1), such as `random.Random().random`.

        A source that says nothing for `silence` seconds is given up and connected anew, so it must send changes
        without events more often than that.
        """
        self._name = name
        self._clock = clock
        self._jitter = jitter
        self._sleep = sleep
        self._backoff = backoff
        self._silence = silence
        self._items: OrderedItems | None = None
        self._revision = 0
        self._contact: tuple[datetime, float] | None = None
        self._subscribers: dict[object, tuple[str, Callback]] = {}
        self._hurried = asyncio.Event()
        self.turn: Turn | None = None

    # Reads

    @property
    def name(self) -> str:
        return self._name

    @property
    def size(self) -> int:
        """How many items the copy has; 0 before the first snapshot."""
        return len(self._items) if self._items is not None else 0

    @property
    def ready(self) -> bool:
        """Whether there was a first snapshot."""
        return self._items is not None

    @property
    def revision(self) -> int:
        """The source's revision that the copy is of."""
        return self._revision

    def get(self, key: str) -> Item | None:
        """The item, or None. Raises `ConnectionProblem` before the first snapshot."""
        item = self._filled().get(key)
        return item if item is not None and item.live(self._clock.now()) else None

    def range(self, prefix: str = "") -> list[Item]:
        """The items under `prefix`, ordered by key. Raises `ConnectionProblem` before the first snapshot."""
        now = self._clock.now()
        return [item for item in self._filled().under(prefix) if item.live(now)]

    def age(self, now: datetime) -> float:
        """Seconds since the source was last heard from; infinite when it never was.

        The larger of what both clocks say: the wall clock may be set back, the other stands still in suspend.
        """
        if self._contact is None:
            return float("inf")
        when, monotonic = self._contact
        return max((now - when).total_seconds(), self._clock.monotonic() - monotonic)

    def subscribe(self, prefix: str, callback: Callback) -> Callable[[], None]:
        """Call `callback` with every later change under `prefix`; call what is returned to end that.

        It is called in the loop, after the whole batch is in the copy; what it raises is logged. After a new snapshot
        it gets what differs from the old copy. The lapse of an item is told when the source has swept it.
        """
        token = object()
        self._subscribers[token] = (prefix, callback)

        def unsubscribe() -> None:
            self._subscribers.pop(token, None)

        return unsubscribe

    # Filling

    async def run(self, connect: SourceFactory, started: Callable[[], None]) -> None:
        """Fill from `connect()`, and from it anew whenever it fails or ends, until cancelled.

        `started` is called once, when the cache is filled for the first time.
        """
        told = False
        async with aclosing(self._updates(connect)) as updates:
            async for update in updates:
                self._take(update)
                if not told:
                    told = True
                    started()

    def hurry(self) -> None:
        """There is a way to the source again: a pause before the next try ends now."""
        self._hurried.set()

    async def _pause(self, seconds: float) -> None:
        self._hurried.clear()
        waits = [asyncio.ensure_future(self._sleep(seconds)), asyncio.ensure_future(self._hurried.wait())]
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                one.result()
        finally:
            for one in waits:
                one.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _updates(self, connect: SourceFactory) -> AsyncGenerator[Update, None]:
        """One stream out of many sources: each begins with a snapshot, with a pause after each that failed."""
        failures = 0
        while True:
            if self.turn is not None and self.ready:
                await self.turn.wait()  # many are cut off at once, and what all have in common comes first
            filled = False
            reason = "the source ended"
            try:
                async with aclosing(_heard(connect(), self._silence)) as updates:
                    async for update in updates:
                        if isinstance(update, Snapshot):
                            filled = True
                        elif not filled:
                            raise ConnectionProblem("the source began without a snapshot")
                        else:
                            failures = 0  # a source that gives snapshots only to break off is no good one
                        yield update
            except TimeoutError:
                reason = f"nothing heard for {self._silence:g} s"
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
            failures += 1
            counted.CACHE_LOST.add(self._name)
            delay = self._backoff.delay(failures, self._jitter())
            log.warning(
                "cache lost its source name=%s ready=%s retry_in=%.1f reason=%r", self._name, self.ready, delay, reason
            )
            await self._pause(delay)

    def _take(self, update: Update) -> None:
        self._contact = (self._clock.now(), self._clock.monotonic())
        events = self._replace(update) if isinstance(update, Snapshot) else self._apply(update.events)
        self._revision = update.revision
        if self.turn is not None:
            self.turn.heard()
        counted.CACHE_EVENTS.add(by=len(events))
        for event in events:
            self._tell(event)

    def _replace(self, snapshot: Snapshot) -> list[Event]:
        """Take the snapshot for the copy; what thereby changed."""
        old, new = self._items or OrderedItems(), OrderedItems(snapshot.items)
        self._items = new
        events: list[Event] = [
            Deleted(item.key, snapshot.revision) for item in old.under() if new.get(item.key) is None
        ]
        events += [Put(item) for item in new.under() if old.get(item.key) != item]
        return events

    def _apply(self, events: Sequence[Event]) -> list[Event]:
        """Take a batch into the copy; those of its events that were news."""
        items = self._filled()
        applied: list[Event] = []
        for event in events:
            held = items.get(event.key)
            if held is not None and held.revision >= event.revision:
                continue  # known from the snapshot already
            match event:
                case Put(item):
                    items.put(item)
                case Deleted(key):
                    if items.remove(key) is None:
                        continue
            applied.append(event)
        return applied

    def _tell(self, event: Event) -> None:
        for token, (prefix, callback) in list(self._subscribers.items()):
            if token not in self._subscribers or not event.key.startswith(prefix):
                continue  # the former: an earlier callback ended this subscription
            try:
                callback(event)
            except Exception:  # one subscriber's mistake is not the others'
                log.exception("a subscriber of the cache failed name=%s key=%s", self._name, event.key)

    def _filled(self) -> OrderedItems:
        if self._items is None:
            raise ConnectionProblem(
                f"the {self._name} cache is empty: its source has not been reached yet",
                hint="check that the auth service runs and can be reached: tctl status",
            )
        return self._items


async def _heard(source: Source, silence: float) -> AsyncGenerator[Update, None]:
    """What the source says; `TimeoutError` after `silence` seconds without a word. Closes it in the end."""
    try:
        updates = aiter(source)
        while True:
            async with asyncio.timeout(silence):
                try:
                    update = await anext(updates)
                except StopAsyncIteration:
                    return
            yield update
    finally:
        try:
            async with asyncio.timeout(CLOSE_WITHIN):
                await source.aclose()
        except Exception as error:  # it is given up anyway
            log.debug("closing a source failed error=%r", error)
