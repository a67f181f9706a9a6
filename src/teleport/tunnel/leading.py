"""By which tunnel a client is led: one that ends here, else one that ends at another proxy.

Which proxies hold a host's tunnels is what the host announced, so it may be a moment old. It is a hint: those proxies
are asked first, the others next, each at most once in a while, until a tunnel is found or the host has had the time in
which it makes a new one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeVar

from teleport.errors import ConnectionProblem
from teleport.tunnel.peer_dialer import Dialer, NotHere, PeerProxy
from teleport.tunnel.server import ON_ITS_WAY, TunnelServer

log = logging.getLogger(__name__)

AGAIN: Final = 0.5  # seconds until the others are asked once more
ASKED: Final = 16  # proxies that are asked in one round
P = TypeVar("P", bound=asyncio.Protocol)


class Proxies(Protocol):
    """Where the tunnels of a host may end."""

    def peers(self, host_id: str) -> Sequence[PeerProxy]:
        """Other proxies that can be asked; first those to which the host said that it keeps a tunnel."""
        ...


class Leading:
    """The tunnels of the whole cluster, for the router of one proxy (`proxy.ssh_router.Tunnels`)."""

    def __init__(self, own: TunnelServer, dialer: Dialer, proxies: Proxies) -> None:
        self._own = own
        self._dialer = dialer
        self._proxies = proxies

    def holds(self, host_id: str) -> bool:
        """Whether a tunnel of the host ends here now."""
        return self._own.holds(host_id)

    async def connect(self, host_id: str, make: Callable[[], P]) -> P:
        """Connects the protocol that `make` gives with the node service of a host. Raises `ConnectionProblem`."""
        loop = asyncio.get_running_loop()
        until = loop.time() + ON_ITS_WAY
        problem = ConnectionProblem(f"no tunnel of {host_id} leads here, nor to a proxy that was asked")
        while True:
            if self._own.holds(host_id):
                try:
                    return await self._own.connect(host_id, make)
                except ConnectionProblem as error:
                    problem = error
            for proxy in list(self._proxies.peers(host_id))[:ASKED]:
                try:
                    return await self._dialer.connect(proxy, host_id, make)
                except NotHere:
                    continue
                except ConnectionProblem as error:
                    problem = error
                    log.info("%s", error.message)
                if self._own.holds(host_id) or loop.time() >= until:
                    break
            left = until - loop.time()
            if left <= 0:
                raise problem
            if self._own.holds(host_id):
                await asyncio.sleep(min(left, AGAIN))  # its tunnel failed just now
            else:
                await self._own.registry.wait_newest(host_id, min(left, AGAIN))
