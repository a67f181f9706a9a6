"""kubectl through the root's proxy to Kubernetes clusters of another cluster of ours, which trusts the root."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.cluster.cluster_kube import KubeHost, lead_kubectl, serve_kubectl, wait_known
from tests.cluster.cluster_trust import LEAF, ROOT, Trusting
from tests.cluster.test_cluster_kube import ROLE

from teleport.testing.cluster import Cluster, Person, Ran, run, wait_until
from teleport.testing.kube_api import KubeApi, running_kube_api

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed (kubernetes-client)")


@dataclass
class Two:
    """A root whose proxy leads kubectl, and a leaf that has two Kubernetes clusters."""

    trusting: Trusting
    api: KubeApi
    service: KubeHost

    def person(self, name: str, role: str = "developers") -> Person:
        person = self.trusting.root.add_person(name, roles=[role])
        person.log_in()
        wait_known(person, self.trusting.root.config["proxy_service"]["kube_public_addr"])
        return person


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    folder = tmp_path_factory.mktemp("kube")
    with running_kube_api(folder) as api:
        root, leaf = Cluster(folder / "root", name=ROOT), Cluster(folder / "leaf", name=LEAF)
        lead_kubectl(root)
        serve_kubectl(leaf, api)
        with root, leaf:
            for one in (root, leaf):
                one.tctl("create", "-f", stdin=ROLE).ok()
            made = Trusting(root, leaf)
            made.trust({"developers": ["developers"]})
            with KubeHost(folder / "far", leaf, "far", api, context="far") as service:
                yield Two(made, api, service)


def kubectl(person: Person, *arguments: str) -> Ran:
    return run("kubectl", *arguments, environment=person.environment)


def test_kubectl_reaches_both_kinds_of_clusters_over_there(two: Two) -> None:
    """Listed, chosen, used: what the leaf's proxy reaches itself, and what a service behind NAT does there."""
    alice = two.person("alice")
    root = two.trusting.root
    wait_until("the leaf's tunnel stands", lambda: "online" in root.tctl("get", f"rc/{LEAF}").ok().stdout)
    assert alice.tsh("kube", "ls", "-q").ok().stdout == ""
    assert alice.tsh("kube", "ls", "-q", f"--cluster={LEAF}").ok().stdout.split() == ["far", "one"]
    for name, server in (("one", two.trusting.leaf), ("far", two.service)):
        alice.tsh("kube", "login", f"--cluster={LEAF}", name).ok()
        listed = kubectl(alice, "get", "pods", "-n", "dev", "-o", "name").ok()
        assert listed.stdout.startswith("pod/")
        assert two.api.calls[-1].of("Impersonate-User") == [f"remote-alice-{ROOT}"]
        host_id = (server.data_dir / "host_uuid").read_text().strip()
        event = two.trusting.leaf.wait_event("kube.request", server_id=host_id)
        assert (event["user"], event["kubernetes_cluster"]) == (f"remote-alice-{ROOT}", name)
    assert f"{LEAF}-far" in kubectl(alice, "config", "current-context").ok().stdout
    assert not any(one["success"] for one in two.trusting.root.events("--type=kube.request"))


def test_a_signed_kubeconfig_leads_there(two: Two, tmp_path: Path) -> None:
    """`tctl auth sign --leaf-cluster`; only of a cluster that trusts this one."""
    robot = two.person("robot")
    root = two.trusting.root
    signing = ["auth", "sign", "--user=robot", "--format=kubernetes", "--kube-cluster-name=one"]
    address = root.config["proxy_service"]["kube_public_addr"]
    root.tctl(*signing, f"--leaf-cluster={LEAF}", f"--proxy={address}", f"--out={tmp_path}/file").ok()
    assert kubectl(robot, f"--kubeconfig={tmp_path}/file", "get", "pods", "-n", "dev", "-o", "name").ok().stdout
    assert two.api.calls[-1].of("Impersonate-User") == [f"remote-robot-{ROOT}"]
    assert root.tctl(*signing, "--leaf-cluster=nowhere.test", f"--out={tmp_path}/none").status == 3


