"""Copies of audit events: what the log holds arrives at each place, in order and at least once, whoever is killed."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

import pytest
from tests.audit.conftest import AUTH, AuditLog, ManualClock

from teleport.audit.checkpoints import LeaseElsewhere
from teleport.audit.emitter import Emitter
from teleport.audit.events import Exec
from teleport.backend.memory import MemoryBackend
from teleport.clock import SystemClock
from teleport.copies import copier as copier_module
from teleport.copies.copier import Copier, Later, Source, pauses
from teleport.copies.stdout import StreamPlace
from teleport.errors import TeleportError
from teleport.testing.running import wait_until


class Killed(BaseException):
    """Nothing after it is done."""


class Held:
    """A place that keeps what it takes in memory."""

    def __init__(self, doubtful: float = 0.0) -> None:
        self.doubtful = doubtful
        self.lines: list[bytes] = []
        self.problem: BaseException | None = None
        self.after: BaseException | None = None  # once it has taken the lines

    async def write(self, lines: Sequence[bytes]) -> None:
        if self.problem is not None:
            raise self.problem
        self.lines += lines
        if self.after is not None:
            raise self.after

    async def close(self) -> None:
        pass


class Rig:
    """A log with events of one host, and auth's database."""

    def __init__(self, root: Path, backend: MemoryBackend) -> None:
        self.log = AuditLog(root, ManualClock())
        self.backend = backend
        self.place = Held()
        self.emitter: Emitter = self.log.emitter("node-a")
        self.shipper = self.log.shipper(self.emitter)
        self.holds_lease = True

    async def durable(self) -> dict[str, str]:
        return {AUTH: self.log.records.position}

    def lease(self) -> nullcontext[None]:
        if not self.holds_lease:
            raise LeaseElsewhere("another holds it")
        return nullcontext()

    def copier(self, epoch: int = 1, *, own: bool = False, types: Sequence[str] = ()) -> Copier:
        source = Source(self.log.store, self.durable, AUTH, epoch)
        return Copier("siem", self.place, source, self.backend, None if own else self.lease, types=types, look=0.01)

    async def tell(self, count: int, kind: type[Exec] = Exec) -> None:
        for number in range(count):
            await self.emitter.emit(self.emitter.new(kind, login=f"l{number}"))
        await self.shipper.deliver_all()


@asynccontextmanager
async def running(copier: Copier) -> AsyncIterator[None]:
    task = asyncio.create_task(copier.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Rig]:
    backend = MemoryBackend(SystemClock())
    await backend.open()
    made = Rig(directory, backend)
    try:
        yield made
    finally:
        made.log.close()
        await backend.close()


