"""The figures: what `kubectl get` takes more, how fast a log comes through, what watches and the plugin cost."""

from __future__ import annotations

import asyncio
import socket
import ssl
import statistics
import subprocess
import time
from collections.abc import Sequence
from functools import partial
from http.client import HTTPSConnection
from typing import IO

from bench.kube import paired
from bench.kube.estate import Estate, Way
from bench.memory import family, processor, resident
from bench.programs import BenchmarkFailed
from bench.report import Report
from teleport.testing.cluster import BIN

PODS = "/api/v1/namespaces/dev/pods"
ALL_PODS = "/api/v1/pods"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
GET_MS, PLUGIN_SECONDS, LOGS_RATIO = 10.0, 0.15, 0.8


def run(way: Way, *arguments: str, output: IO[bytes] | int = subprocess.DEVNULL) -> float:
    """Seconds that a kubectl takes."""
    began = time.perf_counter()
    done = subprocess.run(
        way.kubectl(*arguments), env=way.environment(), stdout=output, stderr=subprocess.PIPE, check=False
    )
    if done.returncode:
        raise BenchmarkFailed(f"kubectl {' '.join(arguments)}: {done.stderr.decode()[-500:]}")
    return time.perf_counter() - began


def get(estate: Estate, rounds: int, report: Report) -> None:
    """The whole program, in turns; each has its own cache of what the server has, filled before."""
    found = paired.rounds(
        {
            "direct": lambda: 1000 * run(estate.direct, "get", "pods", "-n", "dev"),
            "proxied": lambda: 1000 * run(estate.proxied, "get", "pods", "-n", "dev"),
            "part": lambda: 1000 * run(estate.part, "get", "pods", "-A"),
        },
        rounds,
        2,
    )
    proxied = paired.more(found, "proxied", "direct")
    report.row("kubectl get pods, direct, p50", f"{statistics.median(found['direct']):.1f} ms")
    target = f"<= {GET_MS:g} ms"
    report.row("kubectl get pods through the proxy, more", proxied.show("ms"), target, proxied.verdict(GET_MS))
    part = paired.more(found, "part", "direct")
    report.row("kubectl get pods -A, of which a part is shown, more", part.show("ms"))


class _Kept(HTTPSConnection):
    """A connection to an address, whose server has a name of its own."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext, name: str) -> None:
        super().__init__(name, port, context=context)
        self._address = (host, port)
        self._tls = (context, name)

    def connect(self) -> None:
        context, name = self._tls
        plain = socket.create_connection(self._address, timeout=30)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = context.wrap_socket(plain, server_hostname=name)


def requests(estate: Estate, rounds: int, report: Report) -> None:
    """The request alone, on connections that are kept."""
    asked = {
        "direct": (_Kept(*estate.direct.connection()), estate.direct, PODS),
        "proxied": (_Kept(*estate.proxied.connection()), estate.proxied, PODS),
        "a part is shown": (_Kept(*estate.part.connection()), estate.part, ALL_PODS),
    }
    found = paired.rounds({name: partial(_request, *one) for name, one in asked.items()}, rounds, 5)
    report.row("the request alone, direct, p50", f"{statistics.median(found['direct']):.2f} ms")
    for name in ("proxied", "a part is shown"):
        report.row(f"the request alone, {name}, more", paired.more(found, name, "direct").show("ms", 2))


def _request(connection: _Kept, way: Way, path: str) -> float:
    """Milliseconds of one."""
    began = time.perf_counter()
    connection.putrequest("GET", path)
    for header in [("Accept", TABLE), *way.headers()]:
        connection.putheader(*header)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 200:
        raise BenchmarkFailed(f"GET {path}: {answer.status} {body[:300]!r}")
    return 1000 * (time.perf_counter() - began)


def logs(estate: Estate, mebibytes: int, rounds: int, report: Report) -> None:
    """One long log, in turns. What it takes the proxy in processor time depends less on what else runs."""
    ways = {"direct": estate.direct, "proxied": estate.proxied}
    pids, taken = family(estate.cluster.daemon.pid), []

    def read(way: Way) -> float:
        before = sum(map(processor, pids))
        took = run(way, "logs", "web", "-n", "dev")
        if way is estate.proxied:
            taken.append((sum(map(processor, pids)) - before) * 1024 / mebibytes)
        return took

    found = paired.rounds({name: partial(read, way) for name, way in ways.items()}, rounds, 1)
    report.row("processor time of the proxy, p50", f"{statistics.median(taken):.1f} s for each GiB")
    for name in ways:
        report.row(f"kubectl logs, {name}, p50", f"{mebibytes / statistics.median(found[name]):.0f} MiB/s")
    ratio = paired.interval([direct / ours for direct, ours in zip(found["direct"], found["proxied"], strict=True)])
    met = True if ratio.low >= LOGS_RATIO else False if ratio.high < LOGS_RATIO else None
    text = f"{ratio.middle:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"
    report.row("the ratio of the two", text, f">= {LOGS_RATIO:g}", met)


def plugin(estate: Estate, rounds: int, report: Report) -> None:
    """`tsh kube credentials`, with a certificate that it has."""
    estate.person.log_in()
    command = [str(BIN / "tsh"), "kube", "credentials", "--kube-cluster=one"]

    def once() -> float:
        began = time.perf_counter()
        subprocess.run(command, env=estate.person.environment, stdout=subprocess.PIPE, check=True)
        return time.perf_counter() - began

    seconds = paired.interval(paired.rounds({"it": once}, rounds, 1)["it"])
    text = f"{seconds.middle:.3f} s ({seconds.low:.3f} to {seconds.high:.3f})"
    report.row("tsh kube credentials, p50", text, f"<= {PLUGIN_SECONDS:g} s", seconds.verdict(PLUGIN_SECONDS))


def watches(estate: Estate, count: int, report: Report) -> None:
    """What open watches take in the daemon of the proxy, each on a connection of its own.

    Once in a run: memory that was let go is not all given back, and a second thousand would seem to take less."""
    pids = family(estate.cluster.daemon.pid)
    before = sum(resident(pid).private for pid in pids)
    more = asyncio.run(_watched(estate.proxied, PODS, count, pids)) - before
    report.row(f"{count:,} open watches", f"{more:.0f} MiB ({more * 1024 / count:.0f} KiB each)")


async def _watched(way: Way, path: str, count: int, pids: Sequence[int]) -> float:
    """Private memory while they are open."""
    host, port, context, name = way.connection()
    writers: list[asyncio.StreamWriter] = []

    async def open_one() -> None:
        reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=name)
        writers.append(writer)
        writer.write(f"GET {path}?watch=true HTTP/1.1\r\nHost: kube\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise BenchmarkFailed(f"a watch: {head[:200]!r}")

    try:
        for begin in range(0, count, 20):
            await asyncio.gather(*(open_one() for _ in range(min(20, count - begin))))
        return sum(resident(pid).private for pid in pids)
    finally:
        for writer in writers:
            writer.transport.abort()
