"""Recording at the proxy: hosts that keep their plain sshd are entered by the proxy, for who is connected to it.

The client's connection for the host (inside `ssh -J`, or the subsystem) ends here, at a server that proves the host's
name (`names`). The user's certificate and signature go to auth, which signs a certificate for a key that is made for
this one connection and never leaves this memory; with it the proxy connects on. From there on it is as at a node: the
decision of `authz`, made anew whenever something changes, and each session on record.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Final
from uuid import UUID, uuid4

from teleport.audit.emits import Emits
from teleport.audit.events import AuthFailed, SessionRejected
from teleport.authz.channel_table import AskedKind, names
from teleport.authz.decision import AccessDenial
from teleport.authz.ssh import SSHAccessPermit
from teleport.clock import Clock
from teleport.errors import AccessDenied, ConnectionProblem, LimitExceeded, TeleportError
from teleport.pki.keys import generate_ed25519
from teleport.pki.live_proof import Evidence
from teleport.pki.sshformat import parse_certificate
from teleport.proxy.recording.connection import RecordedConnection
from teleport.proxy.recording.facts import Facts, held_on
from teleport.proxy.recording.names import Names
from teleport.proxy.recording.needs import Auth, RecordingConfig, Recordings, Tools, View
from teleport.resources.server import Server
from teleport.resources.values import HostPort
from teleport.spans import TraceContext, current, span
from teleport.ssh.client import SshClient, connect, connect_by
from teleport.ssh.client_connection import ClientKey, HostCheck
from teleport.ssh.handlers import Channel, ConnectionHandler
from teleport.ssh.relay import NodeLeg
from teleport.ssh.service import InBackground
from teleport.ssh.surface import Peer, Refusal, Surface
from teleport.transport import memory_pair
from teleport.transport.limits import Heard
from teleport.transport.places import Control, NoControl, Place, Places

log = logging.getLogger(__name__)

ENTER_SECONDS: Final = 15.0
SURFACE: Final = Surface(
    channels=names(AskedKind.CHANNEL),
    session_requests=names(AskedKind.SESSION_REQUEST),
    global_requests=names(AskedKind.GLOBAL_REQUEST),
)


Reach = Callable[[str, Peer, Callable[[bytes], asyncio.Protocol]], Awaitable[object]]
"""Connects to a node with the protocol that is made with the line that vouches for a client."""


class _Announced(asyncio.Protocol):
    """Says a line and gives the connection on."""

    def __init__(self, line: bytes, inner: asyncio.Protocol) -> None:
        self._line = line
        self._inner = inner

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._line)
        transport.set_protocol(self._inner)
        self._inner.connection_made(transport)


class RecordingService:
    """Everything of recording at one proxy."""

    def __init__(
        self,
        config: RecordingConfig,
        *,
        view: View,
        auth: Auth,
        recordings: Recordings,
        emitter: Emits,
        clock: Clock,
        in_background: InBackground,
        reach: Reach,
        new_id: Callable[[], UUID] = uuid4,
        control: Control | None = None,
    ) -> None:
        """`control` counts the connections of users whose roles limit them; without it those users do not get in."""
        self.tools = Tools(config, view, recordings, emitter, clock, new_id, in_background)
        self._auth = auth
        self._reach = reach
        self._names = Names(auth, SURFACE, config.limits, clock)
        self._strangers = Heard()
        self._connections: set[RecordedConnection] = set()
        self._places = Places(control or NoControl(), in_background)

    def records(self, host_id: str) -> bool:
        """Whether what leads to this host ends and is recorded here."""
        node = self.tools.view.node(host_id)
        return node is not None and self.tools.view.records(node)

    @property
    def everything(self) -> bool:
        """Whether the proxy records what leads to any host (`recording-proxy@teleport.com`)."""
        return self.tools.view.everything

    async def lead(self, channel: Channel, host_id: str, peer: Peer, ended: Callable[[], None]) -> NodeLeg:
        """The leg that carries a client's connection for this host, which ends here. Raises `TeleportError`."""
        node = self.tools.view.node(host_id)
        if node is None:
            raise ConnectionProblem("The host is not registered any more.", hint="tsh ls")
        server = await self._names.server(node.host_id)
        trace = current()

        def accept(transport: asyncio.Transport) -> None:
            protocol = server.connection(lambda _: _Gate(self, node, peer, trace))
            transport.set_protocol(protocol)
            protocol.connection_made(transport)

        return memory_pair.connect(lambda: NodeLeg(channel, b"", ended), accept, peername=(peer.host, peer.port))

    async def enter(self, facts: Facts, evidence: Evidence) -> SshClient:
        """The proxy's own connection to the host, for the client that the evidence proves. Raises `TeleportError`."""
        node = facts.node
        key = generate_ed25519()
        line = await self._auth.certificate(facts.certificate, facts.client.host, evidence, key.public.line(""))
        check = self.tools.view.host_check(node)
        own = ClientKey(key.openssh_pem().reveal(), line)
        try:
            if not node.agentless:
                return await self._enter_node(node, facts, own, check)
            address = HostPort.parse(node.spec.addr, 0)
            where = (address.host, address.port)
            return await connect(where, login=facts.login, key=own, check=check, seconds=ENTER_SECONDS)
        except AccessDenied as error:
            if not node.agentless:
                raise  # the node's own words
            raise ConnectionProblem(
                f"The sshd of {node.hostname} does not let the cluster's proxies in as {facts.login}.",
                hint="perhaps there is no such account; else run its script anew: tctl nodes add --type=openssh",
            ) from error
        except ConnectionProblem as error:
            log.warning("host not entered node=%s address=%s error=%s", node.host_id, node.spec.addr, error)
            raise ConnectionProblem(
                f"The host {node.hostname} cannot be entered: {error.message.rstrip('.')}.", hint=error.hint
            ) from error

    async def _enter_node(self, node: Server, facts: Facts, key: ClientKey, check: HostCheck | None) -> SshClient:
        """To a node service, which is told by a line before SSH who comes, and from where."""

        async def reach(protocol: asyncio.Protocol) -> None:
            await self._reach(node.host_id, facts.client, lambda line: _Announced(line, protocol))

        try:
            async with asyncio.timeout(ENTER_SECONDS):
                return await connect_by(reach, node.hostname, login=facts.login, key=key, check=check)
        except TimeoutError as error:
            raise ConnectionProblem(f"{node.hostname} does not answer", hint="try again") from error

    def connected(
        self, facts: Facts, permit: SSHAccessPermit, origin: SshClient, place: Place | None = None
    ) -> RecordedConnection:
        """A connection with a permit; it is listed until it ends, and holds `place` for so long."""
        connection = RecordedConnection(self.tools, facts, permit, origin, partial(self._left, place))
        self._connections.add(connection)
        if place is not None:
            place.gone = connection.disconnect
        return connection

    def _left(self, place: Place | None, connection: RecordedConnection) -> None:
        self._connections.discard(connection)
        self.uncount(place)

    async def count(self, facts: Facts, permit: SSHAccessPermit) -> Place | Refusal | None:
        """A place for one more connection of the user, as at a node: where nobody can count, nobody with a limit is let
        in."""
        if not permit.max_connections or not facts.told_here:  # a node counts by itself
            return None
        try:
            return await self._places.enter(permit.user, permit.max_connections)
        except LimitExceeded:
            now, most = self.tools.clock.now(), permit.max_connections
            await self.tools.emitter.emit(facts.event(SessionRejected, now, reason="max_connections", max=most))
            return Refusal(f"Your roles allow {most} connections at the same time. Next: end one of them.")
        except TeleportError as error:
            self.failed(facts, f"connections cannot be counted: {error.message}")
            return Refusal("Your connections are limited, and cannot be counted now. Next: try again later.")

    def uncount(self, place: Place | None) -> None:
        """A connection that holds a place is over, or did not come to be."""
        if place is not None:
            self._places.leave(place)

    def reconsider(self) -> None:
        """Decides anew about every open connection; to be called when roles, locks, hosts or settings changed."""
        for connection in list(self._connections):
            lease = connection.permit.lease
            lapsed = held_on(lease, self.tools.clock.now())
            decision = connection.facts.decide(self.tools, opened=True, lapsed=lapsed)
            if isinstance(decision, AccessDenial):
                connection.disconnect(f"no longer allowed: {'; '.join(decision.reasons)}", decision.public)
            else:
                connection.obey(_as_before(connection, decision, lapsed is not None and decision.lease is lapsed))

    def host_changed(self, host_id: str) -> None:
        """As `reconsider`, when a registered host changed or is gone: of connections for that host."""
        if any(connection.facts.node.host_id == host_id for connection in self._connections):
            self.reconsider()

    def failed(self, facts: Facts, reason: str) -> None:
        """Puts a failed authentication or a denied access on record; of strangers only so many in a second."""
        if facts.user is None:
            told = self._strangers.told(reason, asyncio.get_running_loop().time())
            if told is None:
                return
            reason = told
        event = facts.event(AuthFailed, self.tools.clock.now(), error=reason)
        self.tools.in_background(self._emit(event), "audit a failed authentication")

    async def _emit(self, event: AuthFailed) -> None:
        await self.tools.emitter.emit(event)


