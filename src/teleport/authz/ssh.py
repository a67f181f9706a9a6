"""The decision about an SSH session: may this identity log in as this account on this host now, and under which terms.

Order (`resources.md` 5): the certificate itself, locks (and whether they are known), deny over all roles, MFA, then
allow, where namespace, labels and login have to match within one role (`host_rules`). The login also has to be one of
the certificate's. The node obeys the permit and never looks at a role. The function is pure and cheap, so that it is
asked again while a session is open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from types import MappingProxyType

from teleport.authz.certificate import certificate_denial, unpinned_denial
from teleport.authz.channels import ChannelDenies, ChannelTerms, RoleGrant
from teleport.authz.decision import AccessDenial, DenialCode, Policy
from teleport.authz.host_rules import HostRules, Target
from teleport.authz.host_users import groups_to_make
from teleport.authz.joining import Requirement, requirements, without_unattended
from teleport.authz.labels import AmbiguousLabels, canonical_labels
from teleport.authz.locks import Locked, find_lock, locked_denial, locks_unknown_denial, user_lock_denial
from teleport.authz.roles import RoleSet
from teleport.authz.session_mfa import (
    BY_LEASE,
    BY_TSH,
    LeaseRequest,
    SecondFactor,
    can_lease,
    demands,
    due_denial,
    given_by_certificate,
    given_by_lease,
)
from teleport.identity import UserIdentity
from teleport.resources.lock import Lock
from teleport.resources.metadata import DEFAULT_NAMESPACE
from teleport.resources.mfa_lease import MfaLease
from teleport.resources.names import is_unix_login
from teleport.resources.role import Conditions, Role


@dataclass(frozen=True, slots=True)
class SSHAccessRequest:
    """Who wants what, where, when. `client_address` is the true address of the client, not of a proxy."""

    identity: UserIdentity
    login: str
    cluster: str
    now: datetime
    node_id: str
    node_hostname: str = ""
    node_labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))  # static and dynamic
    namespace: str = DEFAULT_NAMESPACE
    client_address: str = ""
    locks: Sequence[Lock] = ()
    key: str = ""  # fingerprint of the key that the client proved
    vouched: bool = False  # whether a proxy vouched for `client_address`: leases count only then
    leases: Sequence[MfaLease] = ()
    joinable: bool = True  # whether others can be in a session there: who needs them gets none where they cannot


@dataclass(frozen=True, slots=True)
class SSHAccessPermit:
    """Yes, under these terms. Zero and None mean: no limit. Neither a credential nor stored."""

    user: str
    login: str
    roles: tuple[str, ...]  # those that grant it
    max_sessions: int  # session channels of one connection
    max_connections: int  # connections of the user in the cluster
    client_idle_timeout: timedelta
    disconnect_expired_cert: datetime | None  # when to end the connection, if the certificate's end has to
    record: bool
    enhanced_recording: tuple[str, ...]
    mfa_verified: bool
    client_idle_timeout_message: str = ""  # told to the user when the idle time has passed
    channels: ChannelTerms = field(default_factory=ChannelTerms)  # what may be asked for on the connection
    host_groups: tuple[str, ...] | None = None  # of the account, which is made where it is missing; None: it is not
    required_joins: tuple[Requirement, ...] = ()  # who has to be in a session for anything to be done there
    lease: MfaLease | None = None  # what the second factor rests on, where one was asked for and a lease gave it


def evaluate_ssh_access(request: SSHAccessRequest, policy: Policy) -> SSHAccessPermit | AccessDenial:
    """The permit, or the denial with a reason for each role."""
    identity = request.identity
    refused = _certificate(request) or _locked(request)
    if refused is not None:
        return refused
    try:
        target = Target(request.namespace, canonical_labels(request.node_labels))
    except AmbiguousLabels as error:
        return _denial(DenialCode.BAD_REQUEST, request, f"node {request.node_id}: {error}")
    rules = HostRules.of(identity, policy)
    roles, since = rules.roles, rules.since
    refused = rules.refused(policy)
    if refused is not None:
        return refused

    unknown = [f"role {name!r} does not exist" for name in roles.unknown]
    hits = list(rules.denials(request.login, target))
    if hits:
        return _denial(DenialCode.DENIED_BY_ROLE, request, *hits, *unknown)
    asked_each = list(rules.grants(request.login, target))
    granting = [role for role, why in asked_each if not why]
    if not granting:
        reasons = [f"role {role.name!r} {why}" for role, why in asked_each]
        return _denial(DenialCode.NOT_GRANTED, request, *reasons, *unknown)
    required = requirements((*roles.own, *since))
    if required and not request.joinable:
        return AccessDenial(
            DenialCode.NOT_GRANTED,
            "Your roles ask for somebody else in your sessions, and on this host nobody can be.",
            tuple(f"role {one.role!r} requires {one}" for one in required),
            "use a host that runs teleport itself: tsh ls",
        )
    # Only a caller who would otherwise be let in learns that MFA is due.
    given = given_by_certificate(identity, request.node_id)
    if given is None and (asked := demands(granting, policy.cluster)):
        given = _leased(request, granting)
        if given is None:
            return due_denial(identity, asked, BY_LEASE if can_lease(granting, policy.cluster) else BY_TSH)
        lock = find_lock(request.locks, Locked(mfa_device=given.device), request.now)
        if lock is not None:
            return locked_denial(lock)
    return _permit(request, policy, roles, granting, given, since)


def _leased(request: SSHAccessRequest, granting: Sequence[Role]) -> SecondFactor | None:
    address = request.client_address if request.vouched else ""
    asked = LeaseRequest(request.key, address, request.now)
    return given_by_lease(request.identity, asked, request.leases, granting)


def why_no_session(
    identity: UserIdentity,
    policy: Policy,
    *,
    cluster: str,
    now: datetime,
    client_address: str,
    locks: Sequence[Lock] = (),
) -> AccessDenial | None:
    """What forbids the identity every session, on whatever host and as whatever account; None when nothing does.

    It says nothing of hosts, so that it may be told where none was named.
    """
    refused = why_nothing(identity, policy, cluster=cluster, now=now, client_address=client_address, locks=locks)
    if refused is not None or identity.logins:
        return refused
    counting = RoleSet.build(identity.roles, policy.roles, identity.traits)
    return AccessDenial(
        DenialCode.NOT_GRANTED,
        f"Your roles ({', '.join(role.name for role in counting.own)}) gave you no login on any host.",
        ("the certificate holds no login",),
        "ask an administrator for a role with logins, then tsh login",
    )


def why_nothing(
    identity: UserIdentity,
    policy: Policy,
    *,
    cluster: str,
    now: datetime,
    client_address: str,
    locks: Sequence[Lock] = (),
) -> AccessDenial | None:
    """As `why_no_session`, where no login is needed: in sessions in pods."""
    refused = certificate_denial(identity, cluster=cluster, now=now, client_address=client_address)
    if refused is not None:
        return refused
    locked = user_lock_denial(identity, locks, now)
    if locked is not None:
        return locked
    counting = RoleSet.build(identity.roles, policy.roles, identity.traits)
    since = RoleSet.build(identity.denying, policy.roles, identity.traits).own
    unsure = locks_unknown_denial(RoleSet((*since, *counting.roles)), policy)
    if unsure is not None:
        return unsure
    if not counting.own:
        reasons = tuple(f"role {name!r} does not exist" for name in counting.unknown)
        return AccessDenial(
            DenialCode.NOT_GRANTED,
            "You have no role any more of those that your certificate names.",
            reasons or ("the user has none of the roles of the certificate any more",),
            "ask an administrator for a role, then tsh login",
        )
    return unpinned_denial(identity, counting)


def asking_auth(identity: UserIdentity) -> UserIdentity:
    """For `why_no_session`: somebody who only asks an auth service, as people do who have Kubernetes clusters and no
    hosts. That needs no login, and everything else that is said there."""
    return identity if identity.logins else replace(identity, logins=("-",))  # no account can be called so


def why_out_of_reach(
    identity: UserIdentity,
    policy: Policy,
    *,
    cluster: str,
    now: datetime,
    node_id: str,
    node_labels: Mapping[str, str],
    namespace: str = DEFAULT_NAMESPACE,
) -> tuple[str, ...]:
    """Why none of the identity's logins would be let in on a host with these labels; empty when one would be.

    Locks do not count, a certificate that is pinned to an address is taken to come from there, and a second factor
    that is due is taken for given: all three are asked about when a session is opened.
    """
    reasons: list[str] = []
    for login in identity.logins:
        request = SSHAccessRequest(
            identity=identity,
            login=login,
            cluster=cluster,
            now=now,
            node_id=node_id,
            node_labels=node_labels,
            namespace=namespace,
            client_address=identity.source_ip,
        )
        decision = evaluate_ssh_access(request, policy)
        if isinstance(decision, SSHAccessPermit) or decision.code is DenialCode.MFA_REQUIRED:
            return ()
        reasons += [f"as {login}: {reason}" for reason in decision.reasons]
    return tuple(reasons) or ("the certificate holds no login",)


def why_second_factor_due(request: SSHAccessRequest, policy: Policy) -> AccessDenial | None:
    """The refusal of whoever wants to go to a host where every login that lets in asks for a second factor that was not
    given. `request.login` does not count: who leads somebody to a host does not learn of it. None: nothing is due."""
    due: AccessDenial | None = None
    for login in request.identity.logins:
        decision = evaluate_ssh_access(replace(request, login=login), policy)
        if isinstance(decision, SSHAccessPermit):
            return None
        if decision.code is DenialCode.MFA_REQUIRED:
            due = decision
    return due


def lease_lifetime(
    identity: UserIdentity,
    policy: Policy,
    *,
    key: str,
    client_address: str,
    leases: Sequence[MfaLease],
    now: datetime,
) -> timedelta | None:
    """How long a lease would be that is of use to the identity: it has none, a second factor can be asked of it, and a
    role of its gives leases. None when there is nothing to ask for."""
    roles = RoleSet.build(identity.roles, policy.roles, identity.traits)
    if identity.mfa_target or not can_lease(roles.own, policy.cluster):
        return None
    if given_by_lease(identity, LeaseRequest(key, client_address, now), leases, roles.own) is not None:
        return None
    return roles.options.mfa_lease_ttl


def _permit(
    request: SSHAccessRequest,
    policy: Policy,
    roles: RoleSet,
    granting: list[Role],
    given: SecondFactor | None,
    since: Sequence[Role],
) -> SSHAccessPermit:
    options = roles.options
    cluster = policy.cluster
    idle = [timeout for timeout in (options.client_idle_timeout, cluster.client_idle_timeout) if timeout]
    disconnect = options.disconnect_expired_cert or cluster.disconnect_expired_cert
    lease = given.lease if given is not None else None
    # a certificate for one session lives for a minute: its session may last as long as the login that it came from
    end = request.identity.login_expires or request.identity.expires
    if lease is not None:
        end = min(end, lease.spec.expires)
    channels = ChannelTerms(
        port_forwarding=options.port_forwarding,
        forward_agent=options.forward_agent,
        x11_forwarding=options.permit_x11_forwarding,
        grants=tuple(RoleGrant.of(role) for role in granting),
        denies=_channel_denies((*roles.roles, *since), request.namespace),
    )
    required = requirements((*roles.own, *since))
    return SSHAccessPermit(
        user=request.identity.name,
        login=request.login,
        roles=tuple(role.name for role in granting),
        max_sessions=options.max_sessions,
        max_connections=options.max_connections,
        client_idle_timeout=min(idle, default=timedelta(0)),
        disconnect_expired_cert=end if disconnect else None,
        record=cluster.record_sessions,
        enhanced_recording=options.enhanced_recording,
        mfa_verified=given is not None,
        client_idle_timeout_message=cluster.client_idle_timeout_message,
        channels=without_unattended(channels) if required else channels,
        host_groups=groups_to_make(granting, (*roles.roles, *since)),
        required_joins=required,
        lease=lease,
    )


def _channel_denies(roles: Sequence[Role], namespace: str) -> ChannelDenies:
    denying = [role.deny for role in roles if _namespace_matches(role.deny, namespace)]
    return ChannelDenies(
        forward_to=tuple(entry for deny in denying for entry in deny.forward_to or ()),
        listen_on=tuple(entry for deny in denying for entry in deny.listen_on or ()),
    )


def _certificate(request: SSHAccessRequest) -> AccessDenial | None:
    """What the certificate alone says against the request."""
    identity = request.identity
    refused = certificate_denial(
        identity, cluster=request.cluster, now=request.now, client_address=request.client_address
    )
    if refused is not None:
        return refused
    if not is_unix_login(request.login) or request.login not in identity.logins:
        logins = ", ".join(login for login in identity.logins if is_unix_login(login)) or "none"
        return AccessDenial(
            DenialCode.LOGIN_NOT_IN_CERTIFICATE,
            f"Your certificate does not hold the login {request.login[:64]!r}; its logins are: {logins}.",
            (f"login {request.login[:64]!r} is not in the certificate",),
            "use one of these; tsh ls shows which of them you may use where",
        )
    return None


def find_session_lock(request: SSHAccessRequest) -> Lock | None:
    """The first lock in force that stops the request."""
    identity = request.identity
    subject = Locked(
        user=identity.name,
        roles=(*identity.roles, *identity.denying),
        login=request.login,
        nodes=(request.node_id, request.node_hostname),
        mfa_device=identity.mfa_device,
        serial=identity.serial,
        login_serial=identity.login_serial,
    )
    return find_lock(request.locks, subject, request.now)


def _locked(request: SSHAccessRequest) -> AccessDenial | None:
    lock = find_session_lock(request)
    return None if lock is None else locked_denial(lock)


def _denial(code: DenialCode, request: SSHAccessRequest, *reasons: str) -> AccessDenial:
    """One sentence for every way in which roles refuse: it must not tell which hosts and rules there are."""
    return AccessDenial(
        code,
        f"Your roles do not allow the login {request.login!r} on this host.",
        reasons or ("the certificate names no role",),
        "tsh ls shows the hosts that you may reach, and the logins there",
    )


def _namespace_matches(conditions: Conditions, namespace: str) -> bool:
    return any(name in {"*", namespace} for name in conditions.effective_namespaces)
