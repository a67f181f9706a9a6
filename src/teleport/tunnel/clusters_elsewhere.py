"""The way to another cluster by whichever proxy its tunnels end at: this one's first, else one that ends at another.

Proxies of a cluster that trusts this one keep a tunnel to each proxy here, so mostly one ends where the user is. While
one is made (a proxy has just started, a balancer leads elsewhere, some proxies here cannot be reached from there), the
others are asked, each at most once in a while. What they are handed is signed by this proxy: the other cluster judges
it as if it came by a tunnel of its own, and another proxy here can do no more with it than lead to that host or not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeVar

from teleport.errors import ConnectionProblem
from teleport.tunnel.clusters import ClusterTunnels
from teleport.tunnel.peer_dialer import Dialer, NotHere, PeerProxy
from teleport.wire import peering

log = logging.getLogger(__name__)

AGAIN: Final = 0.25  # seconds until others are asked once more for a cluster that nobody had
ASKED: Final = 16  # proxies that are asked
LATELY: Final = 30.0  # seconds in which a cluster counts as connected after another proxy led there
REMEMBERED: Final = 1000  # clusters
P = TypeVar("P", bound=asyncio.Protocol)


class Proxies(Protocol):
    """Other proxies of this cluster."""

    def peers(self, host_id: str) -> Sequence[PeerProxy]:
        """Those that can be asked; here for no host in particular."""
        ...


class AllClusterTunnels:
    """The tunnels of other clusters to any proxy here (`proxy.other_clusters.Tunnels`)."""

    def __init__(self, own: ClusterTunnels, dialer: Dialer, proxies: Proxies) -> None:
        self._own = own
        self._dialer = dialer
        self._proxies = proxies
        self._nobody: dict[str, float] = {}  # by cluster, loop time before which nobody is asked
        self._led: dict[str, float] = {}  # by cluster, loop time when another proxy led there

    def online(self, cluster: str) -> bool:
        """Whether a tunnel of that cluster ends here, or lately did at a proxy that led there."""
        led = self._led.get(cluster)
        return self._own.online(cluster) or (led is not None and asyncio.get_running_loop().time() - led < LATELY)

    async def connect(self, cluster: str, dial: Callable[[], bytes], make: Callable[[], P]) -> P:
        """As `ClusterTunnels.connect`."""
        try:
            return await self._own.connect(cluster, dial, make)
        except ConnectionProblem as error:
            problem = error
        loop = asyncio.get_running_loop()
        if loop.time() < self._nobody.get(cluster, 0.0):
            raise problem
        for proxy in list(self._proxies.peers(""))[:ASKED]:
            ask = peering.Ask(server_id=cluster, conn_type=peering.CLUSTER, dial=dial().decode())
            try:
                made = await self._dialer.lead(proxy, ask, make)
            except NotHere:
                continue
            except ConnectionProblem as error:
                log.info("%s", error.message)
                continue
            self._nobody.pop(cluster, None)
            _remember(self._led, cluster, loop.time())
            return made
        _remember(self._nobody, cluster, loop.time() + AGAIN)
        raise problem


def _remember(known: dict[str, float], cluster: str, when: float) -> None:
    if cluster not in known and len(known) >= REMEMBERED:
        known.pop(next(iter(known)))
    known[cluster] = when
