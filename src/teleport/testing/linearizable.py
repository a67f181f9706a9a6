"""Whether what callers saw of a storage can have happened in one order: the checker, and what it is given. Pure.

A history holds each call with the moments when it began and ended. It is linearizable when the calls can be put in an
order in which each has its effect at one moment between the two, and each saw what the calls before it in that order
had written. Calls of different keys do not matter to one another, so each key is looked at for itself.

A call whose answer was lost never ended: it may have had its effect at any time after it began, or never.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import inf


class Call(StrEnum):
    READ = "read"  # saw `found`
    PUT = "put"  # wrote `value`
    CREATE = "create"  # wrote `value` where nothing was; `done` is false when something was
    SWAP = "swap"  # wrote `value` where `found` was; `done` is false when something else was


@dataclass(frozen=True, slots=True)
class Done:
    """One call, and what came of it. Nothing stored is None."""

    call: Call
    key: str
    began: float
    ended: float = inf  # inf: nobody knows whether it was done
    value: str | None = None
    found: str | None = None
    done: bool = True

    @property
    def unknown(self) -> bool:
        return self.ended == inf

    def step(self, stored: str | None) -> tuple[bool, str | None]:
        """Whether it can have happened where `stored` was, and what is stored then."""
        match self.call:
            case Call.READ:
                return stored == self.found, stored
            case Call.PUT:
                return True, self.value
            case Call.CREATE:
                fits = stored is None
            case Call.SWAP:
                fits = stored == self.found
        if self.done:
            return fits, self.value
        return not fits, stored


def broken_keys(history: Iterable[Done]) -> list[str]:
    """The keys whose calls cannot have happened in any order."""
    by_key: dict[str, list[Done]] = defaultdict(list)
    for one in history:
        by_key[one.key].append(one)
    return sorted(key for key, calls in by_key.items() if not linearizable(calls))


def linearizable(calls: Sequence[Done]) -> bool:
    """Of one key: whether there is such an order. Tries all that the moments allow, and no state twice."""
    calls = sorted((one for one in calls if not (one.unknown and one.call is Call.READ)), key=lambda one: one.began)
    known = 0
    for at, one in enumerate(calls):
        if not one.unknown:
            known |= 1 << at
    seen: set[tuple[int, str | None]] = set()
    pending: list[tuple[int, str | None]] = [(0, None)]
    while pending:
        placed, stored = pending.pop()
        if placed & known == known:
            return True
        # the next in the order began before any of those left has ended
        horizon = min(one.ended for at, one in enumerate(calls) if not placed >> at & 1)
        for at, one in enumerate(calls):
            if placed >> at & 1:
                continue
            if one.began > horizon:
                break
            fits, after = one.step(stored)
            state = (placed | 1 << at, after)
            if fits and state not in seen:
                seen.add(state)
                pending.append(state)
    return False
