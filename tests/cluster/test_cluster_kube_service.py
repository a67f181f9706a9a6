"""Kubernetes services on hosts of their own, with the real `kubectl` and a stand-in API server."""

from __future__ import annotations

import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.cluster_kube import KubeHost, lead_kubectl, wait_known
from tests.cluster.test_cluster_kube import ROLE

from teleport.identity import SystemRole
from teleport.kube.introduction import Introduction, encode
from teleport.testing.cluster import LOOPBACK, Cluster, Person, Ran, at, free_port, run, wait_until
from teleport.testing.kube_api import KubeApi, running_kube_api
from teleport.testing.web_lab import LabCluster
from teleport.wire.alpn import KUBE_SERVICE

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed (kubernetes-client)")

PRODUCTION = """
kind: role
version: v5
metadata: {name: production}
spec: {allow: {kubernetes_labels: {env: prod}, kubernetes_groups: [developers]}}
"""


@dataclass
class Served:
    """A cluster, and a host with a Kubernetes service that has a listener."""

    cluster: Cluster
    api: KubeApi
    host: KubeHost
    port: int  # of the service
    folder: Path

    def person(self, name: str, role: str = "developers") -> Person:
        """Somebody who has logged in, and chosen the cluster if that can be chosen."""
        person = self.cluster.add_person(name, roles=[role])
        person.log_in()
        wait_known(person, self.cluster.config["proxy_service"]["kube_public_addr"])
        person.tsh("kube", "login", "demo")
        return person


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("kube")
    with running_kube_api(folder) as api:
        cluster = Cluster(folder / "cluster")
        lead_kubectl(cluster)
        with cluster:
            cluster.tctl("create", "-f", stdin=f"{ROLE}---{PRODUCTION}").ok()
            port = free_port()
            section: dict[str, Any] = {"listen_addr": at(port), "labels": {"env": "dev"}}
            section["commands"] = [{"name": "arch", "command": ["uname", "-m"], "period": "1h"}]
            with KubeHost(folder / "kube", cluster, "kay", api, **section) as host:
                yield Served(cluster, api, host, port, folder)


def kubectl(person: Person, *arguments: str) -> Ran:
    return run("kubectl", *arguments, environment=person.environment)


def test_kubectl_works_through_a_service(served: Served) -> None:
    """Listed, chosen, read, written; the API server hears the person's name, and each call is on record once."""
    alice = served.person("alice")
    assert alice.tsh("kube", "ls", "-q").ok().stdout == "demo\n"
    assert kubectl(alice, "get", "pods", "-n", "dev").ok().stdout.split() == ["NAME", "STATUS", "web", "Running"]
    assert kubectl(alice, "logs", "web", "-n", "dev").ok().stdout == "first line\n"
    pod = '{"apiVersion":"v1","kind":"Pod","metadata":{"name":"made"},"spec":{"containers":[{"name":"a","image":"b"}]}}'
    done = run(
        *("kubectl", "create", "-n", "dev", "--validate=false", "-f", "-"), environment=alice.environment, stdin=pod
    )
    done.ok()
    assert {tuple(call.of("Impersonate-User")) for call in served.api.calls} == {("alice",)}
    assert all(not call.of("X-Forwarded-For")[0].startswith("unknown") for call in served.api.calls)
    made = served.cluster.wait_event("kube.request", verb="create")
    assert (made["user"], made["server_id"], made["kubernetes_cluster"]) == ("alice", served.host.host_id, "demo")
    assert LOOPBACK in made["addr.remote"]
    calls = [one for one in served.cluster.events("--type=kube.request", "--user=alice") if one["success"]]
    assert len(calls) == len(served.api.calls)


def test_tctl_shows_the_service_and_its_labels(served: Served) -> None:
    (found,) = served.cluster.tctl("get", "kube_service", "--format=json").json()
    (entry,) = found["spec"]["kube_clusters"]
    assert (entry["name"], entry["static_labels"]) == ("demo", {"env": "dev"})
    assert entry["dynamic_labels"]["arch"]["result"] == run("uname", "-m", environment={}).ok().stdout.strip()
    assert "env=dev" in served.cluster.tctl("kube", "ls").ok().stdout
    assert served.host.host_id in served.cluster.tctl("get", "kube_service", "--format=text").ok().stdout


def test_labels_decide_at_the_proxy(served: Served) -> None:
    paul = served.person("paul", "production")
    assert paul.tsh("kube", "ls", "-q").ok().stdout == ""
    assert "no Kubernetes cluster 'demo' that you may use" in paul.tsh("kube", "login", "demo").stderr


def test_refusals_are_those_of_the_person(served: Served) -> None:
    """Of the cluster's RBAC, and of our roles: kubectl reads them through both hops."""
    otto = served.person("otto", "outsiders")
    assert 'User "otto" cannot do that' in kubectl(otto, "get", "pods", "-n", "dev").stderr
    acting = kubectl(otto, "get", "pods", "-n", "dev", "--as=admin")
    assert "Your roles do not let you act as the Kubernetes user 'admin'" in acting.stderr


