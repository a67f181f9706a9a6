"""Kubernetes clusters through a real proxy, with the real `kubectl` and a stand-in API server."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.cluster.cluster_kube import serve_kubectl

from teleport.pki.x509subject import decode_user
from teleport.pki.x509verify import load_certificate
from teleport.testing.cluster import BIN, Cluster, Person, Ran, plain_environment, run, wait_until
from teleport.testing.kube_api import KubeApi, running_kube_api
from teleport.testing.person import PASSWORD

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed (kubernetes-client)")

ROLE = """
kind: role
version: v5
metadata: {name: developers}
spec: {allow: {kubernetes_labels: {'*': '*'}, kubernetes_groups: [developers]}}
---
kind: role
version: v5
metadata: {name: outsiders}
spec: {allow: {kubernetes_labels: {'*': '*'}, kubernetes_groups: [visitors]}}
"""


@dataclass
class Kube:
    """A cluster whose proxy leads to one API server."""

    cluster: Cluster
    api: KubeApi
    folder: Path
    address: str
    people: dict[str, Person] = field(default_factory=dict)

    def kubeconfig(self, user: str) -> Path:
        """One that `tctl auth sign` makes for a user, who is added."""
        role = "outsiders" if user == "otto" else "developers"
        if user not in self.cluster.tctl("users", "ls").ok().stdout:
            self.cluster.add_person(user, roles=[role])
        file = self.folder / f"{user}.kubeconfig"
        said = self.cluster.tctl(
            "auth",
            "sign",
            f"--user={user}",
            "--format=kubernetes",
            f"--proxy={self.address}",
            f"--out={file}",
            "--overwrite",
        )
        said.ok()
        return file

    def command(self, user: str, *arguments: str) -> list[str]:
        return ["kubectl", f"--kubeconfig={self.kubeconfig(user)}", *arguments]

    def kubectl(self, user: str, *arguments: str, stdin: str = "") -> Ran:
        return run(*self.command(user, *arguments), environment=plain_environment(self.folder), stdin=stdin)


@pytest.fixture(scope="module")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kube]:
    folder = tmp_path_factory.mktemp("kube")
    with running_kube_api(folder) as api:
        cluster = Cluster(folder / "cluster")
        address = serve_kubectl(cluster, api)
        with cluster:
            cluster.tctl("create", "-f", stdin=ROLE).ok()
            yield Kube(cluster, api, folder, address)


def test_kubectl_works_in_the_persons_name(kube: Kube) -> None:
    """Tables, one pod, logs, creation: told to the API server as the person's, and on record with who and what."""
    listed = kube.kubectl("alice", "get", "pods", "-n", "dev").ok().stdout
    assert listed.split() == ["NAME", "STATUS", "web", "Running"]
    assert kube.kubectl("alice", "get", "pod", "web", "-n", "dev", "-o", "name").ok().stdout == "pod/web\n"
    assert kube.kubectl("alice", "logs", "web", "-n", "dev").ok().stdout == "first line\n"
    pod = '{"apiVersion":"v1","kind":"Pod","metadata":{"name":"made"},"spec":{"containers":[{"name":"a","image":"b"}]}}'
    kube.kubectl("alice", "create", "-n", "dev", "--validate=false", "-f", "-", stdin=pod).ok()
    assert ("dev", "made") in kube.api.pods
    assert {tuple(call.of("Impersonate-User")) for call in kube.api.calls} == {("alice",)}
    event = kube.cluster.wait_event("kube.request", verb="list", resource_kind="pods")
    assert (event["user"], event["kubernetes_groups"]) == ("alice", ["developers", "system:authenticated"])
    made = kube.cluster.wait_event("kube.request", verb="create")
    assert (made["resource_namespace"], made["response_code"]) == ("dev", 201)


def test_refusals_that_kubectl_prints(kube: Kube) -> None:
    """Those of the cluster's RBAC, of our roles, and of what is not relayed."""
    refused = kube.kubectl("otto", "get", "pods", "-n", "dev")
    assert refused.status != 0
    assert 'pods is forbidden: User "otto" cannot do that' in refused.stderr
    acting = kube.kubectl("alice", "get", "pods", "-n", "dev", "--as=admin")
    assert "Your roles do not let you act as the Kubernetes user 'admin'" in acting.stderr
    group = kube.kubectl("alice", "get", "pods", "-n", "dev", "--as=alice", "--as-group=system:masters")
    assert "act as the Kubernetes group 'system:masters'" in group.stderr


UNRECORDED = """
kind: session_recording_config
version: v2
metadata: {name: session-recording-config}
spec: {mode: 'off'}
"""


