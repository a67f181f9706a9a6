"""Tunnels that the proxies of other clusters keep to this one, apart from those of hosts, by cluster.

A cluster that trusts this one has its proxies dial out; users of this cluster are led through. Rules:

- Only certificates of role Proxy that the host authority *of that very cluster* signed, under their own id: the login
  is `<uuid>.<cluster>`, and the cluster's own key has to fit. So a cluster speaks for no other and for no host of this
  one, whatever UUID its certificates carry.
- The other end may open nothing, as any host that keeps a tunnel; and what it answers is text that is sanitised.
- When a cluster is removed its tunnels end at once, with all that they carry.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from teleport.errors import AccessDenied, ConnectionProblem, LimitExceeded
from teleport.identity import HostIdentity
from teleport.recording.sanitise import one_line
from teleport.ssh.surface import Refusal
from teleport.tunnel import messages as m
from teleport.tunnel.registry import Registry

if TYPE_CHECKING:
    from teleport.tunnel.proxy_end import Tunnel

MOST_HOSTS: Final = 64  # proxies of one cluster
P = TypeVar("P", bound=asyncio.Protocol)


class Gone(ConnectionProblem):
    """A tunnel ended before its other end had answered."""


class Clusters(Protocol):
    """The clusters that trust this one, as they are now."""

    def knows(self, cluster: str) -> bool:
        """Whether there is such a cluster."""
        ...

    def verify_proxy(self, cluster: str, certificate: bytes) -> HostIdentity:
        """Who keeps a tunnel for `cluster`. Raises `CertificateRefused` for a certificate that does not count,
        `AccessDenied` when the cluster is not known any more."""
        ...


class ClusterTunnels:
    """The tunnels by cluster."""

    def __init__(self, clusters: Clusters) -> None:
        self.clusters = clusters
        self._registries: dict[str, Registry[Tunnel]] = {}

    def claimed(self, login: str) -> str:
        """The cluster whose proxy logs in, as it says; empty for what is no cluster that is known."""
        cluster = login.partition(".")[2]
        return cluster if cluster and self.clusters.knows(cluster) else ""

    def verify(self, cluster: str, login: str, certificate: bytes) -> tuple[HostIdentity, Registry[Tunnel]]:
        """Who comes, and where the tunnel belongs. Raises `AccessDenied`, `LimitExceeded`."""
        identity = self.clusters.verify_proxy(cluster, certificate)
        if login != m.server_id(identity.host_id, cluster):
            raise AccessDenied(f"a proxy of {cluster}, {identity.host_id}, logs in as {login[:200]!r}")
        registry = self._registries.setdefault(cluster, Registry())
        if len(registry) >= MOST_HOSTS and identity.host_id not in registry:
            raise LimitExceeded(f"{MOST_HOSTS} proxies of {cluster} keep tunnels here, and one more is too many")
        return identity, registry

    def online(self, cluster: str) -> bool:
        """Whether a tunnel of that cluster ends here."""
        return bool(self._registries.get(cluster))

    def counts(self) -> dict[str, float]:
        """How many tunnels of each cluster end here; those that are known and have none count 0."""
        return {
            cluster: sum(len(beside) for beside in registry.values())
            for cluster, registry in self._registries.items()
            if registry or self.clusters.knows(cluster)
        }

    async def connect(self, cluster: str, dial: Callable[[], bytes], make: Callable[[], P]) -> P:
        """Connects the protocol that `make` gives with what the message of `dial` asks for; each attempt has a message
        of its own. Raises `ConnectionProblem` when no tunnel leads there, `AccessDenied` with the cluster's own words
        when it refuses."""
        registry: Mapping[str, list[Tunnel]] = self._registries.get(cluster, {})
        hosts = list(registry)
        random.shuffle(hosts)
        said = ""
        for host in hosts:
            beside = registry.get(host)
            if not beside:
                continue
            try:
                made = await beside[-1].open(dial(), make)
            except Gone:
                continue
            if not isinstance(made, Refusal):
                return made
            if not made.tried:
                raise AccessDenied(f"The cluster {cluster} refuses: {one_line(made.message, 1000)}")
            said = one_line(made.message, 1000)
        if said:
            raise ConnectionProblem(f"The cluster {cluster} cannot lead there now: {said}", hint="try again")
        raise ConnectionProblem(
            f"The cluster {cluster} is not connected to this proxy now: no tunnel of its proxies ends here.",
            hint="try again; if it stays so, ask who runs that cluster whether its proxies reach this one",
        )
