"""Which ports a host needs, inbound and outbound, as its configuration says: from and to whom, and why. Pure.

What the configuration alone does not say is handed in (`Surroundings`). What depends on the cluster's settings, or on
what people do, is told apart by `only_if`, so that nothing is opened that nobody asked for.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final
from urllib.parse import urlsplit

from teleport.backend.dynamodb.settings import DynamoSettings
from teleport.copies.settings import DynamoCopy, HttpsCopy, PostgresqlCopy, SyslogCopy
from teleport.daemon.config import ports
from teleport.daemon.config.values import (
    AcmeConfig,
    AuthConfig,
    Config,
    KubeServiceConfig,
    NodeConfig,
    ProxyConfig,
    TracingConfig,
)
from teleport.resources.cluster import TunnelStrategyType
from teleport.resources.values import HostPort

ANY: Final = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - compared with, never bound
_ETCD: Final = 2379
_DNS: Final = 53
_NTP: Final = 123
_PLAIN_SSH: Final = 22
_SHIP: Final = "auth_service.ship_events"


class Direction(StrEnum):
    IN = "in"
    OUT = "out"


@dataclass(frozen=True, slots=True)
class Port:
    """One port. `host` is what is listened on, or whom to connect to; empty: any. `port` 0: whichever.

    With `only_if` it is needed in that case alone.
    """

    direction: Direction
    protocol: str  # tcp, udp
    host: str
    port: int
    peer: str  # from or to whom
    why: str
    key: str = ""  # of the configuration, that decides
    only_if: str = ""

    @property
    def local(self) -> bool:
        """Whether it never leaves this machine."""
        return is_local(self.host)

    @property
    def literal(self) -> str:
        """The host where it is one IP address that rules can name, else nothing."""
        try:
            return "" if self.host in ANY or "%" in self.host else str(ipaddress.ip_address(self.host))
        except ValueError:
            return ""


def is_local(host: str) -> bool:
    """Whether a host is this very machine, as it calls itself."""
    if host.lower().rstrip(".") == "localhost" or host.startswith("/"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _directly(host: str, port: int) -> HostPort | None:
    return None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is known beside the configuration. `site_proxy`: the HTTP proxy by which an address is reached."""

    through_proxy: bool = False  # whether auth is reached by the web port of a proxy
    tunnel: HostPort | None = None  # where tunnels end, as the proxy says; None: it was not asked, or said nothing
    nameservers: tuple[str, ...] = ()
    site_proxy: Callable[[str, int], HostPort | None] = field(default=_directly)


def needed(config: Config, around: Surroundings) -> list[Port]:
    """All of them: inbound first, in the order of the services."""
    found = []
    if config.auth is not None:
        found += list(_of_auth(config, config.auth))
    if config.proxy is not None:
        found += list(_of_proxy(config, config.proxy))
    alone = config.auth is None and config.proxy is None and around.through_proxy
    tunnels = alone and (config.node is not None or (config.kube is not None and config.kube.listen_addr is None))
    if config.node is not None:
        found += list(_of_node(config.node, tunnels=tunnels))
    if config.kube is not None:
        found += list(_of_kube(config.kube))
    if config.diag_addr is not None:
        found.append(_in(config.diag_addr, "monitoring", "/healthz, /readyz and /metrics", "teleport.diag_addr"))
    if config.tracing is not None:
        found.append(_collector(config.tracing))
    if config.auth is None:
        found += list(_to_auth(config, around, tunnels=tunnels))
    found += [_to_receiver(one.receiver, "the daemon's log", "teleport.log.ship") for one in config.log.ship]
    found += list(_of_the_machine(found, around))
    return sorted(dict.fromkeys(found), key=lambda one: (one.direction is Direction.OUT, bool(one.only_if)))


def _in(address: HostPort, peer: str, why: str, key: str, only_if: str = "") -> Port:
    return Port(Direction.IN, "tcp", address.host, address.port, peer, why, key, only_if)


def _out(host: str, port: int, peer: str, why: str, key: str = "", only_if: str = "") -> Port:
    return Port(Direction.OUT, "tcp", host, port, peer, why, key, only_if)


def _collector(tracing: TracingConfig) -> Port:
    parts = urlsplit(tracing.url)
    port = parts.port or (ports.HTTP if parts.scheme == "http" else ports.HTTPS)
    return _out(parts.hostname or "", port, "the collector of traces", "traces", "tracing_service.exporter_url")


def _to_receiver(receiver: SyslogCopy | HttpsCopy, why: str, key: str) -> Port:
    if isinstance(receiver, SyslogCopy):
        return _out(receiver.address.host, receiver.address.port, f"{receiver.name} (syslog)", why, key)
    parts = urlsplit(receiver.url)
    return _out(parts.hostname or "", parts.port or ports.HTTPS, f"{receiver.name} (https)", why, key)


