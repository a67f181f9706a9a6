"""A kubeconfig with everything inline (kubernetes.io, "Organizing Cluster Access Using kubeconfig Files")."""

from __future__ import annotations

import base64

from teleport.pki.secret import Secret


def kubeconfig(
    *, cluster: str, context: str, server: str, authorities: bytes, certificate: bytes, key: Secret
) -> Secret:
    """The file's content: one cluster, one user, one context, which is the current one.

    `server` is an https URL; `authorities`, `certificate` and `key` are PEM.
    """
    import yaml

    def inline(pem: bytes) -> str:
        return base64.b64encode(pem).decode()

    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": cluster, "cluster": {"server": server, "certificate-authority-data": inline(authorities)}}
        ],
        "users": [
            {
                "name": context,
                "user": {"client-certificate-data": inline(certificate), "client-key-data": inline(key.reveal())},
            }
        ],
        "contexts": [{"name": context, "context": {"cluster": cluster, "user": context}}],
        "current-context": context,
    }
    return Secret(yaml.safe_dump(document, sort_keys=False).encode())
