"""What the two sides of one watch know of each other: what is told in it, and what its caller says in it.

A watch follows all that decides about its caller. So what was found out about the caller for one announcement holds for
the next ones, as long as nothing of that has changed: of ten thousand hosts, asking the storage six times for each was
most of what auth did while nobody connected. And the answer to an announcement is a sign of life of the watch, so that
none has to be made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from teleport.auth.hosts.silence import Pace
from teleport.backend.interface import Condition

STUCK: Final = 5.0  # seconds by which the side that tells wakes too late, or it is stuck


@dataclass(frozen=True, slots=True)
class Found:
    """What holds of a caller that may announce itself."""

    forced: Mapping[str, str] = field(default_factory=dict)  # labels that its token forces on it
    given: tuple[Condition, ...] = ()  # that its record is still the one by which this was found


class Watching:
    """Of one watch. Nothing is believed of it before it has begun to follow."""

    def __init__(self) -> None:
        self._pace: Pace | None = None
        self._revision = 0
        self._turns = 0  # of what decides
        self._since = 0
        self._found: Found | None = None
        self._holds: Found | None = None  # for what is said now
        self._rests = False  # the side that tells has looked at all there was, and waits for changes alone
        self._wakes = 0.0  # loop time until which it rests
        self._due = 0.0  # when a line is due

    # the side that tells

    def begin(self, pace: Pace) -> None:
        """It follows from here on."""
        self._pace = pace
        self._said(asyncio.get_running_loop().time())

    def rest(self, most: float) -> float:
        """It waits for changes now, until a line is due or for `most` seconds: which is less."""
        now = asyncio.get_running_loop().time()
        seconds = min(self.pause, most)
        self._rests, self._wakes = True, now + seconds
        return seconds

    def wake(self) -> None:
        """It has something to do."""
        self._rests = False

    def doubt(self) -> None:
        """Something that decides about the caller has changed, or may have."""
        self._turns += 1
        self._found = None

    def tells(self, revision: int) -> None:
        """A line is told now, which is of this revision."""
        self._revision = revision
        self._said(asyncio.get_running_loop().time())

    @property
    def pause(self) -> float:
        """Seconds until a sign of life is due; 0 when it is."""
        return max(self._due - asyncio.get_running_loop().time(), 0.0)

    def _said(self, now: float) -> None:
        assert self._pace is not None
        self._due = now + self._pace.pause

    # the side that hears

    def look(self) -> None:
        """The caller says something, one thing after another: `found` is what holds for it, and what is found out now
        is found out from here on."""
        self._since, self._holds = self._turns, self._found if self._rests else None

    @property
    def found(self) -> Found | None:
        """What was found out before and held when the caller began to say this."""
        return self._holds

    def find(self, found: Found) -> None:
        """That was found out since `look`; it does not hold when something has changed meanwhile, or may have: a side
        that tells and whose reader does not read hears of nothing."""
        if self._rests and self._since == self._turns:
            self._found = found

    def expect(self, within: float) -> None:
        """The caller says something again within so many seconds, and is answered; 0: nobody knows."""
        if self._pace is not None:
            self._pace.expect(within)

    def sign(self) -> tuple[int, int]:
        """`WatchLine.revision` and `within` of an answer, which thereby is a sign of life of the side that tells; zeros
        when it is none: that side has something to do, or does not wake, or its reader waits for signs of their own."""
        now = asyncio.get_running_loop().time()
        if self._pace is None or not self._rests or now > self._wakes + STUCK:
            return 0, 0
        within = self._pace.anew(at_least=self._wakes - now)
        if not within:
            return 0, 0
        self._said(now)
        return self._revision, within
