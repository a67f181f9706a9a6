"""A cluster with its simulated hosts and its clients, each a process that the benchmark starts, asks and ends."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from bench import cluster
from bench.memory import processor
from bench.programs import BenchmarkFailed, wait_until
from bench.report import say
from bench.scale import estate
from bench.scale.processes import Process
from bench.scale.values import Ask, Clients, Estate, Host

LOOK = 1.0  # seconds between two looks at how many hosts are there, each of which is a look at every host
PORT = re.compile(r":\d+")


class Deployment:
    """One auth and one proxy, from `start` on; hosts from `start_hosts` on."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack, hosts: int, way: str) -> None:
        self._folder = folder
        self._stack = stack
        self._way = way
        self._number = hosts
        self._agents: list[Process] = []
        self._told: set[str] = set()

    def start(self) -> None:
        """Both daemons, certificates for all hosts, and the process of clients. Raises `BenchmarkFailed`."""
        made = self.files = estate.write_files(self._folder)
        self.auth, self.proxy = estate.Daemon(made.auth), estate.Daemon(made.proxy)
        self._stack.callback(self.auth.stop)
        self.auth.start()
        estate.write_proxy(made)
        self._stack.callback(self.proxy.stop)
        self.proxy.start()
        self.made = estate.make_hosts(made.auth, self._number)
        self.clients = self._clients()

    def start_hosts(self, processes: int) -> None:
        """The hosts start, in so many processes; `until_all` waits for them."""
        for number in range(processes):
            self._agents.append(self._agents_of(f"hosts{number}", self.made.hosts[number::processes]))

    def until_all(self, what: str, *, began: float, seconds: float = 45.0) -> float:
        """Seconds since `began`. Raises `BenchmarkFailed` when there are no more of them for `seconds`."""
        told = best_at = began
        best = 0
        while (now := self.count(what)) < self._number:
            if now > best:
                best, best_at = now, time.monotonic()
            if time.monotonic() - best_at > seconds:
                raise BenchmarkFailed(f"{now} of {self._number} after {seconds:.0f} s without progress: {what}")
            if time.monotonic() - told > 10:
                told = time.monotonic()
                say(f"    {what}: {now} after {told - began:.0f} s")
            time.sleep(LOOK)
        return time.monotonic() - began

    def large_pages(self) -> None:
        """All hosts are there and stay: the memory of their processes is put into large pages."""
        for agents in self._agents:
            agents.ask(Ask(do="large pages"))

    def until_reached(self, what: str) -> None:
        """Until a connect to the first host succeeds. Raises `BenchmarkFailed` after a minute."""
        wait_until(lambda: not self.clients.ask(Ask(do="connect", count=1, of=1)).failed, what, seconds=60)

    def count(self, what: str) -> int:
        for agents in self._agents:
            agents.begin(Ask(do="status"))
        said = [agents.answer() for agents in self._agents]
        for problem in {PORT.sub(":PORT", problem) for one in said for problem in one.problems} - self._told:
            self._told.add(problem)
            say(f"    announcing: {problem}")
        return sum(int(getattr(one, what)) for one in said)

    def daemons(self) -> list[tuple[str, int]]:
        return [("proxy", self.proxy.pid), ("auth", self.auth.pid)]

    def worked(self) -> dict[str, float]:
        """Processor seconds so far, of all but the launchers; 0 of a proxy that was killed."""
        hosts = sum(processor(agents.pid) for agents in self._agents)
        return {
            "proxy": processor(self.proxy.pid) if self.proxy.runs else 0.0,
            "auth": processor(self.auth.pid),
            "clients": processor(self.clients.pid),
            "simulated hosts": hosts,
        }

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Nothing of it runs meanwhile: as if there were only the other one on this machine."""
        pids = [pid for _, pid in self.daemons()] + [agents.pid for agents in self._agents]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def _agents_of(self, name: str, some: Sequence[Host]) -> Process:
        place = self._folder / name
        place.mkdir()
        told = Estate(
            cluster=estate.NAME,
            hosts=list(some),
            ssh_key=self.made.ssh_key,
            tls_key=self.made.tls_key,
            tls_ca_certs=self.made.tls_ca_certs,
            auth=self.files.auth.auth,
            web=self.files.proxy.web,
            through_proxy=self._way != "direct",
            views=self._way == "views",
            at_once=64,
            folder=str(place),
        )
        return self._process("bench.scale.agents", place / "estate.json", told)

    def _process(self, module: str, file: Path, told: Estate | Clients) -> Process:
        file.write_bytes(msgspec.json.encode(told))
        made = Process(module, file, file.with_suffix(".log"))
        self._stack.callback(made.end)
        return made

    def _clients(self) -> Process:
        folder, auth = self._folder / "clients", self.files.auth
        folder.mkdir()
        cluster.tctl(auth, "users", "add", estate.USER, "--roles=access", f"--logins={estate.LOGIN}")
        identity = folder / "id"
        cluster.tctl(auth, "auth", "sign", f"--user={estate.USER}", "--format=openssh", f"--out={identity}")
        cluster.tctl(auth, "auth", "sign", f"--user={estate.USER}", "--format=tls", f"--out={folder / 'tls'}")
        told = Clients(
            cluster=estate.NAME,
            names=[host.name for host in self.made.hosts],
            ids=[host.host_id for host in self.made.hosts],
            key=identity.read_text(),
            certificate=Path(f"{identity}-cert.pub").read_text().strip(),
            login=estate.LOGIN,
            ssh=self.files.proxy.ssh,
            host_authorities=self.made.ssh_ca_keys,
        )
        return self._process("bench.scale.clients", folder / "clients.json", told)
