"""`python -m bench.scale --hosts N`."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys

from bench.programs import BenchmarkFailed
from bench.scale.plan import WAYS, Plan
from bench.scale.run import Simulation, folder_of


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.scale", description="Hosts behind reverse tunnels; docs/benchmarks.md explains it."
    )
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--connects", type=int, default=18_000)
    parser.add_argument("--singles", type=int, default=1200, help="connects one at a time, with one host and with all")
    parser.add_argument("--processes", type=int, default=2, help="that the hosts live in")
    parser.add_argument("--at-once", type=int, default=8, help="connects at the same time")
    parser.add_argument("--calm", type=float, default=30.0, help="seconds over which idle cost is measured")
    parser.add_argument("--way", choices=sorted(WAYS), default="", help="how hosts reach auth")
    parser.add_argument("--no-restart", action="store_true", help="the proxy is not killed")
    parser.add_argument("--folder", default="", help="where everything is kept (default: removed at the end)")
    given = parser.parse_args()
    plan = Plan(
        given.hosts,
        given.connects,
        given.singles,
        given.processes,
        given.at_once,
        not given.no_restart,
        given.calm,
        given.way,
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    with folder_of(given.folder) as folder, contextlib.ExitStack() as stack:
        try:
            report = Simulation(plan, folder, stack).run()
        except BenchmarkFailed as error:
            sys.stdout.write(f"FAILED: {error}\n")
            return 1
    sys.stdout.write("\n" + report.show() + "\n")
    for failure in report.failed[:20]:
        sys.stdout.write(f"failed: {failure}\n")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
