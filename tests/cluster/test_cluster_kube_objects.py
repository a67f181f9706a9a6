"""A role for pods in one namespace, as its holder meets it: the real `kubectl`, of two generations."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.cluster.cluster_kube import serve_kubectl
from tests.cluster.cluster_kubectl import debian_kubectl

from teleport.testing.cluster import Cluster, Ran, plain_environment, run, wait_until
from teleport.testing.kube_api import KubeApi, running_kube_api

ROLES = """
kind: role
version: v5
metadata: {name: dev-pods}
spec:
  allow:
    kubernetes_labels: {'*': '*'}
    kubernetes_groups: [developers]
    kubernetes_resources: [{kind: pods, namespace: dev, verbs: [get, list, exec]}]
---
kind: role
version: v5
metadata: {name: watchers}
spec:
  allow:
    kubernetes_labels: {'*': '*'}
    kubernetes_groups: [developers]
    kubernetes_resources: [{kind: pods, namespace: dev, name: 'web*', verbs: [list, watch]}]
---
kind: session_recording_config
version: v2
metadata: {name: session-recording-config}
spec: {mode: 'off'}
"""
PEOPLE = {"dora": "dev-pods", "walt": "watchers"}
WHO = 'User "dora" cannot'
HINT = "your roles do not allow it (an administrator can give it in a role's kubernetes_resources)"


@dataclass
class Kube:
    """A cluster with these people, before an API server with two namespaces."""

    api: KubeApi
    cluster: Cluster
    folder: Path
    program: str = "kubectl"

    def command(self, user: str, *arguments: str) -> list[str]:
        return [self.program, f"--kubeconfig={self.folder}/{user}.kubeconfig", *arguments]

    def kubectl(self, user: str, *arguments: str, stdin: str = "") -> Ran:
        return run(*self.command(user, *arguments), environment=plain_environment(self.folder), stdin=stdin)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kube]:
    folder = tmp_path_factory.mktemp("kube")
    with running_kube_api(folder) as api:
        api.add_pod("dev", "db")
        for number in range(3):
            api.add_pod("prod", f"secret-{number}")
        cluster = Cluster(folder / "cluster")
        address = serve_kubectl(cluster, api)
        with cluster:
            cluster.tctl("create", "-f", stdin=ROLES).ok()
            for user, role in PEOPLE.items():
                cluster.add_person(user, roles=[role])
                out = f"--out={folder}/{user}.kubeconfig"
                cluster.tctl("auth", "sign", f"--user={user}", "--format=kubernetes", f"--proxy={address}", out).ok()
            yield Kube(api, cluster, folder)


@pytest.fixture(params=["installed", "debian"])
def kube(served: Kube, request: pytest.FixtureRequest) -> Kube:
    """With one `kubectl` or the other."""
    found: Path | str = debian_kubectl() if request.param == "debian" else Path(shutil.which("kubectl") or "missing")
    if isinstance(found, str) or found.name == "missing":
        pytest.skip(found if isinstance(found, str) else "kubectl is not installed (kubernetes-client)")
    served.program = str(found)
    served.api.calls.clear()
    return served


def test_what_the_role_allows_is_all_that_is_seen(kube: Kube) -> None:
    """One pod, the namespace's list, and of every namespace's list that part: as tables, names, YAML and raw."""
    listed = kube.kubectl("dora", "get", "pods", "-n", "dev").ok().stdout
    assert listed.split() == ["NAME", "STATUS", "web", "Running", "db", "Running"]
    everywhere = kube.kubectl("dora", "get", "pods", "-A").ok().stdout
    assert everywhere.split() == ["NAMESPACE", "NAME", "STATUS", "dev", "web", "Running", "dev", "db", "Running"]
    for form in (
        ["-o", "name"],
        ["-o", "yaml"],
        ["-o", "name", "--chunk-size=1"],
        ["--field-selector=metadata.name!=x"],
    ):
        found = kube.kubectl("dora", "get", "pods", "-A", *form).ok().stdout
        assert "web" in found
        assert "secret" not in found
    raw = kube.kubectl("dora", "get", "--raw", "/api/v1/pods?limit=1").ok().stdout
    assert "secret" not in raw
    assert "emaining" not in raw
    assert kube.kubectl("dora", "get", "pod", "db", "-n", "dev", "-o", "name").ok().stdout == "pod/db\n"
    assert "Forbidden" not in kube.kubectl("dora", "exec", "web", "-n", "dev", "--", "echo", "hi").stderr
    assert any("/pods/web/exec?" in call.target for call in kube.api.calls)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("get pods -n prod", f'pods is forbidden: {WHO} list resource "pods" in API group "" in the namespace "prod"'),
        ("get pod secret-1 -n prod", f'pods "secret-1" is forbidden: {WHO} get resource "pods"'),
        ("get pod nothing -n prod", f'pods "nothing" is forbidden: {WHO} get resource "pods"'),
        ("get namespaces", f'{WHO} list resource "namespaces" in API group "" at the cluster scope'),
        ("delete pod web -n dev", f'pods "web" is forbidden: {WHO} delete resource "pods" in API group "" in the'),
        ("logs web -n dev", f'pods "web" is forbidden: {WHO} log resource "pods"'),
        ("exec secret-1 -n prod -- id", f'pods "secret-1" is forbidden: {WHO}'),
        ("get --raw /metrics", f'forbidden: {WHO} get path "/metrics"'),
        ("get --raw /api/v1/namespaces/dev/pods/web/proxy/", f'"web" is forbidden: {WHO} proxy resource "pods"'),
        ("get --raw /api/v1/namespaces/dev/pods?watch=1", f'pods is forbidden: {WHO} watch resource "pods"'),
    ],
)  # fmt: skip
def test_everything_else_is_refused_as_kubernetes_does(kube: Kube, command: str, said: str) -> None:
    """Who, what, where, and what can be done about it, in one sentence; the API server hears nothing of it."""
    words = command.split()
    if words[0] == "delete":
        words.append("--wait=false")
    refused = kube.kubectl("dora", *words)
    assert refused.status != 0
    assert "Error from server (Forbidden): " in refused.stderr
    assert said in refused.stderr
    assert HINT in refused.stderr
    resource = "secret" if "prod" in command else "NONE"
    assert not any(resource in call.target or call.target.startswith("/metrics") for call in kube.api.calls)
    assert not any(call.method == "DELETE" for call in kube.api.calls)


def test_making_something_is_refused(kube: Kube) -> None:
    """A body reaches nobody."""
    pod = '{"apiVersion":"v1","kind":"Pod","metadata":{"name":"made"},"spec":{"containers":[{"name":"a","image":"b"}]}}'
    for how in (["-n", "dev", "--validate=false"], ["--raw", "/api/v1/namespaces/dev/pods?dryRun=All"]):
        refused = kube.kubectl("dora", "create", *how, "-f", "-", stdin=pod)
        assert 'User "dora" cannot create resource "pods" in API group "" in the namespace "dev"' in refused.stderr
    assert ("dev", "made") not in kube.api.pods


def test_a_watch_shows_its_part(kube: Kube) -> None:
    """`kubectl get -w` prints the pods that the role names, whatever else happens."""
    wait_until("no other stream is open", lambda: kube.api.open_streams == 0)
    process = subprocess.Popen(
        kube.command("walt", "get", "pods", "-A", "-w", "-o", "name"),
        env=plain_environment(kube.folder),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until("it watches", lambda: kube.api.open_streams == 1)
        kube.api.call(lambda: kube.api.tell("MODIFIED", "prod", "secret-1"))
        kube.api.call(lambda: kube.api.tell("MODIFIED", "dev", "db"))
        kube.api.call(lambda: kube.api.tell("MODIFIED", "dev", "web"))
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["pod/web\n", "pod/web\n"]
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=10)


def test_a_refusal_is_on_record(kube: Kube) -> None:
    """With verb, resource, namespace, and which roles were looked at."""
    kube.kubectl("dora", "get", "pods", "-n", "staging")
    event = kube.cluster.wait_event("kube.request", resource_namespace="staging", success=False)
    assert (event["user"], event["verb"], event["response_code"]) == ("dora", "list", 403)
    assert "role 'dev-pods' does not allow the call" in event["error"]
