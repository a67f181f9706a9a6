"""Reverse tunnels whose other end is hostile, locked, silent or behind the times: what it costs, whom it reaches."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from tests.tunnel.test_tunnel_server import Client, Hosts, Tunnels, ask, client_key, tunnels

from teleport.clock import SystemClock
from teleport.errors import AccessDenied, BadRequest, ConnectionProblem
from teleport.identity import SystemRole
from teleport.pki.refusal import CertificateRefused, Refusal
from teleport.resources.values import HostPort
from teleport.ssh.surface import KeepAlive
from teleport.ssh.surface import Refusal as SshRefusal
from teleport.ssh.tunnel_client import TunnelClient, connect_tunnel
from teleport.testing.lab_certificates import CLUSTER, LabHost
from teleport.testing.running import listener, served, wait_until
from teleport.tunnel import messages as m
from teleport.tunnel import proxy_end
from teleport.tunnel.reaching import Ways, tunnel_address, why_not
from teleport.tunnel.server import UNREGISTERED, TunnelConfig, TunnelServer


class Scripted:
    """A host that answers opens as the test says: never, or once it may."""

    def __init__(self) -> None:
        self.asked = 0
        self.may = asyncio.Event()
        self.answer = SshRefusal("no")
        self.channels: list[Any] = []

    async def arrive(self, data: bytes, channel: Any) -> Any:
        self.asked += 1
        self.channels.append(channel)
        await self.may.wait()
        return _Taken(channel)

    def news(self, data: bytes) -> None:
        return


class _Taken:
    """A stream that was opened too late."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.gone = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        return

    def eof_received(self) -> None:
        self.channel.close()

    def pause_writing(self) -> None:
        return

    def resume_writing(self) -> None:
        return

    def closed(self) -> None:
        self.gone.set()


async def scripted(lab: Tunnels, host: LabHost, handler: Any, *, epoch: int = 1) -> TunnelClient:
    """A tunnel of `host` whose other end is the test's."""

    async def reach(protocol: asyncio.Protocol) -> None:
        await asyncio.get_running_loop().create_connection(lambda: protocol, *lab.address)

    made = await connect_tunnel(
        reach,
        "proxy",
        login=m.server_id(str(host.host_id), CLUSTER),
        key=client_key(host),
        check=lambda _: None,
        handler=handler,
        keepalive=KeepAlive(15.0, 2),
        software=m.SOFTWARE,
    )
    lab.stack.callback(made.abort)
    await made.ask("tunnel-register@teleport", m.encode(m.Register(epoch=epoch)))
    return made


# the proxy is the one that may not be here


async def test_a_locked_proxy_loses_the_tunnels_that_hosts_keep_to_it_and_their_clients_at_once() -> None:
    async with tunnels() as lab:
        agent = await lab.agent(lab.hosts.host(SystemRole.NODE, "node"))
        await wait_until(lambda: agent.tunnels == 1)
        (tunnel,) = lab.server.registry.every()
        client = await lab.server.connect(tunnel.host_id, Client)
        lab.hosts.refused[str(lab.proxy.host_id)] = AccessDenied("The host is locked.")
        agent.reconsider()
        async with asyncio.timeout(10):
            await client.lost.wait()
        await wait_until(lambda: agent.tunnels == 0)
        assert agent.proxies == ()
        assert lab.ended == [(str(lab.proxy.host_id), "The host is locked.")]
        del lab.hosts.refused[str(lab.proxy.host_id)]
        await wait_until(lambda: agent.tunnels == 1)


async def test_a_proxy_whose_authority_ended_gets_nobody_new_and_what_is_open_stays() -> None:
    """After a rotation: the tunnel is made anew as soon as the proxy shows its new certificate."""
    async with tunnels() as lab:
        agent = await lab.agent(lab.hosts.host(SystemRole.NODE, "node"))
        await wait_until(lambda: agent.tunnels == 1)
        (tunnel,) = lab.server.registry.every()
        client = await lab.server.connect(tunnel.host_id, Client)
        refused = CertificateRefused(Refusal.UNKNOWN_AUTHORITY, "It is of another authority.")
        lab.hosts.refused[str(lab.proxy.host_id)] = refused
        agent.reconsider()
        await wait_until(lambda: any(one.stale for one in agent._state.held.values()))
        with pytest.raises(ConnectionProblem, match="does not believe"):
            await tunnel.connect(Client)
        await client.says(b"still", b"hello still")
        del lab.hosts.refused[str(lab.proxy.host_id)]
        await wait_until(lambda: any(not one.stale for one in agent._state.held.values()))
        assert (await lab.server.connect(tunnel.host_id, Client)) is not None
        assert lab.ended == []


