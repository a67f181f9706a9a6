"""Snapshots for watches that begin: read once for all, kept true by the changes that come anyway.

Ten thousand hosts that come back together each begin a watch of the same things. One of them reads the storage, the
others wait for that read; who comes later gets the same items, with the changes since put into them. Without this a
reader is busy with snapshots that all say the same, and the slower it is, the more of them wait for it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Final
from weakref import WeakValueDictionary

from teleport.backend.feed import Feed, select
from teleport.backend.interface import Item, Put, Snapshot

KEPT_FOR: Final = 30.0  # seconds until it is read anew: what has expired leaves then, if nobody swept it before
MOST: Final = 16  # sets of prefixes


@dataclass(slots=True)
class _Kept:
    feed: Feed
    read_at: float
    snapshot: Snapshot


class KeptSnapshots:
    """Of one open storage."""

    def __init__(self, read: Callable[[Sequence[str]], Awaitable[Snapshot]]) -> None:
        self._read = read
        self._kept: OrderedDict[tuple[str, ...], _Kept] = OrderedDict()
        # each goes with the last who waits for it
        self._reading: WeakValueDictionary[tuple[str, ...], asyncio.Lock] = WeakValueDictionary()

    async def get(self, prefixes: Sequence[str], feed: Feed) -> Snapshot:
        """All under `prefixes`, as of what `feed` knows or later. Two of the same state share their list of items."""
        key = tuple(prefixes)
        if (found := self._now(key, feed)) is not None:
            return found
        lock = self._reading.setdefault(key, asyncio.Lock())
        async with lock:
            if (found := self._now(key, feed)) is not None:
                return found
            following = feed.following  # else nobody would say what changes
            began = _time()
            snapshot = await self._read(prefixes)
            if following:
                self._kept[key] = _Kept(feed, began, snapshot)
                self._kept.move_to_end(key)
                while len(self._kept) > MOST:
                    self._kept.popitem(last=False)
            return snapshot

    def _now(self, key: tuple[str, ...], feed: Feed) -> Snapshot | None:
        """What is kept, with all that has come since; None when it has to be read."""
        kept = self._kept.get(key)
        if kept is None or kept.feed is not feed or not feed.following or _time() - kept.read_at >= KEPT_FOR:
            self._kept.pop(key, None)
            return None
        changed: dict[str, Item] | None = None
        revision = kept.snapshot.revision
        while entries := feed.after(revision):
            for event in select(entries, key):
                changed = {item.key: item for item in kept.snapshot.items} if changed is None else changed
                if isinstance(event, Put):
                    changed[event.key] = event.item
                else:
                    changed.pop(event.key, None)
            revision = entries[-1].revision
        if entries is None:  # the feed has forgotten some of it
            del self._kept[key]
            return None
        if changed is not None:
            kept.snapshot = Snapshot(sorted(changed.values(), key=attrgetter("key")), revision)
        elif revision != kept.snapshot.revision:
            kept.snapshot = replace(kept.snapshot, revision=revision)
        return kept.snapshot


def _time() -> float:
    return asyncio.get_running_loop().time()
