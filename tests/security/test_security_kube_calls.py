"""Every kind of call to a Kubernetes cluster, in every state of whoever makes it (threat T25): the one decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from teleport.authz.decision import AccessDenial, ClusterDefaults, DenialCode, Policy
from teleport.authz.kube import KubeAccessPermit, KubeAccessRequest, evaluate_kube_access
from teleport.authz.kube_resources import verb_and_subresource
from teleport.identity import RemoteOrigin, UserIdentity
from teleport.kube.calls import classify
from teleport.resources.kube_rules import VERBS
from teleport.resources.lock import Lock, LockSpec, LockTarget
from teleport.resources.metadata import Metadata
from teleport.resources.parse import parse_resources
from teleport.resources.role import Role

NOW: Final = datetime(2030, 1, 1, tzinfo=UTC)
POD: Final = "/api/v1/namespaces/dev/pods/web"
PODS: Final = "/api/v1/namespaces/dev/pods"
CALLS: Final = {  # a new verb of rules has to get a row
    "get": f"GET {POD}",
    "list": f"GET {PODS}",
    "watch": f"GET {PODS}?watch=true",
    "create": f"POST {PODS}",
    "update": f"PUT {POD}",
    "patch": f"PATCH {POD}",
    "delete": f"DELETE {POD}",
    "deletecollection": f"DELETE {PODS}",
    "exec": f"POST {POD}/exec?command=id",
    "attach": f"POST {POD}/attach",
    "portforward": f"POST {POD}/portforward",
    "log": f"GET {POD}/log",
    "proxy": f"GET {POD}/proxy/",
}
DEVICE_LOCKED: Final = Lock(metadata=Metadata(name="m"), spec=LockSpec(target=LockTarget(mfa_device="d")))
LOCKED: Final = Lock(metadata=Metadata(name="l"), spec=LockSpec(target=LockTarget(user="alice")))
STATES: Final[Mapping[str, tuple[dict[str, Any], dict[str, Any], DenialCode]]] = {
    # what is different about the identity, about the request, and what comes of it
    "no role": ({"roles": ()}, {}, DenialCode.NOT_GRANTED),
    "no rule": ({"roles": ("other",)}, {}, DenialCode.NOT_GRANTED),
    "denied": ({"roles": ("it", "denies")}, {}, DenialCode.DENIED_BY_ROLE),
    "denied since": ({"denying": ("denies",)}, {}, DenialCode.DENIED_BY_ROLE),
    "wrong label": ({}, {"labels": {"env": "prod"}}, DenialCode.NOT_GRANTED),
    "no such cluster": ({}, {"exists": False}, DenialCode.NOT_GRANTED),
    "expired": ({"expires": NOW}, {}, DenialCode.EXPIRED),
    "locked": ({}, {"locks": (LOCKED,)}, DenialCode.LOCKED),
    "another cluster's": ({"cluster": "elsewhere"}, {}, DenialCode.WRONG_CLUSTER),
    "led elsewhere": ({"route_to_cluster": "leaf"}, {}, DenialCode.WRONG_CLUSTER),
    "from another address": ({"source_ip": "192.0.2.8"}, {}, DenialCode.WRONG_ADDRESS),
    "for one session elsewhere": ({"mfa_device": "d", "mfa_target": "host"}, {}, DenialCode.NOT_GRANTED),
    "for calls to another cluster": ({"mfa_device": "d", "mfa_target": "kube:two"}, {}, DenialCode.NOT_GRANTED),
    "for calls without a device": ({"mfa_target": "kube:one"}, {"mfa": True}, DenialCode.MFA_REQUIRED),
    "a device for nothing": ({"mfa_device": "d"}, {"mfa": True}, DenialCode.MFA_REQUIRED),
    "marked, and no cluster named": (
        {"mfa_device": "d", "mfa_target": "kube:"},
        {"mfa": True, "kube_cluster": ""},
        DenialCode.NOT_GRANTED,
    ),
    "of another cluster of ours": (
        {"mfa_device": "d", "mfa_target": "kube:one", "origin": RemoteOrigin("root", "alice", ("it",))},
        {"mfa": True, "kube_cluster": "two"},
        DenialCode.NOT_GRANTED,
    ),
    "second factor due to who can give none": (
        {"origin": RemoteOrigin("root", "alice", ("it",))},
        {"mfa": True},
        DenialCode.MFA_REQUIRED,
    ),
    "its device locked": (
        {"mfa_device": "d", "mfa_target": "kube:one"},
        {"mfa": True, "locks": (DEVICE_LOCKED,)},
        DenialCode.LOCKED,
    ),
    "second factor due": ({}, {"mfa": True}, DenialCode.MFA_REQUIRED),
}


def roles(verb: str) -> dict[str, Role]:
    """One role that allows the verb, one that denies it, and one that allows every other one."""
    others = ", ".join(one for one in VERBS if one != verb)
    let_in = "kubernetes_labels: {env: dev}, kubernetes_groups: [g]"
    rule = "kubernetes_resources: [{kind: pods, namespace: dev, verbs: [%s]}]"
    specs = {
        "it": "allow: {" + let_in + ", " + rule.replace("%s", verb) + "}",
        "other": "allow: {" + let_in + ", " + rule.replace("%s", others) + "}",
        "denies": "deny: {" + rule.replace("%s", verb) + "}",
    }
    return {
        role.name: role
        for name, spec in specs.items()
        for role in parse_resources(f"kind: role\nversion: v5\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n", "r")
        if isinstance(role, Role)
    }


def decide(verb: str, identity: dict[str, Any], request: dict[str, Any]) -> KubeAccessPermit | AccessDenial:
    alice = UserIdentity(
        name="alice", cluster="example.com", roles=("it",), logins=(), expires=NOW + timedelta(hours=1), serial="17"
    )
    usual = {"labels": {"env": "dev"}, "kube_cluster": "one"}
    asked = KubeAccessRequest(
        identity=replace(alice, **identity),
        cluster="example.com",
        now=NOW,
        client_address="192.0.2.7",
        call=classify(*CALLS[verb].split(" ", 1)).decided,
        **{**usual, **{name: value for name, value in request.items() if name != "mfa"}},
    )
    defaults = ClusterDefaults(require_session_mfa=bool(request.get("mfa")))
    return evaluate_kube_access(asked, Policy(roles=roles(verb), cluster=defaults))


def test_no_verb_is_missing() -> None:
    """Each verb of rules has a call, which is one of that verb."""
    assert CALLS.keys() == set(VERBS)
    for verb, call in CALLS.items():
        assert verb_and_subresource(classify(*call.split(" ", 1)).decided) == (verb, "")


@pytest.mark.parametrize("verb", CALLS)
def test_the_role_that_names_the_verb_allows_it(verb: str) -> None:
    """Whole, and with its own groups."""
    permit = decide(verb, {}, {})
    assert isinstance(permit, KubeAccessPermit)
    assert (permit.shown, permit.roles) == (None, ("it",))


@pytest.mark.parametrize("verb", CALLS)
def test_a_factor_for_this_cluster_opens_it_until_the_login_ends(verb: str) -> None:
    """The permit says which device, and whether or not one was due."""
    marked = {"mfa_device": "d", "mfa_target": "kube:one", "login_expires": NOW + timedelta(hours=9)}
    for mfa in (True, False):
        permit = decide(verb, marked, {"mfa": mfa})
        assert isinstance(permit, KubeAccessPermit)
        assert (permit.mfa_device, permit.ends) == ("d", NOW + timedelta(hours=9))
    unmarked = decide(verb, {"login_expires": NOW + timedelta(hours=9)}, {})
    assert isinstance(unmarked, KubeAccessPermit)
    assert (unmarked.mfa_device, unmarked.ends) == ("", NOW + timedelta(hours=1))


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("verb", CALLS)
def test_every_call_is_refused_in_every_state(verb: str, state: str) -> None:
    """With the reason for the record, and a hint."""
    identity, request, code = STATES[state]
    denial = decide(verb, identity, request)
    assert isinstance(denial, AccessDenial)
    assert denial.code is code
    assert denial.reasons
    assert denial.hint
