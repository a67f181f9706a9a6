"""A node behind a NAT that drops whatever comes in, with only the proxy's web and tunnel ports reachable, outbound.

Three network namespaces, made here: `wan` has the cluster and its users (this process moves there for as long as the
test runs), `nat` translates and drops, `lan` has the node, whose own firewall drops, too.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.cluster import cluster_networks
from tests.cluster.cluster_networks import command, moved_to, put_inside

from teleport.testing.cluster import BIN, LOOPBACK, PUBLIC, Cluster, Host, Person, at, run, wait_until
from teleport.testing.terminal import Terminal

QUICK = 6 if ":" in LOOPBACK else 4  # the version of IP that is tried on each run
BACK = 10.0  # seconds within which the node is back
PREFIXES = {4: ("203.0.113.1", "203.0.113.2", 24, "10.99.0.1", "10.99.0.2", 24)}
PREFIXES[6] = ("fd01::1", "fd01::2", 64, "fd02::1", "fd02::2", 64)
RULES = """
table inet guard {{
  chain translate {{ type nat hook postrouting priority 100; oifname "out" masquerade; }}
  chain pass {{
    type filter hook forward priority 0; policy drop;
    ct state established accept
    iifname "in" oifname "out" tcp dport {{ {ports} }} accept
  }}
  chain own {{
    type filter hook input priority 0; policy drop;
    meta l4proto {{ icmp, ipv6-icmp }} accept
  }}
}}
"""
LAN_RULES = """
table inet guard {
  chain own {
    type filter hook input priority 0; policy drop;
    iifname "lo" accept
    meta l4proto ipv6-icmp accept
    ct state established accept
  }
}
"""


def why_not(version: int) -> str:
    """Why there can be no namespaces with a NAT here; empty when there can."""
    return cluster_networks.why_not(version, RULES.format(ports="1"))


@dataclass(frozen=True)
class Net:
    """The namespaces, by the names that the kernel has for them."""

    wan: str
    nat: str
    lan: str
    version: int

    @property
    def outer(self) -> str:
        """The cluster's address, as the node reaches it."""
        return PREFIXES[self.version][0]

    def only(self, *ports: int) -> None:
        """The ports of the cluster that the node may reach; everything else is dropped."""
        rules = RULES.format(ports=", ".join(map(str, ports)))
        command("ip", "netns", "exec", self.nat, "nft", "-f", "-", stdin=rules)

    def link(self, state: str) -> None:
        """Pulls the node's cable, or puts it back."""
        command("ip", "-n", self.nat, "link", "set", "in", state)


@contextmanager
def net(version: int) -> Iterator[Net]:
    """Makes the namespaces and moves to `wan`; back and away with them at the end."""
    mark = uuid.uuid4().hex[:8]
    made = Net(f"wan{mark}", f"nat{mark}", f"lan{mark}", version)
    wan, nat_out, out_bits, nat_in, lan, in_bits = PREFIXES[version]
    with ExitStack() as stack:
        for name in (made.wan, made.nat, made.lan):
            command("ip", "netns", "add", name)
            stack.callback(command, "ip", "netns", "del", name)
            command("ip", "-n", name, "link", "set", "lo", "up")
            for what in ("all", "default"):
                keep = f"net.ipv6.conf.{what}.keep_addr_on_down=1"
                dad = f"net.ipv6.conf.{what}.accept_dad=0"
                command("ip", "netns", "exec", name, "sysctl", "-q", "-w", keep, dad)
        for one, end, other, far in ((made.wan, "eth", made.nat, "out"), (made.nat, "in", made.lan, "eth")):
            command("ip", "link", "add", "name", end, "netns", one, "type", "veth", "peer", "name", far, "netns", other)
        for name, end, address, bits in (
            (made.wan, "eth", wan, out_bits),
            (made.nat, "out", nat_out, out_bits),
            (made.nat, "in", nat_in, in_bits),
            (made.lan, "eth", lan, in_bits),
        ):
            extra = ["nodad"] if version == 6 else []
            command("ip", "-n", name, "addr", "add", f"{address}/{bits}", "dev", end, *extra)
            command("ip", "-n", name, "link", "set", end, "up")
        command("ip", "-n", made.lan, f"-{version}", "route", "add", "default", "via", nat_in)
        forward = "net.ipv4.ip_forward=1" if version == 4 else "net.ipv6.conf.all.forwarding=1"
        command("ip", "netns", "exec", made.nat, "sysctl", "-q", "-w", forward)
        command("ip", "netns", "exec", made.lan, "nft", "-f", "-", stdin=LAN_RULES)
        with moved_to(made.wan):
            yield made


