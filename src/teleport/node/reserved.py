"""Which destinations are ports of the cluster itself: those are open to forwards only where a role names them."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterable
from typing import Protocol

from teleport.authz.forwarding import USUAL_PORTS
from teleport.resources.destinations import Address


class Reserved(Protocol):
    """Says what of the cluster stands at an address and a port; empty for what is none of its ports."""

    def __call__(self, host: str, address: Address, port: int) -> str:
        """`host` is the name that led to the address."""
        ...


def is_local(address: Address) -> bool:
    """Whether connecting to it leads to this host. The kernel knows all its addresses: it lets one bind to them."""
    if address.is_loopback:
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind((str(address), 0))
        return True
    return False


class ClusterPorts:
    """What a node knows of the cluster's ports: those that its own daemon listens on, those of hosts it was told of,
    and the usual ones everywhere: of other nodes it is told nothing."""

    def __init__(self, own: Callable[[], Iterable[int]]) -> None:
        """`own`: the ports on which this host's daemon listens."""
        self._own = own
        self.known: frozenset[tuple[str, int]] = frozenset()  # hosts as named in the configuration, and addresses

    def __call__(self, host: str, address: Address, port: int) -> str:
        if port in USUAL_PORTS:
            return "a usual port of the cluster's services"
        if (str(address), port) in self.known or (host.lower().rstrip("."), port) in self.known:
            return "a port of the cluster's services"
        if port in self._own() and is_local(address):
            return "a port of this host's own daemon"
        return ""
