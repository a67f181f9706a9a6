"""Events between proxies."""

from __future__ import annotations

from teleport.audit.events.base import ServerEvent


class ProxyPeerDenied(ServerEvent, frozen=True, kw_only=True, tag="proxy_peer.denied"):
    """Somebody was refused at the listener by which proxies lead clients to each other's hosts; `addr.remote` is where
    they came from, `server_id` the proxy that refused."""

    peer_id: str = ""  # host UUID of whoever came, as far as it was proved
    asked: str = ""  # what was asked for, when the question was refused
    reason: str = ""  # why
