"""The decision about a call to a Kubernetes cluster: may this identity ask it anything now, and as whom does it ask?

Order: the certificate itself, locks (and whether they are known), deny over all roles, allow, where namespace and
labels have to match within one role, MFA, then whom the cluster is told. Users and groups come from the roles that let
in here and from no others; what deny names is taken away, whichever role gave it. Who has several users has to choose
one; who is given none goes by the own name, unless that is one of Kubernetes' own.
Whoever asks to act as somebody is given no more than the roles give.

Of a call, only the roles that allow it (`kubernetes_resources`) let in, so that it goes on with their groups and no
others. A list that some allow whole is asked with those alone; one that is allowed in part goes with what is shown.

A second factor for each session is given by a certificate that is marked for this one Kubernetes cluster; one that is
marked for anything else counts for nothing here. The function is pure and cheap, so that it is asked for each call, and
again while streams are open.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final

from teleport.authz.certificate import certificate_denial, unpinned_denial
from teleport.authz.decision import AccessDenial, DenialCode, Policy
from teleport.authz.kube_resources import SHOWS, Extent, KubeCall, Shown, denies, extent, sentence, shown
from teleport.authz.labels import AmbiguousLabels, BadSelector, CanonicalLabels, canonical_labels, match_labels
from teleport.authz.locks import locks_unknown_denial, user_lock_denial
from teleport.authz.roles import RoleSet
from teleport.authz.session_mfa import BY_KUBECTL, demands, due_denial, given_by_certificate, kube_target, once_open
from teleport.identity import UserIdentity
from teleport.resources.joining import concerns_kubernetes
from teleport.resources.lock import Lock
from teleport.resources.metadata import DEFAULT_NAMESPACE
from teleport.resources.role import Conditions, Role

AUTHENTICATED: Final = "system:authenticated"  # the group of everybody whom a Kubernetes cluster knows by name
OF_KUBERNETES: Final = "system:"  # begins the names of its own components and accounts: only roles may give one
MAX_NAME: Final = 1024  # bytes of a user or group


@dataclass(frozen=True, slots=True)
class ActAs:
    """Whom the client asks to act as, by impersonation headers of its own (`kubectl --as`). Empty: nobody."""

    user: str = ""
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class KubeAccessRequest:
    """Who wants in, where, when. `client_address` is the true address of the client."""

    identity: UserIdentity
    cluster: str  # of ours
    now: datetime
    kube_cluster: str  # as it was named; empty: it was not
    exists: bool = True  # whether there is one of that name
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    namespace: str = DEFAULT_NAMESPACE  # of the resource, not one of Kubernetes
    client_address: str = ""
    locks: Sequence[Lock] = ()
    act_as: ActAs = ActAs()
    call: KubeCall | None = None  # None: whether anything may be asked there
    joins: bool = False  # in a session of somebody, so that the cluster is told nothing of who asks


@dataclass(frozen=True, slots=True)
class KubeAccessPermit:
    """Yes, as this user with these groups, until `ends`. Neither a credential nor stored."""

    user: str
    roles: tuple[str, ...]  # those that let in
    kube_user: str
    kube_groups: tuple[str, ...]
    ends: datetime
    record: bool  # whether what is done in a pod has to be recorded
    port_forwarding: bool = False  # to ports of pods
    needs_company: tuple[str, ...] = ()  # roles that ask for somebody else in sessions in pods
    shown: Shown | None = None  # what of the list or watch that was asked for; None: all of it
    max_connections: int = 0  # of the user in the cluster, streams into pods among them; 0: as many as they like
    client_idle_timeout: timedelta = timedelta(0)  # of streams into pods; 0: none
    client_idle_timeout_message: str = ""  # told to the user when that has passed
    mfa_device: str = ""  # UUID of the second factor that the certificate is marked with for this cluster; empty: none


def evaluate_kube_access(request: KubeAccessRequest, policy: Policy) -> KubeAccessPermit | AccessDenial:
    """The permit, or the denial with a reason for each role."""
    identity = request.identity
    refused = certificate_denial(
        identity, cluster=request.cluster, now=request.now, client_address=request.client_address
    ) or user_lock_denial(identity, request.locks, request.now)
    if refused is not None:
        return refused
    if identity.route_to_cluster not in ("", request.cluster):
        return AccessDenial(
            DenialCode.WRONG_CLUSTER,
            f"Your certificate leads to the cluster {identity.route_to_cluster!r}, not to those of this one.",
            (f"routed to {identity.route_to_cluster!r}, this is {request.cluster!r}",),
            "tsh login without another cluster",
        )
    target = kube_target(request.kube_cluster)
    if identity.mfa_target and identity.mfa_target != target:
        return _denial(DenialCode.NOT_GRANTED, request, "the certificate is for one session elsewhere")
    if not request.exists:
        return _denial(DenialCode.NOT_GRANTED, request, "there is no such Kubernetes cluster")
    try:
        labels = canonical_labels(request.labels)
    except AmbiguousLabels as error:
        return _denial(DenialCode.NOT_GRANTED, request, str(error))
    roles = RoleSet.build(identity.roles, policy.roles, identity.traits)
    unpinned = unpinned_denial(identity, roles)
    if unpinned is not None:
        return unpinned
    since = RoleSet.build(identity.denying, policy.roles, identity.traits).own
    denying = (*roles.roles, *since)
    unsure = locks_unknown_denial(RoleSet((*since, *roles.roles)), policy)
    if unsure is not None:
        return unsure
    unknown = [f"role {name!r} does not exist" for name in roles.unknown]
    hits = [hit for role in denying if (hit := _deny_hit(role, request, labels))]
    if hits:
        return _denial(DenialCode.DENIED_BY_ROLE, request, *hits, *unknown)
    granting: list[Role] = []
    reasons: list[str] = []
    for role in roles.own:
        why = _why_not(role, request, labels)
        if why:
            reasons.append(f"role {role.name!r} {why}")
        else:
            granting.append(role)
    if not granting:
        return _denial(DenialCode.NOT_GRANTED, request, *reasons, *unknown)
    seen: Shown | None = None
    if request.call is not None:
        decided = _of_call(request, request.call, granting, denying)
        if isinstance(decided, AccessDenial):
            return decided
        granting, seen = decided
    named = _named(request, granting, denying)
    if isinstance(named, AccessDenial):
        return named
    # Only a caller who would otherwise be let in learns that MFA is due.
    given = given_by_certificate(identity, target)
    asked = demands(granting, policy.cluster)
    if given is None and asked:
        return due_denial(identity, asked, BY_KUBECTL)
    user, groups = named
    options, cluster = roles.options, policy.cluster
    idle = [timeout for timeout in (options.client_idle_timeout, cluster.client_idle_timeout) if timeout]
    return KubeAccessPermit(
        user=identity.name,
        roles=tuple(role.name for role in granting),
        kube_user=user,
        kube_groups=(*(group for group in groups if group != AUTHENTICATED), AUTHENTICATED),
        ends=once_open(identity).expires,
        record=cluster.record_sessions,
        port_forwarding=any(role.options.port_forwarding is not False for role in granting),
        needs_company=tuple(
            role.name
            for role in (*roles.own, *since)
            if any(concerns_kubernetes(entry.kinds) for entry in role.allow.require_session_join)
        ),
        shown=seen,
        max_connections=options.max_connections,
        client_idle_timeout=min(idle, default=timedelta(0)),
        client_idle_timeout_message=cluster.client_idle_timeout_message,
        mfa_device=given.device if given is not None else "",
    )


def _of_call(
    request: KubeAccessRequest, call: KubeCall, granting: Sequence[Role], denying: Sequence[Role]
) -> tuple[list[Role], Shown | None] | AccessDenial:
    """The roles that allow the call, and what it shows."""
    denied = [
        (role.name, role.deny.kubernetes_resources)
        for role in denying
        if role.deny.kubernetes_resources and _namespace_matches(role.deny, request.namespace)
    ]
    hits = [f"role {name!r} denies the call" for name, rules in denied if denies(call, rules)]
    if hits:
        return _call_denial(DenialCode.DENIED_BY_ROLE, request, call, hits)
    extents = [(extent(call, role.allow.kubernetes_resources), role) for role in granting]
    most = max(found for found, _ in extents)
    if most is Extent.NONE or (most is Extent.PART and call.verb not in SHOWS):
        why = [f"role {role.name!r} does not allow the call" for _, role in extents]
        return _call_denial(DenialCode.NOT_GRANTED, request, call, why)
    left = [role for found, role in extents if found is most]
    allow = [role.allow.kubernetes_resources for role in left]
    return left, shown(call, allow, [rules for _, rules in denied])


def is_open(decision: KubeAccessPermit | AccessDenial) -> bool:
    """Whether the cluster is one that the person may use, though something may be missing for a call: the choice of a
    user, or a second factor. Such a cluster is shown in lists."""
    return isinstance(decision, KubeAccessPermit) or decision.code in (DenialCode.BAD_REQUEST, DenialCode.MFA_REQUIRED)


def is_due(decision: KubeAccessPermit | AccessDenial) -> bool:
    """Whether a second factor is all that is missing, but for the choice of a user."""
    return isinstance(decision, AccessDenial) and decision.code is DenialCode.MFA_REQUIRED


def _named(
    request: KubeAccessRequest, granting: Sequence[Role], denying: Sequence[Role]
) -> tuple[str, tuple[str, ...]] | AccessDenial:
    """The user and the groups that the cluster is told."""
    here = [role.deny for role in denying if _namespace_matches(role.deny, request.namespace)]
    no_users = {name for deny in here for name in deny.kubernetes_users}
    no_groups = {name for deny in here for name in deny.kubernetes_groups}
    given = _given(name for role in granting for name in role.allow.kubernetes_users)
    groups = _without(_given(name for role in granting for name in role.allow.kubernetes_groups), no_groups)
    users = _without(given, no_users)
    if not groups and not users:
        return _denial(DenialCode.NOT_GRANTED, request, "no Kubernetes user and no group is left that the roles give")
    if not given:  # a role that gave users, all of which are denied, must not give the own name instead
        users = _without(_given([request.identity.name]), no_users)
        if request.identity.name.startswith(OF_KUBERNETES):
            users = ()
    act_as = request.act_as
    if act_as.groups:
        for group in act_as.groups:
            if group not in groups and group != AUTHENTICATED:
                return _not_as(request, f"group {group[:80]!a}")
        groups = tuple(dict.fromkeys(act_as.groups))
    if act_as.user:
        if act_as.user not in users:
            return _not_as(request, f"user {act_as.user[:80]!a}")
        return act_as.user, groups
    if not users:
        return _denial(
            DenialCode.NOT_GRANTED,
            request,
            "every Kubernetes user that the roles give is denied, or none is given and the own name is Kubernetes' own",
        )
    if len(users) > 1 and not request.joins:
        return AccessDenial(
            DenialCode.BAD_REQUEST,
            f"Your roles give you several Kubernetes users here, choose one: {', '.join(users)}.",
            (f"users {', '.join(users)}, and none was chosen",),
            f"kubectl --as={users[0]} ...",
        )
    return users[0], groups


def _given(names: Iterable[str]) -> tuple[str, ...]:
    """Each usable name once, in order."""
    return tuple(dict.fromkeys(name for name in names if usable_name(name)))


def _without(names: Sequence[str], denied: set[str]) -> tuple[str, ...]:
    return () if "*" in denied else tuple(name for name in names if name not in denied)


def usable_name(name: str) -> bool:
    """Whether a header can carry it to the cluster as it is, and it is no pattern."""
    if not name or name == "*" or name != name.strip() or len(name.encode("utf-8", "replace")) > MAX_NAME:
        return False
    return not any(unicodedata.category(character)[0] == "C" for character in name)


def _deny_hit(role: Role, request: KubeAccessRequest, labels: CanonicalLabels) -> str:
    """What in the role's deny hits the request; empty when nothing does. What cannot be evaluated hits."""
    if not _namespace_matches(role.deny, request.namespace):
        return ""
    try:
        if match_labels(role.deny.kubernetes_labels, labels).matched:
            return f"role {role.name!r} denies the labels of this cluster"
    except BadSelector as error:
        return f"role {role.name!r} denies labels in a way that cannot be evaluated: {error}"
    return ""


