"""Looking for what is to be pruned, round by round: seldom, and soon again while a checkpoint is waited for."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from typing import ClassVar, Final

from teleport.audit.checkpoints import LeaseElsewhere
from teleport.errors import TeleportError

LOOK: Final = 3600.0  # seconds between looks
SOON: Final = 15.0  # seconds until a checkpoint has seen what was said

log = logging.getLogger(__name__)


class Rounds(ABC):
    """A task that prunes. `problem` is why it does not; empty when nothing hinders it."""

    what: ClassVar[str]
    """The beginning of the sentence that ends with "not pruned"."""

    problem = ""

    async def run(self) -> None:
        """Until cancelled."""
        soon = SOON
        while True:
            wait = LOOK
            try:
                if await self.step():
                    wait, soon = soon, min(2 * soon, LOOK)  # the whole log is proved each time
                else:
                    soon = SOON
                self.problem = ""
            except LeaseElsewhere:
                self.problem = ""
            except Exception as error:  # whatever it was: nothing is pruned, and this is seen
                message = error.message if isinstance(error, TeleportError) else repr(error)
                if message != self.problem:
                    hint = f" ({error.hint})" if isinstance(error, TeleportError) and error.hint else ""
                    log.error("%s not pruned: %s%s", self.what, message, hint)
                self.problem = message
            await asyncio.sleep(wait)

    @abstractmethod
    async def step(self) -> bool:
        """One round; whether something was said that waits for a checkpoint. Raises `TeleportError` when the log does
        not verify."""
