"""The decision whether somebody may go to another cluster that trusts this one (`resources.md` 5). Pure.

`cluster_labels` of roles are matched against the labels of the remote cluster. Where neither says anything, no role of
the user and no label of the cluster, it is allowed: the other cluster decides by the roles that it maps.
"""

from __future__ import annotations

from collections.abc import Mapping

from teleport.authz.decision import AccessDenial, DenialCode, Policy
from teleport.authz.labels import AmbiguousLabels, BadSelector, canonical_labels, match_labels
from teleport.authz.roles import RoleSet
from teleport.identity import UserIdentity


def why_no_cluster(
    identity: UserIdentity, policy: Policy, *, remote: str, labels: Mapping[str, str]
) -> AccessDenial | None:
    """The refusal of whoever may not go to the cluster `remote` with these labels; None for whoever may.

    Whoever may not is told what they would be if there were no such cluster; the reasons are for the record.
    """

    def no(code: DenialCode, *reasons: str) -> AccessDenial:
        return AccessDenial(code, f"The cluster {remote} is not known here.", reasons, "tsh clusters")

    try:
        there = canonical_labels(labels)
    except AmbiguousLabels as error:
        return no(DenialCode.BAD_REQUEST, f"cluster {remote}: {error}")
    roles = RoleSet.build(identity.roles, policy.roles, identity.traits)
    since = RoleSet.build(identity.denying, policy.roles, identity.traits).own
    for role in (*roles.roles, *since):
        try:
            hit = role.deny.cluster_labels is not None and match_labels(role.deny.cluster_labels, there).matched
        except BadSelector as error:
            return no(DenialCode.DENIED_BY_ROLE, f"role {role.name!r}: {error}")
        if hit:
            return no(DenialCode.DENIED_BY_ROLE, f"role {role.name!r} denies the cluster's labels")
    if not roles.own:
        return no(DenialCode.NOT_GRANTED, "the user has no role")
    selecting = [role for role in roles.own if role.allow.cluster_labels is not None]
    if not selecting and not there:
        return None
    reasons = []
    for role in selecting:
        try:
            match = match_labels(role.allow.cluster_labels, there)
        except BadSelector as error:
            reasons.append(f"role {role.name!r}: {error}")
            continue
        if match.matched:
            return None
        reasons.append(f"role {role.name!r}: {match.why}")
    return no(DenialCode.NOT_GRANTED, *(reasons or ["no role has cluster_labels, and the cluster has labels"]))
