"""Where other proxies ask for the hosts whose tunnels end here.

Rules it keeps:
- Only host certificates of role Proxy of this cluster, proved in TLS 1.3 and judged by the authorities, hosts and locks
  as they are: when a proxy comes, at each question, and whenever these change.
- A question names a host by its UUID. It is led to by a tunnel that this very process holds, or not at all: nothing is
  dialled, and nothing is asked of a third proxy (no loops, no open relay).
- A question about another cluster is led to by a tunnel of its proxies that ends here, or not at all. The message that
  it carries is passed on as it is: the other cluster looks whose line it is, and answers by itself.
- The host decides about the client, by the line of `wire.vouch` that the asking proxy signed; nothing is vouched for
  here.
- Whoever is refused is on record, with the host that was proved; so many in a second, the others are counted.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from asyncio import sslproto
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from socket import socket
from typing import Any, Final, Protocol, TypeVar
from uuid import UUID, uuid4

from teleport.audit.emits import Emits
from teleport.audit.events import Event, ProxyPeerDenied, new_event
from teleport.clock import Clock
from teleport.errors import AccessDenied, BadRequest, ConnectionProblem, LimitExceeded, TeleportError
from teleport.identity import HostIdentity
from teleport.pki.refusal import CertificateRefused
from teleport.ssh.listener import Listener, Slot
from teleport.ssh.relay import NodeLeg, RelayHandler
from teleport.ssh.surface import Peer
from teleport.transport.entrance import ConnectionLimits
from teleport.transport.limits import Heard
from teleport.transport.slots import Slots
from teleport.tunnel.clusters import ClusterTunnels
from teleport.tunnel.peer_link import HANDSHAKE_SECONDS, SHUTDOWN_SECONDS, Context, Hosts, Link, check_proxy
from teleport.wire import peering
from teleport.wire.peering import Kind

log = logging.getLogger(__name__)

IDLE_SECONDS: Final = 60.0  # that a proxy may keep a connection without a question
MOST: Final = 8192  # connections of proxies at once
P = TypeVar("P", bound=asyncio.Protocol)


class Tunnels(Protocol):
    """The tunnels that end here (`tunnel.server`)."""

    def holds(self, host_id: str, conn_type: str) -> bool: ...

    async def connect(self, host_id: str, make: Callable[[], P], conn_type: str) -> P:
        """Raises `ConnectionProblem`."""
        ...

    @property
    def clusters(self) -> ClusterTunnels | None:
        """Those of other clusters' proxies."""
        ...


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """What the listener for proxies is told once."""

    cluster: str
    host_id: UUID
    hostname: str
    unproved: int = 200  # connections that have not authenticated yet
    connections: ConnectionLimits = field(default_factory=lambda: ConnectionLimits(max_connections=MOST))


