"""Forwards through a proxy and a node as real processes: where they lead, as whom, and what is left of them."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.cluster_accounts import UnixAccount

from teleport.testing.cluster import NODE, Cluster, Person, at, listening, wait_until


@contextlib.contextmanager
def upper() -> Iterator[int]:
    """A server that reads all and answers it in capitals; its port."""
    with listening() as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    sock, _ = server.accept()
                    with sock:
                        data = b""
                        while more := sock.recv(65536):
                            data += more
                        sock.sendall(data.upper())

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield int(server.getsockname()[1])
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def host(cluster: Cluster) -> str:
    return f"{NODE}.{cluster.name}"


@pytest.mark.parametrize("size", [5, 3_000_000])
def test_a_forward_through_the_proxy_is_carried_and_on_record(
    cluster: Cluster, alice: Person, login: str, size: int
) -> None:
    with upper() as port:
        ran = alice.ssh("-l", login, "-W", at(port), host(cluster), stdin=b"x" * size)
        assert ran.status == 0, ran.stderr
        assert ran.out == b"X" * size
        done = cluster.wait_event("port.closed", addr=at(port), rx=size)
        assert (done["tx"], done["kind"], done["user"], done["login"]) == (size, "direct-tcpip", "alice", login)
        opened = cluster.wait_event("port", addr=at(port), connection=done["connection"])
        assert (opened["code"], opened["success"]) == ("T3003I", True)


@pytest.mark.parametrize("service", ["auth", "proxy ssh", "proxy web", "node"])
def test_the_clusters_own_ports_are_not_reached_from_a_node(
    cluster: Cluster, alice: Person, login: str, service: str
) -> None:
    """T26: what the node's daemon listens on, and what its configuration names."""
    port = {
        "auth": cluster.auth_port,
        "proxy ssh": cluster.proxy_ssh_port,
        "proxy web": cluster.web_port,
        "node": cluster.node_port,
    }[service]
    ran = alice.ssh("-l", login, "-W", at(port), host(cluster), stdin=b"GET / HTTP/1.0\r\n\r\n")
    assert ran.status != 0
    assert "Your roles do not allow port forwarding to" in ran.stderr
    event = cluster.wait_event("port", addr=at(port), success=False)
    assert event["code"] == "T3003E"


def test_forwards_of_another_account_are_that_accounts(
    cluster: Cluster, unix_account: UnixAccount, tmp_path: Path
) -> None:
    """What the daemon's user could open and the account cannot stays shut; what is made belongs to the account."""
    person = cluster.add_person("fwd", logins=[unix_account.name])
    person.log_in()
    mine = tmp_path / "mine"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(mine))
        server.listen()
        mine.chmod(0o600)
        local = tmp_path / "local"
        with forwarding(person, unix_account.name, host(cluster), "-L", f"{local}:{mine}"):
            wait_until("the local socket", local.exists)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(local))
                client.settimeout(20)
                with contextlib.suppress(ConnectionError):
                    assert client.recv(1) == b""
    assert cluster.wait_event("port", addr=str(mine))["success"] is False
    made = Path(unix_account.home) / "made.sock"
    with forwarding(person, unix_account.name, host(cluster), "-R", f"{made}:127.0.0.1:1"):
        wait_until("the socket on the host", made.exists)
        found = made.stat()
        assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (unix_account.uid, 0o600)
    wait_until("its end", lambda: not made.exists())
    ran = person.ssh(
        *("-l", unix_account.name, "-N", "-o", "ExitOnForwardFailure=yes", "-R", "80:127.0.0.1:1", host(cluster))
    )
    assert ran.status != 0
    assert cluster.wait_event("port", addr="localhost:80")["error"] == "Permission denied"


@contextlib.contextmanager
def forwarding(person: Person, login: str, to: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """`ssh -N`, until the context ends."""
    arguments = person.ssh_arguments("-l", login, "-N", "-o", "ExitOnForwardFailure=yes", *options, to)
    with subprocess.Popen(arguments, env=person.environment, stdin=subprocess.DEVNULL) as client:
        try:
            yield client
        finally:
            client.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                client.wait(5)
            client.kill()  # OpenSSH may miss a signal that comes just before it waits


def test_a_session_asks_an_agent_far_away(cluster: Cluster, login: str, tmp_path: Path) -> None:
    """`ssh -A` through the proxy, and `ssh-add -l` on the host."""
    cluster.tctl("create", "-f", stdin=AGENT_ROLE).ok()
    person = cluster.add_person("agentuser", roles=("access", "with-agent"), logins=[login])
    person.log_in()
    path = str(tmp_path / "agent")
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL)
    try:
        wait_until("the agent", lambda: os.path.exists(path))
        key = str(tmp_path / "key")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "far away", "-f", key], check=True)
        subprocess.run(["ssh-add", "-q", key], env={**os.environ, "SSH_AUTH_SOCK": path}, check=True)
        options = ("-o", f"IdentityAgent={path}", "-o", f"ForwardAgent={path}", "-l", login)
        ran = person.ssh(*options, host(cluster), "ssh-add -l; echo $SSH_AUTH_SOCK")
        assert "far away (ED25519)" in ran.stdout, ran.stderr
        wait_until("the end of its socket", lambda: not os.path.exists(ran.stdout.split()[-1]))
        assert cluster.wait_event("agent.forward", user="agentuser")["code"] == "T9211I"
    finally:
        agent.terminate()
        agent.wait()


AGENT_ROLE = """
kind: role
version: v4
metadata: {name: with-agent}
spec:
  options: {forward_agent: yes}
  allow: {logins: ['{{internal.logins}}'], node_labels: {'*': '*'}}
"""
