"""Both ends of reverse tunnels over loopback, with real SSH: who gets in, who is led where, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from teleport.clock import SystemClock
from teleport.errors import AccessDenied, ConnectionProblem, TeleportError
from teleport.identity import HostIdentity, SystemRole
from teleport.pki.refusal import CertificateRefused, Refusal
from teleport.ssh.client import SshClient, connect
from teleport.ssh.client_connection import ClientKey
from teleport.ssh.server_forwards import ClientView
from teleport.testing.lab_certificates import CLUSTER, Authorities, LabHost
from teleport.testing.memory import Events
from teleport.testing.running import listener, served, wait_until
from teleport.tunnel import messages as m
from teleport.tunnel.agent import AgentConfig, TunnelAgent
from teleport.tunnel.registry import MOST_OF_HOST, Registry
from teleport.tunnel.server import TunnelConfig, TunnelServer
from teleport.wire.forward_spec import SocketEnd, TcpEnd


class Hosts(Authorities):
    """Authorities by which hosts may be locked, or their certificates end."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: dict[str, TeleportError] = {}

    def verify_host(self, certificate: bytes) -> HostIdentity:
        found = super().verify_host(certificate)
        if found.host_id in self.refused:
            raise self.refused[found.host_id]
        return found


class Echo(asyncio.Protocol):
    """The node service here: says who came, then says everything again."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(b"hello ")

    def data_received(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)


class Client(asyncio.Protocol):
    """Somebody who is led to a host."""

    def __init__(self) -> None:
        self.got = bytearray()
        self.transport: asyncio.Transport | None = None
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.got += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()

    async def says(self, text: bytes, answer: bytes) -> None:
        assert self.transport is not None
        self.transport.write(text)
        await wait_until(lambda: bytes(self.got).endswith(answer))


@dataclass
class Tunnels:
    """A proxy's tunnel server."""

    hosts: Hosts
    proxy: LabHost
    server: TunnelServer
    address: tuple[str, int]
    events: Events
    stack: AsyncExitStack = field(repr=False)
    ended: list[tuple[str, str]] = field(default_factory=list)  # tunnels that agents ended: the proxy, and why

    async def agent(
        self,
        host: LabHost,
        epoch: int = 1,
        *,
        seeds: list[str] | None = None,
        configured: tuple[str, ...] = ("127.0.0.1",),
        conn_type: str = m.NODE,
    ) -> TunnelAgent:
        """An agent of `host` that runs until the test ends, with a tunnel."""

        def accept(transport: asyncio.Transport) -> None:
            echo = Echo()
            transport.set_protocol(echo)
            echo.connection_made(transport)

        async def found() -> list[str]:
            return seeds or [f"{self.address[0]}:{self.address[1]}"]

        agent = TunnelAgent(
            AgentConfig(CLUSTER, host.host_id, epoch, configured, conn_type),
            hosts=self.hosts,
            key=lambda: client_key(host),
            seeds=found,
            accept=accept,
            changed=lambda: None,
            clock=SystemClock(),
            ended=lambda proxy, peer, reason: self.ended.append((proxy.host_id, reason)),
        )
        task = asyncio.create_task(agent.run(), name="agent")

        async def end() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self.stack.push_async_callback(end)
        return agent

    async def log_in(self, host: LabHost, login: str = "") -> SshClient:
        """A host that speaks by itself."""
        made = await connect(
            self.address,
            login=login or m.server_id(str(host.host_id), CLUSTER),
            key=client_key(host),
            check=lambda _: None,
        )
        self.stack.push_async_callback(made.close)
        return made


def client_key(host: LabHost) -> ClientKey:
    return ClientKey(host.key.openssh_pem().reveal(), host.cert.line())


@asynccontextmanager
async def tunnels(hosts: Hosts | None = None, *, epoch: int = 3) -> AsyncIterator[Tunnels]:
    hosts = hosts or Hosts()
    proxy, events, bound = hosts.host(SystemRole.PROXY, "proxy"), Events(), listener()
    server = TunnelServer(
        TunnelConfig(CLUSTER, proxy.host_id, epoch, "proxy"),
        hosts=hosts,
        host_keys=[proxy.host_key],
        emitter=events,
        clock=SystemClock(),
    )
    async with AsyncExitStack() as stack:
        stack.callback(bound.close)
        await stack.enter_async_context(served(lambda started: server.run([bound], started), "tunnels"))
        inner = await stack.enter_async_context(AsyncExitStack())
        yield Tunnels(hosts, proxy, server, bound.getsockname()[:2], events, inner)