def test_commands_in_pods_where_nothing_is_recorded(kube: Kube) -> None:
    """`kubectl exec` with its input and output, on record with the command; recorded once it has to be."""
    kube.cluster.tctl("create", "-f", stdin=UNRECORDED).ok()
    try:
        said = kube.kubectl("alice", "exec", "web", "-n", "dev", "--", "echo", "hi").ok()
        assert said.stdout == "hi\n"
        copied = kube.kubectl("alice", "exec", "-i", "web", "-n", "dev", "--", "cat", stdin="one\ntwo\n").ok()
        assert copied.stdout == "one\ntwo\n"
        assert kube.api.calls[-1].of("Impersonate-User") == ["alice"]
        event = kube.cluster.wait_event("kube.request", resource_kind="pods/exec", response_code=101)
        assert "command=echo&command=hi" in event["request_path"]
    finally:
        kube.cluster.tctl("rm", "session_recording_config").ok()

    def recorded() -> bool:
        kube.kubectl("alice", "exec", "web", "-n", "dev", "--", "echo", "hi").ok()
        return bool(kube.cluster.events("--type=session.end"))

    wait_until("it is recorded", recorded)


def test_a_lock_ends_watches_and_logs(kube: Kube) -> None:
    """Within two seconds, at the API server too; afterwards kubectl says that access is locked."""
    commands = (["get", "pods", "-n", "dev", "-w"], ["logs", "-f", "web", "-n", "dev"])
    running = [
        subprocess.Popen(
            kube.command("larry", *words),
            env=plain_environment(kube.folder),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
        )
        for words in commands
    ]
    try:
        wait_until("both are open", lambda: kube.api.open_streams == 2)
        kube.cluster.tctl("lock", "--user=larry").ok()
        wait_until("both are cut", lambda: kube.api.open_streams == 0, 2.0 * 5)
    finally:
        for process in running:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=10)
    refused = kube.kubectl("larry", "get", "pods", "-n", "dev")
    assert "Access is locked" in refused.stderr


def test_clients_are_told_where_it_is(kube: Kube) -> None:
    """The proxy's first answer names the address for kubectl."""
    person = kube.cluster.add_person("petra")
    status, answer = person.web("GET", "/webapi/ping")
    assert status == 200
    assert answer["proxy"]["kube"] == {
        "enabled": True,
        "public_addr": kube.address,
        "listen_addr": answer["proxy"]["kube"]["listen_addr"],
    }


def kubectl_of(person: Person, *arguments: str, seconds: float = 30.0) -> Ran:
    """Plain kubectl in somebody's home."""
    return run("kubectl", *arguments, environment=person.environment, seconds=seconds)


@pytest.fixture
def tess(kube: Kube) -> Person:
    """Somebody who has logged in, with clusters of her own in her kubeconfig."""
    if "tess" not in kube.cluster.tctl("users", "ls").ok().stdout:
        kube.people["tess"] = kube.cluster.add_person("tess", roles=["developers"])
    person = kube.people["tess"]
    person.log_in()
    file = person.home / ".kube" / "config"
    file.parent.mkdir(exist_ok=True)
    file.write_text(OWN)
    return person


OWN = """\
apiVersion: v1
kind: Config
preferences: {}
clusters:
- name: own
  cluster: {server: "https://own.example.com"}
users:
- name: me
  user: {token: abc}
contexts:
- name: own
  context: {cluster: own, user: me}
current-context: own
"""


def test_tsh_points_kubectl_at_a_cluster(kube: Kube, tess: Person) -> None:
    """Listed, chosen, used by plain kubectl, and gone again with the login; what was there before stays."""
    assert tess.tsh("kube", "ls", "-q").ok().stdout == "one\n"
    assert tess.tsh("kube", "ls", "--format=json").json() == [{"name": "one", "labels": {}, "selected": False}]
    assert "kubectl uses the Kubernetes cluster one now" in tess.tsh("kube", "login", "one").ok().stderr
    assert tess.tsh("kube", "ls").ok().stdout.split()[-2:] == ["one", "*"]
    assert kubectl_of(tess, "get", "pods", "-n", "dev", "-o", "name").ok().stdout.startswith("pod/")
    assert kube.api.calls[-1].of("Impersonate-User") == ["tess"]
    assert kubectl_of(tess, "config", "get-contexts", "-o", "name").ok().stdout.split() == ["example.test-one", "own"]
    assert "enabled" in tess.tsh("status").ok().stdout
    tess.log_in()
    assert kubectl_of(tess, "get", "pods", "-n", "dev", "-o", "name").ok().stdout.startswith("pod/")
    tess.tsh("logout").ok()
    assert kubectl_of(tess, "config", "get-contexts", "-o", "name").ok().stdout.split() == ["own"]
    assert "abc" in (tess.home / ".kube" / "config").read_text()


def test_the_plugin_keeps_what_it_got(kube: Kube, tess: Person) -> None:
    """One certificate serves many calls, is good for Kubernetes alone, and a new login begins a new one."""
    ask = ["kube", "credentials", "--kube-cluster=one", "--teleport-cluster=example.test"]
    first, second = tess.tsh(*ask).json(), tess.tsh(*ask).json()
    assert first == second
    assert (first["kind"], first["apiVersion"]) == ("ExecCredential", "client.authentication.k8s.io/v1beta1")
    subject = decode_user(load_certificate(first["status"]["clientCertificateData"].encode()).subject)
    assert (subject.usage, subject.kube_cluster) == (("usage:kube",), "one")
    assert "BEGIN PRIVATE KEY" in first["status"]["clientKeyData"]
    tess.tsh("logout").ok()
    assert tess.tsh(*ask).status != 0
    tess.log_in()
    assert tess.tsh(*ask).json() != first


