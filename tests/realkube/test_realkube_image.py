"""From nothing to a cluster inside Kubernetes: the image of packaging/Containerfile in pods of examples/kubernetes and
of `teleport kube manifest`, with their own volumes, probes, accounts and limits.

The network of pods here is the machine's: this cluster has no services and no names, so the ports and addresses of the
documents are changed, and nothing else of them.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from scripts.dist import image
from scripts.dist.locked import ROOT
from tests.dist import building
from tests.dist.containers import engine

from teleport.testing.cluster import BIN, Cluster, Person, Ran, at, free_port, plain_environment, run, wait_until
from teleport.testing.kube_cluster import KubeCluster

pytestmark = [pytest.mark.real_kube, pytest.mark.timeout(900)]

EXAMPLE = ROOT / "examples" / "kubernetes" / "teleport.yaml"
NAME = "localhost/teleport:test"
SPACE = "hub"
DIAG = "127.0.0.1:3000"  # of the documents
ROLES = """
kind: role
version: v5
metadata: {name: pod-developers}
spec: {allow: {kubernetes_labels: {env: pod}, kubernetes_groups: [developers]}}
"""


class Hub(Cluster):
    """Auth and proxy in the pod of the example."""

    def __init__(self, folder: Path, kube: KubeCluster) -> None:
        super().__init__(folder)
        self.kube = kube
        self.config["teleport"] |= {"data_dir": "/var/lib/teleport/data", "nodename": "hub"}
        self.config["ssh_service"] = {"enabled": False}
        self.config["proxy_service"]["kube_listen_addr"] = at(free_port())

    def tctl(self, *arguments: str | Path, stdin: bytes | str = b"", seconds: float = 60.0) -> Ran:
        """As docs/packages.md says it is used."""
        words = ("exec", "-i", "-n", SPACE, "teleport-0", "--", "tctl", "--config=/etc/teleport/teleport.yaml")
        return self.kube.kubectl(*words, *map(str, arguments), stdin=stdin, seconds=seconds)

    def documents(self) -> Iterator[dict[str, Any]]:
        """Those of the example, with what is here."""
        text = EXAMPLE.read_text().replace(DIAG, at(self.diag_port))
        for one in yaml.safe_load_all(text.replace("registry.example.com/teleport:VERSION", NAME)):
            if one["kind"] == "Namespace":
                one["metadata"]["name"] = SPACE
            else:
                one["metadata"]["namespace"] = SPACE
            if one["kind"] == "ConfigMap":
                one["data"]["teleport.yaml"] = yaml.safe_dump(self.config)
            if one["kind"] == "StatefulSet":
                del one["spec"]["template"]["spec"]["containers"][0]["ports"]
                one["spec"]["template"]["spec"]["hostNetwork"] = True
            if one["kind"] != "Service":  # this cluster gives out no addresses
                yield one


def volume(kube: KubeCluster, name: str, claim: str) -> dict[str, Any]:
    """A volume for a claim, as who runs the cluster gives one out: a folder of the image's user."""
    folder = kube.folder / name
    folder.mkdir(mode=0o700)
    os.chown(folder, image.OWNER, image.OWNER)
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "10Gi"},
            "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": str(folder)},
            "claimRef": {"namespace": SPACE, "name": claim},
        },
    }


def ready(kube: KubeCluster, label: str) -> dict[str, Any]:
    """The pod of an instance, once its probe says that it serves."""

    def found() -> dict[str, Any] | None:
        for one in kube.get("pods", "-n", SPACE, "-l", f"app.kubernetes.io/instance={label}")["items"]:
            conditions = {each["type"]: each["status"] for each in one["status"].get("conditions", ())}
            if conditions.get("Ready") == "True" and "deletionTimestamp" not in one["metadata"]:
                return dict(one)
        return None

    try:
        return wait_until(f"the pod of {label} is ready", found, 180)
    except AssertionError as error:
        error.add_note(kube.kubectl("describe", "pods", "-n", SPACE).stdout[-3000:])
        error.add_note(kube.kubectl("logs", "-n", SPACE, "-l", f"app.kubernetes.io/instance={label}").stdout[-3000:])
        raise


