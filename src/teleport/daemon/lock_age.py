"""Open sessions when locks are not heard of any more: strict cluster or role, and the sessions end.

What comes from auth is noticed by the cache; that nothing comes, by nobody but a clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from teleport.authz.locks import LOCKS_HOLD
from teleport.daemon.view import View

LOOK_EVERY: Final = 5.0  # seconds


class LockAge:
    """Tells when the locks cease to be known."""

    def __init__(self, view: View, ceased: Callable[[], None]) -> None:
        self._view = view
        self._ceased = ceased
        self._known = True

    def look(self) -> None:
        """Calls `ceased` once each time that the locks become too old."""
        known = self._view.cache.age(self._view.clock.now()) <= LOCKS_HOLD
        if self._known and not known:
            self._ceased()
        self._known = known

    async def run(self) -> None:
        """Looks every few seconds until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_EVERY)
