"""Behind a real haproxy: the client's true address in events, and headers from nobody else."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

from tests.cluster.cluster_haproxy import SOURCE, Front, haproxy, needs_haproxy

from teleport.testing.cluster import LOOPBACK, NODE, PUBLIC, Cluster, at, free_port, wait_until

FORGED = b"PROXY TCP4 203.0.113.66 127.0.0.1 4000 443\r\n"


def test_events_show_the_client_behind_a_balancer(login: str, tmp_path: Path) -> None:
    """tsh and ssh through haproxy, on ports of their own; who forges a header is refused and on record."""
    needs_haproxy()
    cluster = Cluster(tmp_path / "behind")
    web, ssh = free_port(), free_port()
    proxy = cluster.config["proxy_service"]
    proxy |= {"public_addr": at(web, PUBLIC), "ssh_public_addr": at(ssh, PUBLIC), "proxy_protocol_from": SOURCE}
    cluster.write()
    fronts = [
        Front(cluster.web_port, "send-proxy-v2", port=web),
        Front(cluster.proxy_ssh_port, "send-proxy-v2", port=ssh),
    ]
    with haproxy(tmp_path / "haproxy", fronts), cluster:
        bob = cluster.add_person("bob", logins=[login])
        bob.log_in(f"--proxy={at(web, PUBLIC)}")
        assert bob.tsh("ssh", f"{login}@{NODE}", "echo", "through").ok().stdout == "through\n"
        cluster.wait_event("session.end", user="bob")
        seen = {event["addr.remote"].rpartition(":")[0] for event in cluster.events() if event.get("addr.remote")}
        assert LOOPBACK in seen
        assert SOURCE not in seen, "the balancer stands for its client"
        for port in (cluster.web_port, cluster.proxy_ssh_port):
            assert _refused(port, FORGED, LOOPBACK)
            assert _refused(port, b"SSH-2.0-nobody\r\n", SOURCE)
        assert not any("203.0.113.66" in str(event.get("addr.remote", "")) for event in cluster.events())
        for what in ("is not listed", "proxy_protocol_from lists", "send-proxy-v2"):
            wait_until(f"an event that says {what}", lambda what=what: _told(cluster, what), 20)  # type: ignore[misc]
        assert "add it to proxy_service.proxy_protocol_from" in cluster.daemon.log()
        assert _refused(cluster.auth_port, FORGED, LOOPBACK)
        wait_until("the same of auth's own port", lambda: _told(cluster, "auth_service.proxy_protocol_from"), 20)


def _told(cluster: Cluster, what: str) -> bool:
    return any(what in str(event.get("error", "")) for event in cluster.events("--type=auth"))


def _refused(port: int, first: bytes, source: str) -> bool:
    """Whether the listener ends a connection that begins so, from that address, without serving it."""
    with socket.create_connection((LOOPBACK, port), timeout=20, source_address=(source, 0)) as connection:
        connection.sendall(first)
        received = b""
        try:
            while data := connection.recv(4096):
                received += data
        except (ConnectionError, ssl.SSLError):
            pass
    return b"HTTP" not in received
