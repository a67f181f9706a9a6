"""When a host that came back with many asks auth for what it has missed.

A proxy that begins again gets all its tunnels within the time that it told (`messages.News.spread`). If each host then
opened its way to auth at once, the hosts that are still to come would wait behind that: of what a return costs, it is
more than half. So a host whose only proxy ended, and which comes back to the same one, first has its tunnel, by which
it is reached; what it has missed it asks for once all have had the time for that, again within as long. It can wait:
what auth has on record of it is true, and who comes by the tunnel was let in by a proxy that knows everything.
Whoever does come ends the waiting, so that nobody is served for long by what the host knew before.

Few hosts, which come back within a second, wait for nothing.
"""

from __future__ import annotations

import asyncio
from typing import Final

from teleport.tunnel.pool import MOST_SPREAD, SPREAD

LONGEST: Final = 2 * MOST_SPREAD  # seconds, from the loss of the tunnel on


class Turn:
    """Of one host. Times are of the loop."""

    def __init__(self) -> None:
        self._comes = asyncio.Event()
        self._comes.set()
        self._timer: asyncio.TimerHandle | None = None
        self._lost: tuple[float, float, tuple[str, ...]] | None = None

    async def wait(self) -> None:
        """Until it is this host's turn; mostly it is."""
        await self._comes.wait()

    def lost(self, spread: float, waits: float, proxies: tuple[str, ...]) -> None:
        """The last tunnel to `proxies` has ended, and what had tunnels there comes back within `spread` seconds; for
        `waits` seconds there is no other way to auth."""
        self._lost = asyncio.get_running_loop().time(), min(spread, MOST_SPREAD), proxies
        if spread > SPREAD:
            self._postpone(waits)

    def stands(self, proxies: tuple[str, ...], draw: float) -> None:
        """There are tunnels to `proxies` again; `draw` is from 0 to 1."""
        lost, self._lost = self._lost, None
        if lost is None:
            return
        when, spread, before = lost
        if spread <= SPREAD or proxies != before:  # others must be told at once where the host is now
            self.now()
            return
        left = when + spread - asyncio.get_running_loop().time()
        self._postpone(max(left, 0.0) + spread * draw)

    def now(self) -> None:
        """Somebody needs the host, or nothing speaks for waiting."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._comes.set()

    def _postpone(self, seconds: float) -> None:
        self.now()
        self._comes.clear()
        self._timer = asyncio.get_running_loop().call_later(seconds, self.now)
