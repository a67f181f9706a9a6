"""The Kubernetes service as this daemon runs it: proxies come, and its clusters have the labels of this host."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from socket import socket
from typing import TYPE_CHECKING, Any
from uuid import UUID

from teleport import __version__
from teleport.audit.emitter import Emitter
from teleport.clock import Clock
from teleport.daemon.config import ports
from teleport.daemon.config.values import KubeServiceConfig
from teleport.daemon.credentials import Credentials
from teleport.daemon.host import Host
from teleport.daemon.kube.side import Following, KubeRules
from teleport.daemon.view import View
from teleport.identity import SystemRole
from teleport.kube.credentials import KubeCluster
from teleport.kube.entrance import Proxies
from teleport.kube.service import KubeConfig, KubeServer
from teleport.kube.upstream import Upstream
from teleport.node.dynamic_labels import HostLabels
from teleport.resources.metadata import Metadata
from teleport.resources.server import KubeClusterEntry, Server, ServerSpec
from teleport.resources.values import HostPort
from teleport.store.records import HOSTS
from teleport.transport.entrance import ConnectionLimits
from teleport.transport.tls import peer_server_context
from teleport.wire.alpn import KUBE_SERVICE

if TYPE_CHECKING:
    from teleport.tunnel.agent import TunnelAgent


class ServiceRules(KubeRules):
    """The same rules, for clusters whose labels are found on this host; and people of clusters that are trusted here
    come, too, whom proxies have let in."""

    def __init__(self, view: View, labels: HostLabels) -> None:
        super().__init__(view, lambda: (view.cluster, *(one.name for one in view.trusted_clusters())))
        self._host_labels = labels

    def _labels_of(self, cluster: KubeCluster) -> Mapping[str, str]:
        return self._host_labels.current()


class KubeServiceSide:
    """Everything of the service in one daemon."""

    def __init__(
        self,
        settings: KubeServiceConfig,
        host: Host,
        nodename: str,
        view: View,
        emitter: Emitter,
        clock: Clock,
        held: Callable[[], Credentials],
        connections: ConnectionLimits,
        *,
        address: str,
        changed: Callable[[], None],
    ) -> None:
        """`held` gives the certificates that are shown, as they are now; `address` is where proxies reach the listener,
        `changed` hears that what is announced is other now. Raises `BadRequest` for credentials that cannot be used."""
        self._settings = settings
        self._host = host
        self._nodename = nodename
        self._view = view
        self._clock = clock
        self._held = held
        self._address = address
        self.agent: TunnelAgent | None = None  # where proxies reach this host by tunnels
        self._context: tuple[Credentials, tuple[str, ...], ssl.SSLContext] | None = None

        def labels_changed() -> None:
            changed()
            self.server.reconsider()

        self.labels = HostLabels(
            settings.labels.static,
            settings.labels.dynamic,
            labels_changed,
            forced=lambda: view.forced_labels(host.host_id, SystemRole.KUBE),
        )
        rules = ServiceRules(view, self.labels)
        self.server = KubeServer(
            KubeConfig(view.cluster, UUID(host.host_id), nodename, connections=connections),
            {cluster.name: Upstream(cluster) for cluster in settings.clusters},
            rules=rules,
            context=self._next_context,
            emitter=emitter,
            clock=clock,
            entrance=Proxies(rules, view),
            recorded_before=True,
        )
        self._following = Following(view, self.server)
        self._following.also(HOSTS)  # whether the proxies may be here
        view.cache.subscribe(HOSTS + host.host_id, lambda _: changed())

    def _next_context(self) -> ssl.SSLContext:
        held, pems = self._held(), self._view.tls_authorities()
        if self._context is None or self._context[:2] != (held, pems):
            context = peer_server_context(held.server_tls_cert_file, held.tls_key_file, pems, KUBE_SERVICE)
            self._context = (held, pems, context)
        return self._context[2]

    # daemon.tunnel_side.Behind

    def accepted(self, transport: asyncio.Transport) -> None:
        self.server.accepted(transport)

    def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        self.server.in_background(work)

    def busy(self) -> bool:
        """All that goes on comes by tunnels, and has ended with the last of them."""
        return False

    async def renewed(self, held: Credentials) -> None:
        """New connections see the renewed certificate."""
        self._context = None
        if self.agent is not None:
            self.agent.renewed()

    def describe(self) -> Server:
        """This service as presence carries it."""
        announced, commands = self.labels.announced(), self.labels.command_states()
        return Server(
            kind="kube_service",
            metadata=Metadata(name=self._host.host_id),
            spec=ServerSpec(
                addr=self._address,
                public_addrs=self._public(),
                hostname=self._nodename,
                use_tunnel=self.agent is not None,
                proxy_ids=self.agent.proxies if self.agent is not None else (),
                version=__version__,
                epoch=str(self._host.epoch),
                started=self._clock.now(),
                kube_clusters=tuple(
                    KubeClusterEntry(name=one.name, static_labels=announced, dynamic_labels=commands)
                    for one in self._settings.clusters
                ),
            ),
        )

    def _public(self) -> tuple[str, ...]:
        """The public addresses; port 0 stands for the one by which the service is reached."""
        port = HostPort.parse(self._address, ports.KUBE).port if self._address else ports.KUBE
        return tuple(str(replace(one, port=one.port or port)) for one in self._settings.public_addrs)

    async def serve(self, listeners: Sequence[socket], started: Callable[[], None]) -> None:
        """Serves until cancelled."""
        await self._following.run(listeners, started)
