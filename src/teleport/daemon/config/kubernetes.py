"""Which Kubernetes clusters a configuration names, with what is needed to reach them.

The credentials are read here, by the process that reads the file: they travel to the daemon as values, so a changed
kubeconfig counts from the next start. A token's own file is read for each connection.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from teleport.daemon.config.proxy_section import ProxySection
from teleport.daemon.config.resource_sections import KubernetesSection
from teleport.errors import BadRequest
from teleport.kube import credentials
from teleport.resources.values import HostPort

if TYPE_CHECKING:
    from teleport.kube.credentials import KubeCluster

KEY = "proxy_service.kubernetes"
SERVICE = "kubernetes_service"


def listener(section: ProxySection, default: HostPort) -> HostPort | None:
    """Where the proxy listens for Kubernetes clients; None: nowhere."""
    if section.kube_listen_addr is not None:
        return section.kube_listen_addr
    older = section.kubernetes
    if older is None or not older.enabled:
        return None
    return older.listen_addr or default


def clusters(section: ProxySection, name: str, environment: Mapping[str, str] = os.environ) -> tuple[KubeCluster, ...]:
    """The clusters that the proxy itself reaches. `name` is the one of ours. Raises `BadRequest`."""
    older = section.kubernetes
    if older is None or not older.enabled:
        return ()
    return _read(KEY, older.kubeconfig_file, older.cluster_name or name, environment)


def of_service(section: KubernetesSection, environment: Mapping[str, str] = os.environ) -> tuple[KubeCluster, ...]:
    """The clusters that a Kubernetes service leads to. Raises `BadRequest`."""
    return _read(SERVICE, section.kubeconfig_file, section.kube_cluster_name, environment)


def _read(key: str, file: Path | None, name: str, environment: Mapping[str, str]) -> tuple[KubeCluster, ...]:
    try:
        if file is None:
            return (credentials.in_pod(name, environment),)
        return credentials.from_kubeconfig(file.read_bytes(), file.parent)
    except OSError as error:
        raise BadRequest(
            f"{key}.kubeconfig_file: {file}: {error.strerror}", hint="name a file that can be read"
        ) from None
    except BadRequest as error:
        where = f"{key}.enabled" if file is None else f"{key}.kubeconfig_file: {file}"
        raise BadRequest(f"{where}: {error.message}", hint=error.hint) from None