def _why_not(role: Role, request: KubeAccessRequest, labels: CanonicalLabels) -> str:
    """Why the role does not let in; empty when it does."""
    if not _namespace_matches(role.allow, request.namespace):
        return f"does not apply to namespace {request.namespace!r}"
    try:
        match = match_labels(role.allowed_kubernetes_labels, labels)
    except BadSelector as error:
        return f"selects clusters in a way that cannot be evaluated: {error}"
    return "" if match.matched else match.why


def _namespace_matches(conditions: Conditions, namespace: str) -> bool:
    return any(name in {"*", namespace} for name in conditions.effective_namespaces)


def _not_as(request: KubeAccessRequest, whom: str) -> AccessDenial:
    return AccessDenial(
        DenialCode.NOT_GRANTED,
        f"Your roles do not let you act as the Kubernetes {whom}.",
        (f"asked to act as the {whom}, which the roles do not give",),
        "leave --as and --as-group out, or ask an administrator for a role with that user or group",
    )


def _call_denial(code: DenialCode, request: KubeAccessRequest, call: KubeCall, reasons: Sequence[str]) -> AccessDenial:
    return AccessDenial(
        code,
        f"{sentence(request.identity.name, call)}: your roles do not allow it",
        tuple(reasons),
        "an administrator can give it in a role's kubernetes_resources",
    )


def _denial(code: DenialCode, request: KubeAccessRequest, *reasons: str) -> AccessDenial:
    """One sentence, also for a cluster that there is not: it must not tell which there are."""
    name = request.kube_cluster
    return AccessDenial(
        code,
        f"Your roles allow no Kubernetes cluster with the name {name[:80]!a}."
        if name
        else "You chose no Kubernetes cluster, and your roles allow none of those here.",
        reasons or ("the certificate names no role",),
        "tsh kube ls shows the clusters that you may use",
    )
