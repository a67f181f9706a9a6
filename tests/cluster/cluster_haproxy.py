"""A real haproxy before a cluster: installed where that is possible."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from tests.cluster.cluster_packages import install

from teleport.testing.cluster import LOOPBACK, at, free_port, wait_until

SOURCE: Final = "127.0.0.77"  # the address that haproxy connects from


@dataclass(frozen=True)
class Front:
    """Where haproxy listens, and what it leads to; `options` of its `server` lines, `bind` of its `bind` line.

    With `more` targets it takes them in turn, those that do not answer left out: no client stays with one of them.
    """

    target: int
    options: str = ""
    bind: str = ""
    mode: str = "tcp"
    port: int = 0
    more: Sequence[int] = ()


def needs_haproxy() -> str:
    """The program; skips with the reason where there is none, or no second loopback address."""
    if ":" in LOOPBACK or not LOOPBACK.startswith("127."):
        pytest.skip(f"haproxy connects from {SOURCE}, and tests listen on {LOOPBACK} here")
    found = shutil.which("haproxy", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if found is None:
        why = install("haproxy", "haproxy")
        if why:
            pytest.skip(why)
        found = shutil.which("haproxy", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    assert found is not None
    return found


@contextmanager
def haproxy(folder: Path, fronts: Sequence[Front]) -> Iterator[list[int]]:
    """Runs one haproxy; gives the port of each front."""
    program = needs_haproxy()
    folder.mkdir(parents=True, exist_ok=True)
    ports = [front.port or free_port() for front in fronts]
    lines = ["defaults", " timeout connect 5s", " timeout client 1h", " timeout server 1h", " timeout tunnel 1h"]
    for port, front in zip(ports, fronts, strict=True):
        lines += [f"listen front{port}", f" mode {front.mode}", f" bind {at(port)} {front.bind}".rstrip()]
        if front.more:
            lines += [" balance roundrobin", " option redispatch 1", " retries 3"]
        for number, target in enumerate((front.target, *front.more)):
            check = " check inter 200ms fall 1 rise 1" if front.more else ""
            lines += [f" server s{number} {at(target)} source {SOURCE}{check} {front.options}".rstrip()]
    config = folder / "haproxy.cfg"
    config.write_text("\n".join(lines) + "\n")
    with (folder / "haproxy.log").open("wb") as log:
        process = subprocess.Popen(
            [program, "-db", "-f", str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        wait_until("haproxy listens", lambda: process.poll() is None and _listens(ports), 20)
        yield ports
    finally:
        process.terminate()
        process.wait(10)


def _listens(ports: Sequence[int]) -> bool:
    listening = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if words[3] == "0A":
            listening.add(int(words[1].rpartition(":")[2], 16))
    return set(ports) <= listening
