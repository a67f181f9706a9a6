"""The names of what is inside TLS on the proxy's one port (`protocols.md` 12): ALPN, RFC 7301."""

from __future__ import annotations

from typing import Final

HTTP: Final = "http/1.1"
PROXY_SSH: Final = "teleport-proxy-ssh"
REVERSE_TUNNEL: Final = "teleport-reversetunnel"
KUBE_SERVICE: Final = "teleport-kube-service"  # from proxies, at the listener of a Kubernetes service
PROXY_PEER: Final = "teleport-proxy-peer"  # between proxies, at a listener of its own
ACME: Final = "acme-tls/1"  # RFC 8737: a directory looks whether a name is ours
UPGRADE_PATH: Final = "/webapi/connectionupgrade"
"""Where a websocket carries the bytes of the one port through balancers that end TLS."""
