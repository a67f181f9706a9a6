"""Kubernetes access as this daemon runs it: the authorities of now judge who comes, the file names the clusters."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from socket import socket
from uuid import UUID, uuid4

from teleport.api.client import AuthClient
from teleport.audit.emitter import Emitter
from teleport.authz.decision import AccessDenial
from teleport.authz.kube import ActAs, KubeAccessPermit, KubeAccessRequest, evaluate_kube_access
from teleport.authz.kube_resources import KubeCall
from teleport.authz.locks import Locked, find_lock
from teleport.authz.role_map import map_user
from teleport.authz.session_mfa import once_open
from teleport.clock import Clock
from teleport.daemon.connection_count import RemoteControl
from teleport.daemon.credentials import Credentials
from teleport.daemon.host import Host
from teleport.daemon.kube.joins import JoinRules, tracked
from teleport.daemon.kube.reach import KubeReach
from teleport.daemon.lock_age import LockAge
from teleport.daemon.recorded import Recorded
from teleport.daemon.session_telling import SessionTeller
from teleport.daemon.ssh_proof import host_key
from teleport.daemon.view import View
from teleport.errors import AccessDenied
from teleport.identity import UserIdentity
from teleport.kube.credentials import KubeCluster
from teleport.kube.entrance import OfCluster
from teleport.kube.joining import Joins, JoinService
from teleport.kube.live import LiveSessions
from teleport.kube.needs import Elsewhere, Sessions
from teleport.kube.service import KubeConfig, KubeServer
from teleport.kube.services import Services
from teleport.kube.upstream import Upstream
from teleport.pki.trust import AuthorityKind, TrustedTLSAuthority
from teleport.pki.x509verify import identity_from_tls, last_moment, trusted_tls_authority
from teleport.proxy.ssh_router import SshRouter
from teleport.resources.authority import AuthorityType
from teleport.ssh.surface import Peer
from teleport.store.records import HOSTS, KUBE_SERVICES, REMOTE_CLUSTERS, TRUSTED_CLUSTERS
from teleport.transport.balancers import Headers
from teleport.transport.entrance import ConnectionLimits
from teleport.transport.places import Places
from teleport.transport.tls import mutual_server_context
from teleport.wire.alpn import HTTP

DECIDED_BY = (
    "roles/",
    "users/",
    "locks/",
    "cluster/",
    "authorities/",
    TRUSTED_CLUSTERS,
    REMOTE_CLUSTERS,
)  # what open calls are decided anew for
USAGE = "usage:kube"
PROVED_FOR = timedelta(minutes=1)  # that a signature is not looked at again, by the same authorities
PROVED_MOST = 10_000  # certificates


class KubeRules:
    """Who somebody is and what they may do (`kube.needs.Rules`), by what this daemon knows of its cluster."""

    def __init__(self, view: View, whose: Callable[[], Sequence[str]] | None = None) -> None:
        """`whose` gives the clusters whose people are meant; without it, those of this one."""
        self._view = view
        self._whose = whose or (lambda: (view.cluster,))
        self._anchors: tuple[tuple[tuple[str, str], ...], list[TrustedTLSAuthority]] | None = None
        self._proved: dict[bytes, tuple[datetime, UserIdentity]] = {}  # by these anchors, and when

    def authorities(self) -> tuple[str, ...]:
        """The certificates (PEM) of this cluster's user authority that count now."""
        authority = self._view.authorities().get(AuthorityType.USER)
        return tuple(authority.trusted_tls_certs) if authority is not None else ()

    def verify_user_tls(self, certificate: bytes, *, opened: bool = False) -> UserIdentity:
        pems = tuple((one, pem) for one in self._whose() for pem in self._authorities_of(one))
        if self._anchors is None or self._anchors[0] != pems:
            anchors = [trusted_tls_authority(AuthorityKind.USER, one, pem.encode()) for one, pem in pems]
            self._anchors = (pems, anchors)
            self._proved.clear()
        now = self._view.clock.now()
        proved, identity = self._proved.get(certificate, (None, None))
        if (
            proved is None
            or identity is None
            or not proved <= now < proved + PROVED_FOR
            or not (opened or now < identity.expires)
        ):
            # of what is open the end is the permit's (`authz.kube`), which says of each certificate when that is
            at = min(now, last_moment(certificate)) if opened else now
            found = identity_from_tls(certificate, self._anchors[1], at, usage=USAGE)
            if not isinstance(found, UserIdentity):  # no authority of hosts is among those
                raise AccessDenied("The certificate is no user's.", hint="tsh login")
            identity = found
            if len(self._proved) >= PROVED_MOST:
                self._proved.clear()
            self._proved[certificate] = (now, identity)
        if identity.cluster != self._view.cluster:
            return self._mapped(identity)
        if self._view.present(identity) is None:
            raise AccessDenied("The user of this certificate does not exist any more.", hint="tsh login")
        return once_open(identity) if opened else identity

    def _authorities_of(self, cluster: str) -> tuple[str, ...]:
        if cluster == self._view.cluster:
            return self.authorities()
        trusted = self._view.trusted_cluster(cluster)
        found = self._view.authority_of(AuthorityKind.USER, cluster) if trusted is not None else None
        return tuple(found.trusted_tls_certs) if found is not None else ()

    def _mapped(self, identity: UserIdentity) -> UserIdentity:
        """Who somebody of another cluster is here. Raises `AccessDenied`."""
        trusted = self._view.trusted_cluster(identity.cluster)
        if trusted is None:
            raise AccessDenied(f"Users of the cluster {identity.cluster} are not let in here.", hint="tctl get tc")
        return map_user(identity, trusted.role_map, self._view.cluster)

    def permit_kube(
        self,
        identity: UserIdentity,
        cluster: KubeCluster | None,
        name: str,
        client_address: str,
        act_as: ActAs,
        call: KubeCall | None = None,
    ) -> KubeAccessPermit | AccessDenial:
        view = self._view
        request = KubeAccessRequest(
            identity=view.present(identity) or replace(identity, roles=()),
            cluster=view.cluster,
            now=view.clock.now(),
            kube_cluster=name,
            exists=cluster is not None,
            labels=self._labels_of(cluster) if cluster is not None else {},
            client_address=client_address,
            locks=view.locks(),
            act_as=act_as,
            call=call,
        )
        return evaluate_kube_access(request, view.policy())

    def session_locked(self, sid: str) -> bool:
        return find_lock(self._view.locks(), Locked(session=sid), self._view.clock.now()) is not None

    def _labels_of(self, cluster: KubeCluster) -> Mapping[str, str]:
        """By which roles choose it."""
        return cluster.labels


