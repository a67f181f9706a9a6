"""Traces over real daemons: one hangs together from the proxy to auth and the host, and nothing of it is in the way."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.cluster.cluster_kube import serve_kubectl
from tests.cluster.test_cluster_kube import ROLE
from tests.cluster.test_cluster_tunnel import TunnelHost

from teleport.testing.cluster import (
    NODE,
    PASSWORD,
    Cluster,
    Host,
    Person,
    free_port,
    plain_environment,
    run,
    wait_until,
)
from teleport.testing.kube_api import running_kube_api
from teleport.testing.otlp_collector import Collector, Got

MILLION = 1_000_000
COUNTED = """kind: role
version: v5
metadata: {{name: counted}}
spec:
  options: {{max_connections: 10}}
  allow: {{logins: [{login}], node_labels: {{'*': '*'}}}}
"""


def traced(host: Host, collector: Collector, rate: int = MILLION) -> None:
    host.config["tracing_service"] = {
        "enabled": True,
        "exporter_url": collector.url,
        "sampling_rate_per_million": rate,
    }
    host.write()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    found = Collector()
    with found.up():
        yield found
    assert not found.unread, "everything was in the schema"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, collector: Collector, login: str) -> Iterator[Cluster]:
    """Auth, proxy and node, all of whose requests are traced."""
    found = Cluster(tmp_path_factory.mktemp("traced") / "cluster")
    traced(found, collector)
    with found:
        found.tctl("create", "-f", stdin=COUNTED.format(login=login)).ok()
        yield found


@pytest.fixture(scope="module")
def inner(cluster: Cluster, collector: Collector) -> Iterator[TunnelHost]:
    """A host behind a tunnel, in a daemon of its own."""
    found = TunnelHost(cluster.folder.parent / "inner", cluster, "inner")
    traced(found, collector)
    with found:
        yield found


@pytest.fixture(scope="module")
def zoe(cluster: Cluster, login: str) -> Person:
    """Whose connections auth counts."""
    person = cluster.add_person("zoe-who-is-nowhere", roles=["counted"], logins=[login])
    person.log_in()
    return person


@contextmanager
def showing(collector: Collector, trace: str) -> Iterator[None]:
    """What came of a trace is shown when a test fails."""
    try:
        yield
    except AssertionError:
        for one in collector.trace(trace).values():
            print(one.name, one.parent, one.id, dict(one.attributes))
        raise


def path(collector: Collector, last: Got) -> list[str]:
    """The names from the first span of a trace to this one."""
    spans, names = collector.trace(last.trace), [last.name]
    while last.parent:
        last = spans[last.parent]
        names.append(last.name)
    return names[::-1]


def test_one_trace_from_the_proxy_to_the_host_and_auth(
    cluster: Cluster, inner: TunnelHost, zoe: Person, collector: Collector, login: str
) -> None:
    said = zoe.tsh("--trace", "ssh", f"{login}@inner", "echo a-secret-word").ok()
    assert said.stdout == "a-secret-word\n"
    (trace,) = [line.removeprefix("tsh: trace ") for line in said.stderr.splitlines() if line.startswith("tsh: trace ")]
    started = collector.wait("node.session.start", teleport__session__kind="exec")
    assert started.trace == trace
    wanted = {"proxy.ssh.connect", "proxy.ssh.login", "proxy.ssh.dial", "node.ssh.connect", "node.decide"}
    wanted |= {"node.count_connections", "api.call", "auth.api", "node.session.start"}
    with showing(collector, trace):
        wait_until("all of them", lambda: {one.name for one in collector.trace(trace).values()} >= wanted, 30)
    spans = collector.trace(trace)
    named = {one.name: one for one in spans.values()}

    way = ["proxy.ssh.connect", "proxy.ssh.dial", "node.ssh.connect"]
    assert path(collector, started) == [*way, "node.session.start"]
    assert path(collector, named["proxy.ssh.login"]) == ["proxy.ssh.connect", "proxy.ssh.login"]
    assert path(collector, named["node.decide"]) == [*way, "node.decide"]
    assert path(collector, named["auth.api"]) == [*way, "node.count_connections", "api.call", "auth.api"]
    assert not [one for one in spans.values() if one.parent and one.parent not in spans], "all have their parents"
    assert [one.name for one in spans.values() if not one.parent] == ["proxy.ssh.connect"]

    assert named["proxy.ssh.dial"].attributes["teleport.way"] == "tunnel"
    assert named["proxy.ssh.dial"].attributes["teleport.node.id"] == inner.host_id
    assert named["node.decide"].attributes == {"teleport.outcome": "permit"}
    assert named["auth.api"].attributes["http.response.status_code"] == 200
    assert named["auth.api"].attributes["http.route"] == named["api.call"].attributes["http.route"]
    services = {name: one.resource["service.name"] for name, one in named.items()}
    assert {services[name] for name in way[:2]} == {"teleport.proxy"}
    assert {services[name] for name in ("node.decide", "api.call", "node.session.start")} == {"teleport.node"}
    assert services["auth.api"] == "teleport.auth"
    assert started.resource["host.name"] == "inner"
    assert started.resource["service.instance.id"] == inner.host_id
    assert {one.resource["service.namespace"] for one in spans.values()} == {cluster.name}
    for one in spans.values():
        assert one.began <= one.ended
        assert one.parent == "" or spans[one.parent].began <= one.began
    event = cluster.wait_event("session.start", sid=started.attributes["teleport.session.id"])
    assert event["user"] == zoe.name, "the audit log says who it was"


def test_a_login_is_one_trace_from_the_web_page_to_auth(cluster: Cluster, zoe: Person, collector: Collector) -> None:
    asked = collector.wait("auth.api", http__route="/v1/login")
    assert path(collector, asked) == ["proxy.web", "api.call", "auth.api"]
    (first,) = [one for one in collector.trace(asked.trace).values() if not one.parent]
    assert first.attributes["http.route"] == "/webapi/ssh/certs"
    assert first.attributes["http.request.method"] == "POST"


def test_a_refusal_is_a_failed_span_without_its_reason(
    cluster: Cluster, inner: TunnelHost, zoe: Person, collector: Collector
) -> None:
    """The node refuses a login that the certificate has not: plain ssh gets so far."""
    said = zoe.ssh("nosuchlogin@inner." + cluster.name, "true")
    assert said.status == 255
    found = wait_until(
        "a refusal",
        lambda: next((one for one in list(collector.spans) if one.name == "node.ssh.connect" and one.failed), None),
    )
    assert found.attributes == {"error.type": "refused"}
    decided = [one for one in collector.trace(found.trace).values() if one.name == "node.decide"]
    assert [one.attributes["teleport.outcome"] != "permit" for one in decided] == [True]


def test_no_name_address_command_or_secret_leaves_in_a_span(
    cluster: Cluster, inner: TunnelHost, zoe: Person, collector: Collector, tmp_path: Path, login: str
) -> None:
    (tmp_path / "a-file-name").write_text("words in a file")
    zoe.tsh("scp", tmp_path / "a-file-name", f"{login}@inner:{tmp_path}/an-other-name").ok()
    zoe.tsh("ls", "labelname=labelvalue").ok()
    collector.wait("node.session.start", teleport__session__kind="subsystem")
    sent = b"".join(collector.bodies).decode()
    for word in (
        zoe.name, PASSWORD, zoe.totp_secret, "a-secret-word", "a-file-name", "an-other-name", "words in a file",
        "labelvalue", "nosuchlogin", "127.0.0.1", "sha256:",
    ):  # fmt: skip
        assert word not in sent, word
    assert "inner" in sent, "and what is looked for would be found"


def test_strangers_begin_no_trace_and_join_none(collector: Collector, tmp_path: Path, login: str) -> None:
    """At a rate of nothing only people who are known have a trace, by asking for one."""
    cluster = Cluster(tmp_path / "cluster")
    traced(cluster, collector, 0)
    with cluster:
        before = len(collector.spans)
        bob = cluster.add_person("bob", logins=[login])
        bob.log_in()
        stranger = "0af7651916cd43dd8448eb211c80319c"
        told = ["-sk", "-H", f"traceparent: 00-{stranger}-b7ad6b7169203331-01"]
        for where in (cluster.web_address, f"127.0.0.1:{cluster.auth_port}"):
            run("curl", *told, f"https://{where}/webapi/ping", environment=plain_environment(tmp_path))
        bob.tsh("ssh", f"{login}@{NODE}", "true").ok()
        said = bob.tsh("--trace", "ssh", f"{login}@{NODE}", "true").ok().stderr
        (trace,) = [line.split()[-1] for line in said.splitlines() if line.startswith("tsh: trace ")]
        listing = bob.tsh("--trace", "ls").ok().stderr
        (listed,) = [line.split()[-1] for line in listing.splitlines() if line.startswith("tsh: trace ")]
        wait_until("what was asked for", lambda: "node.session.start" in names(collector, trace))
        wait_until("what was asked for", lambda: "auth.api" in names(collector, listed))
    assert {one.trace for one in collector.spans[before:]} == {trace, listed}


def names(collector: Collector, trace: str) -> set[str]:
    return {one.name for one in collector.trace(trace).values()}


def test_a_collector_that_is_away_is_in_nobodys_way(tmp_path: Path, login: str) -> None:
    """Sessions take no longer, the daemon says so once, serves, and ends as always."""
    away = Collector(port=free_port())
    cluster = Cluster(tmp_path / "cluster")
    traced(cluster, away)
    with cluster:
        bob = cluster.add_person("bob", logins=[login])
        bob.log_in()
        for number in range(5):
            assert bob.tsh("ssh", f"{login}@{NODE}", f"echo {number}").ok().stdout == f"{number}\n"
        wait_until("it is told", lambda: "spans are not taken" in cluster.daemon.log())
        assert cluster.daemon.ready()
        with away.up():
            away.wait("node.session.start", 60)
        begun = time.monotonic()
    assert time.monotonic() - begun < 30
    assert cluster.daemon.log().count("spans are not taken") >= 1


def test_where_the_proxy_records_it_enters_the_host_in_the_same_trace(
    collector: Collector, tmp_path: Path, login: str
) -> None:
    cluster = Cluster(tmp_path / "cluster", session_recording="proxy")
    traced(cluster, collector, 0)
    with cluster:
        bob = cluster.add_person("bob", logins=[login])
        bob.log_in()
        said = bob.tsh("--trace", "ssh", f"{login}@{NODE}", "true").ok().stderr
        (trace,) = [line.split()[-1] for line in said.splitlines() if line.startswith("tsh: trace ")]
        with showing(collector, trace):
            wait_until("it starts", lambda: "node.session.start" in names(collector, trace))
            wait_until("auth is asked", lambda: "auth.api" in names(collector, trace))
    spans = collector.trace(trace)
    (started,) = [one for one in spans.values() if one.name == "node.session.start"]
    way = ["proxy.ssh.connect", "proxy.ssh.enter", "proxy.ssh.dial", "node.ssh.connect", "node.session.start"]
    assert path(collector, started) == way
    asked = [path(collector, one) for one in spans.values() if one.name == "auth.api"]
    assert [*way[:2], "api.call", "auth.api"] in asked, "the certificate for this one connection"


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed (kubernetes-client)")
def test_a_call_of_kubectl(collector: Collector, tmp_path: Path) -> None:
    with running_kube_api(tmp_path) as api:
        cluster = Cluster(tmp_path / "cluster")
        address = serve_kubectl(cluster, api)
        traced(cluster, collector)
        with cluster:
            cluster.tctl("create", "-f", stdin=ROLE).ok()
            cluster.add_person("kim", roles=["developers"])
            file = tmp_path / "kubeconfig-of-kim"
            words = ["--user=kim", "--format=kubernetes", f"--proxy={address}", f"--out={file}"]
            cluster.tctl("auth", "sign", *words).ok()
            kubectl = ["kubectl", f"--kubeconfig={file}", "get", "pods", "-n", "a-namespace"]
            run(*kubectl, environment=plain_environment(tmp_path))
            found = collector.wait("kube.call", teleport__kube__verb="list")
            assert found.resource["service.name"] == "teleport.kube"
            assert found.attributes["http.response.status_code"] in (200, 403, 404)
    assert b"a-namespace" not in b"".join(collector.bodies)
