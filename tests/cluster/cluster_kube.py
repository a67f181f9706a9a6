"""Clusters whose proxies lead kubectl to API servers, by themselves or by Kubernetes services."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from teleport.testing.cluster import PUBLIC, Cluster, Host, Person, at, free_port, run, wait_until


class Api(Protocol):
    """An API server: a stand-in, or that of a real cluster."""

    def kubeconfig(self, context: str = "one") -> str:
        """That of a proxy or a service, whose one context is called so."""
        ...


def serve_kubectl(cluster: Cluster, api: Api, *context: str) -> str:
    """Writes the configuration of a cluster that does not run yet; the address at which kubectl is served."""
    kubeconfig = cluster.folder.parent / "kubeconfig"
    kubeconfig.write_text(api.kubeconfig(*context))
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


def lead_kubectl(cluster: Cluster) -> str:
    """Writes the configuration of a cluster whose proxy itself reaches no Kubernetes cluster; the address at which
    kubectl is served."""
    port = free_port()
    cluster.config["proxy_service"] |= {"kube_listen_addr": at(port), "kube_public_addr": at(port, PUBLIC)}
    cluster.write()
    return at(port, PUBLIC)


def wait_known(person: Person, address: str) -> None:
    """Until the proxy that serves kubectl at `address` knows somebody who was just added."""
    (folder,) = (person.home / ".tsh" / "keys").iterdir()
    ask = ["kubectl", f"--server=https://{address}", f"--certificate-authority={folder}/certs.pem", "get", "--raw=/api"]
    with_login = [f"--client-certificate={folder}/{person.name}-x509.pem", f"--client-key={folder}/{person.name}"]

    def known() -> bool:
        said = run(*ask, *with_login, environment=person.environment)
        heard = ("Your roles", "You chose no", "needs a second factor")
        return said.status == 0 or any(words in said.stderr for words in heard)

    wait_until("the proxy knows them", known)


class KubeHost(Host):
    """A host that runs the Kubernetes service alone."""

    def __init__(self, folder: Path, cluster: Cluster, name: str, api: Api, **section: Any) -> None:
        """`section`: further keys of `kubernetes_service`; without `listen_addr` it is reached by tunnels."""
        token, kubeconfig = folder.parent / f"{name}-token", folder.parent / f"{name}-kubeconfig"
        cluster.tctl("tokens", "add", "--type=kube", f"--out={token}").ok()
        kubeconfig.write_text(api.kubeconfig(section.pop("context", "demo")))
        config = cluster.node_config(name, auth_token=str(token), ca_pin=cluster.ca_pin())
        config["ssh_service"] = {"enabled": False}
        config["kubernetes_service"] = {"enabled": True, "kubeconfig_file": str(kubeconfig), **section}
        if "listen_addr" not in section:
            config["teleport"]["auth_servers"] = [at(cluster.web_port)]
        super().__init__(folder, config)

    @property
    def host_id(self) -> str:
        return (self.data_dir / "host_uuid").read_text().strip()