def inside(network: Net, cluster: Cluster, folder: Path, **more: Any) -> Host:
    """The node, which joins through the proxy; `more`: keys of its section `teleport`."""
    token = folder.parent / "inside-token"
    cluster.tctl("tokens", "add", "--type=node", f"--out={token}").ok()
    config = cluster.node_config("inside", auth_token=str(token), ca_pin=cluster.ca_pin())
    web = f"[{network.outer}]" if network.version == 6 else network.outer
    config["teleport"]["auth_servers"] = [f"{web}:{cluster.web_port}"]
    config["teleport"] |= more
    host = Host(folder, config)
    put_inside(host, network.lan)
    return host


def says(person: Person, login: str) -> str:
    done = person.tsh("ssh", f"{login}@inside", "echo here", seconds=60)
    return done.stdout.strip() if done.status == 0 else ""


@pytest.mark.parametrize(
    ("version", "outage"),
    [
        pytest.param(QUICK, 5.0, id=f"ipv{QUICK}"),
        pytest.param(4, 60.0, id="ipv4-long", marks=pytest.mark.long),
        pytest.param(6, 60.0, id="ipv6-long", marks=pytest.mark.long),
    ],
)
def test_a_node_behind_a_nat_takes_sessions_and_is_back_after_its_cable_was_pulled(
    login: str, tmp_path: Path, version: int, outage: float
) -> None:
    if why := why_not(version):
        pytest.skip(why)
    with net(version) as network:
        cluster = Cluster(tmp_path / "cluster")
        everywhere = "0.0.0.0" if version == 4 else "[::]"
        proxy = cluster.config["proxy_service"]
        proxy["web_listen_addr"] = f"{everywhere}:{cluster.web_port}"
        proxy["tunnel_listen_addr"] = f"{everywhere}:{cluster.tunnel_port}"
        shown = network.outer if version == 4 else f"[{network.outer}]"
        proxy["tunnel_public_addr"] = f"{shown}:{cluster.tunnel_port}"
        cluster.write()
        network.only(cluster.web_port, cluster.tunnel_port)
        with cluster:
            alice = cluster.add_person("alice", logins=[login])
            alice.log_in()
            with inside(network, cluster, tmp_path / "inside"):
                assert says(alice, login) == "here"
                assert alice.ssh(f"{login}@inside.{cluster.name}", "echo", "plain").ok().stdout == "plain\n"
                data = os.urandom(2_000_000)
                (tmp_path / "sent").write_bytes(data)
                alice.tsh("scp", tmp_path / "sent", f"{login}@inside:{tmp_path}/there").ok()
                assert (tmp_path / "there").read_bytes() == data
                with subprocess.Popen(
                    alice.ssh_arguments(f"{login}@inside.{cluster.name}", "cat"),
                    env=alice.environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                ) as session:
                    network.link("down")
                    end = time.monotonic() + outage
                    wait_until("the cable is out long enough", lambda: time.monotonic() > end, outage + 5)
                    network.link("up")
                    began = time.monotonic()
                    wait_until("the node is back", lambda: says(alice, login) == "here", 5 * BACK)
                    took = time.monotonic() - began
                    if outage < 20:  # no tunnel dies of that
                        told, _ = session.communicate(b"through\n", timeout=20)
                        assert told == b"through\n", "an open session outlives a short outage"
                    session.kill()
                assert took < BACK, f"back after {took:.1f} s"


GIB = 1 << 30  # bytes
ONE_PORT = 443


