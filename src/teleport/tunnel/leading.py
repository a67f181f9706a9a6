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
from teleport.tunnel.messages import NODE
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
    """The tunnels of the whole cluster, for the router of one proxy (`proxy.needs.Tunnels`)."""

    def __init__(self, own: TunnelServer, dialer: Dialer, proxies: Proxies) -> None:
        self._own = own
        self._dialer = dialer
        self._proxies = proxies
        self._missing: dict[tuple[str, str], _Missing] = {}  # services of hosts that nobody had a moment ago

    def holds(self, host_id: str, conn_type: str = NODE) -> bool:
        """Whether a tunnel of the host's service ends here now."""
        return self._own.holds(host_id, conn_type)

    async def connect(self, host_id: str, make: Callable[[], P], conn_type: str = NODE) -> P:
        """Connects the protocol that `make` gives with a service of a host. Raises `ConnectionProblem`."""
        loop = asyncio.get_running_loop()
        until = loop.time() + ON_ITS_WAY
        problem = ConnectionProblem(f"no tunnel of {host_id} leads here, nor to a proxy that was asked")
        while True:
            if self._own.holds(host_id, conn_type):
                try:
                    return await self._own.connect(host_id, make, conn_type)
                except ConnectionProblem as error:
                    problem = error
            found, problem = await self._elsewhere((host_id, conn_type), make, until, problem)
            if found is not None:
                return found
            left = until - loop.time()
            if left <= 0:
                raise problem
            if self._own.holds(host_id, conn_type):
                await asyncio.sleep(min(left, AGAIN))  # its tunnel failed just now
            else:
                await self._own.registries[conn_type].wait_newest(host_id, min(left, AGAIN))

    async def _elsewhere(
        self, service: tuple[str, str], make: Callable[[], P], until: float, problem: ConnectionProblem
    ) -> tuple[P | None, ConnectionProblem]:
        """By another proxy's tunnel; or None, and what the problem is then.

        Whoever looks for a host that nobody has makes proxies shake hands with each other: however many look for one,
        the others are asked about it once in a while.
        """
        missing = self._missing.get(service)
        if missing is None:
            return await self._asked(service, make, until, problem)
        async with missing.asking:
            if asyncio.get_running_loop().time() < missing.again:
                return None, problem
            return await self._asked(service, make, until, problem)

    async def _asked(
        self, service: tuple[str, str], make: Callable[[], P], until: float, problem: ConnectionProblem
    ) -> tuple[P | None, ConnectionProblem]:
        """One round through the other proxies."""
        loop, (host_id, conn_type) = asyncio.get_running_loop(), service
        for proxy in list(self._proxies.peers(host_id))[:ASKED]:
            try:
                found = await self._dialer.connect(proxy, host_id, make, conn_type)
            except NotHere:
                continue
            except ConnectionProblem as error:
                problem = error
                log.info("%s", error.message)
            else:
                self._missing.pop(service, None)
                return found, problem
            if self._own.holds(host_id, conn_type) or loop.time() >= until:
                break
        if service not in self._missing and len(self._missing) >= REMEMBERED:
            self._missing.pop(next(iter(self._missing)))
        self._missing.setdefault(service, _Missing()).again = loop.time() + AGAIN / 2
        return None, problem


class _Missing:
    """A host that no proxy had when they were asked."""

    def __init__(self) -> None:
        self.asking = asyncio.Lock()
        self.again = 0.0  # loop time before which nobody is asked
