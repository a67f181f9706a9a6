"""Where people come who join sessions in pods: an SSH server within the proxy, that starts nothing and leads nowhere.

A client that asks the proxy for `wire.pod_sessions` gets a connection that ends here, proves its certificate, names a
session and takes part in it, as on a node. Rules it keeps:
- Who may join is decided when they ask and again whenever something changes (`authz.kube_joining`), and until their
  certificate ends. That somebody joins is on record before they see anything.
- An id that no session has and one of a session that may not be joined are refused alike.
- A connection counts as one of its person's, and ends when it is idle, as the roles say.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar
from uuid import UUID, uuid4

from teleport.audit.emits import Emits
from teleport.audit.events import (
    AuthFailed,
    ClientDisconnect,
    ServerEvent,
    SessionRejected,
    SessionRequestDenied,
    new_event,
)
from teleport.authz.channel_table import AskedKind
from teleport.authz.decision import AccessDenial
from teleport.authz.joining import JoinPermit, RunningSession, unknown_session
from teleport.authz.kube_joining import PodJoinPermit
from teleport.authz.session_mfa import once_open
from teleport.clock import Clock
from teleport.errors import AccessDenied, TeleportError
from teleport.identity import UserIdentity
from teleport.kube.joining_channel import NOTHING_ELSE, GuestChannel
from teleport.kube.live import Facts, LiveSession, LiveSessions, Unattended
from teleport.kube.staying import Counts, Stay
from teleport.resources.joining import JoinMode
from teleport.ssh.handlers import Channel, Client, ConnectionHandler, SessionChannel, SessionHandler, StreamHandler
from teleport.ssh.relay import NodeLeg
from teleport.ssh.server import HostKey, SshServer
from teleport.ssh.surface import Peer, Refusal, Surface
from teleport.transport import memory_pair
from teleport.transport.limits import Heard

log = logging.getLogger(__name__)

SURFACE: Final = Surface(
    channels=frozenset({"session"}),
    session_requests=frozenset(
        {"shell", "exec", "subsystem", "pty-req", "env", "window-change", "signal", "break", "keepalive@openssh.com"}
    ),
    global_requests=frozenset(
        {"keepalive@openssh.com", "no-more-sessions@openssh.com", "recording-proxy@teleport.com"}
    ),
)
_LAST_WORDS_SECONDS: Final = 1.0
_NO_LONGER: Final = "You may not be in this session any more."
_EXPIRED: Final = "the certificate has expired"
E = TypeVar("E", bound=ServerEvent)


class Rules(Protocol):
    """Who somebody is, and what they may join now."""

    def verify_user(self, certificate: bytes, *, opened: bool = False) -> UserIdentity:
        """Whose SSH certificate it is. Raises `AccessDenied`. `opened`: of somebody who takes part already, whom a
        certificate for one session lets go on after its own end (`authz.session_mfa.once_open`)."""
        ...

    def now(self, identity: UserIdentity) -> UserIdentity:
        """What is left of the identity."""
        ...

    def why_nothing(self, identity: UserIdentity, client_address: str) -> AccessDenial | None:
        """What forbids them everything now, whatever they join."""
        ...

    def permit_join(
        self, identity: UserIdentity, client_address: str, session: LiveSession, mode: JoinMode | None
    ) -> PodJoinPermit | AccessDenial:
        """The decision of `authz.kube_joining`, by the rules of this moment."""
        ...


@dataclass(frozen=True, slots=True)
class Joins:
    """What the service works with."""

    cluster: str  # of ours
    host_id: UUID
    hostname: str
    live: LiveSessions
    rules: Rules
    counts: Counts
    emitter: Emits
    clock: Clock
    in_background: Callable[[Coroutine[Any, Any, None], str], None]


class JoinService:
    """Everybody who joins sessions here."""

    def __init__(self, tools: Joins, host_keys: Callable[[], Sequence[HostKey]]) -> None:
        """`host_keys` are those by which the proxy proves itself, as they are now."""
        self.tools = tools
        self._host_keys = host_keys
        self._server: tuple[Sequence[HostKey], SshServer] | None = None
        self._connections: set[GuestConnection] = set()
        self._strangers = Heard()

    def why_nothing(self, identity: UserIdentity, client_address: str) -> AccessDenial | None:
        """What forbids somebody to come here at all."""
        return self.tools.rules.why_nothing(identity, client_address)

    async def lead(self, channel: Channel, peer: Peer, ended: Callable[[], None]) -> NodeLeg:
        """The leg that carries a client's connection, which ends here."""
        serve = await self.server()
        return memory_pair.connect(
            lambda: NodeLeg(channel, b"", ended),
            lambda transport: serve(transport, peer),
            peername=(peer.host, peer.port),
        )

    async def server(self) -> Callable[[asyncio.Transport, Peer], None]:
        """What serves a connection of a client, by the host keys of now."""
        keys = self._host_keys()
        if self._server is None or self._server[0] != keys:
            self._server = keys, await SshServer.create(keys, SURFACE)
        made = self._server[1]

        def serve(transport: asyncio.Transport, peer: Peer) -> None:
            protocol = made.connection(lambda _: _Gate(self, peer))
            transport.set_protocol(protocol)
            protocol.connection_made(transport)

        return serve

    def reconsider(self) -> None:
        """Decides anew about everybody who is here; to be called when anything changed that decides about access."""
        for connection in list(self._connections):
            connection.reconsider()

    def entered(self, connection: GuestConnection) -> None:
        self._connections.add(connection)

    def left(self, connection: GuestConnection) -> None:
        self._connections.discard(connection)

    def failed(self, peer: Peer, login: str, reason: str, user: UserIdentity | None = None) -> None:
        """Puts on record that somebody was not let in; of strangers only so many in a second."""
        told: str | None = reason
        if user is None:
            told = self._strangers.told(reason, asyncio.get_running_loop().time())
        if told is not None:
            self.put_on_record(self.event(AuthFailed, Facts(user, peer), login, error=told))

    def event(self, cls: type[E], facts: Facts, login: str, **fields: Any) -> E:
        tools, user = self.tools, facts.user
        return new_event(
            cls,
            tools.clock.now(),
            str(uuid4()),
            cluster_name=tools.cluster,
            user=user.name if user else "",
            impersonator=user.impersonator if user else "",
            login=login,
            server_id=str(tools.host_id),
            server_hostname=tools.hostname,
            addr_remote=str(facts.client),
            proto="ssh",
            **fields,
        )

    def put_on_record(self, event: ServerEvent) -> None:
        self.tools.in_background(self._emit(event), "audit")

    async def _emit(self, event: ServerEvent) -> None:
        await self.tools.emitter.emit(event)


