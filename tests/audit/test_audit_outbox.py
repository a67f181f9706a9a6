"""Auth's own changes and their events: both or neither, each event once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from teleport.audit import spool
from teleport.audit.chain import Linked
from teleport.audit.events import UserCreate
from teleport.audit.outbox import PREFIX, OutboxPump, outbox_write
from teleport.audit.search import Searcher
from teleport.errors import TeleportError

if TYPE_CHECKING:
    from tests.audit.conftest import AuditLog

    from teleport.audit.emitter import Emitter


def write(log: AuditLog, emitter: Emitter, name: str) -> str:
    log.clock.forward(seconds=1)
    event = emitter.new(UserCreate, name=name)
    key, value = outbox_write(event)
    log.records.outbox[key] = value
    return event.uid


def pump_of(log: AuditLog, emitter: Emitter) -> OutboxPump:
    searcher = Searcher(log.store)
    since = log.clock.now() - timedelta(days=1)
    return OutboxPump(log.records, emitter, lambda uids: searcher.find_uids(uids, since))


def spooled(emitter: Emitter) -> list[str]:
    return [Linked.parse(line).uid for line in spool.undelivered(emitter.directory)]


async def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        await asyncio.sleep(0.002)


async def test_records_become_events_in_order_and_go(audit_log: AuditLog) -> None:
    """Keys sort by the time of the event."""
    emitter = audit_log.emitter("auth-1")
    uids = [write(audit_log, emitter, str(number)) for number in range(5)]
    assert all(key.startswith(PREFIX) for key in audit_log.records.outbox)
    pump = pump_of(audit_log, emitter)
    assert await pump.pump() == 5
    assert spooled(emitter) == uids
    assert audit_log.records.outbox == {}
    assert await pump.pump() == 0


@pytest.mark.parametrize("delivered", [False, True], ids=["still in the spool", "in the store"])
async def test_a_crash_between_emitting_and_deleting_does_not_double(audit_log: AuditLog, delivered: bool) -> None:
    """The record is known by its uid."""
    await audit_log.intake.start()
    emitter = audit_log.emitter("auth-1", 1)
    uids = [write(audit_log, emitter, "a")]
    left = dict(audit_log.records.outbox)
    await pump_of(audit_log, emitter).pump()
    if delivered:
        await audit_log.shipper(emitter).deliver_all()
    emitter.close()
    audit_log.records.outbox |= left
    again = audit_log.emitter("auth-1", 2)
    uids.append(write(audit_log, again, "b"))
    await audit_log.shipper(again).deliver_all()
    pump = pump_of(audit_log, again)
    assert await pump.pump() == 1
    await audit_log.shipper(again).deliver_all()
    assert [Linked.parse(line).uid for line in audit_log.lines()] == uids
    assert audit_log.records.outbox == {}


async def test_the_pump_starts_when_kicked_and_names_what_holds_it_up(
    audit_log: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record is never dropped because the spool is full."""
    monkeypatch.setattr("teleport.audit.outbox.FIRST_PAUSE", 0.005)
    emitter = audit_log.emitter("auth-1")
    pump = pump_of(audit_log, emitter)
    broken = True

    class Sometimes:
        directory = emitter.directory

        async def emit(self, event: UserCreate) -> None:
            if broken:
                raise TeleportError("disk full")
            await emitter.emit(event)

    pump._emitter = Sometimes()  # type: ignore[assignment]
    task = asyncio.create_task(pump.run())
    await asyncio.sleep(0)
    uid = write(audit_log, emitter, "a")
    pump.kick()
    await until(lambda: bool(pump.problem))
    assert pump.problem == "disk full"
    assert audit_log.records.outbox
    broken = False
    await until(lambda: not audit_log.records.outbox)
    task.cancel()
    await asyncio.wait([task])
    assert spooled(emitter) == [uid]


async def test_a_record_that_is_no_event_stops_the_pump_loudly(audit_log: AuditLog) -> None:
    """It is not skipped: somebody wrote what nobody should."""
    emitter = audit_log.emitter("auth-1")
    audit_log.records.outbox[PREFIX + "x"] = b"junk"
    with pytest.raises(TeleportError, match="not an event"):
        await pump_of(audit_log, emitter).pump()
    assert audit_log.records.outbox
