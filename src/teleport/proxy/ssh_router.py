"""The proxy's SSH service: leads people with user certificates to registered nodes, and does nothing else.

A connection may carry two things: a session with the subsystem `proxy:host:port[@[namespace@]cluster]`, and the
`direct-tcpip` channels of ProxyJump. Both become a byte relay to one node, begun with the line of `wire.vouch`. Every
other channel, request or subsystem is refused and audited (threat T28). The SSH session inside the relay is between
the client and the node; the proxy cannot read it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Protocol, TypeVar
from uuid import UUID, uuid4

from teleport import counted
from teleport.audit.emits import Emits
from teleport.audit.events import AuthFailed, Event, ServerEvent, SessionRequestDenied, new_event
from teleport.authz.channel_table import AskedKind
from teleport.authz.decision import AccessDenial
from teleport.clock import Clock
from teleport.errors import AccessDenied, ConnectionProblem, NotFound, TeleportError
from teleport.identity import UserIdentity
from teleport.pki.sshformat import parse_certificate
from teleport.proxy.lease_step import LeaseStep
from teleport.proxy.other_clusters import OtherClusters, Traveller
from teleport.proxy.recording.service import RecordingService
from teleport.resources.names import canonical_address, not_dialable
from teleport.spans import Kind, Span, TraceContext, current, header, moment, span
from teleport.ssh.handlers import (
    Channel,
    ConnectionHandler,
    SecondStep,
    SessionChannel,
    SessionHandler,
    StreamHandler,
)
from teleport.ssh.listener import Slot
from teleport.ssh.relay import NodeLeg, RelayHandler
from teleport.ssh.server import HostKey
from teleport.ssh.service import SshService
from teleport.ssh.surface import (
    Exec,
    Peer,
    Refusal,
    ServerLimits,
    Shell,
    Start,
    Subsystem,
    Surface,
    TerminalRequest,
    TerminalSize,
)
from teleport.store.resolve import Destination, RegisteredNode, resolve, with_id
from teleport.transport import memory_pair
from teleport.transport.entrance import ConnectionLimits, Users
from teleport.transport.limits import Heard
from teleport.transport.slots import Slots
from teleport.wire import vouch
from teleport.wire.pod_sessions import proxy_of

log = logging.getLogger(__name__)

SURFACE = Surface(
    channels=frozenset({"session", "direct-tcpip"}),
    # `env` is taken off the wire and dropped: OpenSSH's usual configuration sends LANG with every session.
    # `shell` and `exec` are answered with a sentence and refused.
    session_requests=frozenset({"subsystem", "shell", "exec", "env", "keepalive@openssh.com"}),
    global_requests=frozenset(
        {"keepalive@openssh.com", "no-more-sessions@openssh.com", "recording-proxy@teleport.com", "trace@teleport"}
    ),
)
_DIAL_SECONDS = 10.0
_HERE = "127.0.0.1"


Accept = Callable[[asyncio.Transport], None]
P = TypeVar("P", bound=asyncio.Protocol)


class Directory(Protocol):
    """The nodes that are registered now."""

    def nodes(self) -> Iterable[RegisteredNode]: ...

    def why_hidden(self, identity: UserIdentity, node: RegisteredNode) -> Sequence[str]:
        """Why the user's roles do not let them see this node; empty when they do."""
        ...

    def why_no_session(self, identity: UserIdentity, client_address: str) -> AccessDenial | None:
        """What forbids the user every session, whatever the host; None when nothing does."""
        ...

    def most_recent(self) -> bool:
        """Whether of several nodes that fit the one that started last is meant."""
        ...

    def second_factor_due(
        self, identity: UserIdentity, node: RegisteredNode, key: str, client_address: str
    ) -> AccessDenial | None:
        """The refusal when the user may go to this node with a second factor only, which was not given by whoever
        proved the key with this fingerprint; None when nothing is due."""
        ...


class Tunnels(Protocol):
    """The tunnels that hosts keep to this proxy."""

    def holds(self, host_id: str) -> bool:
        """Whether one leads to the host now."""
        ...

    async def connect(self, host_id: str, make: Callable[[], P]) -> P:
        """Connects a protocol with the node service of a host; waits a while for a tunnel that is made anew.

        Raises `ConnectionProblem`.
        """
        ...


