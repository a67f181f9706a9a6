"""Decisions about Kubernetes clusters as a table: who, to which cluster, as whom, and what comes of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from teleport.authz.decision import AccessDenial, ClusterDefaults, DenialCode, Policy
from teleport.authz.kube import (
    ActAs,
    KubeAccessPermit,
    KubeAccessRequest,
    evaluate_kube_access,
    is_open,
    usable_name,
)
from teleport.identity import UserIdentity
from teleport.resources.lock import Lock, LockSpec, LockTarget
from teleport.resources.metadata import Metadata
from teleport.resources.parse import parse_resources
from teleport.resources.role import Role

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
ROLES_TEXT = """
kind: role
version: v5
metadata: {name: dev}
spec: {allow: {kubernetes_labels: {env: dev}, kubernetes_groups: [developers, 'team:blue']}}
---
kind: role
version: v5
metadata: {name: prod}
spec: {allow: {kubernetes_labels: {env: prod}, kubernetes_groups: [system:masters]}}
---
kind: role
version: v5
metadata: {name: no-labels}
spec: {allow: {kubernetes_groups: [developers]}}
---
kind: role
version: v3
metadata: {name: old}
spec: {allow: {kubernetes_groups: [old-group]}}
---
kind: role
version: v5
metadata: {name: nothing}
spec: {allow: {kubernetes_labels: {'*': '*'}}}
---
kind: role
version: v5
metadata: {name: one-user}
spec: {allow: {kubernetes_labels: {'*': '*'}, kubernetes_users: [robot]}}
---
kind: role
version: v5
metadata: {name: two-users}
spec: {allow: {kubernetes_labels: {'*': '*'}, kubernetes_users: [robot, clerk], kubernetes_groups: [g]}}
---
kind: role
version: v5
metadata: {name: by-trait}
spec:
  allow:
    kubernetes_labels: {'*': '*'}
    kubernetes_users: ['{{external.k8s}}']
    kubernetes_groups: ['{{internal.kubernetes_groups}}', 'team-{{external.team}}']
---
kind: role
version: v5
metadata: {name: no-masters}
spec: {deny: {kubernetes_groups: ['system:masters']}}
---
kind: role
version: v5
metadata: {name: no-groups}
spec: {deny: {kubernetes_groups: ['*']}}
---
kind: role
version: v5
metadata: {name: no-robot}
spec: {deny: {kubernetes_users: [robot]}}
---
kind: role
version: v5
metadata: {name: no-alice}
spec: {deny: {kubernetes_users: [alice]}}
---
kind: role
version: v5
metadata: {name: no-users}
spec: {deny: {kubernetes_users: ['*']}}
---
kind: role
version: v5
metadata: {name: no-prod}
spec: {deny: {kubernetes_labels: {env: prod}}}
---
kind: role
version: v5
metadata: {name: elsewhere-no-prod}
spec: {deny: {namespaces: [other], kubernetes_labels: {env: prod}, kubernetes_groups: ['*']}}
---
kind: role
version: v5
metadata: {name: other-namespace}
spec: {allow: {namespaces: [other], kubernetes_labels: {'*': '*'}, kubernetes_groups: [g]}}
---
kind: role
version: v5
metadata: {name: mfa}
spec:
  options: {require_session_mfa: yes}
  allow: {kubernetes_labels: {'*': '*'}, kubernetes_groups: [g]}
---
kind: role
version: v5
metadata: {name: pinned}
spec:
  options: {pin_source_ip: yes}
  allow: {kubernetes_labels: {'*': '*'}, kubernetes_groups: [g]}
---
kind: role
version: v5
metadata: {name: strict}
spec:
  options: {lock: strict}
  allow: {kubernetes_labels: {'*': '*'}, kubernetes_groups: [g]}
