"""Whether a lock stops somebody or something (`resources.md` 9): plain comparison, one match is enough.

Hosts are compared in their canonical form, so that another spelling of a name does not escape its lock.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from teleport.authz.decision import AccessDenial, DenialCode, Policy
from teleport.authz.roles import RoleSet
from teleport.clock import how_long
from teleport.identity import HostIdentity, SystemRole, UserIdentity
from teleport.resources.lock import Lock
from teleport.resources.names import canonical_host
from teleport.resources.role import RoleLocking


@dataclass(frozen=True, slots=True)
class Locked:
    """What is about to act, or to be reached."""

    user: str = ""
    roles: Sequence[str] = ()
    login: str = ""
    nodes: Sequence[str] = ()  # UUID and names of one host
    mfa_device: str = ""
    serial: str = ""  # of the certificate shown
    session: str = ""  # UUID of one that runs
    login_serial: str = ""  # of the login that a certificate for one session came from: what ends that ends this


LOCKS_HOLD: Final = 300.0  # seconds after which locks that were not heard of anew are not known any more


def locks_unknown_denial(roles: RoleSet, policy: Policy) -> AccessDenial | None:
    """The refusal where nobody can tell whether there is a lock: the locks are old, and a role or the cluster is strict
    about that. Otherwise the last locks that were heard of count (`resources.md` 9)."""
    if policy.age <= LOCKS_HOLD:
        return None
    strict = [f"role {role.name!r}" for role in roles.own if role.options.lock is RoleLocking.STRICT]
    strict += ["the cluster"] if policy.cluster.strict_locks else []
    if not strict:
        return None
    since = "never" if math.isinf(policy.age) else f"not for {how_long(policy.age)}"
    reason = f"locks were heard of {since}, and {', '.join(strict)} is strict about that"
    return AccessDenial(
        DenialCode.LOCKS_UNKNOWN,
        "Whether access is locked is not known here now.",
        (reason,),
        "try again; if it stays so, tell an administrator that this host does not reach auth",
    )


def find_lock(locks: Iterable[Lock], subject: Locked, now: datetime) -> Lock | None:
    """The first lock in force that stops `subject`."""
    nodes = {canonical_host(node) for node in subject.nodes if node}
    roles = {_same(role) for role in subject.roles if role}
    for lock in locks:
        if not lock.in_force(now):
            continue
        target = lock.spec.target
        if (
            (target.user and _same(target.user) == _same(subject.user))
            or (target.role and _same(target.role) in roles)
            or (target.login and target.login == subject.login)
            or (target.node and canonical_host(target.node) in nodes)
            or (target.mfa_device and target.mfa_device == subject.mfa_device)
            or (target.session and target.session == subject.session)
            or (target.serial and target.serial in (subject.serial, subject.login_serial))
        ):
            return lock
    return None


def describe(lock: Lock) -> str:
    """The lock as a reason for the record."""
    message = f": {lock.spec.message}" if lock.spec.message else ""
    return f"lock {lock.name} on {lock.spec.target}{message}"


def locked_denial(lock: Lock) -> AccessDenial:
    """The refusal by a lock. Why there is one is for the record, not for whom it stops."""
    hint = "ask an administrator, who finds the lock with tctl access explain"
    return AccessDenial(DenialCode.LOCKED, "Access is locked.", (describe(lock),), hint)


def user_lock_denial(identity: UserIdentity, locks: Sequence[Lock], now: datetime) -> AccessDenial | None:
    """The refusal by a lock on a user, one of the roles (those that only deny as well), the second factor or the
    certificate."""
    roles = (*identity.roles, *identity.denying)
    subject = Locked(
        user=identity.name,
        roles=roles,
        mfa_device=identity.mfa_device,
        serial=identity.serial,
        login_serial=identity.login_serial,
    )
    lock = find_lock(locks, subject, now)
    return None if lock is None else locked_denial(lock)


def host_lock_denial(identity: HostIdentity, locks: Sequence[Lock], now: datetime) -> AccessDenial | None:
    """The refusal by a lock on the host or its certificate. The auth host's own administrator is told how to lift one
    on the host."""
    lock = find_lock(locks, Locked(nodes=(identity.host_id,), serial=identity.serial), now)
    if lock is None:
        return None
    denial = locked_denial(lock)
    if identity.role is SystemRole.ADMIN and not lock.spec.target.serial:
        return replace(denial, hint=f"a lock stops this host; to lift it: tctl rm lock/{lock.name}")
    return denial


def _same(name: str) -> str:
    return unicodedata.normalize("NFC", name)