def _copies(config: Config, auth: AuthConfig) -> Iterator[Port]:
    """Where copies of audit events go."""
    why = "copies of audit events"
    for copy in (*config.storage.copies, *auth.ship_events):
        match copy:
            case PostgresqlCopy():
                for server in copy.settings.servers:
                    if not server.host.startswith("/"):
                        where = "teleport.storage.audit_events_uri"
                        yield _out(server.host, server.port, "PostgreSQL", why, where)
            case DynamoCopy():
                yield _to_dynamodb(copy.settings, why, "teleport.storage.audit_events_uri")
            case SyslogCopy() | HttpsCopy():
                yield _to_receiver(copy, why, _SHIP)


def _to_dynamodb(settings: DynamoSettings, why: str, key: str) -> Port:
    """Amazon's endpoint has the region in its name; which region, may be known to AWS's own tools only."""
    if settings.endpoint:
        there = urlsplit(settings.endpoint)
        return _out(
            there.hostname or "",
            there.port or (ports.HTTP if there.scheme == "http" else ports.HTTPS),
            "DynamoDB",
            why,
            key,
        )
    host = f"dynamodb.{settings.region}.amazonaws.com" if settings.region else ""
    return _out(host, ports.HTTPS, "DynamoDB", why, key)


def _of_auth(config: Config, auth: AuthConfig) -> Iterator[Port]:
    yield _in(
        auth.listen_addr,
        "proxies; hosts that join directly; tctl on other machines",
        "the API of auth",
        "auth_service.listen_addr",
    )
    if config.storage.etcd is not None:
        for peer in config.storage.etcd.peers:
            parts = urlsplit(peer)
            yield _out(parts.hostname or "", parts.port or _ETCD, "etcd", "the cluster's state", "teleport.storage")
    yield from _copies(config, auth)
    if config.storage.dynamodb is not None:
        yield _to_dynamodb(config.storage.dynamodb, "the cluster's state", "teleport.storage")
    if config.storage.postgresql is not None:
        for server in config.storage.postgresql.servers:
            if not server.host.startswith("/"):
                yield _out(server.host, server.port, "PostgreSQL", "the cluster's state", "teleport.storage")
    if config.storage.recordings_s3 is not None:
        there = urlsplit(config.storage.recordings_s3.endpoint)
        plain = there.scheme == "http"
        yield _out(
            there.hostname or "",
            there.port or (ports.HTTP if plain else ports.HTTPS),
            "S3",
            "recordings",
            "teleport.storage.audit_sessions_uri",
        )
    yield _out(
        "",
        ports.HTTPS,
        "the web address of the other cluster's proxies",
        "what the authorities of the other cluster are",
        only_if="this cluster trusts another one (tctl get trusted_clusters)",
    )


def _of_proxy(config: Config, proxy: ProxyConfig) -> Iterator[Port]:
    everything = " (one port: SSH, tunnels and HTTPS)" if proxy.one_port else ""
    yield _in(
        proxy.web_listen_addr,
        "browsers, tsh, hosts that join through the proxy" + (", ssh, hosts behind tunnels" if proxy.one_port else ""),
        f"the web{everything}",
        "proxy_service.web_listen_addr",
    )
    if proxy.listen_addr is not None:
        yield _in(proxy.listen_addr, "tsh and ssh of users", "SSH to hosts", "proxy_service.listen_addr")
    if proxy.tunnel_listen_addr != proxy.web_listen_addr:
        yield _in(
            proxy.tunnel_listen_addr,
            "hosts that join through the proxy; proxies of clusters that trust this one",
            "reverse tunnels",
            "proxy_service.tunnel_listen_addr",
        )
    if proxy.kube_listen_addr is not None:
        yield _in(proxy.kube_listen_addr, "kubectl of users", "Kubernetes", "proxy_service.kube_listen_addr")
    yield from _between_proxies(config, proxy)
    if proxy.acme is not None:
        yield from _of_acme(proxy.acme)
    for cluster in proxy.kube_clusters:
        yield _out(
            cluster.address.host,
            cluster.address.port,
            f"the API server of the Kubernetes cluster {cluster.name}",
            "calls of users",
            "proxy_service.kubernetes",
        )
    yield _out("", ports.SSH, "hosts that join auth directly", "sessions of users (ssh_service.listen_addr there)")
    yield _out(
        "",
        ports.KUBE,
        "hosts with a Kubernetes service that listens",
        "calls of kubectl (kubernetes_service.listen_addr there)",
        only_if="there are such services (tctl kube ls)",
    )
    yield _out(
        "",
        _PLAIN_SSH,
        "hosts with a plain sshd",
        "sessions of users",
        only_if="such hosts are registered (tctl get nodes)",
    )
    for port, what in ((ports.HTTPS, "web"), (ports.PROXY_TUNNEL, "tunnel")):
        yield _out(
            "",
            port,
            f"the {what} address of the other cluster's proxies",
            "tunnels to a cluster that is trusted",
            only_if="this cluster trusts another one (tctl get trusted_clusters)",
        )