class PeerServer:
    """Serves the listener for proxies. A door of the daemon."""

    def __init__(
        self,
        config: PeerConfig,
        *,
        tunnels: Tunnels,
        hosts: Hosts,
        context: Context,
        emitter: Emits,
        clock: Clock,
    ) -> None:
        """`context` gives the TLS context of the next connection; it must ask for client certificates."""
        self.config = config
        self.tunnels = tunnels
        self.hosts = hosts
        self.emitter = emitter
        self.clock = clock
        self._heard = Heard()
        self.links: set[_Asking] = set()
        self._context = context
        self._tasks: asyncio.TaskGroup | None = None
        slots = Slots(config.unproved, "proxy peer", limits=config.connections, rated=False)
        self._listener = Listener(self._protocol, slots=slots)

    async def run(self, sockets: Sequence[socket], started: Callable[[], None]) -> None:
        """Serves until cancelled; then every connection is closed."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            await self._listener.serve(sockets, started)

    def _protocol(self, peer: Peer, slot: Slot) -> asyncio.Protocol | None:
        if not slot.arrived(peer.host):
            return None
        try:
            context = self._context()
        except (OSError, TeleportError) as error:
            log.error("proxies are not let in: %s", error)
            return None
        return _end_of_tls(context, _Asking(self, peer, slot))

    # a door

    @property
    def open(self) -> int:
        """Whoever is led through here counts at the tunnels."""
        return 0

    def pause(self) -> None:
        """Another process of this proxy takes the questions."""
        self._listener.pause()
        for link in list(self.links):
            link.close_if_idle()

    async def resume(self) -> None:
        if self._tasks is not None:
            await self._listener.resume()

    # who may ask

    def reconsider(self) -> None:
        """Looks at every proxy anew; to be called when locks, hosts or authorities changed."""
        for link in list(self.links):
            link.reconsider()

    # for the connections

    def in_background(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Runs `work`, owned by `run`."""
        try:
            if self._tasks is None:
                raise RuntimeError("not running")
            self._tasks.create_task(_logged(work, name), name=name)
        except RuntimeError:  # before or after `run`
            work.close()
            log.warning("not done: %s", name)

    def refused(self, peer: Peer, reason: str, *, host_id: str = "", asked: str = "") -> None:
        """Puts a refusal on record; `host_id` is who proved to be there."""
        told = self._heard.told(reason, asyncio.get_running_loop().time())
        if told is None:
            return
        log.warning("a proxy was refused peer=%s host=%s: %s", peer, host_id or "not proved", told)
        event = new_event(
            ProxyPeerDenied,
            self.clock.now(),
            str(uuid4()),
            cluster_name=self.config.cluster,
            server_id=str(self.config.host_id),
            server_hostname=self.config.hostname,
            addr_remote=str(peer),
            peer_id=host_id,
            asked=asked,
            reason=told,
        )
        self.in_background(self._emit(event), "audit")

    async def _emit(self, event: Event) -> None:
        await self.emitter.emit(event)


async def _logged(work: Coroutine[Any, Any, None], name: str) -> None:
    try:
        await work
    except Exception:
        log.exception("failed: %s", name)


class _TLS(sslproto.SSLProtocol):
    """TLS that tells its inside also of a connection that ended in the handshake."""

    inside: _Asking

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self.inside.connection_lost(None)


def _end_of_tls(context: ssl.SSLContext, inside: _Asking) -> asyncio.Protocol:
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()
    waiter.add_done_callback(inside.shook_hands)
    made = _TLS(
        loop,
        inside,
        context,
        waiter,
        server_side=True,
        ssl_handshake_timeout=HANDSHAKE_SECONDS,
        ssl_shutdown_timeout=SHUTDOWN_SECONDS,
    )
    made.inside = inside
    return made  # type: ignore[return-value]  # a buffered protocol, which a listener treats as any


