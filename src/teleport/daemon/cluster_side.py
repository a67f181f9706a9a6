"""Other clusters, as this daemon's proxy deals with them: those that trust this one, and those that are trusted here.

Towards a cluster that trusts this one: its proxies' tunnels end here, and users of this cluster are led through. In a
cluster that trusts another: this proxy keeps tunnels there, and whoever is led here by them is served.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from teleport.audit.events import TunnelEnded
from teleport.authz.clusters import why_no_cluster
from teleport.authz.decision import AccessDenial
from teleport.authz.ssh import asking_auth
from teleport.daemon.credentials import Credentials
from teleport.daemon.peer_side import PeerSide
from teleport.daemon.view import View
from teleport.errors import AccessDenied, ConnectionProblem
from teleport.identity import HostIdentity, SystemRole, UserIdentity
from teleport.pki import web_proof
from teleport.pki.sshformat import parse_certificate
from teleport.pki.trust import AuthorityKind
from teleport.proxy.from_clusters import FromCluster
from teleport.proxy.needs import Directory
from teleport.proxy.other_clusters import OtherClusters, Traveller
from teleport.proxy.ssh_router import SshRouter
from teleport.resources.trusted_cluster import TUNNEL_PORT, TrustedCluster
from teleport.resources.values import HostPort
from teleport.ssh.client_connection import ClientKey
from teleport.ssh.surface import Peer
from teleport.store.records import REMOTE_CLUSTERS, TRUSTED_CLUSTERS
from teleport.tunnel.agent import AgentConfig, TunnelAgent
from teleport.tunnel.clusters import ClusterTunnels
from teleport.tunnel.clusters_elsewhere import AllClusterTunnels
from teleport.tunnel.seeds import seeds
from teleport.tunnel.server import TunnelServer

log = logging.getLogger(__name__)

DECIDE: Final = ("roles/", "users/", "locks/", "cluster/", "authorities/", REMOTE_CLUSTERS)
WATCHED: Final = (TRUSTED_CLUSTERS, "authorities/", "locks/")


TakesKube = Callable[[str, asyncio.Transport, bytes, Peer], None]
"""Serves a Kubernetes client of a trusted cluster: its name, the connection, the certificate (DER), where they are."""


class Remotes:
    """The clusters that trust this one (`tunnel.clusters.Clusters`, `proxy.other_clusters.Remotes`)."""

    def __init__(self, view: View, directory: Directory) -> None:
        self._view = view
        self._directory = directory

    def names(self) -> list[str]:
        return [one.name for one in self._view.remote_clusters() if not one.removed]

    def knows(self, cluster: str) -> bool:
        """Whether there is such a cluster."""
        found = self._view.remote_cluster(cluster)
        return found is not None and not found.removed

    def verify_proxy(self, cluster: str, certificate: bytes) -> HostIdentity:
        """Raises `CertificateRefused`, or `AccessDenied` when the cluster or this proxy of it does not count."""
        if not self.knows(cluster):
            raise AccessDenied(f"the cluster {cluster} does not trust this one any more", hint="tctl get rc")
        return self._view.verify_host_of(cluster, certificate, SystemRole.PROXY)

    def why_not(self, identity: UserIdentity, cluster: str) -> AccessDenial | None:
        """The refusal of whoever may not go there; None for whoever may."""
        found = self._view.remote_cluster(cluster)
        labels = found.metadata.labels if found is not None else {}
        present = self._view.present(identity)
        if present is not None and found is not None and not found.removed:
            return why_no_cluster(present, self._view.policy(), remote=cluster, labels=labels)
        return why_no_cluster(_nobody(identity), self._view.policy(), remote=cluster, labels=labels)

    def why_no_session(self, identity: UserIdentity, client_address: str) -> AccessDenial | None:
        """What forbids the user every session."""
        return self._directory.why_no_session(identity, client_address)

    def verify_user(self, certificate: bytes) -> UserIdentity:
        """Who the user of this cluster is. Raises `AccessDenied`."""
        return self._view.verify_user(certificate)

    def stands(self, certificate: bytes) -> bool:
        """Whether what was begun with the certificate may go on."""
        signer = parse_certificate(certificate).signer
        own = self._view.ssh_authorities(AuthorityKind.USER)
        return any(key.blob == signer for one in own for key in one.keys) or self._view.let_go(signer)


def _nobody(identity: UserIdentity) -> UserIdentity:
    return replace(identity, roles=())


class WebWays:
    """What the web service is asked about other clusters (`web.clusters.OtherClusters`)."""

    def __init__(self, view: View, others: OtherClusters) -> None:
        self._view = view
        self._others = others

    def _proved(self, proof: str, purpose: str) -> tuple[UserIdentity, bytes]:
        certificate = web_proof.check(
            web_proof.parse(proof), audience=self._view.cluster, purpose=purpose, now=self._view.clock.now()
        )
        return self._view.verify_user(certificate), certificate

    def listed(self, proof: str, client_address: str) -> list[tuple[str, bool]]:
        """The clusters that whoever made the proof may go to. Raises `TeleportError`."""
        identity, _ = self._proved(proof, web_proof.CLUSTERS)
        self._others.check_session(asking_auth(identity), client_address)
        return self._others.listed(identity)

    async def to_auth(
        self, proof: str, peer: tuple[str, int], cluster: str
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to that cluster's auth. Raises `TeleportError`."""
        identity, certificate = self._proved(proof, web_proof.to_auth_of(cluster))
        return await self._others.to_auth(Traveller(identity, certificate, Peer(*peer), cluster, asks_auth=True))


