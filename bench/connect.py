"""Connect and run `true` on a host behind a proxy; the data path in bulk. Against `ssh -J` over two sshd."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from bench import cluster, sshd
from bench.measure import Row, Spread, Table, Target, in_turns, timed
from bench.programs import BenchmarkFailed, environment, run

AGAINST = "ssh -J over two sshd"
SSH_TARGET = Target(0.35)
TSH_TARGET = Target(0.85)
BULK_TARGET = Target(0.9, at_least=True)


def exec_rows(ours: cluster.Clients, reference: sshd.Servers, files: cluster.Files, table: Table) -> None:
    """Whole client processes: start, connect, authenticate twice, run `true`, end."""
    base = ["ssh", "-F", str(ours.config)]
    candidates: dict[str, Callable[[], float]] = {
        "reference": lambda: timed(lambda: run(["ssh", "-F", str(reference.config), reference.target, "true"])),
        "jump": lambda: timed(lambda: run([*base, ours.jump, "true"])),
        "subsystem": lambda: timed(lambda: run([*base, ours.subsystem, "true"])),
    }
    found = in_turns(candidates, settle=lambda: cluster.uploads_done(files))
    theirs = found["reference"]
    table.add(Row("exec through the proxy, ssh -J", found["jump"], "s", theirs, AGAINST, SSH_TARGET))
    table.add(Row("exec through the proxy, ssh with ProxyCommand", found["subsystem"], "s", theirs, AGAINST))


def tsh_row(ours: cluster.Clients, reference: sshd.Servers, files: cluster.Files, table: Table) -> None:
    """The same with our own client."""
    found = in_turns(
        {
            "reference": lambda: timed(lambda: run(["ssh", "-F", str(reference.config), reference.target, "true"])),
            "tsh": lambda: timed(lambda: run([*ours.tsh, "true"])),
        },
        settle=lambda: cluster.uploads_done(files),
    )
    table.add(Row("exec through the proxy, tsh ssh", found["tsh"], "s", found["reference"], AGAINST, TSH_TARGET))


def _transfer(command: list[str], size: int, source: Path | None) -> float:
    """MiB a second from the moment the remote command runs until the client has ended: connecting is not counted.

    The remote command says `go` on standard error when it starts.
    """
    with open(source if source is not None else "/dev/null", "rb") as stdin:
        process = subprocess.Popen(
            command, env=environment(), stdin=stdin, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
    assert process.stderr is not None
    with process.stderr:
        first = process.stderr.readline()
        began = time.perf_counter()
        rest = process.stderr.read()
    status = process.wait()
    took = time.perf_counter() - began
    if first != b"go\n" or status != 0:
        raise BenchmarkFailed(f"{' '.join(command)} ended with {status}: {(first + rest).decode(errors='replace')}")
    return size / took / 1024 / 1024


def bulk_rows(
    ours: cluster.Clients,
    reference: sshd.Servers,
    files: cluster.Files,
    table: Table,
    source: Path,
    client: str = "jump",
) -> None:
    """The bytes of `source` from the node, then to it, recorded on our side; AES-128-GCM on both."""
    size = source.stat().st_size
    ours_base = ["ssh", "-F", str(ours.config), client]
    their_base = ["ssh", "-F", str(reference.config), reference.target]

    def settle() -> None:
        cluster.forget_recordings(files)

    name = f"{size / 1024 / 1024:,.0f} MiB"
    ways: dict[str, tuple[str, Path | None]] = {
        "from the node": (f"echo go >&2; exec cat {source}", None),
        "to the node": ("echo go >&2; exec cat > /dev/null", source),
    }
    for way, (remote, stdin) in ways.items():
        found: dict[str, Spread] = in_turns(
            {
                "reference": lambda remote=remote, stdin=stdin: _transfer([*their_base, remote], size, stdin),  # type: ignore[misc]
                "ours": lambda remote=remote, stdin=stdin: _transfer([*ours_base, remote], size, stdin),  # type: ignore[misc]
            },
            settle=settle,
        )
        table.add(Row(f"{name} {way}, recorded", found["ours"], "MiB/s", found["reference"], AGAINST, BULK_TARGET))
