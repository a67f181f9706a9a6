"""What a Kubernetes service needs in the cluster that it runs in, as documents for `kubectl apply`. Pure.

Its account may act as others and do nothing else; as whom is named where it can be. No secret is in the documents: the
join token is in a Secret that is only named. The host's identity is kept on a volume, so that the token is used once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from teleport.authz.kube import AUTHENTICATED
from teleport.resources.role import Role
from teleport.resources.template import is_template

ACCOUNT: Final = "system:serviceaccount:"  # begins the users that are accounts: ...NAMESPACE:NAME
_CONFIG, _TOKEN, _STATE = "/etc/teleport", "/etc/teleport-token", "/var/lib/teleport"
_TMP: Final = "/tmp"  # noqa: S108 - in the pod, where it is nobody else's
_DIAG: Final = "127.0.0.1:3000"
_UID: Final = 65532
_RBAC: Final = "rbac.authorization.k8s.io"


@dataclass(frozen=True, slots=True)
class Impersonated:
    """As whom the service may act. None: as anybody of that sort."""

    users: tuple[str, ...] | None = None
    groups: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is asked for; names are those of Kubernetes, checked by who makes it."""

    name: str
    namespace: str
    image: str
    token_secret: str
    storage: str
    configuration: str
    whom: Impersonated


def configuration(
    servers: Sequence[str], pins: Sequence[str], kube_cluster: str, name: str, labels: Mapping[str, str]
) -> str:
    """The service's file. What is text in it is quoted as JSON, which YAML reads as the same text."""
    return (
        f"teleport:\n  nodename: {json.dumps(name)}\n  data_dir: {_STATE}/data\n"
        f"  auth_servers: {json.dumps(list(servers))}\n  auth_token: {_TOKEN}/token\n"
        f"  ca_pin: {json.dumps(list(pins))}\n  diag_addr: {_DIAG}\n"
        f"kubernetes_service:\n  enabled: yes\n  kube_cluster_name: {json.dumps(kube_cluster)}\n"
        f"  labels: {json.dumps(dict(labels))}\n"
        "auth_service: {enabled: no}\nproxy_service: {enabled: no}\nssh_service: {enabled: no}\n"
    )


def granted(roles: Sequence[Role], users: Sequence[str], groups: Sequence[str]) -> tuple[Impersonated, list[str]]:
    """As whom `roles` let people act, and whom is named besides; with what could not be named, as sentences."""
    notes: list[str] = []
    letting_in = [role for role in roles if role.allowed_kubernetes_labels]
    all_users = [*users, *(user for role in letting_in for user in role.allow.kubernetes_users)]
    all_groups = [*groups, *(group for role in letting_in for group in role.allow.kubernetes_groups)]
    named_users: tuple[str, ...] | None = tuple(dict.fromkeys(one for one in all_users if not is_template(one)))
    named_groups: tuple[str, ...] | None = tuple(dict.fromkeys(one for one in all_groups if not is_template(one)))
    if not users:
        if not named_users or any(not role.allow.kubernetes_users for role in letting_in):
            notes.append("somebody to whom no role gives a Kubernetes user goes by the own name")
            named_users = None
        elif len(set(all_users)) > len(named_users):
            notes.append("a role gives users by a template")
            named_users = None
    if not groups:
        if len(set(all_groups)) > len(named_groups or ()):
            notes.append("a role gives groups by a template")
            named_groups = None
        elif not roles and not users:
            notes.append("no group is named")
            named_groups = None
    if named_groups is not None:
        named_groups = tuple(dict.fromkeys((*named_groups, AUTHENTICATED)))
    return Impersonated(named_users, named_groups), notes


def documents(asked: Manifest) -> list[dict[str, Any]]:
    """All of them, in the order in which they can be created."""
    meta = {"name": asked.name, "namespace": asked.namespace, "labels": _labels(asked)}
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta, "automountServiceAccountToken": False}
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": meta,
        "data": {"teleport.yaml": asked.configuration},
    }
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": meta,
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": asked.storage}}},
    }
    return [account, *_rights(asked), config, volume, _deployment(asked, meta)]


