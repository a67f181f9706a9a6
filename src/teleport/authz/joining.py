"""The decision about joining a running session, and about sessions that somebody has to join.

Who wants to join holds a permit for the node and the login already, for a session in a pod one for that very call:
that decision (`ssh`, `kube`) is never left out. This one comes on top. Without any rule people join their own sessions
and nobody else's; `join_sessions` of a role adds the sessions of whoever has one of the roles that it names, and under
deny takes them away. The id of a session is no credential. Sessions of whoever has `require_session_join` need others
in them: of each role that has it, one entry has to be met. Pure, so that all of it is asked again while a session runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from teleport.authz.channels import ChannelTerms, why_no_shell
from teleport.authz.decision import AccessDenial, DenialCode, Policy
from teleport.authz.labels import match_glob
from teleport.authz.roles import RoleSet
from teleport.authz.where import WhereError, holds
from teleport.identity import UserIdentity
from teleport.resources.joining import (
    KUBERNETES,
    SSH,
    JoinMode,
    JoinPolicy,
    OnLeave,
    RequiredJoin,
    concerns_kubernetes,
    concerns_ssh,
)
from teleport.resources.pattern import BadPattern, compile_pattern, is_pattern
from teleport.resources.role import Role

NO_SUCH_SESSION = "There is no session with this id here that you may join."
OWN = frozenset({JoinMode.OBSERVER, JoinMode.PEER})
"""How people take part in sessions of their own: nobody moderates himself."""


@dataclass(frozen=True, slots=True)
class RunningSession:
    """A session, as far as joining it is concerned. `roles` are those of its user when it began."""

    sid: str
    cluster: str  # where it runs
    user: str
    user_cluster: str  # whose authority vouches for the user
    login: str
    roles: tuple[str, ...]
    interactive: bool
    kind: str = SSH  # or `KUBERNETES`: it runs in a pod


@dataclass(frozen=True, slots=True)
class JoinPermit:
    """Yes: in this mode, by this role (empty: a session of one's own)."""

    mode: JoinMode
    granted_by: str


@dataclass(frozen=True, slots=True)
class JoinRights:
    """Every mode in which somebody may join, with the role that gives it, and why not in the others."""

    modes: Mapping[JoinMode, str]
    reasons: tuple[str, ...] = ()


def is_own(identity: UserIdentity, session: RunningSession) -> bool:
    """Whether the session is the identity's: names are compared within one cluster only."""
    return identity.name == session.user and identity.cluster == session.user_cluster


def join_rights(identity: UserIdentity, session: RunningSession, policy: Policy) -> JoinRights:
    """What the identity may do in the session. Says nothing of the place: that is decided by `ssh` and `kube`."""
    if not session.interactive:
        return JoinRights({}, ("it has no terminal",))
    if identity.force_command:
        return JoinRights({}, ("the certificate allows one command only",))
    if identity.cluster != session.cluster:
        return JoinRights({}, (f"the certificate is of the cluster {identity.cluster!r}",))
    roles = RoleSet.build(identity.roles, policy.roles, identity.traits)
    since = RoleSet.build(identity.denying, policy.roles, identity.traits).own
    modes: dict[JoinMode, str] = dict.fromkeys(OWN, "") if is_own(identity, session) else {}
    reasons = [] if modes else [f"it is a session of {session.user!r}"]
    for role in roles.own:
        given = {
            mode for entry in role.allow.join_sessions if _covers(entry, session, deny=False) for mode in entry.modes
        }
        if is_own(identity, session):
            given -= {JoinMode.MODERATOR}
        for mode in given:
            modes.setdefault(mode, role.name)
        if not given:
            reasons.append(f"role {role.name!r} has no join_sessions for it")
    for role in (*roles.own, *since):
        taken = {
            mode for entry in role.deny.join_sessions if _covers(entry, session, deny=True) for mode in entry.modes
        }
        for mode in taken & modes.keys():
            del modes[mode]
            reasons.append(f"role {role.name!r} denies joining it as {mode}")
    return JoinRights(modes, tuple(reasons))


@dataclass(frozen=True, slots=True)
class LetIn:
    """Somebody whom the place has let in, under the terms of that permit."""

    identity: UserIdentity
    login: str
    channels: ChannelTerms | None  # of a node; None: what is typed goes into a pod, where the permit was for that
    moderated: bool  # whether sessions of theirs need others in them


def evaluate_join(
    who: LetIn, session: RunningSession, mode: JoinMode | None, policy: Policy
) -> JoinPermit | AccessDenial:
    """The permit for somebody who was let in on the session's node, or the denial. Without a `mode`: as peer in one's
    own session, else as observer, moderator or peer, the first that is allowed."""
    identity = who.identity
    if who.login != session.login:
        return _denial(f"it runs as {session.login!r}, and the connection is as {who.login!r}")
    rights = _within(join_rights(identity, session, policy), who, own=is_own(identity, session))
    if mode is None:
        mode = default_mode(rights, own=is_own(identity, session))
    if mode is None or mode not in rights.modes:
        allowed = ", ".join(sorted(rights.modes))
        if mode is not None and allowed:
            # whoever may join it in another mode knows of the session anyway
            return AccessDenial(
                DenialCode.NOT_GRANTED,
                f"You may not join this session as {mode}.",
                (*rights.reasons, f"allowed: {allowed}"),
                f"join it as {allowed.replace(', ', ' or ')}: tsh join --mode",
            )
        return _denial(*rights.reasons)
    return JoinPermit(mode, rights.modes[mode])


def _within(rights: JoinRights, who: LetIn, *, own: bool) -> JoinRights:
    """The rights without typing, for whoever may have no shell here, or none that nobody looks at."""
    why = ""
    if who.channels is not None and (shell := why_no_shell(who.channels)) is not None:
        why = f"typing needs a shell: {'; '.join(shell.reasons)}"
    elif who.moderated and not own:
        why = "whoever may do nothing alone types in no session of others"
    if not why or JoinMode.PEER not in rights.modes:
        return rights
    modes = dict(rights.modes)
    del modes[JoinMode.PEER]
    return JoinRights(modes, (*rights.reasons, why))


def default_mode(rights: JoinRights, *, own: bool) -> JoinMode | None:
    """The mode of whoever names none; None when there is none."""
    order = (JoinMode.PEER, JoinMode.OBSERVER) if own else (JoinMode.OBSERVER, JoinMode.MODERATOR, JoinMode.PEER)
    return next((mode for mode in order if mode in rights.modes), None)


def _denial(*reasons: str) -> AccessDenial:
    """One sentence, also for ids that nobody has: it must not tell which sessions there are."""
    return AccessDenial(
        DenialCode.NOT_GRANTED,
        NO_SUCH_SESSION,
        reasons or ("no role allows it",),
        "tsh sessions ls shows those there are",
    )


def unknown_session(*reasons: str) -> AccessDenial:
    """The refusal of an id that no session here has, or of whose session nothing may be told, for other `reasons`."""
    return _denial(*(reasons or ("no session here has this id",)))


def _covers(entry: JoinPolicy, session: RunningSession, *, deny: bool) -> bool:
    """Whether the entry is about this session; what cannot be evaluated is, under deny only."""
    if not (concerns_kubernetes if session.kind == KUBERNETES else concerns_ssh)(entry.kinds):
        return False
    return any(_matches(pattern, role, deny=deny) for pattern in entry.roles for role in (*session.roles, ""))


def _matches(pattern: str, role: str, *, deny: bool) -> bool:
    """`role` is empty for the user as such: only `*` is about somebody without roles."""
    if pattern == "*":
        return True
    if not role:
        return False
    if is_pattern(pattern):
        try:
            return compile_pattern(pattern).fullmatch(role)
        except BadPattern:
            return deny
    return match_glob(pattern, role)


# sessions that somebody has to join


@dataclass(frozen=True, slots=True)
class Requirement:
    """What one role asks of its holders' sessions: one of the entries has to be met."""

    role: str
    entries: tuple[RequiredJoin, ...]

    def __str__(self) -> str:
        return " or ".join(_described(entry) for entry in self.entries)


def _described(entry: RequiredJoin) -> str:
    who = "somebody" if entry.count == 1 else f"{entry.count} people"
    name = f" ({entry.name})" if entry.name else ""
    return f"{who} as {' or '.join(sorted(set(entry.modes)))}{name}"


@dataclass(frozen=True, slots=True)
class Participant:
    """Somebody who is in a session now."""

    identity: UserIdentity
    mode: JoinMode


def requirements(roles: Iterable[Role]) -> tuple[Requirement, ...]:
    """What these roles ask of sessions on nodes."""
    found = []
    for role in roles:
        entries = tuple(entry for entry in role.allow.require_session_join if concerns_ssh(entry.kinds))
        if entries:
            found.append(Requirement(role.name, entries))
    return tuple(found)


def unmet(
    required: Sequence[Requirement], session: RunningSession, present: Iterable[Participant]
) -> tuple[Requirement, ...]:
    """Those that do not hold with who is present. The session's own user never counts, and nobody counts twice."""
    others = [one for one in present if not is_own(one.identity, session)]
    return tuple(one for one in required if not any(_met(entry, others) for entry in one.entries))


def _met(entry: RequiredJoin, others: Sequence[Participant]) -> bool:
    people = {
        (one.identity.cluster, one.identity.name)
        for one in others
        if one.mode in entry.modes and _filtered(entry.filter, one.identity)
    }
    return len(people) >= max(entry.count, 1)


def _filtered(text: str, identity: UserIdentity) -> bool:
    user = {"metadata": {"name": identity.name}, "spec": {"roles": identity.roles, "traits": identity.traits}}
    try:
        return holds(text, {"user": user})
    except WhereError:
        return False


def on_leave(broken: Sequence[Requirement]) -> OnLeave:
    """What becomes of a running session with these unmet: it pauses only where every entry of each says so."""
    pause = all(entry.on_leave is OnLeave.PAUSE for one in broken for entry in one.entries)
    return OnLeave.PAUSE if broken and pause else OnLeave.TERMINATE


def without_unattended(terms: ChannelTerms) -> ChannelTerms:
    """What is left of the terms for whoever may do nothing unless somebody is in the session: no forwards of any sort.
    (That only programs in a terminal are started is the node's to see to, with the requirements in the permit.)"""
    grants = tuple(replace(grant, local_forwarding=False, remote_forwarding=False) for grant in terms.grants)
    return replace(terms, port_forwarding=False, forward_agent=False, x11_forwarding=False, grants=grants)
