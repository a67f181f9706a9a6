"""Two processes of one host take events in, beside each other: none is lost, none is doubled, none refused as a gap."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from tests.audit.conftest import AUTH, ManualClock

from teleport.audit.chain import ChainKey, ChainState
from teleport.audit.events import ServiceStart, new_event
from teleport.audit.intake import Intake
from teleport.audit.memory import MemoryRecords
from teleport.audit.sinks import FileSink, day_files
from teleport.audit.store_lock import StoreLock

COUNT = 60


def chain(clock: ManualClock, emitter: str, epoch: int) -> list[bytes]:
    state = ChainState(ChainKey(emitter, epoch), 0, "")
    lines = []
    for number in range(COUNT):
        event = new_event(
            ServiceStart, clock.now(), f"{emitter}-{epoch}-{number}", cluster_name="c1", services=["node"]
        )
        line, state = state.append(event, "")
        lines.append(line)
    return lines


def kept_lines(directory: Path) -> list[bytes]:
    return [line for path in day_files(directory / AUTH) for line in path.read_bytes().splitlines()]


async def deliver(one: Intake, other: Intake, emitter: str, lines: list[bytes], batch: int) -> None:
    """Each batch to the one, then the next to the other; some are delivered twice, as after a lost answer."""
    for place in range(0, len(lines), batch):
        part = lines[place : place + batch]
        taker, again = (one, other) if place // batch % 2 else (other, one)
        await taker.intake(emitter, 1, part, allowed_emitter=emitter)
        await again.intake(emitter, 1, part, allowed_emitter=emitter)


async def test_two_processes_take_chains_in_together(tmp_path: Path, clock: ManualClock) -> None:
    records = MemoryRecords()
    sinks = [FileSink(tmp_path, AUTH, clock) for _ in range(2)]
    first, second = (Intake(sink, records, clock, cluster="c1") for sink in sinks)
    await first.start()
    await second.start()
    hosts = ["host-a", "host-b", "host-c"]
    async with asyncio.TaskGroup() as group:
        for batch, host in enumerate(hosts, start=1):
            group.create_task(deliver(first, second, host, chain(clock, host, 1), batch))
    kept = kept_lines(tmp_path)
    assert len(kept) == len(set(kept)) == COUNT * len(hosts)
    await first.refresh()
    assert first.heads()[ChainKey("host-b", 1)].seq == COUNT
    for sink in sinks:
        sink.close()


async def test_without_the_lock_the_same_work_fails(tmp_path: Path, clock: ManualClock) -> None:
    """The checker itself: with a lock for each, every event is doubled."""
    records = MemoryRecords()
    sinks = [FileSink(tmp_path, AUTH, clock) for _ in range(2)]
    sinks[1].lock = StoreLock(tmp_path / "another")
    first, second = (Intake(sink, records, clock, cluster="c1") for sink in sinks)
    await first.start()
    await second.start()
    await deliver(first, second, "host-a", chain(clock, "host-a", 1), 1)
    assert len(kept_lines(tmp_path)) == 2 * COUNT
    for sink in sinks:
        sink.close()


async def test_whoever_waits_gets_it_from_a_process_that_always_has_work(tmp_path: Path) -> None:
    busy, patient = StoreLock(tmp_path / "store"), StoreLock(tmp_path / "store")
    done = asyncio.Event()
    turns = 0

    async def work() -> None:
        nonlocal turns
        while not done.is_set():
            async with busy:
                turns += 1
                await asyncio.sleep(0)

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        for _ in range(4):  # they overlap: there is always one that holds it
            group.create_task(work())
        for _ in range(5):
            async with patient:
                before = turns
                await asyncio.sleep(0.01)
                assert turns == before, "both hold it"
        done.set()
    busy.close()
    patient.close()


async def test_a_store_that_another_process_holds_for_long_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was stopped holds it; nothing is lost, but nothing comes in."""
    monkeypatch.setattr("teleport.audit.store_lock.TELL_AFTER", 0.02)
    ours, theirs = StoreLock(tmp_path / "store"), StoreLock(tmp_path / "store")
    told: asyncio.Queue[str] = asyncio.Queue()

    class Heard(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.put_nowait(record.getMessage())

    async def wait() -> None:
        async with ours:
            pass

    heard = Heard()
    logging.getLogger("teleport.audit.store_lock").addHandler(heard)
    try:
        async with theirs:
            waiting = asyncio.create_task(wait())
            async with asyncio.timeout(10):
                said = await told.get()
            assert not waiting.done()
        await waiting
    finally:
        logging.getLogger("teleport.audit.store_lock").removeHandler(heard)
    assert f"another process has held {tmp_path / 'store'}.lock" in said
    ours.close()
    theirs.close()


async def test_what_is_remembered_is_read_anew_only_after_another_held_it(tmp_path: Path) -> None:
    ours, theirs = StoreLock(tmp_path / "store"), StoreLock(tmp_path / "store")
    again: list[int] = []

    async def reload() -> None:
        again.append(1)

    ours.after_others(reload)
    for _ in range(3):
        async with ours:
            pass
    assert len(again) == 1
    async with theirs:
        pass
    for _ in range(3):
        async with ours:
            pass
    assert len(again) == 2
    ours.close()
    theirs.close()