async def test_a_client_is_led_through_the_tunnel_to_the_node_service() -> None:
    async with tunnels() as lab:
        host = lab.hosts.host(SystemRole.NODE, "node")
        agent = await lab.agent(host)
        client = await lab.server.connect(str(host.host_id), Client)
        await client.says(b"x" * 100_000, b"hello " + b"x" * 100_000)
        assert agent.proxies == (str(lab.proxy.host_id),)
        assert lab.server.open == 1
        assert client.transport is not None
        client.transport.close()
        await wait_until(lambda: lab.server.open == 0)


async def test_ends_of_a_tunnel_acknowledge_when_the_kernel_does() -> None:
    """That OpenSSH's client waits for it at other servers is no reason for a packet more at each small read here."""
    async with tunnels() as lab:
        agent = await lab.agent(lab.hosts.host(SystemRole.NODE, "node"))
        await wait_until(lambda: agent.tunnels == 1)
        (tunnel,) = lab.server.registry.every()
        (link,) = agent._links.values()
        assert isinstance(tunnel._client, ClientView)
        assert link.tunnel is not None
        ends = tunnel._client._connection, link.tunnel._client._connection
        assert [end._prompt for end in ends] == [None, None]


async def test_each_service_of_a_host_is_led_to_by_its_own_tunnels() -> None:
    """A node's tunnel never takes the clients of a Kubernetes service, nor the other way round, whoever says so."""
    async with tunnels() as lab:
        node = lab.hosts.host(SystemRole.NODE, "both")
        kube = lab.hosts.host(SystemRole.KUBE, "both", host_id=node.host_id)
        host_id = str(node.host_id)
        await lab.agent(node)
        await wait_until(lambda: lab.server.holds(host_id))
        assert not lab.server.holds(host_id, m.KUBE)
        await lab.agent(kube, conn_type=m.KUBE)
        await wait_until(lambda: lab.server.holds(host_id, m.KUBE))
        for conn_type in (m.NODE, m.KUBE):
            client = await lab.server.connect(host_id, Client, conn_type)
            await client.says(b"hello", b"hello")
        other = lab.hosts.host(SystemRole.NODE, "other")
        await lab.agent(other, conn_type=m.KUBE)  # it says so, and its certificate does not
        await wait_until(lambda: lab.server.holds(str(other.host_id)))
        assert not lab.server.holds(str(other.host_id), m.KUBE)
        with pytest.raises(ConnectionProblem, match="its own service"):
            await lab.server.connect(str(other.host_id), Client)


@pytest.mark.parametrize("role", [SystemRole.PROXY, SystemRole.AUTH, SystemRole.ADMIN, SystemRole.APP])
async def test_only_services_that_are_led_to_keep_tunnels(role: SystemRole) -> None:
    async with tunnels() as lab:
        with pytest.raises(AccessDenied, match="keeps no tunnel"):
            await lab.log_in(lab.hosts.host(role, "other"))
        (event,) = await lab.events.wait_for("auth")
        assert "keeps no tunnel" in getattr(event, "error", "")
        assert lab.server.tunnels == 0


async def test_a_host_cannot_claim_another_ones_id() -> None:
    async with tunnels() as lab:
        good, evil = lab.hosts.host(SystemRole.NODE, "good"), lab.hosts.host(SystemRole.NODE, "evil")
        for login in (m.server_id(str(good.host_id), CLUSTER), str(evil.host_id), f"{evil.host_id}.other", "root"):
            with pytest.raises(AccessDenied, match="not itself"):
                await lab.log_in(evil, login)
        (event, *_) = await lab.events.wait_for("auth", 4)
        assert str(evil.host_id) in getattr(event, "error", "")
        assert not lab.server.holds(str(good.host_id))


async def test_user_certificates_and_those_of_other_authorities_are_refused() -> None:
    async with tunnels() as lab:
        user, stranger = lab.hosts.user(["root"]), Authorities().host(SystemRole.NODE, "node")
        for key, cert, login in (
            (user.key, user.certificate, "root"),
            (stranger.key, stranger.cert, m.server_id(str(stranger.host_id), CLUSTER)),
        ):
            with pytest.raises(AccessDenied):
                await connect(
                    lab.address,
                    login=login,
                    key=ClientKey(key.openssh_pem().reveal(), cert.line()),
                    check=lambda _: None,
                )
        await lab.events.wait_for("auth", 2)