"""
ROLES: Mapping[str, Role] = {
    role.name: role for role in parse_resources(ROLES_TEXT, "roles.yaml") if isinstance(role, Role)
}
ALICE = UserIdentity(
    name="alice",
    cluster="example.com",
    roles=("dev",),
    logins=(),
    expires=NOW + timedelta(hours=1),
    serial="17",
)


def decide(*roles: str, env: str = "dev", policy: Policy | None = None, **more: Any) -> KubeAccessPermit | AccessDenial:
    identity = more.pop("identity", ALICE)
    fields = {"cluster": "example.com", "now": NOW, "kube_cluster": "one", "client_address": "192.0.2.7", **more}
    request = KubeAccessRequest(identity=replace(identity, roles=roles), labels={"env": env}, **fields)
    return evaluate_kube_access(request, policy or Policy(roles=ROLES))


def lock(**target: str) -> Lock:
    return Lock(metadata=Metadata(name="a"), spec=LockSpec(target=LockTarget(**target)))


@pytest.mark.parametrize(
    ("roles", "env", "user", "groups"),
    [
        pytest.param(["dev"], "dev", "alice", ["developers", "team:blue"], id="groups alone: the own name"),
        pytest.param(["dev", "prod"], "prod", "alice", ["system:masters"], id="only of the roles that let in here"),
        pytest.param(["old"], "dev", "alice", ["old-group"], id="v3 without labels reaches every cluster"),
        pytest.param(["one-user"], "dev", "robot", [], id="one user"),
        pytest.param(["one-user", "dev"], "dev", "robot", ["developers", "team:blue"], id="union"),
        pytest.param(["prod", "dev", "no-masters"], "dev", "alice", ["developers", "team:blue"], id="denied elsewhere"),
        pytest.param(["two-users", "no-robot"], "dev", "clerk", ["g"], id="one is left"),
        pytest.param(
            ["prod", "elsewhere-no-prod"], "prod", "alice", ["system:masters"], id="deny of another namespace"
        ),
        pytest.param(["one-user", "no-groups"], "dev", "robot", [], id="a user without groups"),
        pytest.param(["dev", "missing"], "dev", "alice", ["developers", "team:blue"], id="a role that is gone"),
    ],
)
def test_who_the_cluster_is_told(roles: list[str], env: str, user: str, groups: list[str]) -> None:
    """Users and groups are those of the roles that let in, less what is denied; everybody is authenticated."""
    permit = decide(*roles, env=env)
    assert isinstance(permit, KubeAccessPermit), permit
    assert (permit.kube_user, permit.kube_groups) == (user, (*groups, "system:authenticated"))
    assert permit.ends == ALICE.expires


@pytest.mark.parametrize(
    ("roles", "env", "code"),
    [
        pytest.param([], "dev", DenialCode.NOT_GRANTED, id="no role"),
        pytest.param(["missing"], "dev", DenialCode.NOT_GRANTED, id="a role that is gone"),
        pytest.param(["dev"], "prod", DenialCode.NOT_GRANTED, id="other labels"),
        pytest.param(["no-labels"], "dev", DenialCode.NOT_GRANTED, id="v5 without labels reaches none"),
        pytest.param(["nothing"], "dev", DenialCode.NOT_GRANTED, id="neither user nor group"),
        pytest.param(["prod", "no-prod"], "prod", DenialCode.DENIED_BY_ROLE, id="denied labels"),
        pytest.param(["prod", "no-masters"], "prod", DenialCode.NOT_GRANTED, id="the only group is denied"),
        pytest.param(["dev", "no-groups"], "dev", DenialCode.NOT_GRANTED, id="every group is denied"),
        pytest.param(["one-user", "dev", "no-robot"], "dev", DenialCode.NOT_GRANTED, id="never the own name instead"),
        pytest.param(["dev", "no-alice"], "dev", DenialCode.NOT_GRANTED, id="the own name is denied"),
        pytest.param(["one-user", "no-users"], "dev", DenialCode.NOT_GRANTED, id="every user is denied"),
        pytest.param(["other-namespace"], "dev", DenialCode.NOT_GRANTED, id="another namespace"),
        pytest.param(["two-users"], "dev", DenialCode.BAD_REQUEST, id="several users and no choice"),
        pytest.param(["mfa"], "dev", DenialCode.MFA_REQUIRED, id="a second factor for each session"),
        pytest.param(["mfa", "dev"], "dev", DenialCode.MFA_REQUIRED, id="also where another role lets in"),
        pytest.param(["pinned"], "dev", DenialCode.WRONG_ADDRESS, id="a certificate without its pin"),
    ],
)
def test_refusals(roles: list[str], env: str, code: DenialCode) -> None:
    """What is not granted is denied, and deny beats allow."""
    denial = decide(*roles, env=env)
    assert isinstance(denial, AccessDenial), denial
    assert denial.code is code
    assert denial.reasons
    assert denial.hint


@pytest.mark.parametrize(
    ("roles", "env", "shown"),
    [
        (["dev"], "dev", True),
        (["two-users"], "dev", True),
        (["mfa"], "dev", True),
        (["dev"], "prod", False),
        (["prod", "no-prod"], "prod", False),
        (["nothing"], "dev", False),
        (["pinned"], "dev", False),
    ],
)
def test_what_lists_show(roles: list[str], env: str, shown: bool) -> None:
    """A cluster is shown to whoever lacks nothing but a choice or a second factor."""
    assert is_open(decide(*roles, env=env)) is shown


def test_labels_and_a_name_that_is_not_there_read_the_same() -> None:
    """Nobody learns from a refusal which clusters there are."""
    hidden, unknown = decide("dev", env="prod"), decide("dev", exists=False)
    assert isinstance(hidden, AccessDenial)
    assert isinstance(unknown, AccessDenial)
    assert hidden.public == unknown.public


@pytest.mark.parametrize(
    ("change", "code"),
    [
        pytest.param({"expires": NOW}, DenialCode.EXPIRED, id="expired"),
        pytest.param({"cluster": "elsewhere"}, DenialCode.WRONG_CLUSTER, id="another cluster"),
        pytest.param({"route_to_cluster": "leaf.example.com"}, DenialCode.WRONG_CLUSTER, id="led to another cluster"),
        pytest.param({"source_ip": "192.0.2.8"}, DenialCode.WRONG_ADDRESS, id="pinned to another address"),
        pytest.param(
            {"mfa_device": "d", "mfa_target": "a-host"}, DenialCode.NOT_GRANTED, id="for one session elsewhere"
        ),
        pytest.param({"mfa_device": "d", "mfa_target": "api"}, DenialCode.NOT_GRANTED, id="for one call"),
    ],
)
def test_what_the_certificate_says(change: dict[str, Any], code: DenialCode) -> None:
    """The certificate's own limits hold here as everywhere."""
    denial = decide("dev", identity=replace(ALICE, **change))
    assert isinstance(denial, AccessDenial)
    assert denial.code is code


