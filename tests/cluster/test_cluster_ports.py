"""A cluster of four hosts, each of which drops whatever `teleport ports` does not list for it, in and out.

Auth, a proxy, a host that joins directly and one that joins through the proxy, all with the ports that they have when
the configuration says nothing, each in a network namespace with the very rules that the command prints.
"""

from __future__ import annotations

import re
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.cluster import cluster_networks
from tests.cluster.cluster_networks import Switch, moved_to, put_inside, switch

from teleport.testing.cluster import BIN, NAME, Cluster, Host, Person

PROBE = """table inet probe {
  chain c {
    type filter hook input priority filter; policy drop;
    ct state new counter
  }
}
"""
ONE_PORT = 443


class Alone(Cluster):
    """Auth by itself, with its default port, for people who reach the proxy by its address."""

    def __init__(self, folder: Path, net: Switch, web_port: int) -> None:
        self.web_host = self.public_host = net.hosts["proxy"]
        super().__init__(folder)
        self.web_port = web_port
        self.config = off(
            "auth",
            {
                "teleport": {"nodename": "auth", "data_dir": str(self.data_dir), "auth_servers": [net.hosts["auth"]]},
                "auth_service": {"cluster_name": NAME, "listen_addr": f"{net.hosts['auth']}:3025"},
            },
        )
        self.write()
        put_inside(self, net.network("auth"), "auth")


def off(role: str, config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a host with one service."""
    for one in ("auth", "proxy", "ssh"):
        config.setdefault(f"{one}_service", {})["enabled"] = one == role
    return config


def joining(cluster: Alone, net: Switch, name: str, server: str, role: str, **sections: Any) -> Host:
    """A host of the cluster with one service, which joins by `server`; the rules are not there yet."""
    folder = cluster.folder.parent / name
    token = cluster.folder.parent / f"{name}-token"
    kind = "proxy" if role == "proxy" else "node"
    cluster.tctl("tokens", "add", f"--type={kind}", f"--out={token}").ok()
    teleport = {"nodename": name, "auth_servers": [server], "auth_token": str(token), "ca_pin": cluster.ca_pin()}
    host = Host(folder, off(role, {"teleport": teleport, **sections}))
    put_inside(host, net.network(name), kind)
    return host


def close(net: Switch, name: str, host: Host) -> None:
    """Drops at a host what the command does not print for it, and counts new connections that are dropped."""
    words = (f"{BIN}/teleport", "ports", "-c", str(host.config_path), "--format=nft")
    rules = net.inside(name, *words)
    for _ in range(2):  # loaded twice they are the same
        net.inside(name, "nft", "-f", "-", stdin=rules)
    for chain in ("input", "output"):
        net.inside(name, "nft", "add", "rule", "inet", "teleport", chain, "ct", "state", "new", "counter")


def dropped(net: Switch, name: str, chain: str) -> int:
    """New connections, packets of them, that the rules of a host kept from their way."""
    text = net.inside(name, "nft", "list", "chain", "inet", "teleport", chain)
    found = re.search(r"ct state new counter packets (\d+)", text)
    assert found is not None, text
    return int(found[1])


def uses(person: Person, login: str, folder: Path) -> None:
    """Both hosts, by tsh and by plain ssh, with a file there."""
    person.log_in()
    for name in ("direct", "behind"):
        assert person.tsh("ssh", f"{login}@{name}", "echo", "here").ok().stdout == "here\n"
        assert person.ssh(f"{login}@{name}.{NAME}", "echo", "plain").ok().stdout == "plain\n"
        (folder / "sent").write_bytes(b"\0\xff" * 50_000)
        person.tsh("scp", folder / "sent", f"{login}@{name}:{folder}/{name}.arrived").ok()
        assert (folder / f"{name}.arrived").read_bytes() == b"\0\xff" * 50_000


@pytest.mark.parametrize("one_port", [False, True], ids=["usual ports", "one port"])
def test_a_cluster_works_with_the_listed_ports_and_nothing_else(login: str, tmp_path: Path, one_port: bool) -> None:
    """Login, sessions and copies, to a host that is reached directly and to one behind a tunnel; no host tries what its
    rules forbid, and what is not listed does not come through."""
    if why := cluster_networks.why_not(4, PROBE):
        pytest.skip(why)
    web_port = ONE_PORT if one_port else 3080
    names = ("auth", "proxy", "direct", "behind", "user")
    with switch(*names) as net, moved_to(net.network("user")), ExitStack() as stack:
        cluster = Alone(tmp_path / "auth", net, web_port)
        hosts: dict[str, Host] = {"auth": cluster}
        close(net, "auth", cluster)
        stack.enter_context(cluster)
        at = net.hosts["proxy"]
        section: dict[str, Any] = {"public_addr": f"{at}:{web_port}"}
        if one_port:
            section["web_listen_addr"] = f"0.0.0.0:{ONE_PORT}"
        more: dict[str, Any] = {"version": "v2"} if one_port else {}
        auth = f"{net.hosts['auth']}:3025"
        hosts["proxy"] = joining(cluster, net, "proxy", auth, "proxy", proxy_service=section, **more)
        hosts["direct"] = joining(cluster, net, "direct", auth, "ssh")
        hosts["behind"] = joining(cluster, net, "behind", f"{at}:{web_port}", "ssh")
        for name in ("proxy", "direct", "behind"):
            close(net, name, hosts[name])  # the last one asks the proxy, which runs
            stack.enter_context(hosts[name])
        alice = cluster.add_person("alice", logins=[login])
        uses(alice, login, tmp_path)
        assert {name: dropped(net, name, "output") for name in hosts} == dict.fromkeys(hosts, 0)
        assert {name: dropped(net, name, "input") for name in hosts} == dict.fromkeys(hosts, 0)
        closed(net, web_port)


def closed(net: Switch, web_port: int) -> None:
    """What is not listed: in, and out."""
    with pytest.raises(TimeoutError):
        socket.create_connection((net.hosts["behind"], 3022), 1)
    assert dropped(net, "behind", "input") > 0
    script = f"import socket; socket.create_connection(('{net.hosts['proxy']}', {web_port}), 1)"
    with pytest.raises(AssertionError):
        net.inside("auth", "python3", "-c", script)
    assert dropped(net, "auth", "output") > 0