class _Asking(Link):
    """A proxy that came."""

    def __init__(self, server: PeerServer, peer: Peer, slot: Slot) -> None:
        super().__init__()
        self._server = server
        self._peer = peer
        self._slot = slot
        self._idle: asyncio.TimerHandle | None = None
        self._busy = False  # a question has not been answered, or a client is led
        self._retired = False
        self.host_id = ""

    def shook_hands(self, done: asyncio.Future[None]) -> None:
        """The handshake is over, one way or the other."""
        if done.cancelled():
            return
        error = done.exception()
        if isinstance(error, ssl.SSLError):
            self._server.refused(self._peer, f"it proved to be no host of the cluster: {_why(error)}")

    def began(self) -> None:
        try:
            identity = check_proxy(self._server.hosts, self.certificate)
        except TeleportError as error:
            host_id = self._claimed()
            self._server.refused(self._peer, f"{error.message} {getattr(error, 'detail', '')}".strip(), host_id=host_id)
            self.abort()
            return
        self._entered(identity)

    def _claimed(self) -> str:
        """The host whose certificate was proved in the handshake, where it can be read; it is refused all the same."""
        try:
            return self._server.hosts.identify_host_tls(self.certificate).host_id
        except TeleportError:
            return ""

    def _entered(self, identity: HostIdentity) -> None:
        self.host_id = identity.host_id
        self._slot.proved()
        self._server.links.add(self)
        self._wait()

    def _wait(self) -> None:
        self._idle = asyncio.get_running_loop().call_later(IDLE_SECONDS, self.close)

    def _stop_waiting(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def said(self, kind: Kind, body: bytes) -> None:
        if kind is not Kind.ASK or self._busy or not self.host_id:
            raise BadRequest(f"{kind.name} at the wrong time")
        self._stop_waiting()
        self._busy = True
        try:
            check_proxy(self._server.hosts, self.certificate)
            ask = peering.read(body, peering.Ask)
            cluster = peering.cluster_of(ask)
            host_id = "" if cluster else peering.host_of(ask, self._server.config.cluster)
        except TeleportError as error:
            self._refuse(error.message, body)
            self.close()
            return
        if cluster:
            self._asked_for_cluster(cluster, ask.dial.encode())
            return
        if not self._server.tunnels.holds(host_id, ask.conn_type):
            self._answer(peering.Answer(error="no tunnel of this host ends here"))
            return
        work = self._lead_on(lambda: self._server.tunnels.connect(host_id, self._leg, ask.conn_type))
        self._server.in_background(work, f"a client of the proxy {self.host_id}")

    def _asked_for_cluster(self, cluster: str, dial: bytes) -> None:
        clusters = self._server.tunnels.clusters
        if clusters is None or not clusters.online(cluster):
            self._answer(peering.Answer(error="no tunnel of this cluster ends here"))
            return
        work = self._lead_on(lambda: clusters.connect(cluster, lambda: dial, self._leg))
        self._server.in_background(work, f"a client of the proxy {self.host_id}")

    def _refuse(self, why: str, body: bytes) -> None:
        asked = body[:200].decode(errors="replace")
        self._server.refused(self._peer, why, host_id=self.host_id, asked=asked)
        self._answer(peering.Answer(error="this is not led to"))

    def _answer(self, answer: peering.Answer) -> None:
        """A refusal: the connection waits for the next question."""
        self.send(peering.message(Kind.ANSWER, answer))
        self._busy = False
        if self._retired:
            self.close()
        else:
            self._wait()

    async def _lead_on(self, connect: Callable[[], Awaitable[NodeLeg]]) -> None:
        try:
            await connect()
        except (ConnectionProblem, LimitExceeded, AccessDenied) as error:
            if not self.gone and self.handler is None:
                refused = isinstance(error, AccessDenied)
                self._answer(peering.Answer(error=error.message[:4000], here=True, refused=refused))

    def _leg(self) -> NodeLeg:
        """The host takes the client: from here on bytes pass."""
        leg = NodeLeg(self, b"", self.close)
        if self.gone:
            asyncio.get_running_loop().call_soon(leg.client_gone)
            return leg
        self.handler = RelayHandler(leg)
        self.send(peering.message(Kind.ANSWER, peering.Answer(here=True)))
        return leg

    def close_if_idle(self) -> None:
        """Closes unless a client is led, or about to be."""
        if self._busy:
            self._retired = True
        else:
            self.close()

    def reconsider(self) -> None:
        """Ends at once for a proxy that may not be here; takes no question once its certificate does not count."""
        try:
            check_proxy(self._server.hosts, self.certificate)
        except CertificateRefused:
            self.close_if_idle()
        except TeleportError as error:
            self._server.refused(self._peer, error.message, host_id=self.host_id)
            self.abort()

    def lost(self) -> None:
        self._stop_waiting()
        self._slot.over()
        self._server.links.discard(self)


def _why(error: ssl.SSLError) -> str:
    return str(getattr(error, "verify_message", "") or error.reason or error)[:200]
