"""The decision about joining a session in a pod: who may join it, and may make the call by which it was begun.

Both have to hold, and both are asked again while somebody is in it. The cluster itself hears nothing of who joins: its
RBAC was asked for whoever began the session. Who may not is told what they would be told of an id that nobody has;
what their own certificate lacks (a second factor, say) they hear only of a session that they may join otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from teleport.authz.decision import AccessDenial, DenialCode, Policy
from teleport.authz.joining import JoinPermit, LetIn, RunningSession, evaluate_join, unknown_session
from teleport.authz.kube import KubeAccessPermit, KubeAccessRequest, evaluate_kube_access
from teleport.resources.joining import JoinMode

_OF_THE_PLACE: Final = (DenialCode.NOT_GRANTED, DenialCode.DENIED_BY_ROLE, DenialCode.BAD_REQUEST)


@dataclass(frozen=True, slots=True)
class PodJoinPermit:
    """Yes: so, and for as long as the call might be made."""

    join: JoinPermit
    call: KubeAccessPermit


def evaluate_pod_join(
    request: KubeAccessRequest, session: RunningSession, mode: JoinMode | None, policy: Policy
) -> PodJoinPermit | AccessDenial:
    """`request` is for the call by which the session was begun, by whoever wants to join it."""
    who = LetIn(request.identity, session.login, None, moderated=False)
    joins = evaluate_join(who, session, mode, policy)
    if isinstance(joins, AccessDenial):
        return joins
    permit = evaluate_kube_access(replace(request, joins=True), policy)
    if isinstance(permit, AccessDenial):
        if permit.code in _OF_THE_PLACE:
            return unknown_session(f"the call that it was begun by: {permit.code}", *permit.reasons)
        return permit
    if permit.needs_company:  # they may do nothing alone, so they type in no session of others
        joins = evaluate_join(replace(who, moderated=True), session, mode, policy)
        if isinstance(joins, AccessDenial):
            return joins
    return PodJoinPermit(joins, permit)
