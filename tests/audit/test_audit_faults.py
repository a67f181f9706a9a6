"""A slow disk and clocks that jump: emitting waits for the disk and for nothing else; the log stays whole (T41)."""

from __future__ import annotations

import asyncio
import os
import threading
import uuid
from datetime import timedelta
from pathlib import Path

import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.audit.emitter import Emitter
from teleport.audit.events import ServiceStart
from teleport.clock import SystemClock
from teleport.identity import SystemRole
from teleport.testing.auth import present_clock, running_auth


async def test_a_slow_disk_holds_up_what_must_be_on_record_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is acknowledged before it is on disk; the loop goes on; all that waits goes out with the next sync."""
    emitter = Emitter.open(tmp_path, str(uuid.uuid4()), 1, SystemClock())
    await emitter.emit(emitter.new(ServiceStart))
    slow, syncing, sync = threading.Event(), threading.Event(), os.fdatasync

    def held(descriptor: int) -> None:
        syncing.set()
        assert slow.wait(30)
        sync(descriptor)

    monkeypatch.setattr("teleport.audit.appendlog.os.fdatasync", held)
    before = emitter.syncs
    first = asyncio.create_task(emitter.emit(emitter.new(ServiceStart)))
    assert await asyncio.to_thread(syncing.wait, 30)
    waiting = [asyncio.create_task(emitter.emit(emitter.new(ServiceStart))) for _ in range(50)]
    for _ in range(100):
        await asyncio.sleep(0)  # the loop turns
    assert not first.done()
    assert not any(task.done() for task in waiting)
    assert emitter.durable_seq == 1
    slow.set()
    await asyncio.gather(first, *waiting)
    assert (emitter.durable_seq, emitter.syncs - before) == (52, 2)
    emitter.close()


@pytest.mark.parametrize("jump", [timedelta(days=2), timedelta(hours=-5)], ids=["forward and back", "back and forward"])
async def test_a_clock_that_jumps_leaves_the_log_whole_and_auth_at_work(tmp_path: Path, jump: timedelta) -> None:
    """Writes go on at each time, all are found, and the log is proved."""
    clock = present_clock()
    clock.jump(-timedelta(days=10).total_seconds())  # TLS looks at the machine's time, which no jump may pass
    async with running_auth(tmp_path, sqlite=True, clock=clock) as auth:
        names: list[str] = []
        clock.jump(timedelta(days=5).total_seconds())  # nor the time when the authorities were made
        for step, move in enumerate((timedelta(), jump, -jump)):
            clock.jump(move.total_seconds())
            # a certificate of the future does not count: after a jump back there are new ones
            admin = auth._admin = await auth.host(SystemRole.ADMIN, host_id=auth.host_id, name="auth")
            for number in range(5):
                names.append(f"user-{step}-{number}")
                await auth.call(admin, routes.ADD_USER, m.AddUserRequest(name=names[-1], roles=["access"]))
            await auth.events("user.create", wait_for=len(names))
        found = await auth.events("user.create", wait_for=len(names))
        assert {event["name"] for event in found} == set(names)
        reply = await auth.call(admin, routes.VERIFY_EVENTS, m.Empty())
        assert (reply.ok, reply.problems) == (True, [])
