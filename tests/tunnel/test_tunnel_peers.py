"""Proxies that lead clients to each other's hosts, over loopback with real TLS and real tunnels: who may ask, for what,
and what becomes of clients when proxies, tunnels and locks come and go."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.tunnel.test_tunnel_server import Client, Hosts, Tunnels, tunnels

from teleport.audit.events import ProxyPeerDenied
from teleport.clock import SystemClock
from teleport.errors import AccessDenied, ConnectionProblem, TeleportError
from teleport.identity import HostIdentity, SystemRole
from teleport.pki.keys import PrivateKey, generate_p256
from teleport.pki.refusal import CertificateRefused, Refusal
from teleport.pki.trust import AuthorityKind
from teleport.pki.x509cert import (
    HostTLSRequest,
    UserTLSRequest,
    issue_host_tls,
    issue_user_tls,
    new_tls_authority,
    pem_of,
)
from teleport.pki.x509subject import UserSubject
from teleport.pki.x509verify import identity_from_tls, trusted_tls_authority
from teleport.testing.memory import Events
from teleport.testing.running import listener, served, wait_until
from teleport.transport.entrance import ConnectionLimits
from teleport.transport.tls import cluster_client_context, peer_server_context
from teleport.tunnel import leading as leading_module
from teleport.tunnel import messages as m
from teleport.tunnel.leading import Leading
from teleport.tunnel.peer_dialer import Dialer, NotHere, PeerProxy
from teleport.tunnel.peer_server import PeerConfig, PeerServer
from teleport.wire import peering
from teleport.wire.alpn import PROXY_PEER

CLUSTER = "lab.test"


class TLSHosts:
    """A host authority and a user authority in TLS, whose certificates may be refused by host."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys = {kind: generate_p256() for kind in (AuthorityKind.HOST, AuthorityKind.USER)}
        now = SystemClock().now()
        self.certs = {kind: new_tls_authority(CLUSTER, key, now) for kind, key in self.keys.items()}
        self.refused: dict[str, TeleportError] = {}

    @property
    def pem(self) -> str:
        return pem_of(self.certs[AuthorityKind.HOST]).decode()

    def identify_host_tls(self, certificate: bytes) -> HostIdentity:
        anchor = trusted_tls_authority(AuthorityKind.HOST, CLUSTER, self.certs[AuthorityKind.HOST])
        found = identity_from_tls(certificate, [anchor], SystemClock().now())
        assert isinstance(found, HostIdentity)
        return found

    def verify_host_tls(self, certificate: bytes) -> HostIdentity:
        found = self.identify_host_tls(certificate)
        if found.host_id in self.refused:
            raise self.refused[found.host_id]
        return found

    def host(self, role: SystemRole, host_id: str = "", names: tuple[str, ...] = ()) -> Pair:
        key, host_id = generate_p256(), host_id or str(uuid4())
        request = HostTLSRequest(key.public, host_id, role, names)
        ca = AuthorityKind.HOST
        return self._pair(
            key, issue_host_tls(request, self.certs[ca], self.keys[ca], CLUSTER, SystemClock().now()), host_id
        )

    def user(self) -> Pair:
        key, ca = generate_p256(), AuthorityKind.USER
        subject = UserSubject(name="alice", cluster=CLUSTER, roles=("access",), logins=("root",))
        request = UserTLSRequest(key.public, subject, timedelta(hours=1))
        return self._pair(key, issue_user_tls(request, self.certs[ca], self.keys[ca], SystemClock().now()), "alice")

    def _pair(self, key: PrivateKey, cert: bytes, name: str) -> Pair:
        made = Pair(name, self.folder / f"{name}.crt", self.folder / f"{name}.key")
        made.cert.write_bytes(pem_of(cert))
        made.key.write_bytes(key.pkcs8_pem().reveal())
        return made

    def calling(self, pair: Pair | None) -> ssl.SSLContext:
        context = cluster_client_context([self.pem], *((pair.cert, pair.key) if pair is not None else ()))
        context.set_alpn_protocols([PROXY_PEER])
        return context


