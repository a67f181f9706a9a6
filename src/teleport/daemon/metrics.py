"""Numbers of a running daemon for whoever monitors it, as `/metrics` of the diagnostics listener shows them.

Each is read when it is asked for. The text is Prometheus' format 0.0.4
(https://prometheus.io/docs/instrumenting/exposition_formats/); names are those of `operations.md` 4.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

log = logging.getLogger(__name__)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Gauge:
    """A number that goes up and down; with a `label`, one for each of its values."""

    name: str
    meaning: str
    label: str = ""


Read = Callable[[], float | Mapping[str, float]]


class Metrics:
    """The gauges of this daemon, in the order of their names."""

    def __init__(self) -> None:
        self._read: dict[Gauge, Read] = {}

    def add(self, gauge: Gauge, read: Read) -> None:
        """`read` gives a number, or with a label a number for each value of it."""
        self._read[gauge] = read

    def text(self) -> str:
        """All of them; one that cannot be read is left out, and said in the log."""
        lines: list[str] = []
        for gauge in sorted(self._read, key=lambda one: one.name):
            try:
                lines += shown(gauge, self._read[gauge]())
            except Exception:  # the others are still to be seen
                log.exception("the metric %s cannot be read", gauge.name)
        return "".join(f"{line}\n" for line in lines)


def shown(gauge: Gauge, value: float | Mapping[str, float]) -> list[str]:
    """The lines of one gauge."""
    head = [f"# HELP {gauge.name} {gauge.meaning}", f"# TYPE {gauge.name} gauge"]
    if not isinstance(value, Mapping):
        return [*head, f"{gauge.name} {_number(value)}"]
    return head + [f'{gauge.name}{{{gauge.label}="{_escaped(of)}"}} {_number(n)}' for of, n in sorted(value.items())]


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
