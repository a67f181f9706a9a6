"""A proxy tells auth of hosts whose last tunnel ended there: after a grace, again and again, and when it is over."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection
from dataclasses import dataclass

import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.api.routes import Route
from teleport.auth.hosts.unchanged import LONGEST_LOST_AFTER
from teleport.daemon import tunnels_lost
from teleport.daemon.tunnels_lost import FORGOTTEN, GRACE, Lost
from teleport.errors import ConnectionProblem
from teleport.testing.running import wait_until
from teleport.tunnel.registry import Registry


def test_a_host_is_told_of_after_a_grace_until_it_is_back_withdrawn_or_long_gone() -> None:
    lost, registered = Lost(), {"a", "b", "c", "d"}

    def look(held: str, now: float) -> list[str]:
        return lost.look(set(held), registered.__contains__, now)

    assert look("abcd", 0) == []
    assert look("d", 1) == []
    assert look("d", 1 + GRACE) == ["a", "b", "c"]
    registered.discard("b")  # it withdrew
    assert look("cd", 2 + GRACE) == ["a"], "c is back"
    assert look("cd", 1 + FORGOTTEN) == []
    assert look("", 2 + FORGOTTEN) == []
    assert look("c", 2 + FORGOTTEN + GRACE) == ["d"], "c came back within the grace"


@dataclass(frozen=True)
class OneTunnel:
    host_id: str
    epoch: int = 1


class Auth:
    """Notes what it is told; the first call fails."""

    def __init__(self) -> None:
        self.told: list[list[str]] = []
        self.calls = 0

    async def call(self, route: Route[m.LostTunnelsRequest, m.Done], request: m.LostTunnelsRequest) -> m.Done:
        assert route is routes.LOST_TUNNELS
        self.calls += 1
        if self.calls == 1:
            raise ConnectionProblem("auth is away")
        self.told.append(request.hosts)
        return m.Done()


def test_a_host_is_told_of_until_its_silence_tells() -> None:
    assert FORGOTTEN > LONGEST_LOST_AFTER


async def test_auth_is_told_and_told_that_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnels_lost, "GRACE", 0.0)
    monkeypatch.setattr(tunnels_lost, "EVERY", 0.01)
    auth, registry = Auth(), Registry[OneTunnel]()
    tunnels = {host: OneTunnel(host) for host in ("a", "b")}
    for tunnel in tunnels.values():
        assert registry.add(tunnel)
    looks = 0

    def held() -> Collection[str]:
        nonlocal looks
        looks += 1
        return registry.keys()

    telling = tunnels_lost.tell(auth, held, lambda: registry.turns, lambda _: True, look_every=0.001)
    task = asyncio.create_task(telling, name="telling")
    try:
        await asyncio.sleep(0.05)
        assert auth.calls == 0, "there is nothing to tell"
        assert looks == 1, "and nothing to look at"
        registry.remove(tunnels["a"])
        await wait_until(lambda: len(auth.told) >= 3)
        assert auth.told[0] == ["a"]
        second = OneTunnel("a")
        assert registry.add(second)
        await wait_until(lambda: auth.told[-1] == [])
        looks = 0
        assert registry.add(tunnels["a"])
        registry.remove(second)
        await asyncio.sleep(0.05)
        assert looks <= 1, "the hosts are the same"
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
