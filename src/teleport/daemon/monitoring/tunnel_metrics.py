"""What of the tunnels of a node and of a proxy is counted (`operations.md` 4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from teleport.daemon.monitoring.metrics import Gauge, Metrics
from teleport.daemon.view import View
from teleport.tunnel.messages import KUBE

if TYPE_CHECKING:
    from teleport.tunnel.server import TunnelServer

CONNECTED_PROXIES: Final = Gauge(
    "reversetunnel_connected_proxies", "Tunnels that this node keeps to proxies.", of="node"
)
CONNECTED: Final = Gauge(
    "teleport_reverse_tunnels_connected", "Tunnels that end at this proxy, by what they lead to.", "type", of="proxy"
)
MISSING: Final = Gauge(
    "proxy_missing_ssh_tunnels", "Nodes behind tunnels that are heard of and keep none to this very proxy.", of="proxy"
)
REMOTE: Final = Gauge(
    "remote_clusters", "Tunnels that end at this proxy, by the cluster whose proxies keep them.", "cluster", of="proxy"
)
TRUSTED: Final = Gauge(
    "trusted_clusters", "Tunnels that this proxy keeps, by the cluster that they lead to.", "cluster", of="proxy"
)


def of_node(metrics: Metrics, tunnels: Callable[[], int]) -> None:
    metrics.add(CONNECTED_PROXIES, tunnels)


def of_proxy(
    metrics: Metrics,
    view: View,
    server: TunnelServer,
    trusted: Callable[[], Mapping[str, float]],
) -> None:
    """`server`: the proxy's end of tunnels; `trusted`: how many it keeps to each other cluster."""

    def remote() -> Mapping[str, float]:
        return server.clusters.counts() if server.clusters is not None else {}

    def missing() -> int:
        now = view.clock.now()
        return sum(
            1 for node in view.nodes() if node.spec.use_tunnel and not node.lost(now) and not server.holds(node.host_id)
        )

    def connected() -> Mapping[str, float]:
        of_clusters = sum(remote().values())
        of_kube = sum(1 for _ in server.registries[KUBE].every())
        return {"node": server.tunnels - of_clusters - of_kube, "kube": of_kube, "proxy": of_clusters}

    metrics.add(CONNECTED, connected)
    metrics.add(MISSING, missing)
    metrics.add(REMOTE, remote)
    metrics.add(TRUSTED, trusted)
