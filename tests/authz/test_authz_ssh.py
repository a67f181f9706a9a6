"""Decisions about SSH sessions as a table: who, where, as whom, and what comes of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from teleport.authz.channels import ChannelTerms, RoleGrant
from teleport.authz.decision import AccessDenial, ClusterDefaults, DenialCode, Policy
from teleport.authz.ssh import SSHAccessPermit, SSHAccessRequest, evaluate_ssh_access, why_no_session
from teleport.identity import UserIdentity
from teleport.resources.lock import Lock, LockSpec, LockTarget
from teleport.resources.metadata import Metadata
from teleport.resources.parse import parse_resources
from teleport.resources.role import Role

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
ROLES_TEXT = """
kind: role
version: v4
metadata: {name: prod-root}
spec: {allow: {logins: [root], node_labels: {env: prod}}}
---
kind: role
version: v4
metadata: {name: dev-alice}
spec: {allow: {logins: [alice], node_labels: {env: dev}}, options: {forward_agent: yes, max_sessions: 4}}
---
kind: role
version: v4
metadata: {name: no-prod}
spec: {deny: {node_labels: {env: prod}}}
---
kind: role
version: v4
metadata: {name: no-root}
spec: {deny: {logins: [root]}}
---
kind: role
version: v4
metadata: {name: elsewhere-no-root}
spec: {deny: {namespaces: [other], logins: [root]}}
---
kind: role
version: v4
metadata: {name: by-trait}
spec: {allow: {logins: ['{{internal.logins}}'], node_labels: {team: '{{external.team}}'}}}
---
kind: role
version: v4
metadata: {name: no-team}
spec: {deny: {node_labels: {team: '{{external.team}}'}}}
---
kind: role
version: v4
metadata: {name: mfa}
spec: {options: {require_session_mfa: yes}, allow: {logins: [root], node_labels: {env: prod}}}
---
kind: role
version: v3
metadata: {name: old}
spec: {allow: {logins: [root]}}
---
kind: role
version: v4
metadata: {name: no-labels}
spec: {allow: {logins: [root]}}
---
kind: role
version: v4
metadata: {name: other-namespace}
spec: {allow: {namespaces: [other], logins: [root], node_labels: {'*': '*'}}}
"""
ROLES: Mapping[str, Role] = {
    role.name: role for role in parse_resources(ROLES_TEXT, "roles.yaml") if isinstance(role, Role)
}
PROD = {"env": "prod", "team": "core"}
ALICE = UserIdentity(
    name="alice",
    cluster="example.com",
    roles=("prod-root",),
    logins=("root", "alice"),
    expires=NOW + timedelta(hours=1),
    traits={"logins": ("root",), "team": ("core",)},
)


def ask(identity: UserIdentity = ALICE, policy: Policy | None = None, **changes: Any) -> SSHAccessPermit | AccessDenial:
    base: dict[str, Any] = {
        "identity": identity,
        "login": "root",
        "cluster": "example.com",
        "now": NOW,
        "node_id": "11111111-2222-3333-4444-555555555555",
        "node_hostname": "web-1",
        "node_labels": PROD,
    }
    return evaluate_ssh_access(SSHAccessRequest(**{**base, **changes}), policy or Policy(roles=ROLES))


def holding(*roles: str, **changes: Any) -> UserIdentity:
    return dataclasses.replace(ALICE, roles=roles, **changes)


BY_ROLE: dict[str, tuple[tuple[str, ...], str, Mapping[str, str], DenialCode | None]] = {
    "label and login in one role": (("prod-root",), "root", PROD, None),
    "wrong label": (("prod-root",), "root", {"env": "dev"}, DenialCode.NOT_GRANTED),
    "label missing": (("prod-root",), "root", {}, DenialCode.NOT_GRANTED),
    "wrong login": (("prod-root",), "alice", PROD, DenialCode.NOT_GRANTED),
    "login of one role, label of another": (("prod-root", "dev-alice"), "root", {"env": "dev"}, DenialCode.NOT_GRANTED),
    "second role grants": (("dev-alice", "prod-root"), "root", PROD, None),
    "deny by label wins": (("prod-root", "no-prod"), "root", PROD, DenialCode.DENIED_BY_ROLE),
    "deny by label elsewhere": (("old", "no-prod"), "root", {"env": "dev"}, None),
    "deny by login wins": (("prod-root", "no-root"), "root", PROD, DenialCode.DENIED_BY_ROLE),
    "deny before allow in any order": (("no-root", "prod-root"), "root", PROD, DenialCode.DENIED_BY_ROLE),
    "deny in another namespace": (("prod-root", "elsewhere-no-root"), "root", PROD, None),
    "allow in another namespace": (("other-namespace",), "root", PROD, DenialCode.NOT_GRANTED),
    "no role": ((), "root", PROD, DenialCode.NOT_GRANTED),
    "unknown role": (("gone",), "root", PROD, DenialCode.NOT_GRANTED),
    "unknown role beside a known one": (("gone", "prod-root"), "root", PROD, None),
    "role name in another case": (("Prod-Root",), "root", PROD, DenialCode.NOT_GRANTED),
    "trait fills label and login": (("by-trait",), "root", PROD, None),
    "trait does not match": (("by-trait",), "root", {"team": "web"}, DenialCode.NOT_GRANTED),
    "trait denies": (("prod-root", "no-team"), "root", PROD, DenialCode.DENIED_BY_ROLE),
    "old role without labels": (("old",), "root", {}, None),
    "new role without labels": (("no-labels",), "root", PROD, DenialCode.NOT_GRANTED),
    "MFA due": (("mfa",), "root", PROD, DenialCode.MFA_REQUIRED),
    "MFA due by one of two": (("prod-root", "mfa"), "root", PROD, DenialCode.MFA_REQUIRED),
    "MFA role that does not match": (("mfa",), "root", {"env": "dev"}, DenialCode.NOT_GRANTED),
    "implicit role named": (("default-implicit-role",), "root", PROD, DenialCode.NOT_GRANTED),
}


@pytest.mark.parametrize(("roles", "login", "labels", "code"), BY_ROLE.values(), ids=BY_ROLE)
def test_roles_decide(roles: tuple[str, ...], login: str, labels: Mapping[str, str], code: DenialCode | None) -> None:
    outcome = ask(holding(*roles), login=login, node_labels=labels)
    if code is None:
        assert isinstance(outcome, SSHAccessPermit)
        assert outcome.login == login
        assert set(outcome.roles) <= set(roles)
    else:
        assert isinstance(outcome, AccessDenial)
        assert outcome.code is code
        assert outcome.reasons


def lock(**target: str) -> Lock:
    return Lock(metadata=Metadata(name="l"), spec=LockSpec(target=LockTarget(**target), message="secret affair"))


BY_CERTIFICATE: dict[str, tuple[dict[str, Any], dict[str, Any], DenialCode]] = {
    "expired": ({"expires": NOW - timedelta(seconds=1)}, {}, DenialCode.EXPIRED),
    "expires now": ({"expires": NOW}, {}, DenialCode.EXPIRED),
    "other cluster": ({"cluster": "leaf.example.com"}, {}, DenialCode.WRONG_CLUSTER),
    "no cluster": ({"cluster": ""}, {"cluster": ""}, DenialCode.WRONG_CLUSTER),
    "login not in certificate": ({"logins": ("alice",)}, {}, DenialCode.LOGIN_NOT_IN_CERTIFICATE),
    "no logins at all": ({"logins": ()}, {}, DenialCode.LOGIN_NOT_IN_CERTIFICATE),
    "login in another case": ({"logins": ("Root",)}, {}, DenialCode.LOGIN_NOT_IN_CERTIFICATE),
    "wildcard in certificate": ({"logins": ("*",)}, {}, DenialCode.LOGIN_NOT_IN_CERTIFICATE),
    "login that is no account": ({"logins": ("-x",)}, {"login": "-x"}, DenialCode.LOGIN_NOT_IN_CERTIFICATE),
    "pinned elsewhere": ({"source_ip": "10.0.0.1"}, {"client_address": "10.0.0.2"}, DenialCode.WRONG_ADDRESS),
    "pinned, address unknown": ({"source_ip": "10.0.0.1"}, {}, DenialCode.WRONG_ADDRESS),
    "pinned to nonsense": ({"source_ip": "x"}, {"client_address": "x"}, DenialCode.WRONG_ADDRESS),
    "user locked": ({}, {"locks": [lock(user="alice")]}, DenialCode.LOCKED),
    "role locked": ({}, {"locks": [lock(role="prod-root")]}, DenialCode.LOCKED),
    "login locked": ({}, {"locks": [lock(login="root")]}, DenialCode.LOCKED),
    "node locked by id": ({}, {"locks": [lock(node="11111111-2222-3333-4444-555555555555")]}, DenialCode.LOCKED),
    "node locked by name": ({}, {"locks": [lock(node="WEB-1.")]}, DenialCode.LOCKED),
    "device locked": ({"mfa_device": "d"}, {"locks": [lock(mfa_device="d")]}, DenialCode.LOCKED),
    "ambiguous labels": ({}, {"node_labels": {"é": "a", "e\u0301": "b"}}, DenialCode.BAD_REQUEST),
}


@pytest.mark.parametrize(("identity", "request_", "code"), BY_CERTIFICATE.values(), ids=BY_CERTIFICATE)
def test_the_certificate_and_locks_decide(identity: dict[str, Any], request_: dict[str, Any], code: DenialCode) -> None:
    outcome = ask(dataclasses.replace(ALICE, **identity), **request_)
    assert isinstance(outcome, AccessDenial)
    assert outcome.code is code
    assert "secret affair" not in outcome.public + outcome.hint


@pytest.mark.parametrize(
    "changes",
    [
        {"locks": [lock(user="bob"), lock(role="other"), lock(login="alice"), lock(node="web-10")]},
        {
            "locks": [
                Lock(metadata=Metadata(name="l"), spec=LockSpec(target=LockTarget(user="alice"), expires=NOW)),
                Lock(metadata=Metadata(name="l", expires=NOW), spec=LockSpec(target=LockTarget(user="alice"))),
            ]
        },
        {"identity": dataclasses.replace(ALICE, source_ip="::ffff:10.0.0.1"), "client_address": "10.0.0.1"},
        {"identity": dataclasses.replace(ALICE, source_ip="2001:db8:0::1"), "client_address": "2001:DB8::1"},
    ],
    ids=["locks on others", "locks that ended", "mapped address", "IPv6 forms"],
)
def test_what_does_not_concern_the_request_does_not_refuse_it(changes: dict[str, Any]) -> None:
    assert isinstance(ask(**changes), SSHAccessPermit)


def test_without_any_role_known_nothing_is_granted() -> None:
    assert isinstance(ask(policy=Policy()), AccessDenial)


def test_the_permit_carries_the_terms() -> None:
    """Options of all the user's roles and of the cluster, combined; the node asks nobody else."""
    cluster = ClusterDefaults(client_idle_timeout=timedelta(minutes=5), disconnect_expired_cert=True)
    outcome = ask(holding("prod-root", "dev-alice"), Policy(roles=ROLES, cluster=cluster))
    assert outcome == SSHAccessPermit(
        user="alice",
        login="root",
        roles=("prod-root",),
        max_sessions=4,
        max_connections=0,
        client_idle_timeout=timedelta(minutes=5),
        disconnect_expired_cert=ALICE.expires,
        record=True,
        enhanced_recording=("command", "network"),
        mfa_verified=False,
        channels=ChannelTerms(
            port_forwarding=True, forward_agent=True, x11_forwarding=False, grants=(RoleGrant.of(ROLES["prod-root"]),)
        ),
    )


