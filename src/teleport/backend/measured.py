"""A storage whose calls are counted and timed, for `/metrics`. It changes nothing of what the engine does."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from datetime import datetime

from teleport import counted
from teleport.backend.interface import Backend, Condition, Event, Item, Put, Snapshot, Write
from teleport.errors import AlreadyExists, BadRequest, CompareFailed, NotFound

_EXPECTED = (NotFound, AlreadyExists, CompareFailed, BadRequest)  # of what was asked, not of the storage


@contextmanager
def _timed(operation: str) -> Iterator[None]:
    began = time.perf_counter()
    counted.BACKEND_REQUESTS[operation].add()
    try:
        yield
    except _EXPECTED:
        raise
    except Exception:
        counted.BACKEND_FAILED.add()
        raise
    finally:
        counted.BACKEND_SECONDS[operation].add(time.perf_counter() - began)


class MeasuredBackend:
    """`Backend` over another one. To be called in the loop's thread, as that is."""

    def __init__(self, engine: Backend) -> None:
        self._engine = engine

    async def get(self, key: str) -> Item | None:
        with _timed("read"):
            return await self._engine.get(key)

    async def range(self, prefix: str = "", *, start: str = "", limit: int = 0) -> list[Item]:
        with _timed("batch_read"):
            return await self._engine.range(prefix, start=start, limit=limit)

    async def snapshot(self, prefixes: Sequence[str]) -> Snapshot:
        with _timed("batch_read"):
            return await self._engine.snapshot(prefixes)

    async def watched_snapshot(self, prefixes: Sequence[str]) -> Snapshot:
        with _timed("batch_read"):
            return await self._engine.watched_snapshot(prefixes)

    async def create(self, key: str, value: bytes, *, expires: datetime | None = None) -> int:
        with _timed("write"):
            return await self._engine.create(key, value, expires=expires)

    async def put(self, key: str, value: bytes, *, expires: datetime | None = None) -> int:
        with _timed("write"):
            return await self._engine.put(key, value, expires=expires)

    async def compare_and_swap(self, key: str, revision: int, value: bytes, *, expires: datetime | None = None) -> int:
        with _timed("write"):
            return await self._engine.compare_and_swap(key, revision, value, expires=expires)

    async def delete(self, key: str, *, revision: int | None = None) -> None:
        with _timed("write"):
            await self._engine.delete(key, revision=revision)

    async def renew(self, key: str, expires: datetime, *, revision: int | None = None) -> int:
        with _timed("write"):
            return await self._engine.renew(key, expires, revision=revision)

    async def commit(self, writes: Sequence[Write], *, conditions: Sequence[Condition] = ()) -> int:
        with _timed("batch_write"):
            return await self._engine.commit(writes, conditions=conditions)

    async def revision(self) -> int:
        with _timed("read"):
            return await self._engine.revision()

    async def watch(self, prefixes: Sequence[str], *, start: int) -> AsyncGenerator[list[Event], None]:
        async with aclosing(self._engine.watch(prefixes, start=start)) as batches:
            async for batch in batches:
                counted.WATCHER_EVENTS.add(by=len(batch))
                counted.WATCHER_SIZES.add(by=sum(len(one.item.value) for one in batch if isinstance(one, Put)))
                yield batch
                del batch  # while nothing changes, a watch keeps nothing

    async def close(self) -> None:
        await self._engine.close()