async def test_a_place_gets_each_event_once_in_order_and_the_next_process_goes_on(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig:
        for epoch in (1, 2):
            await rig.tell(7)
            while await rig.copier(epoch).step():
                pass
            assert rig.place.lines == rig.log.lines()


@pytest.mark.parametrize("taken", [False, True])
async def test_a_process_killed_at_any_point_loses_nothing(tmp_path: Path, taken: bool) -> None:
    """Before the place has them, or when it has them and nobody has noted it: they come again, whole."""
    async with opened(tmp_path) as rig:
        await rig.tell(5)
        if taken:
            rig.place.after = Killed()
        else:
            rig.place.problem = Killed()
        with pytest.raises(Killed):
            await rig.copier().step()
        rig.place.problem = rig.place.after = None
        await rig.copier(2).step()
        assert rig.place.lines == rig.log.lines() * (2 if taken else 1)


async def test_a_place_that_fails_keeps_nobody_from_working_and_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Intake goes on; the log of the daemon and the metric say so until all has arrived."""
    async with opened(tmp_path) as rig:
        monkeypatch.setattr(copier_module, "FIRST_PAUSE", 0.01)
        monkeypatch.setattr(copier_module, "MOST_PAUSE", 0.02)
        rig.place.problem = TeleportError("disk full")
        copier = rig.copier()
        with caplog.at_level(logging.INFO):
            async with running(copier):
                await rig.tell(3)
                await wait_until(lambda: copier.problem == "disk full")
                await rig.tell(3)
                assert len(rig.log.lines()) == 6
                assert copier.failing() > 0
                rig.place.problem = None
                await wait_until(lambda: rig.place.lines == rig.log.lines())
                await wait_until(lambda: copier.failing() == 0)
        assert [record.levelname for record in caplog.records if "do not arrive at siem" in record.message] == ["ERROR"]
        assert "audit events arrive at siem again" in caplog.text


def test_a_place_is_left_alone_for_longer_and_longer_and_as_it_asks() -> None:
    waits, pause = [], 1.0
    for error in (TeleportError("away"), TeleportError("away"), Later("busy", seconds=300.0), TeleportError("away")):
        wait, pause = pauses(error, pause)
        waits.append(wait)
    assert waits == [1.0, 2.0, 300.0, 8.0]
    assert pauses(TeleportError("away"), 60.0) == (60.0, 60.0)


async def test_what_a_place_may_have_lost_comes_again(tmp_path: Path) -> None:
    """It took events, and failed soon after: what it took in that time is brought once more."""
    async with opened(tmp_path) as rig:
        rig.place.doubtful = 60.0
        copier = rig.copier()
        await rig.tell(3)
        await copier.step()
        rig.place.problem = TeleportError("refused")
        await rig.tell(2)
        with pytest.raises(TeleportError, match="refused"):
            await copier.step()
        rig.place.problem, rig.place.lines = None, []
        await copier.step()
        assert rig.place.lines == rig.log.lines()


async def test_only_the_holder_of_the_lease_brings_and_an_overtaken_one_notices(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig:
        await rig.tell(2)
        rig.holds_lease = False
        with pytest.raises(LeaseElsewhere):
            await rig.copier().step()
        assert rig.place.lines == []
        rig.holds_lease = True
        slow = rig.copier()

        class Overtaken(Held):
            async def write(self, lines: Sequence[bytes]) -> None:
                slow._place = rig.place
                await rig.copier(2).step()

        slow._place = Overtaken()
        with pytest.raises(LeaseElsewhere):
            await slow.step()
        await rig.tell(1)
        await slow.step()
        assert rig.place.lines == rig.log.lines()


async def test_only_wanted_types_are_brought(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig:
        await rig.tell(4)
        await rig.copier(types=("session.*",)).step()
        assert rig.place.lines == []
        await rig.copier(types=("session.*", "exec")).step()
        assert rig.place.lines == []  # the cursor has passed them
        await rig.tell(1)
        await rig.copier(types=("exec",)).step()
        assert rig.place.lines == rig.log.lines()[-1:]


async def test_a_log_that_was_put_back_is_brought_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The cursor fits it no more: rather twice than never, and said."""
    async with opened(tmp_path) as rig:
        await rig.tell(3)
        await rig.copier().step()
        path = next((rig.log.store / AUTH).glob("*.log"))
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
        rig.log.records.position = f"{path.name} {path.stat().st_size}"
        rig.place.lines = []
        await rig.copier().step()
        assert rig.place.lines == rig.log.lines()
        assert "begin again at the oldest event" in caplog.text


async def test_a_place_of_one_server_begins_now_and_the_newest_process_brings(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig:
        await rig.tell(3)
        first = rig.copier(1, own=True)
        await first.begin()
        await rig.tell(2)
        await first.step()
        assert rig.place.lines == rig.log.lines()[3:]
        second = rig.copier(2, own=True)
        await second.begin()
        await rig.tell(2)
        with pytest.raises(LeaseElsewhere):
            await first.step()
        await second.finish()
        assert rig.place.lines == rig.log.lines()[3:]


async def test_standard_output_gets_whole_lines_and_one_that_nobody_reads_stops_nothing(tmp_path: Path) -> None:
    """More than a pipe holds; giving up ends the thread, and a closed pipe is an error."""
    async with opened(tmp_path) as rig:
        read, write = os.pipe()
        place = StreamPlace(write)
        lines = [b"%d" % number + b"x" * 1000 for number in range(300)]
        task = asyncio.create_task(place.write(lines))
        got = b""
        while not got.endswith(b"\n") or got.count(b"\n") < 300:
            got += await asyncio.to_thread(os.read, read, 65536)
        await task
        assert got.splitlines() == lines
        stuck = asyncio.create_task(place.write(lines))
        await wait_until(lambda: len(rig.log.lines()) == 0 and not stuck.done())
        stuck.cancel()
        await asyncio.wait([stuck])
        os.close(read)
        with pytest.raises(TeleportError, match="standard output"):
            await place.write(lines)
        os.close(write)
