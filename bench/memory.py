"""Resident memory of processes and their children (Linux: `/proc/<pid>/smaps_rollup`), and what they took of
processors (`/proc/<pid>/stat`)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from bench.measure import Row, Spread, Table


@dataclass(frozen=True, slots=True)
class Resident:
    """Of one process, in MiB. `pss` counts pages shared with other processes in proportion."""

    pid: int
    rss: float
    pss: float
    private: float


def resident(pid: int) -> Resident:
    found: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value, *_ = line.split()
        found[name.rstrip(":")] = int(value)
    private = found["Private_Clean"] + found["Private_Dirty"]
    return Resident(pid, found["Rss"] / 1024, found["Pss"] / 1024, private / 1024)


def processor(pid: int) -> float:
    """Seconds of processor time that it has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """`pid` and everything below it."""
    members = [pid]
    for member in members:
        for task in Path(f"/proc/{member}/task").iterdir():
            members += [int(child) for child in (task / "children").read_text().split()]
    return members


def rows(pid: int, table: Table, state: str) -> None:
    """The daemon itself, then the launcher and what waits below it; `state` says what it has done so far."""
    daemon, *below = (resident(member) for member in family(pid))

    def one(name: str, values: list[Resident]) -> None:
        for what in ("rss", "pss"):
            total = sum(getattr(value, what) for value in values)
            table.add(Row(f"node-only daemon, {state}, {name}: {what.upper()}", Spread((total,)), "MiB"))

    one("the daemon", [daemon])
    one(f"launcher ({len(below)} processes)", below)