async def test_a_hostile_host_opens_nothing_and_makes_the_proxy_connect_nowhere() -> None:
    """SSRF: the channels and requests by which SSH servers connect or listen for a client."""
    async with tunnels() as lab:
        reached = asyncio.Event()
        trap = await asyncio.start_server(lambda *_: reached.set(), "127.0.0.1", 0)
        async with trap:
            port = trap.sockets[0].getsockname()[1]
            host = lab.hosts.host(SystemRole.NODE, "evil")
            client = await lab.log_in(host)
            with pytest.raises(ConnectionProblem):
                await client.stream(TcpEnd("127.0.0.1", port), on_output=lambda *_: None)
            with pytest.raises(AccessDenied):
                await client.start(command="id", on_output=lambda *_: None)
            with pytest.raises(ConnectionProblem):
                await client.through("127.0.0.1", port, login="root", check=lambda _: None)
            for name in (b"tcpip-forward", b"streamlocal-forward@openssh.com"):
                kind, _ = await client._connection._make_global_request(name, b"\0\0\0\0\0\0\0\0")
                assert kind == 82  # SSH_MSG_REQUEST_FAILURE
            assert not lab.server.holds(str(host.host_id)), "who registers nothing leads nowhere"
            await lab.events.wait_for("session.request_denied", 4)
            assert not reached.is_set()


async def test_whatever_is_begun_on_a_connection_that_has_ended_is_told_so() -> None:
    async with tunnels() as lab:
        client = await lab.log_in(lab.hosts.host(SystemRole.NODE, "node"))
        client.abort()
        await client.wait_lost()
        with pytest.raises(ConnectionProblem, match="lost"):
            await client.start(command="id", on_output=lambda *_: None)
        for end in (TcpEnd("127.0.0.1", 22), SocketEnd("/run/a")):
            with pytest.raises(ConnectionProblem, match="lost"):
                await client.stream(end, on_output=lambda *_: None)
        with pytest.raises(ConnectionProblem, match="lost"):
            await client.through("127.0.0.1", 22, login="root", check=lambda _: None)


async def ask(client: SshClient, data: bytes) -> int:
    """The kind of the answer to a registration: 81 taken, 82 refused."""
    said = len(data).to_bytes(4, "big") + data
    kind, _ = await client._connection._make_global_request(b"tunnel-register@teleport", said)
    return int(kind)


async def test_a_registration_counts_once_and_only_with_an_epoch() -> None:
    async with tunnels() as lab:
        client = await lab.log_in(lab.hosts.host(SystemRole.NODE, "node"))
        for wrong in (b"", b"{}", b"[]", b'{"epoch":0}', b'{"epoch":-1}', b'{"epoch":1e300}', b"[" * 10_000):
            assert await ask(client, wrong) == 82, wrong
        assert await ask(client, m.encode(m.Register(epoch=4))) == 81
        assert await ask(client, m.encode(m.Register(epoch=5))) == 82


async def test_new_clients_are_led_to_the_newest_process_and_what_is_open_stays() -> None:
    async with tunnels() as lab:
        host = lab.hosts.host(SystemRole.NODE, "node")
        old = await lab.agent(host, 7)
        await wait_until(lambda: old.tunnels == 1)
        before = await lab.server.connect(str(host.host_id), Client)
        new = await lab.agent(host, 8)
        await wait_until(lambda: new.tunnels == 1)
        old.pause()
        after = await lab.server.connect(str(host.host_id), Client)
        await before.says(b"old", b"hello old")
        await after.says(b"new", b"hello new")
        assert [tunnel.carried for tunnel in lab.server.registry.every()] == [1, 1]
        assert [tunnel.epoch for tunnel in lab.server.registry.every()] == [7, 8]


