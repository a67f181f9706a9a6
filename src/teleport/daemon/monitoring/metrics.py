"""Numbers of a running daemon for whoever monitors it, as `/metrics` of the diagnostics listener shows them.

Each gauge is read when it is asked for; what was counted meanwhile is in `teleport.counted`. The text is Prometheus'
format 0.0.4 (https://prometheus.io/docs/instrumenting/exposition_formats/); names are those of `operations.md` 4.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from teleport.counted import Counter, Histogram

log = logging.getLogger(__name__)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Gauge:
    """A number that goes up and down; with a `label`, one for each of its values."""

    name: str
    meaning: str
    label: str = ""
    of: str = "all"  # which service shows it
    counts: bool = False  # it only grows: what somebody else counts


Read = Callable[[], float | Mapping[str, float]]


class Metrics:
    """The gauges of this daemon and what it counts, in the order of their names."""

    def __init__(self) -> None:
        self._read: dict[Gauge, Read] = {}
        self._counted: list[Counter | Histogram] = []

    def add(self, gauge: Gauge, read: Read) -> None:
        """`read` gives a number, or with a label a number for each value of it."""
        self._read[gauge] = read

    def count(self, counted: Iterable[Counter | Histogram]) -> None:
        """Shows these, too."""
        self._counted += [one for one in counted if one not in self._counted]

    def text(self) -> str:
        """All of them; one that cannot be read is left out, and said in the log."""
        shown_by: dict[str, list[str]] = {one.name: counted(one) for one in self._counted}
        for gauge, read in self._read.items():
            try:
                shown_by[gauge.name] = shown(gauge, read())
            except Exception:  # the others are still to be seen
                log.exception("the metric %s cannot be read", gauge.name)
        return "".join(f"{line}\n" for name in sorted(shown_by) for line in shown_by[name])


def shown(gauge: Gauge, value: float | Mapping[str, float]) -> list[str]:
    """The lines of one gauge."""
    values = value if isinstance(value, Mapping) else {"": value}
    kind = "counter" if gauge.counts else "gauge"
    return [*_head(gauge.name, gauge.meaning, kind), *_values(gauge.name, gauge.label, values)]


def counted(one: Counter | Histogram) -> list[str]:
    """The lines of what was counted."""
    if isinstance(one, Counter):
        return [*_head(one.name, one.meaning, "counter"), *_values(one.name, one.label, one.values)]
    lines, so_far = _head(one.name, one.meaning, "histogram"), 0
    for bound, count in zip((*one.bounds, float("inf")), one.counts, strict=True):
        so_far += count
        le = "+Inf" if bound == float("inf") else repr(float(bound))
        lines.append(f'{one.name}_bucket{{le="{le}"}} {so_far}')
    return [*lines, f"{one.name}_sum {_number(one.sum)}", f"{one.name}_count {so_far}"]


def _head(name: str, meaning: str, kind: str) -> list[str]:
    return [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]


def _values(name: str, label: str, values: Mapping[str, float]) -> list[str]:
    if not label:
        return [f"{name} {_number(value)}" for value in values.values()]
    return [f'{name}{{{label}="{_escaped(of)}"}} {_number(value)}' for of, value in sorted(values.items())]


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