class PodSessions(Protocol):
    """The sessions in pods that this proxy leads into, for who joins them."""

    def why_nothing(self, identity: UserIdentity, client_address: str) -> AccessDenial | None:
        """What forbids somebody to come there at all: to have no login on hosts does not."""
        ...

    async def lead(self, channel: Channel, peer: Peer, ended: Callable[[], None]) -> NodeLeg:
        """The leg that carries a client's connection, which ends there and is decided there."""
        ...


class UserCertificates(Protocol):
    """Verifies user certificates against the authorities that count now."""

    def verify_user(self, certificate: bytes) -> UserIdentity:
        """Raises `CertificateRefused`."""
        ...


class Leases(Protocol):
    """Leases of second factors, for plain ssh."""

    def lifetime(self, identity: UserIdentity, key: str, client_address: str) -> timedelta | None:
        """How long a lease would be that is of use to whoever proved the key; None when there is nothing to ask for."""
        ...

    async def ways(self, certificate: bytes, client_address: str) -> tuple[bool, str]:
        """Whether a code would do, and the link where a hardware key approves, if one would. Raises `TeleportError`."""
        ...

    async def obtain(self, identity: UserIdentity, certificate: bytes, client_address: str, code: str) -> None:
        """Makes a lease with a code; when it returns, the lease is in view here. Raises `TeleportError`."""
        ...

    async def approved(self, identity: UserIdentity, key: str, client_address: str) -> bool:
        """Waits a while until a lease that a link gave is in view; False when there is none."""
        ...


class NoLeases:
    """Where nobody is asked."""

    def lifetime(self, identity: UserIdentity, key: str, client_address: str) -> timedelta | None:
        return None

    async def ways(self, certificate: bytes, client_address: str) -> tuple[bool, str]:
        raise AccessDenied("no leases are given here")

    async def obtain(self, identity: UserIdentity, certificate: bytes, client_address: str, code: str) -> None:
        raise AccessDenied("no leases are given here")

    async def approved(self, identity: UserIdentity, key: str, client_address: str) -> bool:
        return False


class ProxyIdentity(Protocol):
    """The proxy's own SSH host key: what it vouches with."""

    @property
    def certificate(self) -> bytes:
        """The host certificate's blob."""
        ...

    def sign(self, message: bytes) -> bytes:
        """An SSH signature blob over `message`."""
        ...


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
        self.new_id = new_id
        self.nonce = nonce
        self.beside = beside
        self.tunnels: Tunnels | None = None
        self.recording: RecordingService | None = None  # for hosts with a plain sshd
        self.pods: PodSessions | None = None  # where Kubernetes clients are led
        self.others: OtherClusters | None = None  # that trust this one
        self.strangers = Heard()
        self.users = Users(config.connections)

    def _protocol(self, peer: Peer, slot: Slot) -> asyncio.Protocol | None:
        if not slot.arrived(peer.host):
            return None
        return self._server.connection(lambda _: _Gate(self, peer), slot)

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
        return await self._reach(node, peer, lambda line: NodeLeg(channel, line, ended))

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
        return await self._reach(node, peer, make)

    def vouching(self, host_id: str, peer: Peer) -> bytes:
        """The line that says to the node of this host who the client is."""
        said = vouch.Vouch(
            client_host=peer.host,
            client_port=peer.port,
            session_id=self.new_id(),
            target=UUID(host_id),
            time=self.clock.now(),
            nonce=self.nonce(),
            cluster=peer.through,
            trace=header(),
        )
        return vouch.encode(said, self.identity.certificate, self.identity.sign)

    async def _reach(self, node: RegisteredNode, peer: Peer, make: Callable[[bytes], P]) -> P:
        counted.TO_NODE.add()
        try:
            with span("proxy.ssh.dial", Kind.CLIENT) as dialling:
                dialling.set("teleport.node.id", node.host_id)
                return await self._dial(node, peer, make, dialling)
        except ConnectionProblem:
            counted.TO_NODE_FAILED.add()
            raise

    async def _dial(self, node: RegisteredNode, peer: Peer, make: Callable[[bytes], P], dialling: Span) -> P:
        line = self.vouching(node.host_id, peer)
        accept = self.beside(node.host_id)
        if accept is not None:
            dialling.set("teleport.way", "memory")
            # The node asks for the same vouch, certificate and permit as over the network.
            return memory_pair.connect(lambda: make(line), accept, peername=(_HERE, 0))
        if node.tunnel or (self.tunnels is not None and self.tunnels.holds(node.host_id)):
            dialling.set("teleport.way", "tunnel")
            return await self._through_tunnel(node, lambda: make(line))
        dialling.set("teleport.way", "dialled")
        host, port = node.endpoint
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_DIAL_SECONDS):
                await self._check_name(host, port)
                _, made = await loop.create_connection(lambda: make(line), host, port)
        except (OSError, TimeoutError) as error:
            log.warning("node unreachable node=%s address=%s error=%s", node.host_id, node.address, error)
            raise ConnectionProblem(
                f"The node {node.hostname} ({node.host_id}) does not answer.",
                hint="try again; if it stays so, ask who runs that host whether its node service runs",
            ) from error
        return made

    async def _through_tunnel(self, node: RegisteredNode, make: Callable[[], P]) -> P:
        try:
            if self.tunnels is None:
                raise ConnectionProblem("this proxy takes no tunnels")
            return await self.tunnels.connect(node.host_id, make)
        except ConnectionProblem as error:
            log.warning("node unreachable node=%s by tunnel error=%s", node.host_id, error)
            raise ConnectionProblem(
                f"The node {node.hostname} ({node.host_id}) keeps no tunnel to this proxy now.",
                hint="try again; if it stays so, ask who runs that host whether it reaches the proxy's tunnel port",
            ) from error

    async def _check_name(self, host: str, port: int) -> None:
        """Raises `OSError` when `host` is a name of something that no node may announce: auth sees names only.

        The loopback is let through, because many hosts give it their own name.
        """
        if canonical_address(host):
            return
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for *_, address in found:
            if problem := not_dialable(str(address[0]), loopback=True):
                raise OSError(f"{address[0]} {problem}")


