"""An SSH decision explained: every reason that stands in the way, or which roles each part of a permit comes from.

Nothing is decided here. `authz.ssh` is asked; where it refuses, it is asked again as if that one obstacle were gone, so
that a lock does not hide a missing role. What is explained can therefore never differ from what is decided.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta

from teleport.authz.channels import RoleGrant
from teleport.authz.decision import AccessDenial, DenialCode, Policy
from teleport.authz.roles import IMPLICIT_ROLE, CombinedOptions, RoleSet
from teleport.authz.ssh import SSHAccessPermit, SSHAccessRequest, evaluate_ssh_access, find_session_lock
from teleport.clock import how_long
from teleport.resources.names import is_unix_login
from teleport.resources.role import ExecMode, FileTransfer

CLUSTER = "the cluster's settings"
_ROUNDS = 1000  # as many locks as may stand in the way of one session
_ASSUMED_DEVICE = "-"  # no device has this name


@dataclass(frozen=True, slots=True)
class Part:
    """One term of a permit, and whose it is. Without `sources` nothing sets it, and the usual value holds."""

    name: str
    value: str
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """The decision; what else would refuse; and, for a permit, its parts."""

    decision: SSHAccessPermit | AccessDenial
    denials: tuple[AccessDenial, ...] = ()
    parts: tuple[Part, ...] = ()


def explain_ssh_access(request: SSHAccessRequest, policy: Policy) -> Explanation:
    """The decision of `evaluate_ssh_access`, with everything that it rests on."""
    first = decision = evaluate_ssh_access(request, policy)
    if isinstance(first, SSHAccessPermit):
        return Explanation(first, parts=_parts(request, policy, first))
    denials: list[AccessDenial] = []
    for _ in range(_ROUNDS):
        if isinstance(decision, SSHAccessPermit):
            break
        denials.append(decision)
        without = _without(decision.code, request)
        if without is None:
            break
        request = without
        decision = evaluate_ssh_access(request, policy)
    return Explanation(first, tuple(denials))


def _without(code: DenialCode, request: SSHAccessRequest) -> SSHAccessRequest | None:
    """The request as if what refused it were not there; None when there is nothing to take away."""
    match code:
        case DenialCode.LOCKED:
            stops = find_session_lock(request)
            return replace(request, locks=tuple(lock for lock in request.locks if lock is not stops))
        case DenialCode.LOGIN_NOT_IN_CERTIFICATE if is_unix_login(request.login):
            return replace(request, identity=replace(request.identity, logins=(request.login,)))
        case DenialCode.WRONG_CLUSTER:
            return replace(request, identity=replace(request.identity, cluster=request.cluster))
        case DenialCode.EXPIRED:
            later = replace(request.identity, expires=request.now + timedelta(hours=1))
            return replace(request, identity=later)
        case DenialCode.MFA_REQUIRED:
            marked = replace(request.identity, mfa_device=_ASSUMED_DEVICE, mfa_target=request.node_id)
            return replace(request, identity=marked)
    return None


def _parts(request: SSHAccessRequest, policy: Policy, permit: SSHAccessPermit) -> tuple[Part, ...]:
    roles = RoleSet.build(request.identity.roles, policy.roles, request.identity.traits)
    cluster = policy.cluster

    def of(read: Callable[[CombinedOptions], object]) -> tuple[str, ...]:
        """The roles that have by themselves what all together come to."""
        value = read(roles.options)
        if not value:
            return ()
        alone = {role.name: read(RoleSet((role, IMPLICIT_ROLE)).options) for role in roles.own}
        return tuple(role for role, found in alone.items() if found and (found == value or isinstance(value, tuple)))

    idle = permit.client_idle_timeout
    idle_sources = of(lambda o: o.client_idle_timeout) if roles.options.client_idle_timeout == idle else ()
    idle_sources += (CLUSTER,) if idle and cluster.client_idle_timeout == idle else ()
    disconnect = of(lambda o: o.disconnect_expired_cert)
    disconnect += (CLUSTER,) if cluster.disconnect_expired_cert else ()
    lease = roles.options.mfa_lease_ttl
    mfa = of(lambda o: o.require_session_mfa) + ((CLUSTER,) if cluster.require_session_mfa else ())
    return (
        Part("login and host", f"{permit.login}, by labels", permit.roles),
        *_files_and_commands(permit),
        Part("agent forwarding", _yes(permit.channels.forward_agent), of(lambda o: o.forward_agent)),
        Part("port forwarding", _yes(permit.channels.port_forwarding), of(lambda o: o.port_forwarding)),
        *_forwards(permit, roles),
        Part("X11 forwarding", _yes(permit.channels.x11_forwarding), of(lambda o: o.permit_x11_forwarding)),
        Part("sessions on a connection", _limit(permit.max_sessions), of(lambda o: o.max_sessions)),
        Part("connections", _limit(permit.max_connections), of(lambda o: o.max_connections)),
        Part("idle time", how_long(idle.total_seconds()) if idle else "no limit", idle_sources),
        Part("ends with the certificate", _yes(permit.disconnect_expired_cert is not None), disconnect),
        Part("bound to the address of the login", _yes(roles.options.pin_source_ip), of(lambda o: o.pin_source_ip)),
        Part("second factor", "given" if permit.mfa_verified else "not asked for", mfa),
        Part("lease of a second factor", how_long(lease.total_seconds()) if lease else "none", of(_lease)),
        Part("who has to be there", _required(permit), tuple(one.role for one in permit.required_joins)),
        Part("account that is missing", _made(permit.host_groups), _makers(permit, roles)),
        Part("recorded", _yes(permit.record), (CLUSTER,)),
        Part(
            "enhanced recording",
            ", ".join(permit.enhanced_recording) or "none",
            of(lambda o: o.enhanced_recording),
        ),
    )


def _files_and_commands(permit: SSHAccessPermit) -> Iterator[Part]:
    """What may be run and which files may move: by role, since each counts for itself."""
    grants = permit.channels.grants
    shells = tuple(one.role for one in grants if one.exec is ExecMode.ALL and not one.commands)
    yield Part("shell and all commands", _yes(bool(shells)), shells)
    for grant in grants:
        if grant.exec is ExecMode.ALL and grant.commands:
            yield Part("commands", ", ".join(grant.commands), (grant.role,))
    for grant in grants:
        yield Part("file transfer", _files(grant, advice=bool(shells)), (grant.role,))


def _files(grant: RoleGrant, *, advice: bool) -> str:
    rules = grant.file_transfer
    if grant.exec is ExecMode.NONE or (grant.exec is ExecMode.ALL and grant.commands):
        return "none"
    ways = []
    for way, allowed, paths in (
        ("download", rules.download, rules.download_paths),
        ("upload", rules.upload, rules.upload_paths),
    ):
        if allowed:
            ways.append(way if paths is None else f"{way} of {', '.join(paths) or 'nothing'}")
    text = "; ".join(ways) or "none"
    text += f"; never {', '.join(rules.deny_paths)}" if rules.deny_paths else ""
    text += f"; files up to {rules.max_file_size} bytes" if rules.max_file_size else ""
    return f"{text} (advice: the role gives a shell)" if advice and rules != FileTransfer() else text


def _forwards(permit: SSHAccessPermit, roles: RoleSet) -> tuple[Part, ...]:
    """Where forwards may lead and where a client may have something listened for: what one role allows is allowed."""
    terms = permit.channels
    if not terms.port_forwarding:
        return ()
    found: dict[tuple[str, str], list[str]] = {}
    for grant in terms.grants:
        to = "anywhere but reserved ports" if grant.forward_to is None else ", ".join(grant.forward_to) or "nowhere"
        at = "loopback" if grant.listen_on is None else ", ".join(grant.listen_on) or "nowhere"
        for name, value, on in (
            ("forwards lead to", to, grant.local_forwarding),
            ("listens for the client at", at, grant.remote_forwarding),
        ):
            found.setdefault((name, value if on else "nowhere"), []).append(grant.role)
    parts = [Part(name, value, tuple(whose)) for (name, value), whose in sorted(found.items())]
    for name, denied, field in (
        ("forwards never lead to", terms.denies.forward_to, "forward_to"),
        ("never listens at", terms.denies.listen_on, "listen_on"),
    ):
        if denied:
            whose = tuple(role.name for role in roles.own if getattr(role.deny, field))
            parts.append(Part(name, ", ".join(denied), whose))
    return tuple(parts)


def _lease(options: CombinedOptions) -> timedelta:
    return options.mfa_lease_ttl


def _required(permit: SSHAccessPermit) -> str:
    return " and ".join(str(one) for one in permit.required_joins) or "nobody"


def _made(groups: tuple[str, ...] | None) -> str:
    if groups is None:
        return "not made"
    return f"made, in the groups {', '.join(groups)}" if groups else "made, in no further group"


def _makers(permit: SSHAccessPermit, roles: RoleSet) -> tuple[str, ...]:
    return tuple(role.name for role in roles.own if role.name in permit.roles and role.options.create_host_user)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _limit(value: int) -> str:
    return str(value) if value else "no limit"
