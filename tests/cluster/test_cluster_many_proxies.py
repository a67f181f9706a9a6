"""Proxies behind a real haproxy without stickiness: clients reach every host by whichever proxy they land on, while
proxies are drained, added and killed."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from uuid import uuid4

import pytest
from tests.cluster.cluster_proxies import Farm, ProxyHost, TunnelNode
from tests.cluster.test_cluster_tunnel import open_session

from teleport.testing.cluster import LOOPBACK, Person, Ran, wait_until
from teleport.transport.tls import cluster_client_context
from teleport.wire import peering
from teleport.wire.alpn import PROXY_PEER

ONE = {"type": "proxy_peering", "agent_connection_count": 1}
MESH = {"type": "agent_mesh"}
AT_ONCE = 3  # clients
# what tsh says of a connection that is lost once the command was asked for, though perhaps not begun
ASKED_FOR = re.compile(r"tsh: the connection (was lost|(to|between) the proxy \S+:\d+.* was lost)")


@dataclass(frozen=True)
class Tried:
    """One connection, from when to when (monotonic seconds)."""

    kind: str
    word: str
    host: str
    began: float
    ended: float
    ran: Ran

    @property
    def served(self) -> bool:
        return self.ran.status == 0 and self.ran.stdout == f"{self.word}\n"

    def __str__(self) -> str:
        return f"{self.kind} {self.word} to {self.host}: {self.ran.status} {self.ran.stdout!r} {self.ran.stderr[-500:]}"


@dataclass
class Clients:
    """People who connect without end: plain `ssh` and `tsh ssh` in turn, each for a command that leaves its word in a
    file of the hosts, then prints it."""

    person: Person
    login: str
    hosts: list[str]
    words: Path
    tried: list[Tried] = field(default_factory=list)
    over: Event = field(default_factory=Event)

    def connect(self, number: int) -> None:
        host, word = self.hosts[number // 2 % len(self.hosts)], f"number{number}"
        command = f"echo {word} >> {self.words}; echo {word}"
        began = time.monotonic()
        if number % 2:
            kind, ran = "tsh", self.person.tsh("ssh", f"{self.login}@{host}", command, seconds=60)
        else:
            target = f"{self.login}@{host}.{self.person.cluster.name}"
            kind, ran = "ssh", self.person.ssh(target, command, seconds=60)
        self.tried.append(Tried(kind, word, host, began, time.monotonic(), ran))

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
        """Until so many more have come to their end."""
        wanted = len(self.tried) + more
        wait_until(f"{more} more connections", lambda: len(self.tried) >= wanted, seconds)

    @property
    def failed(self) -> list[Tried]:
        return [one for one in self.tried if not one.served]

    def began_once(self) -> set[str]:
        """The words of commands that were begun; none was begun twice."""
        found = Counter(self.words.read_text().split())
        assert not [word for word, count in found.items() if count > 1], "what was begun is never done again"
        return set(found)

    def all_served(self) -> None:
        told = "\n".join(map(str, self.failed))
        assert not self.failed, f"{len(self.failed)} of {len(self.tried)} failed:\n{told}"
        assert {one.kind for one in self.tried} == {"ssh", "tsh"}
        assert self.began_once() == {one.word for one in self.tried}


def strategy(farm: Farm, **said: object) -> None:
    """Changes the setting while everything runs."""
    document = {
        "kind": "cluster_networking_config",
        "version": "v2",
        "metadata": {"name": "cluster-networking-config"},
        "spec": {"tunnel_strategy": said},
    }
    farm.tctl("create", "-f", stdin=json.dumps(document)).ok()


@contextmanager
def farm_of(
    folder: Path, login: str, *, running: Sequence[str] = ("one", "two"), said: Mapping[str, object] | None = None
) -> Iterator[tuple[Farm, Clients]]:
    """Three proxies, of which some run; a host that has the tunnels which the setting asks for; somebody logged in."""
    farm = Farm(folder / "farm", ["one", "two", "three"], **({"tunnel_strategy": said} if said else {}))
    with farm.served(running, [TunnelNode(farm, "inner")]):
        alice = farm.add_person("alice", logins=[login])
        alice.log_in()
        yield farm, Clients(alice, login, ["inner"], folder / "words")


def drained_and_added(farm: Farm, clients: Clients, many: int) -> None:
    """Drains the proxy to which the host keeps a tunnel, and adds another, while people connect."""
    kept, before = farm.proxy_ids("inner"), list(farm.running)
    leaving = next(one for one in before if one.host_id in kept)
    with clients.going():
        clients.wait_for(many // 3, 1200)
        with open_session(clients.person, clients.login) as client:
            leaving.drain()
            farm.proxies["three"].begin()
            wait_until("a tunnel to another", lambda: bool(set(farm.proxy_ids("inner")) - {leaving.host_id}), 30)
            wait_until("the third serves", farm.proxies["three"].daemon.ready, 60)
            clients.wait_for(many // 3, 1200)
            told, _ = client.communicate(b"after\n", timeout=30)
            assert told == b"after\n", "what is open stays until it ends"
        assert leaving.daemon.ended(60) == 0, "it ends by itself when its clients have left"
        clients.wait_for(many - 2 * (many // 3), 1200)
    clients.all_served()
    assert len(clients.tried) >= many
    assert not farm.events("--type=proxy_peer.denied")


def test_every_connection_succeeds_while_a_proxy_is_drained_and_another_added(login: str, tmp_path: Path) -> None:
    """A host goes from a tunnel to each proxy to a single one; then the proxy that has it leaves."""
    with farm_of(tmp_path, login) as (farm, clients):
        wait_until("a tunnel to each", lambda: len(farm.proxy_ids("inner")) == 2, 30)
        strategy(farm, **ONE)
        wait_until("one tunnel", lambda: len(farm.proxy_ids("inner")) == 1, 30)
        drained_and_added(farm, clients, 12)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("said", "many"), [(ONE, 1000), (MESH, 200)], ids=["one tunnel", "a tunnel to each"])
def test_a_thousand_connections_succeed(login: str, tmp_path: Path, said: Mapping[str, object], many: int) -> None:
    with farm_of(tmp_path, login, said=said) as (farm, clients):
        wanted = 1 if said is ONE else 2
        wait_until("its tunnels", lambda: len(farm.proxy_ids("inner")) == wanted, 30)
        drained_and_added(farm, clients, many)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_when_a_proxy_is_killed_only_what_was_open_on_it_is_lost(login: str, tmp_path: Path) -> None:
    """Again and again, the one that holds the only tunnel. `tsh` connects anew unless its command was asked for."""
    with farm_of(tmp_path, login, running=("one", "two", "three"), said=ONE) as (farm, clients):
        kills = []
        with clients.going():
            for _ in range(6):
                clients.wait_for(8)
                (kept,) = wait_until("one tunnel", lambda: farm.proxy_ids("inner") or None, 30)
                victim = next(one for one in farm.running if one.host_id == kept)
                with open_session(clients.person, login) as client:
                    kills.append(time.monotonic())
                    victim.daemon.kill()
                    kills.append(time.monotonic())
                    assert client.wait(30) == 255, "it went by the tunnel of the one that was killed"
                wait_until("another tunnel", lambda kept=kept: bool(set(farm.proxy_ids("inner")) - {kept}), 30)  # type: ignore[misc]
                clients.wait_for(6)
                victim.daemon.begin()
                wait_until("it serves again", victim.daemon.ready, 60)
        begun = clients.began_once()
        lost = clients.failed
        for one in lost:
            assert any(one.began <= moment <= one.ended for moment in kills), f"it was not open then: {one}"
            if one.kind == "tsh":
                assert one.word in begun or ASKED_FOR.search(one.ran.stderr), str(one)
        print(f"{len(clients.tried)} connections, {len(kills) // 2} kills, {len(lost)} lost:", *lost, sep="\n")
        assert len(lost) <= len(kills) // 2 * AT_ONCE


@pytest.mark.long
def test_who_may_not_ask_other_proxies_for_hosts(login: str, tmp_path: Path) -> None:
    """A proxy that is locked, a host's certificate and a person's, at the listener of a running proxy."""
    with farm_of(tmp_path, login, said=ONE) as (farm, clients):
        (kept,) = farm.proxy_ids("inner")
        holding = next(one for one in farm.running if one.host_id == kept)
        asking = next(one for one in farm.running if one is not holding)
        node = farm.folder / "inner" / "data" / "proc" / "node"
        assert asked(holding, farm, node / "tls.crt", node / "tls.key") == "refused"
        farm.wait_event("proxy_peer.denied", peer_id=host_id(farm.folder / "inner"), server_id=kept)
        person = farm.folder / "alice.pem"
        farm.tctl("auth", "sign", "--user=alice", "--format=file", f"--out={person}", "--ttl=10m").ok()
        assert asked(holding, farm, person, person) == "refused"
        proxy = asking.data_dir / "proc" / "proxy"
        files = (proxy / "tls.crt", proxy / "tls.key")
        assert asked(holding, farm, *files) == "believed"
        (made,) = farm.tctl("lock", f"--node={asking.host_id}", "--format=json").json()
        wait_until("the lock counts", lambda: asked(holding, farm, *files) == "refused", 10)
        farm.wait_event("proxy_peer.denied", peer_id=asking.host_id, server_id=kept)
        farm.tctl("rm", f"lock/{made['name']}").ok()
        wait_until("it is lifted", lambda: asked(holding, farm, *files) == "believed", 10)
        clients.connect(0)
        clients.connect(1)
        clients.all_served()


@pytest.mark.long
def test_a_proxy_that_restarts_gracefully_takes_its_listener_for_others_along(login: str, tmp_path: Path) -> None:
    """HUP: hosts go to the next process, other proxies ask that one, and sessions stay."""
    with farm_of(tmp_path, login, said=ONE) as (farm, clients):
        (kept,) = farm.proxy_ids("inner")
        holding = next(one for one in farm.running if one.host_id == kept)
        first = holding.daemon.pid
        with clients.going(), open_session(clients.person, login) as client:
            clients.wait_for(4)
            os.kill(first, signal.SIGHUP)
            wait_until("the next process serves", lambda: int(holding.pid_file.read_text()) != first, 40)
            clients.wait_for(12)
            told, _ = client.communicate(b"after\n", timeout=30)
            assert told == b"after\n"
            assert holding.daemon.ended(60) == 0
            clients.wait_for(6)
        clients.all_served()
        os.kill(int(holding.pid_file.read_text()), signal.SIGTERM)


def host_id(folder: Path) -> str:
    return (folder / "data" / "host_uuid").read_text().strip()


def asked(proxy: ProxyHost, farm: Farm, cert: Path, key: Path) -> str:
    """What comes of asking a proxy for a host with these files: `refused` before an answer, or `believed`."""
    context = cluster_client_context([farm.authority()], cert, key)
    context.set_alpn_protocols([PROXY_PEER])
    question = peering.message(peering.Kind.ASK, peering.Ask(server_id=f"{uuid4()}.{farm.name}"))
    try:
        with (
            socket.create_connection((LOOPBACK, proxy.peer_port), timeout=10) as connection,
            context.wrap_socket(connection, server_hostname=f"{proxy.host_id}.{farm.name}") as tls,
        ):
            tls.sendall(question)
            said = tls.recv(4096)
    except (ssl.SSLError, ConnectionError):
        return "refused"
    return "believed" if b"no tunnel of this host ends here" in said else "refused"
