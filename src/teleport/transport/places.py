"""Places among the connections of users whose roles limit those (`max_connections`), held at auth while they last.

One task renews all of them. A connection whose place is lost, or could not be renewed until its end, has to go:
somebody else may hold a place instead by then. Without auth nobody with such a limit gets in.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Protocol
from uuid import uuid4

from teleport.errors import TeleportError

log = logging.getLogger(__name__)

_SHORTEST: Final = 0.2  # seconds between two renewals
_ASK_SECONDS: Final = 10.0  # for an answer of auth
LOST: Final = "too many connections: its place was given away while auth was not reached"
LAPSED: Final = "connections are limited, and auth could not be reached to count this one"


@dataclass(eq=False, slots=True)
class Place:
    """One counted connection."""

    user: str
    most: int
    id: str = field(default_factory=lambda: str(uuid4()))
    until: float = 0.0  # loop time at which it lapses
    gone: Callable[[str], None] = lambda reason: None  # called when it is lost


class Control(Protocol):
    """Auth's count. All raise `TeleportError` when auth does not answer."""

    async def hold(self, place: Place) -> float:
        """Holds a place and says for how many seconds; `LimitExceeded` when there is none."""
        ...

    async def renew(self, places: Sequence[Place]) -> tuple[float, frozenset[str]]:
        """Renews places; for how many seconds, and the ids of those that are lost."""
        ...

    async def release(self, places: Sequence[Place]) -> None: ...


class NoControl:
    """For a service that reaches no auth: nobody is counted, so nobody whose roles have a limit gets in."""

    async def hold(self, place: Place) -> float:
        raise TeleportError("connections are not counted here")

    async def renew(self, places: Sequence[Place]) -> tuple[float, frozenset[str]]:
        return 0.0, frozenset(place.id for place in places)

    async def release(self, places: Sequence[Place]) -> None:
        return


class Places:
    """The places that this service holds."""

    def __init__(self, control: Control, in_background: Callable[[Coroutine[Any, Any, None], str], None]) -> None:
        self._control = control
        self._in_background = in_background
        self._held: set[Place] = set()
        self._seconds = 0.0
        self._renewing = False

    def __len__(self) -> int:
        return len(self._held)

    async def enter(self, user: str, most: int) -> Place:
        """A place for a connection; raises `LimitExceeded`, or another `TeleportError` when nobody can tell."""
        place = Place(user, most)
        loop = asyncio.get_running_loop()
        asked = loop.time()
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                self._seconds = await self._control.hold(place)
        except TimeoutError:
            self._in_background(self._release(place), "let go of a place")  # perhaps it was held
            raise TeleportError("auth did not answer in time") from None
        except asyncio.CancelledError:
            self._in_background(self._release(place), "let go of a place")
            raise
        place.until = asked + self._seconds
        self._held.add(place)
        if not self._renewing:
            self._renewing = True
            self._in_background(self._renew(), "count connections")
        return place

    def leave(self, place: Place) -> None:
        """The connection is over."""
        if place in self._held:
            self._held.discard(place)
            self._in_background(self._release(place), "let go of a place")

    async def _release(self, place: Place) -> None:
        with suppress(TeleportError, TimeoutError):  # it lapses
            async with asyncio.timeout(_ASK_SECONDS):
                await self._control.release([place])

    async def _renew(self) -> None:
        """Renews in time while there is something to renew."""
        loop = asyncio.get_running_loop()
        try:
            wait = self._seconds / 2
            while self._held:
                await asyncio.sleep(max(wait, _SHORTEST))
                wait = self._seconds / 2 if await self._renew_once(loop) else self._seconds / 10
        finally:
            self._renewing = False

    async def _renew_once(self, loop: asyncio.AbstractEventLoop) -> bool:
        asked, places = loop.time(), list(self._held)
        left = min((place.until for place in places), default=asked) - asked
        renewed = True
        try:
            async with asyncio.timeout(min(_ASK_SECONDS, max(left, _SHORTEST))):
                self._seconds, lost = await self._control.renew(places)
        except (TeleportError, TimeoutError) as error:
            log.warning("the places of %d connections could not be renewed: %s", len(places), error or "no answer")
            renewed, lost = False, frozenset()
        for place in places:
            if place.id in lost:
                self._lose(place, LOST)
            elif renewed:
                place.until = asked + self._seconds
            elif loop.time() >= place.until - _SHORTEST:
                self._lose(place, LAPSED)
        return renewed

    def _lose(self, place: Place, reason: str) -> None:
        if place in self._held:
            self._held.discard(place)
            place.gone(reason)
