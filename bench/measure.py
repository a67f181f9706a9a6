"""Measuring in turns, and the rows that come of it."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

TURNS = 5


@dataclass(frozen=True, slots=True)
class Spread:
    """Several measurements of one thing."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def show(self, unit: str) -> str:
        """Median and range, in figures that can be compared at a glance."""
        digits = 3 if unit == "s" else 0
        low, high = min(self.values), max(self.values)
        return f"{self.median:,.{digits}f} {unit} ({low:,.{digits}f}-{high:,.{digits}f})"


@dataclass(frozen=True, slots=True)
class Target:
    """A bound on the ratio (ours to the reference), or on our own figure where `absolute`."""

    bound: float
    at_least: bool = False
    absolute: bool = False

    def met(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.bound:g}{' s' if self.absolute else ''}"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    what: str
    ours: Spread
    unit: str
    reference: Spread | None = None
    against: str = ""  # what the reference is
    target: Target | None = None

    @property
    def ratio(self) -> float | None:
        """Ours to the reference, of the medians."""
        return self.ours.median / self.reference.median if self.reference else None

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        value = self.ours.median if self.target.absolute else self.ratio
        return value is not None and self.target.met(value)


def timed(action: Callable[[], object]) -> float:
    """Seconds that `action` takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def in_turns(
    candidates: Mapping[str, Callable[[], float]],
    *,
    turns: int = TURNS,
    warm_up: bool = True,
    settle: Callable[[], None] = lambda: None,
) -> dict[str, Spread]:
    """Calls the candidates one after another, `turns` times round, so that what disturbs one disturbs all.

    Each returns its own figure. `settle` runs before each, untimed: it waits until nothing of the turn before is left.
    """
    found: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(-1 if warm_up else 0, turns):
        for name, measure in candidates.items():
            settle()
            value = measure()
            if turn >= 0:
                found[name].append(value)
    return {name: Spread(tuple(values)) for name, values in found.items()}


@dataclass
class Table:
    """Prints rows as they come."""

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, row: Row) -> None:
        self.rows.append(row)
        ratio = f"{row.ratio:.3f}" if row.ratio is not None else ""
        verdict = {None: "", True: "met", False: "MISSED"}[row.met]
        against = f"{row.against}: {row.reference.show(row.unit)}" if row.reference else ""
        cells = [row.what, row.ours.show(row.unit), against, ratio, str(row.target or ""), verdict]
        self._line(cells)

    def note(self, text: str) -> None:
        """A line below the rows that came before."""
        self.notes.append(text)
        sys.stdout.write(f"  {text}\n")
        sys.stdout.flush()

    def head(self) -> None:
        self._line(["what", "ours: median (range)", "reference: median (range)", "ratio", "target", ""])

    def _line(self, cells: Sequence[str]) -> None:
        widths = (44, 30, 56, 7, 9, 6)
        sys.stdout.write(
            "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip() + "\n"
        )
        sys.stdout.flush()
