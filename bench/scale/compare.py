"""How long a connect takes where all hosts are, compared with a cluster that has one.

Machines change their pace by a fifth within a minute, so both are measured in turns, a few connects at a time, over
minutes. While it is the turn of the one host, the large cluster is stopped (SIGSTOP): nothing of it takes a processor
away, as on a machine where there never was more than one host.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.report import Report
from bench.scale.deployment import Deployment
from bench.scale.values import Ask

BLOCK = 20  # connects of one turn
SETTLE = 0.5  # seconds: what stood still catches up; the same before each turn


@dataclass(slots=True)
class Kind:
    """Of connects. `of`: among how many hosts they choose, 0 for all."""

    name: str
    of: int
    seconds: list[float] = field(default_factory=list)
    medians: list[float] = field(default_factory=list)  # of each turn
    worked: dict[str, float] = field(default_factory=dict)  # processor seconds of each kind of process

    def turn(self, at: Deployment, count: int, seed: int, report: Report) -> None:
        time.sleep(SETTLE)
        before = at.worked()
        said = at.clients.ask(Ask(do="connect", count=count, of=self.of, seed=seed))
        for name, now in at.worked().items():
            self.worked[name] = self.worked.get(name, 0.0) + now - before[name]
        self.seconds += said.seconds
        report.failed += said.failed
        self.medians.append(statistics.median(said.seconds) if said.seconds else math.nan)

    def show(self) -> str:
        each = {name: spent / max(len(self.seconds), 1) * 1000 for name, spent in self.worked.items()}
        return f"{quantiles(self.seconds)}; " + ", ".join(f"{name} {spent:.1f} ms" for name, spent in each.items())


def compare(many: Deployment, one: Deployment, singles: int, most: float, report: Report) -> None:
    """`singles` connects of each kind, one at a time; `most`: the target for the ratio of their medians."""
    alone = Kind("one host registered, the others' cluster stopped", of=1)
    same = Kind("always the same of all hosts", of=1)
    turns = Kind("random hosts of all", of=0)
    for seed in range(max(singles // BLOCK, 1)):
        count = min(BLOCK, singles)
        with many.stopped():
            alone.turn(one, count, seed, report)
        same.turn(many, count, seed, report)
        turns.turn(many, count, seed, report)
    for kind in (alone, same, turns):
        report.row(f"connect, one at a time, {kind.name}", kind.show())
    if alone.seconds and turns.seconds:
        ratio = statistics.median(turns.seconds) / statistics.median(alone.seconds)
        pairs = sorted(many / one for many, one in zip(turns.medians, alone.medians, strict=True) if many > 0 < one)
        report.row(
            "p50 with all to that with one host",
            f"{ratio:.2f} (of single turns: middle {statistics.median(pairs):.2f}, "
            f"half of them {pairs[len(pairs) // 4]:.2f} to {pairs[len(pairs) * 3 // 4]:.2f})",
            f"<= {most}",
            ratio <= most,
        )


def quantiles(seconds: Sequence[float]) -> str:
    if not seconds:
        return "none succeeded"
    ordered = sorted(seconds)
    p99 = ordered[min(int(len(ordered) * 0.99), len(ordered) - 1)]
    return f"p50 {statistics.median(ordered) * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms"
