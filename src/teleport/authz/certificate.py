"""What a certificate alone says against a request, whatever is asked: the same for sessions and for the API."""

from __future__ import annotations

from datetime import datetime

from teleport.authz.decision import AccessDenial, DenialCode
from teleport.authz.roles import RoleSet
from teleport.clock import rfc3339
from teleport.identity import HostIdentity, UserIdentity
from teleport.resources.names import canonical_address


def certificate_denial(
    identity: UserIdentity | HostIdentity, *, cluster: str, now: datetime, client_address: str
) -> AccessDenial | None:
    """Expired, of another cluster, or pinned to another address than `client_address`; None when nothing is wrong.

    An empty `cluster` or address is never the right one.
    """
    if now >= identity.expires:
        when = rfc3339(identity.expires)
        return AccessDenial(
            DenialCode.EXPIRED, f"Your certificate expired at {when}.", (f"certificate expired at {when}",), "tsh login"
        )
    if not cluster or identity.cluster != cluster:
        return AccessDenial(
            DenialCode.WRONG_CLUSTER,
            f"Your certificate is of the cluster {identity.cluster!r}, not of this one.",
            (f"certificate of cluster {identity.cluster!r}, this is {cluster!r}",),
            "tsh login",
        )
    if isinstance(identity, UserIdentity) and identity.source_ip:
        pinned = canonical_address(identity.source_ip)
        if not pinned or pinned != canonical_address(client_address):
            return AccessDenial(
                DenialCode.WRONG_ADDRESS,
                f"Your certificate holds only from {identity.source_ip}: it holds for the address of its login.",
                (f"pinned to {identity.source_ip}, came from {client_address or 'an unknown address'}",),
                "connect from there, or tsh login from here",
            )
    return None


def unpinned_denial(identity: UserIdentity, roles: RoleSet) -> AccessDenial | None:
    """What roles with `pin_source_ip` say against a certificate that holds from everywhere, made before they did."""
    if identity.source_ip or not roles.options.pin_source_ip:
        return None
    pinning = ", ".join(repr(role.name) for role in roles.own if role.options.pin_source_ip)
    return AccessDenial(
        DenialCode.WRONG_ADDRESS,
        "Your roles bind certificates to the address of the login, and yours is bound to none.",
        (f"the role {pinning} pins source addresses, the certificate has no pin",),
        "tsh login",
    )
