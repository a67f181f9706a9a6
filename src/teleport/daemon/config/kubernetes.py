"""Which Kubernetes clusters a configuration names, with what is needed to reach them.

The credentials are read here, by the process that reads the file: they travel to the daemon as values, so a changed
kubeconfig counts from the next start. A token's own file is read for each connection.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from teleport.daemon.config.proxy_section import ProxySection
from teleport.errors import BadRequest
from teleport.kube import credentials
from teleport.resources.values import HostPort

if TYPE_CHECKING:
    from teleport.kube.credentials import KubeCluster

KEY = "proxy_service.kubernetes"


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
    file = older.kubeconfig_file
    try:
        if file is None:
            return (credentials.in_pod(older.cluster_name or name, environment),)
        return credentials.from_kubeconfig(file.read_bytes(), file.parent)
    except OSError as error:
        raise BadRequest(
            f"{KEY}.kubeconfig_file: {file}: {error.strerror}", hint="name a file that can be read"
        ) from None
    except BadRequest as error:
        key = f"{KEY}.enabled" if file is None else f"{KEY}.kubeconfig_file: {file}"
        raise BadRequest(f"{key}: {error.message}", hint=error.hint) from None
