"""teleport kube manifest: what it prints, read as YAML and by kubectl, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cluster.cluster_kubectl import debian_kubectl

from teleport.cli.teleport.command import teleport
from teleport.daemon.config.file import load_config
from teleport.testing.commands import Ran, run_command

PIN = "sha256:" + "a" * 64
ROLE = """
kind: role
version: v5
metadata: {name: NAME}
spec:
  allow:
    kubernetes_labels: LABELS
    kubernetes_groups: GROUPS
    kubernetes_users: USERS
"""


def manifest(*more: str) -> Ran:
    return run_command(
        teleport,
        "teleport",
        "kube",
        "manifest",
        "--kube-cluster-name=prod: {x}",
        "--auth-server=proxy.test:443",
        f"--ca-pin={PIN}",
        "--image=registry.test/teleport:1",
        *more,
    )


def read(ran: Ran) -> dict[str, Any]:
    found = list(yaml.safe_load_all(ran.ok().out))
    return {one["kind"]: one for one in found}


def whom(documents: dict[str, Any], kind: str = "ClusterRole") -> dict[str, Any]:
    """What may be impersonated, with the names; None: any."""
    rules = [rule for rule in documents[kind]["rules"] if rule["verbs"] == ["impersonate"]]
    return {resource: rule.get("resourceNames") for rule in rules for resource in rule["resources"]}


def role(folder: Path, name: str, *, labels: str = "{'*': '*'}", groups: str = "[]", users: str = "[]") -> str:
    file = folder / f"{name}.yaml"
    text = ROLE.replace("NAME", name).replace("LABELS", labels).replace("GROUPS", groups).replace("USERS", users)
    file.write_text(text)
    return f"--role-file={file}"


def test_without_names_the_account_may_act_as_anybody_and_a_note_says_so() -> None:
    ran = manifest()
    documents = read(ran)
    assert whom(documents) == {"users": None, "groups": None, "serviceaccounts": None}
    others = [rule for rule in documents["ClusterRole"]["rules"] if rule["verbs"] != ["impersonate"]]
    assert [(rule["resources"], rule["verbs"]) for rule in others] == [(["selfsubjectaccessreviews"], ["create"])]
    assert "may act as any" in ran.err


def test_flags_narrow_it_and_accounts_only_in_their_namespace() -> None:
    ran = manifest("--groups=dev,ops", "--users=alice", "--users=system:serviceaccount:ci:bot")
    documents = read(ran)
    assert whom(documents) == {"users": ["alice"], "groups": ["dev", "ops", "system:authenticated"]}
    assert whom(documents, "Role") == {"serviceaccounts": ["bot"]}
    assert documents["RoleBinding"]["metadata"]["namespace"] == documents["Role"]["metadata"]["namespace"] == "ci"
    assert ran.err == ""
    for kind in ("Role", "ClusterRole"):
        binding = documents[f"{kind}Binding"]
        assert binding["roleRef"]["name"] == documents[kind]["metadata"]["name"]
        account = documents["ServiceAccount"]["metadata"]
        (subject,) = binding["subjects"]
        assert (subject["name"], subject["namespace"]) == (account["name"], account["namespace"])


def test_roles_narrow_it_where_they_name(tmp_path: Path) -> None:
    full = role(tmp_path, "full", groups="[dev]", users="[deployer]")
    shut = role(tmp_path, "shut", labels="{}", groups="['system:masters']", users="[root]")
    assert whom(read(manifest(full, shut))) == {"users": ["deployer"], "groups": ["dev", "system:authenticated"]}
    own = role(tmp_path, "own", groups="[ops]")
    ran = manifest(full, own)
    assert whom(read(ran)) == {
        "users": None,
        "serviceaccounts": None,
        "groups": ["dev", "ops", "system:authenticated"],
    }
    assert "own name" in ran.err
    by_trait = role(tmp_path, "by-trait", groups="['team-{{external.team}}']", users="[deployer]")
    ran = manifest(by_trait)
    assert whom(read(ran)) == {"users": ["deployer"], "groups": None}
    assert "template" in ran.err
    assert whom(read(manifest(by_trait, "--groups=team-a")))["groups"] == ["team-a", "system:authenticated"]


def test_the_pod_is_closed_off_and_the_token_only_named() -> None:
    documents = read(manifest("--labels=env=prod", "--token-secret=join-it"))
    pod = documents["Deployment"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"  # data_dir stays private
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    volumes = {one["name"]: one for one in pod["volumes"]}
    assert volumes["token"]["secret"]["secretName"] == "join-it"
    assert {one["name"] for one in container["volumeMounts"]} == set(volumes)
    assert "Secret" not in documents
    found = load_config(documents["ConfigMap"]["data"]["teleport.yaml"], "teleport.yaml").document
    assert found.kubernetes_service.kube_cluster_name == "prod: {x}"
    assert found.kubernetes_service.labels == {"env": "prod"}
    mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    assert found.teleport.data_dir.is_relative_to(mounts["state"])
    assert "/etc/teleport-token/token" in documents["ConfigMap"]["data"]["teleport.yaml"]
    assert container["command"][-1] == f"--config={mounts['config']}/teleport.yaml"


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--groups={{external.team}}", "one by one"),
        ("--users=*", "one by one"),
        ("--groups=a,,b", "one by one"),
        ("--name=Not_One", "--name is no name"),
        ("--token-secret=S3cret!", "--token-secret is no name"),
        ("--storage=much", "no size"),
        ("--image=a b", "no image"),
        ("--ca-pin=", "--ca-pin"),
        ('--labels=on=[2h:"date"]', "takes no commands"),
        ("--role-file=/nowhere", "/nowhere"),
    ],
)
def test_what_cannot_be_meant_is_refused(option: str, said: str) -> None:
    ran = manifest(option)
    assert ran.status != 0
    assert ran.out == ""
    assert said in ran.err
    assert "S3cret" not in ran.err


@pytest.mark.parametrize("which", ["present", "debian"])
def test_kubectl_knows_every_field(tmp_path: Path, which: str) -> None:
    """It drops those that its own types have not; `--local` asks no server."""
    found = debian_kubectl() if which == "debian" else Path(shutil.which("kubectl") or "missing")
    if isinstance(found, str) or not found.exists():
        pytest.skip(str(found) if isinstance(found, str) else "there is no kubectl in the PATH")
    ran = manifest("--users=system:serviceaccount:ci:bot,alice", "--groups=dev").ok()
    done = subprocess.run(
        [found, "label", "--local", "-f", "-", "seen=yes", "-o", "json"],
        input=ran.out,
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "KUBECONFIG": "/dev/null"},
    )
    assert done.returncode == 0, done.stderr
    read_back = {one["kind"]: one for one in _all_of(done.stdout)}
    for kind, document in read(ran).items():
        assert _holds(read_back[kind], document), kind


def _all_of(text: str) -> list[dict[str, Any]]:
    decoder = json.JSONDecoder()
    found: list[dict[str, Any]] = []
    text = text.strip()
    while text:
        one, end = decoder.raw_decode(text)
        found += one["items"] if one["kind"] == "List" else [one]
        text = text[end:].strip()
    return found


def _holds(whole: Any, part: Any) -> bool:
    if isinstance(part, dict):
        return all(key in whole and _holds(whole[key], value) for key, value in part.items())
    if isinstance(part, list):
        return len(whole) == len(part) and all(map(_holds, whole, part))
    return bool(whole == part)
