"""Hosts reach auth by their tunnels: there, nowhere else, and no more often than they may."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from tests.tunnel.test_tunnel_server import Tunnels, ask, tunnels

from teleport.errors import AccessDenied, ConnectionProblem
from teleport.identity import SystemRole
from teleport.ssh.client_session import RemoteSession
from teleport.ssh.surface import Peer
from teleport.testing.running import wait_until
from teleport.transport.auth_relay import AuthRelay
from teleport.tunnel import agent as agent_module
from teleport.tunnel import messages as m
from teleport.tunnel.admission import Admission
from teleport.tunnel.proxy_end import AUTH_OF_ONE
from teleport.tunnel.registry import Registry
from teleport.wire.forward_spec import TcpEnd


@dataclass
class Auth:
    """In the place of auth: says everything again, after the line that says who comes."""

    port: int = 0
    lines: list[bytes] = field(default_factory=list)
    open: int = 0
    away: bool = False

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            self.lines.append(await reader.readline())
            while data := await reader.read(65536):
                if data == b"go away":
                    break
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            self.open -= 1
            writer.close()

    async def connect(self, peer: Peer, make: Callable[[bytes], asyncio.Protocol]) -> None:
        """As a proxy reaches auth."""
        if self.away:
            raise ConnectionProblem("the proxy cannot reach the auth service")
        line = f"from {peer.host}\n".encode()
        await asyncio.get_running_loop().create_connection(lambda: make(line), "127.0.0.1", self.port)


@asynccontextmanager
async def with_auth() -> AsyncIterator[tuple[Tunnels, Auth]]:
    auth = Auth()
    server = await asyncio.start_server(auth.take, "127.0.0.1", 0)
    auth.port = server.sockets[0].getsockname()[1]
    async with server, tunnels() as lab:
        lab.server.to_auth = auth.connect
        yield lab, auth


class Got:
    def __init__(self) -> None:
        self.data = b""
        self.ended = False

    def take(self, data: bytes, _: bool) -> None:
        self.data += data

    def end(self) -> None:
        self.ended = True


async def test_a_host_reaches_auth_by_its_tunnel_and_auth_hears_from_where() -> None:
    async with with_auth() as (lab, auth):
        agent = await lab.agent(lab.hosts.host(SystemRole.NODE, "node"))
        await agent.wait_first(10)
        got = Got()
        session = await agent.to_auth(got.take, got.end)
        assert session is not None
        session.write(b"hello")
        await wait_until(lambda: got.data == b"hello")
        assert auth.lines == [b"from 127.0.0.1\n"]
        session.write(b"go away")
        await wait_until(lambda: got.ended)
        session.close()
        await wait_until(lambda: auth.open == 0 and all(not one.asking for one in lab.server._all))


async def test_a_tunnel_leads_its_host_to_auth_and_nowhere_else() -> None:
    async with with_auth() as (lab, auth):
        reached = asyncio.Event()
        trap = await asyncio.start_server(lambda *_: reached.set(), "127.0.0.1", 0)
        client = await lab.log_in(lab.hosts.host(SystemRole.NODE, "evil"))
        with pytest.raises(ConnectionProblem, match="nothing new"):  # before it says which process it is
            await client.stream(TcpEnd(m.AUTH, 0), on_output=lambda *_: None)
        assert await ask(client, m.encode(m.Register(epoch=1))) == 81
        async with trap:
            port = trap.sockets[0].getsockname()[1]
            for host, number in (("127.0.0.1", port), ("127.0.0.1", auth.port), (m.AUTH, auth.port), ("@AUTH", 0)):
                with pytest.raises(ConnectionProblem, match="nowhere else"):
                    await client.stream(TcpEnd(host, number), on_output=lambda *_: None)
        assert not reached.is_set()
        assert not auth.lines
        events = await lab.events.wait_for("session.request_denied", 4)
        assert "auth, and nowhere else" in str(events[0])


async def test_a_host_has_a_few_connections_to_auth_and_gets_those_back_that_ended() -> None:
    async with with_auth() as (lab, auth):
        lab.server.admission = Admission(holds=0.0)  # as if each had been answered at once
        client = await lab.log_in(lab.hosts.host(SystemRole.NODE, "node"))
        assert await ask(client, m.encode(m.Register(epoch=1))) == 81
        taken: list[RemoteSession] = []
        for _ in range(AUTH_OF_ONE):
            taken.append(await client.stream(TcpEnd(m.AUTH, 0), on_output=lambda *_: None))
        with pytest.raises(ConnectionProblem, match="at most"):
            await client.stream(TcpEnd(m.AUTH, 0), on_output=lambda *_: None)
        taken[0].close()
        (tunnel,) = lab.server._all
        await wait_until(lambda: tunnel.asking == AUTH_OF_ONE - 1)
        auth.away = True
        with pytest.raises(ConnectionProblem, match="cannot reach the auth service"):
            await client.stream(TcpEnd(m.AUTH, 0), on_output=lambda *_: None)
        assert tunnel.asking == AUTH_OF_ONE - 1
        client.abort()
        await wait_until(lambda: auth.open == 0)


async def test_the_proxy_of_another_cluster_is_not_led_to_auth() -> None:
    async with with_auth() as (lab, auth):
        client = await lab.log_in(lab.hosts.host(SystemRole.NODE, "node"))
        assert await ask(client, m.encode(m.Register(epoch=1))) == 81
        (tunnel,) = lab.server._all
        tunnel.registry = Registry()  # as the tunnels of other clusters have it
        with pytest.raises(ConnectionProblem, match="nowhere else"):
            await client.stream(TcpEnd(m.AUTH, 0), on_output=lambda *_: None)
        assert not auth.lines


async def test_what_a_host_keeps_open_to_auth_ends_with_its_tunnel() -> None:
    async with with_auth() as (lab, auth):
        agent = await lab.agent(lab.hosts.host(SystemRole.NODE, "node"))
        await agent.wait_first(10)
        got = Got()
        session = await agent.to_auth(got.take, got.end)
        assert session is not None
        await wait_until(lambda: auth.open == 1)
        lab.server.pause()
        (tunnel,) = lab.server._all
        tunnel.retire()
        await session.wait()
        await wait_until(lambda: auth.open == 0)


async def test_the_relay_goes_by_the_tunnel_and_waits_for_one_that_is_made_anew() -> None:
    async with with_auth() as (lab, auth):
        agent = await lab.agent(lab.hosts.host(SystemRole.NODE, "node"))
        await agent.wait_first(10)
        async with AuthRelay([("127.0.0.1", 1)]) as relay:
            relay.by_tunnel = agent.to_auth
            for turn in range(2):
                reader, writer = await asyncio.open_connection(*relay.address)
                data = bytes(range(256)) * 8192  # 2 MiB: more than what may wait anywhere
                writing = asyncio.create_task(_write(writer, data))
                assert await reader.readexactly(len(data)) == data
                await writing
                writer.write(b"go away")
                assert await reader.read() == b""
                writer.close()
                if not turn:
                    for one in list(lab.server._all):
                        one._abort("cut")
                    await wait_until(lambda: agent.tunnels == 0)
        assert auth.lines == [b"from 127.0.0.1\n"] * 2


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


async def test_without_a_tunnel_the_relay_asks_for_a_websocket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "ON_ITS_WAY", 0.05)
    async with tunnels() as lab:  # a proxy that leads nobody to auth
        agent = await lab.agent(lab.hosts.host(SystemRole.NODE, "node"))
        await agent.wait_first(10)
        asked = asyncio.Event()

        async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.set()
            writer.close()

        server = await asyncio.start_server(web, "127.0.0.1", 0)
        async with server, AuthRelay([server.sockets[0].getsockname()[:2]]) as relay:
            relay.by_tunnel = agent.to_auth
            reader, writer = await asyncio.open_connection(*relay.address)
            await asyncio.wait_for(asked.wait(), 10)
            assert await reader.read() == b""
            writer.close()


async def test_who_lost_a_locked_proxy_waits_for_no_tunnel_and_others_wait_once() -> None:
    """That the lock was lifted is heard by auth alone: whoever waited for the tunnel would wait for ever."""
    async with tunnels() as lab:
        agent = await lab.agent(lab.hosts.host(SystemRole.NODE, "node"))
        await wait_until(lambda: agent.tunnels == 1)
        lab.hosts.refused[str(lab.proxy.host_id)] = AccessDenied("The host is locked.")
        agent.reconsider()
        await wait_until(lambda: agent.tunnels == 0)
        async with asyncio.timeout(5):  # else 25 s
            assert await agent.to_auth(lambda data, _: None, lambda: None) is None
            assert await agent.way(60.0), "a websocket is one"
        del lab.hosts.refused[str(lab.proxy.host_id)]
        await wait_until(lambda: agent.tunnels == 1)
        (tunnel,) = lab.server.registry.every()
        tunnel._abort("it is cut")
        await wait_until(lambda: agent.tunnels == 0)
        assert not await agent.way(0.01)
        waiting = asyncio.create_task(agent.to_auth(lambda data, _: None, lambda: None))
        way = asyncio.create_task(agent.way(60.0))
        await asyncio.sleep(0)
        assert not waiting.done()
        assert not way.done()
        await wait_until(lambda: agent.tunnels == 1)
        assert await way
        assert await agent.way(0.0)
        assert await waiting is None  # this proxy leads nobody to auth