def test_who_is_not_mapped_or_locked_over_there_is_refused_there(two: Two) -> None:
    """The leaf decides by its own roles and locks; a lock of either ends what is open within two seconds."""
    otto, larry = two.person("otto", "outsiders"), two.person("larry")
    refused = otto.tsh("kube", "ls", f"--cluster={LEAF}")
    assert refused.status != 0
    assert "is mapped to a role" in refused.stderr or "no cluster" in refused.stderr
    assert otto.tsh("kube", "ls", "--cluster=nowhere.test").status != 0
    larry.tsh("kube", "login", f"--cluster={LEAF}", "far").ok()
    for cluster, name in ((two.trusting.leaf, f"remote-larry-{ROOT}"), (two.trusting.root, "larry")):
        with subprocess.Popen(
            ["kubectl", "get", "pods", "-n", "dev", "-w"],
            env=larry.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
        ) as watching:
            try:
                wait_until("it is open", lambda: two.api.open_streams == 1)
                cluster.tctl("lock", f"--user={name}").ok()
                wait_until("it is cut", lambda: two.api.open_streams == 0, 2.0 * 5)
            finally:
                watching.send_signal(signal.SIGTERM)
                watching.communicate(timeout=10)
        told = cluster.wait_event("client.disconnect", user=name)
        assert told["reason"] == "access has ended"
        assert "locked" in kubectl(larry, "get", "pods", "-n", "dev").stderr
        for lock in cluster.tctl("get", "locks", "--format=json").json():
            cluster.tctl("rm", f"lock/{lock['metadata']['name']}").ok()
        wait_until("it goes on", lambda: kubectl(larry, "get", "pods", "-n", "dev").status == 0)


def test_second_factors_of_the_root_do_not_count_in_the_leaf(two: Two) -> None:
    """Where the leaf asks for one for each session, people of the root are refused in words, and nobody is asked."""
    root, leaf = two.trusting.root, two.trusting.leaf
    fay = two.person("fay")
    fay.tsh("kube", "login", f"--cluster={LEAF}", "far").ok()
    kubectl(fay, "get", "pods", "-n", "dev").ok()
    asking = ROLE.split("---")[0].replace("spec: {", "spec: {options: {require_session_mfa: yes}, ")
    leaf.tctl("create", "-f", stdin=asking).ok()
    try:

        def refused() -> bool:
            return (
                f"users of the cluster {ROOT} cannot give one here" in kubectl(fay, "get", "pods", "-n", "dev").stderr
            )

        wait_until("the leaf asks", refused)
        fay.tsh("kube", "login", f"--cluster={LEAF}", "one").ok()
        assert refused()
        assert root.events("--type=session.mfa", "--user=fay") == []
        event = leaf.wait_event("kube.request", user=f"remote-fay-{ROOT}", success=False)
        assert event["error"].startswith("mfa_required")
    finally:
        leaf.tctl("create", "-f", stdin=ROLE).ok()
    wait_until("it goes on", lambda: kubectl(fay, "get", "pods", "-n", "dev").status == 0)


def test_the_end_of_the_trust_is_the_end_of_access(two: Two) -> None:
    """Also of a watch; the root's own administrators are not asked."""
    wendy = two.person("wendy")
    wendy.tsh("kube", "login", f"--cluster={LEAF}", "one").ok()
    with subprocess.Popen(
        ["kubectl", "get", "pods", "-n", "dev", "-w"],
        env=wendy.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    ) as watching:
        try:
            wait_until("it is open", lambda: two.api.open_streams == 1)
            two.trusting.leaf.tctl("rm", f"tc/{ROOT}").ok()
            wait_until("it is cut", lambda: two.api.open_streams == 0, 2.0 * 5)
        finally:
            watching.send_signal(signal.SIGTERM)
            watching.communicate(timeout=10)
    assert kubectl(wendy, "get", "pods", "-n", "dev").status != 0
