"""Items by key and in order: a dict and a sorted list of its keys.

A lookup is one dict access and a range a binary search; adding or removing a key moves part of a list of pointers,
which takes microseconds for tens of thousands of keys.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator

from teleport.backend.interface import Item, prefix_end


class OrderedItems:
    """Knows nothing of expiry: whoever reads judges that."""

    def __init__(self, items: Iterable[Item] = ()) -> None:
        self._items = {item.key: item for item in items}
        self._keys = sorted(self._items)

    def __len__(self) -> int:
        return len(self._keys)

    def get(self, key: str) -> Item | None:
        return self._items.get(key)

    def put(self, item: Item) -> None:
        """Add or replace the item of that key."""
        if item.key not in self._items:
            insort(self._keys, item.key)
        self._items[item.key] = item

    def remove(self, key: str) -> Item | None:
        """Take the item out and return it; None when there was none."""
        item = self._items.pop(key, None)
        if item is not None:
            del self._keys[bisect_left(self._keys, key)]
        return item

    def under(self, prefix: str = "", *, start: str = "") -> Iterator[Item]:
        """The items whose key begins with `prefix` and comes after `start`, in order. Not to be changed meanwhile."""
        first = bisect_left(self._keys, prefix)
        if start:
            first = max(first, bisect_right(self._keys, start))
        end = prefix_end(prefix)
        last = len(self._keys) if end is None else bisect_left(self._keys, end)
        for index in range(first, last):
            yield self._items[self._keys[index]]
