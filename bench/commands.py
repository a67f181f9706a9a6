"""Whole short processes: `teleport start` until ready, and the commands that people type all day."""

from __future__ import annotations

import itertools
import shutil
import sys
from pathlib import Path

from bench import cluster
from bench.measure import Row, Table, Target, in_turns, timed
from bench.programs import BIN, environment, run

READY_TARGET = Target(1.5, absolute=True)
HELP_TARGET = Target(0.15, absolute=True)


def start_rows(folder: Path, table: Table) -> None:
    """From the start of the process until `/readyz` says so: a first start, and one with what an earlier one left."""
    folder.mkdir()
    numbers = itertools.count()
    old = cluster.all_in_one(folder / "old")

    def started(files: cluster.Files) -> float:
        with cluster.daemon(files) as (_, seconds):
            return seconds

    def first() -> float:
        here = folder / f"new{next(numbers)}"
        try:
            return started(cluster.all_in_one(here))
        finally:
            shutil.rmtree(here, ignore_errors=True)

    found = in_turns({"first": first, "later": lambda: started(old)})
    table.add(Row("teleport start until ready, empty data_dir", found["first"], "s", target=READY_TARGET))
    table.add(Row("teleport start until ready, existing data_dir", found["later"], "s", target=READY_TARGET))


def command_rows(folder: Path, table: Table) -> None:
    """Against an interpreter that does nothing."""
    folder.mkdir()
    env = environment(TELEPORT_HOME=str(folder / "home"))
    commands = {
        "tsh --help": [BIN / "tsh", "--help"],
        "tsh version": [BIN / "tsh", "version"],
        "tctl --help": [BIN / "tctl", "--help"],
        "teleport version": [BIN / "teleport", "version"],
    }
    bare = [sys.executable, "-c", "pass"]
    found = in_turns(
        {
            **{name: lambda words=words: timed(lambda: run(words, env=env)) for name, words in commands.items()},  # type: ignore[misc]
            "python": lambda: timed(lambda: run(bare, env=env)),
        },
        turns=9,
    )
    for name in commands:
        target = HELP_TARGET if name == "tsh --help" else None
        table.add(Row(name, found[name], "s", found["python"], "python -c pass", target))


def status_row(table: Table, status: list[str], home: Path) -> None:
    """`tsh status` with a profile in `home`."""
    env = environment(TELEPORT_HOME=str(home))
    found = in_turns(
        {
            "status": lambda: timed(lambda: run(status, env=env)),
            "python": lambda: timed(lambda: run([sys.executable, "-c", "pass"], env=env)),
        }
    )
    table.add(Row("tsh status", found["status"], "s", found["python"], "python -c pass"))
