"""Differences between things that are measured in the same rounds, and how sure they are.

A difference is the median of those within rounds; its interval comes of drawing the rounds anew (bootstrap, 95 %). On a
busy machine the interval is wide: a bound is met when the whole interval is on its side, missed when none of it is,
and otherwise the run does not tell.
"""

from __future__ import annotations

import os
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

DRAWS = 2000


@dataclass(frozen=True, slots=True)
class Interval:
    middle: float
    low: float
    high: float

    def show(self, unit: str, digits: int = 1) -> str:
        text = f"{self.middle:+.{digits}f} {unit} ({self.low:+.{digits}f} to {self.high:+.{digits}f})"
        return f"{text}, no more than noise" if self.low <= 0 <= self.high else text

    def verdict(self, most: float) -> bool | None:
        """Whether it is at most that; None: this run does not tell."""
        return True if self.high <= most else False if self.low > most else None


def interval(values: Sequence[float]) -> Interval:
    """Of the median."""
    chance = random.Random(1)
    drawn = sorted(statistics.median(chance.choices(values, k=len(values))) for _ in range(DRAWS))
    return Interval(statistics.median(values), drawn[DRAWS // 40], drawn[-DRAWS // 40])


def rounds(actions: Mapping[str, Callable[[], float]], count: int, warm: int) -> dict[str, list[float]]:
    """What each measures, in rounds whose order turns; the first `warm` do not count."""
    names = list(actions)
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(count + warm):
        for at in range(len(names)):
            name = names[(at + number) % len(names)]
            value = actions[name]()
            if number >= warm:
                found[name].append(value)
    return found


def more(found: Mapping[str, Sequence[float]], name: str, than: str) -> Interval:
    """How much more one is, round by round."""
    return interval([one - other for one, other in zip(found[name], found[than], strict=True)])


def load() -> str:
    """How busy the machine is, for the reader."""
    return f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"
