"""Tells auth which sessions run on this node: when something changes, and every now and then.

Nothing here is needed for a session: while auth is away it lists what it heard last, for a while.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from teleport.api import messages as m
from teleport.api import routes
from teleport.api.client import AuthClient
from teleport.errors import TeleportError

log = logging.getLogger(__name__)

EVERY: Final = 30.0  # seconds, while there are sessions
TOGETHER: Final = 0.2  # seconds in which changes are gathered
RETRY: Final = 5.0  # seconds after a failure
FAREWELL: Final = 2.0  # seconds


class SessionTeller:
    """Owned by the node's side of a daemon."""

    def __init__(self, client: AuthClient, epoch: int, sessions: Callable[[], list[m.TrackedSession]]) -> None:
        self._client = client
        self._epoch = str(epoch)
        self._sessions = sessions
        self._changed = asyncio.Event()
        self._told = False  # whether auth holds anything

    def changed(self) -> None:
        """What was told is not true any more."""
        self._changed.set()

    async def run(self) -> None:
        """Tells until cancelled, and takes it back then."""
        try:
            while True:
                failed = False
                try:
                    await self.tell()
                except TeleportError as error:
                    failed = True
                    log.debug("running sessions could not be told: %s", error)
                with suppress(TimeoutError):
                    async with asyncio.timeout(RETRY if failed else EVERY):
                        await self._changed.wait()
                        await asyncio.sleep(TOGETHER)
        finally:
            if self._told:
                with suppress(TeleportError, TimeoutError):
                    async with asyncio.timeout(FAREWELL):
                        await self._tell([])

    async def tell(self) -> None:
        """Once, now; nothing when there is nothing to tell."""
        self._changed.clear()
        sessions = self._sessions()
        if sessions or self._told:
            await self._tell(sessions)

    async def _tell(self, sessions: list[m.TrackedSession]) -> None:
        await self._client.call(routes.TRACK_SESSIONS, m.TrackSessionsRequest(epoch=self._epoch, sessions=sessions))
        self._told = bool(sessions)
