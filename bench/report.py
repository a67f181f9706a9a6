"""Rows with a target each, printed as they come and once more as a table."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field


@dataclass(slots=True)
class Report:
    """Rows of the table: what, the figure, the target and whether it is met."""

    rows: list[tuple[str, str, str, str]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def row(self, what: str, figure: str, target: str = "", met: bool | None = None) -> None:
        verdict = {None: "unclear" if target else "", True: "met", False: "MISSED"}[met]
        self.rows.append((what, figure, target, verdict))
        say(f"  {what}: {figure}")

    def show(self) -> str:
        rows = [("what", "figure", "target", ""), *self.rows]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join(lines)


def say(text: str) -> None:
    """A line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