class _Gate:
    """Lets user certificates in; what they may join is decided once they say what."""

    def __init__(self, service: JoinService, peer: Peer) -> None:
        self._service = service
        self._peer = peer

    async def admit(self, login: str, certificate: bytes) -> ConnectionHandler | Refusal:
        service, rules = self._service, self._service.tools.rules
        try:
            identity = rules.verify_user(certificate)
        except AccessDenied as error:
            service.failed(self._peer, login, f"{error.message} {getattr(error, 'detail', '')}".strip())
            return Refusal.told(error.message, error.hint)
        denial = rules.why_nothing(identity, self._peer.host)
        if denial is not None:
            service.failed(self._peer, login, f"{denial.code}: {'; '.join(denial.reasons)}", identity)
            return Refusal.told(denial.public, denial.hint)
        return GuestConnection(service, certificate, Facts(identity, self._peer), identity, login)

    def failed(self, login: str, reason: str) -> None:
        self._service.failed(self._peer, login, reason)


class GuestConnection:
    """Serves one person's connection (`ssh.handlers.ConnectionHandler`, and `sharing.parties.Connection`)."""

    def __init__(
        self, service: JoinService, certificate: bytes, facts: Facts, identity: UserIdentity, login: str
    ) -> None:
        self.service = service
        self.facts = facts
        self.permit = Unattended()
        self.over = False
        self._certificate = certificate
        self._identity = identity
        self._login = login
        self._client: Client | None = None
        self._channel: GuestChannel | None = None
        self._stay: Stay | None = None
        left = (once_open(identity).expires - service.tools.clock.now()).total_seconds()
        self._expiry = asyncio.get_running_loop().call_later(max(left, 0), self.disconnect, _EXPIRED)
        service.entered(self)

    @property
    def records(self) -> bool:
        return False

    @property
    def identity(self) -> UserIdentity:
        """Who it is, as the cluster knows them now."""
        return self.service.tools.rules.now(self._identity)

    def began(self, client: Client) -> None:
        self._client = client

    def active(self) -> None:
        """The client did something."""
        if self._stay is not None:
            self._stay.active()

    def denied(self, what: str, reason: str) -> None:
        """Puts a refusal on record."""
        event = self.service.event(SessionRequestDenied, self.facts, self._login, request=what, reason=reason)
        self.service.put_on_record(event)

    def refused(self, kind: AskedKind, name: str, reason: str) -> None:
        self.denied(name, f"{kind}: {reason}")

    def decide(self, session: LiveSession, mode: JoinMode | None) -> PodJoinPermit | AccessDenial:
        """Whether they may be in the session, as rules are now."""
        return self.service.tools.rules.permit_join(self._identity, self.facts.client.host, session, mode)

    def may_join(self, session: RunningSession, mode: JoinMode | None) -> JoinPermit | AccessDenial:
        """As `decide`, for the company of a session that they take part in."""
        rules, live = self.service.tools.rules, self.service.tools.live.find(UUID(session.sid))
        if live is None:
            return unknown_session()
        decision = rules.permit_join(once_open(self._identity), self.facts.client.host, live, mode)
        if isinstance(decision, AccessDenial):
            return decision
        if self._stay is not None:
            self._stay.obey(decision.call)
        return decision.join

    async def enter(self, permit: PodJoinPermit) -> Refusal | None:
        """A place for the connection, before it takes part in something."""
        if self._stay is not None:
            return None
        stay = Stay(self.service.tools.counts, self.disconnect)
        refusal = await stay.enter(permit.call)
        if refusal is None and self.over:
            stay.leave()
            return Refusal("This connection is over.")
        if refusal is None:
            self._stay = stay
            return None
        if refusal.code == 429:
            most = permit.call.max_connections
            event = self.service.event(SessionRejected, self.facts, self._login, reason="max_connections", max=most)
            await self.service.tools.emitter.emit(event)
        return Refusal.told(refusal.message, refusal.hint)

    async def open_session(self, channel: SessionChannel) -> SessionHandler | Refusal:
        if self.over:
            return Refusal("This connection is over.")
        if self._channel is not None:
            return Refusal("One session is joined on a connection here.")
        self._channel = GuestChannel(self, channel)
        return self._channel

    async def open_stream(
        self, channel: Channel, host: str, port: int, origin: tuple[str, int]
    ) -> StreamHandler | Refusal:
        return NOTHING_ELSE

    def reconsider(self) -> None:
        """Rules changed: may it still be here, and in the session that it is in?"""
        if self.over:
            return
        rules = self.service.tools.rules
        try:
            opened = rules.verify_user(self._certificate, opened=True)  # its authority may have gone
            denial = rules.why_nothing(opened, self.facts.client.host)
        except TeleportError as error:
            self.disconnect(f"no longer allowed: {error.message}", error.message)
            return
        if denial is not None:
            self.disconnect(f"no longer allowed: {'; '.join(denial.reasons)}", denial.public)
        elif self._channel is not None:
            self._channel.reconsider()

    def disconnect(self, reason: str, told: str = "") -> None:
        """Ends the connection and its part in a session. The audit log gets `reason`, the person `told`."""
        if self.over:
            return
        self.over = True
        self._expiry.cancel()
        self.service.put_on_record(self.service.event(ClientDisconnect, self.facts, self._login, reason=reason))
        if self._channel is not None:
            self._channel.end(told or reason)
        asyncio.get_running_loop().call_later(_LAST_WORDS_SECONDS, self._abort, told or reason)

    def _abort(self, told: str) -> None:
        if self._client is not None:
            self._client.abort(f"disconnected: {told}")

    def ended(self, reason: str) -> None:
        self.over = True
        self._expiry.cancel()
        if self._stay is not None:
            self._stay.leave()
        self.service.left(self)