async def test_what_changed_while_a_tunnel_was_made_is_looked_at_once_it_stands() -> None:
    """Between the check of the certificate and the pool's knowledge nobody is told of a lock."""
    async with tunnels() as lab:
        host = lab.hosts.host(SystemRole.NODE, "node")
        true_verify, asked = lab.hosts.verify_host, 0

        def verify(certificate: bytes) -> Any:
            nonlocal asked
            found = true_verify(certificate)
            if found.host_id == str(lab.proxy.host_id):
                asked += 1
                if asked == 2:
                    raise AccessDenied("The host is locked.")
            return found

        lab.hosts.verify_host = verify  # type: ignore[method-assign]
        agent = await lab.agent(host)
        await wait_until(lambda: lab.ended != [])
        await wait_until(lambda: agent.tunnels == 1)


# where hosts let themselves be led


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "169.254.0.1",
        "fe80::1",
        "fd00:ec2::254",
        "100.100.100.200",
        "168.63.129.16",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
        "127.0.0.1",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "64:ff9b::7f00:1",
        "::127.0.0.1",
        "::169.254.169.254",
        "64:ff9b:1::a9fe:a9fe",
        "fd20:ce::254",
        "0.0.0.1",
        "240.0.0.1",
        "fec0::1",
    ],
)
def test_nobodys_addresses_and_those_of_the_link_are_not_dialled(address: str) -> None:
    """SSRF: what a stranger names."""
    assert why_not(address, loopback=False)
    literal = ipaddress.ip_address(address)
    if not literal.is_loopback and str(getattr(literal, "ipv4_mapped", None)) != "127.0.0.1":
        assert why_not(address, loopback=True), "also where the configuration leads to this host"


