"""A host that is reached by a tunnel only: what leads to it, its restart and its end, and a proxy that is killed.

The network that drops what comes in is `test_cluster_nat.py`'s.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.cluster.cluster_restarting import Restarting
from tests.cluster.cluster_site_proxy import leading_home

from teleport.resources.values import HostPort
from teleport.testing.cluster import (
    LOOPBACK,
    Cluster,
    DaemonProcess,
    Host,
    Person,
    at,
    loopback_socket,
    plain_environment,
    wait_until,
)

BACK = 10.0  # seconds within which a host is back


class TunnelHost(Host):
    """A host whose configuration names the proxy, in a daemon with a pid file."""

    def __init__(self, folder: Path, cluster: Cluster, name: str) -> None:
        token = folder.parent / f"{name}-token"
        cluster.tctl("tokens", "add", "--type=node", f"--out={token}").ok()
        config = cluster.node_config(name, auth_token=str(token), ca_pin=cluster.ca_pin())
        config["teleport"]["auth_servers"] = [at(cluster.web_port)]
        self.listen_port = int(config["ssh_service"]["listen_addr"].rpartition(":")[2])
        super().__init__(folder, config)
        self.pid_file = folder / "teleport.pid"
        self.daemon = DaemonProcess(
            folder, ["--config", self.config_path, "--pid-file", self.pid_file], diag_port=self.diag_port
        )

    @property
    def host_id(self) -> str:
        return (self.data_dir / "host_uuid").read_text().strip()


@pytest.fixture(scope="module")
def behind(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TunnelHost]:
    with TunnelHost(tmp_path_factory.mktemp("behind") / "inner", cluster, "inner") as host:
        yield host


def ended(cluster: Cluster, host: TunnelHost) -> int:
    """How many tunnels of a host have ended so far."""
    said = (line for line in cluster.daemon.log().splitlines() if f"tunnel of the host {host.host_id} (process" in line)
    return sum(") ended: " in line for line in said)


def says(person: Person, login: str, name: str) -> str:
    """What a session at the host prints, as `tsh ssh` shows it; empty when there was none."""
    done = person.tsh("ssh", f"{login}@{name}", "echo $SSH_TELEPORT_HOST_UUID")
    return done.stdout.strip() if done.status == 0 else ""


def registered(cluster: Cluster, name: str) -> dict[str, object]:
    """What auth knows of a node."""
    (found,) = [
        node for node in cluster.tctl("get", "nodes", "--format=json").json() if node["spec"]["hostname"] == name
    ]
    return dict(found["spec"])


@contextmanager
def open_session(person: Person, login: str) -> Iterator[subprocess.Popen[bytes]]:
    """`ssh` to the host, where `cat` runs and has answered once."""
    with subprocess.Popen(
        person.ssh_arguments(f"{login}@inner.{person.cluster.name}", "cat"),
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


def test_a_host_behind_a_tunnel_takes_every_kind_of_session(
    cluster: Cluster, alice: Person, login: str, tmp_path: Path, behind: TunnelHost
) -> None:
    spec = registered(cluster, "inner")
    assert spec["use_tunnel"] is True
    assert spec["proxy_ids"] == [(cluster.data_dir / "host_uuid").read_text().strip()]
    assert "addr" not in spec
    with loopback_socket() as probe:
        assert probe.connect_ex((LOOPBACK, behind.listen_port)) != 0, "it listens nowhere"
    (line,) = [line for line in alice.tsh("ls").ok().stdout.splitlines() if "inner" in line]
    assert "unnel" in line
    assert says(alice, login, "inner") == behind.host_id
    assert alice.ssh(f"{login}@inner.{cluster.name}", "echo", "plain").ok().stdout == "plain\n"
    data = os.urandom(3_000_000)
    (tmp_path / "sent").write_bytes(data)
    alice.tsh("scp", tmp_path / "sent", f"{login}@inner:{tmp_path}/there").ok()
    assert (tmp_path / "there").read_bytes() == data
    back = alice.ssh(f"{login}@inner.{cluster.name}", "cat", tmp_path / "there", seconds=60)
    assert back.status == 0
    assert len(back.stdout) > 0
    event = cluster.wait_event("session.start", server_id=behind.host_id)
    assert HostPort.parse(event["addr.remote"]).host == LOOPBACK, "the client's own address, by the proxy's word"


def metrics(diag_port: int) -> dict[str, float]:
    """What a daemon's diagnostics listener shows, by name and label."""
    with urllib.request.urlopen(f"http://{at(diag_port)}/metrics", timeout=20) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for line in lines if line[0] != "#" for name, value in [line.rsplit(" ", 1)]}


def test_both_ends_count_their_tunnels(cluster: Cluster, behind: TunnelHost) -> None:
    assert metrics(behind.diag_port)["reversetunnel_connected_proxies"] == 1
    shown = metrics(cluster.diag_port)
    assert shown['teleport_reverse_tunnels_connected{type="node"}'] >= 1
    assert shown['teleport_reverse_tunnels_connected{type="proxy"}'] == 0
    assert shown["proxy_missing_ssh_tunnels"] == 0


