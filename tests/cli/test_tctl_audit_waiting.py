"""A process that is frozen holds up the audit log: answers say that they lack something, and whom to end."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from tests.cli.test_tctl_commands import Admin, administration
from tests.web.session_rig import Person, proxy_with_sessions

from teleport.api import messages as m
from teleport.api import routes
from teleport.audit.store_lock import StoreLock
from teleport.daemon.monitoring import service_metrics
from teleport.daemon.monitoring.metrics import Metrics
from teleport.testing.auth import CLUSTER

HOLDS = """
import sys
from pathlib import Path
from teleport.audit.store_lock import StoreLock
with StoreLock(Path(sys.argv[1])).blocking():
    print("held", flush=True)
    sys.stdin.read()
"""


def begin(lock: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", HOLDS, str(lock)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@asynccontextmanager
async def frozen_holder(lock: Path) -> AsyncIterator[int]:
    """Another process that was stopped while it held the lock; ended at the end."""
    with await asyncio.to_thread(begin, lock) as other:
        try:
            assert other.stdout is not None
            assert await asyncio.to_thread(other.stdout.readline) == b"held\n"
            os.kill(other.pid, signal.SIGSTOP)
            yield other.pid
        finally:
            other.kill()


@asynccontextmanager
async def held_up(directory: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Admin, int, AsyncExitStack]]:
    """Auth whose store somebody else holds, with two events that wait; closing the stack ends that one."""
    monkeypatch.setattr("teleport.audit.store_lock.TELL_AFTER", 0.3)
    async with administration(directory) as admin, AsyncExitStack() as holding:
        pid = await holding.enter_async_context(frozen_holder(directory / "data" / "log" / f".{admin.auth.host_id}"))
        await admin.ok("users", "add", "bob", "--roles=access")
        await admin.ok("users", "add", "eve", "--roles=access")
        yield admin, pid, holding


async def told(admin: Admin) -> m.EventsWaiting:
    """What auth says, once it does."""
    until = time.monotonic() + 20
    who = await admin.auth.admin()
    while True:
        page: m.EventsPage = await admin.auth.call(
            who, routes.SEARCH_EVENTS, m.SearchEventsRequest(types=["user.create"])
        )
        assert page.lines == []
        if page.waiting is not None and page.waiting.cause:
            return page.waiting
        assert time.monotonic() < until


async def test_a_search_says_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing any more once the holder is ended: all is there, each event once."""
    monkeypatch.setattr("teleport.auth.evidence.api.LOCKED", 1.0)
    async with held_up(tmp_path, monkeypatch) as (admin, pid, holding):
        waiting = await told(admin)
        assert waiting.count >= 2
        assert waiting.since <= admin.auth.clock.now()
        assert waiting.cause.startswith(f"process {pid} on ")
        assert waiting.cause.endswith(f"holds {tmp_path / 'data' / 'log'}/.{admin.auth.host_id}.lock")

        for form in ("text", "json"):
            ran = (await admin("audit", "ls", "--type=user.create", f"--format={form}")).ok()
            assert "Not everything is in this answer. At least " in ran.err
            assert f"process {pid} on " in ran.err
            assert "wait" not in ran.out
        verified = await admin("audit", "verify", "--format=json")
        assert verified.status != 0
        assert f"cannot be proved now: process {pid} on " in verified.err

        numbers = Metrics()
        watched = service_metrics.Authorities(admin.auth.service, admin.auth.clock)
        service_metrics.of_auth(numbers, admin.auth.service, watched)
        shown = dict(line.rsplit(" ", 1) for line in numbers.text().splitlines() if not line.startswith("#"))
        assert float(shown["teleport_audit_store_held_seconds"]) > 0.3
        assert "teleport_audit_events_waiting" in shown

        await holding.aclose()
        await admin.auth.events("user.create", wait_for=2)
        ran = (await admin("audit", "ls", "--type=user.create", "--format=json")).ok()
        assert sorted(json.loads(line)["name"] for line in ran.out.splitlines()) == ["bob", "eve"]
        assert "Not everything" not in ran.err
        assert (await admin("audit", "verify")).ok().err == ""


async def test_the_pages_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the log and that of the numbers."""
    monkeypatch.setattr("teleport.audit.store_lock.TELL_AFTER", 0.3)
    async with AsyncExitStack() as stack:
        admin = await stack.enter_async_context(administration(tmp_path))
        web = await stack.enter_async_context(proxy_with_sessions(admin.auth, tmp_path))
        ann = await (await Person.made(admin.auth, "ann", ("auditor",))).browser(web)
        async with frozen_holder(tmp_path / "data" / "log" / f".{admin.auth.host_id}") as pid:
            await admin.ok("users", "add", "zoe", "--roles=access")
            until = time.monotonic() + 20
            for path in ("events/search", "dashboard"):
                found = None
                while not found or not found["cause"]:
                    assert time.monotonic() < until
                    found = (await ann.ask("GET", f"/webapi/sites/{CLUSTER}/{path}")).json["waiting"]
                assert found["cause"].startswith(f"process {pid} on ")
                assert found["count"] >= 1


async def test_who_waits_at_the_door_of_one_that_is_frozen_there_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for the lock itself as a rule; when that is free, the one at the door does not get on."""
    monkeypatch.setattr("teleport.audit.store_lock.TELL_AFTER", 0.0)
    ours = StoreLock(tmp_path / "store")
    async with ours:
        pass
    with (tmp_path / "store.door").open("r+b") as door:
        fcntl.flock(door, fcntl.LOCK_EX)
        os.pwrite(door.fileno(), b"process 1 on \x1b[2Jelsewhere\0".ljust(160, b"\0"), 17)
        waits = asyncio.create_task(ours.__aenter__())
        await asyncio.sleep(0)
        held = ours.held_up()
        assert held is not None
        assert str(held) == f"process 1 on [2Jelsewhere holds {tmp_path / 'store.lock'}"
    await waits
    assert ours.held_up() is None
    await ours.__aexit__(None, None, None)
    ours.close()
