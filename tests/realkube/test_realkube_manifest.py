"""What `teleport kube manifest` prints, in a real cluster: its account may do what the roles give, and nothing else."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from tests.realkube.conftest import Estate, Use, program

from teleport.testing.cluster import BIN, DaemonProcess, Host, Person, Ran, at, plain_environment, run, wait_until
from teleport.testing.kube_cluster import KubeCluster
from teleport.testing.kube_image import IMAGE
from teleport.testing.terminal import Terminal

pytestmark = pytest.mark.real_kube

NAME = "teleport-kube"
ROBOT = "system:serviceaccount:dev:robot"
ROLES = f"""
kind: role
version: v5
metadata: {{name: inside-developers}}
spec: {{allow: {{kubernetes_labels: {{env: inside}}, kubernetes_groups: [developers]}}}}
---
kind: role
version: v5
metadata: {{name: inside-robots}}
spec: {{allow: {{kubernetes_labels: {{env: inside}}, kubernetes_users: ['{ROBOT}']}}}}
"""
MORE = """
kind: role
version: v5
metadata: {name: inside-more}
spec: {allow: {kubernetes_labels: {env: inside}, kubernetes_groups: [everything]}}
"""
PEOPLE = ("ivy-debian", "ivy-newest", "ian-debian", "ian-newest")


def printed(estate: Estate, folder: Path, *more: str) -> str:
    (folder / "roles.yaml").write_text(ROLES)
    words = (
        *("kube", "manifest", "--kube-cluster-name=inside", f"--auth-server={at(estate.cluster.web_port)}"),
        *(f"--ca-pin={estate.cluster.ca_pin()}", f"--image={IMAGE}", "--labels=env=inside"),
        *(f"--role-file={folder}/roles.yaml", f"--users={','.join(PEOPLE)}", *more),
    )
    return run(BIN / "teleport", *words, environment=plain_environment(folder)).ok().stdout


@dataclass
class Inside:
    """A service with the account of the manifest."""

    estate: Estate
    account: Path  # the folder that a pod finds
    host: Host

    @property
    def kube(self) -> KubeCluster:
        return self.estate.kube

    def token(self) -> str:
        """A new one, as the kubelet asks for one."""
        asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
        path = f"/api/v1/namespaces/teleport/serviceaccounts/{NAME}/token"
        made = self.kube.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(asked)).json()
        return str(made["status"]["token"])

    def as_account(self, *words: str) -> Ran:
        """kubectl with nothing but the account's token."""
        token, server = (self.account / "token").read_text(), f"https://127.0.0.1:{self.kube.port}"
        return run(
            *("kubectl", f"--server={server}", f"--certificate-authority={self.kube.authority}", f"--token={token}"),
            *words,
            environment=plain_environment(self.estate.cluster.folder),
        )

    def use(self, name: str, role: str) -> Use:
        return Use(self.estate, self.estate.person(name, role, "inside"), "inside", program(name.partition("-")[2]))


@pytest.fixture(scope="module")
def inside(estate: Estate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    """The manifest is applied, and the service runs as it would in the pod: the account's files in their place, the
    variables that pods have, the configuration of its ConfigMap."""
    kube, folder = estate.kube, tmp_path_factory.mktemp("inside")
    estate.cluster.tctl("create", "-f", stdin=f"{ROLES}---{MORE}").ok()
    kube.kubectl("create", "namespace", "teleport").ok()
    kube.kubectl("create", "serviceaccount", "robot", "-n", "dev").ok()
    applied = kube.kubectl("apply", "-f", "-", stdin=printed(estate, folder)).ok().stdout.splitlines()
    assert applied
    assert all(line.endswith(" created") for line in applied), applied
    config = yaml.safe_load(kube.get("configmap", NAME, "-n", "teleport")["data"]["teleport.yaml"])
    estate.cluster.tctl("tokens", "add", "--type=kube", f"--out={folder}/join").ok()
    config["teleport"] |= {"auth_token": str(folder / "join"), "data_dir": str(folder / "host/data")}
    del config["teleport"]["diag_addr"]
    account = folder / "account"
    account.mkdir()
    (account / "ca.crt").write_bytes(kube.authority.read_bytes())
    host = Host(folder / "host", config)
    place = "/run/secrets/kubernetes.io/serviceaccount"
    in_pod = folder / "in-pod"
    in_pod.write_text(
        "#!/bin/sh\nexec unshare --mount --propagation private sh -c '"
        f"mount -t tmpfs none /run && mkdir -p {place} && mount --bind {shlex.quote(str(account))} {place} && "
        f'exec {BIN}/teleport "$@"\' sh "$@"\n'
    )
    in_pod.chmod(0o755)
    given = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(kube.port)}
    host.daemon = DaemonProcess(
        host.folder,
        ["--config", host.config_path],
        diag_port=host.diag_port,
        environment={**plain_environment(host.folder), **given},
        program=in_pod,
    )
    found = Inside(estate, account, host)
    (account / "token").write_text(found.token())
    with host:
        yield found


