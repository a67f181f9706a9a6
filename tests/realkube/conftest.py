"""A real Kubernetes cluster with pods, RBAC that lets groups of ours do something, and two ways to it: the proxy's own
(`demo`), and a service that only a reverse tunnel reaches (`inner`)."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.cluster.cluster_kube import KubeHost, serve_kubectl
from tests.cluster.cluster_kubectl import debian_kubectl

from teleport.testing.cluster import RUNNING, Cluster, Person, Ran, run, wait_until
from teleport.testing.kube_cluster import UP, KubeCluster, pod, why_none
from teleport.testing.kubectl import newest_kubectl

ROLES = """
kind: role
version: v5
metadata: {name: developers}
spec:
  allow:
    kubernetes_labels: {'*': '*'}
    kubernetes_groups: [developers]
    rules: [{resources: [session], verbs: [list, read]}]
---
kind: role
version: v5
metadata: {name: visitors}
spec: {allow: {kubernetes_labels: {'*': '*'}, kubernetes_groups: [visitors]}}
---
kind: role
version: v5
metadata: {name: dev-pods}
spec:
  allow:
    kubernetes_labels: {'*': '*'}
    kubernetes_groups: [everything]
    kubernetes_resources: [{kind: pods, namespace: dev, verbs: [get, list, exec]}]
"""

# `developers` do in `dev` what Kubernetes calls edit, and nothing elsewhere; `everything` is as good as an
# administrator, so that what such people are refused is refused by our roles; `visitors` may nothing.
RIGHTS = """
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: dev}}
- {apiVersion: v1, kind: Namespace, metadata: {name: prod}}
- apiVersion: rbac.authorization.k8s.io/v1
  kind: ClusterRole
  metadata: {name: impersonate}
  rules: [{apiGroups: [""], resources: [users, groups], verbs: [impersonate]}]
- apiVersion: rbac.authorization.k8s.io/v1
  kind: ClusterRoleBinding
  metadata: {name: impersonators}
  roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: impersonate}
  subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: impersonators}]
- apiVersion: rbac.authorization.k8s.io/v1
  kind: RoleBinding
  metadata: {name: developers, namespace: dev}
  roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: edit}
  subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: developers}]
- apiVersion: rbac.authorization.k8s.io/v1
  kind: Role
  metadata: {name: debug, namespace: dev}
  rules: [{apiGroups: [""], resources: [pods/ephemeralcontainers], verbs: [get, update, patch]}]
- apiVersion: rbac.authorization.k8s.io/v1
  kind: RoleBinding
  metadata: {name: debug, namespace: dev}
  roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: debug}
  subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: developers}]
- apiVersion: rbac.authorization.k8s.io/v1
  kind: ClusterRoleBinding
  metadata: {name: everything}
  roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
  subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: everything}]
"""

WRITES = "i=0; while true; do i=$((i+1)); echo line $i; sleep 0.2; done"
CONTAINERS = (
    {"name": "main", "command": ["/bin/sh", "-c", WRITES]},
    {"name": "http", "command": ["/bin/httpd", "-f", "-p", "8000", "-h", "/www"]},
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for daemon in RUNNING:
            report.sections.append((f"log of {daemon.folder}", daemon.log()[-6000:]))
        for cluster in UP:
            report.sections += [(f"log of {name}", said) for name, said in cluster.ended().items()]
    return report


@dataclass
class Estate:
    """The cluster of ours, and the real one that it leads to."""

    kube: KubeCluster
    cluster: Cluster
    people: dict[str, Person] = field(default_factory=dict)

    def person(self, name: str, role: str = "developers", to: str = "demo") -> Person:
        """Somebody who has logged in and chosen a Kubernetes cluster."""
        if name not in self.people:
            self.people[name] = self.cluster.add_person(name, roles=[role])
            self.people[name].log_in()
        person = self.people[name]
        wait_until("the cluster can be chosen", lambda: person.tsh("kube", "login", to).status == 0)
        return person


@dataclass(frozen=True)
class Use:
    """Somebody who uses kubectl of one generation by one way."""

    estate: Estate
    person: Person
    way: str
    program: Path

    @property
    def environment(self) -> Mapping[str, str]:
        return self.person.environment

    def words(self, *words: str) -> list[str]:
        return [str(self.program), "--namespace=dev", *words]

    def kubectl(self, *words: str, stdin: bytes | str = b"", seconds: float = 60.0) -> Ran:
        return run(*self.words(*words), environment=self.environment, stdin=stdin, seconds=seconds)

    @property
    def by(self) -> str:
        return f"{self.way}-{'debian' if 'debian' in str(self.program) else 'newest'}"

    @property
    def name(self) -> str:
        """One that objects of this use alone have."""
        return self.person.name


@contextlib.contextmanager
def running(use: Use, *words: str) -> Iterator[subprocess.Popen[str]]:
    """kubectl, until the block ends."""
    process = subprocess.Popen(
        use.words(*words),
        env=dict(use.environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=10)


@pytest.fixture(scope="session")
def kube() -> Iterator[KubeCluster]:
    if why := why_none():
        pytest.skip(why)
    with KubeCluster() as kube:
        kube.kubectl("apply", "-f", "-", stdin=RIGHTS).ok()
        wait_until(
            "namespaces have their accounts",
            lambda: all(
                kube.kubectl("get", "serviceaccount", "default", "-n", one).status == 0 for one in ("dev", "prod")
            ),
        )
        kube.apply(pod("web", "dev", *CONTAINERS), pod("quiet", "dev"), pod("hidden", "prod"))
        for name, namespace in (("web", "dev"), ("quiet", "dev"), ("hidden", "prod")):
            kube.wait_pod(name, namespace)
        yield kube


@pytest.fixture(scope="session")
def estate(kube: KubeCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Estate]:
    folder = tmp_path_factory.mktemp("estate")
    cluster = Cluster(folder / "cluster")
    serve_kubectl(cluster, kube, "demo")
    with cluster:
        cluster.tctl("create", "-f", stdin=ROLES).ok()
        with KubeHost(folder / "inner", cluster, "inner", kube, context="inner"):
            yield Estate(kube, cluster)


def program(generation: str) -> Path:
    found: Path | str | None = debian_kubectl() if generation == "debian" else newest_kubectl()
    if not isinstance(found, Path):
        pytest.skip(found or "kubectl is not installed (kubernetes-client)")
    return found


@pytest.fixture(scope="session", params=["demo-debian", "demo-newest", "inner-debian", "inner-newest"])
def use(request: pytest.FixtureRequest, estate: Estate) -> Use:
    way, _, generation = str(request.param).partition("-")
    return Use(estate, estate.person(f"dora-{way}-{generation}", to=way), way, program(generation))
