"""The way from one cluster to hosts of another, over loopback with real SSH: who is led where, and what is refused.

The root's proxy and tunnel server, and the leaf's proxy with its tunnel, are real; the leaf's node is a TCP service
that reads the line which vouches for the client, and says what it heard.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, cast
from uuid import UUID, uuid4

import msgspec
import pytest

from teleport.authz.clusters import why_no_cluster
from teleport.authz.decision import AccessDenial, DenialCode, Policy
from teleport.authz.role_map import map_user
from teleport.clock import SystemClock
from teleport.errors import AccessDenied, ConnectionProblem, TeleportError
from teleport.identity import HostIdentity, SystemRole, UserIdentity
from teleport.pki.keys import generate_ed25519
from teleport.pki.sshcert import HostCertRequest, host_principals, issue_host_cert
from teleport.pki.sshformat import parse_certificate
from teleport.pki.sshverify import verify_host_cert, verify_user_cert
from teleport.proxy.from_clusters import FromCluster
from teleport.proxy.other_clusters import OtherClusters, Traveller
from teleport.proxy.ssh_router import RouterConfig, SshRouter
from teleport.resources.authority import RoleMapping
from teleport.resources.metadata import Metadata
from teleport.resources.role import Conditions, Role, RoleSpec
from teleport.ssh.client import SshClient, connect
from teleport.ssh.client_connection import ClientKey
from teleport.ssh.handlers import Channel
from teleport.ssh.surface import Peer, Refusal
from teleport.store.resolve import RegisteredNode
from teleport.testing.lab_certificates import Authorities, LabHost, LabUser
from teleport.testing.lab_rules import LabDirectory
from teleport.testing.memory import Events
from teleport.testing.running import listener, served, wait_until
from teleport.tunnel import cluster_messages as cm
from teleport.tunnel import messages as m
from teleport.tunnel.agent import AgentConfig, TunnelAgent
from teleport.tunnel.clusters import ClusterTunnels
from teleport.tunnel.server import TunnelConfig, TunnelServer
from teleport.wire import vouch
from teleport.wire.forward_spec import TcpEnd

ROOT, LEAF = "root.test", "leaf.test"
REFUSES = f"The cluster {LEAF} refuses: "


class Remotes:
    """What the root knows of the leaf."""

    def __init__(self, root: Authorities, leaf: Authorities, directory: LabDirectory) -> None:
        self.root, self.leaf, self.directory = root, leaf, directory
        self.clusters = [LEAF]
        self.labels: dict[str, str] = {}
        self.role = Role(metadata=Metadata(name="access"), spec=RoleSpec())

    def names(self) -> Sequence[str]:
        return self.clusters

    def knows(self, cluster: str) -> bool:
        return cluster in self.clusters

    def verify_proxy(self, cluster: str, certificate: bytes) -> HostIdentity:
        if cluster not in self.clusters:
            raise AccessDenied("it is gone")
        trusted = [one for one in self.leaf.trusted if cluster == LEAF]
        found = verify_host_cert(certificate, trusted, SystemClock().now(), hostname=None)
        if found.role is not SystemRole.PROXY:
            raise AccessDenied(f"a {found.role}")
        return found

    def why_not(self, identity: UserIdentity, cluster: str) -> AccessDenial | None:
        return why_no_cluster(identity, Policy({"access": self.role}), remote=cluster, labels=self.labels)

    def why_no_session(self, identity: UserIdentity, client_address: str) -> AccessDenial | None:
        return self.directory.why_no_session(identity, client_address)

    def verify_user(self, certificate: bytes) -> UserIdentity:
        return self.root.verify_user(certificate)

    def stands(self, certificate: bytes) -> bool:
        signer = parse_certificate(certificate).signer
        return self.root.trusts_user_authority(signer) or self.root.let_go(signer)


class Trust:
    """What the leaf knows of the root."""

    def __init__(self, root: Authorities) -> None:
        self.root = root
        self.role_map: tuple[RoleMapping, ...] = (RoleMapping(remote="access", local=("guest",)),)
        self.kube: list[tuple[bytes, Peer]] = []  # whom the listener for Kubernetes clients was handed
        self.serves_kube = True

    def verify_host(self, certificate: bytes) -> HostIdentity:
        return self.verify_proxy(ROOT, certificate)

    def verify_proxy(self, cluster: str, certificate: bytes) -> HostIdentity:
        found = verify_host_cert(certificate, self.root.trusted, SystemClock().now(), hostname=None)
        if found.role is not SystemRole.PROXY:
            raise AccessDenied(f"a {found.role}")
        return found

    def verify_user(self, certificate: bytes) -> UserIdentity:
        found = verify_user_cert(certificate, self.root.trusted, SystemClock().now())
        return map_user(found, self.role_map, LEAF)

    def take_kube(self, transport: asyncio.Transport, certificate: bytes, peer: Peer) -> None:
        if not self.serves_kube:
            raise ConnectionProblem("none are served", hint="try elsewhere")
        self.kube.append((certificate, peer))
        transport.set_protocol(asyncio.Protocol())


@dataclass
class Both:
    """What runs."""

    root: Authorities
    leaf: Authorities
    router: SshRouter
    tunnels: TunnelServer
    others: OtherClusters
    remotes: Remotes
    trust: Trust
    serving: FromCluster
    leaf_router: SshRouter
    leaf_proxy: LabHost
    root_proxy: LabHost
    address: tuple[str, int]
    tunnel_address: tuple[str, int]
    events: Events
    leaf_events: Events
    lines: list[bytes]
    directory: LabDirectory
    leaf_directory: LabDirectory
    stack: AsyncExitStack = field(repr=False)

    async def client(self, user: LabUser) -> SshClient:
        made = await connect(self.address, login="root", key=key_of(user), check=lambda _: None)
        self.stack.push_async_callback(made.close)
        return made

    async def ask(self, user: LabUser, target: str) -> str:
        """What the node says, or the refusal."""
        client, got = await self.client(user), bytearray()
        try:
            session = await client.stream(TcpEnd(target, 22), on_output=lambda data, _: got.extend(data))
        except ConnectionProblem as error:
            return error.message.removeprefix(f"the host does not lead to {target}:22: ")
        session.write(b"hello")
        await wait_until(lambda: b"heard hello" in bytes(got))
        return bytes(got).decode()

    def dial(self, user: LabUser, **changes: object) -> cm.ClusterDial:
        made = cm.ClusterDial(
            cluster=LEAF, certificate=cm.encoded_certificate(user.certificate.blob), host="db", port=22
        )
        return msgspec.structs.replace(made, **changes)

    def vouched(self, dial: cm.ClusterDial, by: LabHost | None = None, **changes: object) -> bytes:
        by = by or self.root_proxy
        said = vouch.Vouch("192.0.2.9", 1234, uuid4(), cm.dial_target(dial), SystemClock().now(), uuid4().bytes)
        line = vouch.encode(replace(said, **changes), by.certificate, by.sign)  # type: ignore[arg-type]
        return m.encode(msgspec.structs.replace(dial, vouch=line.decode()))

    async def served(self, data: bytes) -> str:
        """What the leaf's end answers to a message."""
        found = await self.serving.serve(data, cast(Channel, Sink()))
        if isinstance(found, Refusal):
            return found.message
        found.client_gone()
        return "served"