async def test_a_proxy_that_leaves_is_left_once_another_process_is_reached() -> None:
    """Two servers with the proxy's identity, as during its restart."""
    async with tunnels(epoch=3) as lab, AsyncExitStack() as stack:
        host = lab.hosts.host(SystemRole.NODE, "node")
        agent = await lab.agent(host)
        await wait_until(lambda: agent.tunnels == 1)
        client = await lab.server.connect(str(host.host_id), Client)
        bound = listener()
        stack.callback(bound.close)
        following = TunnelServer(
            TunnelConfig(CLUSTER, lab.proxy.host_id, 4, "proxy"),
            hosts=lab.hosts,
            host_keys=[lab.proxy.host_key],
            emitter=lab.events,
            clock=SystemClock(),
        )
        await stack.enter_async_context(served(lambda started: following.run([bound], started), "following"))
        place = bound.getsockname()
        lab.server.set_proxies([m.KnownProxy(host_id=str(lab.proxy.host_id), addresses=(f"{place[0]}:{place[1]}",))])
        lab.server.pause()
        await wait_until(lambda: following.holds(str(host.host_id)))
        await client.says(b"still", b"hello still")
        assert lab.server.tunnels == 1, "somebody is still led through"
        assert client.transport is not None
        client.transport.close()
        await wait_until(lambda: lab.server.tunnels == 0)
        assert agent.tunnels == 1


async def test_a_locked_host_loses_its_tunnel_at_once_and_an_ended_certificate_lets_clients_finish() -> None:
    async with tunnels() as lab:
        locked, ended = lab.hosts.host(SystemRole.NODE, "locked"), lab.hosts.host(SystemRole.NODE, "ended")
        for host in (locked, ended):
            await lab.agent(host)
        first = await lab.server.connect(str(locked.host_id), Client)
        second = await lab.server.connect(str(ended.host_id), Client)
        lab.hosts.refused[str(locked.host_id)] = AccessDenied("locked")
        lab.hosts.refused[str(ended.host_id)] = CertificateRefused(Refusal.EXPIRED, "It has expired.")
        lab.server.reconsider()
        async with asyncio.timeout(10):
            await first.lost.wait()
        await second.says(b"still", b"hello still")
        assert not lab.server.holds(str(locked.host_id))
        assert not lab.server.holds(str(ended.host_id)), "nobody new"
        assert second.transport is not None
        second.transport.close()
        await wait_until(lambda: lab.server.tunnels == 0)


async def test_an_agent_believes_proxies_only() -> None:
    """A node of the cluster that answers in the proxy's place is no proxy."""
    hosts = Hosts()
    async with tunnels(hosts) as lab, AsyncExitStack() as stack:
        impostor, bound = hosts.host(SystemRole.NODE, "impostor"), listener()
        stack.callback(bound.close)
        server = TunnelServer(
            TunnelConfig(CLUSTER, impostor.host_id, 1, "impostor"),
            hosts=hosts,
            host_keys=[impostor.host_key],
            emitter=lab.events,
            clock=SystemClock(),
        )
        await stack.enter_async_context(served(lambda started: server.run([bound], started), "impostor"))
        seeds = [f"127.0.0.1:{bound.getsockname()[1]}", f"{lab.address[0]}:{lab.address[1]}"]
        agent = await lab.agent(hosts.host(SystemRole.NODE, "node"), seeds=seeds)
        await wait_until(lambda: agent.tunnels == 1)
        assert agent.proxies == (str(lab.proxy.host_id),)
        assert server.tunnels == 0


async def test_addresses_that_are_none_neither_end_the_agent_nor_keep_it_from_the_next_one() -> None:
    """They come from a page that anybody on the way could have written, and from proxies."""
    strange = [
        "a..b:3024",
        "x" * 70 + ":3024",
        "proxy:port",
        "127.0.0.1:99999",
        "127.0.0.1\0:3024",
        "proxy",
        ":",
        "\u00ad:1",
    ]
    async with tunnels() as lab:
        seeds = [*strange, f"{lab.address[0]}:{lab.address[1]}"]
        agent = await lab.agent(lab.hosts.host(SystemRole.NODE, "node"), seeds=seeds)
        await wait_until(lambda: bool(agent.proxies))


async def test_a_proxy_leads_to_the_node_service_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    async with tunnels() as lab:
        host, other = lab.hosts.host(SystemRole.NODE, "node"), lab.hosts.host(SystemRole.NODE, "other")
        agent = await lab.agent(host)
        await wait_until(lambda: agent.tunnels == 1)
        own, true_encode = m.server_id(str(host.host_id), CLUSTER), m.encode
        wrong: list[Callable[[], bytes]] = [
            lambda: true_encode(m.Dial(server_id=m.server_id(str(other.host_id), CLUSTER))),
            lambda: true_encode(m.Dial(server_id=own, conn_type="kube")),
            lambda: true_encode(m.Dial(server_id=own, version=2)),
            lambda: b"127.0.0.1:22",
        ]
        for make in wrong:
            with monkeypatch.context() as patch:
                patch.setattr(m, "encode", lambda _, make=make: make())
                with pytest.raises(ConnectionProblem, match="did not take the client"):
                    await lab.server.connect(str(host.host_id), Client)


