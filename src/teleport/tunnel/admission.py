"""How many hosts may be about to be heard by auth through one proxy, and who comes next.

Thousands that come back at once could all begin: then each handshake takes longer than its host waits, and all of them
are for nothing, again and again. So a proxy lets `AT_ONCE` begin, and the next when one of these was answered. The last
to come is the first to go on: those who wait for long give up soon, and what is done for them is lost. Whoever could
not go on within `LONGEST` is told so, and comes again.

A few hosts that begin and then say nothing would keep all others out, so one has `OF_ONE` places at most.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final

AT_ONCE: Final = 64
OF_ONE: Final = 6  # a daemon with two services begins about so many when it starts
LONGEST: Final = 5.0  # seconds; a host waits 10 until it is connected (`api.client`)
HOLDS: Final = 3.0  # seconds; one that says nothing keeps nobody out for longer


class Admission:
    """Of one proxy, for all its tunnels."""

    def __init__(self, at_once: int = AT_ONCE, longest: float = LONGEST, holds: float = HOLDS) -> None:
        self._at_once = at_once
        self._longest = longest
        self._holds = holds
        self._within = 0
        self._of_one = Counter[str]()  # those within and those who wait, by host
        self._waiting: dict[asyncio.Future[None], None] = {}  # in the order in which they came

    async def enter(self, host_id: str) -> Callable[[], None] | None:
        """Goes on when it is the caller's turn; what is returned says that it was answered (or is over), and may be
        called again. None: it took too long, or too many of this host begin."""
        if self._of_one[host_id] >= OF_ONE:
            return None
        self._of_one[host_id] += 1
        admitted = False
        try:
            if self._within < self._at_once:
                self._within += 1
                admitted = True
            else:
                admitted = await self._waited()
        finally:
            if not admitted:
                self._left(host_id)
        return self._admitted(host_id) if admitted else None

    def _left(self, host_id: str) -> None:
        self._of_one[host_id] -= 1
        if not self._of_one[host_id]:
            del self._of_one[host_id]

    async def _waited(self) -> bool:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[turn] = None
        try:
            async with asyncio.timeout(self._longest):
                await turn
        except TimeoutError:
            return False
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave()  # it had its turn at this very moment
            raise
        finally:
            self._waiting.pop(turn, None)
        return True

    def _admitted(self, host_id: str) -> Callable[[], None]:
        left = False

        def leave() -> None:
            nonlocal left
            timer.cancel()
            if not left:
                left = True
                self._left(host_id)
                self._leave()

        timer = asyncio.get_running_loop().call_later(self._holds, leave)
        return leave

    def _leave(self) -> None:
        while self._waiting:
            turn, _ = self._waiting.popitem()
            if not turn.done():
                turn.set_result(None)
                return
        self._within -= 1