@pytest.mark.parametrize("address", ["10.1.2.3", "192.168.0.1", "203.0.113.9", "2001:db8::1", "fd12::1", "100.64.0.1"])
def test_private_addresses_are_dialled(address: str) -> None:
    """Proxies have them."""
    assert why_not(address, loopback=False) == ""


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "2130706433", "0x7f.1", "localhost", "::1", "0"])
async def test_what_a_stranger_names_does_not_lead_to_this_very_host(host: str) -> None:
    """In whatever spelling a resolver takes; and nothing arrives there."""
    reached = asyncio.Event()

    def come(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()
        writer.close()

    trap = await asyncio.start_server(come, "127.0.0.1", 0)
    async with trap:
        port = trap.sockets[0].getsockname()[1]
        with pytest.raises((AccessDenied, OSError)):
            await Ways(("proxy.example.com",)).connect(asyncio.Protocol(), host, port)
        assert not reached.is_set()
        client = Client()
        await Ways(("127.0.0.1",)).connect(client, "127.1", port)
        await reached.wait()
        assert client.transport is not None, "the checker sees who is let through"
        client.transport.abort()


async def test_a_proxy_leads_hosts_to_no_address_of_the_link_and_to_nothing_on_themselves(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Told by a true proxy, over a true tunnel."""
    reached = asyncio.Event()

    def come(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()
        writer.close()

    trap = await asyncio.start_server(come, "127.0.0.1", 0)
    async with trap, tunnels() as lab:
        name = "proxy.example.com"
        port = trap.sockets[0].getsockname()[1]
        known = [
            m.KnownProxy(host_id="bogus", addresses=("169.254.169.254:80", f"127.0.0.1:{port}", f"localhost:{port}"))
        ]
        lab.server.set_proxies(known)
        host = lab.hosts.host(SystemRole.NODE, "node")
        agent = await lab.agent(host, configured=(name,))
        agent.login.ways = _Named(name, lab.address)
        await wait_until(lambda: "localhost" in caplog.text and "is not dialled" in caplog.text)
        assert "169.254.169.254 (169.254.169.254) is not dialled" in caplog.text
        assert "127.0.0.1 (127.0.0.1) is not dialled" in caplog.text
        assert not reached.is_set()
        assert agent.proxies == (str(lab.proxy.host_id),)


class _Named(Ways):
    """Ways by which the configured name leads to the lab's proxy, as a resolver would say."""

    def __init__(self, name: str, address: tuple[str, int]) -> None:
        super().__init__((name,))
        self._lab = address

    async def connect(self, protocol: asyncio.Protocol, host: str, port: int) -> None:
        if (host, port) == self._lab and "first" not in self.__dict__:
            self.__dict__["first"] = True
            await asyncio.get_running_loop().create_connection(lambda: protocol, host, port)
        else:
            await super().connect(protocol, host, port)


def test_an_address_without_a_port_is_of_the_port_of_tunnels() -> None:
    assert tunnel_address("proxy.example.com") == HostPort("proxy.example.com", 3024)
    assert tunnel_address("[2001:db8::1]") == HostPort("2001:db8::1", 3024)
    assert tunnel_address("[2001:db8::1]:443") == HostPort("2001:db8::1", 443)
    for wrong in ("", ":3024", "proxy:0", "proxy:port", "2001:db8::1", "a b", "proxy:99999"):
        with pytest.raises(BadRequest, match="tunnel listener"):
            tunnel_address(wrong)


# the host is the hostile one


async def test_opens_that_are_not_answered_are_bounded_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that says nothing, then takes everything and sends: nothing of that is kept."""
    monkeypatch.setattr(proxy_end, "OPEN_SECONDS", 0.2)
    async with tunnels() as lab:
        host, silent = lab.hosts.host(SystemRole.NODE, "silent"), Scripted()
        await scripted(lab, host, silent)
        most = lab.server.config.limits.unanswered
        (tunnel,) = lab.server.registry.every()
        tried = await asyncio.gather(
            *(lab.server.connect(str(host.host_id), Client) for _ in range(most + 20)), return_exceptions=True
        )
        said = [str(one) for one in tried]
        assert sum("said nothing for 0.2 s" in one for one in said) == most
        assert sum("wait for an answer" in one for one in said) == 20
        assert silent.asked == most
        assert tunnel._client is not None
        connection = tunnel._client._connection  # type: ignore[attr-defined]
        with pytest.raises(ConnectionProblem, match="wait for an answer"):
            await lab.server.connect(str(host.host_id), Client)
        silent.may.set()
        await wait_until(lambda: not connection.unanswered)
        assert not connection._channels, "each was closed as soon as it was open"
        assert not lab.server.open


async def test_who_is_not_waited_for_any_more_leaves_no_channel_behind() -> None:
    """A client that goes while its host takes its time."""
    async with tunnels() as lab:
        host, silent = lab.hosts.host(SystemRole.NODE, "silent"), Scripted()
        await scripted(lab, host, silent)
        (tunnel,) = lab.server.registry.every()
        going = asyncio.create_task(lab.server.connect(str(host.host_id), Client))
        await wait_until(lambda: silent.asked == 1)
        assert lab.server.open == 1, "it counts for a daemon that leaves"
        going.cancel()
        await asyncio.gather(going, return_exceptions=True)
        assert lab.server.open == 0
        silent.may.set()
        assert tunnel._client is not None
        connection = tunnel._client._connection  # type: ignore[attr-defined]
        await wait_until(lambda: not connection._channels and not connection.unanswered)


async def test_a_tunnel_that_has_just_ended_refuses_and_ends_nobody_s_connection() -> None:
    """Whoever asks is on another connection, with other sessions on it; what it is told is a refusal."""
    async with tunnels() as lab:
        host, silent = lab.hosts.host(SystemRole.NODE, "node"), Scripted()
        await scripted(lab, host, silent)
        (tunnel,) = lab.server.registry.every()
        assert tunnel._client is not None
        connection = tunnel._client._connection  # type: ignore[attr-defined]
        connection.abort()
        assert connection._transport is None, "the proxy hears of it in the next turn of the loop"
        with pytest.raises(ConnectionProblem):
            await lab.server.connect(str(host.host_id), Client)


async def test_a_client_goes_by_the_next_tunnel_when_the_first_ends_before_it_answers() -> None:
    """As when the host renews its tunnel while somebody is on the way."""
    async with tunnels() as lab:
        host, silent = lab.hosts.host(SystemRole.NODE, "node"), Scripted()
        agent = await lab.agent(host, 1)
        await wait_until(lambda: agent.tunnels == 1)
        first = await scripted(lab, host, silent, epoch=2)
        coming = asyncio.create_task(lab.server.connect(str(host.host_id), Client))
        await wait_until(lambda: silent.asked == 1)
        first.abort()
        silent.may.set()
        await (await coming).says(b"there", b"hello there")


async def test_a_client_waits_for_the_next_tunnel_when_the_only_one_ends_before_it_answers() -> None:
    async with tunnels() as lab:
        host, silent = lab.hosts.host(SystemRole.NODE, "node"), Scripted()
        first = await scripted(lab, host, silent)
        coming = asyncio.create_task(lab.server.connect(str(host.host_id), Client))
        await wait_until(lambda: silent.asked == 1)
        first.abort()
        silent.may.set()
        await lab.agent(host, 1)
        await (await coming).says(b"there", b"hello there")


async def test_a_tunnel_that_is_retired_ends_after_the_open_that_is_on_its_way() -> None:
    async with tunnels() as lab:
        host, silent = lab.hosts.host(SystemRole.NODE, "node"), Scripted()
        await scripted(lab, host, silent)
        (tunnel,) = lab.server.registry.every()
        coming = asyncio.create_task(lab.server.connect(str(host.host_id), Client))
        await wait_until(lambda: silent.asked == 1)
        tunnel.retire()
        silent.may.set()
        client = await coming
        assert lab.server.tunnels == 1
        assert client.transport is not None
        client.transport.close()
        await wait_until(lambda: lab.server.tunnels == 0)


async def test_connections_of_one_host_that_are_no_tunnels_yet_are_counted_and_end_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever addresses they come from."""
    monkeypatch.setattr(proxy_end, "REGISTER_SECONDS", 3.0)  # in which all of them come, also on a busy machine
    async with tunnels() as lab:
        host, other = lab.hosts.host(SystemRole.NODE, "many"), lab.hosts.host(SystemRole.NODE, "other")
        opened = [await lab.log_in(host) for _ in range(UNREGISTERED)]
        with pytest.raises(AccessDenied, match="have not become tunnels yet"):
            await lab.log_in(host)
        assert await ask(await lab.log_in(other), m.encode(m.Register(epoch=1))) == 81
        await wait_until(lambda: all(one.lost for one in opened))
        assert await ask(await lab.log_in(host), m.encode(m.Register(epoch=1))) == 81
        assert not lab.server.unregistered
        assert lab.server.tunnels == 2


async def test_a_tunnel_ends_at_its_second_registration_and_strange_ones_are_few_on_record() -> None:
    """Each would cost a disk sync and a place in the audit log."""
    async with tunnels() as lab:
        client = await lab.log_in(lab.hosts.host(SystemRole.NODE, "node"))
        assert await ask(client, m.encode(m.Register(epoch=4))) == 81
        assert await ask(client, m.encode(m.Register(epoch=5))) == 82
        await wait_until(lambda: client.lost)
        strange = await lab.log_in(lab.hosts.host(SystemRole.NODE, "strange"))
        for _ in range(proxy_end.WRONG):
            assert await ask(strange, b"{}") == 82
        await wait_until(lambda: strange.lost)
        events = await lab.events.wait_for("session.request_denied", 1 + proxy_end.WRONG)
        assert len(events) == 1 + proxy_end.WRONG
        assert "registered once" in getattr(events[0], "reason", "")
        assert lab.server.tunnels == 0


async def test_a_locked_hosts_tunnel_ends_with_a_record_of_it() -> None:
    async with tunnels() as lab:
        host = lab.hosts.host(SystemRole.NODE, "locked")
        await lab.agent(host)
        await lab.server.registry.wait_newest(str(host.host_id), 10)
        lab.hosts.refused[str(host.host_id)] = AccessDenied("The host is locked.")
        lab.server.reconsider()
        (event,) = await lab.events.wait_for("tunnel.ended")
        assert getattr(event, "host", "") == str(host.host_id)
        assert getattr(event, "reason", "") == "The host is locked."


# two proxies, one of which lies


@asynccontextmanager
async def second_proxy(lab: Tunnels, hosts: Hosts) -> AsyncIterator[tuple[TunnelServer, str]]:
    proxy, bound = hosts.host(SystemRole.PROXY, "other"), listener()
    server = TunnelServer(
        TunnelConfig(CLUSTER, proxy.host_id, 1, "other"),
        hosts=hosts,
        host_keys=[proxy.host_key],
        emitter=lab.events,
        clock=SystemClock(),
    )
    async with AsyncExitStack() as stack:
        stack.callback(bound.close)
        await stack.enter_async_context(served(lambda started: server.run([bound], started), "other"))
        yield server, f"127.0.0.1:{bound.getsockname()[1]}"


async def test_a_proxy_that_hides_another_makes_no_host_leave_that_one() -> None:
    async with tunnels() as lab, second_proxy(lab, lab.hosts) as (other, place):
        own = m.KnownProxy(host_id=str(lab.proxy.host_id), addresses=(f"{lab.address[0]}:{lab.address[1]}",))
        both = [own, m.KnownProxy(host_id=str(other.config.host_id), addresses=(place,))]
        lab.server.set_proxies(both)
        host = lab.hosts.host(SystemRole.NODE, "node")
        agent = await lab.agent(host)
        await wait_until(lambda: agent.tunnels == 2)
        lie = m.KnownProxy(host_id=str(other.config.host_id), addresses=("127.0.0.1:1",))
        lab.server.set_proxies([own, lie])
        lab.server.set_proxies([own])
        (tunnel,) = other.registry.every()
        tunnel._abort("cut")
        await wait_until(lambda: agent.tunnels == 1)
        await wait_until(lambda: agent.tunnels == 2)
        assert other.holds(str(host.host_id))
