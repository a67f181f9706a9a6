"""Costly work that many may ask for: a few pieces at once, and one of each caller, so that nobody who asks for much is
in the way of the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from teleport.errors import LimitExceeded


@dataclass(slots=True)
class _Turn:
    """The work of one caller, one piece after the other."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    asked: int = 0  # pieces, with the one that is being done


class Turns:
    """Who may work now."""

    def __init__(self, what: str, *, at_once: int, of_one: int) -> None:
        """`what` is asked for: searches. `of_one`: pieces of one caller that wait or are being done."""
        self._what = what
        self._of_one = of_one
        self._slots = asyncio.Semaphore(at_once)
        self._turns: dict[str, _Turn] = {}

    @asynccontextmanager
    async def of(self, who: str) -> AsyncIterator[None]:
        """Runs the block when it is the turn of `who`. Raises `LimitExceeded` when so many of theirs wait already."""
        turn = self._turns.setdefault(who, _Turn())
        if turn.asked >= self._of_one:
            raise LimitExceeded(
                f"{turn.asked} {self._what} of yours are under way already",
                hint="try again when one of them has ended",
                retry_after=1.0,
            )
        turn.asked += 1
        try:
            async with turn.lock, self._slots:
                yield
        finally:
            turn.asked -= 1
            if not turn.asked:
                del self._turns[who]