class _Gate:
    """Lets user certificates in."""

    def __init__(self, router: SshRouter, peer: Peer) -> None:
        self._router = router
        self._peer = peer
        self._since = moment()

    async def admit(self, login: str, certificate: bytes) -> ConnectionHandler | SecondStep | Refusal:
        identity = self._verified(login, certificate)
        if isinstance(identity, Refusal):
            return identity
        key = parse_certificate(certificate).body.public_key.fingerprint()
        lifetime = self._router.leases.lifetime(identity, key, self._peer.host)
        if not lifetime:
            return self.enter(login, certificate)
        return LeaseStep(self._router, self, identity, key, certificate, login, self._peer, lifetime)

    def enter(self, login: str, certificate: bytes) -> ConnectionHandler | Refusal:
        """Lets in whoever proved the certificate, if it still counts."""
        identity = self._verified(login, certificate)
        if isinstance(identity, Refusal):
            return identity
        if not self._router.users.enter(identity.name):
            reason = f"more than {self._router.users.most} users at the same time"
            self._router.put_on_record(AuthFailed, identity, login, self._peer, error=reason)
            return Refusal.told("The proxy serves as many people as it may.", "try again later")
        return _Connection(self._router, identity, certificate, login, self._peer, Entered(self._since, moment()))

    def _verified(self, login: str, certificate: bytes) -> UserIdentity | Refusal:
        """Who comes, or why not, which is on record then."""
        identity = None
        try:
            identity = self._router.certificates.verify_user(certificate)
            refused = self._router.directory.why_no_session(identity, self._peer.host)
            if refused is not None and self._router.pods is not None:  # pods need no login; hosts are refused later
                refused = self._router.pods.why_nothing(identity, self._peer.host)
            if refused is not None:
                raise Forbidden(refused)
        except AccessDenied as error:
            reason = on_record(error)
            if identity is None:
                self.failed(login, reason)
            else:
                self._router.put_on_record(AuthFailed, identity, login, self._peer, error=reason)
            return Refusal.told(error.message, error.hint)
        return identity

    def failed(self, login: str, reason: str) -> None:
        told = self._router.strangers.told(reason, asyncio.get_running_loop().time())
        if told is not None:
            self._router.put_on_record(AuthFailed, None, login, self._peer, error=told)


@dataclass(frozen=True, slots=True)
class Entered:
    """When a connection came, and when its client was let in (`spans.moment`)."""

    since: int
    admitted: int


class Forbidden(AccessDenied):
    """A refusal by `authz`: the user reads the public sentence, the audit log the reasons."""

    def __init__(self, denial: AccessDenial) -> None:
        super().__init__(denial.public, hint=denial.hint)
        self.reasons = f"{denial.code}: {'; '.join(denial.reasons)}"


def on_record(error: TeleportError) -> str:
    """What the audit log says of a refusal: more than the user hears."""
    if isinstance(error, Forbidden):
        return error.reasons
    return f"{error.message} {getattr(error, 'detail', '')}".strip()