def test_mfa_is_asked_of_nobody_who_would_be_refused_anyway() -> None:
    policy = Policy(roles=ROLES, cluster=ClusterDefaults(require_session_mfa=True))
    refused = ask(holding("gone"), policy)
    assert isinstance(refused, AccessDenial)
    assert refused.code is DenialCode.NOT_GRANTED
    due = ask(ALICE, policy)
    assert isinstance(due, AccessDenial)
    assert due.code is DenialCode.MFA_REQUIRED
    proved = dataclasses.replace(ALICE, mfa_device="device", mfa_target="11111111-2222-3333-4444-555555555555")
    verified = ask(proved, policy)
    assert isinstance(verified, SSHAccessPermit)
    assert verified.mfa_verified


def test_each_role_says_why_it_did_not_grant() -> None:
    outcome = ask(holding("prod-root", "dev-alice", "other-namespace", "gone"), node_labels={"env": "test"})
    assert isinstance(outcome, AccessDenial)
    assert outcome.reasons == (
        "role 'prod-root' label 'env' is 'test', which does not match",
        "role 'dev-alice' does not give the login 'root'",
        "role 'other-namespace' does not apply to namespace 'default'",
        "role 'gone' does not exist",
    )


def test_the_public_sentence_is_the_same_whatever_the_roles_say() -> None:
    """T34: a refused caller does not learn of labels, hosts or deny rules."""
    said = set()
    for roles, labels in [
        ((), {}),
        (("gone",), PROD),
        (("prod-root", "no-prod"), PROD),
        (("prod-root",), {"env": "x"}),
    ]:
        outcome = ask(holding(*roles), node_labels=labels)
        assert isinstance(outcome, AccessDenial)
        said.add((outcome.public, outcome.hint))
    assert len(said) == 1


