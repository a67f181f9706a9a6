"""Hosts that come back with many have their tunnels first, and hear auth afterwards."""

from __future__ import annotations

import asyncio

import pytest
from tests.tunnel.test_tunnel_server import Client, tunnels

from teleport.identity import SystemRole
from teleport.ssh.server_forwards import ClientView
from teleport.testing.running import wait_until
from teleport.tunnel.pool import MOST_SPREAD
from teleport.tunnel.server import TunnelServer
from teleport.tunnel.turn import Turn

A, B = ("a",), ("b",)
AGES = 1000.0  # seconds; nothing here waits for them


async def waits(turn: Turn) -> bool:
    """Whether it is somebody else's turn now."""
    waiting = asyncio.ensure_future(turn.wait())
    await asyncio.sleep(0)
    done = waiting.done()
    waiting.cancel()
    return not done


def due(turn: Turn) -> float:
    """Seconds until it comes by itself."""
    assert turn._timer is not None
    return turn._timer.when() - asyncio.get_running_loop().time()


async def test_a_host_among_few_never_waits() -> None:
    turn = Turn()
    assert not await waits(turn)
    turn.stands(A, 1.0)
    assert not await waits(turn)
    turn.lost(1.0, AGES, A)
    assert not await waits(turn)
    turn.stands(A, 1.0)
    assert not await waits(turn)


async def test_one_of_a_crowd_waits_for_its_tunnel_and_then_until_all_had_the_time_for_theirs() -> None:
    turn = Turn()
    turn.lost(20.0, AGES, A)
    assert await waits(turn)
    assert due(turn) == pytest.approx(AGES, abs=5)
    turn.stands(A, 0.5)
    assert await waits(turn)
    assert due(turn) == pytest.approx(30.0, abs=5)
    turn.stands(A, 1.0)  # to one more proxy, or one that changed
    assert due(turn) == pytest.approx(30.0, abs=5)
    turn.now()
    assert not await waits(turn)


async def test_a_proxy_keeps_its_hosts_from_auth_for_no_longer_than_a_while() -> None:
    turn = Turn()
    turn.lost(1e9, AGES, A)
    turn.stands(A, 1.0)
    assert due(turn) <= 2 * MOST_SPREAD + 5
    turn.now()


async def test_who_comes_back_to_another_proxy_says_so_at_once() -> None:
    turn = Turn()
    turn.lost(20.0, AGES, A)
    turn.stands(B, 0.5)
    assert not await waits(turn)


async def test_a_host_whose_proxy_came_back_waits_until_somebody_comes_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """By real tunnels, of a proxy that says it has a crowd."""
    monkeypatch.setattr(TunnelServer, "_spread", 2000)
    async with tunnels() as lab:
        host = lab.hosts.host(SystemRole.NODE, "node")
        agent = await lab.agent(host)
        await wait_until(lambda: agent.tunnels == 1 and bool(agent._state.spreads))
        assert not await waits(agent.turn)
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
        await client.says(b"hello", b"hello")
        assert not await waits(agent.turn)
