"""Kubernetes clusters that services lead to: which there are, and a person's connections to them.

Rules it keeps:
- A cluster may have several services (replicas). Those whose labels are the same stand for one another: while nothing
  has been said of a call, the next one is tried. A call that may have been made is never made again elsewhere.
- A service is believed by its host certificate: role Kube of this cluster, the very host that announced the cluster.
- Connections to services are one person's, as the introduction says that begins each; they end with the person's own.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from asyncio import sslproto
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

from teleport.errors import ConnectionProblem, TeleportError
from teleport.kube.credentials import KubeCluster
from teleport.kube.http import READ, Server
from teleport.kube.introduction import Introduction, encode
from teleport.resources.server import Server as Service
from teleport.resources.values import HostPort
from teleport.ssh.surface import Peer
from teleport.transport.probes import probe

REACH: Final = 5.0  # seconds for one service, until it is introduced to whom it serves
AT_FIRST: Final = 1.0  # seconds for each of several, before any of them has more
HANDSHAKE: Final = 5  # seconds of them for TLS
AVOIDED: Final = 10.0  # seconds that a service which was not reached is tried after the others
KEPT: Final = 4  # idle connections to one service
IDLE: Final = 30.0  # seconds that one is kept
_NOWHERE: Final = HostPort("kube", 443)  # a service knows by itself where its API servers are
P = TypeVar("P", bound=asyncio.Protocol)
Labels = tuple[tuple[str, str], ...]


class Reach(Protocol):
    """What a proxy's daemon knows of services, and how it gets there."""

    def services(self) -> Sequence[Service]:
        """Those that are announced now."""
        ...

    def alive(self, service: Service) -> bool:
        """Whether it was heard of lately."""
        ...

    def context(self) -> ssl.SSLContext:
        """TLS for the next connection; it shows the proxy's certificate."""
        ...

    def server_name(self, host_id: str) -> str:
        """What the certificate of a service has to be for."""
        ...

    def believe(self, host_id: str, certificate: bytes) -> None:
        """Raises `TeleportError` unless the certificate (DER) is of this service, as things are now."""
        ...

    async def connect(self, service: Service, make: Callable[[], P]) -> P:
        """Connects the protocol that `make` gives with a service. Raises `TeleportError` or `OSError`."""
        ...


class Services:
    """The clusters of all services, for one proxy."""

    def __init__(self, reach: Reach) -> None:
        self.reach = reach
        self._known: dict[str, dict[Labels, list[Service]]] | None = None
        self._failed: dict[str, float] = {}  # host id -> loop time until which others come first

    def changed(self) -> None:
        """Other services are announced now."""
        self._known = None

    def known(self) -> Mapping[str, Mapping[Labels, Sequence[Service]]]:
        """By the cluster's name, then its labels: the services that lead there."""
        if self._known is None:
            found: dict[str, dict[Labels, list[Service]]] = {}
            for service in self.reach.services():
                for one in service.spec.kube_clusters:
                    labels = tuple(sorted(one.all_labels.items()))
                    found.setdefault(one.name, {}).setdefault(labels, []).append(service)
            self._known = found
        return self._known

    def labels(self, host_id: str, name: str) -> Mapping[str, str] | None:
        """Those that a service gives a cluster now; None when it does not lead there any more."""
        for labels, services in self.known().get(name, {}).items():
            if any(one.host_id == host_id for one in services):
                return dict(labels)
        return None

    def ordered(self, services: Sequence[Service], certificate: bytes) -> list[Service]:
        """In which order they are tried: those heard of and reached lately first. Of these each person (`certificate`)
        has another one, and the same one for all calls."""
        now = asyncio.get_running_loop().time()

        def place(one: Service) -> tuple[bool, bool, bytes]:
            drawn = hashlib.sha256(certificate + one.host_id.encode()).digest()
            return not self.reach.alive(one), self._failed.get(one.host_id, 0) > now, drawn

        return sorted(services, key=place)

    def failed(self, host_id: str) -> None:
        """It was not reached."""
        now = asyncio.get_running_loop().time()
        self._failed = {one: until for one, until in self._failed.items() if until > now}
        self._failed[host_id] = now + AVOIDED

    def reached(self, host_id: str) -> None:
        self._failed.pop(host_id, None)


class ServicesOfOne:
    """The same for one person's connection."""

    def __init__(self, services: Services, certificate: bytes, peer: Peer) -> None:
        self._services = services
        self._certificate = certificate
        self._peer = peer
        self._ways: dict[tuple[str, Labels], ServiceWay] = {}

    def names(self) -> Sequence[str]:
        """The clusters' names."""
        return list(self._services.known())

    def meant(self, name: str) -> list[ServiceWay]:
        """The ways to the clusters of this name: services that give it other labels lead to another one."""
        found = []
        for labels, services in self._services.known().get(name, {}).items():
            way = self._ways.get((name, labels))
            if way is None:
                cluster = KubeCluster(name, _NOWHERE, "", labels=dict(labels))
                introduction = Introduction(self._certificate, self._peer.host, self._peer.port, name)
                way = self._ways[name, labels] = ServiceWay(cluster, self._services, introduction)
            way.services = services
            found.append(way)
        return found

    def close(self) -> None:
        """The person is gone."""
        for way in self._ways.values():
            way.close()


