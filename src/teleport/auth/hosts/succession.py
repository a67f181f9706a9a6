"""Which record of presence takes the place of which. Pure; every rule about two runs, or two hosts, stands here.

While a daemon restarts, the old and the new process of one host announce themselves side by side: presence is of the
newest epoch, and an older one neither overwrites nor withdraws it. A host that ended without saying so is *lost*; it
stays listed, with its age, until a host with the same name and address takes its place, somebody removes it, or `KEPT`
has passed. A host that is heard of is displaced by nobody.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from teleport.backend.interface import Item
from teleport.resources.codec import from_json
from teleport.resources.names import canonical_host
from teleport.resources.server import Server
from teleport.resources.values import HostPort

KEPT: Final = timedelta(days=7)  # a lost service stays listed


def server_of(item: Item | None) -> Server | None:
    """What is stored of a service; None when nothing is. Raises `BadRequest` when it cannot be read."""
    found = from_json(item.value) if item is not None else None
    return found if isinstance(found, Server) else None


def _older(epoch: str, other: str) -> bool:
    """Whether `epoch` is a run before `other`; epochs that are no numbers have no order."""
    return epoch.isdecimal() and other.isdecimal() and int(epoch) < int(other)


def may_announce(new: Server, stored: Server | None, now: datetime) -> bool:
    """Whether `new` may take the place of what is stored of the same host: not if that is a newer run that lives."""
    return stored is None or not _older(new.spec.epoch, stored.spec.epoch) or stored.lost(now)


def may_withdraw(epoch: str, stored: Server) -> bool:
    """Whether the end of the run `epoch` ends this presence: only its own, or that of a run before it."""
    return stored.spec.epoch == epoch or _older(stored.spec.epoch, epoch)


def _place(server: Server) -> tuple[str, frozenset[tuple[str, int]]] | None:
    """Name and addresses; None for what has no address of its own (behind a tunnel) and so replaces nobody."""
    texts = server.spec.public_addrs or ((server.spec.addr,) if server.spec.addr else ())
    if not server.hostname or not texts or server.spec.use_tunnel:
        return None
    addresses = (HostPort.parse(text, 0) for text in texts)
    return canonical_host(server.hostname), frozenset((canonical_host(one.host), one.port) for one in addresses)


def replaced(servers: Iterable[Server], now: datetime) -> list[Server]:
    """Those that are lost and whose name and address a host has that is heard of."""
    lost: list[Server] = []
    held = set()
    for server in servers:
        if server.lost(now):
            lost.append(server)
        elif server.spec.heard is not None:
            held.add(_place(server))
    held.discard(None)
    return [server for server in lost if _place(server) in held] if held else []
