"""What forbids somebody to be led to Kubernetes clusters of another cluster of ours, before that one decides. Pure.

Where they may go is `authz.clusters`' to say, what they may do there is the other cluster's.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from teleport.authz.certificate import certificate_denial, unpinned_denial
from teleport.authz.decision import AccessDenial, DenialCode, Policy
from teleport.authz.locks import locks_unknown_denial, user_lock_denial
from teleport.authz.roles import RoleSet
from teleport.identity import UserIdentity
from teleport.resources.lock import Lock


def why_not_led(
    identity: UserIdentity,
    policy: Policy,
    *,
    cluster: str,
    now: datetime,
    client_address: str,
    locks: Sequence[Lock] = (),
) -> AccessDenial | None:
    """The refusal of whoever may be led nowhere now: the certificate, locks, and whether these are known."""
    refused = certificate_denial(identity, cluster=cluster, now=now, client_address=client_address) or user_lock_denial(
        identity, locks, now
    )
    if refused is not None:
        return refused
    roles = RoleSet.build(identity.roles, policy.roles, identity.traits)
    if not roles.own:
        return AccessDenial(
            DenialCode.NOT_GRANTED,
            "You have no role any more of those that your certificate names.",
            ("the user has none of the roles of the certificate any more",),
            "ask an administrator for a role, then tsh login",
        )
    since = RoleSet.build(identity.denying, policy.roles, identity.traits).own
    return unpinned_denial(identity, roles) or locks_unknown_denial(RoleSet((*since, *roles.roles)), policy)
