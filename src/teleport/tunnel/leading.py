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
REMEMBERED: Final = 1000  # hosts (or other clusters) that nobody had
P = TypeVar("P", bound=asyncio.Protocol)


class Proxies(Protocol):
    """Where the tunnels of a host may end."""

    def peers(self, host_id: str) -> Sequence[PeerProxy]:
        """Other proxies that can be asked; first those to which the host said that it keeps a tunnel. An empty id
        stands for no host in particular."""
        ...


class Leading:
    """The tunnels of the whole cluster, for the router of one proxy (`proxy.ssh_router.Tunnels`)."""

    def __init__(self, own: TunnelServer, dialer: Dialer, proxies: Proxies) -> None:
        self._own = own
        self._dialer = dialer
        self._proxies = proxies
        self._missing: dict[str, _Missing] = {}  # hosts that nobody had a moment ago

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
            found, problem = await self._elsewhere(host_id, make, until, problem)
            if found is not None:
                return found
            left = until - loop.time()
            if left <= 0:
                raise problem
            if self._own.holds(host_id):
                await asyncio.sleep(min(left, AGAIN))  # its tunnel failed just now
            else:
                await self._own.registry.wait_newest(host_id, min(left, AGAIN))

    async def _elsewhere(
        self, host_id: str, make: Callable[[], P], until: float, problem: ConnectionProblem
    ) -> tuple[P | None, ConnectionProblem]:
        """By another proxy's tunnel; or None, and what the problem is then.

        Whoever looks for a host that nobody has makes proxies shake hands with each other: however many look for one,
        the others are asked about it once in a while.
        """
        missing = self._missing.get(host_id)
        if missing is None:
            return await self._asked(host_id, make, until, problem)
        async with missing.asking:
            if asyncio.get_running_loop().time() < missing.again:
                return None, problem
            return await self._asked(host_id, make, until, problem)

    async def _asked(
        self, host_id: str, make: Callable[[], P], until: float, problem: ConnectionProblem
    ) -> tuple[P | None, ConnectionProblem]:
        """One round through the other proxies."""
        loop = asyncio.get_running_loop()
        for proxy in list(self._proxies.peers(host_id))[:ASKED]:
            try:
                found = await self._dialer.connect(proxy, host_id, make)
            except NotHere:
                continue
            except ConnectionProblem as error:
                problem = error
                log.info("%s", error.message)
            else:
                self._missing.pop(host_id, None)
                return found, problem
            if self._own.holds(host_id) or loop.time() >= until:
                break
        if host_id not in self._missing and len(self._missing) >= REMEMBERED:
            self._missing.pop(next(iter(self._missing)))
        self._missing.setdefault(host_id, _Missing()).again = loop.time() + AGAIN / 2
        return None, problem


class _Missing:
    """A host that no proxy had when they were asked."""

    def __init__(self) -> None:
        self.asking = asyncio.Lock()
        self.again = 0.0  # loop time before which nobody is asked
