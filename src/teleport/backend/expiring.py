"""Which items expire when, as far as this process knows: what sweeping looks at instead of reading everything. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from heapq import heapify, heappop, heappush

from teleport.backend.interface import Deleted, Event


class Expiring:
    """Told of each change, in any order and more than once; the newest counts."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, datetime]] = {}
        self._heap: list[tuple[datetime, str, int]] = []

    def note(self, events: Iterable[Event]) -> None:
        for event in events:
            known = self._known.get(event.key)
            if known is not None and known[0] >= event.revision:
                continue
            expires = None if isinstance(event, Deleted) else event.item.expires
            if expires is None:
                self._known.pop(event.key, None)
            else:
                self._known[event.key] = (event.revision, expires)
                heappush(self._heap, (expires, event.key, event.revision))
        if len(self._heap) > 2 * len(self._known) + 1000:  # leases that are renewed leave their old times behind
            self._heap = [(expires, key, revision) for key, (revision, expires) in self._known.items()]
            heapify(self._heap)

    def due(self, now: datetime, most: int) -> list[tuple[str, int]]:
        """Keys whose time has come, with the revision of which that is known; forgotten with this."""
        found: list[tuple[str, int]] = []
        while self._heap and self._heap[0][0] <= now and len(found) < most:
            _, key, revision = heappop(self._heap)
            known = self._known.get(key)
            if known is not None and known[0] == revision:
                del self._known[key]
                found.append((key, revision))
        return found

    def put_back(self, keys: Iterable[tuple[str, int]], now: datetime) -> None:
        """They could not be swept: they are due again."""
        for key, revision in keys:
            known = self._known.get(key)
            if known is None or known[0] < revision:
                self._known[key] = (revision, now)
                heappush(self._heap, (now, key, revision))