def test_commands_in_pods_are_recorded_by_the_proxy(served: Served) -> None:
    """The service takes the proxy's word for it; what a client says of that counts nowhere."""
    erin = served.person("erin")
    assert kubectl(erin, "exec", "web", "-n", "dev", "--", "echo", "hi").ok().stdout == "hi\n"
    assert served.api.calls[-1].of("X-Teleport-Recorded") == []
    end = served.cluster.wait_event("session.end", user="erin")
    assert (end["kubernetes_cluster"], end["kubernetes_pod_name"]) == ("demo", "web")
    assert end["server_id"] != served.host.host_id
    upload = served.cluster.wait_event("session.upload", user="erin")
    assert (upload["sid"], upload["kubernetes_pod_name"]) == (end["sid"], "web")


def test_a_lock_ends_streams_within_two_seconds(served: Served) -> None:
    """Watches and logs; so does a role that is taken away."""
    larry, rita = served.person("larry"), served.person("rita")
    running = [
        subprocess.Popen(
            ["kubectl", *words],
            env=person.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
        )
        for person, words in (
            (larry, ["get", "pods", "-n", "dev", "-w"]),
            (larry, ["logs", "-f", "web", "-n", "dev"]),
            (rita, ["get", "pods", "-n", "dev", "-w"]),
        )
    ]
    try:
        wait_until("all are open", lambda: served.api.open_streams == 3)
        served.cluster.tctl("lock", "--user=larry").ok()
        wait_until("two are cut", lambda: served.api.open_streams == 1, 2.0 * 5)
        served.cluster.tctl("users", "update", "rita", "--set-roles=access").ok()
        wait_until("the last is cut", lambda: served.api.open_streams == 0, 2.0 * 5)
    finally:
        for process in running:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=10)
    assert "Access is locked" in kubectl(larry, "get", "pods", "-n", "dev").stderr


def spoken(served: Served, cert: Path | None, key: Path | None, said: bytes, *, protocol: str = KUBE_SERVICE) -> bytes:
    """What the service answers to whoever shows this pair and says this; empty when it ends the connection."""
    context = ssl.create_default_context(cadata=served.cluster.authority())
    context.check_hostname = False
    context.set_alpn_protocols([protocol])
    if cert is not None:
        context.load_cert_chain(cert, key)
    with socket.create_connection((LOOPBACK, served.port), timeout=10) as raw:
        try:
            with context.wrap_socket(raw) as tls:
                tls.sendall(said)
                answer = tls.recv(65536)
                return answer + (tls.recv(65536) if answer.endswith(b"\r\n\r\n") else b"")
        except (ssl.SSLError, ConnectionError):
            return b""


GET = b"GET /api/v1/namespaces/dev/pods HTTP/1.1\r\nHost: kube\r\n\r\n"


def test_only_a_proxy_is_believed_and_only_about_people_who_showed_a_certificate(
    served: Served, tmp_path: Path
) -> None:
    """A stranger, a person, and hosts of every other role are sent away by the service itself; so is a proxy that
    speaks for somebody whose certificate does not count. What they tried is on record, and reaches no API server."""
    cluster = served.cluster
    victor = served.person("victor")
    kubectl(
        victor, "get", "pods", "-n", "dev"
    ).ok()  # so that it knows the API: refused at that, it says nothing of use
    cluster.tctl("auth", "sign", "--user=victor", "--format=tls", f"--out={tmp_path}/victor").ok()
    person = ssl.PEM_cert_to_DER_cert((tmp_path / "victor.crt").read_text())
    for_victor = encode(Introduction(person, LOOPBACK, 1, "demo")) + GET
    proc = cluster.data_dir / "proc"
    proxy = proc / "proxy" / "tls.crt", proc / "proxy" / "tls.key"
    before = len(served.api.calls)
    for cert, key in (
        (None, None),
        LabCluster(tmp_path).host_pair(SystemRole.PROXY, "proxy"),
        (tmp_path / "victor.crt", tmp_path / "victor.key"),
        (proc / "node" / "tls.crt", proc / "node" / "tls.key"),
        (proc / "auth" / "tls.crt", proc / "auth" / "tls.key"),
        (served.host.data_dir / "proc" / "kube" / "tls.crt", served.host.data_dir / "proc" / "kube" / "tls.key"),
    ):
        assert spoken(served, cert, key, for_victor) == b"", cert
        assert spoken(served, cert, key, GET) == b"", cert
    told = cluster.wait_event("auth", server_id=served.host.host_id, proto="kube")
    assert told["error"]
    cluster.wait_event("auth", server_id=served.host.host_id, error=told["error"])

    assert spoken(served, *proxy, GET) == b"", "a proxy that introduces nobody"
    assert spoken(served, *proxy, for_victor).startswith(b"HTTP/1.1 200 ")
    of_node = ssl.PEM_cert_to_DER_cert((proc / "node" / "tls.crt").read_text())
    for certificate in (of_node, person[:-1] + bytes([person[-1] ^ 1]), b"nothing"):
        answer = spoken(served, *proxy, encode(Introduction(certificate, LOOPBACK, 1, "demo")) + GET)
        assert answer.startswith(b"HTTP/1.1 403 "), answer
    hidden = spoken(served, *proxy, encode(Introduction(person, LOOPBACK, 1, "other")) + GET)
    assert b"no Kubernetes cluster with the name 'other'" in hidden
    cluster.tctl("lock", "--user=victor").ok()
    wait_until("it is locked", lambda: b"Access is locked" in spoken(served, *proxy, for_victor))
    assert len(served.api.calls) == before + 1
    assert "Access is locked" in kubectl(victor, "get", "pods", "-n", "dev").stderr


