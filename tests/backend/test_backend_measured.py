"""A storage that is counted gives what the engine gives, and its numbers say what was asked of it."""

from __future__ import annotations

from contextlib import aclosing

import pytest

from teleport import counted
from teleport.backend.interface import BackendClosed, PutOp
from teleport.backend.measured import MeasuredBackend
from teleport.backend.memory import MemoryBackend
from teleport.clock import SystemClock
from teleport.errors import AlreadyExists, NotFound


def requests() -> dict[str, float]:
    return {name: one.values[""] for name, one in counted.BACKEND_REQUESTS.items()}


def seconds() -> dict[str, int]:
    return {name: sum(one.counts) for name, one in counted.BACKEND_SECONDS.items()}


async def test_calls_are_counted_by_what_they_are_and_give_what_the_engine_gives() -> None:
    engine = MemoryBackend(SystemClock())
    await engine.open()
    backend = MeasuredBackend(engine)
    before, timed, failed = requests(), seconds(), counted.BACKEND_FAILED.values[""]
    events, sizes = counted.WATCHER_EVENTS.values[""], counted.WATCHER_SIZES.values[""]
    revision = await backend.create("a", b"12345")
    with pytest.raises(AlreadyExists):
        await backend.create("a", b"2")
    with pytest.raises(NotFound):
        await backend.delete("b")
    item = await backend.get("a")
    assert item is not None
    assert (item.value, item.revision) == (b"12345", revision)
    assert [one.key for one in await backend.range("")] == ["a"]
    await backend.commit([PutOp("c", b"abc")])
    async with aclosing(backend.watch([""], start=0)) as batches:
        heard = [one.key for one in await anext(batches)]
        if heard == ["a"]:
            heard += [one.key for one in await anext(batches)]
    assert heard == ["a", "c"]
    wanted = {"read": 1, "write": 3, "batch_read": 1, "batch_write": 1}
    assert {name: count - before[name] for name, count in requests().items()} == wanted
    assert {name: count - timed[name] for name, count in seconds().items()} == wanted
    assert counted.WATCHER_EVENTS.values[""] - events == 2
    assert counted.WATCHER_SIZES.values[""] - sizes == 8
    assert counted.BACKEND_FAILED.values[""] == failed, "that a key is there, or not, is an answer"
    await backend.close()
    with pytest.raises(BackendClosed):
        await backend.get("a")
    assert counted.BACKEND_FAILED.values[""] == failed + 1