def test_clusters_that_nobody_may_use_are_not_chosen(kube: Kube, tess: Person) -> None:
    """Unknown and hidden ones read the same, and the kubeconfig stays as it is."""
    before = (tess.home / ".kube" / "config").read_text()
    refused = tess.tsh("kube", "login", "two")
    assert refused.status == 3
    assert "no Kubernetes cluster 'two' that you may use" in refused.stderr
    assert (tess.home / ".kube" / "config").read_text() == before


def test_a_login_tells_kubectl_of_the_clusters(kube: Kube) -> None:
    """Contexts of all that the person may use, between the lines that they wrote; the current one stays it, until one
    is asked for. A file that is none is left alone, and the login is one nevertheless."""
    lena = kube.cluster.add_person("lena", roles=["developers"])
    file = lena.home / ".kube" / "config"
    file.parent.mkdir()
    own = OWN.replace("users:", "users:  # of mine")
    file.write_text(own)
    said = lena.log_in()
    assert "kubectl knows a Kubernetes cluster of example.test" in said.stderr
    assert "# of mine" in file.read_text()
    assert kubectl_of(lena, "config", "get-contexts", "-o", "name").ok().stdout.split() == ["example.test-one", "own"]
    assert kubectl_of(lena, "config", "current-context").ok().stdout == "own\n"
    listed = kubectl_of(lena, "--context=example.test-one", "get", "pods", "-n", "dev", "-o", "name").ok()
    assert listed.stdout.startswith("pod/")
    before = file.stat()
    again = lena.tsh("login").ok()
    assert "kubectl" not in again.stderr
    assert file.stat() == before, "nothing is new"
    assert "kubectl uses the Kubernetes cluster one now" in lena.tsh("login", "--kube-cluster=one").ok().stderr
    assert kubectl_of(lena, "config", "current-context").ok().stdout == "example.test-one\n"
    refused = lena.tsh("login", "--kube-cluster=two")
    assert refused.status == 3
    assert "no Kubernetes cluster 'two' that you may use in example.test" in refused.stderr
    assert lena.tsh("login", "--kube-cluster=one", f"--out={lena.home}/file").status == 2
    lena.tsh("logout").ok()
    assert file.read_text() == own.replace("current-context: own", "current-context: ''")
    file.write_text("clusters: [\n# mine")
    said = lena.log_in()
    assert "is no YAML; nothing was changed" in said.stderr
    assert file.read_text() == "clusters: [\n# mine"


def test_a_login_in_a_home_elsewhere_is_found_by_kubectl(kube: Kube, tmp_path: Path) -> None:
    """By a kubectl that was started without the variable, whichever command wrote the entry; two logins of one person
    in two homes do not take out each other's."""
    hana = kube.cluster.add_person("hana", roles=["developers"])
    hana.log_in()
    plain = {name: value for name, value in hana.environment.items() if name != "TELEPORT_HOME"}
    config, elsewhere = tmp_path / "config", tmp_path / "else where"

    def tsh(*words: str, home: Path = elsewhere, stdin: str = "") -> Ran:
        environment = {**plain, "TELEPORT_HOME": str(home), "KUBECONFIG": str(config)}
        return run(BIN / "tsh", *words, environment=environment, stdin=stdin)

    def works() -> bool:
        environment = {**plain, "KUBECONFIG": str(config)}
        listed = run("kubectl", "get", "pods", "-n", "dev", "-o", "name", environment=environment)
        return listed.status == 0 and listed.stdout.startswith("pod/")

    login = ("login", f"--proxy={kube.cluster.web_address}", "--user=hana", f"--ca-pin={kube.cluster.ca_pin()}")
    tsh(*login, "--kube-cluster=one", stdin=f"{PASSWORD}\n{hana.code() if hana.totp_secret else ''}\n").ok()
    tsh("logout", home=hana.home / ".tsh").ok()
    assert works()
    config.unlink()
    tsh("kube", "login", "one").ok()
    assert works()
    tsh("logout").ok()
    assert not works()
    assert "example.test-one" not in config.read_text()


def test_a_login_of_somebody_without_clusters_makes_no_file(kube: Kube) -> None:
    kube.cluster.tctl("create", "-f", stdin=NOBODY).ok()
    nils = kube.cluster.add_person("nils", roles=["nobodys-clusters"])
    assert "kube" not in nils.log_in().stderr
    assert not (nils.home / ".kube").exists()


NOBODY = """
kind: role
version: v5
metadata: {name: nobodys-clusters}
spec: {allow: {logins: [root]}, deny: {kubernetes_labels: {'*': '*'}}}
"""