def test_a_service_that_was_expelled_serves_nobody(served: Served, tmp_path: Path) -> None:
    """Its certificate does not count: the proxy sends nobody there, and what was open is cut."""
    eve = served.person("eve")
    with KubeHost(
        tmp_path / "second", served.cluster, "away", served.api, context="away", listen_addr=at(free_port())
    ) as second:
        wait_until("it is listed", lambda: "away" in eve.tsh("kube", "ls", "-q").stdout)
        eve.tsh("kube", "login", "away").ok()
        with subprocess.Popen(
            ["kubectl", "get", "pods", "-n", "dev", "-w"],
            env=eve.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as watching:
            try:
                wait_until("it is open", lambda: served.api.open_streams == 1)
                served.cluster.tctl("rm", f"kube_service/{second.host_id}").ok()
                wait_until("it is cut", lambda: served.api.open_streams == 0, 2.0 * 5)
            finally:
                watching.send_signal(signal.SIGTERM)
                watching.communicate(timeout=10)
        assert "away" not in eve.tsh("kube", "ls", "-q").stdout


# behind NAT: only tunnels lead there


@pytest.fixture(scope="module")
def behind(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeHost]:
    folder = tmp_path_factory.mktemp("behind")
    with KubeHost(folder / "inner", served.cluster, "inner", served.api, context="inner") as host:
        yield host


def test_kubectl_works_through_a_service_that_only_a_tunnel_reaches(served: Served, behind: KubeHost) -> None:
    """Lists, watches, logs that go on, and streams into pods; each with the person's name."""
    (spec,) = [
        one["spec"]
        for one in served.cluster.tctl("get", "kube_service", "--format=json").json()
        if one["metadata"]["name"] == behind.host_id
    ]
    assert spec["use_tunnel"] is True
    assert "addr" not in spec
    tom = served.cluster.add_person("tom", roles=["developers"])
    tom.log_in()
    tom.tsh("kube", "login", "inner").ok()
    assert kubectl(tom, "get", "pods", "-n", "dev", "-o", "name").ok().stdout.startswith("pod/")
    assert served.api.calls[-1].of("Impersonate-User") == ["tom"]
    assert kubectl(tom, "logs", "web", "-n", "dev").ok().stdout == "first line\n"
    event = served.cluster.wait_event("kube.request", user="tom", server_id=behind.host_id)
    assert event["kubernetes_cluster"] == "inner"
    with subprocess.Popen(
        ["kubectl", "logs", "-f", "web", "-n", "dev"],
        env=tom.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    ) as following:
        try:
            assert following.stdout is not None
            assert following.stdout.readline() == b"first line\n"
            served.api.call(lambda: served.api.say(b"second line\n"))
            assert following.stdout.readline() == b"second line\n"
            served.cluster.tctl("lock", "--user=tom").ok()
            wait_until("it is cut", lambda: served.api.open_streams == 0, 2.0 * 5)
        finally:
            following.send_signal(signal.SIGTERM)
            following.communicate(timeout=10)


def test_another_service_takes_over(served: Served, tmp_path: Path) -> None:
    """Two services of one cluster: whichever is killed, the next call goes to the other; one is listed."""
    nina = served.cluster.add_person("nina", roles=["developers"])
    nina.log_in()
    hosts = [KubeHost(tmp_path / name, served.cluster, name, served.api, context="twins") for name in ("one", "two")]
    with ExitStack() as running:
        for host in hosts:
            host.daemon.start()
            running.callback(host.daemon.abandon)
        wait_until("both are here", lambda: served.cluster.tctl("kube", "ls").stdout.count("twins") == 2)
        assert nina.tsh("kube", "ls", "-q").ok().stdout.split().count("twins") == 1
        nina.tsh("kube", "login", "twins").ok()
        kubectl(nina, "get", "pods", "-n", "dev").ok()
        ids = {host.host_id: host for host in hosts}
        first = served.cluster.wait_event("kube.request", user="nina", verb="list")["server_id"]
        ids[first].daemon.kill()
        kubectl(nina, "get", "pods", "-n", "dev", "-w=false").ok()
        last = served.cluster.events("--type=kube.request", "--user=nina")[-1]
        assert {last["server_id"], first} == set(ids)