class _Connection:
    """Serves one user's connection."""

    def __init__(
        self,
        router: SshRouter,
        identity: UserIdentity,
        certificate: bytes,
        login: str,
        peer: Peer,
        entered: Entered | None = None,
    ) -> None:
        self._entered = entered
        self._trace: TraceContext | None = None  # in which its client began
        self._router = router
        self._identity = identity
        self._certificate = certificate
        self._key = parse_certificate(certificate).body.public_key.fingerprint()
        self._login = login
        self._peer = peer

    @property
    def records(self) -> bool:
        """Whether sessions of every host end and are recorded here."""
        return self._router.recording is not None and self._router.recording.everything

    async def open_session(self, channel: SessionChannel) -> SessionHandler | Refusal:
        return _SubsystemSession(self, channel)

    async def open_stream(
        self, channel: Channel, host: str, port: int, origin: tuple[str, int]
    ) -> StreamHandler | Refusal:
        # Our own client names a cluster in the host, as the subsystem's form does; no host name contains an @.
        name, _, cluster = host.partition("@")
        try:
            leg = await self.lead(channel, Destination(name, port, cluster), channel.close)
        except TeleportError as error:
            return Refusal.told(error.message, error.hint)
        return RelayHandler(leg)

    def traced(self, header: str) -> None:
        """The client says to which trace what it asks for from now on belongs: `tsh --trace`."""
        self._trace = TraceContext.parse(header)

    async def lead(self, channel: Channel, destination: Destination, ended: Callable[[], None]) -> NodeLeg:
        """As `SshRouter.lead`, with refusals put on record."""
        entered, self._entered = self._entered, None  # the first one has the login in its span
        since = entered.since if entered is not None else 0
        with span("proxy.ssh.connect", Kind.SERVER, parent=self._trace, first=True, since=since):
            if entered is not None:
                span("proxy.ssh.login", since=since, parent=current(), begins=False).end(entered.admitted)
            return await self._lead(channel, destination, ended)

    async def _lead(self, channel: Channel, destination: Destination, ended: Callable[[], None]) -> NodeLeg:
        try:
            self._router.certificates.verify_user(self._certificate)  # it counted when the connection began
            return await self._router.lead(
                channel, self._identity, self._key, self._peer, destination, ended, self._certificate
            )
        except TeleportError as error:
            hidden = self._router.why_not_found(self._identity, destination) if isinstance(error, NotFound) else ""
            self.denied(f"proxy:{destination}", on_record(error) + hidden)
            raise

    def denied(self, what: str, reason: str) -> None:
        """Puts a refusal on record."""
        self._router.put_on_record(
            SessionRequestDenied, self._identity, self._login, self._peer, request=what, reason=reason
        )

    def refused(self, kind: AskedKind, name: str, reason: str) -> None:
        self.denied(f"{kind} {name}", reason)

    def ended(self, reason: str) -> None:
        self._router.users.leave(self._identity.name)
        log.debug("connection ended user=%s peer=%s reason=%s", self._identity.name, self._peer, reason)


class _SubsystemSession(RelayHandler):
    """A session channel: waits for the one subsystem there is."""

    def __init__(self, connection: _Connection, channel: SessionChannel) -> None:
        super().__init__()
        self._connection = connection
        self._channel = channel

    async def start(self, what: Start) -> Refusal | None:
        match what:
            case Shell() | Exec():
                message = "The proxy runs no commands."
                self._connection.denied("exec" if isinstance(what, Exec) else "shell", message)
                return Refusal.told(
                    message, "name a host: ssh -J, the configuration that tsh config prints, or tsh ssh"
                )
            case Subsystem(name=name):
                try:
                    destination = Destination.of_subsystem(name)
                except TeleportError as error:
                    self._connection.denied(f"subsystem {name[:200]}", error.message)
                    return Refusal.told(error.message, error.hint)
                try:
                    self.leg = await self._connection.lead(self._channel, destination, lambda: self._channel.exit(0))
                except TeleportError as error:
                    return Refusal.told(error.message, error.hint)
                return None

    def environment(self, name: str, value: str) -> bool:
        return False

    def terminal(self, request: TerminalRequest) -> bool:
        return False

    def resized(self, size: TerminalSize) -> None:
        """There is no terminal."""

    def signalled(self, name: str) -> bool:
        return False

    def broke(self, milliseconds: int) -> bool:
        return False
