"""`tsh latency` names the hop that is slow, whichever way leads to the host, and opens nothing beyond `tsh ssh`."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.cluster_proxies import Farm, ProxyHost
from tests.cluster.cluster_trust import Trusting
from tests.cluster.test_cluster_tunnel import TunnelHost

from teleport.testing.cluster import (
    BIN,
    NODE,
    PUBLIC,
    Cluster,
    Host,
    Person,
    at,
    run,
    wait_until,
)

EACH_WAY = 0.06  # seconds
LONG = 2 * EACH_WAY * 1000  # milliseconds there and back
LITTLE = LONG / 2  # what a hop without delay stays under, on a machine that does other work, too


@contextmanager
def delayed(port: int) -> Iterator[int]:
    """Another port of the loopback, from which it is far to `port`."""
    words = [sys.executable, "-m", "teleport.testing.delay_relay", str(port), str(EACH_WAY)]
    relay = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert relay.stdout is not None
        yield int(relay.stdout.readline())
    finally:
        relay.kill()
        relay.wait()
        assert relay.stdout is not None
        relay.stdout.close()


class Far(Host):
    """A host that is dialled, and far from every proxy."""

    def __init__(self, folder: Path, cluster: Cluster, name: str, stack: ExitStack) -> None:
        token = folder.parent / f"{name}-token"
        cluster.tctl("tokens", "add", "--type=node", f"--out={token}").ok()
        config = cluster.node_config(name, auth_token=str(token), ca_pin=cluster.ca_pin())
        port = int(config["ssh_service"]["listen_addr"].rpartition(":")[2])
        config["ssh_service"]["public_addr"] = at(stack.enter_context(delayed(port)))
        super().__init__(folder, config)


def measured(person: Person, *arguments: str) -> dict[str, Any]:
    """What `tsh latency` prints as JSON, checked in itself."""
    ran = person.tsh("latency", "--format=json", "--count=9", "--interval=0.05", *arguments, seconds=60)
    found: dict[str, Any] = ran.ok().json()
    assert len(found["measures"]) == 9
    for one in [found["median"], *found["measures"]]:
        assert one["sum_ms"] >= max(one["client_to_proxy_ms"], one["proxy_to_host_ms"]) > 0
    print(arguments, found["connect"], found["median"])
    return found


def test_a_slow_first_hop_is_told_from_a_slow_second_one(
    cluster: Cluster, alice: Person, login: str, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        far = stack.enter_context(Far(tmp_path / "far", cluster, "far", stack))
        near, there = measured(alice, f"{login}@{NODE}"), measured(alice, f"{login}@far")
        assert (near["host"], near["cluster"]) == (NODE, cluster.name)
        assert near["median"]["sum_ms"] < LITTLE
        assert there["median"]["client_to_proxy_ms"] < LITTLE
        assert LONG <= there["median"]["proxy_to_host_ms"] < 2 * LONG
        assert there["connect"]["proxy_to_host_ms"] > LONG, "the keys are exchanged over it"

        slow = stack.enter_context(delayed(cluster.proxy_ssh_port))
        by_relay = f"--proxy={at(cluster.web_port, PUBLIC)},{slow}"
        both = measured(alice, by_relay, f"{login}@far")["median"]
        assert LONG <= both["client_to_proxy_ms"] < 2 * LONG
        assert LONG <= both["proxy_to_host_ms"] < 2 * LONG
        assert both["sum_ms"] >= 2 * LONG
        assert far.daemon.ready()


def test_by_a_tunnel_and_into_another_cluster(tmp_path: Path, login: str) -> None:
    """The tunnel is what is far: of a host, and of the other cluster's proxy."""
    root, leaf = Cluster(tmp_path / "root", name="root.test"), Cluster(tmp_path / "leaf", name="leaf.test")
    with ExitStack() as stack:
        port = stack.enter_context(delayed(root.tunnel_port))
        root.config["proxy_service"]["tunnel_public_addr"] = at(port)
        root.write()
        for one in (root, leaf):
            stack.enter_context(one)
        both = Trusting(root, leaf)
        root.tunnel_port = port
        both.trust({"access": ["access"]})
        ann = root.add_person("ann", logins=[login])
        ann.log_in()
        stack.enter_context(TunnelHost(tmp_path / "inner", root, "inner"))
        by_tunnel = measured(ann, f"{login}@inner")["median"]
        assert by_tunnel["client_to_proxy_ms"] < LITTLE
        assert LONG <= by_tunnel["proxy_to_host_ms"] < 2 * LONG
        both.wait_online(ann)
        elsewhere = measured(ann, "--cluster=leaf.test", f"{login}@{NODE}")
        assert elsewhere["cluster"] == "leaf.test"
        assert elsewhere["median"]["client_to_proxy_ms"] < LITTLE
        assert LONG <= elsewhere["median"]["proxy_to_host_ms"] < 2 * LONG
        assert measured(ann, f"{login}@{NODE}.leaf.test")["cluster"] == "leaf.test", "its name says where it is"


