"""Searches of the place that stands first in `audit_events_uri`, and of auth's own log when that place does not serve.

An answer never lacks an event without saying so. The place is asked once it has all that the log held when the search
began, by auth's books and by the place's own mark (`marks`). When it is away, or behind and does not catch up at once,
auth's own log is searched and the answer says why: the log has every event that was not pruned. Both put events in the
same order, and a page's key fits either, so that a list may begin with one and go on with the other. Who may see events
is decided before, and by neither.

Readers of events are told one of a few reasons. What the place said, which names servers and accounts, is in auth's own
log alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final, Protocol

from teleport.audit.cursor import Cursor
from teleport.audit.search import Page, Query, micros, place_after
from teleport.errors import TeleportError

CATCH_UP: Final = 2.0  # seconds that a search waits for what the place has not got yet
ANSWER: Final = 10.0  # seconds that the place is given for one page

TOLD_AGAIN: Final = 300.0  # seconds until auth's log has a reason again

log = logging.getLogger(__name__)


class Why(StrEnum):
    """Why a place is not searched, as readers are told."""

    AWAY = "it does not serve"
    BEHIND = "it has not got all events yet"
    SLOW = "it has not answered in time"
    MAKING = "it is being made ready"


class NotReady(TeleportError):
    """The place is there and has not been made ready for searches yet."""


class Searched(Protocol):
    """Who finds events: `audit.search.Searcher`, or a place."""

    async def search(self, query: Query) -> Page:
        """Raises `BadRequest` for a query that cannot be meant, `TeleportError` when there is no answer."""
        ...


class Place(Searched, Protocol):
    async def mark(self) -> Cursor:
        """How far the place itself says that it has events. Raises `TeleportError`."""
        ...

    async def close(self) -> None: ...


class Brings(Protocol):
    """Who brings events there: `copier.Copier`."""

    name: str
    problem: str

    async def has_all(self, within: float, mark: Callable[[], Awaitable[Cursor]]) -> bool:
        """Whether the place has what the log holds at this moment, by its own `mark`, too, or gets it in time."""
        ...


@dataclass(frozen=True, slots=True)
class Found:
    """A page, and what whoever reads it has to know of where it is from."""

    page: Page
    notice: str = ""


class FirstSearched:
    """Searches the place where it can, else the log."""

    def __init__(
        self,
        own: Searched,
        place: Place,
        brings: Brings,
        *,
        keep: timedelta | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        catch_up: float = CATCH_UP,
        answer: float = ANSWER,
    ) -> None:
        """`keep`: the place itself removes events that auth took in longer ago, whatever the log still has."""
        self._own = own
        self._place = place
        self._brings = brings
        self._keep = keep
        self._now = now
        self._catch_up = catch_up
        self._answer = answer
        self._behind = False  # it did not catch up in time: the next search does not wait for it
        self._told: dict[Why, float] = {}  # when auth's log got a reason, by the loop's clock
        self._said = False  # auth's log has a reason, and not yet that it is over

    async def search(self, query: Query) -> Found:
        place_after(query)
        try:
            why = await self._why_not()
            if why is None:
                async with asyncio.timeout(self._answer):
                    page = await self._place.search(query)
                self._serves()
                return Found(page, self._removed(query, page))
            details = ""
        except TimeoutError:
            why, details = Why.SLOW, f"no answer within {self._answer:g} s"
        except NotReady as error:
            why, details = Why.MAKING, error.message
        except TeleportError as error:
            why, details = Why.AWAY, error.message
        self._tell(why, details)
        notice = (
            f"{self._brings.name} is not searched: {why}; this is from auth's own log, without what was pruned there"
        )
        return Found(await self._own.search(query), notice)

    async def close(self) -> None:
        await self._place.close()

    async def _why_not(self) -> Why | None:
        """Why the place cannot be asked. Raises what the place does."""
        if self._brings.problem:
            raise TeleportError(self._brings.problem)
        self._behind = not await self._brings.has_all(0.0 if self._behind else self._catch_up, self._mark)
        if not self._behind:
            return None
        if self._brings.problem:
            raise TeleportError(self._brings.problem)
        return Why.BEHIND

    async def _mark(self) -> Cursor:
        async with asyncio.timeout(self._answer):
            return await self._place.mark()

    def _removed(self, query: Query, page: Page) -> str:
        """What is to be said of a page that goes back to where the place may have removed events."""
        if self._keep is None:
            return ""
        first = self._now() - self._keep
        begin, start = micros(first), query.start
        if start is not None and micros(start) >= begin:
            return ""
        if not query.oldest_first and page.next_key and -int(page.next_key.partition("/")[0]) >= begin:
            return ""  # it ends before
        return (
            f"{self._brings.name} removes events after a time: those that auth took in before "
            f"{first:%Y-%m-%d %H:%M} UTC are not there any more, and may still be in auth's own log"
        )

    def _tell(self, why: Why, details: str) -> None:
        """Each reason once in a while, however often a place comes and goes."""
        now = asyncio.get_running_loop().time()
        if why not in self._told or now - self._told[why] >= TOLD_AGAIN:
            self._told[why] = now
            self._said = True
            told = f"{why}: {details}" if details else str(why)
            log.warning("audit events are searched in auth's own log, not at %s: %s", self._brings.name, told)

    def _serves(self) -> None:
        if self._said:
            log.info("audit events are searched at %s again", self._brings.name)
        self._said = False
