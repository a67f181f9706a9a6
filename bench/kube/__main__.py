"""`python -m bench.kube`."""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path

from bench.asked import begin, may_name
from bench.kube import figures
from bench.kube.estate import estate
from bench.kube.paired import load
from bench.programs import BenchmarkFailed
from bench.report import Report

NAMES = ("get", "requests", "logs", "plugin", "watches")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.kube", description="kubectl through the proxy; docs/benchmarks.md explains it."
    )
    may_name(parser, NAMES)
    parser.add_argument("--gets", type=int, default=40, help="of each kind")
    parser.add_argument("--requests", type=int, default=500, help="of each kind")
    parser.add_argument("--log", type=int, default=256, help="mebibytes of the log")
    parser.add_argument("--logs", type=int, default=5, help="times that it is read, each way")
    parser.add_argument("--watches", type=int, default=1000)
    parser.add_argument(
        "--real", action="store_true", help="before a real Kubernetes cluster, as make test-kube has it"
    )
    given = parser.parse_args()
    names = begin(parser, given.names, NAMES)
    report = Report()
    with contextlib.ExitStack() as stack:
        try:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="teleport-bench-")))
            report.row("load before", load())
            found = estate(folder, given.log, stack, is_real=given.real)
            if "get" in names:
                figures.get(found, given.gets, report)
            if "requests" in names:
                figures.requests(found, given.requests, report)
            if "logs" in names:
                figures.logs(found, given.log, given.logs, report)
            if "plugin" in names:
                figures.plugin(found, given.gets, report)
            if "watches" in names:
                figures.watches(found, given.watches, report)
            report.row("load after", load())
        except BenchmarkFailed as error:
            sys.stdout.write(f"FAILED: {error}\n")
            return 1
    sys.stdout.write("\n" + report.show() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
