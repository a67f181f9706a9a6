"""A proxy tells auth of hosts whose last tunnel ended here and that have made no other, so that lists can say so long
before the host's silence does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Final, Protocol

from teleport.api import messages as m
from teleport.api import routes
from teleport.api.routes import Route
from teleport.errors import TeleportError

log = logging.getLogger(__name__)

LOOK_EVERY: Final = 0.5  # seconds; a tunnel that was there for less is not missed
GRACE: Final = 10.0  # seconds in which a host makes its tunnel anew, or another one elsewhere
EVERY: Final = 30.0  # seconds between two reports of the same
FORGOTTEN: Final = 360.0  # seconds; by then the host's silence has said it, also in a crowd
MOST: Final = 2000  # hosts in one report


class Client(Protocol):
    """Calls auth."""

    async def call(self, route: Route[m.LostTunnelsRequest, m.Done], request: m.LostTunnelsRequest) -> m.Done: ...


class Lost:
    """Which hosts are without a tunnel since when. Pure: `now` in seconds."""

    def __init__(self) -> None:
        self._held: set[str] = set()
        self._gone: dict[str, float] = {}

    @property
    def any(self) -> bool:
        """Whether there may be something to tell also when all is as before."""
        return bool(self._gone)

    def look(self, held: Collection[str], registered: Callable[[str], bool], now: float) -> list[str]:
        """The hosts to tell of, by those that have a tunnel here now; one that withdrew is not lost."""
        present = set(held)
        for host in self._held - present:
            self._gone[host] = now
        self._held = present
        self._gone = {
            host: since
            for host, since in self._gone.items()
            if host not in present and now - since < FORGOTTEN and registered(host)
        }
        return sorted(host for host, since in self._gone.items() if now - since >= GRACE)[:MOST]


async def tell(
    client: Client,
    held: Callable[[], Collection[str]],
    turns: Callable[[], int],
    registered: Callable[[str], bool],
    *,
    look_every: float = LOOK_EVERY,
) -> None:
    """Tells of them at once, again while it lasts, and when it is over, until cancelled. `turns`: a number that is
    another one when `held` is: of ten thousand hosts, to look at all twice a second is a hundredth of a core."""
    loop, lost = asyncio.get_running_loop(), Lost()
    told: list[str] = []
    due, looked = loop.time(), -1
    while True:
        if looked == turns() and not lost.any and not told:
            await asyncio.sleep(look_every)
            continue
        looked = turns()
        now = lost.look(held(), registered, loop.time())
        if now != told or (now and loop.time() >= due):
            try:
                await client.call(routes.LOST_TUNNELS, m.LostTunnelsRequest(hosts=now))
            except TeleportError as error:
                log.debug("auth was not told which hosts lost their tunnels: %s", error)
            told, due = now, loop.time() + EVERY
        await asyncio.sleep(look_every)
