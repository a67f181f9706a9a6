"""The end of a certificate ends what it opened, with the real kubectl: through the proxy, and through services that are
reached directly and behind a tunnel."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from tests.cluster.cluster_certificates import ending, now
from tests.cluster.cluster_kube import KubeHost, serve_kubectl, wait_known

from teleport.pki.x509verify import load_certificate
from teleport.testing.cluster import NAME, Cluster, Person, at, free_port, plain_environment, run, wait_until
from teleport.testing.kube_api import KubeApi, running_kube_api

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed (kubernetes-client)")

ROLE = """
kind: role
version: v5
metadata: {name: developers}
spec: {allow: {kubernetes_labels: {'*': '*'}, kubernetes_groups: [developers]}}
---
kind: role
version: v5
metadata: {name: strict}
spec:
  options: {disconnect_expired_cert: yes}
  allow: {kubernetes_labels: {'*': '*'}, kubernetes_groups: [developers]}
---
kind: role
version: v5
metadata: {name: brief}
spec:
  options: {disconnect_expired_cert: yes, max_session_ttl: 2m}
  allow: {kubernetes_labels: {'*': '*'}, kubernetes_groups: [developers]}
"""
WAYS = ("one", "near", "behind")  # the proxy's own, a service that it dials, one that only a tunnel reaches
OPEN = (
    ("get", "pods", "-n", "dev", "-w"),
    ("logs", "-f", "web", "-n", "dev"),
    ("exec", "-n", "dev", "-i", "web", "--", "cat"),
    ("exec", "-n", "dev", "web", "--", "sleep", "100"),
)
PROMISED = 2.0  # seconds
SECONDS = 12  # that the certificate still lives, in which everything has to be opened


@dataclass
class Kube:
    cluster: Cluster
    api: KubeApi

    @property
    def address(self) -> str:
        return str(self.cluster.config["proxy_service"]["kubernetes"]["public_addr"])

    def person(self, name: str, role: str) -> Person:
        person = self.cluster.add_person(name, roles=[role])
        person.log_in()
        wait_known(person, self.address)
        return person


@pytest.fixture(scope="module")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kube]:
    folder = tmp_path_factory.mktemp("kube")
    with ExitStack() as stack:
        api = stack.enter_context(running_kube_api(folder))
        cluster = Cluster(folder / "cluster")
        serve_kubectl(cluster, api)
        stack.enter_context(cluster)
        cluster.tctl("create", "-f", stdin=ROLE).ok()
        near = KubeHost(folder / "near", cluster, "near", api, context="near", listen_addr=at(free_port()))
        for host in (near, KubeHost(folder / "behind", cluster, "behind", api, context="behind")):
            stack.enter_context(host)
        wait_until("all are listed", lambda: all(one in cluster.tctl("kube", "ls").stdout for one in WAYS))
        yield Kube(cluster, api)


@contextmanager
def opened(kube: Kube, *kubectl: tuple[list[str], dict[str, str]]) -> Iterator[list[subprocess.Popen[str]]]:
    """What is `OPEN`, by each of these kubectls with their environment."""
    besides = kube.api.open_streams
    with ExitStack() as stack:
        running = []
        for command, environment in kubectl:
            for words in OPEN:
                process = subprocess.Popen(
                    [*command, *words],
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
                stack.callback(process.communicate, timeout=10)
                stack.callback(process.terminate)
                running.append(process)
        wait_until("all are open", lambda: kube.api.open_streams == besides + len(running), 40.0)
        yield running


def wait_ended(kube: Kube, running: list[subprocess.Popen[str]], end: datetime, besides: int = 0) -> list[str]:
    """What each kubectl has said once it has ended; not before the certificate's `end`, and soon after it. `besides`
    streams go on."""
    wait_until("one is cut", lambda: kube.api.open_streams < besides + len(running), 130.0)
    assert now() > end, "a certificate counts until its end"
    left = (end - now()).total_seconds() + PROMISED * 5
    wait_until("all are cut", lambda: kube.api.open_streams == besides, left)
    wait_until("all have ended", lambda: all(one.poll() is not None for one in running), left)
    return [one.communicate()[0] for one in running]


@pytest.mark.parametrize(("way", "role"), [("one", "developers"), ("near", "strict"), ("behind", "strict")])
def test_the_end_of_a_certificate_ends_what_it_opened(kube: Kube, way: str, role: str, tmp_path: Path) -> None:
    """Watches, logs and commands, within 2 s, whatever `disconnect_expired_cert` says; `exec` says why and fails, and
    nothing new begins. A certificate of the person with a later end goes on meanwhile."""
    person = kube.person(f"{role}-{way}", role)
    given = person.tsh("kube", "credentials", f"--kube-cluster={way}", f"--teleport-cluster={NAME}").json()["status"]
    end = (now() + timedelta(seconds=SECONDS)).replace(microsecond=0)
    (folder,) = (person.home / ".tsh" / "keys").iterdir()
    commands = []
    for name, certificate in (
        ("long", given["clientCertificateData"].encode()),
        ("short", ending(kube.cluster, given["clientCertificateData"].encode(), end)),
    ):
        (tmp_path / f"{name}.crt").write_bytes(certificate)
        (tmp_path / f"{name}.key").write_text(given["clientKeyData"])
        where = [f"--server=https://{kube.address}", f"--certificate-authority={folder}/certs.pem"]
        pair = [f"--client-certificate={tmp_path}/{name}.crt", f"--client-key={tmp_path}/{name}.key"]
        commands.append(["kubectl", *where, *pair])
    environment = plain_environment(tmp_path)
    words = [*commands[0], "get", "pods", "-n", "dev", "-w"]
    with subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL) as longer:
        try:
            wait_until("the longer one is open", lambda: kube.api.open_streams == 1)
            with opened(kube, (commands[1], environment)) as running:
                watch, logs, *executed = wait_ended(kube, running, end, 1)
            assert longer.poll() is None
        finally:
            longer.terminate()
    wait_until("it is over", lambda: kube.api.open_streams == 0)
    assert "web" in watch
    assert "first line" in logs
    for said in executed:
        assert "This session was ended: the certificate has expired" in said
    assert all(one.returncode != 0 for one in running[2:])
    refused = run(*commands[1], "get", "pods", "-n", "dev", environment=environment)
    assert refused.status != 0
    ends = kube.cluster.events("--type=session.end", f"--user={person.name}")
    assert [one["reason"] for one in ends] == ["the certificate has expired"] * 2
    told = kube.cluster.events("--type=client.disconnect", f"--user={person.name}")
    assert {one["reason"] for one in told} == {"the certificate has expired"}
    assert len(told) >= len(OPEN)


@pytest.mark.long  # no login is shorter than a minute, in the last of which the plugin gives nothing
def test_a_login_that_runs_out_ends_what_kubectl_opened_with_it(kube: Kube) -> None:
    """By the plugin, by all ways at once; `kubectl` says what to do then, and a minute before."""
    person = kube.person("brief", "brief")
    file = person.home / ".tsh" / "keys"
    (certificate,) = file.glob("*/brief-x509.pem")
    end = load_certificate(certificate.read_bytes()).not_valid_after_utc
    assert end - now() < timedelta(minutes=2, seconds=1)
    kubectls = [(["kubectl", f"--context={NAME}-{way}"], person.environment) for way in WAYS]
    with opened(kube, *kubectls) as running:
        said = wait_ended(kube, running, end)
    assert sum("This session was ended: the certificate has expired" in one for one in said) == 2 * len(WAYS)
    for command, environment in kubectls:
        refused = run(*command, "get", "pods", "-n", "dev", environment=environment)
        assert refused.status != 0
        assert "tsh login" in refused.stderr
