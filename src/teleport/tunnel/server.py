"""Where hosts log in with their host certificates to keep tunnels, and all the tunnels that are kept to this process.

Rules it keeps:
- Only certificates of role Node or Kube of this cluster, which still count (`verify_host`), and only under the host's
  own id: the user name is `<uuid>.<cluster>` of the certificate, so that nobody stands for another host. Proxies of
  other clusters come in by rules of their own (`tunnel.clusters`).
- Everybody who keeps a tunnel is looked at anew when locks, hosts or authorities change.
- What one host may cost is bounded: connections on which it has said nothing yet, tunnels (`tunnel.registry`), and
  records about it.

What may pass a tunnel once it stands is in `tunnel.proxy_end`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar
from uuid import UUID, uuid4

from teleport.audit.emits import Emits
from teleport.audit.events import AuthFailed, Event, ServerEvent, new_event
from teleport.clock import Clock
from teleport.errors import AccessDenied, ConnectionProblem, TeleportError
from teleport.identity import HostIdentity, SystemRole
from teleport.ssh.handlers import ConnectionHandler
from teleport.ssh.listener import Slot
from teleport.ssh.server import HostKey
from teleport.ssh.service import SshService
from teleport.ssh.surface import Peer, Refusal, ServerLimits, Surface
from teleport.transport.entrance import ConnectionLimits
from teleport.transport.limits import Heard
from teleport.transport.probes import Probed
from teleport.transport.slots import Slots
from teleport.tunnel import messages as m
from teleport.tunnel.admission import Admission
from teleport.tunnel.clusters import ClusterTunnels, Gone
from teleport.tunnel.proxy_end import Tunnel
from teleport.tunnel.registry import Registry
from teleport.tunnel.silence import of_proxy, silence_of

SURFACE: Final = Surface(
    channels=frozenset({"direct-tcpip"}),
    session_requests=frozenset(),
    global_requests=frozenset({"keepalive@openssh.com", "tunnel-register@teleport"}),
)
_OF_FEW: Final = of_proxy(0)
LIMITS: Final = ServerLimits(channels=4096, keepalive_seconds=_OF_FEW.seconds, keepalive_count=_OF_FEW.count)
UNREGISTERED: Final = 8  # connections of one host that have not said so yet
ON_ITS_WAY: Final = 8.0  # seconds that a client waits for a tunnel which is made anew
LEAVE_SECONDS: Final = 15.0  # for hosts to reach another process before this one ends
RETURNS: Final = 125  # hosts in a second that a proxy bears when all of them come back to it
AT_ONCE: Final = 50  # tunnels looked at in one turn of the loop
LED_TO: Final = {SystemRole.NODE: m.NODE, SystemRole.KUBE: m.KUBE}
P = TypeVar("P", bound=asyncio.Protocol)
ToAuth = Callable[[Peer, Callable[[bytes], asyncio.Protocol]], Awaitable[object]]


class Hosts(Protocol):
    """Who belongs to the cluster now."""

    def verify_host(self, certificate: bytes) -> HostIdentity:
        """Raises `CertificateRefused`, or `AccessDenied` for a host that is locked or was expelled."""
        ...


@dataclass(frozen=True, slots=True)
class TunnelConfig:
    """What the tunnel server is told once. `epoch` is of this process."""

    cluster: str
    host_id: UUID
    epoch: int
    hostname: str
    unproved: int = 1000  # connections that have not authenticated yet
    connections: ConnectionLimits = field(default_factory=ConnectionLimits)
    limits: ServerLimits = LIMITS


class TunnelServer(SshService):
    """Serves the tunnel listener; `accepted` takes connections of a port that is shared."""

    def __init__(
        self,
        config: TunnelConfig,
        *,
        hosts: Hosts,
        host_keys: Sequence[HostKey],
        emitter: Emits,
        clock: Clock,
        to_auth: ToAuth | None = None,
    ) -> None:
        """`to_auth` connects a host that comes from an address with auth, by the protocol that it makes of the line
        with which auth is told of that address; it raises `TeleportError`. Without it, hosts have their own way."""
        super().__init__(
            SURFACE,
            config.limits,
            host_keys,
            Slots(config.unproved, "proxy tunnel", limits=config.connections),
        )
        self.config = config
        self.hosts = hosts
        self.emitter = emitter
        self.clock = clock
        self.to_auth = to_auth
        self.admission = Admission()
        self.registry: Registry[Tunnel] = Registry()
        self.registries: Mapping[str, Registry[Tunnel]] = {m.NODE: self.registry, m.KUBE: Registry()}  # by `conn_type`
        self.clusters: ClusterTunnels | None = None  # tunnels of other clusters' proxies
        self.strangers = Heard()
        self.denied = Heard()  # what hosts ask for and do not get
        self.unregistered = Counter[str]()  # connections by host, from when it has proved itself
        self._all: set[Tunnel] = set()  # also those that take nobody any more
        self._proxies: tuple[m.KnownProxy, ...] = ()
        self._connections = 0
        self._told_of = RETURNS  # as many hosts as there were when all were told
        self._leaving_since: float | None = None
        self._leaving_spread = 0.0  # seconds in which the hosts have time to go
        self._check_due = False

    def _protocol(self, peer: Peer, slot: Slot) -> asyncio.Protocol | None:
        if not slot.arrived(peer.host):
            return None
        return Probed(self._server.connection(lambda _: _Gate(self, peer), slot))

    # leading clients

    def holds(self, host_id: str, conn_type: str = m.NODE) -> bool:
        """Whether a service of a host can be reached by a tunnel of this proxy now."""
        return self.registries[conn_type].newest(host_id) is not None

    async def connect(self, host_id: str, make: Callable[[], P], conn_type: str = m.NODE) -> P:
        """Connects the protocol that `make` gives with a service of a host. Raises `ConnectionProblem`."""
        loop = asyncio.get_running_loop()
        until, tried = loop.time() + ON_ITS_WAY, list[Tunnel]()
        problem = ConnectionProblem(f"no tunnel of {host_id} leads here")
        registry = self.registries[conn_type]
        while (tunnel := await registry.wait_newest(host_id, until - loop.time(), tried)) is not None:
            tried.append(tunnel)
            try:
                return await tunnel.connect(make)
            except Gone as error:  # it has heard nothing of the client, so another may
                problem = error
        raise problem

    # news

    def set_proxies(self, proxies: Sequence[m.KnownProxy], connections: int = 0) -> None:
        """The proxies of the cluster, as hosts are told of them, and to how many of them they keep a tunnel; 0: all."""
        known = tuple(sorted(proxies, key=lambda one: one.host_id))
        if (known, connections) != (self._proxies, self._connections):
            self._proxies, self._connections = known, connections
            self._tell_all()

    def news(self) -> bytes:
        """What hosts are told now."""
        leaving = self._leaving_since is not None
        return m.encode(
            m.News(
                proxies=self._proxies,
                leaving=leaving,
                connections=self._connections,
                spread=self._spread,
                silence=silence_of(len(self._all)),
            )
        )

    @property
    def _spread(self) -> int:
        """Milliseconds over which the hosts come back when this process ends."""
        return len(self._all) * 1000 // RETURNS

    def _tell_all(self) -> None:
        news, self._told_of = self.news(), max(len(self._all), RETURNS)
        self.keep_alive(of_proxy(len(self._all)))
        for tunnel in self._all:
            tunnel.tell(news)

    # two processes of this proxy

    def pause(self) -> None:
        """Accepts nothing more, and asks the hosts to go to another process; clients are still led through."""
        super().pause()
        self._leaving_since = asyncio.get_running_loop().time()
        self._leaving_spread = self._spread / 1000
        self._tell_all()

    async def resume(self) -> None:
        """Accepts again."""
        await super().resume()
        self._leaving_since = None
        self._tell_all()

    @property
    def open(self) -> int:
        """How many tunnels are in use; while hosts are asked to go elsewhere also, for a while, those that are not."""
        since = self._leaving_since
        if since is not None and asyncio.get_running_loop().time() - since < LEAVE_SECONDS + self._leaving_spread:
            return len(self._all)
        return sum(1 for tunnel in self._all if tunnel.in_use)

    @property
    def tunnels(self) -> int:
        """How many there are."""
        return len(self._all)

    # who may stay

    def reconsider(self) -> None:
        """Looks at every host anew, soon; to be called when locks, hosts or authorities changed."""
        if self._tasks is None or self._check_due:
            return
        self._check_due = True
        self.in_background(self._check_all(), "look at the hosts behind tunnels")

    def host_changed(self, host_id: str) -> None:
        """The same for one host."""
        for tunnel in list(self._all):
            if tunnel.host_id == host_id:
                tunnel.reconsider()

    async def _check_all(self) -> None:
        await asyncio.sleep(0)  # changes come in groups
        self._check_due = False
        for number, tunnel in enumerate(list(self._all)):
            tunnel.reconsider()
            if number % AT_ONCE == AT_ONCE - 1:
                await asyncio.sleep(0)

    # for the tunnels

    def entered(self, tunnel: Tunnel) -> None:
        self._all.add(tunnel)
        if len(self._all) >= 2 * self._told_of:  # of those that came since, the first were told least
            self._tell_all()

    def left(self, tunnel: Tunnel) -> None:
        self._all.discard(tunnel)
        tunnel.registry.remove(tunnel)

    def put_on_record(self, cls: type[ServerEvent], login: str, peer: Peer, **fields: Any) -> None:
        """Emits an event about a host's connection."""
        event = new_event(
            cls,
            self.clock.now(),
            str(uuid4()),
            cluster_name=self.config.cluster,
            user="",
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

    def stranger_failed(self, login: str, peer: Peer, reason: str) -> None:
        """Puts a refusal on record; of strangers only so many in a second."""
        told = self.strangers.told(reason, asyncio.get_running_loop().time())
        if told is not None:
            self.put_on_record(AuthFailed, login[:200], peer, error=told)


class _Gate:
    """Lets hosts in whose certificates are of a role that is led to."""

    def __init__(self, server: TunnelServer, peer: Peer) -> None:
        self._server = server
        self._peer = peer

    async def admit(self, login: str, certificate: bytes) -> ConnectionHandler | Refusal:
        server = self._server
        try:
            if server.clusters is not None and (cluster := server.clusters.claimed(login)):
                return self._of_cluster(server.clusters, cluster, login, certificate)
            identity = server.hosts.verify_host(certificate)
            if identity.role not in LED_TO:
                raise AccessDenied(f"a certificate of the role {identity.role} keeps no tunnel")
            if login != m.server_id(identity.host_id, server.config.cluster):
                raise AccessDenied(f"the host {identity.host_id} logs in as {login[:200]!r}, which is not itself")
            self._check_unregistered(identity.host_id)
        except TeleportError as error:
            detail = getattr(error, "detail", "")
            server.stranger_failed(login, self._peer, f"{error.message} {detail}".strip())
            return Refusal.told(error.message, error.hint)
        return Tunnel(server, identity, certificate, login, self._peer, conn_type=LED_TO[identity.role])

    def _check_unregistered(self, name: str) -> None:
        if self._server.unregistered[name] >= UNREGISTERED:
            raise AccessDenied(f"the host {name} has {UNREGISTERED} connections that have not become tunnels yet")

    def _of_cluster(self, clusters: ClusterTunnels, cluster: str, login: str, certificate: bytes) -> Tunnel:
        """A proxy of another cluster."""
        identity, registry = clusters.verify(cluster, login, certificate)
        self._check_unregistered(login)

        def verify(shown: bytes) -> HostIdentity:
            return clusters.clusters.verify_proxy(cluster, shown)

        return Tunnel(self._server, identity, certificate, login, self._peer, registry, verify)

    def failed(self, login: str, reason: str) -> None:
        self._server.stranger_failed(login, self._peer, reason)