@pytest.fixture(scope="module")
def hub(kube: KubeCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    if why := building.why_not():
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("hub")
    with engine(folder / "podman") as podman:
        if isinstance(podman, str):
            pytest.skip(podman)
        dist = building.published(folder / "dist", "--only=image", "--extras=")
        podman.build(NAME, ROOT / "packaging" / "Containerfile", dist)
        podman("save", "--format=docker-archive", f"--output={folder}/image.tar", NAME).ok()
    kube.import_image(folder / "image.tar")
    hub = Hub(folder / "hub", kube)
    kube.apply(*hub.documents(), volume(kube, "hub-state", "state-teleport-0"))
    yield hub
    kube.kubectl("delete", "namespace", SPACE, seconds=120).ok()


@pytest.fixture(scope="module")
def dora(hub: Hub) -> Person:
    """Somebody who has logged in, and may work in the namespace `dev` of this Kubernetes cluster."""
    ready(hub.kube, "teleport")
    hub.tctl("create", "-f", "/dev/stdin", stdin=ROLES).ok()
    person = hub.add_person("dora", roles=["pod-developers"])
    person.log_in()
    return person


def restarts(pod: dict[str, Any]) -> int:
    return sum(one["restartCount"] for one in pod["status"]["containerStatuses"])


def test_the_example_makes_a_cluster_of_ours(hub: Hub) -> None:
    """Ready by its own probe, as user 65532, and its state is in its volume."""
    pod = ready(hub.kube, "teleport")
    assert restarts(pod) == 0
    assert hub.name in hub.tctl("status").ok().stdout
    inside = hub.kube.kubectl("exec", "-n", SPACE, "teleport-0", "--", "sh", "-c", "id -u; : > /x").stdout
    assert inside == f"{image.OWNER}\n"
    assert (hub.kube.folder / "hub-state" / "data" / "host_uuid").stat().st_uid == image.OWNER


def test_a_service_of_the_manifest_joins_it_and_leads_to_the_cluster(hub: Hub, dora: Person) -> None:
    """Token in a Secret, account of its own: kubectl works through both pods."""
    kube = hub.kube
    token = hub.tctl("tokens", "add", "--type=kube", "--format=json").json()["token"]
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "teleport-kube-token", "namespace": SPACE},
        "stringData": {"token": token},
    }
    words = (
        *("kube", "manifest", "--kube-cluster-name=pod", f"--auth-server={at(hub.web_port)}", f"--namespace={SPACE}"),
        *(f"--ca-pin={hub.ca_pin()}", f"--image={NAME}", "--labels=env=pod", "--groups=developers", "--users=dora"),
    )
    printed = run(BIN / "teleport", *words, environment=plain_environment(hub.folder)).ok().stdout
    documents = list(yaml.safe_load_all(printed.replace(DIAG, at(free_port()))))
    for one in documents:
        if one["kind"] == "Deployment":  # the way that pods have to the API server leads through a service
            spec = one["spec"]["template"]["spec"]
            spec["hostNetwork"] = True
            where = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(kube.port)}
            spec["containers"][0]["env"] += [{"name": name, "value": value} for name, value in where.items()]
    kube.apply(secret, *documents, volume(kube, "kube-state", "teleport-kube"))
    assert restarts(ready(kube, "teleport-kube")) == 0
    wait_until("the cluster can be chosen", lambda: dora.tsh("kube", "login", "pod").status == 0, 60)
    assert "pod/web" in kubectl(dora, "get", "pods", "-o", "name").ok().stdout
    assert "cannot list resource" in kubectl(dora, "get", "secrets", "-A").stderr


def kubectl(person: Person, *words: str) -> Ran:
    return run("kubectl", "--namespace=dev", *words, environment=person.environment, seconds=60)


def test_a_signal_in_the_pod_replaces_the_daemon_under_an_open_session(hub: Hub, dora: Person) -> None:
    """The container is the same, and what was on its way goes on."""
    count = "i=0; echo begin; until [ -e /tmp/stop ]; do echo $i; i=$((i+1)); sleep 0.1; done; echo end"
    words = ["kubectl", "--namespace=dev", "exec", "quiet", "--", "sh", "-c", count]
    log = ("logs", "-n", SPACE, "teleport-0")
    with subprocess.Popen(words, env=dora.environment, stdout=subprocess.PIPE, text=True) as session:
        assert session.stdout is not None
        try:
            assert [session.stdout.readline() for _ in range(3)] == ["begin\n", "0\n", "1\n"]
            hub.kube.kubectl("exec", "-n", SPACE, "teleport-0", "--", "sh", "-c", "kill -HUP 1").ok()
            wait_until("a new one is ready", lambda: "the new process is ready" in hub.kube.kubectl(*log).stdout, 90)
            assert "pod/web" in kubectl(dora, "get", "pods", "-o", "name").ok().stdout
            hub.kube.kubectl("exec", "-n", "dev", "quiet", "--", "touch", "/tmp/stop").ok()
            rest = session.stdout.read().split()
            assert rest == [*(str(number) for number in range(2, len(rest) + 1)), "end"]
            assert session.wait(30) == 0
        finally:
            session.kill()
    assert restarts(ready(hub.kube, "teleport")) == 0


def test_a_new_pod_goes_on_with_what_is_in_the_volume(hub: Hub, dora: Person) -> None:
    pin, former = hub.ca_pin(), ready(hub.kube, "teleport")["metadata"]["uid"]
    hub.kube.kubectl("delete", "pod", "-n", SPACE, "teleport-0", seconds=120).ok()
    wait_until("another pod", lambda: ready(hub.kube, "teleport")["metadata"]["uid"] != former, 180)
    assert pin in hub.tctl("status").ok().stdout
    wait_until("the service is back", lambda: kubectl(dora, "get", "pods").status == 0, 90)
    hub.tctl("audit", "verify").ok()
    assert json.loads(hub.tctl("kube", "ls", "--format=json").ok().stdout)
