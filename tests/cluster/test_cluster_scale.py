"""The simulator of many hosts, in its short form: so that it keeps measuring what it says."""

from __future__ import annotations

import contextlib
from pathlib import Path

from bench.scale.plan import Plan
from bench.scale.run import Simulation


def test_fifty_hosts_are_reached_listed_and_come_back_after_the_proxy_was_killed(tmp_path: Path) -> None:
    plan = Plan(hosts=50, connects=60, singles=8, at_once=4, calm=0.2)
    with contextlib.ExitStack() as stack:
        report = Simulation(plan, tmp_path, stack).run()
    assert report.failed == []
    rows = {what.strip(): figure for what, figure, *_ in report.rows}
    assert rows["60 connects to random hosts, 4 at a time"] == "0 failed"
    assert any(what.startswith("tsh ls of 50 hosts") for what in rows), rows
    assert any(what.startswith("all tunnels back") for what in rows), rows
    assert "p50 with all to that with one host" in rows, rows
