"""What lists that are searched and sorted at auth have in common: the size of a page, what was read of stored items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Generic, Protocol, TypeVar

import msgspec

from teleport.backend.interface import Item

MOST: Final = 200  # things of a page
LARGEST: Final = 96_000  # bytes of a page
MAX_SEARCH: Final = 256  # characters


class Known(Protocol):
    """A stored item, read from one revision of it."""

    @property
    def revision(self) -> int: ...


K = TypeVar("K", bound=Known)
S = TypeVar("S", bound=msgspec.Struct)


class Remembered(Generic[K]):
    """Reads items, each once for each revision of it."""

    def __init__(self, read: Callable[[Item], K]) -> None:
        self._read = read
        self._known: dict[str, K] = {}  # by key

    def of(self, items: Sequence[Item]) -> list[K]:
        """All of `items`; what is not among them any more is forgotten."""
        former, present = self._known, dict[str, K]()
        for item in items:
            known = former.get(item.key)
            if known is None or known.revision != item.revision:
                known = self._read(item)
            present[item.key] = known
        self._known = present
        return list(present.values())


def cut(items: list[S]) -> list[S]:
    """As many as a page has room for; at least one."""
    size = 0
    for number, item in enumerate(items):
        size += len(msgspec.json.encode(item)) + 1
        if size > LARGEST and number:
            return items[:number]
    return items
