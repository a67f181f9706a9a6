"""The whole simulation, step by step, and the table that comes of it."""

from __future__ import annotations

import contextlib
import re
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from bench import cluster
from bench.programs import BenchmarkFailed, wait_until
from bench.report import Report, say
from bench.scale import estate
from bench.scale.listing import Listed, listed
from bench.scale.plan import WAYS, Plan, processes_of, way_of
from bench.scale.processes import Process, Usage
from bench.scale.values import Ask, Clients, Estate, Host, Said

MEMORY, RATIO, RETURN, LISTING = 60.0, 1.1, 90.0, 0.5  # KB a tunnel; p50 of many to p50 of one; seconds; seconds
TURNS = 4
CHANGES = 5
FAREWELLS = 500  # hosts that the daemons have forgotten in a second
LOOK = 1.0  # seconds between two looks at how many hosts are there, each of which is a look at every host
PORT = re.compile(r":\d+")


class Simulation:
    def __init__(self, plan: Plan, folder: Path, stack: contextlib.ExitStack) -> None:
        self._plan = plan
        self._folder = folder
        self._stack = stack
        self._report = Report()
        self._agents: list[Process] = []
        self._alone: list[float] = []  # median seconds of a connect while there was one host, before and after
        self._among_all = 0.0  # and when there were all
        self._told: set[str] = set()

    def run(self) -> Report:
        plan, report = self._plan, self._report
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        way = way_of(plan)
        processes = processes_of(plan)
        say(f"descriptors: a process may have {hard} (now {soft}); the hosts live in {processes} processes")
        say(f"hosts reach auth {WAYS[way]}")
        began = time.monotonic()
        made = estate.write_files(self._folder)
        self._auth, self._proxy = estate.Daemon(made.auth), estate.Daemon(made.proxy)
        self._stack.callback(self._auth.stop)
        self._auth.start()
        estate.write_proxy(made)
        self._stack.callback(self._proxy.stop)
        self._proxy.start()
        hosts = estate.make_hosts(made.auth, plan.hosts)
        report.row("certificates for all hosts made", f"{hosts.seconds:.1f} s")
        clients = self._clients(made, hosts)
        first = self._agents_of(made, hosts, way, "first", hosts.hosts[:1])
        self._until_all("announced", began=time.monotonic(), of=1)
        wait_until(lambda: self._reached(clients), "the first host to be reached", seconds=60)
        self._first_host(clients)
        first.end()
        self._agents.clear()
        proxy, auth = Usage.of(self._proxy.pid), Usage.of(self._auth.pid)
        for number in range(processes):
            self._agents_of(made, hosts, way, f"hosts{number}", hosts.hosts[number::processes])
        up = self._until_all("tunnels", began=time.monotonic())
        self._until_all("announced", began=time.monotonic())
        report.row("all tunnels made, first time", f"{up:.1f} s ({plan.hosts / max(up, 0.001):.0f} a second)")
        report.row("setup in all", f"{time.monotonic() - began:.0f} s", "<= 120 s", time.monotonic() - began <= 120)
        time.sleep(2)
        self._memory("proxy", self._proxy.pid, proxy, MEMORY)
        self._memory("auth", self._auth.pid, auth, None)
        self._calm()
        if way == "views":
            self._change(made)
        self._many(clients)
        self._latency(clients)  # of hosts that were reached before, as the one was to which many are compared
        self._listing(made, hosts)
        if plan.restart:
            self._restart(clients)
        self._last_host(made, hosts, way, clients)
        return report

    # the parts

    def _agents_of(
        self, made: estate.Cluster, hosts: estate.Made, way: str, name: str, some: Sequence[Host]
    ) -> Process:
        place = self._folder / name
        place.mkdir()
        told = Estate(
            cluster=estate.NAME,
            hosts=list(some),
            ssh_key=hosts.ssh_key,
            tls_key=hosts.tls_key,
            tls_ca_certs=hosts.tls_ca_certs,
            auth=made.auth.auth,
            web=made.proxy.web,
            through_proxy=way != "direct",
            views=way == "views",
            at_once=64,
            folder=str(place),
        )
        agents = self._process("bench.scale.agents", place / "estate.json", told)
        self._agents.append(agents)
        return agents

    def _process(self, module: str, file: Path, told: Estate | Clients) -> Process:
        file.write_bytes(msgspec.json.encode(told))
        made = Process(module, file, file.with_suffix(".log"))
        self._stack.callback(made.end)
        return made

    def _clients(self, made: estate.Cluster, hosts: estate.Made) -> Process:
        folder = self._folder / "clients"
        folder.mkdir()
        cluster.tctl(made.auth, "users", "add", estate.USER, "--roles=access", f"--logins={estate.LOGIN}")
        identity = folder / "id"
        cluster.tctl(made.auth, "auth", "sign", f"--user={estate.USER}", "--format=openssh", f"--out={identity}")
        cluster.tctl(made.auth, "auth", "sign", f"--user={estate.USER}", "--format=tls", f"--out={folder / 'tls'}")
        told = Clients(
            cluster=estate.NAME,
            names=[host.name for host in hosts.hosts],
            ids=[host.host_id for host in hosts.hosts],
            key=identity.read_text(),
            certificate=Path(f"{identity}-cert.pub").read_text().strip(),
            login=estate.LOGIN,
            ssh=made.proxy.ssh,
            host_authorities=hosts.ssh_ca_keys,
        )
        return self._process("bench.scale.clients", folder / "clients.json", told)

    def _count(self, what: str) -> int:
        for agents in self._agents:
            agents.begin(Ask(do="status"))
        said = [agents.answer() for agents in self._agents]
        for problem in {PORT.sub(":PORT", problem) for one in said for problem in one.problems} - self._told:
            self._told.add(problem)
            say(f"    announcing: {problem}")
        return sum(int(getattr(one, what)) for one in said)

    def _until_all(self, what: str, *, began: float, of: int = 0, seconds: float = 45.0) -> float:
        """Seconds since `began`. Raises `BenchmarkFailed` when there are no more of them for `seconds`."""
        told = best_at = began
        best = 0
        while (now := self._count(what)) < (of or self._plan.hosts):
            if now > best:
                best, best_at = now, time.monotonic()
            if time.monotonic() - best_at > seconds:
                raise BenchmarkFailed(f"{now} of {self._plan.hosts} after {seconds:.0f} s without progress: {what}")
            if time.monotonic() - told > 10:
                told = time.monotonic()
                say(f"    {what}: {now} after {told - began:.0f} s")
            time.sleep(LOOK)
        return time.monotonic() - began

    def _reached(self, clients: Process) -> bool:
        return not clients.ask(Ask(do="connect", count=1, of=1)).failed

    def _memory(self, name: str, pid: int, before: Usage, most: float | None) -> None:
        each = (Usage.of(pid).rss - before.rss) / self._plan.hosts
        what = f"memory of the {name} for each host (RSS {before.rss / 1024:.0f} MiB before)"
        if most is None:
            self._report.row(what, f"{each:.1f} KiB")
        else:
            self._report.row(what, f"{each:.1f} KiB", f"<= {most:.0f} KiB", each <= most)

    def _calm(self) -> None:
        before = {name: Usage.of(pid) for name, pid in self._daemons()}
        hosts, began = self._worked()["simulated hosts"], time.monotonic()
        time.sleep(self._plan.calm)
        share = (self._worked()["simulated hosts"] - hosts) / (time.monotonic() - began) * 100
        self._report.row("processor of the simulated hosts, nobody connects", f"{share:.1f} % of a core")
        for name, pid in self._daemons():
            self._report.row(
                f"processor of the {name}, nobody connects",
                f"{Usage.of(pid).share_since(before[name]):.1f} % of a core",
            )

    def _change(self, made: estate.Cluster) -> None:
        """What it costs to tell every host of a changed role, `tctl` included."""
        role = self._folder / "role.yaml"
        before = {name: Usage.of(pid) for name, pid in self._daemons()}
        for number in range(CHANGES):
            role.write_text(f"kind: role\nversion: v3\nmetadata: {{name: changing, description: '{number}'}}\n")
            cluster.tctl(made.auth, "create", "-f", str(role))
        time.sleep(2)
        for name, pid in self._daemons():
            each = (Usage.of(pid).cpu - before[name].cpu) / CHANGES * 1000
            self._report.row(f"processor of the {name} for a change of a role", f"{each:.0f} ms")

    def _daemons(self) -> list[tuple[str, int]]:
        return [("proxy", self._proxy.pid), ("auth", self._auth.pid)]

    def _worked(self) -> dict[str, float]:
        """Processor seconds of auth and of the simulated hosts, so far."""
        hosts = sum(Usage.of(agents.pid).cpu for agents in self._agents)
        return {"auth": Usage.of(self._auth.pid).cpu, "simulated hosts": hosts}

    def _latency(self, clients: Process) -> None:
        """One at a time: to one host, and to all, in turns."""
        found: dict[int, list[float]] = {1: [], 0: []}
        worked: dict[int, float] = {1: 0.0, 0: 0.0}  # processor seconds of the proxy
        for turn in range(TURNS):
            for of in (1, 0):
                before = Usage.of(self._proxy.pid).cpu
                said = clients.ask(Ask(do="connect", count=self._plan.singles // TURNS, of=of, seed=turn))
                worked[of] += Usage.of(self._proxy.pid).cpu - before
                found[of] += said.seconds
                self._report.failed += said.failed
        for of, name in ((1, "one host"), (0, "all hosts in turn")):
            each = worked[of] / max(len(found[of]), 1) * 1000
            self._report.row(
                f"connect, one at a time, {name}", f"{_quantiles(found[of])}; {each:.1f} ms of the proxy's processor"
            )
        self._among_all = statistics.median(found[0]) if found[0] else 0.0

    def _last_host(self, made: estate.Cluster, hosts: estate.Made, way: str, clients: Process) -> None:
        """All go but one. Machines change their pace within a quarter of an hour, so what one host takes is measured
        before and after what it takes with all."""
        for agents in self._agents:
            agents.end()
        self._agents.clear()
        self._agents_of(made, hosts, way, "last", hosts.hosts[:1])
        self._until_all("announced", began=time.monotonic(), of=1)
        wait_until(lambda: self._reached(clients), "the last host to be reached", seconds=60)
        time.sleep(self._plan.hosts / FAREWELLS)
        self._first_host(clients)
        if self._among_all and len(self._alone) == 2:
            ratio = self._among_all / statistics.mean(self._alone)
            self._report.row("p50 with all to that with one host", f"{ratio:.2f}", f"<= {RATIO}", ratio <= RATIO)

    def _first_host(self, clients: Process) -> None:
        """The same while one host is all that there is."""
        before = Usage.of(self._proxy.pid).cpu
        said = clients.ask(Ask(do="connect", count=self._plan.singles // 2, of=1))
        each = (Usage.of(self._proxy.pid).cpu - before) / max(len(said.seconds), 1) * 1000
        self._report.failed += said.failed
        self._report.row(
            "connect, one at a time, one host registered",
            f"{_quantiles(said.seconds)}; {each:.1f} ms of the proxy's processor",
        )
        if said.seconds:
            self._alone.append(statistics.median(said.seconds))

    def _many(self, clients: Process) -> None:
        plan = self._plan
        before, began = {name: Usage.of(pid) for name, pid in self._daemons()}, time.monotonic()
        said = Said()
        while (done := len(said.seconds) + len(said.failed)) < plan.connects:
            count = min(plan.connects - done, 2000)
            more = clients.ask(Ask(do="connect", count=count, at_once=plan.at_once, seed=1000 + done))
            said = Said(seconds=[*said.seconds, *more.seconds], failed=[*said.failed, *more.failed])
            if plan.connects > 2000:
                say(f"    connects: {len(said.seconds)} succeeded, {len(said.failed)} failed")
        took = time.monotonic() - began
        self._report.failed += said.failed
        what = f"{plan.connects} connects to random hosts, {plan.at_once} at a time"
        self._report.row(what, f"{len(said.failed)} failed", "0 failed", not said.failed)
        self._report.row("  of these", f"{_quantiles(said.seconds)}; {plan.connects / took:.0f} a second")
        for name, pid in self._daemons():
            self._report.row(
                f"  processor of the {name} meanwhile", f"{Usage.of(pid).share_since(before[name]):.0f} % of a core"
            )

    def _listing(self, made: estate.Cluster, hosts: estate.Made) -> None:
        tls = self._folder / "clients" / "tls"
        found: list[Listed] = []
        for _ in range(3):
            before = Usage.of(self._auth.pid)
            found.append(
                listed(
                    made.auth.auth, estate.NAME, hosts.tls_ca_certs, tls.with_suffix(".crt"), tls.with_suffix(".key")
                )
            )
            used = Usage.of(self._auth.pid).cpu - before.cpu
        best = min(found, key=lambda one: one.seconds)
        self._report.row(
            f"tsh ls of {best.nodes} hosts: server time",
            f"{best.seconds:.3f} s in {best.pages} pages ({used:.2f} s of processor, one page twice)",
            f"<= {LISTING} s",
            best.seconds <= LISTING and best.nodes == self._plan.hosts,
        )
        self._report.row("tsh ls: bytes", f"{best.bytes / 1e6:.2f} MB, {best.bytes / max(best.nodes, 1):.0f} a host")

    def _restart(self, clients: Process) -> None:
        self._proxy.kill()
        killed = time.monotonic()
        wait_until(lambda: self._count("tunnels") == 0, "the hosts to notice that the proxy is gone", seconds=60)
        before = self._worked()
        started = time.monotonic()
        self._proxy.start()
        ready = time.monotonic()
        before["proxy"] = Usage.of(self._proxy.pid).cpu  # its start is no host's
        self._until_all("tunnels", began=started)
        took = time.monotonic() - started
        self._report.row(
            "all tunnels back after the proxy was killed and started",
            f"{took:.1f} s (it was ready after {ready - started:.1f} s)",
            f"<= {RETURN:.0f} s",
            took <= RETURN,
        )
        used = {**self._worked(), "proxy": Usage.of(self._proxy.pid).cpu}  # all come back before they ask auth
        self._report.row("  processor for each that came back", self._each(before, used))
        wait_until(lambda: self._reached(clients), "a connect after the restart", seconds=60)
        self._report.row("  a connect succeeded, from the kill on", f"{time.monotonic() - killed:.1f} s")
        if way_of(self._plan) == "views":
            heard = self._until_all("hearing", began=started)
            used = {**self._worked(), "proxy": Usage.of(self._proxy.pid).cpu}
            self._report.row("  all hear auth again", f"{heard:.1f} s; {self._each(before, used)}")

    def _each(self, before: dict[str, float], used: dict[str, float]) -> str:
        """Processor time for each host."""
        return ", ".join(
            f"{name} {(used[name] - before[name]) * 1000 / self._plan.hosts:.1f} ms" for name in sorted(before)
        )


def _quantiles(seconds: Sequence[float]) -> str:
    if not seconds:
        return "none succeeded"
    ordered = sorted(seconds)
    p99 = ordered[min(int(len(ordered) * 0.99), len(ordered) - 1)]
    return f"p50 {statistics.median(ordered) * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms"


@contextlib.contextmanager
def folder_of(path: str) -> Iterator[Path]:
    if path:
        Path(path).mkdir(parents=True)
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="teleport-scale-") as made:
        yield Path(made)