def test_the_manifest_is_taken_again_unchanged(inside: Inside, tmp_path: Path) -> None:
    """By kubectl of both generations, which check it against the server's description; also one with every option."""
    text = printed(inside.estate, tmp_path)
    full = printed(
        inside.estate, tmp_path, "--groups=developers", "--name=other", "--storage=2Gi", "--token-secret=one"
    )
    for generation in ("debian", "newest"):
        command = (str(program(generation)), f"--kubeconfig={inside.kube.folder}/admin.conf", "apply", "-f", "-")
        environment = plain_environment(tmp_path)
        again = run(*command, environment=environment, stdin=text).ok().stdout.splitlines()
        assert all(line.endswith(" unchanged") for line in again), again
        run(*command, "--dry-run=server", environment=environment, stdin=full).ok()


def test_its_pods_are_let_in(inside: Inside) -> None:
    """The deployment makes a pod, which only waits for a volume: the server found nothing wrong with it."""

    def made() -> bool:
        return bool(inside.kube.get("pods", "-n", "teleport", "-l", f"app.kubernetes.io/instance={NAME}")["items"])

    wait_until("the pod is there", made)


def test_the_account_may_act_as_those_that_are_named(inside: Inside) -> None:
    """And see nothing by itself."""
    for words in (
        ("get", "pods", "-n", "dev"),
        ("get", "secrets", "-A"),
        ("get", "nodes"),
        ("create", "namespace", "x"),
    ):
        refused = inside.as_account(*words)
        assert f'User "system:serviceaccount:teleport:{NAME}" cannot' in refused.stderr
    ivy = ("--as=ivy-debian", "--as-group=developers", "--as-group=system:authenticated")
    assert "pod/web" in inside.as_account(*ivy, "get", "pods", "-n", "dev", "-o", "name").ok().stdout
    for others in (
        ("--as=somebody", "--as-group=developers"),
        ("--as=ivy-debian", "--as-group=everything"),
        ("--as=ivy-debian", "--as-group=system:masters"),
        ("--as=system:serviceaccount:kube-system:namespace-controller",),
        ("--as=system:node:localhost", "--as-group=system:nodes"),
    ):
        refused = inside.as_account(*others, "get", "pods", "-n", "dev")
        assert "cannot impersonate resource" in refused.stderr, others
    assert "cannot impersonate" not in inside.as_account(f"--as={ROBOT}", "get", "pods", "-n", "dev").stderr


@pytest.mark.parametrize("generation", ["debian", "newest"])
def test_people_work_through_it(inside: Inside, generation: str) -> None:
    """What roles give; what the account may not act as is refused by the cluster, in words that kubectl prints."""
    ivy = inside.use(f"ivy-{generation}", "inside-developers")
    assert "pod/web" in ivy.kubectl("get", "pods", "-o", "name").ok().stdout
    words = ivy.words("exec", "-it", "quiet", "--", "sh", "-c", "echo te''rminal")
    with Terminal(words, ivy.environment) as terminal:
        terminal.expect("terminal")
        assert terminal.ended() == 0
    assert "cannot list resource" in ivy.kubectl("get", "secrets", "-n", "prod").stderr
    ian = inside.use(f"ian-{generation}", "inside-more")
    refused = ian.kubectl("get", "pods")
    assert refused.status != 0
    assert 'groups "everything" is forbidden' in refused.stderr
    assert "can let our account act as you" in refused.stderr
    robot = inside.use(f"rob-{generation}", "inside-robots")
    assert f'User "{ROBOT}" cannot list resource "pods"' in robot.kubectl("get", "pods").stderr


def test_a_new_token_of_the_account_is_followed(inside: Inside) -> None:
    """Pods are given one each hour. While there is none that counts, nobody is told to log in."""
    ivy = inside.use("ivy-newest", "inside-developers")
    file = inside.account / "token"
    ivy.kubectl("get", "pods").ok()
    file.write_text("no.such.token")
    refused = ivy.kubectl("get", "pods")
    assert "The API server of inside does not take our credentials" in refused.stderr
    assert "logged in" not in refused.stderr
    executed = ivy.kubectl("exec", "quiet", "--", "id")
    assert "The API server of inside does not take our credentials" in executed.stderr
    file.write_text(inside.token())
    ivy.kubectl("get", "pods").ok()


def test_who_is_not_named_is_refused_by_the_cluster(inside: Inside) -> None:
    """A person who joined since: the manifest has to be printed and applied anew."""
    new: Person = inside.estate.person("uma", "inside-developers", "inside")
    refused = run("kubectl", "get", "pods", "-n", "dev", environment=new.environment)
    assert 'users "uma" is forbidden' in refused.stderr
    text = inside.kube.get("clusterrole", f"teleport-{NAME}")
    named = next(rule for rule in text["rules"] if rule["resources"] == ["users"])["resourceNames"]
    assert sorted(named) == sorted(PEOPLE)
