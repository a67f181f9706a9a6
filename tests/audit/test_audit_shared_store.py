"""Several auth servers whose stores lie in one folder: each chain is taken in by whichever its host asks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from tests.audit.conftest import ManualClock
from tests.audit.test_audit_store_lock import COUNT, chain, deliver

from teleport.audit import spool
from teleport.audit.chain import ChainKey, Head, Linked
from teleport.audit.emitter import Emitter
from teleport.audit.events import UserCreate
from teleport.audit.intake import Intake
from teleport.audit.memory import MemoryRecords
from teleport.audit.outbox import OutboxPump, outbox_write
from teleport.audit.search import Searcher
from teleport.audit.sinks import FileSink, day_files
from teleport.audit.verify import verify_store
from teleport.errors import TeleportError

A, B = "auth-a", "auth-b"


class Killed(BaseException):
    """Nothing after it is done."""


class Records(MemoryRecords):
    """Of which a write may be the last that was wanted."""

    killed = False

    async def save_in(self, store: str, changed: Mapping[ChainKey, Head], position: str) -> None:
        if self.killed:
            raise Killed
        await super().save_in(store, changed, position)


class Servers:
    """Auth A and B."""

    def __init__(self, folder: Path, clock: ManualClock) -> None:
        self.folder, self.clock, self.records = folder, clock, Records()
        self.sinks = {name: FileSink(folder, name, clock, shared=True) for name in (A, B)}
        self.intakes = {name: self.intake(name) for name in (A, B)}

    def intake(self, name: str) -> Intake:
        return Intake(self.sinks[name], self.records, self.clock, cluster="c1", shared=self.records)

    async def start(self) -> tuple[Intake, Intake]:
        for intake in self.intakes.values():
            await intake.start()
        return self.intakes[A], self.intakes[B]

    def lines(self) -> list[bytes]:
        paths = [path for name in (A, B) for path in day_files(self.folder / name)]
        return [line for path in paths for line in path.read_bytes().splitlines()]


@pytest.fixture
def servers(tmp_path: Path, clock: ManualClock) -> Iterator[Servers]:
    made = Servers(tmp_path / "log", clock)
    yield made
    for sink in made.sinks.values():
        sink.close()


async def test_a_chain_goes_on_at_the_other_server(servers: Servers, clock: ManualClock) -> None:
    """None is lost, none is kept twice, none is refused as a gap, and all of it is proved together."""
    a, b = await servers.start()
    for batch, host in enumerate(("host-a", "host-b", "host-c"), start=1):
        await deliver(a, b, host, chain(clock, host, 1), batch)
    kept = servers.lines()
    assert len(kept) == len(set(kept)) == 3 * COUNT
    assert all(day_files(servers.folder / name) for name in (A, B))
    for intake in (a, b):
        await intake.refresh()
        assert {key.emitter: head.seq for key, head in intake.heads().items()} == dict.fromkeys(
            ("host-a", "host-b", "host-c"), COUNT
        )
        report = verify_store(servers.folder, verify=lambda *_: False, known_heads=intake.heads())
        assert report.events == 3 * COUNT
        assert not report.problems


async def test_heads_that_move_while_all_are_read_are_not_forgotten(servers: Servers, clock: ManualClock) -> None:
    """The checkpointer asks for all heads while a batch is taken in."""
    a, b = await servers.start()
    lines = chain(clock, "host-a", 1)
    await b.intake("host-a", 1, lines[:1], allowed_emitter="host-a")
    read, go_on = asyncio.Event(), asyncio.Event()
    load = servers.records.load_heads

    async def slow() -> tuple[Mapping[ChainKey, Head], str]:
        found = await load()
        read.set()
        await go_on.wait()
        return found

    servers.records.load_heads = slow  # type: ignore[method-assign]
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(a.refresh())
        await read.wait()
        await a.intake("host-a", 1, lines[:2], allowed_emitter="host-a")
        go_on.set()
    assert a.head(ChainKey("host-a", 1)).seq == 2
    await a.intake("host-a", 1, lines, allowed_emitter="host-a")
    assert len(servers.lines()) == COUNT


async def test_what_a_killed_server_had_written_is_not_taken_in_again(servers: Servers, clock: ManualClock) -> None:
    """It had kept the events and not their head: the host delivers them again, to the other one."""
    a, b = await servers.start()
    lines = chain(clock, "host-a", 1)
    await a.intake("host-a", 1, lines[:3], allowed_emitter="host-a")
    servers.records.killed = True
    with pytest.raises(Killed):
        await a.intake("host-a", 1, lines[3:5], allowed_emitter="host-a")
    servers.records.killed = False
    ack = await b.intake("host-a", 1, lines[3:], allowed_emitter="host-a")
    assert ack.next_seq == COUNT + 1
    assert len(servers.lines()) == len(set(servers.lines())) == COUNT
    again = servers.intake(A)
    await again.start()
    assert (await again.intake("host-a", 1, lines[-2:], allowed_emitter="host-a")).next_seq == COUNT + 1
    assert len(servers.lines()) == COUNT


async def test_a_folder_that_lacks_what_others_wrote_takes_nothing(
    servers: Servers, clock: ManualClock, tmp_path: Path
) -> None:
    """An old copy of it, say; unless what is missing was put away long ago."""
    a, _ = await servers.start()
    lines = chain(clock, "host-a", 1)
    await a.intake("host-a", 1, lines[:3], allowed_emitter="host-a")
    elsewhere = FileSink(tmp_path / "copy", B, clock, shared=True)
    stray = Intake(elsewhere, servers.records, clock, cluster="c1", shared=servers.records)
    with pytest.raises(TeleportError, match=f"lacks events that auth server {A} has written") as caught:
        await stray.start()
    assert "audit_events_uri" in caught.value.hint
    clock.when += timedelta(days=3)
    for path in day_files(servers.folder / A):
        path.unlink()
    await stray.start()
    elsewhere.close()


@pytest.mark.parametrize("killed", [False, True], ids=["in peace", "killed between"])
async def test_events_of_the_outbox_are_moved_once_by_whichever_is_first(
    servers: Servers, clock: ManualClock, tmp_path: Path, killed: bool
) -> None:
    """The log is looked through only when somebody was killed over it."""
    looked: list[set[str]] = []
    searcher = Searcher(servers.folder)
    await servers.start()

    async def in_store(uids: set[str]) -> set[str]:
        looked.append(uids)
        return await searcher.find_uids(uids, clock.now() - timedelta(days=1))

    emitters = {name: Emitter.open(tmp_path / name, name, 1, clock, cluster="c1") for name in (A, B)}
    pumps = {
        name: OutboxPump(
            servers.records, emitters[name], in_store, servers.sinks[name].lock, step=servers.sinks[name].lock
        )
        for name in (A, B)
    }
    for name in (A, B):
        assert await pumps[name].pump() == 0
    event = emitters[A].new(UserCreate, name="of-a")
    key, value = outbox_write(event)
    servers.records.outbox[key] = value
    if killed:  # it has told of the event, and its log has it, but the record is still there
        async with servers.sinks[A].lock:
            servers.sinks[A].lock.begin_step()
            await emitters[A].emit(event)
        await servers.intakes[A].intake(A, 1, spool_lines(emitters[A]), allowed_emitter=A, own=True)
    assert await pumps[B].pump() == (0 if killed else 1)
    assert servers.records.outbox == {}
    assert await pumps[A].pump() == 0
    assert len(looked) == (1 if killed else 0)
    uids = [Linked.parse(line).uid for one in emitters.values() for line in spool_lines(one)]
    assert uids == [event.uid]
    for emitter in emitters.values():
        emitter.close()


def spool_lines(emitter: Emitter) -> list[bytes]:
    return list(spool.undelivered(emitter.directory))