def _labels(asked: Manifest) -> dict[str, str]:
    return {"app.kubernetes.io/name": "teleport", "app.kubernetes.io/instance": asked.name}


def _rights(asked: Manifest) -> list[dict[str, Any]]:
    name = f"{asked.namespace}-{asked.name}"  # of the whole cluster: two namespaces may have one of the same name
    rules: list[dict[str, Any]] = []
    accounts: dict[str, list[str]] = {}
    if asked.whom.users is None:
        rules.append(_impersonate("users"))
        rules.append(_impersonate("serviceaccounts"))
    else:
        people = []
        for user in asked.whom.users:
            namespace, colon, account = user.removeprefix(ACCOUNT).partition(":")
            if user.startswith(ACCOUNT) and colon and namespace and account:
                accounts.setdefault(namespace, []).append(account)
            else:
                people.append(user)
        if people:
            rules.append(_impersonate("users", people))
    rules.append(_impersonate("groups", asked.whom.groups))
    rules.append(
        {"apiGroups": ["authorization.k8s.io"], "resources": ["selfsubjectaccessreviews"], "verbs": ["create"]}
    )
    found = _bound(asked, "ClusterRole", {"name": name, "labels": _labels(asked)}, rules)
    for namespace, names in accounts.items():
        meta = {"name": name, "namespace": namespace, "labels": _labels(asked)}
        found += _bound(asked, "Role", meta, [_impersonate("serviceaccounts", names)])
    return found


def _impersonate(what: str, names: Sequence[str] | None = None) -> dict[str, Any]:
    rule: dict[str, Any] = {"apiGroups": [""], "resources": [what], "verbs": ["impersonate"]}
    return rule if names is None else {**rule, "resourceNames": list(names)}


def _bound(asked: Manifest, kind: str, meta: dict[str, Any], rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A role of Kubernetes and what gives it to the account."""
    subject = {"kind": "ServiceAccount", "name": asked.name, "namespace": asked.namespace}
    return [
        {"apiVersion": f"{_RBAC}/v1", "kind": kind, "metadata": meta, "rules": rules},
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": f"{kind}Binding",
            "metadata": meta,
            "roleRef": {"apiGroup": _RBAC, "kind": kind, "name": meta["name"]},
            "subjects": [subject],
        },
    ]


def _deployment(asked: Manifest, meta: dict[str, Any]) -> dict[str, Any]:
    probe = {"command": ["teleport", "healthcheck", f"--diag-addr={_DIAG}"]}
    live = {"command": [*probe["command"], "--live"]}
    container = {
        "name": "teleport",
        "image": asked.image,
        "command": ["teleport", "start", f"--config={_CONFIG}/teleport.yaml"],
        "env": [{"name": "HOME", "value": _TMP}],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "readinessProbe": {"exec": probe, "periodSeconds": 15, "timeoutSeconds": 10},
        "livenessProbe": {
            "exec": live,
            "initialDelaySeconds": 60,
            "periodSeconds": 30,
            "timeoutSeconds": 10,
            "failureThreshold": 6,
        },
        "volumeMounts": [
            {"name": "config", "mountPath": _CONFIG, "readOnly": True},
            {"name": "token", "mountPath": _TOKEN, "readOnly": True},
            {"name": "state", "mountPath": _STATE},
            {"name": "tmp", "mountPath": _TMP},
        ],
    }
    pod = {
        "serviceAccountName": asked.name,
        "automountServiceAccountToken": True,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _UID,
            "runAsGroup": _UID,
            "fsGroup": _UID,
            "fsGroupChangePolicy": "OnRootMismatch",  # else the next start opens what is private to the group
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [
            {"name": "config", "configMap": {"name": asked.name}},
            {"name": "token", "secret": {"secretName": asked.token_secret, "defaultMode": 0o440}},
            {"name": "state", "persistentVolumeClaim": {"claimName": asked.name}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": meta,
        "spec": {
            "replicas": 1,  # one volume, one host: Recreate, so that two never use it
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": _labels(asked)},
            "template": {"metadata": {"labels": _labels(asked)}, "spec": pod},
        },
    }
