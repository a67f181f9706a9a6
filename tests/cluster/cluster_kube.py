"""A cluster whose proxy leads kubectl to a stand-in API server."""

from __future__ import annotations

from teleport.testing.cluster import PUBLIC, Cluster, at, free_port
from teleport.testing.kube_api import KubeApi


def serve_kubectl(cluster: Cluster, api: KubeApi) -> str:
    """Writes the configuration of a cluster that does not run yet; the address at which kubectl is served."""
    kubeconfig = cluster.folder.parent / "kubeconfig"
    kubeconfig.write_text(api.kubeconfig())
    port = free_port()
    address = at(port, PUBLIC)
    cluster.config["proxy_service"]["kubernetes"] = {
        "enabled": True,
        "listen_addr": at(port),
        "public_addr": address,
        "kubeconfig_file": str(kubeconfig),
    }
    cluster.write()
    return address
