"""The ports that addresses get when none is written (`config.md` 10)."""

from __future__ import annotations

from typing import Final

PROXY_PEER: Final = 3021
SSH: Final = 3022
PROXY_SSH: Final = 3023
PROXY_TUNNEL: Final = 3024
AUTH: Final = 3025
PROXY_KUBE: Final = 3026
KUBE: Final = 3027
MYSQL: Final = 3036
WEB: Final = 3080
DIAG: Final = 3000
POSTGRES: Final = 5432
MONGO: Final = 27017
HTTPS: Final = 443
HTTP: Final = 80

DEFAULT_PORTS: Final = {
    "ssh_service.listen_addr": SSH,
    "ssh_service.public_addr": SSH,
    "proxy_service.listen_addr": PROXY_SSH,
    "proxy_service.ssh_public_addr": PROXY_SSH,
    "proxy_service.tunnel_listen_addr": PROXY_TUNNEL,
    "proxy_service.tunnel_public_addr": PROXY_TUNNEL,
    "proxy_service.peer_listen_addr": PROXY_PEER,
    "proxy_service.peer_public_addr": PROXY_PEER,
    "proxy_service.web_listen_addr": WEB,
    "proxy_service.public_addr": WEB,
    "proxy_service.kube_listen_addr": PROXY_KUBE,
    "proxy_service.kube_public_addr": PROXY_KUBE,
    "proxy_service.mysql_listen_addr": MYSQL,
    "proxy_service.mysql_public_addr": MYSQL,
    "auth_service.listen_addr": AUTH,
    "auth_service.public_addr": AUTH,
    "teleport.auth_servers": AUTH,
    "kubernetes_service.listen_addr": KUBE,
}
