"""The decision about a call to the auth API: may this identity do this to this kind of resource.

Users are judged by the rules of their roles, deny first; hosts by the built-in table; whoever shows no certificate may
do nothing. Every verb and kind that no rule names is refused (style.md 12).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import assert_never

from teleport.authz.builtin import BUILTIN, OWN_ONLY, WRITING
from teleport.authz.certificate import certificate_denial, unpinned_denial
from teleport.authz.decision import AccessDenial, DenialCode, Policy
from teleport.authz.locks import host_lock_denial, user_lock_denial
from teleport.authz.roles import RoleSet
from teleport.authz.session_mfa import call_denial
from teleport.authz.where import WhereError, holds
from teleport.identity import Anonymous, HostIdentity, Identity, SystemRole, UserIdentity
from teleport.resources.kinds import WILDCARD, Kind, Verb
from teleport.resources.lock import Lock
from teleport.resources.metadata import DEFAULT_NAMESPACE
from teleport.resources.role import Conditions, Role, Rule

NO_FACTS: Mapping[str, object] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class APIAccessRequest:
    """Who asks what of which kind. `facts` are what `where` may look at, by root name: `resource` (the document),
    `session`, `ssh_session`; `user` is filled in from the identity and cannot be handed in."""

    identity: Identity
    verb: Verb
    kind: Kind
    cluster: str
    now: datetime
    facts: Mapping[str, object] = field(default_factory=lambda: NO_FACTS)
    ca_type: str = ""
    namespace: str = DEFAULT_NAMESPACE
    client_address: str = ""
    locks: Sequence[Lock] = ()
    reveals: bool = False  # a secret, or what somebody did in a session: asks for a second factor as sessions do


@dataclass(frozen=True, slots=True)
class APIPermit:
    """Yes, and what says so."""

    name: str  # the user, or the host's UUID
    verb: Verb
    kind: Kind
    granted_by: str  # a role, or the system role


Decision = Callable[[Mapping[str, object], str], "APIPermit | AccessDenial"]


def evaluate_api_access(request: APIAccessRequest, policy: Policy) -> APIPermit | AccessDenial:
    """The permit, or the denial with its reasons."""
    return deciding(request, policy)(request.facts, request.ca_type)


def deciding(request: APIAccessRequest, policy: Policy) -> Decision:
    """The decision about one thing after another, by its facts and the sort of authority that it is: what does not
    depend on them is decided once. Those of the request do not count."""
    identity = request.identity
    match identity:
        case Anonymous():
            return _always(
                AccessDenial(
                    DenialCode.ANONYMOUS, "This needs a certificate.", ("no certificate was shown",), "tsh login"
                )
            )
        case UserIdentity() | HostIdentity():
            if refused := _certificate(request, identity):
                return _always(refused)
        case _:
            assert_never(identity)
    if isinstance(identity, HostIdentity):
        return lambda facts, ca_type: _host(replace(request, facts=facts, ca_type=ca_type), identity)
    return _of_user(request, identity, policy)


def _always(refused: AccessDenial) -> Decision:
    return lambda facts, ca_type: refused


def decides_alike(request: APIAccessRequest, policy: Policy) -> bool:
    """Whether the decision is the same for all things of the kind: no rule about it looks at what is asked for."""
    identity = request.identity
    if not isinstance(identity, UserIdentity):
        return request.verb not in WRITING  # hosts write their own things only
    roles = (
        *RoleSet.build(identity.roles, policy.roles, identity.traits).roles,
        *RoleSet.build(identity.denying, policy.roles, identity.traits).roles,
    )
    return not any(
        rule.where and _names(rule, request, deny=True)
        for role in roles
        for rule in (*role.allow.rules, *role.deny.rules)
    )


def _certificate(request: APIAccessRequest, identity: UserIdentity | HostIdentity) -> AccessDenial | None:
    refused = certificate_denial(
        identity, cluster=request.cluster, now=request.now, client_address=request.client_address
    )
    if refused is not None:
        return refused
    if isinstance(identity, UserIdentity):
        return user_lock_denial(identity, request.locks, request.now)
    if identity.role is SystemRole.ADMIN and request.kind is Kind.LOCK:
        # who locks the auth host by mistake has to be able to lift that; an ended certificate stays ended
        locks = [lock for lock in request.locks if lock.spec.target.kind == "serial"]
        return host_lock_denial(identity, locks, request.now)
    return host_lock_denial(identity, request.locks, request.now)


def _denial(request: APIAccessRequest, code: DenialCode, *reasons: str) -> AccessDenial:
    return AccessDenial(code, f"You may not {request.verb} {request.kind}.", reasons)


def _host(request: APIAccessRequest, identity: HostIdentity) -> APIPermit | AccessDenial:
    permit = APIPermit(identity.host_id, request.verb, request.kind, identity.role.value)
    if identity.role is SystemRole.ADMIN:
        return permit
    verbs = BUILTIN.get(identity.role, {}).get(request.kind, frozenset[Verb]())
    if request.verb not in verbs and not (request.verb is Verb.READ_NO_SECRETS and Verb.READ in verbs):
        return _denial(request, DenialCode.NOT_GRANTED, f"{identity.role} hosts may not {request.verb} {request.kind}")
    if request.kind in OWN_ONLY and request.verb in WRITING and _resource_name(request) != identity.host_id:
        return _denial(
            request, DenialCode.NOT_GRANTED, f"host {identity.host_id} may write its own {request.kind} only"
        )
    return permit


def _resource_name(request: APIAccessRequest) -> object:
    resource = request.facts.get("resource")
    metadata = resource.get("metadata") if isinstance(resource, Mapping) else None
    return metadata.get("name") if isinstance(metadata, Mapping) else None


def _of_user(request: APIAccessRequest, identity: UserIdentity, policy: Policy) -> Decision:
    roles = RoleSet.build(identity.roles, policy.roles, identity.traits)
    unpinned = unpinned_denial(identity, roles)
    if unpinned is not None:
        return _always(unpinned)
    since = RoleSet.build(identity.denying, policy.roles, identity.traits).own
    denying = [(role, _concerning(role.deny, request, deny=True)) for role in (*roles.roles, *since)]
    allowing = [(role, _concerning(role.allow, request, deny=False)) for role in roles.roles]
    due = call_denial(identity, roles.own, policy.cluster) if request.reveals else None
    user = {"metadata": {"name": identity.name}, "spec": {"roles": identity.roles, "traits": identity.traits}}

    def decide(facts: Mapping[str, object], ca_type: str) -> APIPermit | AccessDenial:
        known = {**facts, "user": user}
        for role, rules in denying:
            hit = _holding(rules, known, ca_type, deny=True)
            if hit is not None:
                return _denial(request, DenialCode.DENIED_BY_ROLE, f"role {role.name!r} denies it: {_describe(hit)}")
        for role, rules in allowing:
            if _holding(rules, known, ca_type, deny=False) is not None:
                return due or APIPermit(identity.name, request.verb, request.kind, role.name)
        reasons = [f"role {role.name!r} {_why_not(role, request)}" for role in roles.own]
        reasons += [f"role {name!r} does not exist" for name in roles.unknown]
        return _denial(request, DenialCode.NOT_GRANTED, *(reasons or ["the certificate names no role"]))

    return decide


def _concerning(conditions: Conditions, request: APIAccessRequest, *, deny: bool) -> list[Rule]:
    """The rules about this kind and verb, the most specific first."""
    if not any(name in {WILDCARD, request.namespace} for name in conditions.effective_namespaces):
        return []
    rules = sorted(conditions.rules, key=lambda rule: specificity(rule, request.kind), reverse=True)
    return [rule for rule in rules if _names(rule, request, deny=deny)]


def _holding(rules: Sequence[Rule], facts: Mapping[str, object], ca_type: str, *, deny: bool) -> Rule | None:
    """The first rule that holds; what cannot be evaluated holds under deny only."""
    for rule in rules:
        try:
            if holds(rule.where, facts, ca_type):
                return rule
        except WhereError:
            if deny:
                return rule
    return None


def _names(rule: Rule, request: APIAccessRequest, *, deny: bool) -> bool:
    """Whether the rule is about this kind and verb.

    `read` covers `readnosecrets`. Under deny also the reverse: who may not see a resource without its secrets may not
    see it with them.
    """
    if request.kind.value not in rule.resources and WILDCARD not in rule.resources:
        return False
    verbs = {request.verb.value, WILDCARD}
    if request.verb is Verb.READ_NO_SECRETS:
        verbs.add(Verb.READ.value)
    if deny and request.verb is Verb.READ:
        verbs.add(Verb.READ_NO_SECRETS.value)
    return not verbs.isdisjoint(rule.verbs)


def specificity(rule: Rule, kind: Kind) -> tuple[bool, int]:
    """The order of rules in one set (`resources.md` 5): exact resources first, then by score."""
    score = 8 * bool(rule.where) + 8 * bool(rule.actions)
    score += 2 * (len(rule.resources) == 1 and WILDCARD not in rule.resources)
    score -= 4 * (WILDCARD in rule.resources) + 2 * (WILDCARD in rule.verbs)
    return kind.value in rule.resources, score


def _why_not(role: Role, request: APIAccessRequest) -> str:
    if any(_names(rule, request, deny=False) for rule in role.allow.rules):
        return "allows it only where a condition holds, or elsewhere"
    return f"has no rule that allows {request.verb} on {request.kind}"


def _describe(rule: Rule) -> str:
    condition = f" where {rule.where}" if rule.where else ""
    return f"{', '.join(rule.verbs)} on {', '.join(rule.resources)}{condition}"
