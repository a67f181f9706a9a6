"""What a change of roles does to access, told before it is made: who gains or loses which login on which host, and
which open sessions end.

Nothing is decided here: `authz.ssh` is asked twice, with the roles as they are and as they would be. So what is told
can never differ from what the nodes decide afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from teleport.authz.decision import AccessDenial, DenialCode, Policy
from teleport.authz.roles import NO_LOGIN_PRINCIPAL_PREFIX, RoleSet
from teleport.authz.ssh import SSHAccessPermit, SSHAccessRequest, evaluate_ssh_access
from teleport.errors import AccessDenied
from teleport.identity import UserIdentity

_ASSUMED_DEVICE: Final = "-"  # no device has this name: a second factor that is due does not take access away
_ASSUMED_ADDRESS: Final = "192.0.2.1"  # of documentation (RFC 5737): whoever logs in comes from there
_NOBODY: Final = NO_LOGIN_PRINCIPAL_PREFIX + "nobody"


@dataclass(frozen=True, slots=True)
class Somebody:
    """A user, as far as roles are concerned."""

    name: str
    roles: tuple[str, ...]
    traits: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Host:
    """A registered node, as far as roles are concerned."""

    node_id: str
    hostname: str
    labels: Mapping[str, str]
    namespace: str


@dataclass(frozen=True, slots=True)
class Change:
    """One login of one user on one host, gained or lost; for a loss the reasons of the refusal."""

    user: str
    login: str
    host: Host
    gained: bool
    reasons: tuple[str, ...] = ()


def login_identity(somebody: Somebody, policy: Policy, *, cluster: str, now: datetime, ttl: timedelta) -> UserIdentity:
    """What a login of `ttl` would give this user now; without any login when its roles give none for so long."""
    roles = RoleSet.build(somebody.roles, policy.roles, somebody.traits)
    lifetime = roles.session_ttl(ttl)
    try:
        logins = roles.logins(lifetime, _NOBODY)
    except AccessDenied:
        logins = ()
    return UserIdentity(
        name=somebody.name,
        cluster=cluster,
        roles=somebody.roles,
        logins=tuple(login for login in logins if login != _NOBODY),
        expires=now + max(lifetime, timedelta(minutes=1)),
        traits=somebody.traits,
        mfa_device=_ASSUMED_DEVICE,
        source_ip=_ASSUMED_ADDRESS if roles.options.pin_source_ip else "",
    )


def changed_access(
    users: Iterable[Somebody],
    hosts: Sequence[Host],
    before: Policy,
    after: Policy,
    *,
    cluster: str,
    now: datetime,
    ttl: timedelta,
) -> Iterator[Change]:
    """What each user gains and loses on each host, in their order. Locks do not count: they come and go by themselves.

    Users of the same roles and traits, and hosts of the same labels, are decided about once.
    """
    alike: dict[tuple[object, ...], dict[tuple[object, ...], tuple[Change, ...]]] = {}
    for somebody in users:
        traits = tuple(sorted((name, tuple(values)) for name, values in somebody.traits.items()))
        known = alike.setdefault((somebody.roles, traits), {})
        identities = [login_identity(somebody, policy, cluster=cluster, now=now, ttl=ttl) for policy in (before, after)]
        for host in hosts:
            kind = (host.namespace, frozenset(host.labels.items()))
            if kind not in known:
                known[kind] = tuple(_changes(identities[0], identities[1], host, before, after, cluster, now))
            yield from (replace(change, user=somebody.name, host=host) for change in known[kind])


def _changes(
    old: UserIdentity, new: UserIdentity, host: Host, before: Policy, after: Policy, cluster: str, now: datetime
) -> Iterator[Change]:
    for login in sorted({*old.logins, *new.logins}):
        had, has = (_decided(one, login, host, policy, cluster, now) for one, policy in ((old, before), (new, after)))
        if isinstance(had, AccessDenial) and isinstance(has, SSHAccessPermit):
            yield Change(old.name, login, host, gained=True)
        elif isinstance(had, SSHAccessPermit) and isinstance(has, AccessDenial):
            yield Change(old.name, login, host, gained=False, reasons=has.reasons)


def _decided(
    identity: UserIdentity, login: str, host: Host, policy: Policy, cluster: str, now: datetime
) -> SSHAccessPermit | AccessDenial:
    request = SSHAccessRequest(
        identity=replace(identity, mfa_target=host.node_id),
        login=login,
        cluster=cluster,
        now=now,
        node_id=host.node_id,
        node_hostname=host.hostname,
        node_labels=host.labels,
        namespace=host.namespace,
        client_address=identity.source_ip,
    )
    return evaluate_ssh_access(request, policy)


def why_session_ends(request: SSHAccessRequest, before: Policy, after: Policy) -> tuple[str, ...]:
    """Why the open session that `request` stands for ends by the change; empty when it goes on, or ends anyway.

    As at the node: the end of a certificate ends no session by itself.
    """
    lasting = max(request.identity.expires, request.now + timedelta(seconds=1))
    request = replace(request, identity=replace(request.identity, expires=lasting))
    now = evaluate_ssh_access(request, before)
    if isinstance(now, AccessDenial) and now.code is DenialCode.MFA_REQUIRED:
        # It is open: a lease let it in that has lapsed since.
        marked = replace(request.identity, mfa_device=_ASSUMED_DEVICE, mfa_target=request.node_id)
        request = replace(request, identity=marked)
        now = evaluate_ssh_access(request, before)
    if isinstance(now, AccessDenial):
        return ()
    decision = evaluate_ssh_access(request, after)
    return decision.reasons if isinstance(decision, AccessDenial) else ()
