"""Presence: said at once, again when something changes, tried again after a failure, withdrawn at the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.auth.hosts.unchanged import LONGEST_LOST_AFTER, MISSED
from teleport.daemon import announce
from teleport.daemon.announce import Announcer
from teleport.errors import ConnectionProblem
from teleport.identity import SystemRole
from teleport.resources.metadata import Metadata
from teleport.resources.server import Server, ServerSpec
from teleport.store.cache import Backoff
from teleport.testing.auth import running_auth

HOST = "7f1f8c3e-6f0a-4a3c-8a56-0d2f7b9c1e11"


def node(**labels: str) -> Server:
    spec = ServerSpec(addr="127.0.0.1:3022", hostname="alpha", epoch="3")
    return Server(metadata=Metadata(name=HOST, labels=labels), spec=spec)


class Auth:
    """Writes down what is said to it, and fails while it is told to."""

    def __init__(self) -> None:
        self.said: list[tuple[str, Any]] = []
        self.failing = ""
        self.silent = False
        self.within = 60.0
        self.turn = asyncio.Event()
        self.turn.set()

    async def its_turn(self) -> None:
        await self.turn.wait()

    async def call(self, route: Any, request: Any) -> Any:
        if self.silent:
            await asyncio.Event().wait()
        if self.failing:
            raise ConnectionProblem(self.failing)
        self.said.append((route.name, request))
        return m.Done()

    async def announce(self, request: Any) -> float:
        await self.call(routes.HEARTBEAT, request)
        return self.within

    def labels(self) -> list[dict[str, str]]:
        """What was announced, in order."""
        return [
            msgspec.json.decode(said.item)["metadata"].get("labels", {})
            for name, said in self.said
            if name == "heartbeat"
        ]


async def until(found: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not found():  # noqa: ASYNC110 - another task makes it true
            await asyncio.sleep(0.005)


async def stop(running: asyncio.Task[None]) -> None:
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_a_service_is_announced_again_when_it_changes_and_withdrawn_with_its_epoch() -> None:
    auth, current = Auth(), [node(v="1")]
    announcer = Announcer(auth, lambda: current[0])  # type: ignore[arg-type]
    running = asyncio.create_task(announcer.run(), name="presence")
    await until(lambda: auth.labels() == [{"v": "1"}])
    current[0] = node(v="2")
    announcer.changed()
    announcer.changed()
    await until(lambda: len(auth.labels()) == 2)
    assert auth.labels() == [{"v": "1"}, {"v": "2"}], "two changes at once are said once"
    await stop(running)
    name, request = auth.said[-1]
    assert (name, request.name) == ("withdraw", "3")


async def test_what_is_the_same_as_before_reads_the_same_and_says_when_it_started() -> None:
    """A description is made anew each time, with the time of then."""
    auth, times = Auth(), iter(range(100))

    def described() -> Server:
        server = node(v="1")
        started = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=next(times))
        return msgspec.structs.replace(server, spec=msgspec.structs.replace(server.spec, started=started))

    announcer = Announcer(auth, described)  # type: ignore[arg-type]
    for _ in range(3):
        await announcer.announce()
    said = {bytes(request.item) for name, request in auth.said if name == "heartbeat"}
    (only,) = said
    assert msgspec.json.decode(only)["spec"]["started"] == "2026-01-01T00:00:00Z"


async def test_a_failure_is_shown_said_once_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(announce, "RETRY", Backoff(0.01, 0.01))
    auth = Auth()
    auth.failing = "auth is away"
    announcer = Announcer(auth, node)  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        running = asyncio.create_task(announcer.run(), name="presence")
        await until(lambda: announcer.problem == "auth is away")
        await asyncio.sleep(0.05)  # several tries
        assert caplog.text.count("auth is away") == 1
        auth.failing = ""
        await until(lambda: not announcer.problem)
    assert auth.labels()
    await stop(running)


async def test_what_waits_for_its_turn_is_said_as_it_is_then() -> None:
    auth, current = Auth(), [node(v="1")]
    auth.turn.clear()
    announcer = Announcer(auth, lambda: current[0])  # type: ignore[arg-type]
    running = asyncio.create_task(announcer.run(), name="presence")
    await asyncio.sleep(0)
    current[0] = node(v="2")
    assert not auth.labels()
    auth.turn.set()
    await until(lambda: auth.labels() == [{"v": "2"}])
    await stop(running)


@pytest.mark.parametrize("how", ["failing", "silent"])
async def test_the_end_is_not_kept_by_an_auth_server_that_is_away(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announce, "FAREWELL", 0.05)
    auth = Auth()
    running = asyncio.create_task(Announcer(auth, node).run(), name="presence")  # type: ignore[arg-type]
    await until(lambda: bool(auth.said))
    if how == "failing":
        auth.failing = "away"
    else:
        auth.silent = True
    async with asyncio.timeout(2):
        await stop(running)


async def test_a_service_announces_itself_when_auth_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announce, "PERIOD", 0.01)
    auth, current = Auth(), [node(v="1")]
    auth.within = 0.0  # no more often than each period
    announcer = Announcer(auth, lambda: current[0])  # type: ignore[arg-type]
    running = asyncio.create_task(announcer.run(), name="presence")
    await until(lambda: len(auth.said) == 3)
    auth.within = 10**9
    told = len(auth.said)
    await until(lambda: len(auth.said) == told + 1)
    await asyncio.sleep(0.1)
    assert len(auth.said) == told + 1, "it says nothing while it need not"
    current[0] = node(v="2")
    announcer.changed()
    await until(lambda: auth.labels()[-1] == {"v": "2"})
    await stop(running)


async def test_the_period_is_the_one_that_presence_is_counted_by() -> None:
    assert announce.PERIOD == 60
    assert LONGEST_LOST_AFTER - MISSED < announce.LONGEST
    assert announce.EARLIER * (LONGEST_LOST_AFTER - MISSED) < announce.PERIOD / 2, "it would not be written"
    assert [announce.RETRY.delay(failures, 0.0) for failures in (1, 2, 3, 4)] == [5, 10, 20, 30]


async def test_auth_lists_what_announced_itself_until_it_withdraws(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        admin, host = await auth.admin(), await auth.host(SystemRole.NODE, host_id=HOST, name="alpha")

        async def listed() -> list[str]:
            page = await auth.call(admin, routes.LIST["node"], m.ListRequest())
            return [msgspec.json.decode(item)["metadata"]["name"] for item in page.items]

        async with auth.async_client(host) as client:
            announcer = Announcer(client, node)
            await announcer.announce()
            assert await listed() == [HOST]
            running = asyncio.create_task(announcer.run(), name="presence")
            await asyncio.sleep(0)
            await stop(running)
            assert await listed() == []
