"""What the roles of one user say of hosts, made ready once and asked about any number of them. Pure.

Which role denies and which grants is decided here and nowhere else: `evaluate_ssh_access` asks about one host and one
login, with a reason for each role; `Reach` asks for lists about ten thousand hosts, without words. Whatever is the same
for every host (traits, Unicode, expressions) is worked out when the rules are made; what is left is to look at the
namespace and the labels of each.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from teleport.authz.certificate import certificate_denial, unpinned_denial
from teleport.authz.decision import AccessDenial, Policy
from teleport.authz.labels import AmbiguousLabels, BadSelector, CanonicalLabels, Selector, canonical_labels
from teleport.authz.locks import locks_unknown_denial
from teleport.authz.roles import RoleSet
from teleport.identity import UserIdentity
from teleport.resources.kinds import WILDCARD
from teleport.resources.names import is_unix_login
from teleport.resources.role import Conditions, Role

MOST_NAMES: Final = 64  # labels that rules name, of which what hosts say is remembered


@dataclass(frozen=True, slots=True)
class Target:
    """What of a host decides: labels in their one form."""

    namespace: str
    labels: CanonicalLabels


@dataclass(frozen=True, slots=True)
class _Part:
    """What a role says under allow, or under deny."""

    role: Role
    namespaces: frozenset[str]
    logins: frozenset[str]
    labels: Selector

    @classmethod
    def granting(cls, role: Role) -> _Part:
        return cls._of(role, role.allow, Selector.of(role.allowed_node_labels))

    @classmethod
    def denying(cls, role: Role) -> _Part:
        return cls._of(role, role.deny, Selector.of(role.deny.node_labels))

    @classmethod
    def _of(cls, role: Role, conditions: Conditions, labels: Selector) -> _Part:
        return cls(role, frozenset(conditions.effective_namespaces), frozenset(conditions.logins), labels)

    def within(self, namespace: str) -> bool:
        return WILDCARD in self.namespaces or namespace in self.namespaces

    def given(self, logins: Sequence[str], target: Target) -> Collection[str]:
        """What it grants there, if any of `logins` is among it: all of `why_not_granted` but the words."""
        if self.logins.isdisjoint(logins) or not self.within(target.namespace):
            return ()
        try:
            return self.logins if self.labels.matches(target.labels) else ()
        except BadSelector:
            return ()

    def spared(self, logins: Sequence[str], target: Target) -> Sequence[str]:
        """Those of `logins` that it does not hit there: all of `why_denied` but the words."""
        if not self.within(target.namespace):
            return logins
        try:
            if WILDCARD in self.logins or self.labels.matches(target.labels):
                return ()
        except BadSelector:
            return ()
        return [login for login in logins if login not in self.logins]

    def why_denied(self, login: str, target: Target) -> str:
        """What of a deny hits; empty when nothing does. What cannot be evaluated hits."""
        if not self.within(target.namespace):
            return ""
        if login in self.logins or WILDCARD in self.logins:
            return f"role {self.role.name!r} denies the login {login!r}"
        try:
            if self.labels.matches(target.labels):
                return f"role {self.role.name!r} denies the labels of this host"
        except BadSelector as error:
            return f"role {self.role.name!r} denies labels in a way that cannot be evaluated: {error}"
        return ""

    def why_not_granted(self, login: str, target: Target) -> str:
        """Why the role does not grant it; empty when it does."""
        if not self.within(target.namespace):
            return f"does not apply to namespace {target.namespace!r}"
        if login not in self.logins:
            return f"does not give the login {login!r}"
        try:
            match = self.labels.match(target.labels)
        except BadSelector as error:
            return f"selects hosts in a way that cannot be evaluated: {error}"
        return "" if match.matched else match.why


@dataclass(frozen=True, slots=True)
class HostRules:
    """The roles of a certificate, and those that its user was given since, of which only what they deny counts."""

    identity: UserIdentity
    roles: RoleSet
    since: tuple[Role, ...]
    _granting: tuple[_Part, ...]
    _denying: tuple[_Part, ...]

    @classmethod
    def of(cls, identity: UserIdentity, policy: Policy) -> HostRules:
        roles = RoleSet.build(identity.roles, policy.roles, identity.traits)
        since = RoleSet.build(identity.denying, policy.roles, identity.traits).own
        denying = (_Part.denying(role) for role in (*roles.roles, *since))
        return cls(
            identity,
            roles,
            since,
            tuple(_Part.granting(role) for role in roles.own),
            # a deny that names neither logins nor labels hits nothing
            tuple(part for part in denying if part.logins or part.role.deny.node_labels),
        )

    def refused(self, policy: Policy) -> AccessDenial | None:
        """What forbids every host, whichever it is and whoever locked it."""
        unpinned = unpinned_denial(self.identity, self.roles)
        if unpinned is not None:
            return unpinned
        return locks_unknown_denial(RoleSet((*self.since, *self.roles.roles)), policy)

    def denials(self, login: str, target: Target) -> Iterator[str]:
        """Each reason for which the login is denied on the host; one is enough."""
        return (why for part in self._denying if (why := part.why_denied(login, target)))

    def grants(self, login: str, target: Target) -> Iterator[tuple[Role, str]]:
        """Each role of the certificate, with the reason why it does not grant the login there: empty where it does."""
        return ((part.role, part.why_not_granted(login, target)) for part in self._granting)

    def let_in(self, logins: Sequence[str], target: Target) -> Sequence[str]:
        """Those of `logins` of which `denials` says nothing and that one of `grants` gives: each role is looked at once
        for all of them."""
        granted = {login for part in self._granting for login in part.given(logins, target)}
        left: Sequence[str] = [login for login in logins if login in granted]
        for part in self._denying:
            left = part.spared(left, target) if left else left
        return left

    @property
    def names(self) -> frozenset[str]:
        """The labels that decide: hosts that differ only in others are alike."""
        return frozenset(name for part in (*self._granting, *self._denying) for name in part.labels.names)


class Reach:
    """The logins of somebody that would be let in, on one host after another.

    It is the decision of `evaluate_ssh_access` without what is asked when a session is opened: locks do not count, a
    certificate that is pinned to an address is taken to come from there, and a second factor that is due is taken for
    given. Hosts of which the rules see the same are decided once.
    """

    def __init__(self, identity: UserIdentity, policy: Policy, *, cluster: str, now: datetime) -> None:
        self._rules = HostRules.of(identity, policy)
        refused = certificate_denial(identity, cluster=cluster, now=now, client_address=identity.source_ip)
        refused = refused or self._rules.refused(policy)
        self._logins = () if refused else tuple(login for login in identity.logins if is_unix_login(login))
        names = self._rules.names
        self._names = tuple(sorted(names)) if len(names) <= MOST_NAMES else None
        self._answers: dict[tuple[str | None, ...], tuple[str, ...]] = {}

    def logins(self, labels: Mapping[str, str], namespace: str) -> tuple[str, ...]:
        """Those on a host with these labels, in the order of the certificate."""
        if not self._logins:
            return ()
        try:
            canonical = canonical_labels(labels)
        except AmbiguousLabels:
            return ()
        target = Target(namespace, canonical)
        if self._names is None:
            return tuple(self._rules.let_in(self._logins, target))
        seen = (namespace, *map(canonical.get, self._names))
        found = self._answers.get(seen)
        if found is None:
            found = self._answers[seen] = tuple(self._rules.let_in(self._logins, target))
        return found
