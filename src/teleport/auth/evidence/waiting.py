"""What happened and is not in the log yet: an answer about events that lacks some says so.

Events wait for moments as a rule. They wait for long when a process that holds the store's lock does not get on, or
when the store cannot be written: nothing is lost then, but who searches must not believe that nothing happened.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final, Protocol

from teleport.api import messages as m
from teleport.audit import store_lock
from teleport.audit.intake import Intake
from teleport.audit.outbox import PREFIX, told_at
from teleport.audit.store_lock import StoreLock
from teleport.clock import Clock

COUNTED: Final = 1000  # records of the outbox, at most


class Outbox(Protocol):
    async def first(self, prefix: str, most: int) -> Sequence[str]:
        """Keys below a prefix, in their order."""
        ...


class Waiting:
    """Asked for each answer."""

    def __init__(
        self, records: Outbox, lock: StoreLock, intake: Intake, problem: Callable[[], str], clock: Clock
    ) -> None:
        """`problem` says why the outbox is not emptied, if that is known."""
        self.lock = lock
        self._records = records
        self._intake = intake
        self._problem = problem
        self._clock = clock

    async def now(self) -> m.EventsWaiting | None:
        """Those that have waited for longer than a step takes; nothing when there are none."""
        keys = await self._records.first(PREFIX, COUNTED)
        now = self._clock.now()
        held = self.lock.held_up()
        if held is not None:
            since = min([now - timedelta(seconds=held.seconds), *(told_at(key) for key in keys[:1])])
            return m.EventsWaiting(count=len(keys) + self._intake.coming, since=since, cause=str(held))
        late = [at for at in map(told_at, keys) if at <= now - timedelta(seconds=store_lock.TELL_AFTER)]
        if not late:
            return None
        return m.EventsWaiting(count=len(late), since=late[0], cause=self._problem())

    def coming(self) -> int:
        """Events here that wait for the store, at least."""
        return self._intake.coming

    def seconds(self) -> float:
        """For how long somebody has held up the store; 0 when nobody does."""
        held = self.lock.held_up()
        return held.seconds if held is not None else 0