async def test_the_agent_comes_back_when_its_tunnel_is_cut() -> None:
    async with tunnels() as lab:
        host = lab.hosts.host(SystemRole.NODE, "node")
        agent = await lab.agent(host)
        await wait_until(lambda: agent.tunnels == 1)
        (first,) = lab.server.registry.every()
        first._abort("cut")
        client = await lab.server.connect(str(host.host_id), Client)
        await client.says(b"again", b"hello again")
        assert first not in list(lab.server.registry.every())


async def test_hosts_of_a_proxy_with_many_are_told_to_come_back_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("teleport.tunnel.server.RETURNS", 1)  # a second for each host
    async with tunnels() as lab:
        name = str(lab.proxy.host_id)
        agents = [await lab.agent(lab.hosts.host(SystemRole.NODE, f"node{number}")) for number in range(5)]
        lab.server._told_of = 1
        await wait_until(lambda: len(lab.server._all) == 5)
        await wait_until(lambda: all(agent._state.spreads.get(name, 0) >= 2 for agent in agents), 20)
        assert max(agent._state.spreads[name] for agent in agents) == 5
        for tunnel in list(lab.server._all):
            tunnel._abort("it is killed")
        await wait_until(lambda: all(agent._state.pauses for agent in agents))
        now = asyncio.get_running_loop().time()
        after = [pause.until - now for agent in agents for pause in agent._state.pauses.values()]
        assert max(after) < 5


async def test_who_waits_for_a_tunnel_that_does_not_come_is_told() -> None:
    registry: Registry[_Known] = Registry()
    assert await registry.wait_newest("nobody", 0.01) is None
    waiting = asyncio.create_task(registry.wait_newest("a", 5))
    await asyncio.sleep(0)
    one = _Known("a", 2)
    assert registry.add(one)
    assert await waiting is one
    later, earlier = _Known("a", 2), _Known("a", 1)
    assert registry.add(later)
    assert registry.add(earlier)
    assert registry.newest("a") is later
    registry.remove(later)
    assert registry.newest("a") is one
    for _ in range(MOST_OF_HOST - 2):
        assert registry.add(_Known("a", 1))
    assert not registry.add(_Known("a", 9))
    assert registry.newest("a") is one
    for known in list(registry.every()):
        registry.remove(known)
    assert not registry
    assert not registry._waiting


@dataclass(frozen=True, eq=False)
class _Known:
    host_id: str
    epoch: int


async def test_a_tunnel_takes_nobody_new_when_its_certificate_ends() -> None:
    hosts = Hosts()
    async with tunnels(hosts) as lab:
        host = hosts.host(SystemRole.NODE, "node")
        agent = await lab.agent(host)
        await wait_until(lambda: agent.tunnels == 1)
        (tunnel,) = lab.server.registry.every()
        assert tunnel._timer is not None
        left = tunnel._timer.when() - asyncio.get_running_loop().time()
        assert left > timedelta(hours=1).total_seconds()
        tunnel._timer._run()
        assert not lab.server.holds(str(host.host_id))


async def test_the_agent_leaves_its_site_by_the_http_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy's name is known to the site's HTTP proxy only."""
    async with tunnels() as lab:
        asked: list[bytes] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            far_reader, far_writer = await asyncio.open_connection(*lab.address)
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")

            async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
                while data := await source.read(65536):
                    target.write(data)
                target.close()

            await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer), return_exceptions=True)

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as site:
            monkeypatch.setenv("HTTPS_PROXY", f"http://ann:pass@127.0.0.1:{site.sockets[0].getsockname()[1]}")
            host = lab.hosts.host(SystemRole.NODE, "node")
            agent = await lab.agent(host, seeds=["proxy.test:3024"])
            await wait_until(lambda: agent.tunnels == 1)
            client = await lab.server.connect(str(host.host_id), Client)
            await client.says(b"out", b"hello out")
            assert asked[0].startswith(b"CONNECT proxy.test:3024 HTTP/1.1\r\n")
            assert b"\r\nProxy-Authorization: Basic YW5uOnBhc3M=\r\n" in asked[0]
            (tunnel,) = lab.server.registry.every()
            tunnel._abort("the test ends")