@dataclass(frozen=True)
class Pair:
    """Files of a certificate and its key."""

    name: str
    cert: Path
    key: Path


@dataclass
class Listed:
    """What proxies there are, in the order in which they are asked."""

    proxies: list[PeerProxy] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def peers(self, host_id: str) -> list[PeerProxy]:
        self.asked.append(host_id)
        return self.proxies


@dataclass
class End:
    """A proxy with tunnels, and a listener for others; and one without tunnels, whose clients ask it."""

    tls: TLSHosts
    lab: Tunnels
    server: PeerServer
    events: Events
    proxy: PeerProxy
    dialer: Dialer
    asking: Pair
    stack: AsyncExitStack

    async def host(self) -> str:
        """A node that keeps a tunnel to the proxy which is asked."""
        made = self.lab.hosts.host(SystemRole.NODE, "node")
        await self.lab.agent(made)
        await wait_until(lambda: self.lab.server.holds(str(made.host_id)))
        return str(made.host_id)

    async def other(self, pair: Pair | None, address: str = "127.0.0.1:3021") -> Dialer:
        """Somebody else who asks, and says to be reached at `address`."""
        dialer = Dialer(CLUSTER, hosts=self.tls, context=lambda: self.tls.calling(pair), address=lambda: address)
        await self.stack.enter_async_context(served(dialer.run, "dialer"))
        return dialer

    async def denied(self) -> ProxyPeerDenied:
        (event, *_) = await self.events.wait_for("proxy_peer.denied")
        assert isinstance(event, ProxyPeerDenied)
        assert event.server_id == self.proxy.host_id
        return event


@asynccontextmanager
async def peers(folder: Path, *, unproved: int = 200, most: int = 100) -> AsyncIterator[End]:
    tls, events, bound = TLSHosts(folder), Events(), listener()
    async with AsyncExitStack() as stack:
        stack.callback(bound.close)
        lab = await stack.enter_async_context(tunnels(Hosts()))
        own = tls.host(SystemRole.PROXY)
        context = peer_server_context(own.cert, own.key, [tls.pem], PROXY_PEER)
        server = PeerServer(
            PeerConfig(CLUSTER, UUID(own.name), "proxy", unproved, ConnectionLimits(max_connections=most)),
            tunnels=lab.server,
            hosts=tls,
            context=lambda: context,
            emitter=events,
            clock=SystemClock(),
        )
        await stack.enter_async_context(served(lambda started: server.run([bound], started), "peers"))
        asking = tls.host(SystemRole.PROXY)
        dialer = Dialer(CLUSTER, hosts=tls, context=lambda: tls.calling(asking), address=lambda: "localhost:3021")
        await stack.enter_async_context(served(dialer.run, "dialer"))
        proxy = PeerProxy(own.name, "127.0.0.1", bound.getsockname()[1])
        yield End(tls, lab, server, events, proxy, dialer, asking, stack)


