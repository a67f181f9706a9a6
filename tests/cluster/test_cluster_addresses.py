"""Hosts by address, in every form, and clients by their plain address where a listener takes both families."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from teleport.testing.cluster import LOOPBACK, NODE, PUBLIC, Cluster, Host, Person, at, free_port, run

FORMS = {
    "127.0.0.1": ["127.0.0.1"],
    "::1": ["::1", "0:0:0:0:0:0:0:1"],
}


def _needs_both() -> None:
    try:
        with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True):
            pass
    except (OSError, ValueError) as error:
        pytest.skip(f"this machine has no IPv6, so nothing can listen on [::]: {error}")


@pytest.mark.parametrize("form", FORMS.get(LOOPBACK, [LOOPBACK]))
def test_a_host_is_reached_by_its_address(cluster: Cluster, alice: Person, login: str, form: str) -> None:
    """By tsh, by ssh through ProxyJump, and by the subsystem that old configurations name as `proxy:%h:%p`."""
    assert alice.tsh("ssh", f"{login}@{form}", "echo", "tsh").ok().stdout == "tsh\n"
    files = ["-F", "none", "-o", "BatchMode=yes"]
    with_keys = [line.strip().replace(" ", "=", 1) for line in alice.ssh_config.read_text().splitlines()]
    files += [word for line in with_keys if line.startswith(("Identity", "Cert", "UserKnown")) for word in ("-o", line)]
    jump = [word if " " not in word else f'"{word}"' for word in files]
    inner = ["ssh", *jump, "-p", str(cluster.proxy_ssh_port), "-l", login, PUBLIC, "-s", "proxy:%h:%p"]
    alias = f"HostKeyAlias={NODE}.{cluster.name}"
    done = run(
        *("ssh", *files, "-o", alias, "-o", f"ProxyCommand={' '.join(inner)}", "-p", str(cluster.node_port)),
        *(f"{login}@{form}", "echo", "ssh"),
        environment=alice.environment,
    ).ok()
    assert done.stdout == "ssh\n"


def test_tables_show_ports_apart_from_addresses(cluster: Cluster, alice: Person) -> None:
    for listed in (alice.tsh("ls").ok().stdout, cluster.tctl("nodes", "ls").ok().stdout):
        assert at(cluster.node_port) in listed.split(), listed


def test_a_listener_of_both_families_knows_clients_by_their_plain_address(login: str, tmp_path: Path) -> None:
    """On `[::]` an IPv4 client's socket calls it `::ffff:127.0.0.1`; records, pins and limits must not."""
    _needs_both()
    cluster = Cluster(tmp_path / "both")
    for section, key in (
        ("auth_service", "listen_addr"),
        ("proxy_service", "listen_addr"),
        ("proxy_service", "web_listen_addr"),
        ("proxy_service", "tunnel_listen_addr"),
        ("ssh_service", "listen_addr"),
    ):
        cluster.config[section][key] = f"[::]:{free_port()}"
    cluster.auth_port = int(cluster.config["auth_service"]["listen_addr"].rpartition(":")[2])
    cluster.proxy_ssh_port = int(cluster.config["proxy_service"]["listen_addr"].rpartition(":")[2])
    cluster.web_port = int(cluster.config["proxy_service"]["web_listen_addr"].rpartition(":")[2])
    cluster.config["proxy_service"]["public_addr"] = f"127.0.0.1:{cluster.web_port}"
    cluster.config["proxy_service"]["ssh_public_addr"] = f"127.0.0.1:{cluster.proxy_ssh_port}"
    cluster.config["teleport"]["auth_servers"] = [at(cluster.auth_port)]
    cluster.write()
    with cluster:
        bob = cluster.add_person("bob", logins=[login])
        for host in ("127.0.0.1", "::1"):
            bob.log_in(f"--proxy={at(cluster.web_port, host)}")
            assert bob.tsh("ssh", f"{login}@{NODE}", "true").ok().out == b""
        cluster.wait_event("session.end", user="bob")
        seen = {event["addr.remote"].rpartition(":")[0] for event in cluster.events() if event.get("addr.remote")}
        assert {"127.0.0.1", "[::1]"} >= seen >= {"127.0.0.1"}, seen
        assert not [event for event in cluster.events() if "ffff" in str(event.get("addr.remote", ""))]


def test_a_zone_in_the_configuration_is_refused_with_the_way_out(tmp_path: Path) -> None:
    config = {
        "teleport": {"nodename": "zoned", "auth_servers": [at(1)]},
        "auth_service": {"enabled": False},
        "proxy_service": {"enabled": False},
        "ssh_service": {"enabled": True, "listen_addr": "[fe80::1%eth0]:3022"},
    }
    daemon = Host(tmp_path / "zoned", config).daemon.begin()
    assert daemon.ended() == 1
    assert "listen_addr" in daemon.log()
    assert "Traceback" not in daemon.log()
