"""`python -m bench.web`."""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Error as PlaywrightError

from bench import cluster
from bench.account import account
from bench.asked import begin, may_name
from bench.programs import BenchmarkFailed
from bench.report import Report, say
from bench.web import keys, loading, nodes
from bench.web.browser import chromium
from bench.web.person import origin, signed_in, terminal
from bench.web.reference import wetty

NAMES = ("load", "keys", "nodes")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.web", description="The web client in Chromium; docs/benchmarks.md explains it."
    )
    may_name(parser, NAMES)
    parser.add_argument("--loads", type=int, default=9, help="first loads of each kind")
    parser.add_argument("--keys", type=int, default=200, help="in each terminal")
    parser.add_argument("--nodes", type=int, default=10_000, help="that are searched")
    parser.add_argument("--searches", type=int, default=30)
    given = parser.parse_args()
    names = begin(parser, given.names, NAMES)
    report = Report()
    with contextlib.ExitStack() as stack:
        try:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="teleport-bench-")))
            login = stack.enter_context(account())
            files = cluster.all_in_one(folder / "cluster")
            stack.enter_context(cluster.daemon(files))
            browser = stack.enter_context(chromium())
            state = signed_in(browser, files, login)
            if "load" in names:
                loading.rows(browser, origin(files), state, given.loads, report)
            if "keys" in names:
                reference = stack.enter_context(wetty(folder, "/bin/sh"))
                ours = (origin(files), terminal(files, login), state)
                keys.rows(browser, ours, reference, given.keys, report)
            if "nodes" in names:
                say(f"  writing {given.nodes:,} nodes")
                nodes.fill(files, given.nodes)
                nodes.rows(browser, origin(files), state, given.nodes, given.searches, report)
        except (BenchmarkFailed, PlaywrightError) as error:
            say(f"FAILED: {error}")
            return 1
    say("\n" + report.show())
    return 0


if __name__ == "__main__":
    sys.exit(main())
