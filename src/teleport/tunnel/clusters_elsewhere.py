"""The way to another cluster by whichever proxy its tunnels end at: this one's first, else one that ends at another.

Proxies of a cluster that trusts this one keep a tunnel to each proxy here, so mostly one ends where the user is. While
one is made (a proxy has just started, a balancer leads elsewhere, some proxies here cannot be reached from there), the
others are asked, each at most once in a while; and a cluster that was there a moment ago is waited for. What others are
handed is signed by this proxy: the other cluster judges it as if it came by a tunnel of its own, and another proxy here
can do no more with it than lead to that host or not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, TypeVar

from teleport.errors import ConnectionProblem
from teleport.tunnel.clusters import ClusterTunnels
from teleport.tunnel.leading import AGAIN, ASKED, REMEMBERED, Proxies
from teleport.tunnel.peer_dialer import Dialer, NotHere
from teleport.tunnel.server import ON_ITS_WAY
from teleport.wire import peering

log = logging.getLogger(__name__)

LATELY: Final = 60.0  # seconds in which a cluster counts as connected after somebody was led there
P = TypeVar("P", bound=asyncio.Protocol)


class AllClusterTunnels:
    """The tunnels of other clusters to any proxy here (`proxy.other_clusters.Tunnels`)."""

    def __init__(self, own: ClusterTunnels, dialer: Dialer, proxies: Proxies) -> None:
        self._own = own
        self._dialer = dialer
        self._proxies = proxies
        self._nobody: dict[str, float] = {}  # by cluster, loop time before which nobody is asked
        self._led: dict[str, float] = {}  # by cluster, loop time when somebody was led there
        self._by_others: dict[str, float] = {}  # the same, of those whom another proxy led

    def online(self, cluster: str) -> bool:
        """Whether a tunnel of that cluster ends here, or lately did at a proxy that led there."""
        return self._own.online(cluster) or _lately(self._by_others, cluster)

    async def connect(self, cluster: str, dial: Callable[[], bytes], make: Callable[[], P]) -> P:
        """As `ClusterTunnels.connect`. For tunnels of a cluster that was there a moment ago it waits a while."""
        loop = asyncio.get_running_loop()
        until = loop.time() + (ON_ITS_WAY if _lately(self._led, cluster) else 0.0)
        while True:
            here = self._own.online(cluster)
            try:
                made = await self._own.connect(cluster, dial, make)
            except ConnectionProblem as error:
                problem = error
                found = await self._elsewhere(cluster, dial, make)
                if found is None:
                    left = until - loop.time()
                    if left <= 0 or (here and self._own.online(cluster)):  # it was asked, and says why not
                        raise problem from None
                    await asyncio.sleep(min(left, AGAIN))
                    continue
                made = found
                _remember(self._by_others, cluster, loop.time())
            else:
                self._by_others.pop(cluster, None)  # whether it is there shows here now
            _remember(self._led, cluster, loop.time())
            return made

    async def _elsewhere(self, cluster: str, dial: Callable[[], bytes], make: Callable[[], P]) -> P | None:
        """By another proxy's tunnel; None when nobody leads there. However many look for a cluster that nobody has, the
        others are asked once in a while."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._nobody.get(cluster, 0.0):
            return None
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
            return made
        self._by_others.pop(cluster, None)
        _remember(self._nobody, cluster, loop.time() + AGAIN / 2)
        return None


def _lately(known: dict[str, float], cluster: str) -> bool:
    when = known.get(cluster)
    return when is not None and asyncio.get_running_loop().time() - when < LATELY


def _remember(known: dict[str, float], cluster: str, when: float) -> None:
    if cluster not in known and len(known) >= REMEMBERED:
        known.pop(next(iter(known)))
    known[cluster] = when
