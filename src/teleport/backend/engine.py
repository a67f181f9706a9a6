"""What all engines share: each write is a decision handed to the engine's transaction, and expired items are swept.

An engine gives `_write`, `sweep`, the reads and the watch. It owns its tasks: they start with `open` and have ended
when `close` returns.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from teleport.backend import decide
from teleport.backend.decide import Decision
from teleport.backend.interface import BackendClosed, Condition, Snapshot, Write
from teleport.errors import TeleportError

SWEEP_EVERY = 1.0  # seconds
CLOSED = "the storage is not open"

log = logging.getLogger(__name__)


class Engine(ABC):
    """Base of the engines. `sweep_every` is in seconds; None leaves sweeping to the caller."""

    def __init__(self, *, sweep_every: float | None) -> None:
        self._sweep_every = sweep_every
        self._tasks: list[asyncio.Task[None]] = []
        self._is_open = False

    # Reads

    @abstractmethod
    async def snapshot(self, prefixes: Sequence[str]) -> Snapshot: ...

    async def watched_snapshot(self, prefixes: Sequence[str]) -> Snapshot:
        return await self.snapshot(prefixes)

    # Writes

    async def create(self, key: str, value: bytes, *, expires: datetime | None = None) -> int:
        return await self._write(decide.create(key, value, expires))

    async def put(self, key: str, value: bytes, *, expires: datetime | None = None) -> int:
        return await self._write(decide.put(key, value, expires))

    async def compare_and_swap(self, key: str, revision: int, value: bytes, *, expires: datetime | None = None) -> int:
        return await self._write(decide.compare_and_swap(key, revision, value, expires))

    async def delete(self, key: str, *, revision: int | None = None) -> None:
        await self._write(decide.delete(key, revision))

    async def renew(self, key: str, expires: datetime, *, revision: int | None = None) -> int:
        return await self._write(decide.renew(key, expires, revision))

    async def commit(self, writes: Sequence[Write], *, conditions: Sequence[Condition] = ()) -> int:
        return await self._write(decide.commit(writes, conditions))

    @abstractmethod
    async def _write(self, decision: Decision) -> int:
        """Decide and change in one transaction; the revision after it."""

    # Life

    @abstractmethod
    async def sweep(self) -> int:
        """Delete the items whose time has come and trim the log of changes; how many items were deleted."""

    async def open(self) -> None:
        """Start; call `close` afterwards, or use `async with`."""
        self._is_open = True
        if self._sweep_every is not None:
            self._start(self._sweep_forever(self._sweep_every), "backend sweep")

    async def close(self) -> None:
        self._is_open = False
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self._tasks.append(asyncio.create_task(work, name=name))

    def _check_open(self) -> None:
        if not self._is_open:
            raise BackendClosed(CLOSED)

    async def _sweep_forever(self, every: float) -> None:
        while True:
            await asyncio.sleep(every)
            try:
                await self.sweep()
            except TeleportError as error:  # tried again at the next turn; reads judge expiry themselves meanwhile
                log.warning("sweep failed error=%s", error)