def test_an_expression_from_a_trait_that_cannot_be_read_denies_and_does_not_allow() -> None:
    traits = {"logins": ("root",), "team": ("^($",)}
    denied = ask(holding("prod-root", "no-team", traits=traits))
    assert isinstance(denied, AccessDenial)
    assert denied.code is DenialCode.DENIED_BY_ROLE
    refused = ask(holding("by-trait", traits=traits))
    assert isinstance(refused, AccessDenial)
    assert refused.code is DenialCode.NOT_GRANTED


PINNING = next(
    role
    for role in parse_resources(
        "kind: role\nversion: v4\nmetadata: {name: pinning}\nspec: {options: {pin_source_ip: yes}}", "pinning.yaml"
    )
    if isinstance(role, Role)
)
PINNED_TO = "192.0.2.7"


@pytest.mark.parametrize(
    ("roles", "source_ip", "comes_from", "code"),
    [
        (("prod-root", "pinning"), PINNED_TO, PINNED_TO, None),
        (("prod-root", "pinning"), PINNED_TO, f"::ffff:{PINNED_TO}", None),
        (("prod-root", "pinning"), PINNED_TO, "192.0.2.8", DenialCode.WRONG_ADDRESS),
        (("prod-root", "pinning"), PINNED_TO, "", DenialCode.WRONG_ADDRESS),
        (("prod-root", "pinning"), "", PINNED_TO, DenialCode.WRONG_ADDRESS),
        (("prod-root",), "", PINNED_TO, None),
        (("prod-root",), PINNED_TO, PINNED_TO, None),
        (("prod-root",), PINNED_TO, "192.0.2.8", DenialCode.WRONG_ADDRESS),
    ],
)
def test_a_role_that_pins_wants_a_pin_and_any_pin_counts(
    roles: tuple[str, ...], source_ip: str, comes_from: str, code: DenialCode | None
) -> None:
    """Also while a session is open, and for whether there may be one at all."""
    policy = Policy(roles={**ROLES, "pinning": PINNING})
    identity = holding(*roles, source_ip=source_ip)
    decided = ask(identity, policy, client_address=comes_from)
    at_all = why_no_session(identity, policy, cluster="example.com", now=NOW, client_address=comes_from)
    for found in (decided, at_all):
        assert (found.code if isinstance(found, AccessDenial) else None) == code
