"""Whether a second factor is due for one session or one call, and whether it was given. Pure.

It counts as given by the mark in a certificate, and only for the one target that the certificate names; for an SSH
session also by a lease: of the same user and the same key, from the address for which a proxy vouches, in force, and
only where a role that sets `mfa_lease_ttl` gives the permit. Nothing in view means: not given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from teleport.authz.decision import AccessDenial, ClusterDefaults, DenialCode
from teleport.errors import CALL_FACTOR_DUE, SECOND_FACTOR_DUE
from teleport.identity import MFA_API, MFA_KUBE, RemoteOrigin, UserIdentity
from teleport.resources.mfa_lease import MfaLease
from teleport.resources.names import canonical_address
from teleport.resources.role import Role

BY_TSH = "tsh ssh asks for it"
BY_LEASE = "tsh ssh asks for it; so does plain ssh through the proxy, in a terminal and without BatchMode"
BY_KUBECTL = "tsh kube login asks for it, and so do kubectl by the context that it made and tsh join, in a terminal"


@dataclass(frozen=True, slots=True)
class SecondFactor:
    """One that was given. `lease` is what it rests on; None: the certificate."""

    device: str
    lease: MfaLease | None = None


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """What of a connection a lease has to fit."""

    key: str  # fingerprint of the key that was proved
    client_address: str  # for which a proxy vouched; empty when none did
    now: datetime


def demands(roles: Sequence[Role], cluster: ClusterDefaults) -> tuple[str, ...]:
    """Who asks for a second factor, as reasons for the record; empty when nobody does."""
    found = tuple(
        f"role {role.name!r} requires MFA for each session" for role in roles if role.options.require_session_mfa
    )
    return found or (("the cluster requires MFA for each session",) if cluster.require_session_mfa else ())


def given_by_certificate(identity: UserIdentity, target: str) -> SecondFactor | None:
    """The factor that the certificate is marked with, if it was proved for `target`."""
    if not identity.mfa_device or not target or identity.mfa_target != target:
        return None
    return SecondFactor(identity.mfa_device)


def kube_target(kube_cluster: str) -> str:
    """What a certificate for one Kubernetes cluster is marked with. No host's UUID and no other target is equal to it;
    empty where no cluster is named: then no mark is right."""
    return MFA_KUBE + kube_cluster if kube_cluster else ""


def once_open(identity: UserIdentity) -> UserIdentity:
    """The identity for what is open already: one of a certificate for a session goes on until the end of the login that
    it came from, every other one until its own."""
    if not identity.mfa_target or identity.login_expires is None:
        return identity
    return replace(identity, expires=identity.login_expires)


def given_by_lease(
    identity: UserIdentity, request: LeaseRequest, leases: Sequence[MfaLease], granting: Sequence[Role]
) -> SecondFactor | None:
    """The factor that a lease stands for. `granting` are the roles that give the permit."""
    lifetimes = [role.options.mfa_lease_ttl.timedelta for role in granting if role.options.mfa_lease_ttl]
    address = canonical_address(request.client_address)
    if not lifetimes or not request.key or not address:
        return None
    for lease in leases:
        spec = lease.spec
        if (
            spec.user == identity.name
            and spec.key == request.key
            and spec.client_address == address
            and lease.in_force(request.now)
            # a lifetime that was shortened since counts at once
            and request.now < spec.granted + min(lifetimes)
        ):
            return SecondFactor(spec.device, lease)
    return None


def can_lease(roles: Sequence[Role], cluster: ClusterDefaults) -> bool:
    """Whether a lease can be of use with these roles: a second factor is asked for, and one of them gives leases."""
    return bool(demands(roles, cluster)) and any(role.options.mfa_lease_ttl for role in roles)


def may_come(denial: AccessDenial) -> bool:
    """Whether a lease that was just made, and is not in view yet, could change the answer."""
    return denial.code is DenialCode.MFA_REQUIRED and denial.hint == BY_LEASE


def due_denial(identity: UserIdentity, reasons: tuple[str, ...], by: str) -> AccessDenial:
    """The refusal, of its own code; `by`: what asks for the second factor. Who is of another cluster has none here, and
    is refused for good."""
    if identity.origin is not None:
        return _cannot_prove(identity.origin, reasons)
    return AccessDenial(DenialCode.MFA_REQUIRED, SECOND_FACTOR_DUE, reasons, by)


def _cannot_prove(origin: RemoteOrigin, reasons: tuple[str, ...]) -> AccessDenial:
    return AccessDenial(
        DenialCode.MFA_REQUIRED,  # so that the host is no secret to them, and these words are what they hear
        f"A second factor is asked for here, and users of the cluster {origin.cluster} cannot give one here.",
        reasons,
        "ask an administrator of this cluster to map your role to one without require_session_mfa",
    )


def call_denial(identity: UserIdentity, roles: Sequence[Role], cluster: ClusterDefaults) -> AccessDenial | None:
    """The refusal of a call that reveals a secret or plays a recording, where a second factor is due for it and was not
    given; None when nothing stands in the way."""
    asked = demands(roles, cluster)
    if not asked or given_by_certificate(identity, MFA_API) is not None:
        return None
    if identity.origin is not None:
        return _cannot_prove(identity.origin, asked)
    return AccessDenial(DenialCode.MFA_REQUIRED, CALL_FACTOR_DUE, asked, "run it in a terminal, where it is asked for")
