"""Decisions about API calls: every identity against every verb and kind, and rules in detail (T33)."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from teleport.authz.api import APIAccessRequest, APIPermit, decides_alike, evaluate_api_access, specificity
from teleport.authz.builtin import BUILTIN, OWN_ONLY, WRITING
from teleport.authz.decision import AccessDenial, DenialCode, Policy
from teleport.identity import Anonymous, HostIdentity, Identity, SystemRole, UserIdentity
from teleport.resources.kinds import Kind, Verb
from teleport.resources.lock import Lock, LockSpec, LockTarget
from teleport.resources.metadata import Metadata
from teleport.resources.presets import preset_roles
from teleport.resources.role import Conditions, Role, RoleSpec, Rule

NOW = datetime(2030, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
PRESETS = {role.name: role for role in preset_roles("12345678-1234-1234-1234-123456789012")}
OWN = {"resource": {"metadata": {"name": "host-1"}}, "session": {"participants": ["user"]}}


def user(*roles: str, **changes: Any) -> UserIdentity:
    return dataclasses.replace(UserIdentity("user", "c", roles, (), LATER), **changes)


def host(role: SystemRole, **changes: Any) -> HostIdentity:
    return dataclasses.replace(HostIdentity("host-1", "c", role, LATER), **changes)


def ask(identity: Identity, verb: Verb, kind: Kind, roles: dict[str, Role] | None = None, **more: Any) -> object:
    request = APIAccessRequest(identity, verb, kind, **{"cluster": "c", "now": NOW, "facts": OWN, **more})
    return evaluate_api_access(request, Policy(roles=PRESETS if roles is None else roles))


def granted(identity: Identity, **more: Any) -> set[str]:
    return {
        f"{verb}:{kind}" for kind in Kind for verb in Verb if isinstance(ask(identity, verb, kind, **more), APIPermit)
    }


def cells(verbs: str, *kinds: str) -> set[str]:
    return {f"{verb}:{kind}" for verb in verbs.split() for kind in kinds}


RO = "list read readnosecrets"
RW = "list create read readnosecrets update delete"
IMPLICIT = cells(
    RO, "node", "proxy", "auth_server", "tunnel", "cluster_auth_preference", "cluster_name", "ssh_session",
    "app_server", "remote_cluster", "kube_service", "db_server",
) | cells("list readnosecrets", "cert_authority")  # fmt: skip
HOST_RO = cells("list readnosecrets", "cert_authority", "user", "host_cert") | cells(
    RO, "proxy", "role", "namespace", "auth_server", "tunnel_connection", "lock", "mfa_lease", "network_restrictions",
    "trusted_cluster",
    "cluster_name", "cluster_config", "cluster_auth_preference", "cluster_networking_config",
    "session_recording_config", "cluster_audit_config",
)  # fmt: skip
MATRIX: dict[str, tuple[Identity, set[str]]] = {
    "anonymous": (Anonymous(), set()),
    "user without roles": (user(), IMPLICIT),
    "user with an unknown role": (user("gone"), IMPLICIT),
    "access": (user("access"), IMPLICIT | cells(RO, "event", "session")),
    "auditor": (user("auditor"), IMPLICIT | cells(RO, "event", "session")),
    "editor": (
        user("editor"),
        IMPLICIT
        | cells(
            RW,
            "user",
            "role",
            "oidc",
            "saml",
            "github",
            "cluster_auth_preference",
            "auth_connector",
            "cluster_config",
            "trusted_cluster",
            "remote_cluster",
            "token",
            "cluster_networking_config",
            "session_recording_config",
            "cluster_name",
            "cluster_audit_config",
            "lock",
        ),
    ),
    "admin host": (host(SystemRole.ADMIN), {f"{verb}:{kind}" for kind in Kind for verb in Verb}),
    "node": (
        host(SystemRole.NODE),
        HOST_RO
        | cells(RW, "node", "tunnel", "semaphore")
        | cells("create update", "event", "ssh_session")
        | cells("update", "session_tracker"),
    ),
    "auth": (
        host(SystemRole.AUTH),
        HOST_RO | cells(RW, "auth_server") | cells("create update", "event", "ssh_session"),
    ),
    "proxy": (
        host(SystemRole.PROXY),
        HOST_RO
        | cells(
            RW,
            "proxy",
            "oidc_request",
            "saml_request",
            "github_request",
            "tunnel_connection",
            "semaphore",
            "web_session",
            "web_token",
        )
        | cells("create update", "event", "ssh_session")
        | cells("list readnosecrets", "oidc", "saml", "github", "auth_connector")
        | cells("read readnosecrets update", "user_token")
        | cells("create", "mfa_lease", "openssh_cert")
        | cells("update", "session_tracker")
        | cells("list create read readnosecrets update", "web_certificate")
        | cells(RO, "node", "tunnel", "static_tokens", "remote_cluster", "kube_service", "app_server", "db_server"),
    ),
    "kube": (
        host(SystemRole.KUBE),
        HOST_RO | cells(RW, "kube_service", "tunnel", "semaphore") | cells("create update", "event", "ssh_session"),
    ),
    "app": (
        host(SystemRole.APP),
        HOST_RO | cells(RW, "app_server", "tunnel") | cells("create update", "event") | cells("create", "jwt"),
    ),
    "db": (
        host(SystemRole.DB),
        HOST_RO | cells(RW, "db_server", "tunnel", "semaphore") | cells("create update", "event"),
    ),
}


@pytest.mark.parametrize(("identity", "expected"), MATRIX.values(), ids=MATRIX)
def test_every_identity_may_do_exactly_this(identity: Identity, expected: set[str]) -> None:
    """Every verb on every kind: a new kind or verb is refused until a row grants it."""
    assert granted(identity) == expected


def test_every_system_role_is_in_the_matrix() -> None:
    assert {i.role for i, _ in MATRIX.values() if isinstance(i, HostIdentity)} == set(SystemRole)
    assert set(BUILTIN) == set(SystemRole) - {SystemRole.ADMIN}


@pytest.mark.parametrize("role", [role for role in SystemRole if role is not SystemRole.ADMIN])
def test_a_host_announces_only_itself(role: SystemRole) -> None:
    """Also when it says nothing about what it writes."""
    for facts in ({}, {"resource": {"metadata": {"name": "host-2"}}}, {"resource": "x"}, {"resource": {"metadata": 1}}):
        allowed = granted(host(role), facts=facts)
        assert not {f"{verb}:{kind}" for verb in WRITING for kind in OWN_ONLY} & allowed


def test_other_peoples_sessions_are_not_in_access() -> None:
    outcome = ask(user("access"), Verb.READ, Kind.SESSION, facts={"session": {"participants": ["somebody"]}})
    assert isinstance(outcome, AccessDenial)
    assert isinstance(ask(user("access"), Verb.READ, Kind.SESSION, facts={}), AccessDenial)


def test_facts_cannot_change_who_the_user_is() -> None:
    facts = {"user": {"metadata": {"name": "somebody"}}, "session": {"participants": ["somebody"]}}
    assert isinstance(ask(user("access"), Verb.READ, Kind.SESSION, facts=facts), AccessDenial)


def lock(**target: str) -> Lock:
    return Lock(metadata=Metadata(name="l"), spec=LockSpec(target=LockTarget(**target)))


REFUSED: dict[str, tuple[Identity, dict[str, Any], DenialCode]] = {
    "expired user": (user("editor", expires=NOW), {}, DenialCode.EXPIRED),
    "expired host": (host(SystemRole.ADMIN, expires=NOW), {}, DenialCode.EXPIRED),
    "user of another cluster": (user("editor", cluster="leaf"), {}, DenialCode.WRONG_CLUSTER),
    "admin of another cluster": (host(SystemRole.ADMIN, cluster="leaf"), {}, DenialCode.WRONG_CLUSTER),
    "pinned user": (user("editor", source_ip="10.0.0.1"), {"client_address": "10.0.0.2"}, DenialCode.WRONG_ADDRESS),
    "locked user": (user("editor"), {"locks": [lock(user="user")]}, DenialCode.LOCKED),
    "locked role": (user("editor"), {"locks": [lock(role="editor")]}, DenialCode.LOCKED),
    "locked host": (host(SystemRole.NODE), {"locks": [lock(node="HOST-1")]}, DenialCode.LOCKED),
    "locked admin host": (host(SystemRole.ADMIN), {"locks": [lock(node="host-1")]}, DenialCode.LOCKED),
}


@pytest.mark.parametrize(("identity", "more", "code"), REFUSED.values(), ids=REFUSED)
def test_certificates_and_locks_come_first(identity: Identity, more: dict[str, Any], code: DenialCode) -> None:
    outcome = ask(identity, Verb.LIST, Kind.NODE, **more)
    assert isinstance(outcome, AccessDenial)
    assert outcome.code is code


@pytest.mark.parametrize("verb", [Verb.LIST, Verb.READ_NO_SECRETS, Verb.DELETE])
def test_who_locked_the_auth_host_by_mistake_can_lift_that_there(verb: Verb) -> None:
    """Nothing else, and no other host."""
    locked: dict[str, Any] = {"locks": [lock(node="host-1")]}
    assert isinstance(ask(host(SystemRole.ADMIN), verb, Kind.LOCK, **locked), APIPermit)
    refused = ask(host(SystemRole.ADMIN), verb, Kind.USER, **locked)
    assert isinstance(refused, AccessDenial)
    assert refused.hint == "a lock stops this host; to lift it: tctl rm lock/l"
    for role in (SystemRole.NODE, SystemRole.PROXY, SystemRole.AUTH):
        assert isinstance(ask(host(role), verb, Kind.LOCK, **locked), AccessDenial)


def rules(allow: list[Rule] | None = None, deny: list[Rule] | None = None) -> dict[str, Role]:
    spec = RoleSpec(allow=Conditions(rules=tuple(allow or ())), deny=Conditions(rules=tuple(deny or ())))
    return {"r": Role(metadata=Metadata(name="r"), spec=spec)}


def rule(resources: str, verbs: str, where: str = "") -> Rule:
    return Rule(resources=tuple(resources.split()), verbs=tuple(verbs.split()), where=where)


BAD = 'equals(user.spec.roles, "r")'  # a list and a text cannot be compared
BY_RULE: dict[str, tuple[dict[str, Role], Verb, Kind, bool]] = {
    "exact": (rules([rule("token", "create")]), Verb.CREATE, Kind.TOKEN, True),
    "other verb": (rules([rule("token", "create")]), Verb.DELETE, Kind.TOKEN, False),
    "other kind": (rules([rule("token", "create")]), Verb.CREATE, Kind.USER, False),
    "any verb": (rules([rule("token", "*")]), Verb.ROTATE, Kind.TOKEN, True),
    "any kind": (rules([rule("*", "read")]), Verb.READ, Kind.USER, True),
    "list is not read": (rules([rule("user", "list")]), Verb.READ, Kind.USER, False),
    "read is not list": (rules([rule("user", "read")]), Verb.LIST, Kind.USER, False),
    "read covers readnosecrets": (rules([rule("user", "read")]), Verb.READ_NO_SECRETS, Kind.USER, True),
    "readnosecrets is not read": (rules([rule("user", "readnosecrets")]), Verb.READ, Kind.USER, False),
    "deny wins": (rules([rule("*", "*")], [rule("user", "delete")]), Verb.DELETE, Kind.USER, False),
    "deny of others": (rules([rule("*", "*")], [rule("user", "delete")]), Verb.DELETE, Kind.ROLE, True),
    "deny by wildcard": (rules([rule("user", "read")], [rule("*", "*")]), Verb.READ, Kind.USER, False),
    "deny of implicit": (rules([], [rule("node", "list")]), Verb.LIST, Kind.NODE, False),
    "deny read denies readnosecrets": (
        rules([rule("user", "*")], [rule("user", "read")]), Verb.READ_NO_SECRETS, Kind.USER, False),
    "deny readnosecrets denies read": (
        rules([rule("user", "*")], [rule("user", "readnosecrets")]), Verb.READ, Kind.USER, False),
    "where holds": (rules([rule("user", "read", 'contains(user.spec.roles, "r")')]), Verb.READ, Kind.USER, True),
    "where fails": (rules([rule("user", "read", 'contains(user.spec.roles, "q")')]), Verb.READ, Kind.USER, False),
    "second rule holds": (
        rules([rule("user", "read", 'equals("a", "b")'), rule("*", "read")]), Verb.READ, Kind.USER, True),
    "where in deny fails": (
        rules([rule("user", "read")], [rule("user", "read", 'equals("a", "b")')]), Verb.READ, Kind.USER, True),
    "bad where allows nothing": (rules([rule("user", "read", BAD)]), Verb.READ, Kind.USER, False),
    "bad where denies": (rules([rule("user", "read")], [rule("user", "read", BAD)]), Verb.READ, Kind.USER, False),
    "unreadable where denies": (
        rules([rule("user", "read")], [rule("user", "read", "((")]), Verb.READ, Kind.USER, False),
}  # fmt: skip


@pytest.mark.parametrize(("roles", "verb", "kind", "expected"), BY_RULE.values(), ids=BY_RULE)
def test_rules_decide(roles: dict[str, Role], verb: Verb, kind: Kind, expected: bool) -> None:
    outcome = ask(user("r"), verb, kind, roles)
    assert isinstance(outcome, APIPermit) is expected
    if isinstance(outcome, AccessDenial):
        assert outcome.reasons


def test_rules_of_another_namespace_do_not_apply() -> None:
    spec = RoleSpec(allow=Conditions(namespaces=("other",), rules=(rule("user", "read"),)))
    roles = {"r": Role(metadata=Metadata(name="r"), spec=spec)}
    assert isinstance(ask(user("r"), Verb.READ, Kind.USER, roles), AccessDenial)
    assert isinstance(ask(user("r"), Verb.READ, Kind.USER, roles, namespace="other"), APIPermit)


def test_rules_are_ordered_by_how_specific_they_are() -> None:
    ordered = [
        Rule(resources=("user",), verbs=("read",), where="x", actions=("y",)),
        Rule(resources=("user",), verbs=("read",), where="x"),
        Rule(resources=("user",), verbs=("read",)),
        Rule(resources=("user", "role"), verbs=("read",)),
        Rule(resources=("user", "role"), verbs=("*",)),
        Rule(resources=("user", "*"), verbs=("read",)),
        Rule(resources=("*",), verbs=("read",), where="x"),
        Rule(resources=("*",), verbs=("read",)),
        Rule(resources=("*",), verbs=("*",)),
    ]
    shuffled = ordered[::-1]
    assert sorted(shuffled, key=lambda one: specificity(one, Kind.USER), reverse=True) == ordered


def test_the_public_sentence_tells_nothing_of_the_rules() -> None:
    outcomes = [
        ask(user("r"), Verb.DELETE, Kind.USER, rules()),
        ask(user("r"), Verb.DELETE, Kind.USER, rules([], [rule("user", "*")])),
        ask(user(), Verb.DELETE, Kind.USER, rules()),
    ]
    assert {outcome.public for outcome in outcomes if isinstance(outcome, AccessDenial)} == {"You may not delete user."}


def _role(name: str, *, allow: tuple[Rule, ...] = (), deny: tuple[Rule, ...] = ()) -> Role:
    spec = RoleSpec(allow=Conditions(rules=allow), deny=Conditions(rules=deny))
    return Role(metadata=Metadata(name=name), spec=spec)


@pytest.mark.parametrize(
    ("role", "alike"),
    [
        (_role("plain", allow=(Rule(resources=("node",), verbs=("list", "read")),)), True),
        (
            _role(
                "of others",
                allow=(Rule(resources=("user",), verbs=("list",), where='equals(resource.metadata.name, "a")'),),
            ),
            True,
        ),
        (
            _role(
                "some", allow=(Rule(resources=("node",), verbs=("list",), where='equals(resource.metadata.name, "a")'),)
            ),
            False,
        ),
        (
            _role(
                "not some", deny=(Rule(resources=("*",), verbs=("*",), where='equals(resource.metadata.name, "a")'),)
            ),
            False,
        ),
        (
            _role(
                "to read",
                deny=(Rule(resources=("node",), verbs=("read",), where='equals(resource.metadata.name, "a")'),),
            ),
            False,
        ),
        (_role("broken", deny=(Rule(resources=("node",), verbs=("*",), where="nonsense("),)), False),
    ],
    ids=lambda value: value.name if isinstance(value, Role) else str(value),
)
def test_things_are_decided_about_together_only_where_no_rule_looks_at_them(role: Role, alike: bool) -> None:
    policy = Policy(roles={**PRESETS, role.name: role})
    for identity in (user(role.name), user("access", denying=(role.name,))):
        requests = [APIAccessRequest(identity, verb, Kind.NODE, "c", NOW) for verb in (Verb.LIST, Verb.READ_NO_SECRETS)]
        together = all(decides_alike(request, policy) for request in requests)
        allows = bool(role.spec.allow.rules) and bool(identity.denying)  # what only allows does not deny
        assert together is alike or allows
        for request in requests if together else ():
            answers = {
                isinstance(
                    evaluate_api_access(
                        dataclasses.replace(request, facts={"resource": {"metadata": {"name": name}}}), policy
                    ),
                    APIPermit,
                )
                for name in ("a", "b")
            }
            assert len(answers) == 1
    assert decides_alike(APIAccessRequest(host(SystemRole.PROXY), Verb.LIST, Kind.NODE, "c", NOW), policy)
    assert not decides_alike(APIAccessRequest(host(SystemRole.NODE), Verb.UPDATE, Kind.NODE, "c", NOW), policy)