@dataclass(frozen=True, slots=True)
class _Trusted:
    """The hosts of a cluster that is trusted here (`tunnel.agent.Hosts`, `proxy.from_clusters.Trust`)."""

    view: View
    cluster: str
    kube: TakesKube

    def take_kube(self, transport: asyncio.Transport, certificate: bytes, peer: Peer) -> None:
        """Serves a Kubernetes client of that cluster. Raises `ConnectionProblem` where none are served."""
        self.kube(self.cluster, transport, certificate, peer)

    def verify_host(self, certificate: bytes) -> HostIdentity:
        """A proxy of that cluster. Raises `AccessDenied`."""
        return self.verify_proxy(self.cluster, certificate)

    def verify_proxy(self, cluster: str, certificate: bytes) -> HostIdentity:
        if self.view.trusted_cluster(cluster) is None:
            raise AccessDenied(f"the cluster {cluster} is not trusted here", hint="tctl get tc")
        return self.view.verify_host_of(cluster, certificate, SystemRole.PROXY)

    def verify_user(self, certificate: bytes) -> UserIdentity:
        """A user of that cluster, as this one sees them. Raises `AccessDenied`."""
        return self.view.verify_remote_user(certificate)


@dataclass(slots=True)
class _Kept:
    """The tunnels to one cluster."""

    settings: tuple[str, str]
    agent: TunnelAgent
    task: asyncio.Task[None]


class TrustedSide:
    """Keeps tunnels to every cluster that is trusted here (a `Door` of the daemon)."""

    def __init__(
        self,
        view: View,
        router: SshRouter,
        *,
        epoch: int,
        held: Callable[[], Credentials],
        auth_servers: Sequence[tuple[str, int]],
        vouch_to_auth: Callable[[str, int, str], bytes],
    ) -> None:
        self._view = view
        self._router = router
        self._epoch = epoch
        self._held = held
        self._auth_servers = auth_servers
        self._vouch_to_auth = vouch_to_auth
        self._kept: dict[str, _Kept] = {}
        self._kube: TakesKube | None = None
        self._changed = asyncio.Event()
        self._paused = False
        for prefix in WATCHED:
            view.cache.subscribe(prefix, lambda _: self._look())

    def serve_kube(self, take: TakesKube) -> None:
        """Kubernetes clients are served here from now on."""
        self._kube = take

    def kube(self, cluster: str, transport: asyncio.Transport, certificate: bytes, peer: Peer) -> None:
        """Hands a Kubernetes client of a trusted cluster to the listener for such."""
        if self._kube is None:
            raise ConnectionProblem(
                f"The proxies of {self._view.cluster} serve no Kubernetes clients.",
                hint="their file has to say proxy_service.kube_listen_addr",
            )
        self._kube(cluster, transport, certificate, peer)

    def _look(self) -> None:
        self._changed.set()
        for kept in self._kept.values():
            kept.agent.reconsider()

    # a door

    @property
    def open(self) -> int:
        """Whoever is led here keeps a tunnel in use."""
        return sum(kept.agent.carried for kept in self._kept.values())

    def counts(self) -> dict[str, float]:
        """How many tunnels stand to each cluster."""
        return {name: kept.agent.tunnels for name, kept in self._kept.items()}

    def pause(self) -> None:
        """Another process of this host makes new tunnels; those that stand serve on."""
        self._paused = True
        for kept in self._kept.values():
            kept.agent.pause()

    async def resume(self) -> None:
        self._paused = False
        self._changed.set()
        for kept in self._kept.values():
            await kept.agent.resume()

    def renewed(self) -> None:
        """The host has new certificates."""
        for kept in self._kept.values():
            kept.agent.renewed()

    # keeping

    async def run(self) -> None:
        """Keeps what is wanted until cancelled; a cluster that is not trusted any more loses its tunnels at once."""
        try:
            while True:
                self._changed.clear()
                await self._settle()
                await self._changed.wait()
        finally:
            for name in list(self._kept):
                await self._drop(name)

    async def _settle(self) -> None:
        wanted = {one.name: one for one in self._view.trusted_clusters()}
        for name, kept in list(self._kept.items()):
            if name not in wanted or kept.settings != _settings(wanted[name]) or kept.task.done():
                await self._drop(name)
        for name, trusted in wanted.items():
            if name not in self._kept and not self._paused:
                try:
                    self._keep(trusted)
                except Exception:  # whatever is said of one cluster, the tunnels to the others are kept
                    log.exception("no tunnels to the cluster %s are kept", name)

    def _keep(self, trusted: TrustedCluster) -> None:
        trust = _Trusted(self._view, trusted.name, self.kube)
        serving = FromCluster(
            trusted.name,
            self._router,
            trust,
            auth_servers=self._auth_servers,
            vouch_to_auth=self._vouch_to_auth,
        )

        def key() -> ClientKey:
            now = self._held()
            return ClientKey(now.ssh_key.openssh_pem().reveal(), now.ssh_cert.line())

        def ended(proxy: HostIdentity, peer: tuple[str, int], reason: str) -> None:
            self._router.put_on_record(
                TunnelEnded, None, "", Peer(*peer), host=proxy.host_id, role=str(proxy.role), reason=reason
            )

        hosts = [HostPort.parse(text, TUNNEL_PORT).host for text in _settings(trusted) if text]
        agent = TunnelAgent(
            AgentConfig(self._view.cluster, self._router.config.host_id, self._epoch, tuple(hosts)),
            hosts=trust,
            key=key,
            seeds=lambda: _seeds(trusted),
            accept=lambda transport: transport.abort(),
            changed=lambda: None,
            clock=self._view.clock,
            ended=ended,
            serve=serving.serve,
        )
        task = asyncio.create_task(agent.run(), name=f"tunnels to {trusted.name}")
        self._kept[trusted.name] = _Kept(_settings(trusted), agent, task)
        log.info("tunnels to the cluster %s are kept", trusted.name)

    async def _drop(self, name: str) -> None:
        kept = self._kept.pop(name)
        kept.task.cancel()
        (ended,) = await asyncio.gather(kept.task, return_exceptions=True)
        if isinstance(ended, Exception):
            log.error("tunnels to the cluster %s ended by a fault", name, exc_info=ended)
        log.info("tunnels to the cluster %s are not kept any more", name)


