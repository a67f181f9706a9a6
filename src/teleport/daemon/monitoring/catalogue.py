"""Every metric that a daemon of this version can show, for documentation, dashboards and their tests."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

from teleport import counted
from teleport.counted import Counter, Histogram
from teleport.daemon import keypairs, logs, tracing
from teleport.daemon.monitoring import looking, process_metrics, service_metrics, tunnel_metrics
from teleport.daemon.monitoring.metrics import Gauge

MODULES = (keypairs, logs, looking, process_metrics, service_metrics, tracing, tunnel_metrics)


@dataclass(frozen=True, slots=True)
class Described:
    """One metric as its page tells of it."""

    name: str
    kind: str  # gauge, counter or histogram
    label: str
    of: str
    meaning: str

    @property
    def samples(self) -> tuple[str, ...]:
        """Under which names its values are shown."""
        if self.kind != "histogram":
            return (self.name,)
        return tuple(f"{self.name}{suffix}" for suffix in ("_bucket", "_sum", "_count"))


def catalogue() -> list[Described]:
    """All of them, in the order of their names. Raises `ValueError` when two have one name."""
    found: list[Described] = []
    for one in (*counted.ALL, *counted.AUTH, *counted.S3, *counted.PROXY):
        found.append(_of_counted(one))
    for module in MODULES:
        found += _in(module)
    names = [one.name for one in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"metrics of one name: {', '.join(sorted(twice))}")
    return sorted(found, key=lambda one: one.name)


def _in(module: ModuleType) -> list[Described]:
    found = []
    for one in vars(module).values():
        if isinstance(one, Gauge):
            kind = "counter" if one.counts else "gauge"
            found.append(Described(one.name, kind, one.label, one.of, one.meaning))
        elif isinstance(one, Counter | Histogram):
            found.append(_of_counted(one))
    return found


def _of_counted(one: Counter | Histogram) -> Described:
    if isinstance(one, Counter):
        return Described(one.name, "counter", one.label, one.of, one.meaning)
    return Described(one.name, "histogram", "", one.of, one.meaning)
