"""The decision whether a user's certificate is issued anew, and what the new one keeps (threat T06).

Renewing proves nothing anew: neither password nor second factor is asked for. So it gives nothing that the certificate
did not have: not a second more, no role more, and no restriction less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from teleport.authz.certificate import certificate_denial
from teleport.authz.decision import AccessDenial, DenialCode
from teleport.authz.locks import user_lock_denial
from teleport.identity import Identity, UserIdentity
from teleport.resources.lock import Lock

LEAST_LEFT: Final = timedelta(minutes=1)  # no certificate is issued for less


@dataclass(frozen=True, slots=True)
class RenewalPermit:
    """Yes, and the bounds of the new certificate: it ends by `expires` and says all the rest as the old one does."""

    user: str
    roles: tuple[str, ...]  # those that the certificate names and the user still has
    expires: datetime
    route_to_cluster: str
    source_ip: str
    mfa_device: str
    active_requests: tuple[str, ...]
    impersonator: str


def evaluate_renewal(
    identity: Identity, *, cluster: str, now: datetime, client_address: str, locks: Sequence[Lock]
) -> RenewalPermit | AccessDenial:
    """The permit, or the denial with its reasons. `identity` is what is left of the certificate's, the user as the
    cluster knows it now being considered."""
    if not isinstance(identity, UserIdentity):
        return AccessDenial(
            DenialCode.NOT_GRANTED, "Only users renew user certificates.", ("the caller is no user",), "tsh login"
        )
    refused = certificate_denial(identity, cluster=cluster, now=now, client_address=client_address)
    if refused is not None:
        return refused
    locked = user_lock_denial(identity, locks, now)
    if locked is not None:
        return locked
    if identity.mfa_target:
        reason = f"the certificate is for one session on {identity.mfa_target}"
        public = "A certificate for one session is not renewed."
        return AccessDenial(DenialCode.NOT_GRANTED, public, (reason,), "tsh ssh")
    if not identity.roles:
        reason = "the user has none of the certificate's roles any more"
        return AccessDenial(DenialCode.NOT_GRANTED, "Your roles have changed.", (reason,), "tsh login")
    if identity.expires - now < LEAST_LEFT:
        return AccessDenial(
            DenialCode.EXPIRED, "Your certificate expires within a minute.", ("too little is left",), "tsh login"
        )
    return RenewalPermit(
        user=identity.name,
        roles=identity.roles,
        expires=identity.expires,
        route_to_cluster=identity.route_to_cluster,
        source_ip=identity.source_ip,
        mfa_device=identity.mfa_device,
        active_requests=identity.active_requests,
        impersonator=identity.impersonator,
    )
