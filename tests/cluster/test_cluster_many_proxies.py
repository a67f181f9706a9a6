"""Proxies behind a real haproxy without stickiness: clients reach every host by whichever proxy they land on, while
proxies are drained, added and killed."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from tests.cluster.cluster_proxies import Farm, TunnelNode

from teleport.testing.cluster import Person, Ran, wait_until

ONE = {"type": "proxy_peering", "agent_connection_count": 1}
MESH = {"type": "agent_mesh"}
AT_ONCE = 3  # clients


@dataclass
class Clients:
    """People who connect without end: plain `ssh` and `tsh ssh` in turn. Every connection that fails is kept."""

    person: Person
    login: str
    hosts: list[str]
    done: Counter[str] = field(default_factory=Counter)
    failed: list[tuple[str, Ran]] = field(default_factory=list)
    over: Event = field(default_factory=Event)

    def connect(self, number: int) -> None:
        host, word = self.hosts[number // 2 % len(self.hosts)], f"number{number}"
        if number % 2:
            kind, ran = "tsh", self.person.tsh("ssh", f"{self.login}@{host}", "echo", word, seconds=60)
        else:
            target = f"{self.login}@{host}.{self.person.cluster.name}"
            kind, ran = "ssh", self.person.ssh(target, "echo", word, seconds=60)
        if ran.status == 0 and ran.stdout == f"{word}\n":
            self.done[kind] += 1
        else:
            self.failed.append((f"{kind} {number} to {host}", ran))

    @contextmanager
    def going(self) -> Iterator[None]:
        """They connect while the context lasts."""

        def work(first: int) -> None:
            number = first
            while not self.over.is_set():
                self.connect(number)
                number += AT_ONCE

        with ThreadPoolExecutor(AT_ONCE) as pool:
            workers: list[Future[None]] = [pool.submit(work, first) for first in range(AT_ONCE)]
            try:
                yield
            finally:
                self.over.set()
            for worker in workers:
                worker.result()

    def wait_for(self, more: int, seconds: float = 120.0) -> None:
        """Until so many more have been served."""
        wanted = self.done.total() + more
        wait_until(f"{more} more connections", lambda: self.done.total() >= wanted or self.failed, seconds)

    def all_served(self) -> None:
        told = "\n".join(f"{what}: {ran.status} {ran.stdout!r} {ran.stderr[-500:]}" for what, ran in self.failed)
        assert not self.failed, f"{len(self.failed)} failed, {dict(self.done)} were served:\n{told}"
        assert set(self.done) == {"ssh", "tsh"}


@contextmanager
def session(person: Person, target: str) -> Iterator[subprocess.Popen[bytes]]:
    """`ssh` to a host, where `cat` has answered once."""
    with subprocess.Popen(
        person.ssh_arguments(target, "cat"),
        env=person.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        try:
            client.stdin.write(b"before\n")
            client.stdin.flush()
            assert client.stdout.readline() == b"before\n"
            yield client
        finally:
            client.kill()


def strategy(farm: Farm, **said: object) -> None:
    """Changes the setting while everything runs."""
    document = {
        "kind": "cluster_networking_config",
        "version": "v2",
        "metadata": {"name": "cluster-networking-config"},
        "spec": {"tunnel_strategy": said},
    }
    farm.tctl("create", "-f", stdin=json.dumps(document)).ok()


def ids(farm: Farm, *names: str) -> list[str]:
    return sorted(farm.proxies[name].host_id for name in names)


def test_every_connection_succeeds_while_a_proxy_is_drained_and_another_added(login: str, tmp_path: Path) -> None:
    """A host that keeps one tunnel, and goes from a tunnel to each to one while people are connected."""
    farm = Farm(tmp_path / "farm", ["one", "two", "three"])
    node = TunnelNode(farm, "inner")
    with farm.served(["one", "two"], [node]):
        alice = farm.add_person("alice", logins=[login])
        alice.log_in()
        wait_until("a tunnel to each", lambda: sorted(farm.proxy_ids("inner")) == ids(farm, "one", "two"), 30)
        clients = Clients(alice, login, ["inner"])
        with clients.going():
            strategy(farm, **ONE)
            wait_until("one tunnel", lambda: len(farm.proxy_ids("inner")) == 1, 30)
            clients.wait_for(4)
            (kept,) = farm.proxy_ids("inner")
            leaving = next(one for one in farm.proxies.values() if one.daemon_runs and one.host_id == kept)
            with session(alice, f"{login}@inner.{farm.name}") as client:
                farm.proxies["three"].begin()
                leaving.drain()
                wait_until("the tunnel is to another", lambda: farm.proxy_ids("inner") not in ([], [kept]), 30)
                wait_until("the third serves", farm.proxies["three"].daemon.ready, 60)
                clients.wait_for(8)
                told, _ = client.communicate(b"after\n", timeout=30)
                assert told == b"after\n", "what is open stays until it ends"
            assert leaving.daemon.ended(60) == 0, "it ends by itself when its clients have left"
            clients.wait_for(4)
        clients.all_served()
        assert not farm.events("--type=proxy_peer.denied")