class Sink:
    """A channel that nobody reads."""

    def write(self, data: bytes, *, stderr: bool = False) -> None: ...
    def write_eof(self) -> None: ...
    def close(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


def key_of(one: LabUser | LabHost) -> ClientKey:
    certificate = one.certificate if isinstance(one, LabUser) else one.cert
    return ClientKey(one.key.openssh_pem().reveal(), certificate.line())


@asynccontextmanager
async def both(*, connected: bool = True) -> AsyncIterator[Both]:
    root, leaf = Authorities(ROOT), Authorities(LEAF)
    clock, lines = SystemClock(), list[bytes]()
    directory, leaf_directory = LabDirectory(), LabDirectory()
    events, leaf_events = Events(), Events()
    root_proxy, leaf_proxy = root.host(SystemRole.PROXY, "proxy"), leaf.host(SystemRole.PROXY, "leaf-proxy")

    async def node(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines.append(await reader.readline())
        while data := await reader.read(4096):
            writer.write(b"heard " + data)
        writer.close()

    async with AsyncExitStack() as stack:
        server = await asyncio.start_server(node, "127.0.0.1", 0)
        stack.callback(server.close)
        port = server.sockets[0].getsockname()[1]
        db = leaf.host(SystemRole.NODE, "db")
        leaf_directory.registered.append(RegisteredNode(str(db.host_id), "db", f"127.0.0.1:{port}"))

        def make(authorities: Authorities, name: str, host: LabHost, where: LabDirectory, to: Events) -> SshRouter:
            return SshRouter(
                RouterConfig(authorities.cluster, host.host_id, name),
                certificates=authorities,
                directory=where,
                identity=host,
                host_keys=[host.host_key],
                emitter=to,
                clock=clock,
            )

        router = make(root, "proxy", root_proxy, directory, events)
        leaf_router = make(leaf, "leaf-proxy", leaf_proxy, leaf_directory, leaf_events)
        tunnels = TunnelServer(
            TunnelConfig(ROOT, root_proxy.host_id, 1, "proxy"),
            hosts=root,
            host_keys=[root_proxy.host_key],
            emitter=events,
            clock=clock,
        )
        remotes, trust = Remotes(root, leaf, directory), Trust(root)
        tunnels.clusters = ClusterTunnels(remotes)
        others = router.others = OtherClusters(ROOT, remotes, tunnels.clusters, root_proxy, clock)
        serving = FromCluster(
            ROOT,
            leaf_router,
            trust,
            auth_servers=[("127.0.0.1", port)],
            vouch_to_auth=lambda host, number, cluster: f"auth for {host} of {cluster}\r\n".encode(),
        )
        sockets = [listener() for _ in range(3)]
        for sock in sockets:
            stack.callback(sock.close)
        await stack.enter_async_context(served(lambda started: router.run([sockets[0]], started), "root"))
        await stack.enter_async_context(served(lambda started: tunnels.run([sockets[1]], started), "tunnels"))
        await stack.enter_async_context(served(lambda started: leaf_router.run([sockets[2]], started), "leaf"))
        found = Both(
            root, leaf, router, tunnels, others, remotes, trust, serving, leaf_router, leaf_proxy, root_proxy,
            sockets[0].getsockname(), sockets[1].getsockname(), events, leaf_events, lines, directory, leaf_directory,
            stack,
        )  # fmt: skip
        if connected:
            await agent(found)
        yield found


async def agent(found: Both) -> TunnelAgent:
    async def seeds() -> list[str]:
        return [f"127.0.0.1:{found.tunnel_address[1]}"]

    made = TunnelAgent(
        AgentConfig(LEAF, found.leaf_proxy.host_id, 1, ("127.0.0.1",)),
        hosts=found.trust,
        key=lambda: key_of(found.leaf_proxy),
        seeds=seeds,
        accept=lambda transport: transport.abort(),
        changed=lambda: None,
        clock=SystemClock(),
        serve=found.serving.serve,
    )
    task = asyncio.create_task(made.run(), name="agent")

    async def end() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    found.stack.push_async_callback(end)
    assert await made.wait_first(10)
    return made


def alice(found: Both, **changes: Any) -> LabUser:
    return found.root.user(["root"], **changes)


async def test_a_user_is_led_to_a_host_of_the_leaf_by_each_way_of_naming_it() -> None:
    async with both() as found:
        await wait_until(
            lambda: found.others.listed(found.root.verify_user(alice(found).certificate.blob)) == [(LEAF, True)]
        )
        for target in (f"db@{LEAF}", f"db.{LEAF}", f"db.{LEAF}@{LEAF}"):
            assert await found.ask(alice(found), target) == "heard hello"
        routed = alice(found, route_to_cluster=LEAF)
        assert await found.ask(routed, "db") == "heard hello"
        signed = vouch.parse(found.lines[0])
        assert signed.certificate == found.leaf_proxy.certificate, "the node hears the leaf's own proxy"
        assert signed.vouch.client_host == "127.0.0.1"


async def test_names_of_the_own_cluster_stay_there_whatever_the_certificate_routes_to() -> None:
    async with both() as found:
        routed = alice(found, route_to_cluster=LEAF)
        assert await found.ask(routed, f"db.{ROOT}") == "No node db.root.test is registered here for you."
        assert await found.ask(routed, f"db@{ROOT}") == "No node db is registered here for you."
        assert not found.lines


async def test_who_may_not_go_to_a_cluster_reads_the_same_as_for_one_that_is_none() -> None:
    async with both() as found:
        nothing = await found.ask(alice(found), "db@nosuch.test")
        assert nothing.startswith("The cluster nosuch.test is not known here, this one is root.test.")
        found.remotes.labels = {"env": "prod"}
        hidden = await found.ask(alice(found), f"db@{LEAF}")
        assert hidden.startswith(f"The cluster {LEAF} is not known here, this one is root.test.")
        assert hidden.count(LEAF) == 1, "the nearest names do not tell of it either"
        assert LEAF not in await found.ask(alice(found), "db@leaf.tst")
        found.remotes.role = Role(
            metadata=Metadata(name="access"), spec=RoleSpec(allow=Conditions(cluster_labels={"env": ("prod",)}))
        )
        assert await found.ask(alice(found), f"db@{LEAF}") == "heard hello"
        found.remotes.role = Role(
            metadata=Metadata(name="access"),
            spec=RoleSpec(
                allow=Conditions(cluster_labels={"*": ("*",)}), deny=Conditions(cluster_labels={"env": ("prod",)})
            ),
        )
        assert "is not known here" in await found.ask(alice(found), f"db@{LEAF}")
        near = await found.ask(alice(found), "db@rot.test")
        assert near.endswith("Did you mean root.test?"), "and the leaf, which is not for them, is not named"


async def test_a_leaf_without_tunnel_is_said_to_be_offline() -> None:
    async with both(connected=False) as found:
        said = await found.ask(alice(found), f"db@{LEAF}")
        assert said == f"The cluster {LEAF} is not connected to this proxy now: no tunnel of its proxies ends here."


async def test_roles_that_are_not_mapped_and_hosts_that_are_none_are_refused_with_the_leafs_words() -> None:
    async with both() as found:
        said = await found.ask(alice(found), f"dp@{LEAF}")
        assert said == f"{REFUSES}No node dp is registered here for you. Did you mean db?"
        stranger = alice(found, roles=("other",))
        found.remotes.role = Role(metadata=Metadata(name="other"))
        found.remotes.why_not = lambda identity, cluster: None  # type: ignore[method-assign]
        said = await found.ask(stranger, f"db@{LEAF}")
        assert said.startswith(f"{REFUSES}None of your roles in the cluster {ROOT} (other) is mapped")
        assert not found.lines
        assert await found.leaf_events.wait_for("auth"), "the leaf has it on record, too"


async def test_sessions_that_the_leafs_proxy_records_end_there_and_it_knows_through_whom_somebody_came() -> None:
    came: list[Peer] = []

    class Recording:
        def records(self, host_id: str) -> bool:
            return True

        async def lead(self, channel: Channel, host_id: str, peer: Peer, ended: object) -> object:
            came.append(peer)
            raise AccessDenied("it would be recorded", hint="try again")

    async with both() as found:
        found.leaf_router.recording = cast(Any, Recording())
        said = await found.ask(alice(found), f"db@{LEAF}")
        assert said.startswith(f"{REFUSES}it would be recorded")
        assert not found.lines
        assert [one.through for one in came] == [ROOT]


async def test_who_may_have_no_session_in_the_leaf_gets_no_connection_to_its_auth() -> None:
    """Locked there, or pinned to another address."""
    async with both() as found:
        message = {"conn_type": cm.AUTH, "host": "", "port": 0}
        assert await found.served(found.vouched(found.dial(alice(found), **message))) == "served"
        await wait_until(lambda: len(found.lines) == 1)
        found.leaf_directory.forbidden = AccessDenial(
            DenialCode.LOCKED, "You are locked out.", ("lock l1 on the user",), "ask an administrator"
        )
        said = await found.served(found.vouched(found.dial(alice(found), **message)))
        assert said.startswith("You are locked out.")
        assert len(found.lines) == 1
        (told,) = await found.leaf_events.wait_for("session.request_denied")
        assert "lock l1 on the user" in cast(Any, told).reason


async def test_kubernetes_clients_are_handed_to_their_listener_with_whom_a_proxy_vouched_for() -> None:
    """Once for each message, which names no host; the listener judges the certificate."""
    async with both() as found:
        user, kube = alice(found), {"conn_type": cm.KUBE, "host": "", "port": 0}
        message = found.vouched(found.dial(user, **kube))
        assert await found.served(message) == "served"
        ((certificate, peer),) = found.trust.kube
        assert certificate == user.certificate.blob
        assert peer.through == ROOT
        assert "used before" in await found.served(message)
        assert await found.served(found.vouched(found.dial(user, **{**kube, "host": "db"}))) != "served"
        taken = m.decode(found.vouched(found.dial(user, **kube)), cm.ClusterDial)
        other = cm.encoded_certificate(found.root.user(["root"], user="bob").certificate.blob)
        forged = m.encode(msgspec.structs.replace(taken, certificate=other))
        assert "meant for another" in await found.served(forged)
        found.trust.serves_kube = False
        assert "none are served" in await found.served(found.vouched(found.dial(user, **kube)))
        assert len(found.trust.kube) == 1
        assert not found.lines


@pytest.mark.parametrize("host", ["169.254.169.254", "127.0.0.2", "localhost", "[::1]", "10.0.0.1", "db\x00", ""])
async def test_a_hostile_root_has_nothing_dialled_but_registered_hosts(host: str) -> None:
    async with both() as found:
        dial = found.dial(alice(found), host=host, port=80)
        said = await found.served(found.vouched(dial))
        assert said != "served"
        assert not found.lines


async def test_what_a_root_may_ask_is_bounded_and_read_strictly() -> None:
    async with both() as found:
        user = alice(found)
        for changes in (
            {"cluster": "other.test"},
            {"version": 2},
            {"port": 65536},
            {"host": "x" * 300},
            {"conn_type": "auth"},  # with a host
            {"certificate": "!"},
        ):
            assert await found.served(found.vouched(found.dial(user, **changes))) != "served", changes
        assert await found.served(b'{"cluster": 1}') != "served"
        assert await found.served(b"{" * 70000) != "served"
        assert await found.served(found.vouched(found.dial(user))) == "served"


async def test_a_vouch_counts_once_for_this_very_message_by_a_proxy_of_that_cluster() -> None:
    async with both() as found:
        user, other = alice(found), found.root.user(["root"], roles=("access",), user="bob")
        message = found.vouched(found.dial(user))
        assert await found.served(message) == "served"
        assert "used before" in await found.served(message)
        taken = m.decode(found.vouched(found.dial(user)), cm.ClusterDial)
        for changes in ({"host": "db2"}, {"port": 23}, {"certificate": cm.encoded_certificate(other.certificate.blob)}):
            assert "meant for another" in await found.served(m.encode(msgspec.structs.replace(taken, **changes)))
        assert "meant for another" in await found.served(found.vouched(found.dial(user), target=uuid4()))
        late = SystemClock().now() - timedelta(minutes=2)
        assert "the vouch is of" in await found.served(found.vouched(found.dial(user), time=late))
        for by in (
            found.leaf_proxy,  # of another cluster
            found.root.host(SystemRole.NODE, "node"),
            Authorities(ROOT).host(SystemRole.PROXY, "proxy"),  # who only says so
        ):
            assert await found.served(found.vouched(found.dial(user), by)) != "served"
        replaced = replace(found.root_proxy, key=found.leaf_proxy.key)
        assert await found.served(found.vouched(found.dial(user), replaced)) != "served"
        assert await found.leaf_events.wait_for("auth", 3), "refusals are on record"


async def test_certificates_of_the_leaf_and_of_strangers_lead_nowhere_by_the_roots_word() -> None:
    async with both() as found:
        for user in (found.leaf.user(["root"]), Authorities(ROOT).user(["root"])):
            assert await found.served(found.vouched(found.dial(user))) != "served"


async def test_the_roots_own_users_are_refused_at_the_leafs_ssh_port_and_the_leafs_at_the_roots() -> None:
    async with both() as found:
        with pytest.raises(TeleportError):
            await found.client(found.leaf.user(["root"]))


@pytest.mark.parametrize(
    ("role", "login", "why"),
    [
        (SystemRole.PROXY, "{id}.root.test", "another cluster's name"),
        (SystemRole.PROXY, "{other}.leaf.test", "another proxy's id"),
        (SystemRole.PROXY, "{id}.nosuch.test", "a cluster that is none"),
        (SystemRole.NODE, "{id}.leaf.test", "no proxy"),
        (SystemRole.AUTH, "{id}.leaf.test", "no proxy"),
    ],
)
async def test_a_tunnel_is_for_proxies_of_the_cluster_that_signed_under_their_own_id(
    role: SystemRole, login: str, why: str
) -> None:
    async with both(connected=False) as found:
        host = found.leaf.host(role, "x")
        name = login.format(id=host.host_id, other=found.leaf_proxy.host_id)
        with pytest.raises(TeleportError):
            await connect(found.tunnel_address, login=name, key=key_of(host), check=lambda _: None)
        assert (await found.events.wait_for("auth"))[0]
        assert found.tunnels.tunnels == 0, why


async def test_a_leaf_that_carries_a_hosts_uuid_of_the_root_is_never_taken_for_that_host() -> None:
    async with both(connected=False) as found:
        victim = found.root.host(SystemRole.NODE, "victim")
        key = found.leaf_proxy.key
        names = host_principals(str(victim.host_id), "evil", LEAF)
        request = HostCertRequest(key.public, str(victim.host_id), SystemRole.PROXY, names)
        cert = issue_host_cert(request, found.leaf.host_key, LEAF, SystemClock().now())
        found.leaf_proxy = LabHost(UUID(str(victim.host_id)), "evil", key, cert)
        await agent(found)
        assert not found.tunnels.holds(str(victim.host_id))
        assert found.others.listed(found.root.verify_user(alice(found).certificate.blob)) == [(LEAF, True)]


async def test_a_cluster_that_is_removed_loses_its_tunnels_and_all_they_carry_at_once() -> None:
    async with both() as found:
        client, got = await found.client(alice(found)), bytearray()
        session = await client.stream(TcpEnd(f"db@{LEAF}", 22), on_output=lambda data, _: got.extend(data))
        session.write(b"hello")
        await wait_until(lambda: bytes(got) == b"heard hello")
        assert found.others.open == 1
        found.remotes.clusters.clear()
        found.tunnels.reconsider()
        await found.others.reconsider()
        async with asyncio.timeout(5):
            await session.wait()
        await wait_until(lambda: found.tunnels.tunnels == 0 and found.others.open == 0)


@pytest.mark.parametrize("how", ["forbidden", "labels", "stolen key"])
async def test_whoever_may_not_go_there_any_more_is_cut_off(how: str) -> None:
    async with both() as found:
        client, got = await found.client(alice(found)), bytearray()
        session = await client.stream(TcpEnd(f"db@{LEAF}", 22), on_output=lambda data, _: got.extend(data))
        session.write(b"hello")
        await wait_until(lambda: bytes(got) == b"heard hello")
        await found.others.reconsider()
        assert found.others.open == 1, "nothing has changed"
        former = found.root.user_key
        found.root.user_key = generate_ed25519()
        found.root.rotated.add(former.public.blob)
        await found.others.reconsider()
        assert found.others.open == 1, "a rotation that went through its phases ends nothing"
        if how == "stolen key":
            found.root.rotated.clear()
        elif how == "labels":
            found.remotes.labels = {"env": "prod"}
        else:
            found.directory.forbidden = AccessDenial("locked", "You are locked.", ("locked",))  # type: ignore[arg-type]
        await found.others.reconsider()
        async with asyncio.timeout(5):
            await session.wait()
        await wait_until(lambda: found.others.open == 0)


async def test_auth_of_the_leaf_is_reached_with_the_line_of_the_leafs_proxy_and_by_users_only() -> None:
    async with both() as found:
        user = alice(found)
        who = Traveller(
            found.root.verify_user(user.certificate.blob), user.certificate.blob, Peer("192.0.2.9", 5), LEAF
        )
        reader, writer = await found.others.to_auth(who)
        writer.write(b"tls")
        assert await reader.read(100) == b"heard tls"
        assert found.lines == [f"auth for 192.0.2.9 of {ROOT}\r\n".encode()]
        writer.close()
        await wait_until(lambda: found.others.open == 0)
        found.trust.role_map = ()
        with pytest.raises(AccessDenied, match="is mapped"):
            await found.others.to_auth(who)


async def test_tunnels_are_counted_by_cluster() -> None:
    """Those of other clusters and those of hosts apart."""
    async with both(connected=False) as found:
        assert found.tunnels.clusters is not None
        assert found.tunnels.clusters.counts() == {}
        await agent(found)
        await wait_until(lambda: found.tunnels.clusters.counts() == {LEAF: 1})  # type: ignore[union-attr]
        assert found.tunnels.tunnels == 1, "the count of all holds them, too"