def _as_before(connection: RecordedConnection, decision: SSHAccessPermit, lapsed: bool) -> SSHAccessPermit:
    """The permit with the end that the connection had: that of its login or lease, whatever was pretended to decide."""
    if lapsed:
        decision = replace(decision, lease=connection.permit.lease)
    if decision.disconnect_expired_cert is not None:
        decision = replace(decision, disconnect_expired_cert=connection.facts.end(decision.lease))
    return decision


class _Gate:
    """Decides about one client (`ssh.handlers.Gate`, and `WantsEvidence`)."""

    def __init__(
        self, service: RecordingService, node: Server, client: Peer, trace: TraceContext | None = None
    ) -> None:
        self._trace = trace
        self._service = service
        self._facts = Facts(service.tools.config, node, client)  # `client.through`: by a proxy of another cluster
        self._evidence: Evidence | None = None

    def proved(self, evidence: Evidence) -> None:
        self._evidence = evidence

    async def admit(self, login: str, certificate: bytes) -> ConnectionHandler | Refusal:
        service, evidence = self._service, self._evidence
        self._evidence = None
        facts = replace(self._facts, login=login)
        try:
            identity = service.tools.view.verify_user(certificate)
        except AccessDenied as error:
            service.failed(facts, f"{error.message} {getattr(error, 'detail', '')}".strip())
            return Refusal.told(error.message, error.hint)
        through = facts.client.through
        if through and (identity.origin is None or identity.origin.cluster != through):
            # that proxy says what address it likes, and source pins and leases of others hold by theirs
            service.failed(facts, f"the proxy of {through} leads its own users only")
            return Refusal.told(f"Through {through} come its own users only.", "tsh login at the cluster of the host")
        parsed = parse_certificate(certificate)
        key = parsed.body.public_key.fingerprint()
        facts = replace(facts, user=identity, signer=parsed.signer, key=key, certificate=certificate)
        decision = facts.decide(service.tools)
        if isinstance(decision, AccessDenial):
            service.failed(facts, f"{decision.code}: {'; '.join(decision.reasons)}")
            return Refusal.told(decision.public, decision.hint)
        assert evidence is not None, "a server tells of the proof before it asks"
        place = await service.count(facts, decision)
        if isinstance(place, Refusal):
            return place
        try:
            with span("proxy.ssh.enter", parent=self._trace, begins=False) as entering:
                entering.set("teleport.node.id", facts.node.host_id)
                origin = await service.enter(facts, evidence)
        except TeleportError as error:
            service.uncount(place)
            service.failed(facts, error.message)
            return Refusal.told(error.message, error.hint)
        except asyncio.CancelledError:
            service.uncount(place)
            raise
        decision = facts.decide(service.tools)  # that took time: what has changed meanwhile counts
        if isinstance(decision, AccessDenial):
            service.uncount(place)
            origin.abort()
            service.failed(facts, f"{decision.code}: {'; '.join(decision.reasons)}")
            return Refusal.told(decision.public, decision.hint)
        return service.connected(facts, decision, origin, place)

    def failed(self, login: str, reason: str) -> None:
        self._service.failed(replace(self._facts, login=login), reason)
