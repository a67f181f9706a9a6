"""How a write happens once, although its answer may be lost and it is then sent again.

A slot is a key that one process alone writes, and only in transactions: each of them compares the slot's revision with
the one known, and writes the slot along with the rest. So of a transaction that was sent twice at most one can be
carried out, and whether any was can be read from the slot: its revision changed, and is that of the transaction.
As many transactions go on at once as there are slots; one whose last transaction ended in the dark is not used again.

Slots have a lease, and vanish some time after their process. One that vanished unused is made anew.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from teleport.backend.etcd.layout import Layout

MOST: Final = 128  # transactions of one process at once
LASTS: Final = 600.0  # seconds that a slot is there after it was written; far more than a write is tried for


@dataclass(slots=True)
class Slot:
    key: bytes
    revision: int = 0  # etcd's, of its last change; 0: it is not there
    settled: bool = True  # whether that is known for sure


class Slots:
    """Of one open storage."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._process = secrets.token_hex(8)
        self._free: list[Slot] = []
        self._made = 0
        self._places = asyncio.Semaphore(MOST)

    @asynccontextmanager
    async def one(self) -> AsyncGenerator[Slot, None]:
        """A slot for one write."""
        async with self._places:
            if self._free:
                slot = self._free.pop()
            else:
                slot = Slot(self._layout.slot(self._process, self._made))
                self._made += 1
            try:
                yield slot
            finally:
                if slot.settled:
                    self._free.append(slot)

    @property
    def range(self) -> tuple[bytes, bytes]:
        """Where they are."""
        return self._layout.slots(self._process)