def _settings(trusted: TrustedCluster) -> tuple[str, str]:
    return trusted.spec.web_proxy_addr, trusted.spec.tunnel_addr


async def _seeds(trusted: TrustedCluster) -> list[str]:
    """Where the cluster's tunnels end: as its resource says, and as its web page does."""
    said = [str(HostPort.parse(trusted.spec.tunnel_addr, TUNNEL_PORT))] if trusted.spec.tunnel_addr else []
    web = trusted.web_proxy
    return said or await seeds([(web.host, web.port)])


@dataclass(slots=True)
class ClusterSide:
    """Both directions of one proxy."""

    others: OtherClusters
    remotes: Remotes
    tunnels: AllClusterTunnels
    ways: WebWays
    trusted: TrustedSide
    online: Callable[[], list[str]]  # the clusters whose tunnels end here


def cluster_side(
    view: View,
    router: SshRouter,
    tunnels: TunnelServer,
    peers: PeerSide,
    *,
    epoch: int,
    held: Callable[[], Credentials],
    auth_servers: Sequence[tuple[str, int]],
    vouch_to_auth: Callable[[str, int, str], bytes],
) -> ClusterSide:
    """Puts both directions into a proxy's router and tunnel server; what it gives is to be run."""
    remotes = Remotes(view, router.directory)
    tunnels.clusters = ClusterTunnels(remotes)
    every = AllClusterTunnels(tunnels.clusters, peers.dialer, peers.directory)
    others = OtherClusters(view.cluster, remotes, every, router.identity, view.clock)
    router.others = others
    due = False

    async def look() -> None:
        nonlocal due
        await asyncio.sleep(0)  # changes come in groups
        due = False
        await others.reconsider()

    def changed(_: object) -> None:
        nonlocal due
        if not due and others.open:
            due = True
            router.in_background(look(), "look at who is in other clusters")

    for prefix in DECIDE:
        view.cache.subscribe(prefix, changed)
    view.cache.subscribe(REMOTE_CLUSTERS, lambda _: tunnels.reconsider())
    trusted = TrustedSide(view, router, epoch=epoch, held=held, auth_servers=auth_servers, vouch_to_auth=vouch_to_auth)
    ends = tunnels.clusters

    def online() -> list[str]:
        return [name for name in remotes.names() if ends.online(name)] if view.cache.ready else []

    return ClusterSide(others, remotes, every, WebWays(view, others), trusted, online)
