"""The whole simulation, step by step, and the table that comes of it."""

from __future__ import annotations

import contextlib
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench import cluster
from bench.programs import wait_until
from bench.report import Report, say
from bench.scale import estate
from bench.scale.compare import compare, quantiles
from bench.scale.deployment import Deployment
from bench.scale.listing import Listed, listed
from bench.scale.plan import WAYS, Plan, processes_of, way_of
from bench.scale.processes import Usage
from bench.scale.values import Ask, Said

MEMORY, RATIO, RETURN, LISTING = 60.0, 1.1, 90.0, 0.5  # KiB a host; p50 of many to p50 of one; seconds; seconds
CHANGES = 5


class Simulation:
    def __init__(self, plan: Plan, folder: Path, stack: contextlib.ExitStack) -> None:
        self._plan = plan
        self._folder = folder
        self._report = Report()
        self._all = Deployment(folder, stack, plan.hosts, way_of(plan))

    def run(self) -> Report:
        plan, report, every = self._plan, self._report, self._all
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        processes = processes_of(plan)
        say(f"descriptors: a process may have {hard} (now {soft}); the hosts live in {processes} processes")
        say(f"hosts reach auth {WAYS[way_of(plan)]}")
        began = time.monotonic()
        every.start()
        report.row("certificates for all hosts made", f"{every.made.seconds:.1f} s")
        proxy, auth = Usage.of(every.proxy.pid), Usage.of(every.auth.pid)
        settling = time.monotonic()
        every.start_hosts(processes)
        up = every.until_all("tunnels", began=settling)
        every.until_all("announced", began=time.monotonic())
        every.large_pages()
        report.row("all tunnels made, first time", f"{up:.1f} s ({plan.hosts / max(up, 0.001):.0f} a second)")
        report.row("setup in all", f"{time.monotonic() - began:.0f} s")
        time.sleep(2)
        self._memory("proxy", every.proxy.pid, proxy, MEMORY)
        self._memory("auth", every.auth.pid, auth, None)
        self._calm()
        if way_of(plan) == "views":
            self._change()
        self._many()
        self._latency()
        self._listing()
        if plan.restart:
            self._restart()
        return report

    # the parts

    def _latency(self) -> None:
        with contextlib.ExitStack() as stack:
            one = Deployment(self._folder / "one", stack, 1, way_of(self._plan))
            one.start()
            one.start_hosts(1)
            one.until_all("announced", began=time.monotonic())
            one.large_pages()
            one.until_reached("the only host to be reached")
            compare(self._all, one, self._plan.singles, RATIO, self._report)

    def _memory(self, name: str, pid: int, before: Usage, most: float | None) -> None:
        each = (Usage.of(pid).rss - before.rss) / self._plan.hosts
        what = f"memory of the {name} for each host (RSS {before.rss / 1024:.0f} MiB before)"
        if most is None:
            self._report.row(what, f"{each:.1f} KiB")
        else:
            self._report.row(what, f"{each:.1f} KiB", f"<= {most:.0f} KiB", each <= most)

    def _calm(self) -> None:
        before, began = self._all.worked(), time.monotonic()
        time.sleep(self._plan.calm)
        for name, spent in self._all.worked().items():
            share = (spent - before[name]) / (time.monotonic() - began) * 100
            self._report.row(f"processor, nobody connects: {name}", f"{share:.1f} % of a core")

    def _change(self) -> None:
        """What it costs to tell every host of a changed role, `tctl` included."""
        role = self._folder / "role.yaml"
        before = {name: Usage.of(pid) for name, pid in self._all.daemons()}
        for number in range(CHANGES):
            role.write_text(f"kind: role\nversion: v3\nmetadata: {{name: changing, description: '{number}'}}\n")
            cluster.tctl(self._all.files.auth, "create", "-f", str(role))
        time.sleep(2)
        for name, pid in self._all.daemons():
            each = (Usage.of(pid).cpu - before[name].cpu) / CHANGES * 1000
            self._report.row(f"processor of the {name} for a change of a role", f"{each:.0f} ms")

    def _many(self) -> None:
        plan = self._plan
        before, began = {name: Usage.of(pid) for name, pid in self._all.daemons()}, time.monotonic()
        said = Said()
        while (done := len(said.seconds) + len(said.failed)) < plan.connects:
            count = min(plan.connects - done, 2000)
            more = self._all.clients.ask(Ask(do="connect", count=count, at_once=plan.at_once, seed=1000 + done))
            said = Said(seconds=[*said.seconds, *more.seconds], failed=[*said.failed, *more.failed])
            if plan.connects > 2000:
                say(f"    connects: {len(said.seconds)} succeeded, {len(said.failed)} failed")
        took = time.monotonic() - began
        self._report.failed += said.failed
        what = f"{plan.connects} connects to random hosts, {plan.at_once} at a time"
        self._report.row(what, f"{len(said.failed)} failed", "0 failed", not said.failed)
        self._report.row("  of these", f"{quantiles(said.seconds)}; {plan.connects / took:.0f} a second")
        for name, pid in self._all.daemons():
            self._report.row(
                f"  processor of the {name} meanwhile", f"{Usage.of(pid).share_since(before[name]):.0f} % of a core"
            )

    def _listing(self) -> None:
        tls = self._folder / "clients" / "tls"
        found: list[Listed] = []
        for _ in range(3):
            before = Usage.of(self._all.auth.pid)
            found.append(
                listed(
                    self._all.files.auth.auth,
                    estate.NAME,
                    self._all.made.tls_ca_certs,
                    tls.with_suffix(".crt"),
                    tls.with_suffix(".key"),
                )
            )
            used = Usage.of(self._all.auth.pid).cpu - before.cpu
        best = min(found, key=lambda one: one.seconds)
        self._report.row(
            f"tsh ls of {best.nodes} hosts: server time",
            f"{best.seconds:.3f} s in {best.pages} pages ({used:.2f} s of processor, one page twice)",
            f"<= {LISTING} s",
            best.seconds <= LISTING and best.nodes == self._plan.hosts,
        )
        self._report.row("tsh ls: bytes", f"{best.bytes / 1e6:.2f} MB, {best.bytes / max(best.nodes, 1):.0f} a host")

    def _restart(self) -> None:
        self._all.proxy.kill()
        killed = time.monotonic()
        wait_until(lambda: self._all.count("tunnels") == 0, "the hosts to notice that the proxy is gone", seconds=60)
        before = self._all.worked()
        started = time.monotonic()
        self._all.proxy.start()
        ready = time.monotonic()
        before["proxy"] = self._all.worked()["proxy"]  # its start is no host's
        self._all.until_all("tunnels", began=started)
        took = time.monotonic() - started
        self._report.row(
            "all tunnels back after the proxy was killed and started",
            f"{took:.1f} s (it was ready after {ready - started:.1f} s)",
            f"<= {RETURN:.0f} s",
            took <= RETURN,
        )
        used = self._all.worked()  # all come back before they ask auth
        self._report.row("  processor for each that came back", self._each(before, used))
        self._all.until_reached("a connect after the restart")
        self._report.row("  a connect succeeded, from the kill on", f"{time.monotonic() - killed:.1f} s")
        if way_of(self._plan) == "views":
            heard = self._all.until_all("hearing", began=started)
            self._report.row("  all hear auth again", f"{heard:.1f} s; {self._each(before, self._all.worked())}")

    def _each(self, before: dict[str, float], used: dict[str, float]) -> str:
        """Processor time for each host."""
        shown = ("auth", "proxy", "simulated hosts")
        return ", ".join(f"{name} {(used[name] - before[name]) * 1000 / self._plan.hosts:.1f} ms" for name in shown)


@contextlib.contextmanager
def folder_of(path: str) -> Iterator[Path]:
    if path:
        Path(path).mkdir(parents=True)
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="teleport-scale-") as made:
        yield Path(made)
