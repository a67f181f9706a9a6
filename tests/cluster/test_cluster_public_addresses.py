"""Addresses that the configuration gives, several of each: in certificates, announced, and as ways to hosts."""

from __future__ import annotations

import json
import signal
import socket
import ssl
from functools import partial
from pathlib import Path
from typing import Any

from cryptography import x509
from tests.cluster.cluster_restarting import Restarting

from teleport.pki.sshformat import parse_certificate_line
from teleport.testing.cluster import LOOPBACK, PUBLIC, Cluster, at, wait_until

FAMILIES = {
    "auth_service": ("public_addr",),
    "proxy_service": ("public_addr", "ssh_public_addr", "tunnel_public_addr"),
    "ssh_service": ("public_addr",),
}


def listed(cluster: Cluster) -> dict[str, set[str]]:
    """Gives every family of addresses two names of its own behind those that are used; which names each section has."""
    names: dict[str, set[str]] = {}
    for section, keys in FAMILIES.items():
        said = cluster.config[section]
        for key in keys:
            mine = [f"{key.replace('_', '-')}-{number}.{section.partition('_')[0]}.test" for number in (1, 2)]
            kept = said.get(key, f"{LOOPBACK if ':' not in LOOPBACK else f'[{LOOPBACK}]'}")
            said[key] = [kept, f"{mine[0]}:4{len(names)}11", mine[1]]
            names.setdefault(section, set()).update(mine)
    return names


def principals(cluster: Cluster, role: str) -> set[str]:
    """Of the SSH certificate, which are the names of the TLS certificate, too."""
    folder = cluster.data_dir / "proc" / role
    ssh_names = set(parse_certificate_line((folder / "server-ssh.cert").read_text()).body.principals)
    tls = x509.load_pem_x509_certificate((folder / "server-tls.crt").read_bytes())
    alternative = tls.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    names = set(alternative.get_values_for_type(x509.DNSName))
    assert {name for name in ssh_names if name.endswith(".test")} <= names
    return ssh_names


def named(cluster: Cluster, role: str, name: str) -> bool:
    return name in principals(cluster, role)


def announced(cluster: Cluster, kind: str) -> dict[str, Any]:
    (found,) = cluster.tctl("get", kind, "--format=json").json()
    return dict(found["spec"])


def page(cluster: Cluster, path: str) -> dict[str, Any]:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((LOOPBACK, cluster.web_port), 10) as raw, context.wrap_socket(raw) as made:
        made.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        heard = b""
        while data := made.recv(65536):
            heard += data
    return dict(json.loads(heard.partition(b"\r\n\r\n")[2]))


def test_every_public_address_is_a_name_and_is_announced(login: str, tmp_path: Path) -> None:
    """Lists of several; one that is added while the daemon runs counts from the next HUP on."""
    cluster = Restarting(tmp_path / "cluster")
    names = listed(cluster)
    cluster.write()
    with cluster:
        for section, role in (("auth_service", "auth"), ("proxy_service", "proxy"), ("ssh_service", "node")):
            assert names[section] <= principals(cluster, role), section
        proxy = announced(cluster, "proxies")
        assert [address.rpartition(":")[0] for address in proxy["public_addrs"]][1:] == sorted(
            name for name in names["proxy_service"] if name.startswith("public")
        )
        assert proxy["public_addrs"][2].endswith(":3080"), "the port that is not written"
        assert {address.rpartition(":")[2] for address in proxy["tunnel_addrs"]} >= {str(cluster.tunnel_port), "3024"}
        assert len(announced(cluster, "auth_servers")["public_addrs"]) == 3
        node = announced(cluster, "nodes")
        assert {address.rpartition(":")[0] for address in node["public_addrs"]} >= names["ssh_service"]
        for path in ("/webapi/ping", "/webapi/find"):
            said = page(cluster, path)["proxy"]["ssh"]
            assert said["public_addr"] == at(cluster.web_port, PUBLIC)
            assert said["ssh_public_addr"] == at(cluster.proxy_ssh_port, PUBLIC)
            assert said["ssh_tunnel_public_addr"] == at(cluster.tunnel_port)

        alice = cluster.add_person("alice", logins=[login])
        alice.log_in()
        for name in sorted(names["ssh_service"]):
            assert alice.tsh("ssh", f"{login}@{name}", "echo", "by name").ok().stdout == "by name\n"

        with open_channel(cluster) as before:
            cluster.config["ssh_service"]["public_addr"].append("added.ssh.test")
            cluster.config["proxy_service"]["ssh_public_addr"].append("added.proxy.test")
            cluster.write()
            cluster.signal(signal.SIGHUP)
            cluster.wait_successor()
            for role, name in (("node", "added.ssh.test"), ("proxy", "added.proxy.test")):
                wait_until(f"{name} is in the certificate", partial(named, cluster, role, name), 30)
            assert before.recv(4) == b"SSH-", "who was connected stays so"
        wait_until("and announced", lambda: "added.ssh.test:3022" in announced(cluster, "nodes")["public_addrs"], 30)
        assert alice.tsh("ssh", f"{login}@added.ssh.test", "echo", "added").ok().stdout == "added\n"


def open_channel(cluster: Cluster) -> socket.socket:
    return socket.create_connection((LOOPBACK, cluster.proxy_ssh_port), 10)
