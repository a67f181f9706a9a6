"""`python -m bench [--quick] [names]`: all benchmarks, or the named ones."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from bench import cluster, commands, connect, memory, sshd
from bench.account import account
from bench.asked import begin, may_name
from bench.measure import Table
from bench.programs import BenchmarkFailed

NAMES = ("commands", "certificates", "start", "memory", "exec", "tsh", "bulk")
_FULL, _QUICK = 1024, 128  # MiB each way


@contextlib.contextmanager
def random_file(folder: Path, mebibytes: int) -> Iterator[Path]:
    """Random bytes, in memory where the system has a file system for that: no disk in the way of either side."""
    shared = Path("/dev/shm")
    place = shared if os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > (mebibytes + 64) << 20 else folder
    with tempfile.NamedTemporaryFile(dir=place, prefix="teleport-bench-") as file:
        for _ in range(mebibytes):
            file.write(os.urandom(1 << 20))
        file.flush()
        os.fchmod(file.fileno(), 0o644)  # the account that reads it is another one
        yield Path(file.name)


class Bench:
    """What the benchmarks share, made when one first asks for it."""

    def __init__(self, folder: Path, mebibytes: int, client: str, stack: contextlib.ExitStack) -> None:
        self._folder = folder
        self._mebibytes = mebibytes
        self._client = client
        self._stack = stack
        self.table = Table()

    @cached_property
    def files(self) -> cluster.Files:
        """A running cluster."""
        files = cluster.all_in_one(self._folder / "cluster")
        self._stack.enter_context(cluster.daemon(files))
        return files

    @cached_property
    def login(self) -> str:
        return self._stack.enter_context(account())

    @cached_property
    def clients(self) -> cluster.Clients:
        return cluster.clients(self.files, self._folder / "clients", self.login)

    @cached_property
    def reference(self) -> sshd.Servers:
        return self._stack.enter_context(sshd.two_servers(self._folder / "sshd", self.login))

    def commands(self) -> None:
        commands.command_rows(self._folder / "commands", self.table)

    def certificates(self) -> None:
        from bench import certificates  # imports the product, which the other benchmarks only start

        certificates.rows(self.table)

    def start(self) -> None:
        commands.start_rows(self._folder / "start", self.table)

    def memory(self) -> None:
        node = cluster.node_only(self._folder / "idle", self.files)
        with cluster.daemon(node) as (pid, _):
            memory.rows(pid, self.table, "just joined")
        with cluster.daemon(node) as (pid, _):
            memory.rows(pid, self.table, "idle")

    def exec(self) -> None:
        connect.exec_rows(self.clients, self.reference, self.files, self.table)

    def tsh(self) -> None:
        connect.tsh_row(self.clients, self.reference, self.files, self.table)

    def bulk(self) -> None:
        with random_file(self._folder, self._mebibytes) as source:
            connect.bulk_rows(self.clients, self.reference, self.files, self.table, source, self._client)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Benchmarks; docs/benchmarks.md explains them."
    )
    may_name(parser, NAMES)
    parser.add_argument("--quick", action="store_true", help=f"{_QUICK} MiB each way instead of {_FULL}")
    parser.add_argument("--client", choices=("jump", "subsystem"), default="jump", help="how ssh goes in `bulk`")
    arguments = parser.parse_args()
    names = begin(parser, arguments.names, NAMES)
    failed = 0
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="teleport-bench-")))
        bench = Bench(folder, _QUICK if arguments.quick else _FULL, arguments.client, stack)
        bench.table.head()
        for name in names:
            try:
                getattr(bench, name)()
            except BenchmarkFailed as error:
                failed += 1
                bench.table.note(f"{name}: {error}")
    missed = [row.what for row in bench.table.rows if row.met is False]
    if missed:
        bench.table.note(f"targets missed: {', '.join(missed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
