"""A reader's whole life as one stream: a snapshot, the changes after it, and a new snapshot when the log was cut.

What a cache is filled from, directly or through the API.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from teleport.backend.interface import Backend, Changes, Event, Snapshot, WatchCompacted


async def follow(
    backend: Backend, prefixes: Sequence[str], *, heartbeat: float | Callable[[], float], shared: bool = False
) -> AsyncGenerator[Snapshot | Changes, None]:
    """Everything under `prefixes`, then every change of it, without end.

    A snapshot replaces all that came before it. When nothing changes for `heartbeat` seconds (a function is asked
    before each pause), changes without events say that the source is there. With `shared`, the first snapshot may be
    one that others were given just before (`Backend.watched_snapshot`). Close it when done (`contextlib.aclosing`).
    Raises `BackendClosed` at the end.
    """
    while True:
        snapshot = await (backend.watched_snapshot(prefixes) if shared else backend.snapshot(prefixes))
        shared = False
        position = snapshot.revision
        yield snapshot
        del snapshot  # ten thousand that follow would each keep all there was
        try:
            async with (
                aclosing(backend.watch(prefixes, start=position)) as batches,
                aclosing(_with_pauses(batches, heartbeat)) as paced,
            ):
                async for batch in paced:
                    if batch:
                        position = batch[-1].revision
                    yield Changes(batch, position)
        except WatchCompacted:
            continue


async def _with_pauses(
    batches: AsyncGenerator[list[Event], None], heartbeat: float | Callable[[], float]
) -> AsyncGenerator[list[Event], None]:
    """The batches, and an empty one whenever `heartbeat` seconds passed without any."""
    step = asyncio.ensure_future(anext(batches))
    try:
        while True:
            pause = heartbeat() if callable(heartbeat) else heartbeat
            done, _ = await asyncio.wait([step], timeout=pause)
            if not done:
                yield []
                continue
            try:
                batch = step.result()
            except StopAsyncIteration:
                return
            step = asyncio.ensure_future(anext(batches))
            yield batch
    finally:
        step.cancel()
        await asyncio.gather(step, return_exceptions=True)
