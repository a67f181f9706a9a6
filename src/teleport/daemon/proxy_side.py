"""The proxy as this daemon runs it: the SSH router, the web service, and what each proves itself with."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from teleport import __version__
from teleport.api import messages as m
from teleport.api import routes
from teleport.api.client import AuthClient
from teleport.audit.emitter import Emitter
from teleport.audit.events import AuthFailed
from teleport.authz.decision import AccessDenial
from teleport.authz.ssh import SSHAccessRequest, lease_lifetime, why_no_session, why_out_of_reach, why_second_factor_due
from teleport.clock import Clock
from teleport.daemon.acme_side import AcmeKeeper
from teleport.daemon.cluster_side import cluster_side
from teleport.daemon.config.values import ProxyConfig as ProxySettings
from teleport.daemon.credentials import Credentials
from teleport.daemon.host import Host
from teleport.daemon.key_domain import follow_key_domain
from teleport.daemon.listener_mode import follow_listener_mode
from teleport.daemon.live_settings import NETWORKING
from teleport.daemon.peer_side import PeerSide
from teleport.daemon.recording_side import RecordingSide
from teleport.daemon.sockets import ProxyAddresses
from teleport.daemon.ssh_proof import host_key
from teleport.daemon.view import View
from teleport.daemon.web_side import Shells, WebWays
from teleport.daemon.web_tls import WebTLS
from teleport.errors import BadRequest, ConnectionProblem
from teleport.identity import UserIdentity
from teleport.pki import sshsig
from teleport.pki.sshformat import parse_certificate
from teleport.pki.x509cert import KUBE_NAME
from teleport.proxy.ssh_router import RouterConfig, SshRouter
from teleport.resources.metadata import Metadata
from teleport.resources.names import canonical_address
from teleport.resources.server import KubeClusterEntry, Server, ServerSpec
from teleport.resources.values import HostPort
from teleport.ssh.surface import Peer
from teleport.store.records import HOSTS, PROXIES
from teleport.store.resolve import RegisteredNode
from teleport.transport.auth_links import AuthLinks
from teleport.transport.balancers import Address, Balancers, Headers
from teleport.transport.entrance import ConnectionLimits
from teleport.transport.limits import Heard
from teleport.transport.one_port import Ending, Port
from teleport.tunnel.messages import SOFTWARE, KnownProxy
from teleport.tunnel.reaching import tunnel_address
from teleport.tunnel.server import TunnelConfig, TunnelServer
from teleport.web.messages import KubeAddresses, SSHAddresses
from teleport.web.service import WebConfig, WebService
from teleport.wire import alpn, vouch

if TYPE_CHECKING:
    from teleport.daemon.kube.side import KubeSide

log = logging.getLogger(__name__)

ITSELF = "127.0.0.1"  # where a proxy comes from, in the line that only proves what it is
IN_VIEW = 5.0  # seconds until a lease that was made must be in view
APPROVED_WITHIN = 60.0  # seconds for a link to be approved once somebody said that it was


@dataclass(slots=True)
class ProxyKey:
    """What the proxy vouches with (`proxy.needs.ProxyIdentity`)."""

    held: Credentials

    @property
    def certificate(self) -> bytes:
        return self.held.ssh_cert.blob

    def sign(self, message: bytes) -> bytes:
        return sshsig.sign(self.held.ssh_key, message)


class Directory:
    """The registered nodes, for the proxy (`proxy.needs.Directory`)."""

    def __init__(self, view: View) -> None:
        self._view = view

    def nodes(self) -> Iterable[RegisteredNode]:
        return self._view.known_nodes.registered()

    def why_hidden(self, identity: UserIdentity, node: RegisteredNode) -> tuple[str, ...]:
        """Why no login of the user would be let in there; empty when one would be."""
        server = self._view.node(node.host_id)
        present = self._view.present(identity)
        if server is None or present is None:
            return ("the user or the node is gone",)
        return why_out_of_reach(
            present,
            self._view.policy(),
            cluster=self._view.cluster,
            now=self._view.clock.now(),
            node_id=server.host_id,
            node_labels=server.all_labels,
            namespace=server.metadata.namespace,
        )

    def second_factor_due(
        self, identity: UserIdentity, node: RegisteredNode, key: str, client_address: str
    ) -> AccessDenial | None:
        """The refusal of whoever has not given a second factor that every way to the node asks for."""
        server = self._view.node(node.host_id)
        present = self._view.present(identity)
        if server is None or present is None:
            return None  # there is nothing to be led to
        request = SSHAccessRequest(
            identity=present,
            login="",
            cluster=self._view.cluster,
            now=self._view.clock.now(),
            node_id=server.host_id,
            node_hostname=server.hostname,
            node_labels=server.all_labels,
            namespace=server.metadata.namespace,
            client_address=client_address,
            locks=self._view.locks(),
            key=key,
            vouched=True,
            leases=self._view.leases(present.name, key, client_address),
        )
        return why_second_factor_due(request, self._view.policy())

    def why_no_session(self, identity: UserIdentity, client_address: str) -> AccessDenial | None:
        """What forbids the user every session now; None when nothing does."""
        return why_no_session(
            self._view.present(identity) or replace(identity, roles=()),
            self._view.policy(),
            cluster=self._view.cluster,
            now=self._view.clock.now(),
            client_address=client_address,
            locks=self._view.locks(),
        )

    def most_recent(self) -> bool:
        """Whether of several nodes that fit the one that started last is meant."""
        return self._view.most_recent()


class ProxyLeases:
    """Leases of second factors (`proxy.needs.Leases`): auth makes them, the view shows them."""

    def __init__(self, view: View, client: AuthClient) -> None:
        self._view = view
        self._client = client

    def lifetime(self, identity: UserIdentity, key: str, client_address: str) -> timedelta | None:
        present = self._view.present(identity)
        if present is None:
            return None
        return lease_lifetime(
            present,
            self._view.policy(),
            key=key,
            client_address=client_address,
            leases=self._view.leases(present.name, key, client_address),
            now=self._view.clock.now(),
        )

    async def ways(self, certificate: bytes, client_address: str) -> tuple[bool, str]:
        asked = m.LeaseChallengeRequest(certificate=parse_certificate(certificate).line(), client_addr=client_address)
        found = await self._client.call(routes.LEASE_CHALLENGE, asked)
        return found.totp, found.link

    async def approved(self, identity: UserIdentity, key: str, client_address: str) -> bool:
        return await self._in_view(identity.name, key, client_address, APPROVED_WITHIN)

    async def _in_view(self, user: str, key: str, client_address: str, seconds: float) -> bool:
        """Whether a lease comes into view within so many seconds."""
        news = asyncio.Event()
        unsubscribe = self._view.cache.subscribe("mfa_leases/", lambda _: news.set())
        try:
            async with asyncio.timeout(seconds):
                while not self._view.leases(user, key, client_address):
                    news.clear()
                    await news.wait()
        except TimeoutError:
            return False
        finally:
            unsubscribe()
        return True

    async def obtain(self, identity: UserIdentity, certificate: bytes, client_address: str, code: str) -> None:
        """Raises `AccessDenied` for a code that does not count, `ConnectionProblem` when auth is away."""
        parsed, factor = parse_certificate(certificate), m.FactorResponse(totp_code=code)
        request = m.LeaseRequest(certificate=parsed.line(), client_addr=client_address, factor=factor)
        await self._client.call(routes.MFA_LEASE, request)
        key = parsed.body.public_key.fingerprint()
        if not await self._in_view(identity.name, key, client_address, IN_VIEW):
            raise ConnectionProblem("the lease was made, and is not in view here", hint="connect again")


class ProxySide:
    """Everything of the proxy in one daemon."""

    def __init__(
        self,
        settings: ProxySettings,
        host: Host,
        nodename: str,
        view: View,
        client: AuthClient,
        emitter: Emitter,
        clock: Clock,
        held: Credentials,
        addresses: ProxyAddresses,
        auth_servers: Sequence[tuple[str, int]],
        connections: ConnectionLimits,
    ) -> None:
        self._host = host
        self._nodename = nodename
        self._clock = clock
        self._addresses = addresses
        self._kube_clusters = tuple(dict.fromkeys(one.name for one in settings.kube_clusters))
        self._key = ProxyKey(held)
        self._forged = Heard(rate=1.0, burst=20.0)
        self.router = SshRouter(
            RouterConfig(cluster=view.cluster, host_id=UUID(host.host_id), hostname=nodename, connections=connections),
            certificates=view,
            directory=Directory(view),
            identity=self._key,
            host_keys=[host_key(held)],
            emitter=emitter,
            clock=clock,
            leases=ProxyLeases(view, client),
        )
        headers = Headers(Balancers.of(settings.balancers, "proxy_service.proxy_protocol_from"), self._refused)
        self.headers = headers
        self.router.begin_with(headers)
        self.tunnels = TunnelServer(
            TunnelConfig(view.cluster, UUID(host.host_id), host.epoch, nodename, connections=connections),
            hosts=view,
            host_keys=[host_key(held)],
            emitter=emitter,
            clock=clock,
            to_auth=self._to_auth,
        )
        self.links = AuthLinks(auth_servers, lambda: self._vouch_to_auth(ITSELF, 0))
        self.tunnels.begin_with(headers)
        self.peers = PeerSide(
            host.host_id,
            nodename,
            view,
            emitter,
            clock,
            lambda: self._key.held,
            self.tunnels,
            always=settings.peer_always,
        )
        self.router.dialer.tunnels = self.peers.leading
        self._follow_hosts(view)
        self.web = WebService(
            WebConfig(
                cluster=view.cluster,
                ssh=SSHAddresses(
                    listen_addr=str(addresses.ssh),
                    public_addr=str(addresses.public_web[0]),
                    ssh_public_addr=str(addresses.public_ssh[0]),
                    tunnel_listen_addr=str(addresses.tunnel or addresses.web),
                    ssh_tunnel_public_addr=str(addresses.public_tunnel[0]),
                ),
                auth_servers=tuple(auth_servers),
                kube=KubeAddresses(
                    enabled=True, public_addr=str(addresses.public_kube[0]), listen_addr=str(addresses.kube)
                )
                if addresses.kube is not None
                else KubeAddresses(enabled=settings.one_port),
                connections=connections,
            ),
            client,
            clock,
            preference=view.preference,
            vouch=self._vouch_to_auth,
            authorities=view.authorities_now,
            headers=headers,
            ways=WebWays(view, auth_servers, self._vouch_to_auth),
            shells=Shells(view, self.router.accepted, (host, self.router.dialer.vouching)),
        )
        self.clusters = cluster_side(
            view,
            self.router,
            self.tunnels,
            self.peers,
            epoch=host.epoch,
            held=lambda: self._key.held,
            auth_servers=auth_servers,
            vouch_to_auth=self._vouch_to_auth,
        )
        self.web.others = self.clusters.ways
        self.recording = RecordingSide(
            host, nodename, view, client, emitter, clock, self.router, held=lambda: self._key.held
        )
        self.kube: KubeSide | None = None  # made where it is served
        self.acme: AcmeKeeper | None = None
        self.tls: WebTLS | None = None  # None: a balancer ends it
        if not settings.plain_http:
            hosts = [address.host for address in addresses.public_web]
            self.tls = WebTLS(settings.keypairs, host, hosts, clock, held, by_acme=settings.acme is not None)
            if settings.acme is not None:
                self.acme = self.tls.challenges = AcmeKeeper(
                    self.tls.uncovered(settings.acme), host.host_id, client, view, clock, self.tls.got
                )
            self.web.edge.alone = self.tls.alone()
        follow_key_domain(view, addresses.public_web[0].host)
        follow_listener_mode(view, self.web.edge, self._one_port, always=settings.one_port)

    def held(self) -> Credentials:
        """The proxy's certificates as they are now."""
        return self._key.held

    def describe(self) -> Server:
        """This proxy as presence carries it: its first public address is where links lead."""
        return Server(
            kind="proxy",
            metadata=Metadata(name=self._host.host_id),
            spec=ServerSpec(
                addr=str(self._addresses.web),
                public_addrs=tuple(str(address) for address in self._addresses.public_web),
                tunnel_addrs=tuple(str(address) for address in self._addresses.public_tunnel),
                peer_addr=self.peers.address,
                hostname=self._nodename,
                version=__version__,
                epoch=str(self._host.epoch),
                started=self._clock.now(),
                kube_clusters=tuple(KubeClusterEntry(name=name) for name in self._kube_clusters),
            ),
        )

    def _refused(self, peer: Address, why: str) -> None:
        """A PROXY header was forged or missing: in the log, and on record as a failed authentication."""
        told = self._forged.told(why, asyncio.get_running_loop().time())
        if told is not None:
            log.warning("connection refused peer=%s: %s", HostPort(*peer), told)
            self.router.put_on_record(AuthFailed, None, "", Peer(*peer), error=told)

    def _follow_hosts(self, view: View) -> None:
        """Tells hosts which proxies there are, and ends the tunnels of those that may not be here any more."""

        def tell() -> None:
            now = self._clock.now()
            here = [one for one in view.proxies() if not one.lost(now)]
            # a proxy that cannot be asked for hosts (of an older version) is reached by tunnels of its own
            peering = all(one.spec.peer_addr for one in here)
            self.tunnels.set_proxies(
                [KnownProxy(host_id=one.host_id, addresses=tuple(_told(one.spec.tunnel_addrs))) for one in here],
                view.networking().spec.tunnel_strategy.connections if peering else 0,
            )

        view.cache.subscribe(PROXIES, lambda _: tell())
        view.cache.subscribe(NETWORKING, lambda _: tell())
        view.cache.subscribe(HOSTS, lambda event: self.tunnels.host_changed(event.key.removeprefix(HOSTS)))
        for prefix in ("locks/", "authorities/"):
            view.cache.subscribe(prefix, lambda _: self.tunnels.reconsider())
        tell()

    def _vouch_to_auth(self, host: str, port: int, cluster: str = "") -> bytes:
        """The line for a client that this proxy relays to auth. Raises `BadRequest` when its address is not
        known. `cluster`: whose proxy says where the client is, if it is not seen here."""
        if not canonical_address(host):
            raise BadRequest(
                "this proxy does not see where you come from, so it leads you nowhere",
                hint="reach it by an IP address of its own",
            )
        said = vouch.Vouch(
            client_host=canonical_address(host),
            client_port=port,
            session_id=uuid4(),
            target=vouch.auth_target(self.router.config.cluster),
            time=self._clock.now(),
            nonce=uuid4().bytes,
            cluster=cluster,
        )
        return vouch.encode(said, self._key.certificate, self._key.sign)

    async def _to_auth(self, peer: Peer, make: Callable[[bytes], asyncio.Protocol]) -> None:
        """Connects a host behind a tunnel with auth, which hears where the host is. Raises `TeleportError`."""
        line = self._vouch_to_auth(peer.host, peer.port)
        await self.links.connect(lambda: make(line))

    async def renewed(self, held: Credentials) -> None:
        """New connections see the renewed certificates."""
        self._key.held = held
        await self.router.reload([host_key(held)])
        await self.tunnels.reload([host_key(held)])
        self.clusters.trusted.renewed()
        self.peers.renewed()
        if self.kube is not None:
            self.kube.renewed()
        if self.tls is not None:
            self.tls.renewed(held)

    def _one_port(self) -> Port:
        """Who is reached by the web listener, each by contexts of its own; where a balancer ends TLS, without any."""
        accept, tunnel = self.router.accepted, self.tunnels.accepted
        tls = self.tls
        if tls is None:
            return Port(accept, None, {}, {SOFTWARE: tunnel})
        within = {
            **tls.endings(),
            alpn.PROXY_SSH: Ending(tls.choice(alpn.PROXY_SSH), accept),
            alpn.REVERSE_TUNNEL: Ending(tls.choice(alpn.REVERSE_TUNNEL), tunnel),
        }
        return Port(accept, tls.choice(alpn.HTTP), within, {SOFTWARE: tunnel}, {KUBE_NAME: self._to_kube})

    def _to_kube(self, transport: asyncio.Transport, client: Address, data: bytes = b"") -> None:
        """A Kubernetes client at the one port."""
        if self.kube is None:
            transport.abort()
            return
        self.kube.server.accepted(transport, client, data)


def _told(addresses: Iterable[str]) -> Iterator[str]:
    """Addresses of tunnel listeners as hosts are told them: each with a port."""
    for address in addresses:
        with suppress(BadRequest):
            yield str(tunnel_address(address))
