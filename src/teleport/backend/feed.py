"""The recent changes, in memory and in order, read by any number of watchers each at its own pace.

For the memory engine this is its whole log. For engines with a log elsewhere it saves each watcher its own reading of
that log: one reader follows the log and fills the feed, and only a watcher that is behind the feed reads itself.
Bounded by events and bytes: a watcher that falls behind is told so, and nobody waits for it.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from weakref import WeakValueDictionary

from teleport.backend.interface import Event, Put

BATCH_EVENTS = 500  # about how many events a watcher gets at once


@dataclass(frozen=True, slots=True)
class Entry:
    """All changes of one transaction."""

    revision: int
    events: tuple[Event, ...]

    def size(self) -> int:
        """About how many bytes it holds."""
        return sum(
            100 + len(event.key) + (len(event.item.value) if isinstance(event, Put) else 0) for event in self.events
        )


class Interest:
    """Those who wait for changes under some prefixes. It is over with the first such change; then take another."""

    __slots__ = ("__weakref__", "before", "changed")

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self.before = -1  # once it is set: what came until this revision, after it was taken, is of no interest


class Feed:
    """Changes after revision `base`, at most `max_events` and `max_bytes` of them (the newest is always kept)."""

    def __init__(self, *, base: int | None, max_events: int, max_bytes: int) -> None:
        self._entries: deque[Entry] = deque()
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._events = 0
        self._bytes = 0
        self._base = base
        # gone with the last who waits: whoever watches what never changes, and leaves, leaves nothing here
        self._interests: WeakValueDictionary[tuple[str, ...], Interest] = WeakValueDictionary()
        self.failure: Exception | None = None

    def interest(self, prefixes: tuple[str, ...]) -> Interest:
        """Set at the next change under one of `prefixes`, and when the feed ends or begins anew. Take it *before*
        looking, so that nothing falls between.

        Watchers with the same prefixes share one, and the others sleep on: ten thousand hosts watch the roles, and
        announce themselves a hundred times a second, which concerns proxies alone.
        """
        return self._interests.setdefault(prefixes, Interest())

    @property
    def following(self) -> bool:
        """Whether changes are appended as they come."""
        return self._base is not None and self.failure is None

    def append(self, entry: Entry) -> None:
        self._entries.append(entry)
        self._events += len(entry.events)
        self._bytes += entry.size()
        while len(self._entries) > 1 and (self._events > self._max_events or self._bytes > self._max_bytes):
            self._drop_oldest()
        keys = [event.key for event in entry.events]
        for prefixes in [one for one in self._interests if any(key.startswith(one) for key in keys)]:
            interest = self._interests.pop(prefixes, None)
            if interest is not None:
                interest.before = entry.revision - 1
                interest.changed.set()

    def forget(self, upto: int) -> None:
        """The changes up to revision `upto` are not kept any more, here neither."""
        while self._entries and self._entries[0].revision <= upto:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        oldest = self._entries.popleft()
        self._events -= len(oldest.events)
        self._bytes -= oldest.size()
        self._base = oldest.revision

    def reset(self, base: int | None) -> None:
        """Forget all; begin again after revision `base`, or (None) know nothing until the next reset."""
        self._entries.clear()
        self._events = self._bytes = 0
        self._base = base
        self._wake()

    def fail(self, error: Exception) -> None:
        """No changes will come any more: watchers raise `error`."""
        self.failure = error
        self._wake()

    def after(self, revision: int) -> list[Entry] | None:
        """Some changes after `revision`, the oldest first; empty when there are none; None when not all are known."""
        if self._base is None or revision < self._base:
            return None
        first = bisect_right(self._entries, revision, key=attrgetter("revision"))
        found: list[Entry] = []
        count = 0
        for index in range(first, len(self._entries)):
            entry = self._entries[index]
            found.append(entry)
            count += len(entry.events)
            if count >= BATCH_EVENTS:
                break
        return found

    def _wake(self) -> None:
        interests, self._interests = self._interests, WeakValueDictionary()
        for interest in interests.values():
            interest.changed.set()


def select(entries: Sequence[Entry], prefixes: tuple[str, ...]) -> list[Event]:
    """The events of `entries` whose key begins with one of `prefixes`."""
    return [event for entry in entries for event in entry.events if event.key.startswith(prefixes)]
