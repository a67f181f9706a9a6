"""Searches of the place that stands first in `audit_events_uri`, and of auth's own log when that place does not serve.

An answer never lacks an event without saying so. The place is asked once it has all that the log held when the search
began. When it is away, or behind and does not catch up at once, auth's own log is searched and the answer says why: the
log has every event that was not pruned. Both put events in the same order, and a page's key fits either, so that a list
may begin with one and go on with the other. Who may see events is decided before, and by neither.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Final, Protocol

from teleport.audit.search import Page, Query, place_after
from teleport.errors import TeleportError

CATCH_UP: Final = 2.0  # seconds that a search waits for what the place has not got yet
ANSWER: Final = 10.0  # seconds that the place is given for one page

log = logging.getLogger(__name__)


class Searched(Protocol):
    """Who finds events: `audit.search.Searcher`, or a place."""

    async def search(self, query: Query) -> Page:
        """Raises `BadRequest` for a query that cannot be meant, `TeleportError` when there is no answer."""
        ...


class Place(Searched, Protocol):
    async def close(self) -> None: ...


class Brings(Protocol):
    """Who brings events there: `copier.Copier`."""

    name: str
    problem: str

    async def has_all(self, within: float) -> bool:
        """Whether the place has what the log holds at this moment, or gets it in time."""
        ...


@dataclass(frozen=True, slots=True)
class Found:
    """A page, and what whoever reads it has to know of where it is from."""

    page: Page
    notice: str = ""


class FirstSearched:
    """Searches the place where it can, else the log."""

    def __init__(
        self, own: Searched, place: Place, brings: Brings, *, catch_up: float = CATCH_UP, answer: float = ANSWER
    ) -> None:
        self._own = own
        self._place = place
        self._brings = brings
        self._catch_up = catch_up
        self._answer = answer
        self._behind = False  # it did not catch up in time: the next search does not wait for it
        self._told = ""

    async def search(self, query: Query) -> Found:
        place_after(query)
        why = await self._why_not()
        if not why:
            try:
                async with asyncio.timeout(self._answer):
                    page = await self._place.search(query)
            except TimeoutError:
                why = f"it has not answered within {self._answer:g} s"
            except TeleportError as error:
                why = error.message
            else:
                self._tell("")
                return Found(page)
        self._tell(why)
        notice = (
            f"{self._brings.name} is not searched: {why}; this is from auth's own log, without what was pruned there"
        )
        return Found(await self._own.search(query), notice)

    async def close(self) -> None:
        await self._place.close()

    async def _why_not(self) -> str:
        """Why the place cannot be asked; empty when it can."""
        if self._brings.problem:
            return self._brings.problem
        try:
            self._behind = not await self._brings.has_all(0.0 if self._behind else self._catch_up)
        except TeleportError as error:
            return error.message
        if self._behind:
            return self._brings.problem or "it has not got all events yet"
        return ""

    def _tell(self, why: str) -> None:
        if why and why != self._told:
            log.warning("audit events are searched in auth's own log, not at %s: %s", self._brings.name, why)
        if self._told and not why:
            log.info("audit events are searched at %s again", self._brings.name)
        self._told = why