def test_a_host_that_restarts_keeps_its_sessions_on_the_old_tunnel(
    cluster: Cluster, alice: Person, login: str, tmp_path: Path, behind: TunnelHost
) -> None:
    with open_session(alice, login) as client:
        first = behind.daemon.pid
        os.kill(first, signal.SIGHUP)
        wait_until("the next process serves", lambda: int(behind.pid_file.read_text()) != first, 40)
        assert says(alice, login, "inner") == behind.host_id
        told, _ = client.communicate(b"after\n", timeout=20)
        assert told == b"after\n", "the old session lives on the old tunnel"
        assert client.returncode == 0
        second = int(behind.pid_file.read_text())
        os.kill(second, signal.SIGTERM)
        assert behind.daemon.ended() == 0
        assert "Traceback" not in behind.daemon.log()
        wait_until("a clean stop withdraws its presence", lambda: "inner" not in alice.tsh("ls").ok().stdout)
    behind.daemon.start()  # for the other tests


def test_a_host_that_is_killed_is_not_led_to_any_more(
    cluster: Cluster, alice: Person, login: str, behind: TunnelHost
) -> None:
    assert says(alice, login, "inner") == behind.host_id

    def named() -> object:
        (found,) = cluster.tctl("get", f"nodes/{behind.host_id}", "--format=json").json()
        return found["spec"].get("proxy_ids")

    wait_until("it has said which proxies lead to it", named, 90)  # one that just came up says so a little later
    before = ended(cluster, behind)
    behind.daemon.kill()
    wait_until("its tunnel is gone at once", lambda: ended(cluster, behind) > before, 5)
    done = alice.tsh("ssh", f"{login}@inner", "true")
    assert done.status != 0
    assert "keeps no tunnel" in done.stderr
    assert metrics(cluster.diag_port)["proxy_missing_ssh_tunnels"] == 1
    wait_until("lists say so", lambda: "ago, its proxies say)" in alice.tsh("ls").ok().stdout, 40)
    assert "ago, its proxies say)" in cluster.tctl("nodes", "ls").ok().stdout
    behind.daemon.start()
    wait_until("and say so no more", lambda: "its proxies say" not in alice.tsh("ls").ok().stdout, 20)
    assert says(alice, login, "inner") == behind.host_id


def test_a_locked_host_loses_its_tunnel_and_is_back_when_the_lock_is_gone(
    cluster: Cluster, alice: Person, login: str, behind: TunnelHost
) -> None:
    assert says(alice, login, "inner") == behind.host_id
    before = ended(cluster, behind)
    (made,) = cluster.tctl("lock", f"--node={behind.host_id}", "--format=json").json()
    try:
        wait_until("its tunnel is gone", lambda: ended(cluster, behind) > before, 10)
    finally:
        cluster.tctl("rm", f"lock/{made['name']}").ok()
    wait_until("it is back", lambda: says(alice, login, "inner") == behind.host_id, 5 * BACK)


def test_a_locked_proxy_loses_the_tunnels_that_hosts_keep_to_it(
    cluster: Cluster, alice: Person, login: str, behind: TunnelHost
) -> None:
    """The host ends them, and says so on record; whoever was led through is cut off."""
    assert says(alice, login, "inner") == behind.host_id
    proxy = (cluster.data_dir / "host_uuid").read_text().strip()
    with open_session(alice, login) as client:
        (made,) = cluster.tctl("lock", f"--node={proxy}", "--format=json").json()
        try:
            assert client.wait(20) != 0
            wait_until("the host has said why", lambda: "is locked" in behind.daemon.log(), 10)
        finally:
            cluster.tctl("rm", f"lock/{made['name']}").ok()
    event = cluster.wait_event("tunnel.ended", server_id=behind.host_id)
    assert (event["host"], event["role"]) == (proxy, "Proxy")
    wait_until("it is back", lambda: says(alice, login, "inner") == behind.host_id, 5 * BACK)


@pytest.mark.long
def test_a_host_is_back_soon_after_its_proxy_was_killed(login: str, tmp_path: Path) -> None:
    """Also when the proxy restarts gracefully: then nobody who comes meanwhile is refused, and sessions go on."""
    with Restarting(tmp_path / "cluster") as cluster:
        alice = cluster.add_person("alice", logins=[login])
        alice.log_in()
        with TunnelHost(tmp_path / "inner", cluster, "inner") as host:
            assert says(alice, login, "inner") == host.host_id
            cluster.daemon.kill()
            cluster.daemon.start()
            began = time.monotonic()
            wait_until("the host is back", lambda: says(alice, login, "inner") == host.host_id, 5 * BACK)
            assert time.monotonic() - began < BACK
            with open_session(alice, login) as client:
                cluster.signal(signal.SIGHUP)
                cluster.wait_successor()
                for _ in range(5):
                    assert says(alice, login, "inner") == host.host_id
                assert client.communicate(b"after\n", timeout=20)[0] == b"after\n"


@pytest.mark.long
def test_a_host_joins_and_is_reached_through_the_http_proxy_of_its_site(login: str, tmp_path: Path) -> None:
    """Its only way out: the cluster's name is known to that proxy alone."""
    cluster = Cluster(tmp_path / "cluster")
    cluster.config["proxy_service"]["tunnel_public_addr"] = f"cluster.invalid:{cluster.tunnel_port}"
    cluster.write()
    with cluster, leading_home() as (url, asked):
        alice = cluster.add_person("alice", logins=[login])
        alice.log_in()
        host = TunnelHost(tmp_path / "inner", cluster, "inner")
        host.config["teleport"]["auth_servers"] = [f"cluster.invalid:{cluster.web_port}"]
        host.write()
        host.daemon = DaemonProcess(
            host.folder,
            ["--config", host.config_path],
            diag_port=host.diag_port,
            environment={**plain_environment(host.folder), "HTTPS_PROXY": url},
        )
        with host:
            assert says(alice, login, "inner") == host.host_id
            assert {f"cluster.invalid:{port}" for port in (cluster.web_port, cluster.tunnel_port)} == set(asked)
