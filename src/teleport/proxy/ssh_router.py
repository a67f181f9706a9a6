"""The proxy's SSH service: leads people with user certificates to registered nodes, and does nothing else.

A connection may carry two things: a session with the subsystem `proxy:host:port[@[namespace@]cluster]`, and the
`direct-tcpip` channels of ProxyJump. Both become a byte relay to one node, begun with the line of `wire.vouch`. Every
other channel, request or subsystem is refused and audited (threat T28). The SSH session inside the relay is between
the client and the node; the proxy cannot read it.

Where a connection leads is decided here, in `SshRouter.lead`, before anything is dialled. What one client may ask for
by SSH is in `proxy.connection`, the connection with the node in `proxy.node_dialer`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID, uuid4

from teleport.audit.emits import Emits
from teleport.audit.events import Event, ServerEvent, new_event
from teleport.clock import Clock
from teleport.errors import ConnectionProblem, NotFound, TeleportError
from teleport.identity import UserIdentity
from teleport.proxy.connection import Gate
from teleport.proxy.needs import Accept, Directory, Leases, NoLeases, PodSessions, ProxyIdentity, UserCertificates
from teleport.proxy.node_dialer import NodeDialer
from teleport.proxy.other_clusters import OtherClusters, Traveller
from teleport.proxy.recording.service import RecordingService
from teleport.proxy.refusals import Forbidden
from teleport.spans import Kind, span
from teleport.ssh.handlers import Channel
from teleport.ssh.listener import Slot
from teleport.ssh.relay import NodeLeg
from teleport.ssh.server import HostKey
from teleport.ssh.service import SshService
from teleport.ssh.surface import Peer, ServerLimits, Surface
from teleport.store.resolve import Destination, resolve, with_id
from teleport.transport.entrance import ConnectionLimits, Users
from teleport.transport.limits import Heard
from teleport.transport.slots import Slots
from teleport.wire.pod_sessions import proxy_of

SURFACE = Surface(
    channels=frozenset({"session", "direct-tcpip"}),
    # `env` is taken off the wire and dropped: OpenSSH's usual configuration sends LANG with every session.
    # `shell` and `exec` are answered with a sentence and refused.
    session_requests=frozenset({"subsystem", "shell", "exec", "env", "keepalive@openssh.com"}),
    global_requests=frozenset(
        {"keepalive@openssh.com", "no-more-sessions@openssh.com", "recording-proxy@teleport.com", "trace@teleport"}
    ),
)


@dataclass(frozen=True, slots=True)
class RouterConfig:
    """What the router is told once."""

    cluster: str
    host_id: UUID
    hostname: str
    unproved: int = 1000  # connections that have not authenticated yet
    connections: ConnectionLimits = field(default_factory=ConnectionLimits)
    limits: ServerLimits = field(default_factory=ServerLimits)


class SshRouter(SshService):
    """Serves the proxy's SSH sockets."""

    def __init__(
        self,
        config: RouterConfig,
        *,
        certificates: UserCertificates,
        directory: Directory,
        identity: ProxyIdentity,
        host_keys: Sequence[HostKey],
        emitter: Emits,
        clock: Clock,
        leases: Leases | None = None,
        new_id: Callable[[], UUID] = uuid4,
        nonce: Callable[[], bytes] = lambda: uuid4().bytes,
        beside: Callable[[str], Accept | None] = lambda _: None,
    ) -> None:
        """`beside` gives what takes connections to the node with a host UUID, if that node runs in this process."""
        super().__init__(
            SURFACE, config.limits, host_keys, Slots(config.unproved, "proxy ssh", limits=config.connections)
        )
        self.config = config
        self.certificates = certificates
        self.directory = directory
        self.identity = identity
        self.emitter = emitter
        self.clock = clock
        self.leases: Leases = leases or NoLeases()
        self.dialer = NodeDialer(identity, clock, new_id=new_id, nonce=nonce, beside=beside)
        self.recording: RecordingService | None = None  # for hosts with a plain sshd
        self.pods: PodSessions | None = None  # where Kubernetes clients are led
        self.others: OtherClusters | None = None  # that trust this one
        self.strangers = Heard()
        self.users = Users(config.connections)

    def _protocol(self, peer: Peer, slot: Slot) -> asyncio.Protocol | None:
        if not slot.arrived(peer.host):
            return None
        return self._server.connection(lambda _: Gate(self, peer), slot)

    def put_on_record(
        self, cls: type[ServerEvent], user: UserIdentity | None, login: str, peer: Peer, **fields: Any
    ) -> None:
        """Emits an event about a client's connection."""
        event = new_event(
            cls,
            self.clock.now(),
            str(uuid4()),
            cluster_name=self.config.cluster,
            user=user.name if user else "",
            impersonator=user.impersonator if user else "",
            login=login,
            server_id=str(self.config.host_id),
            server_hostname=self.config.hostname,
            addr_remote=str(peer),
            proto="ssh",
            **fields,
        )
        self.in_background(self._emit(event), "audit")

    async def _emit(self, event: Event) -> None:
        await self.emitter.emit(event)

    def why_not_found(self, identity: UserIdentity, destination: Destination) -> str:
        """What the audit log says and the user does not hear: the host that was asked for exists, and what hides it."""
        asked = Destination(destination.host, destination.port, destination.cluster or identity.route_to_cluster)
        try:
            node = resolve(asked, self.directory.nodes(), self.config.cluster, lambda _: True)
        except TeleportError:
            return ""
        reasons = "; ".join(self.directory.why_hidden(identity, node))
        return f" It is {node.host_id}, hidden: {reasons}." if reasons else ""

    async def lead(
        self,
        channel: Channel,
        identity: UserIdentity,
        key: str,
        peer: Peer,
        destination: Destination,
        ended: Callable[[], None],
        certificate: bytes = b"",
    ) -> NodeLeg:
        """Finds, dials and greets the node. Raises `TeleportError` with a sentence for the user.

        `key` is the fingerprint of the key that the client proved, `certificate` what it proved it with; only with it
        does a connection lead to other clusters.
        """
        keeper = proxy_of(destination.host) if destination.cluster in ("", self.config.cluster) else ""
        if keeper and identity.route_to_cluster in ("", self.config.cluster):
            return await self._to_pods(keeper, channel, identity, peer, ended)
        refused = self.directory.why_no_session(identity, peer.host)
        if refused is not None:
            raise Forbidden(refused)
        if self.others is not None and certificate:
            elsewhere = self.others.meant(destination, identity)
            if elsewhere is not None:
                who = Traveller(identity, certificate, peer, elsewhere.cluster)
                with span("proxy.ssh.dial", Kind.CLIENT) as dialling:
                    dialling.set("teleport.way", "another cluster")
                    return await self.others.lead(who, channel, elsewhere, ended)
            destination = replace(destination, cluster=self.config.cluster)
        asked = destination.cluster or identity.route_to_cluster
        node = resolve(
            Destination(destination.host, destination.port, asked),
            self.directory.nodes(),
            self.config.cluster,
            lambda node: not self.directory.why_hidden(identity, node),
            most_recent=self.directory.most_recent(),
        )
        due = self.directory.second_factor_due(identity, node, key, peer.host)
        if due is not None:
            raise Forbidden(due)
        if self.recording is not None and self.recording.records(node.host_id):
            return await self.recording.lead(channel, node.host_id, peer, ended)
        if node.agentless:
            raise ConnectionProblem(f"This proxy does not lead to {node.hostname}.", hint="ask its administrator")
        return await self.dialer.reach(node, peer, lambda line: NodeLeg(channel, line, ended))

    async def _to_pods(
        self, keeper: str, channel: Channel, identity: UserIdentity, peer: Peer, ended: Callable[[], None]
    ) -> NodeLeg:
        """To the sessions in pods that this proxy holds, where it is the one that is meant."""
        if self.pods is None or keeper != str(self.config.host_id):
            raise ConnectionProblem(
                "This proxy does not hold the session.",
                hint="come by the proxy that its user came by: tsh login --proxy",
            )
        refused = self.pods.why_nothing(identity, peer.host)
        if refused is not None:
            raise Forbidden(refused)
        return await self.pods.lead(channel, peer, ended)

    async def reach(self, host_id: str, peer: Peer, make: Callable[[bytes], asyncio.Protocol]) -> asyncio.Protocol:
        """As `lead` connects, with a protocol of the caller's: it gets the line that vouches for the client."""
        node = with_id(host_id, self.directory.nodes())
        if node is None:
            raise NotFound("The host is not registered any more.", hint="tsh ls")
        return await self.dialer.reach(node, peer, make)
