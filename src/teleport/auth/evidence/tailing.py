"""Reading the log by a cursor over the API: for those who may list events (`audit.following`)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

from teleport.api import messages as m
from teleport.audit.cursor import Cursor
from teleport.audit.following import MOST_LINES, end_of, read_on
from teleport.auth.caller import Caller
from teleport.auth.evidence.waiting import Waiting
from teleport.errors import BadRequest
from teleport.transport.turns import Turns

AT_ONCE: Final = 2  # stretches of all callers that are read
OF_ONE: Final = 8  # of one caller that wait
MOST_TYPES: Final = 100


class Tailing:
    """The handler."""

    def __init__(self, directory: Path, durable: Callable[[], Awaitable[Mapping[str, str]]], waiting: Waiting) -> None:
        """`durable` says of each store how far it is kept for good."""
        self._directory = directory
        self._durable = durable
        self._waiting = waiting
        self._turns = Turns("readers of the audit log", at_once=AT_ONCE, of_one=OF_ONE)

    async def tail(self, caller: Caller, request: m.TailEventsRequest) -> m.TailedEvents:
        """What follows the cursor. `NotFound` when the log does not hold what was read before it."""
        if not 0 < request.limit <= MOST_LINES:
            raise BadRequest(f"limit {request.limit}: between 1 and {MOST_LINES}", hint="ask again for what follows")
        if len(request.types) > MOST_TYPES:
            raise BadRequest(f"{len(request.types)} types: at most {MOST_TYPES}", hint="name a group: session.*")
        if request.from_now and request.cursor:
            raise BadRequest("a cursor says already where to begin", hint="give a cursor, or from_now")
        cursor = Cursor.parse(request.cursor)
        async with self._turns.of(caller.name):
            durable = await self._durable()
            if request.from_now:
                end = await asyncio.to_thread(end_of, self._directory, durable)
                return m.TailedEvents(events=[], cursor=str(end))
            types = tuple(request.types)
            found = await asyncio.to_thread(
                lambda: read_on(self._directory, cursor, durable, types=types, limit=request.limit)
            )
        events = [
            m.TailedEvent(
                line=one.line.decode("utf-8", "replace"),
                store=one.store,
                file=one.place.file,
                offset=one.place.offset,
                check=one.place.check,
            )
            for one in found.taken
        ]
        waiting = await self._waiting.now()
        return m.TailedEvents(events=events, cursor=str(found.cursor), more=found.more, waiting=waiting)