def _between_proxies(config: Config, proxy: ProxyConfig) -> Iterator[Port]:
    asked = proxy.peer_always or (
        config.auth is not None and config.auth.tunnel_strategy.type is TunnelStrategyType.PROXY_PEERING
    )
    only_if = "" if asked else "the cluster's tunnel_strategy is proxy_peering"
    why = "hosts that keep a tunnel to one proxy only"
    yield _in(proxy.peer_listen_addr, "the other proxies", why, "proxy_service.peer_listen_addr", only_if)
    there = proxy.peer_public_addr or proxy.peer_listen_addr
    yield _out("", there.port, "the other proxies", why, "proxy_service.peer_public_addr", only_if)


def _of_acme(acme: AcmeConfig) -> Iterator[Port]:
    directory = urlsplit(acme.uri)
    yield _out(
        directory.hostname or "",
        directory.port or ports.HTTPS,
        "the ACME directory",
        "certificates of the public names",
        "proxy_service.acme",
    )
    yield Port(
        Direction.IN,
        "tcp",
        "",
        ports.HTTPS,
        "the ACME directory, from any address",
        "its challenge (TLS-ALPN-01); leads to the web listener",
        "proxy_service.acme",
    )


def _of_node(node: NodeConfig, *, tunnels: bool) -> Iterator[Port]:
    if not tunnels:
        yield _in(node.listen_addr, "proxies", "sessions of users", "ssh_service.listen_addr")
    if node.port_forwarding:
        yield _out("", 0, "what users forward ports to", "port forwarding", only_if="roles allow port_forwarding")


def _of_kube(kube: KubeServiceConfig) -> Iterator[Port]:
    if kube.listen_addr is not None:
        yield _in(kube.listen_addr, "proxies", "calls of kubectl, from proxies", "kubernetes_service.listen_addr")
    for cluster in kube.clusters:
        yield _out(
            cluster.address.host,
            cluster.address.port,
            f"the API server of the Kubernetes cluster {cluster.name}",
            "calls of users",
            "kubernetes_service",
        )


def _to_auth(config: Config, around: Surroundings, *, tunnels: bool) -> Iterator[Port]:
    if not around.through_proxy:
        for server in config.auth_servers:
            yield _out(server.host, server.port, "auth", "joining, and all that is known", "teleport.auth_servers")
        return
    for server in config.auth_servers:
        yield _by_site(
            server.host, server.port, "the proxy's web address", "joining, and auth", "teleport.auth_servers", around
        )
    if tunnels:
        first = config.auth_servers[0]
        tunnel = around.tunnel or HostPort(first.host, ports.PROXY_TUNNEL)
        way = around.site_proxy(tunnel.host, tunnel.port)
        yield Port(
            Direction.OUT,
            "tcp",
            # each proxy has a tunnel, and the others' addresses are heard of by the first
            way.host if way is not None else tunnel.host if is_local(tunnel.host) else "",
            way.port if way is not None else tunnel.port,
            f"every proxy's tunnel address, {tunnel} first" + (f", by the HTTP proxy {way}" if way is not None else ""),
            "the tunnel by which this host is reached",
            "proxy_service.tunnel_public_addr, of the proxy",
        )


def _by_site(host: str, port: int, peer: str, why: str, key: str, around: Surroundings) -> Port:
    way = around.site_proxy(host, port)
    if way is None:
        return _out(host, port, peer, why, key)
    return _out(way.host, way.port, f"{peer} {HostPort(host, port)}, by the HTTP proxy of the site", why, key)


def _of_the_machine(found: list[Port], around: Surroundings) -> Iterator[Port]:
    """What no service opens by itself, and without which none works."""
    named = [
        one
        for one in found
        if one.direction is Direction.OUT and not one.only_if and one.host and not one.local and not one.literal
    ]
    only_if = "" if named else "hosts are named by users, or announced by name"
    for server in around.nameservers:
        # one on this host asks others, which its own configuration names
        host, peer = ("", f"the name servers that {server} asks") if is_local(server) else (server, "the name server")
        for protocol in ("udp", "tcp"):
            yield Port(Direction.OUT, protocol, host, _DNS, peer, "names", "/etc/resolv.conf", only_if)
    yield Port(
        Direction.OUT,
        "udp",
        "",
        _NTP,
        "a time server",
        "certificates are good for a time",
        only_if="the clock of this host is kept by NTP",
    )
