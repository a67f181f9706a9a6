"""How figures are shown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

KB = 1000


def p95(values: Sequence[float]) -> float:
    """The smallest value that 95 of a hundred do not exceed."""
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]


def seconds(values: Sequence[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.2f} s ({min(values):.2f}-{max(values):.2f})"


def milliseconds(values: Sequence[float]) -> str:
    """p50 and p95."""
    return f"p50 {statistics.median(values):.1f} ms, p95 {p95(values):.1f} ms"
