"""A proxy tells auth which other clusters keep tunnels here, so that `tctl get rc` can say who is there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from teleport.api import messages as m
from teleport.api import routes
from teleport.api.routes import Route
from teleport.errors import TeleportError

log = logging.getLogger(__name__)

EVERY: Final = 30.0  # seconds
LOOK_EVERY: Final = 1.0  # seconds between looks whether a cluster came that auth was not told of


class Client(Protocol):
    """Calls auth."""

    async def call(self, route: Route[m.SeenClustersRequest, m.Done], request: m.SeenClustersRequest) -> m.Done: ...


async def tell(client: Client, online: Callable[[], Sequence[str]], *, every: float = EVERY) -> None:
    """Tells of those that are `online`, one that came at once, until cancelled."""
    loop = asyncio.get_running_loop()
    told: set[str] = set()
    due = loop.time()
    while True:
        now = set(online())
        if now - told or (now and loop.time() >= due):
            try:
                await client.call(routes.SEEN_CLUSTERS, m.SeenClustersRequest(clusters=sorted(now)))
                told, due = now, loop.time() + every
            except TeleportError as error:
                log.debug("auth was not told which clusters are here: %s", error)
                told, due = now, loop.time() + every
        told &= now
        await asyncio.sleep(min(LOOK_EVERY, every))
