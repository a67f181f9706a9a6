"""Hosts that ask auth through one proxy at once: a few begin, the others when these were answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from uuid import uuid4

import pytest
from tests.tunnel.test_tunnel_auth import Got, with_auth

from teleport.identity import SystemRole
from teleport.ssh.client_session import RemoteSession
from teleport.testing.running import wait_until
from teleport.transport.auth_relay import AuthRelay
from teleport.tunnel.admission import OF_ONE, Admission
from teleport.tunnel.agent import TunnelAgent

Entered = asyncio.Task[Callable[[], None] | None]


def host() -> str:
    """Another one each time."""
    return str(uuid4())


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def leave(entered: Entered) -> None:
    left = entered.result()
    assert left is not None
    left()


async def test_the_last_who_waits_is_the_first_to_go_on() -> None:
    door = Admission(at_once=2, longest=60, holds=60)
    within: list[Entered] = [asyncio.create_task(door.enter(host())) for _ in range(2)]
    await asyncio.gather(*within)
    waiting: list[Entered] = []
    for _ in range(3):
        waiting.append(asyncio.create_task(door.enter(host())))
        await turns()
    assert not any(one.done() for one in waiting)
    for _ in range(2):  # to leave twice is to leave once
        leave(within[0])
    await turns()
    assert [one.done() for one in waiting] == [False, False, True]
    leave(within[1])
    await turns()
    assert [one.done() for one in waiting] == [False, True, True]
    for one in (waiting[2], waiting[1]):
        leave(one)
    leave(await _done(waiting[0]))
    for one in [asyncio.create_task(door.enter(host())) for _ in range(2)]:
        leave(await _done(one))


async def _done(entered: Entered) -> Entered:
    await entered
    return entered


async def test_who_waits_for_long_goes_away_and_who_says_nothing_keeps_nobody_out() -> None:
    door = Admission(at_once=1, longest=0.02, holds=60)
    first = asyncio.create_task(door.enter(host()))
    await first
    assert await door.enter(host()) is None
    leave(first)
    door = Admission(at_once=1, longest=60, holds=0.02)
    assert await door.enter(host()) is not None
    last = await door.enter(host())
    assert last is not None
    last()


@pytest.mark.parametrize("had_its_turn", [False, True])
async def test_a_host_that_goes_while_it_waits_leaves_its_place_to_others(had_its_turn: bool) -> None:
    door = Admission(at_once=1, longest=60, holds=60)
    first = asyncio.create_task(door.enter(host()))
    await first
    gone = asyncio.create_task(door.enter(host()))
    await turns()
    if had_its_turn:
        leave(first)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    if not had_its_turn:
        leave(first)
    last = asyncio.create_task(door.enter(host()))
    await turns()
    leave(last)


async def test_one_host_keeps_nobody_out() -> None:
    door = Admission(at_once=OF_ONE + 1, longest=0.02, holds=60)
    left = [await door.enter("evil") for _ in range(OF_ONE + 3)]
    assert [one is not None for one in left] == [True] * OF_ONE + [False] * 3
    other = await door.enter("other")
    assert other is not None
    assert await door.enter("evil") is None
    for one in (other, *left[:OF_ONE]):
        assert one is not None
        one()
    # nor by waiting
    door = Admission(at_once=0, longest=60, holds=60)
    waiting = [asyncio.create_task(door.enter("evil")) for _ in range(OF_ONE)]
    await turns()
    assert await door.enter("evil") is None
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert not door._of_one


async def asked(agent: TunnelAgent, got: Got) -> RemoteSession:
    session = await agent.to_auth(got.take, got.end)
    assert session is not None
    return session


async def said(session: RemoteSession, got: Got, times: int) -> None:
    for number in range(1, times + 1):
        session.write(b"hello")
        await wait_until(lambda: got.data == b"hello" * number)  # noqa: B023


async def test_hosts_that_come_while_others_begin_are_let_on_once_those_were_answered() -> None:
    async with with_auth() as (lab, auth):
        lab.server.admission = Admission(at_once=1, longest=0.1, holds=60)
        agents = [await lab.agent(lab.hosts.host(SystemRole.NODE, name)) for name in ("one", "two")]
        for agent in agents:
            await agent.wait_first(10)
        got = Got()
        first = await asked(agents[0], got)
        await said(first, got, 1)
        with pytest.raises(ConnectionAbortedError):
            await agents[1].to_auth(Got().take, lambda: None)
        assert len(auth.lines) == 1, "auth was not troubled"
        waiting = asyncio.create_task(asked(agents[1], Got()))
        got.data = b""
        await said(first, got, 1)  # the second answer: the handshake is over
        (await waiting).close()
        assert len(auth.lines) == 2
        # whoever leaves unanswered makes room as well
        await wait_until(lambda: auth.open == 1)
        (await asked(agents[1], Got())).close()
        first.close()
        await wait_until(lambda: auth.open == 0)
        assert lab.server.admission._within == 0


async def test_a_proxy_that_reaches_no_auth_keeps_nobody_from_another_way() -> None:
    async with with_auth() as (lab, auth):
        agent = await lab.agent(lab.hosts.host(SystemRole.NODE, "node"))
        await agent.wait_first(10)
        auth.away = True
        assert await agent.to_auth(Got().take, lambda: None) is None
        assert lab.server.admission._within == 0


async def test_a_host_that_was_told_to_wait_asks_for_no_websocket() -> None:
    asked = 0

    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        writer.close()

    async with with_auth() as (lab, _):
        lab.server.admission = Admission(at_once=0, longest=0.02)
        agent = await lab.agent(lab.hosts.host(SystemRole.NODE, "node"))
        await agent.wait_first(10)
        server = await asyncio.start_server(web, "127.0.0.1", 0)
        async with server, AuthRelay([server.sockets[0].getsockname()[:2]]) as relay:
            relay.by_tunnel = agent.to_auth
            for _ in range(2):
                reader, writer = await asyncio.open_connection(*relay.address)
                assert await reader.read() == b""
                writer.close()
        assert asked == 0
