"""Whether what has the authorities' keys is there: without it auth serves what needs no signature."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from teleport.auth.authorities.keys import AuthorityKeys
from teleport.errors import TeleportError

log = logging.getLogger(__name__)

EVERY: Final = 5.0  # seconds between two looks


class KeyCheck:
    """Looks again and again, also so that what was away is taken up before somebody needs it."""

    def __init__(self, keys: AuthorityKeys) -> None:
        self._keys = keys
        self.problem = ""  # why nothing can be signed now; empty when it can

    async def run(self) -> None:
        """Until cancelled. A change is in the log."""
        while True:
            await self.look()
            await asyncio.sleep(EVERY)

    async def look(self) -> None:
        """Sets `problem`. What does not answer is not waited for without end: `AuthorityKeys.check` raises then."""
        try:
            await self._keys.check()
        except TeleportError as error:
            self._say(str(error))
        else:
            self._say("")

    def _say(self, problem: str) -> None:
        before, self.problem = self.problem, problem
        if problem and not before:
            log.error("nothing can be signed, so nobody can log in and no host can join or renew: %s", problem)
        elif before and not problem:
            log.info("the authorities' keys sign again")