class KubeSide:
    """The listener for Kubernetes clients in one daemon."""

    def __init__(
        self,
        clusters: Sequence[KubeCluster],
        host: Host,
        nodename: str,
        view: View,
        emitter: Emitter,
        clock: Clock,
        held: Callable[[], Credentials],
        connections: ConnectionLimits,
        headers: Headers,
        reach: KubeReach,
        recorded: Recorded,
        elsewhere: Elsewhere,
        client: AuthClient,
        router: SshRouter,
    ) -> None:
        """`recorded` is where sessions in pods are recorded, `router` leads there who joins them. `held` gives the
        certificates that are shown, as they are now. Raises `BadRequest` for credentials that cannot be used."""
        self._held = held
        self._rules = KubeRules(view)
        self._context: tuple[Credentials, tuple[str, ...], ssl.SSLContext] | None = None
        services = Services(reach)
        host_id, control = UUID(host.host_id), RemoteControl(client)
        live = LiveSessions(router.in_background)
        self.server = KubeServer(
            KubeConfig(view.cluster, UUID(host.host_id), nodename, connections=connections),
            {cluster.name: Upstream(cluster) for cluster in clusters},
            rules=self._rules,
            context=self._next_context,
            emitter=emitter,
            clock=clock,
            services=services,
            sessions=Sessions(
                recorded.spool, recorded.mode, emitter, clock, view.cluster, host_id, nodename, uuid4, live
            ),
            elsewhere=elsewhere,
            control=control,
        )
        self.joins = JoinService(
            Joins(
                view.cluster,
                host_id,
                nodename,
                live,
                JoinRules(view),
                Places(control, router.in_background),
                emitter,
                clock,
                router.in_background,
            ),
            lambda: [host_key(held())],
        )
        router.pods = self.joins
        self._teller = SessionTeller(client, host.epoch, lambda: tracked(live))
        live.changed = self._teller.changed
        self._view = view
        self._of_others: dict[str, KubeRules] = {}
        self.server.begin_with(headers)
        self._following = Following(view, self.server, self.joins.reconsider)
        view.cache.subscribe(KUBE_SERVICES, lambda _: services.changed())
        self._following.also(KUBE_SERVICES, HOSTS)  # where open calls go, and whether those may be here

    def take_from(self, cluster: str, transport: asyncio.Transport, certificate: bytes, peer: Peer) -> None:
        """Serves somebody of a cluster that is trusted here, whom a proxy of it leads here."""
        rules = self._of_others.setdefault(cluster, KubeRules(self._view, lambda: (cluster,)))
        self.server.introduced(transport, peer, OfCluster(rules, certificate))

    def renewed(self) -> None:
        """There are other certificates."""
        self._context = None

    def _next_context(self) -> ssl.SSLContext:
        held, pems = self._held(), self._rules.authorities()
        if self._context is None or self._context[:2] != (held, pems):
            context = mutual_server_context(held.server_tls_cert_file, held.tls_key_file, pems)
            context.verify_mode = ssl.CERT_REQUIRED
            context.set_alpn_protocols([HTTP])
            self._context = (held, pems, context)
        return self._context[2]

    async def run(self, sockets: Sequence[socket], started: Callable[[], None]) -> None:
        """Serves until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            telling = tasks.create_task(self._teller.run(), name="sessions in pods")
            await self._following.run(sockets, started)
            telling.cancel()


class Following:
    """A listener whose open calls are decided anew when anything changes that decides about them."""

    def __init__(self, view: View, server: KubeServer, besides: Callable[[], None] = lambda: None) -> None:
        """`besides` is called, too, when anything changes."""
        self._view = view
        self._server = server
        self._besides = besides
        self._age = LockAge(view, self._look)
        self._due = False
        self.also(*DECIDED_BY)

    def also(self, *prefixes: str) -> None:
        """Further parts of the view that decide."""
        for prefix in prefixes:
            self._view.cache.subscribe(prefix, lambda _: self._reconsider())

    def _reconsider(self) -> None:
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._look)  # changes come in groups

    def _look(self) -> None:
        self._due = False
        self._server.reconsider()
        self._besides()

    async def run(self, sockets: Sequence[socket], started: Callable[[], None]) -> None:
        """Serves until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._age.run(), name="age of locks for Kubernetes")
            await self._server.run(sockets, started)