class _Inside(asyncio.StreamReaderProtocol):
    """What is inside TLS, with its transport."""

    transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport


class _TLS(sslproto.SSLProtocol):
    """TLS that can be dropped at any moment."""

    outside: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.outside = transport
        super().connection_made(transport)

    def drop(self) -> None:
        """Ends the connection at once."""
        if isinstance(self.outside, asyncio.Transport):
            self.outside.abort()


@dataclass(slots=True)
class ServiceWay:
    """The way to one cluster, for one person: what `kube.upstream.Upstream` is where the API server is reached from
    here."""

    cluster: KubeCluster
    known: Services
    introduction: Introduction
    services: Sequence[Service] = ()
    _idle: dict[Server, tuple[str, asyncio.TimerHandle]] = field(default_factory=dict)
    _open: dict[Server, str] = field(default_factory=dict)  # host id of each that carries a call

    async def take(self, *, again: bool) -> Server:
        """A connection to one of the services, on which nothing of a call has been said. Raises `ConnectionProblem`."""
        while again and self._idle:
            server, (host_id, timer) = self._idle.popitem()
            timer.cancel()
            leads = any(one.host_id == host_id for one in self.services)  # and has not come to give other labels
            if leads and not server.stale and self._believed(host_id, server):
                server.used = True
                self._open[server] = host_id
                return server
            server.close()
        problem = ConnectionProblem(f"no service leads to {self.cluster.name} now", hint="tsh kube ls")
        order = self.known.ordered(self.services, self.introduction.certificate)
        rounds = [(one, AT_FIRST) for one in order] if len(order) > 1 else []
        for service, seconds in [*rounds, *((one, REACH) for one in order)]:
            try:
                async with asyncio.timeout(seconds):
                    server = await self._reach(service)
            except (TimeoutError, OSError, TeleportError) as error:
                self.known.failed(service.host_id)
                why = error.message if isinstance(error, TeleportError) else str(error) or "it does not answer"
                problem = ConnectionProblem(
                    f"the Kubernetes service {service.hostname} of {self.cluster.name} is not reached: {why}",
                    hint="try again; if it stays so, ask who runs that host whether its service runs",
                )
            else:
                self.known.reached(service.host_id)
                self._open[server] = service.host_id
                return server
        raise problem

    async def _reach(self, service: Service) -> Server:
        """TLS with a service, and the introduction."""
        loop, reach = asyncio.get_running_loop(), self.known.reach
        reader = asyncio.StreamReader(limit=READ)
        inside = _Inside(reader)
        shaken: asyncio.Future[None] = loop.create_future()
        context, introduction = reach.context(), encode(self.introduction)

        made: list[_TLS] = []

        def make() -> asyncio.Protocol:
            made.append(
                _TLS(
                    loop,
                    inside,
                    context,
                    shaken,
                    server_side=False,
                    server_hostname=reach.server_name(service.host_id),
                    ssl_handshake_timeout=HANDSHAKE,
                    ssl_shutdown_timeout=1,
                )
            )
            return made[-1]  # type: ignore[return-value]  # a buffered protocol, which transports take

        try:
            await reach.connect(service, make)
            await shaken
            assert inside.transport is not None
            writer = asyncio.StreamWriter(inside.transport, inside, reader, loop)
            proved = writer.get_extra_info("ssl_object").getpeercert(binary_form=True) or b""
            reach.believe(service.host_id, proved)
            probe(writer.transport)
            writer.write(introduction)
        except BaseException:
            shaken.cancel()
            for one in made:
                one.drop()
            raise
        return Server(reader, writer)

    def _believed(self, host_id: str, server: Server) -> bool:
        proved = server.writer.get_extra_info("ssl_object").getpeercert(binary_form=True) or b""
        try:
            self.known.reach.believe(host_id, proved)
        except TeleportError:
            return False
        return True

    def give(self, server: Server) -> None:
        """The call is over; the connection is kept if it can take another one."""
        host_id = self._open.pop(server, "")
        if not host_id or not server.ended() or server.stale or len(self._idle) >= KEPT:
            server.close()
            return
        timer = asyncio.get_running_loop().call_later(IDLE, self._drop, server)
        self._idle[server] = host_id, timer

    def _drop(self, server: Server) -> None:
        del self._idle[server]
        server.close()

    def now(self) -> KubeCluster | None:
        """The cluster as its services say it is now; None when one that carries a call is not believed any more. What
        a service that has left said last stays true for the calls that it still carries."""
        for server, host_id in self._open.items():
            if not self._believed(host_id, server):
                return None
            labels = self.known.labels(host_id, self.cluster.name)
            if labels is not None and labels != self.cluster.labels:
                return KubeCluster(self.cluster.name, _NOWHERE, "", labels=labels)
        return self.cluster

    def close(self) -> None:
        """Ends those that are idle."""
        while self._idle:
            server, (_, timer) = self._idle.popitem()
            timer.cancel()
            server.close()
