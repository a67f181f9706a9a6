"""Who may join whose sessions, and whose sessions somebody has to join: the two fields of roles about it.

`join_sessions` gives its holders a part in the sessions of people who have other roles; `require_session_join` makes
the sessions of its holders wait until somebody takes part in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Literal

from teleport.resources.lexer import BadSyntax
from teleport.resources.metadata import FieldWarning, Finding, Value, shown, text_findings
from teleport.resources.names import check_text
from teleport.resources.pattern import BadPattern, compile_pattern, is_pattern
from teleport.resources.predicate import parse_predicate

SessionKind = Literal["ssh", "k8s", "*"]
SSH = "ssh"
KUBERNETES = "k8s"
WILDCARD = "*"
MAX_ENTRIES = 100  # policies of one role, and roles of one policy
MAX_COUNT = 20
_MAX_ROLE = 1024  # characters of a role's name or pattern


class JoinMode(StrEnum):
    """What a party does in a session."""

    OBSERVER = "observer"  # sees it
    PEER = "peer"  # types, too
    MODERATOR = "moderator"  # sees it, and may end it


class OnLeave(StrEnum):
    """What becomes of a session when those who have to be in it are not any more."""

    TERMINATE = "terminate"
    PAUSE = "pause"


class JoinPolicy(Value, frozen=True, kw_only=True):
    """Its holders may join, in these modes, the sessions of whoever has one of these roles."""

    name: str = ""
    roles: tuple[str, ...] = ()  # names, globs or ^patterns$
    kinds: tuple[SessionKind, ...] = ()
    modes: tuple[JoinMode, ...] = ()


class RequiredJoin(Value, frozen=True, kw_only=True):
    """Sessions of its holders need so many others in them, in one of these modes, of whom the filter holds."""

    name: str = ""
    filter: str = ""  # a predicate over `user`; empty: anybody
    kinds: tuple[SessionKind, ...] = ()
    modes: tuple[JoinMode, ...] = (JoinMode.MODERATOR,)
    count: int = 1
    on_leave: OnLeave = OnLeave.TERMINATE


def join_findings(
    at: tuple[str | int, ...], joins: Sequence[JoinPolicy], required: Sequence[RequiredJoin], *, allow: bool
) -> Iterator[Finding]:
    """What is wrong with the two fields of `allow` or `deny`."""
    for name, entries in (("join_sessions", joins), ("require_session_join", required)):
        if len(entries) > MAX_ENTRIES:
            yield Finding((*at, name), f"{len(entries)} entries", f"at most {MAX_ENTRIES}")
    for number, policy in enumerate(joins[:MAX_ENTRIES]):
        here = (*at, "join_sessions", number)
        yield from text_findings((*here, "name"), policy.name)
        if not policy.roles or len(policy.roles) > MAX_ENTRIES:
            yield Finding((*here, "roles"), f"{len(policy.roles)} entries", f"1 to {MAX_ENTRIES} roles, or '*'")
        for position, role in enumerate(policy.roles[:MAX_ENTRIES]):
            if problem := _role_problem(role):
                yield Finding(
                    (*here, "roles", position), shown(role), f"a role, a glob or a pattern; this one {problem}"
                )
        yield from _kinds_and_modes(here, policy.kinds, policy.modes)
    if required and not allow:
        yield Finding((*at, "require_session_join"), "an entry", "it under allow: what is required is not denied")
    for number, entry in enumerate(required[:MAX_ENTRIES]):
        here = (*at, "require_session_join", number)
        yield from text_findings((*here, "name"), entry.name)
        if not 1 <= entry.count <= MAX_COUNT:
            yield Finding((*here, "count"), str(entry.count), f"1 to {MAX_COUNT}")
        if entry.filter:
            try:
                parse_predicate(entry.filter)
            except BadSyntax as error:
                yield Finding((*here, "filter"), shown(entry.filter), f"a predicate; this one: {error}")
        yield from _kinds_and_modes(here, entry.kinds, entry.modes)


def _role_problem(role: str) -> str:
    if not role or len(role) > _MAX_ROLE:
        return f"is empty or longer than {_MAX_ROLE} characters"
    if problem := check_text(role):
        return problem
    if is_pattern(role):
        try:
            compile_pattern(role)
        except BadPattern as error:
            return f"is no RE2 expression: {error}"
    return ""


def _kinds_and_modes(
    at: tuple[str | int, ...], kinds: Sequence[SessionKind], modes: Sequence[JoinMode]
) -> Iterator[Finding]:
    if not kinds:
        yield Finding((*at, "kinds"), "nothing", "ssh, k8s or '*'")
    if not modes:
        yield Finding((*at, "modes"), "nothing", "one or more of observer, peer, moderator")


def join_warnings(at: str, required: Sequence[RequiredJoin]) -> Iterator[FieldWarning]:
    """What comes of `require_session_join` in pods, whose sessions wait for nobody yet."""
    for number, entry in enumerate(required):
        if KUBERNETES in entry.kinds:
            text = "a session in a pod cannot wait for somebody yet; holders run nothing in pods"
            yield FieldWarning(f"{at}.require_session_join[{number}].kinds", text)


def concerns_kubernetes(kinds: Sequence[SessionKind]) -> bool:
    """Whether sessions in pods are meant."""
    return KUBERNETES in kinds or WILDCARD in kinds


def concerns_ssh(kinds: Sequence[SessionKind]) -> bool:
    """Whether sessions on nodes are meant."""
    return SSH in kinds or WILDCARD in kinds