def test_a_pinned_certificate_is_let_in_from_its_address() -> None:
    """The pin of the login's address is met."""
    permit = decide("pinned", identity=replace(ALICE, source_ip="192.0.2.7"))
    assert isinstance(permit, KubeAccessPermit)


@pytest.mark.parametrize(
    "target",
    [{"user": "alice"}, {"role": "dev"}, {"role": "since"}, {"serial": "17"}, {"mfa_device": "d"}],
    ids=lambda target: str(target),
)
def test_locks(target: dict[str, str]) -> None:
    """A lock on the user, a role, one that denies since, the certificate or the second factor stops every call."""
    denial = decide("dev", identity=replace(ALICE, denying=("since",), mfa_device="d"), locks=[lock(**target)])
    assert isinstance(denial, AccessDenial)
    assert denial.code is DenialCode.LOCKED


def test_strict_roles_refuse_while_locks_are_unknown() -> None:
    """Who is strict about locks lets nobody in on old news."""
    old = Policy(roles=ROLES, age=math.inf)
    strict = decide("strict", policy=old)
    assert isinstance(strict, AccessDenial)
    assert strict.code is DenialCode.LOCKS_UNKNOWN
    assert isinstance(decide("dev", policy=old), KubeAccessPermit)


def test_the_cluster_may_ask_for_a_second_factor() -> None:
    """The setting of the whole cluster counts as a role's."""
    denial = decide("dev", policy=Policy(roles=ROLES, cluster=ClusterDefaults(require_session_mfa=True)))
    assert isinstance(denial, AccessDenial)
    assert denial.code is DenialCode.MFA_REQUIRED