@pytest.mark.long
@pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])
def test_one_port_is_enough_for_a_gibibyte_and_a_shared_session(login: str, tmp_path: Path, version: int) -> None:
    """Done-when 1 of tunnels: the node reaches 443 of the proxy and nothing else; nobody reaches the node."""
    if why := why_not(version):
        pytest.skip(why)
    with net(version) as network:
        cluster = one_port(Cluster(tmp_path / "cluster"), network)
        network.only(ONE_PORT)
        with cluster:
            alice, bob = (cluster.add_person(name, logins=[login]) for name in ("alice", "bob"))
            cluster.tctl("create", "-f", "-", stdin=JOINERS).ok()
            cluster.tctl("users", "update", "bob", "--set-roles=access,joiners").ok()
            for person in (alice, bob):
                person.log_in()
            with inside(network, cluster, tmp_path / "inside"):
                assert says(alice, login) == "here"
                (spec,) = [
                    node["spec"]
                    for node in cluster.tctl("get", "nodes", "--format=json").json()
                    if node["spec"]["hostname"] == "inside"
                ]
                assert spec["use_tunnel"] is True
                whole_gibibytes(alice, login, tmp_path)
                shares_a_session(cluster, alice, bob, login)


JOINERS = """kind: role
version: v4
metadata: {name: joiners}
spec: {allow: {join_sessions: [{roles: [access], kinds: [ssh], modes: [observer, peer]}]}}
"""


def one_port(cluster: Cluster, network: Net) -> Cluster:
    """The proxy listens on 443 of every address, and nowhere else."""
    cluster.config["version"] = "v2"
    proxy = cluster.config["proxy_service"]
    for key in ("listen_addr", "ssh_public_addr", "tunnel_listen_addr", "tunnel_public_addr"):
        del proxy[key]
    cluster.web_port = cluster.proxy_ssh_port = cluster.tunnel_port = ONE_PORT
    shown = f"[{network.outer}]" if network.version == 6 else network.outer
    proxy["web_listen_addr"] = f"{'[::]' if network.version == 6 else '0.0.0.0'}:{ONE_PORT}"
    proxy["public_addr"] = [at(ONE_PORT, PUBLIC), f"{shown}:{ONE_PORT}"]
    proxy["tunnel_public_addr"] = f"{shown}:{ONE_PORT}"
    cluster.write()
    return cluster


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def whole_gibibytes(person: Person, login: str, folder: Path) -> None:
    """There by `tsh scp`, back by plain scp, and each whole."""
    sent, there, back = folder / "sent", folder / "there", folder / "back"
    with sent.open("wb") as file:
        for _ in range(GIB >> 20):
            file.write(os.urandom(1 << 20))
    wanted = digest(sent)
    person.tsh("scp", sent, f"{login}@inside:{there}", seconds=400).ok()
    assert digest(there) == wanted
    sent.unlink()
    copied = ["scp", *person.ssh_arguments()[1:], f"{login}@inside.{person.cluster.name}:{there}", str(back)]
    run(*copied, environment=person.environment, seconds=400).ok()
    assert (back.stat().st_size, digest(back)) == (GIB, wanted)
    for path in (there, back):
        path.unlink()


def shares_a_session(cluster: Cluster, owner: Person, other: Person, login: str) -> None:
    """A shell of one person, by plain ssh, in which another sees and types, by tsh."""
    words = owner.ssh_arguments("-tt", f"{login}@inside.{cluster.name}", "stty -echo; exec sh")
    with Terminal(words, owner.environment, owner.home) as first:
        first.type("echo id:$SSH_SESSION_ID:\n")
        sid = first.expect("id:([0-9a-f-]{36}):", 30)[1].decode()
        wait_until("the session may be joined", lambda: sid in other.tsh("sessions", "ls").ok().stdout)
        with Terminal(
            [str(BIN / "tsh"), "join", "--mode=peer", sid], {**other.environment, "TERM": "xterm"}, other.home
        ) as second:
            first.expect("bob has joined this session", 30)
            second.type("echo sha''red\n")
            first.expect("shared", 30)
            second.expect("shared", 30)
            first.type("exit\n")
            first.ended()
    cluster.wait_event("session.join", user="bob", sid=sid)
