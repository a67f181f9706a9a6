"""After how many seconds auth breaks the silence of a watch. Pure.

A line in 40 s tells a reader within a minute that the stream is dead. Of ten thousand watches, each through a tunnel,
those lines were most of what auth, proxies and hosts did while nothing happened; so where there are many, and the
reader heeds it, each line says for how long there may be none after it. A host that announces itself within its watch
is answered there, which is such a line: the next one is due when its next announcement should have come.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from teleport.auth.hosts.unchanged import EVERY

HEARTBEAT: Final = 40.0  # seconds; a reader who was told nothing else gives up after 60
LONGEST: Final = 150.0  # seconds, unless an announcement comes before; a reader gives up a while later (`api.client`)
LATE: Final = 15.0  # seconds by which an announcement may be late
LINES: Final = 60  # in a second, to all
SOONER: Final = 0.25  # of the time, at most: all that heard of a change at once do not stay in step


class Pace:
    """Of one watch."""

    def __init__(self, all_of_them: Silence, patient: bool) -> None:
        self._all = all_of_them
        self._patient = patient
        self._expected = 0.0
        self.seconds = HEARTBEAT  # as the reader was told

    @property
    def pause(self) -> float:
        """Seconds until the next line, which differ each time; of those that announce themselves the times do."""
        if self.seconds <= self._expected or not self._patient:
            return self.seconds
        return self.seconds * (1 - SOONER * secrets.randbelow(1000) / 1000)

    def expect(self, within: float) -> None:
        """An announcement comes within so many seconds, 0: nobody knows. Heeded from the next line on."""
        self._expected = within + LATE if within > EVERY else 0.0

    def anew(self, at_least: float = 0.0) -> int:
        """`WatchLine.within` of a line that breaks the silence: from now on this pace counts. `at_least`: seconds in
        which nobody thinks of the next one."""
        if not self._patient:
            return 0
        self.seconds = max(self._all.seconds, self._expected, math.ceil(at_least))
        return int(self.seconds)


class Silence:
    """Of an auth service there is one."""

    def __init__(self) -> None:
        self._open = 0

    @property
    def seconds(self) -> float:
        """What so many watches as are open make of it."""
        return min(max(self._open / LINES, HEARTBEAT), LONGEST)

    @contextmanager
    def watch(self, patient: bool) -> Iterator[Pace]:
        """One more, as long as it is open."""
        self._open += 1
        try:
            yield Pace(self, patient)
        finally:
            self._open -= 1
