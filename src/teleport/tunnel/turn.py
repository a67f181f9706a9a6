"""When a host that came back with many asks auth for what it has missed.

A proxy that begins again gets all its tunnels within the time that it told (`messages.News.spread`). If each host then
opened its way to auth at once, the hosts that are still to come would wait behind that: of what a return costs, it is
more than half. So a host whose only proxy ended, and which comes back to the same one, first has its tunnel, by which
it is reached; what it has missed it asks for once all have had the time for that, again within as long.

Whoever comes to the host ends its waiting, and waits a moment himself until the host has heard auth: nobody is judged
by what a host knew before, except where auth is silent, as always. A host on which sessions go on waits for nothing: a
lock has to reach them. Nor does any host wait for longer than `LONGEST` in all, however often its proxy ends.

Few hosts, which come back within a second, wait for nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from teleport.tunnel.pool import MOST_SPREAD
from teleport.tunnel.pool_state import SPREAD

LONGEST: Final = 2 * MOST_SPREAD  # seconds, from the first loss of the tunnel on
CATCH_UP: Final = 3.0  # seconds for which a client waits until the host has heard auth
LEAST_TRUCE: Final = 3.0  # seconds that nobody waits after somebody waited for nothing; twice as long each time
MOST_TRUCE: Final = 300.0


class Waits(Protocol):
    """What a turn is to whoever hears auth (`store.cache.Turn`)."""

    async def wait(self) -> None: ...
    def heard(self) -> None: ...


class Known(Protocol):
    """What it is to whoever asks auth (`api.client.Turn`)."""

    @property
    def waiting(self) -> bool: ...
    async def wait(self) -> None: ...


class Heeds(Protocol):
    """A cache of what auth says."""

    turn: Waits | None


class Asks(Protocol):
    """Who announces the service."""

    turn: Known | None


class Turn:
    """Of one host. Times are of the loop."""

    def __init__(self) -> None:
        self._comes = asyncio.Event()
        self._comes.set()
        self._timer: asyncio.TimerHandle | None = None
        self._lost: tuple[float, float, tuple[str, ...]] | None = None
        self._since: float | None = None  # the first loss since auth was heard
        self._heard = asyncio.Event()  # auth, since the tunnel was lost
        self._heard.set()
        self._truce, self._next_truce = 0.0, LEAST_TRUCE  # until when nobody waits, and how long the next one is
        self._heeded = False
        self._busy: Callable[[], bool] = lambda: False

    def heeded_by(self, client: Asks, cache: Heeds, busy: Callable[[], bool]) -> None:
        """These two wait for it from here on, and the cache says when auth was heard. Before that nobody waits.
        `busy`: whether something goes on that a lock would have to end."""
        client.turn = cache.turn = self
        self._heeded, self._busy = True, busy

    @property
    def waiting(self) -> bool:
        """Whether it is somebody else's."""
        return not self._comes.is_set()

    async def wait(self) -> None:
        """Until it is this host's turn; mostly it is."""
        await self._comes.wait()

    def heard(self) -> None:
        """Auth said something: what the host knows is what auth knows."""
        self._heard.set()
        self._since = None
        self._truce, self._next_truce = 0.0, LEAST_TRUCE

    @property
    def behind(self) -> bool:
        """Whether the host has not heard auth since it was cut off with many."""
        return not self._heard.is_set()

    async def catch_up(self) -> None:
        """Somebody needs the host: it is its turn at once. Until it has heard auth, for a moment at most; who comes
        soon after somebody that waited for nothing does not wait."""
        self.now()
        loop = asyncio.get_running_loop()
        if loop.time() < self._truce:
            return
        try:
            async with asyncio.timeout(CATCH_UP):
                await self._heard.wait()
        except TimeoutError:
            if self.behind and loop.time() >= self._truce:
                self._truce = loop.time() + self._next_truce
                self._next_truce = min(2 * self._next_truce, MOST_TRUCE)

    def lost(self, spread: float, waits: float, proxies: tuple[str, ...]) -> None:
        """The last tunnel to `proxies` has ended, and what had tunnels there comes back within `spread` seconds; for
        `waits` seconds there is no other way to auth."""
        if not self._heeded:
            return
        if self._busy():
            self.now()
            return
        self._lost = asyncio.get_running_loop().time(), min(spread, MOST_SPREAD), proxies
        if spread > SPREAD:
            self._heard.clear()
            if self._since is None:
                self._since = self._lost[0]
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
        self._stop()
        self._comes.set()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _postpone(self, seconds: float) -> None:
        """Whoever waits already waits on: an event that is set for a moment lets everybody go."""
        self._stop()
        loop = asyncio.get_running_loop()
        left = LONGEST if self._since is None else self._since + LONGEST - loop.time()
        if left <= 0:
            self._comes.set()
            return
        self._comes.clear()
        self._timer = loop.call_later(min(seconds, left), self.now)
