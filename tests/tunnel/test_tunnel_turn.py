"""Hosts that come back with many have their tunnels first, and hear auth afterwards."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.tunnel.test_tunnel_server import Client, tunnels

from teleport.identity import SystemRole
from teleport.ssh.server_forwards import ClientView
from teleport.testing.running import wait_until
from teleport.tunnel.pool import MOST_SPREAD
from teleport.tunnel.server import TunnelServer
from teleport.tunnel.turn import LONGEST, Turn

A, B = ("a",), ("b",)
AGES = 1000.0  # seconds; nothing here waits for them


async def waits(turn: Turn) -> bool:
    """Whether it is somebody else's turn now."""
    waiting = asyncio.ensure_future(turn.wait())
    await asyncio.sleep(0)
    done = waiting.done()
    waiting.cancel()
    return not done


class Heeding:
    """What a turn is for: the cache of what auth says, and who announces the host."""

    turn: Any = None


def turn_of_host() -> Turn:
    turn = Turn()
    turn.heeded_by(Heeding(), Heeding(), lambda: False)
    return turn


def due(turn: Turn) -> float:
    """Seconds until it comes by itself."""
    assert turn._timer is not None
    return turn._timer.when() - asyncio.get_running_loop().time()


async def test_a_host_among_few_never_waits() -> None:
    turn = turn_of_host()
    assert not await waits(turn)
    turn.stands(A, 1.0)
    assert not await waits(turn)
    turn.lost(1.0, AGES, A)
    assert not await waits(turn)
    turn.stands(A, 1.0)
    assert not await waits(turn)


async def test_one_of_a_crowd_waits_for_its_tunnel_and_then_until_all_had_the_time_for_theirs() -> None:
    turn = turn_of_host()
    turn.lost(20.0, AGES, A)
    assert await waits(turn)
    assert due(turn) == pytest.approx(LONGEST, abs=5)
    turn.stands(A, 0.5)
    assert await waits(turn)
    assert due(turn) == pytest.approx(30.0, abs=5)
    turn.stands(A, 1.0)  # to one more proxy, or one that changed
    assert due(turn) == pytest.approx(30.0, abs=5)
    turn.now()
    assert not await waits(turn)


async def test_a_proxy_keeps_its_hosts_from_auth_for_no_longer_than_a_while() -> None:
    turn = turn_of_host()
    turn.lost(1e9, AGES, A)
    turn.stands(A, 1.0)
    assert due(turn) <= 2 * MOST_SPREAD + 5
    turn.now()


async def test_who_comes_back_to_another_proxy_says_so_at_once() -> None:
    turn = turn_of_host()
    turn.lost(20.0, AGES, A)
    turn.stands(B, 0.5)
    assert not await waits(turn)


async def test_who_waits_already_waits_on_when_the_tunnel_stands() -> None:
    turn = turn_of_host()
    turn.lost(20.0, AGES, A)
    waiting = asyncio.create_task(turn.wait())
    await asyncio.sleep(0)
    turn.stands(A, 0.5)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    turn.now()
    await waiting


async def test_a_host_whose_service_asks_auth_by_another_way_never_waits() -> None:
    turn = Turn()
    turn.lost(20.0, AGES, A)
    assert not await waits(turn)
    assert not turn.behind


async def test_a_client_waits_until_the_host_has_heard_auth_and_not_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    turn = turn_of_host()
    assert not turn.behind
    turn.lost(20.0, AGES, A)
    turn.stands(A, 1.0)
    assert turn.behind
    comes = asyncio.create_task(turn.catch_up())
    await asyncio.sleep(0)
    assert not await waits(turn), "it asks at once"
    assert not comes.done()
    turn.heard()
    await comes
    assert not turn.behind
    monkeypatch.setattr("teleport.tunnel.turn.CATCH_UP", 0.01)
    turn.lost(20.0, AGES, A)
    await turn.catch_up()  # auth says nothing
    assert turn.behind, "it has not been heard"
    monkeypatch.setattr("teleport.tunnel.turn.CATCH_UP", AGES)
    await turn.catch_up()  # the next client waits for nothing
    turn.heard()
    turn.lost(20.0, AGES, A)
    waiting = asyncio.create_task(turn.catch_up())
    await asyncio.sleep(0)
    assert not waiting.done(), "after another loss clients wait again"
    turn.heard()
    await waiting


async def test_a_host_on_which_something_goes_on_waits_for_nothing() -> None:
    """A session that lives on without its client, say: a lock has to reach it."""
    turn, busy = Turn(), True
    turn.heeded_by(Heeding(), Heeding(), lambda: busy)
    turn.lost(20.0, AGES, A)
    assert not await waits(turn)
    turn.stands(A, 1.0)
    assert not await waits(turn)
    busy = False
    turn.lost(20.0, AGES, A)
    assert await waits(turn)
    busy = True
    turn.lost(20.0, AGES, A)
    assert not await waits(turn)


async def test_a_proxy_that_ends_again_and_again_keeps_nobody_from_auth(monkeypatch: pytest.MonkeyPatch) -> None:
    turn = turn_of_host()
    turn.lost(20.0, AGES, A)
    first = due(turn)
    turn.stands(A, 1.0)
    turn.lost(20.0, AGES, A)
    assert due(turn) <= first
    monkeypatch.setattr("teleport.tunnel.turn.LONGEST", 0.0)
    turn.lost(20.0, AGES, A)
    assert not await waits(turn)
    monkeypatch.undo()
    turn.heard()
    turn.lost(20.0, AGES, A)
    assert await waits(turn), "what was heard in between counts"
    turn.now()


async def test_a_host_whose_proxy_came_back_waits_until_somebody_comes_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """By real tunnels, of a proxy that says it has a crowd."""
    monkeypatch.setattr(TunnelServer, "_spread", 2000)
    monkeypatch.setattr("teleport.tunnel.turn.CATCH_UP", AGES)
    async with tunnels() as lab:
        host = lab.hosts.host(SystemRole.NODE, "node")
        agent = await lab.agent(host)
        await wait_until(lambda: agent.tunnels == 1 and bool(agent._state.spreads))
        assert not await waits(agent.turn)
        agent.turn.heeded_by(Heeding(), Heeding(), lambda: False)
        (tunnel,) = lab.server.registry.every()
        assert isinstance(tunnel._client, ClientView)
        transport = tunnel._client._connection._transport
        assert transport is not None
        transport.abort()  # as when the proxy is killed
        await wait_until(lambda: agent.tunnels == 0)
        assert await waits(agent.turn)
        await wait_until(lambda: agent.tunnels == 1)
        assert await waits(agent.turn), "others may still be coming"
        client = await lab.server.connect(str(host.host_id), Client)
        says = asyncio.create_task(client.says(b"hello", b"hello"))
        await wait_until(lambda: agent.turn._comes.is_set())
        assert not await waits(agent.turn)
        assert not client.got, "nobody is judged by what the host knew before"
        agent.turn.heard()
        await says