class _Lone(ProxyHost):
    """A proxy that people, hosts and other proxies reach at its own ports, the last of them from far."""

    def __init__(self, farm: Farm, name: str, stack: ExitStack) -> None:
        super().__init__(farm, name)
        self.config["proxy_service"] |= {
            "public_addr": at(self.web_port, PUBLIC),
            "ssh_public_addr": at(self.ssh_port, PUBLIC),
            "tunnel_public_addr": at(self.tunnel_port),
            "peer_public_addr": at(stack.enter_context(delayed(self.peer_port))),
        }
        self.write()


def test_by_another_proxy(tmp_path: Path, login: str) -> None:
    with ExitStack() as stack:
        strategy = {"type": "proxy_peering", "agent_connection_count": 1}
        farm = Farm(tmp_path / "farm", [], tunnel_strategy=strategy)
        stack.enter_context(farm)
        farm._ends = stack
        proxies = [_Lone(farm, name, stack) for name in ("one", "two")]
        for proxy in proxies:
            proxy.begin()
        for proxy in proxies:
            wait_until(f"{proxy.name} is ready", proxy.daemon.ready, 60)
        farm.web_port, farm.proxy_ssh_port = proxies[0].web_port, proxies[0].ssh_port
        ann = farm.add_person("ann", logins=[login])
        ann.log_in()
        stack.enter_context(TunnelHost(tmp_path / "inner", farm, "inner"))
        (kept,) = wait_until("one tunnel", lambda: farm.proxy_ids("inner") or None, 30)
        for proxy in proxies:
            given = f"--proxy={at(proxies[0].web_port, PUBLIC)},{proxy.ssh_port}"
            found = measured(ann, given, f"{login}@inner")["median"]
            assert found["client_to_proxy_ms"] < LITTLE
            if proxy.host_id == kept:
                assert found["proxy_to_host_ms"] < LITTLE, "this one has the tunnel"
            else:
                assert LONG <= found["proxy_to_host_ms"] < 2 * LONG, "it asks the other one"


def test_where_the_proxy_records_the_host_itself_answers(tmp_path: Path, login: str) -> None:
    """The session ends at the proxy; the second hop is that from there all the same."""
    with ExitStack() as stack:
        recorded = Cluster(tmp_path / "recorded", session_recording="proxy")
        stack.enter_context(recorded)
        ann = recorded.add_person("ann", logins=[login])
        ann.log_in()
        stack.enter_context(Far(tmp_path / "far", recorded, "far", stack))
        found = measured(ann, f"{login}@far")
        assert found["ends_at_proxy"]
        assert found["median"]["client_to_proxy_ms"] < LITTLE
        assert LONG <= found["median"]["proxy_to_host_ms"] < 2 * LONG


def test_who_may_not_log_in_measures_nothing(cluster: Cluster, alice: Person, login: str) -> None:
    """The same refusals as `tsh ssh`, and no session of anybody's comes of it."""
    bob = cluster.add_person("latecomer", logins=["nobody"])
    bob.log_in()
    for person, target in ((bob, f"{login}@{NODE}"), (alice, f"nosuchlogin@{NODE}"), (alice, f"{login}@nosuchhost")):
        words = person.tsh("ssh", target, "true"), person.tsh("latency", "--count=1", target)
        assert all(one.status for one in words)
        assert words[0].stderr == words[1].stderr
        assert not words[1].stdout
    assert not [one for one in cluster.events("--type=session.start") if one["user"] == "latecomer"]


def test_it_goes_on_until_somebody_ends_it(cluster: Cluster, alice: Person, login: str) -> None:
    """Line by line, as it comes; Ctrl-C ends it with what was found."""
    words = [str(BIN / "tsh"), "latency", "--count=1000", "--interval=0.05", f"{login}@{NODE}"]
    running = subprocess.Popen(words, env=alice.environment, stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    lines = [running.stdout.readline() for _ in range(5)]
    running.send_signal(signal.SIGINT)
    rest, _ = running.communicate(timeout=20)
    assert running.returncode == 0
    assert lines[0].startswith(f"{NODE} of {cluster.name}: connecting took ")
    assert lines[1].split() == ["to", "the", "proxy", "proxy", "to", "host", "sum"]
    assert all(line.split()[1::2] == ["ms", "ms", "ms"] for line in lines[2:])
    assert "  median of " in rest.splitlines()[-1]


@pytest.mark.parametrize("words", [["a=b"], ["@host"], ["--count=0", "host"], ["--interval=0", "host"]])
def test_what_cannot_be_meant_is_refused(alice: Person, words: list[str]) -> None:
    assert run(BIN / "tsh", "latency", *words, environment=alice.environment).status == 2
