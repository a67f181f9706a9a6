"""Everything through one port, as people use it: straight, behind haproxy, and behind haproxy that ends TLS."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import ssl
from pathlib import Path
from typing import Any, TypeVar

from tests.cluster.cluster_haproxy import SOURCE, Front, haproxy, needs_haproxy
from tests.cluster.cluster_restarting import Restarting
from tests.cluster.cluster_sessions import Sessions
from tests.transport.transport_peers import tls_pair

from teleport.testing.cluster import (
    LOOPBACK,
    NODE,
    PASSWORD,
    PUBLIC,
    Cluster,
    DaemonProcess,
    Host,
    Person,
    Ran,
    at,
    free_port,
    run,
    wait_until,
)

C = TypeVar("C", bound=Cluster)
FORGED = b"PROXY TCP4 203.0.113.66 127.0.0.1 4000 443\r\n"


def one_port(cluster: C, public: int = 0, **proxy: Any) -> C:
    """Has the proxy listen on one port alone; `public` is where clients reach it."""
    cluster.config["version"] = "v2"
    section = cluster.config["proxy_service"]
    del section["listen_addr"], section["ssh_public_addr"]
    del section["tunnel_listen_addr"], section["tunnel_public_addr"]
    section |= {"public_addr": at(public or cluster.web_port, PUBLIC), **proxy}
    cluster.proxy_ssh_port = public or cluster.web_port
    cluster.write()
    return cluster


def uses_it(cluster: Cluster, person: Person, login: str, folder: Path) -> None:
    """ls, ssh, scp, proxy ssh, and plain ssh with the printed configuration."""
    there = f"{login}@{NODE}"
    assert NODE in person.tsh("ls").ok().stdout
    assert person.tsh("ssh", there, "echo", "ssh").ok().stdout == "ssh\n"
    (folder / "sent").write_bytes(b"\0\xff" * 100_000)
    person.tsh("scp", str(folder / "sent"), f"{there}:{folder / 'arrived'}").ok()
    assert (folder / "arrived").read_bytes() == b"\0\xff" * 100_000


class ByFile(Person):
    """Somebody without a login, with an identity file."""

    def __init__(self, cluster: Cluster, person: Person, address: str) -> None:
        super().__init__(cluster, person.name, person.home.with_name(f"{person.name}-by-file"))
        self._with = ["-i", str(self.home / "id"), f"--proxy={address}"]
        self._of = person
        cluster.tctl("auth", "sign", f"--user={person.name}", f"--out={self.home / 'id'}", "--ttl=1h").ok()

    @property
    def environment(self) -> dict[str, str]:
        return {**self._of.environment, **super().environment}

    def tsh(self, *arguments: str | Path, stdin: bytes | str = b"", seconds: float = 30.0) -> Ran:
        return super().tsh(*self._with, *arguments, stdin=stdin, seconds=seconds)

    def stays_away(self) -> bool:
        """Whether nothing was kept but what the file holds."""
        return not (self.home / ".tsh" / "keys").exists()


def plain_ssh(person: Person, cluster: Cluster, login: str) -> None:
    done = run(
        *(
            "ssh",
            "-F",
            str(person.ssh_config),
            "-o",
            "BatchMode=yes",
            f"{login}@{NODE}.{cluster.name}",
            "echo",
            "plain",
        ),
        environment=person.environment,
    ).ok()
    assert done.stdout == "plain\n"


def test_one_port_serves_people_hosts_and_restarts(login: str, tmp_path: Path) -> None:
    """`version: v2`: nothing else of the proxy listens; a host joins by that port; HUP keeps it."""
    cluster = one_port(Restarting(tmp_path / "one"))
    with cluster:
        bob = cluster.add_person("bob", logins=[login])
        bob.log_in(f"--proxy={at(cluster.web_port, PUBLIC)}")
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection((LOOPBACK, cluster.web_port)) as raw, context.wrap_socket(raw) as made:
            made.sendall(b"GET /webapi/find HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            heard = b""
            while data := made.recv(65536):
                heard += data
        said = json.loads(heard.partition(b"\r\n\r\n")[2])["proxy"]
        assert said["tls_routing_enabled"] is True
        assert said["ssh"]["ssh_public_addr"] == at(cluster.web_port, PUBLIC)
        assert 'tls_routing_enabled: "true"' in (bob.home / ".tsh" / f"{PUBLIC}.yaml").read_text()
        uses_it(cluster, bob, login, tmp_path)
        plain_ssh(bob, cluster, login)
        by_file = ByFile(cluster, bob, at(cluster.web_port, PUBLIC))
        uses_it(cluster, by_file, login, tmp_path)
        assert by_file.stays_away()

        token = cluster.tctl("tokens", "add", "--type=node", "--format=json").json()["token"]
        config = cluster.node_config("joined", auth_token=token, ca_pin=cluster.ca_pin())
        config["teleport"]["auth_servers"] = [at(cluster.web_port)]
        with Host(tmp_path / "joined", config):
            assert bob.tsh("ssh", f"{login}@joined", "echo", "here").ok().stdout == "here\n"
            (spec,) = [
                node["spec"]
                for node in cluster.tctl("get", "nodes", "--format=json").json()
                if node["spec"]["hostname"] == "joined"
            ]
            assert spec["use_tunnel"] is True
            others = {cluster.auth_port, cluster.node_port, cluster.diag_port}
            assert _listening(cluster.daemon.pid) == {cluster.web_port, *others}

        with Sessions(cluster, bob, login).open(2) as held:
            cluster.signal(signal.SIGHUP)
            cluster.wait_successor()
            assert bob.tsh("ssh", f"{login}@{NODE}", "echo", "after").ok().stdout == "after\n"
            plain_ssh(bob, cluster, login)
            held.go_on()
            held.end()
        assert cluster.daemon.ended() == 0


def test_everything_goes_through_one_port_behind_a_balancer(login: str, tmp_path: Path) -> None:
    """Done-when 4: PROXY headers of both versions, events with the true address, forged headers refused."""
    needs_haproxy()
    first, second = free_port(), free_port()
    cluster = one_port(Cluster(tmp_path / "behind"), first, proxy_protocol_from=SOURCE)
    fronts = [Front(cluster.web_port, "send-proxy-v2", port=first), Front(cluster.web_port, "send-proxy", port=second)]
    with haproxy(tmp_path / "haproxy", fronts), cluster:
        bob, eve = cluster.add_person("bob", logins=[login]), cluster.add_person("eve", logins=[login])
        bob.log_in(f"--proxy={at(first, PUBLIC)}")
        uses_it(cluster, bob, login, tmp_path)
        plain_ssh(bob, cluster, login)
        eve.log_in(f"--proxy={at(second, PUBLIC)}")
        assert eve.tsh("ssh", f"{login}@{NODE}", "echo", "v1").ok().stdout == "v1\n"
        cluster.wait_event("session.end", user="eve")
        seen = {event["addr.remote"].rpartition(":")[0] for event in cluster.events() if event.get("addr.remote")}
        assert LOOPBACK in seen
        assert SOURCE not in seen
        for first_bytes in (FORGED, FORGED + b"SSH-2.0-eve\r\n"):
            with socket.create_connection((LOOPBACK, cluster.web_port), timeout=20) as connection:
                connection.sendall(first_bytes)
                assert _nothing_from(connection)
        wait_until("the refusal is on record", lambda: _on_record(cluster), 20)


def test_a_balancer_that_ends_tls_is_passed_by_a_websocket(login: str, tmp_path: Path) -> None:
    """What people do works all the same, and events show who they are."""
    needs_haproxy()
    public = free_port()
    cluster = one_port(Cluster(tmp_path / "ended"), public, proxy_protocol_from=SOURCE)
    cluster.write()
    with cluster:
        pair = tmp_path / "balancer.pem"
        names = ("webproxy_cert.pem", "webproxy_key.pem")
        pair.write_text("".join((cluster.data_dir / name).read_text() for name in names))
        fronts = [
            Front(
                cluster.web_port,
                "send-proxy-v2 ssl verify none",
                bind=f"ssl crt {pair} alpn http/1.1",
                mode="http",
                port=public,
            )
        ]
        with haproxy(tmp_path / "haproxy", fronts):
            bob = Trusting(cluster, "bob", tmp_path / "homes" / "bob")
            bob.believed = pair
            added = cluster.tctl("users", "add", "bob", "--roles=access", f"--logins={login}", "--format=json").json()
            bob.accept(added["url"])
            typed = f"{PASSWORD}\n{bob.code()}\n"
            bob.tsh("login", f"--proxy={at(public, PUBLIC)}", "--user=bob", stdin=typed).ok()
            assert 'tls_routing_enabled: "upgrade"' in (bob.home / ".tsh" / f"{PUBLIC}.yaml").read_text()
            uses_it(cluster, bob, login, tmp_path)
            bob.ssh_config.write_text(bob.tsh("config").ok().stdout)
            plain_ssh(bob, cluster, login)
            uses_it(cluster, ByFile(cluster, bob, at(public, PUBLIC)), login, tmp_path)
            cluster.wait_event("session.end", user="bob")
            seen = {event["addr.remote"].rpartition(":")[0] for event in cluster.events() if event.get("addr.remote")}
            assert SOURCE not in seen


def test_one_port_without_tls_behind_a_balancer_that_ends_it(login: str, tmp_path: Path) -> None:
    """`--insecure-no-tls`: people and hosts all the same, by the balancer alone; nothing of the proxy speaks TLS."""
    needs_haproxy()
    public = free_port()
    cluster = one_port(Cluster(tmp_path / "plain"), public, proxy_protocol_from=SOURCE)
    cluster.daemon = DaemonProcess(
        cluster.folder, ["--config", cluster.config_path, "--insecure-no-tls"], diag_port=cluster.diag_port
    )
    pair = tmp_path / "balancer.pem"
    pair.write_text("".join(name.read_text() for name in tls_pair(tmp_path / "pair", PUBLIC, "localhost", LOOPBACK)))
    ends_tls = f"ssl crt {pair} alpn http/1.1"
    front = Front(cluster.web_port, "send-proxy-v2", bind=ends_tls, mode="http", port=public)
    with haproxy(tmp_path / "haproxy", [front]), cluster:
        bob = Balanced(cluster, "bob", tmp_path / "homes" / "bob")
        bob.believed, bob.public = pair, public
        added = cluster.tctl("users", "add", "bob", "--roles=access", f"--logins={login}", "--format=json").json()
        bob.accept(added["url"])
        typed = f"{PASSWORD}\n{bob.code()}\n"
        bob.tsh("login", f"--proxy={at(public, PUBLIC)}", "--user=bob", stdin=typed).ok()
        uses_it(cluster, bob, login, tmp_path)
        bob.ssh_config.write_text(bob.tsh("config").ok().stdout)
        plain_ssh(bob, cluster, login)
        token = cluster.tctl("tokens", "add", "--type=node", "--format=json").json()["token"]
        config = cluster.node_config("joined", auth_token=token, ca_pin=cluster.ca_pin())
        config["teleport"]["auth_servers"] = [at(public)]
        with Host(tmp_path / "joined", config):
            assert bob.tsh("ssh", f"{login}@joined", "echo", "by the balancer").ok().stdout == "by the balancer\n"
        assert _refused_tls(cluster.web_port)
        others = {cluster.auth_port, cluster.node_port, cluster.diag_port}
        assert _listening(cluster.daemon.pid) == {cluster.web_port, *others}


def _refused_tls(port: int) -> bool:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((LOOPBACK, port), timeout=20, source_address=(SOURCE, 0)) as raw:
        raw.sendall(b"PROXY TCP4 203.0.113.9 127.0.0.1 4000 443\r\n")
        try:
            context.wrap_socket(raw).close()
        except OSError:
            return True
    return False


class Trusting(Person):
    """Somebody whose machine believes one more certificate."""

    believed = Path()

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "SSL_CERT_FILE": str(self.believed)}


class Balanced(Trusting):
    """Somebody who reaches even the pages by the balancer."""

    public = 0

    def web(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        context = ssl.create_default_context(cafile=str(self.believed))
        connection = http.client.HTTPSConnection(LOOPBACK, self.public, timeout=10, context=context)
        with contextlib.closing(connection):
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            return response.status, json.loads(response.read())


def _listening(pid: int) -> set[int]:
    """The ports that a process listens on."""
    sockets = set()
    for one in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            sockets.add(one.readlink().name.removeprefix("socket:[").rstrip("]"))
    tables = [path for path in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")) if path.exists()]
    lines = [line.split() for table in tables for line in table.read_text().splitlines()[1:]]
    return {int(line[1].rpartition(":")[2], 16) for line in lines if line[3] == "0A" and line[9] in sockets}


def _nothing_from(connection: socket.socket) -> bool:
    try:
        return connection.recv(100) == b""
    except ConnectionError:
        return True


def _on_record(cluster: Cluster) -> bool:
    return any("is not listed" in str(event.get("error", "")) for event in cluster.events("--type=auth"))
