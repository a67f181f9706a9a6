"""Keeps in view which addresses the cluster's services have, as far as this host's configuration names them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from teleport.resources.values import HostPort

if TYPE_CHECKING:
    from teleport.node.reserved import ClusterPorts

_EVERY_SECONDS = 300.0


async def keep(ports: ClusterPorts, named: Sequence[HostPort]) -> None:
    """Resolves the names now and then; what does not resolve counts by its name, and by what it was last."""
    loop = asyncio.get_running_loop()
    found: dict[HostPort, set[str]] = {one: {one.host.lower().rstrip(".")} for one in named}
    while True:
        ports.known = frozenset((host, one.port) for one, hosts in found.items() for host in hosts)
        for one in named:
            with contextlib.suppress(OSError, UnicodeError):
                entries = await loop.getaddrinfo(one.host, one.port, type=socket.SOCK_STREAM)
                found[one] = {one.host.lower().rstrip("."), *(str(entry[4][0]) for entry in entries)}
        ports.known = frozenset((host, one.port) for one, hosts in found.items() for host in hosts)
        await asyncio.sleep(_EVERY_SECONDS)
