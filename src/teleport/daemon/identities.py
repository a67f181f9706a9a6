"""Where this daemon's certificates come from: auth in the same process, a join, or the last run; how new ones come."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Final

from teleport import __version__
from teleport.api import messages as m
from teleport.api import routes
from teleport.api.client import AuthClient
from teleport.api.join import WEB_PORTS, Door, OwnIdentity, ProvedCluster, check_clock, find_cluster, join_cluster
from teleport.clock import Clock
from teleport.daemon import credentials
from teleport.daemon.config.values import Config
from teleport.daemon.credentials import Credentials
from teleport.daemon.host import Host, write_private
from teleport.daemon.sockets import ANY
from teleport.errors import AccessDenied, BadRequest, ConnectionProblem
from teleport.identity import SystemRole
from teleport.resources.names import canonical_host

log = logging.getLogger(__name__)

FIRST_PAUSE: Final = 1.0  # seconds between attempts to join while nobody answers
LONGEST_PAUSE: Final = 30.0


def names_of(config: Config, role: SystemRole) -> tuple[str, ...]:
    """The names besides UUID and nodename that this host's certificate in `role` needs."""
    addresses = []
    if role is SystemRole.AUTH and config.auth is not None:
        addresses = [config.auth.listen_addr, *config.auth.public_addrs]
    elif role is SystemRole.PROXY and config.proxy is not None:
        listener = config.proxy.listen_addr or config.proxy.web_listen_addr
        public = (config.proxy.public_addrs, config.proxy.ssh_public_addrs, config.proxy.tunnel_public_addrs)
        addresses = [listener, *(one for family in (*public, config.proxy.kube_public_addrs) for one in family)]
    elif role is SystemRole.NODE and config.node is not None:
        addresses = [config.node.listen_addr, *config.node.public_addrs]
    elif role is SystemRole.KUBE and config.kube is not None:
        listeners = (config.kube.listen_addr,) if config.kube.listen_addr is not None else ()
        addresses = [*listeners, *config.kube.public_addrs]
    hosts = [address.host for address in addresses]
    if config.advertise_ip is not None:
        hosts.append(config.advertise_ip.host)
    return tuple(dict.fromkeys(canonical_host(host) for host in hosts if host not in ANY))


class Joiner:
    """Joins in each role that has no certificates yet, with the token, once."""

    def __init__(self, config: Config, host: Host, clock: Clock) -> None:
        self._config = config
        self._host = host
        self._clock = clock
        self._cluster: ProvedCluster | None = None

    async def credentials(self, role: SystemRole) -> Credentials:
        """The stored identity, else a fresh one by joining. Waits while no auth server answers; every other failure
        is final and raised."""
        stored = credentials.load(self._host.proc_dir, role)
        if stored is not None:
            return stored
        if self._config.token is None:
            raise BadRequest(
                f"this host is not part of a cluster yet: the role {role.value.lower()} needs a join token",
                hint="make one on the auth server (tctl nodes add) and give its file: --token=/path/to/file",
            )
        token = await asyncio.to_thread(self._config.token.read)
        cluster = await self._find()
        check_clock(cluster)

        async def ask(ssh_key: str, tls_key: str) -> m.HostCredentials:
            request = m.JoinRequest(
                token=token,
                host_id=self._host.host_id,
                node_name=self._config.nodename,
                role=role.value,
                public_ssh_key=ssh_key,
                public_tls_key=tls_key,
                additional_principals=list(names_of(self._config, role)),
                version=__version__,
            )
            own = self._own_identity()
            if own is not None:
                try:
                    return await asyncio.to_thread(join_cluster, cluster, request, self._clock.now, own)
                except (AccessDenied, ConnectionProblem):
                    log.warning("joining as %s: what this host has already does not count any more", role.value.lower())
            return await asyncio.to_thread(join_cluster, cluster, request, self._clock.now)

        joined = await credentials.obtain(self._host.proc_dir, role, ask, keep_keys=True)
        remember_door(self._host, cluster.door)
        log.info("joined the cluster %s as %s", cluster.name, role.value.lower())
        return joined

    def _own_identity(self) -> OwnIdentity | None:
        """Proof that this host has joined in another role: auth asks for it before it gives a second one."""
        for role in SystemRole:
            held = credentials.load(self._host.proc_dir, role)
            if held is not None and held.expires > self._clock.now():
                return OwnIdentity(held.tls_cert_file, held.tls_key_file)
        return None

    async def _find(self) -> ProvedCluster:
        if self._cluster is None:
            addresses = [(server.host, server.port) for server in self._config.auth_servers]
            pause, said = FIRST_PAUSE, ""
            while self._cluster is None:
                try:
                    self._cluster = await asyncio.to_thread(
                        find_cluster, addresses, self._config.ca_pins, self._clock.now
                    )
                except ConnectionProblem as error:
                    if said != str(error):
                        log.warning("%s; trying again. To do: %s", error, error.next_step)
                    said = str(error)
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, LONGEST_PAUSE)
            if not self._cluster.pinned:
                log.warning(
                    "joining the cluster %s without a CA pin: whoever answered at %s was believed; set ca_pin to what "
                    "`tctl status` prints on the auth server",
                    self._cluster.name,
                    self._cluster.door,
                )
        return self._cluster


def remember_door(host: Host, door: Door) -> None:
    """How auth was reached when joining: directly or through a proxy."""
    kind = "proxy" if door.through_proxy else "auth"
    write_private(host.proc_dir / "door", f"{kind} {door.host} {door.port}\n")


def through_proxy(host: Host, config: Config) -> bool:
    """Whether this host reaches auth through a proxy: as it did when it joined, if that address is still configured;
    else as the port of the first address says."""
    return leads_through_proxy(host.proc_dir, config)


def leads_through_proxy(proc_dir: Path, config: Config) -> bool:
    """The same for whoever has no host, and perhaps may not look into its directory."""
    first = config.auth_servers[0]
    try:
        kind, name, port = (proc_dir / "door").read_text().split()
    except (FileNotFoundError, NotADirectoryError, PermissionError, ValueError):
        return first.port in WEB_PORTS
    if any(server.host == name and str(server.port) == port for server in config.auth_servers):
        return kind == "proxy"
    return first.port in WEB_PORTS


def by_tunnel(host: Host, config: Config) -> bool:
    """Whether the node service of this host is reached by tunnels: it reaches auth through a proxy, and is none."""
    if config.node is None or config.auth is not None or config.proxy is not None:
        return False
    return through_proxy(host, config)


def renewal(client: AuthClient, config: Config, role: SystemRole) -> credentials.Ask:
    """Asks auth for fresh certificates of a role that this host has, with those that it has."""

    async def ask(ssh_key: str, tls_key: str) -> m.HostCredentials:
        request = m.RenewHostRequest(
            public_ssh_key=ssh_key,
            public_tls_key=tls_key,
            node_name=config.nodename,
            additional_principals=list(names_of(config, role)),
        )
        return await client.call(routes.RENEW_HOST, request)

    return ask