def test_roles_given_since_only_deny() -> None:
    """A role that the user got after the certificate takes away, and gives nothing."""
    assert isinstance(decide("prod", env="prod", identity=replace(ALICE, denying=("no-prod",))), AccessDenial)
    assert isinstance(decide(identity=replace(ALICE, denying=("dev",))), AccessDenial)


@pytest.mark.parametrize(
    ("roles", "act_as", "named"),
    [
        (["two-users"], ActAs("clerk"), ("clerk", ("g",))),
        (["dev"], ActAs("alice"), ("alice", ("developers", "team:blue"))),
        (["dev"], ActAs(groups=("team:blue",)), ("alice", ("team:blue",))),
        (["dev"], ActAs("alice", ("team:blue", "team:blue", "system:authenticated")), ("alice", ("team:blue",))),
        (["dev"], ActAs("admin"), None),
        (["one-user"], ActAs("alice"), None),
        (["dev"], ActAs(groups=("system:masters",)), None),
        (["dev"], ActAs(groups=("team:blue", "system:masters")), None),
        (["two-users", "no-robot"], ActAs("robot"), None),
        (["dev", "no-masters"], ActAs(groups=("system:masters",)), None),
        (["dev"], ActAs("*"), None),
        (["dev"], ActAs(groups=("Developers",)), None),
    ],
    ids=str,
)
def test_acting_as_somebody(roles: list[str], act_as: ActAs, named: tuple[str, tuple[str, ...]] | None) -> None:
    """Whoever asks to act as somebody gets what the roles give, compared exactly, or nothing."""
    found = decide(*roles, act_as=act_as)
    if named is None:
        assert isinstance(found, AccessDenial)
        return
    assert isinstance(found, KubeAccessPermit)
    assert (found.kube_user, found.kube_groups) == (named[0], (*named[1], "system:authenticated"))


def test_templates() -> None:
    """Traits fill in users and groups; a trait that is missing gives nothing, and one that is no name neither."""
    traits = {"kubernetes_groups": ("one", "two"), "team": ("blue", "evil\r\nImpersonate-Group: system:masters")}
    permit = decide("by-trait", identity=replace(ALICE, traits=traits))
    assert isinstance(permit, KubeAccessPermit)
    assert permit.kube_user == "alice"
    assert permit.kube_groups == ("one", "two", "team-blue", "system:authenticated")
    assert isinstance(decide("by-trait"), AccessDenial)


@pytest.mark.parametrize("name", ["", "*", " a", "a ", "a\nb", "a\x00", "\u202eb", "x" * 1025])
def test_names_that_no_header_carries(name: str) -> None:
    """A name that would be read as another one, or as two headers, is nobody's."""
    assert not usable_name(name)


@pytest.mark.parametrize("name", ["system:kube-scheduler", "system:serviceaccount:kube-system:default", "system:"])
def test_a_name_of_kubernetes_own_is_given_by_roles_alone(name: str) -> None:
    """Who happens to be called as one of its components does not become it; a role may say so."""
    identity = replace(ALICE, name=name)
    denial = decide("dev", identity=identity)
    assert isinstance(denial, AccessDenial)
    assert denial.code is DenialCode.NOT_GRANTED
    permit = decide("one-user", identity=identity)
    assert isinstance(permit, KubeAccessPermit)
    assert permit.kube_user == "robot"


def test_what_has_to_be_recorded_is_in_the_permit() -> None:
    """Whether the cluster records sessions is part of the permit, for streams into pods."""
    off = decide("dev", policy=Policy(roles=ROLES, cluster=ClusterDefaults(record_sessions=False)))
    on = decide("dev")
    assert isinstance(off, KubeAccessPermit)
    assert isinstance(on, KubeAccessPermit)
    assert (off.record, on.record) == (False, True)
