"""Events of reverse tunnels."""

from __future__ import annotations

from teleport.audit.events.base import ServerEvent


class TunnelEnded(ServerEvent, frozen=True, kw_only=True, tag="tunnel.ended"):
    """A reverse tunnel was ended because the host at its other end may not be here any more."""

    host: str = ""  # UUID of that host
    role: str = ""  # as what it proved itself: Node at a proxy, Proxy at a node
    reason: str = ""  # why