async def raw(
    end: End, pair: Pair | None, *, protocol: str = PROXY_PEER
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A TLS connection to the listener, by somebody who speaks by himself."""
    context = end.tls.calling(pair)
    context.set_alpn_protocols([protocol])
    return await asyncio.open_connection(
        end.proxy.host, end.proxy.port, ssl=context, server_hostname=f"{end.proxy.host_id}.{CLUSTER}"
    )


async def test_a_client_is_led_by_another_proxys_tunnel(tmp_path: Path) -> None:
    async with peers(tmp_path) as end:
        host = await end.host()
        client = await end.dialer.connect(end.proxy, host, Client)
        await client.says(b"x" * 3_000_000, b"x" * 3_000_000)
        assert bytes(client.got[:6]) == b"hello "
        assert end.lab.server.open == 1
        assert client.transport is not None
        client.transport.close()
        await wait_until(lambda: end.lab.server.open == 0)


async def test_each_direction_ends_by_itself(tmp_path: Path) -> None:
    """TLS cannot say so; the frames do."""
    async with peers(tmp_path) as end:
        host = await end.host()
        client = await end.dialer.connect(end.proxy, host, Client)
        await client.says(b"last words", b"last words")
        assert client.transport is not None
        assert client.transport.can_write_eof()
        client.transport.write_eof()
        await asyncio.wait_for(client.lost.wait(), 10)  # the node service here closes when it reads the end
        await wait_until(lambda: end.lab.server.open == 0)


async def test_the_next_client_finds_a_connection_that_is_made_already(tmp_path: Path) -> None:
    async with peers(tmp_path) as end:
        host = await end.host()
        await end.dialer.connect(end.proxy, host, Client)
        await wait_until(lambda: len(end.server.links) == 2)
        before = set(end.server.links)
        await end.dialer.connect(end.proxy, host, Client)
        assert all(link in end.server.links for link in before)
        await wait_until(lambda: len(end.server.links) == 3)
        assert len(before & end.server.links) == 2, "no connection was dialled for the client itself"


async def test_a_connection_that_was_kept_and_is_dead_costs_a_client_nothing(tmp_path: Path) -> None:
    async with peers(tmp_path) as end:
        host = await end.host()
        await end.dialer.connect(end.proxy, host, Client)
        await wait_until(lambda: len(end.server.links) == 2)
        for link in list(end.server.links):
            link.close_if_idle()
        client = await end.dialer.connect(end.proxy, host, Client)
        await client.says(b"there", b"there")


async def test_a_host_whose_tunnel_ends_elsewhere_is_not_led_to_and_nobody_else_is_asked(tmp_path: Path) -> None:
    async with peers(tmp_path) as end:
        await end.host()
        for _ in range(3):
            with pytest.raises(NotHere, match="no tunnel of this host ends here"):
                await end.dialer.connect(end.proxy, str(uuid4()), Client)
        assert len(end.server.links) == 1, "the connection serves the next question"
        assert not end.events.named("proxy_peer.denied"), "a stale record is nobody's fault"


@pytest.mark.parametrize(
    "server_id",
    ["127.0.0.1:{port}", "@remote-auth-server", "{host}.other.test", "{host}", "localhost:{port}.lab.test", ""],
)
async def test_nothing_but_a_host_of_the_cluster_can_be_asked_for(tmp_path: Path, server_id: str) -> None:
    """A proxy that was taken over does not make another one connect anywhere."""
    async with peers(tmp_path) as end:
        host, reached = await end.host(), list[int]()
        target = await asyncio.start_server(lambda *_: reached.append(1), "127.0.0.1", 0)
        async with target:
            asked = server_id.format(port=target.sockets[0].getsockname()[1], host=host)
            reader, writer = await raw(end, end.asking)
            writer.write(peering.message(peering.Kind.ASK, peering.Ask(server_id=asked)))
            said = await reader.read(4096)
            assert b"this is not led to" in said
            assert await reader.read(4096) == b"", "and the connection ends"
            writer.close()
            event = await end.denied()
            assert event.peer_id == end.asking.name
            assert asked[:20] in event.asked
            assert not reached


@pytest.mark.parametrize("role", [SystemRole.NODE, SystemRole.AUTH, SystemRole.ADMIN])
async def test_other_hosts_of_the_cluster_are_refused(tmp_path: Path, role: SystemRole) -> None:
    async with peers(tmp_path) as end:
        host, evil = await end.host(), end.tls.host(role)
        with pytest.raises(ConnectionProblem):
            await (await end.other(evil)).connect(end.proxy, host, Client)
        event = await end.denied()
        assert event.peer_id == evil.name
        assert f"of the role {role}" in event.reason
        assert end.lab.server.open == 0


async def test_whoever_has_no_host_certificate_does_not_get_through_the_handshake(tmp_path: Path) -> None:
    async with peers(tmp_path) as end:
        host = await end.host()
        (tmp_path / "other").mkdir()
        strangers = (None, end.tls.user(), TLSHosts(tmp_path / "other").host(SystemRole.PROXY))
        for number, pair in enumerate(strangers, 1):
            with pytest.raises(ConnectionProblem):
                await (await end.other(pair)).connect(end.proxy, host, Client)
            found = await end.events.wait_for("proxy_peer.denied", number)
            assert isinstance(found[-1], ProxyPeerDenied)
            assert not found[-1].peer_id
            assert "no host of the cluster" in found[-1].reason
        assert end.lab.server.open == 0


async def test_another_protocol_is_not_spoken_and_tls_below_1_3_neither(tmp_path: Path) -> None:
    async with peers(tmp_path) as end:
        context = end.tls.calling(end.asking)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection(
                end.proxy.host, end.proxy.port, ssl=context, server_hostname=f"{end.proxy.host_id}.{CLUSTER}"
            )
        reader, writer = await raw(end, end.asking, protocol="http/1.1")
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.close()
        assert not end.server.links


async def test_a_locked_proxy_is_refused_and_loses_what_it_has(tmp_path: Path) -> None:
    async with peers(tmp_path) as end:
        host = await end.host()
        client = await end.dialer.connect(end.proxy, host, Client)
        await client.says(b"before", b"before")
        end.tls.refused[end.asking.name] = AccessDenied(f"the host {end.asking.name} is locked")
        end.server.reconsider()
        await asyncio.wait_for(client.lost.wait(), 10)
        event = await end.denied()
        assert "locked" in event.reason
        assert event.peer_id == end.asking.name
        with pytest.raises(ConnectionProblem):
            await (await end.other(end.asking)).connect(end.proxy, host, Client)
        await wait_until(lambda: end.lab.server.open == 0)
        found = await end.events.wait_for("proxy_peer.denied", 3)  # both connections, and the one that came then
        assert {getattr(one, "peer_id", "") for one in found} == {end.asking.name}


async def test_a_lock_counts_at_the_next_question_also_before_anybody_looks(tmp_path: Path) -> None:
    async with peers(tmp_path) as end:
        host = await end.host()
        reader, writer = await raw(end, end.asking)
        writer.write(peering.message(peering.Kind.ASK, peering.Ask(server_id=f"{uuid4()}.{CLUSTER}")))
        assert b"no tunnel" in await reader.read(4096)
        end.tls.refused[end.asking.name] = AccessDenied("it is locked")
        writer.write(peering.message(peering.Kind.ASK, peering.Ask(server_id=f"{host}.{CLUSTER}")))
        assert b"this is not led to" in await reader.read(4096)
        assert await reader.read(4096) == b""
        writer.close()


async def test_when_a_certificate_ends_clients_stay_and_nobody_new_is_led(tmp_path: Path) -> None:
    async with peers(tmp_path) as end:
        host = await end.host()
        client = await end.dialer.connect(end.proxy, host, Client)
        end.tls.refused[end.asking.name] = CertificateRefused(Refusal.EXPIRED, "The certificate expired.")
        end.server.reconsider()
        await client.says(b"still", b"still")
        with pytest.raises(ConnectionProblem):
            await end.dialer.connect(end.proxy, host, Client)


async def test_the_proxy_that_is_asked_has_to_be_the_one_that_is_meant_and_no_locked_one(tmp_path: Path) -> None:
    async with peers(tmp_path) as end:
        host = await end.host()
        wrong = PeerProxy(str(uuid4()), end.proxy.host, end.proxy.port)
        with pytest.raises(ConnectionProblem, match=r"not reached.*Hostname mismatch"):
            await end.dialer.connect(wrong, host, Client)
        client = await end.dialer.connect(end.proxy, host, Client)
        end.tls.refused[end.proxy.host_id] = AccessDenied("it is locked")
        end.dialer.reconsider()
        await asyncio.wait_for(client.lost.wait(), 10)
        with pytest.raises(ConnectionProblem, match="not believed"):
            await end.dialer.connect(end.proxy, host, Client)


@pytest.mark.parametrize("own", ["", "10.1.2.3:3021", "proxy.lab.test:3021", "[2001:db8::1]:3021"])
async def test_a_loopback_is_dialled_on_another_proxys_word_only_where_all_are_on_one_machine(
    tmp_path: Path, own: str
) -> None:
    """Else a proxy that was taken over has others knock at what only they reach."""
    async with peers(tmp_path) as end:
        host = await end.host()
        dialer = await end.other(end.asking, own)
        knocked: list[asyncio.StreamWriter] = []
        door = await asyncio.start_server(lambda _, writer: knocked.append(writer), "127.0.0.1", 0)
        async with door:
            port = door.sockets[0].getsockname()[1]
            for name in ("127.0.0.1", "127.0.0.2", "localhost"):
                with pytest.raises(ConnectionProblem, match=r"not dialled.*this proxy's own peer address"):
                    await dialer.connect(PeerProxy(end.proxy.host_id, name, port), host, Client)
        assert not knocked
        with pytest.raises(ConnectionProblem, match="not dialled"):
            await dialer.connect(end.proxy, host, Client)
        for same in ("127.0.0.1:3021", "[::1]:3021", "localhost:3021"):
            client = await (await end.other(end.asking, same)).connect(end.proxy, host, Client)
            await client.says(b"led", b"led")


async def test_connections_that_end_while_they_wait_are_forgotten_and_new_ones_made(tmp_path: Path) -> None:
    async with peers(tmp_path) as end:
        host = await end.host()
        await end.dialer.connect(end.proxy, host, Client)
        await wait_until(lambda: end.dialer.kept(end.proxy) > 0)
        end.tls.refused[end.proxy.host_id] = AccessDenied("it is locked")
        end.dialer.reconsider()
        await wait_until(lambda: end.dialer.kept(end.proxy) == 0)
        end.tls.refused.clear()
        await end.dialer.connect(end.proxy, host, Client)
        await wait_until(lambda: end.dialer.kept(end.proxy) > 0)


async def test_what_breaks_the_rules_ends_the_connection(tmp_path: Path) -> None:
    """Data before a client is led, a second question beside the first, an answer, a frame too long."""
    async with peers(tmp_path) as end:
        host = await end.host()
        ask = peering.message(peering.Kind.ASK, peering.Ask(server_id=f"{host}.{CLUSTER}"))
        for sent in (
            peering.frame(peering.Kind.DATA, b"x"),
            peering.frame(peering.Kind.END),
            ask + ask,
            peering.message(peering.Kind.ANSWER, peering.Answer()),
            b"\x01\xff\xff\xff",
            b"SSH-2.0-nobody\r\n",
        ):
            reader, writer = await raw(end, end.asking)
            writer.write(sent)
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1_000_000)
            writer.close()
        await wait_until(lambda: end.lab.server.open == 0)
        client = await end.dialer.connect(end.proxy, host, Client)
        await client.says(b"others go on", b"others go on")


async def test_those_who_say_nothing_keep_nobody_out(tmp_path: Path) -> None:
    async with peers(tmp_path, unproved=4) as end:
        host = await end.host()
        silent = [await asyncio.open_connection(end.proxy.host, end.proxy.port) for _ in range(12)]
        client = await end.dialer.connect(end.proxy, host, Client)
        await client.says(b"here", b"here")
        for _, writer in silent:
            writer.close()


async def test_when_another_process_takes_over_what_waits_is_closed_and_what_is_led_stays(tmp_path: Path) -> None:
    async with peers(tmp_path) as end:
        host = await end.host()
        client = await end.dialer.connect(end.proxy, host, Client)
        await wait_until(lambda: len(end.server.links) == 2)
        end.server.pause()
        await wait_until(lambda: len(end.server.links) == 1)
        await client.says(b"still", b"still")
        await end.server.resume()
        other = await end.dialer.connect(end.proxy, host, Client)
        await other.says(b"again", b"again")


async def test_a_client_is_led_by_the_own_tunnel_first_then_by_those_that_are_said_to_have_one(tmp_path: Path) -> None:
    async with peers(tmp_path) as end, tunnels(Hosts()) as own:
        host = await end.host()
        listed = Listed([PeerProxy(str(uuid4()), "127.0.0.1", 1), end.proxy])
        leading = Leading(own.server, end.dialer, listed)
        client = await leading.connect(host, Client)
        await client.says(b"by the second", b"by the second")
        assert end.lab.server.open == 1
        assert not leading.holds(host)
        mine = own.hosts.host(SystemRole.NODE, "mine")
        await own.agent(mine)
        await wait_until(lambda: leading.holds(str(mine.host_id)))
        client = await leading.connect(str(mine.host_id), Client)
        await client.says(b"by mine", b"by mine")
        assert listed.asked == [host], "nobody was asked for a host whose tunnel ends here"


async def test_a_kubernetes_service_is_asked_for_at_other_proxies_as_such(tmp_path: Path) -> None:
    async with peers(tmp_path) as end, tunnels(Hosts()) as own:
        kube = end.lab.hosts.host(SystemRole.KUBE, "kube")
        host_id = str(kube.host_id)
        await end.lab.agent(kube, conn_type=m.KUBE)
        await wait_until(lambda: end.lab.server.holds(host_id, m.KUBE))
        leading = Leading(own.server, end.dialer, Listed([end.proxy]))
        client = await leading.connect(host_id, Client, m.KUBE)
        await client.says(b"by the other", b"by the other")
        with pytest.raises(NotHere):
            await end.dialer.connect(end.proxy, host_id, Client)


async def test_a_client_waits_for_a_tunnel_that_is_made_anew_wherever_it_ends(tmp_path: Path) -> None:
    async with peers(tmp_path) as end, tunnels(Hosts()) as own:
        host = end.lab.hosts.host(SystemRole.NODE, "node")
        leading = Leading(own.server, end.dialer, Listed([end.proxy]))
        waiting = asyncio.create_task(leading.connect(str(host.host_id), Client))
        await wait_until(lambda: bool(end.server.links))
        await end.lab.agent(host)
        client = await asyncio.wait_for(waiting, 10)
        await client.says(b"there", b"there")


async def test_a_host_that_nobody_has_is_given_up_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leading_module, "ON_ITS_WAY", 0.3)
    async with peers(tmp_path) as end, tunnels(Hosts()) as own:
        leading = Leading(own.server, end.dialer, Listed([end.proxy]))
        with pytest.raises(ConnectionProblem, match="no tunnel"):
            await asyncio.wait_for(leading.connect(str(uuid4()), Client), 5)


@pytest.mark.parametrize("address", ["169.254.169.254", "fe80::1", "fd00:ec2::254", "0.0.0.0", "224.0.0.1"])
async def test_a_proxy_that_announces_what_only_this_machine_reaches_is_not_dialled(
    tmp_path: Path, address: str
) -> None:
    async with peers(tmp_path) as end:
        with pytest.raises(ConnectionProblem, match="is not dialled"):
            await end.dialer.connect(PeerProxy(end.proxy.host_id, address, end.proxy.port), str(uuid4()), Client)
        assert not end.server.links


async def test_however_many_look_for_a_host_that_nobody_has_the_others_are_asked_seldom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each question that is answered with no costs both a handshake."""
    monkeypatch.setattr(leading_module, "ON_ITS_WAY", 2.0)
    async with peers(tmp_path) as end, tunnels(Hosts()) as own:
        leading = Leading(own.server, end.dialer, Listed([end.proxy]))
        made, reach = 0, end.dialer._reach

        async def counted(proxy: PeerProxy) -> Any:
            nonlocal made
            made += 1
            return await reach(proxy)

        monkeypatch.setattr(end.dialer, "_reach", counted)
        missing = str(uuid4())
        looking = [asyncio.create_task(leading.connect(missing, Client)) for _ in range(20)]
        done = await asyncio.gather(*looking, return_exceptions=True)
        assert all(isinstance(one, ConnectionProblem) for one in done)
        assert made <= 20 + 2 * 2.0 / leading_module.AGAIN, "each once, and then one for all of them"
