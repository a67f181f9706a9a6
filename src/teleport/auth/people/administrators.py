"""Nobody takes the last administrator away by mistake: a change after which no user could edit roles is confirmed.

A user counts who may update roles, by the decision of `authz.api`, is not locked and has not expired. tctl on an auth
host can always give the right back, and `teleport repair` when no daemon runs; this is a guard against slips. Changes
that take the right from anybody depend on one another: of two administrators who remove each other, one is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from teleport.auth.state import ClusterState
from teleport.authz.api import APIAccessRequest, APIPermit, evaluate_api_access
from teleport.authz.decision import Policy
from teleport.backend.interface import Absent, Condition, Exists, PutOp, Write
from teleport.errors import BadRequest
from teleport.identity import UserIdentity
from teleport.resources.codec import Resource, from_json
from teleport.resources.kinds import WILDCARD, Kind, Verb
from teleport.resources.lock import Lock
from teleport.resources.role import Role
from teleport.resources.user import User
from teleport.store import records

MARK: Final = "auth/administrators"  # written whenever somebody loses the right
_ADDRESS: Final = "192.0.2.1"  # of documentation (RFC 5737): for roles that bind certificates to the address of a login


@dataclass(frozen=True, slots=True)
class Change:
    """What is about to be written; `user` is the name of one that is put in place, or removed."""

    user: str = ""
    put: User | None = None
    role: Role | None = None
    lock: Lock | None = None


@dataclass(frozen=True, slots=True)
class Along:
    """What will have been written before a change that is only asked about."""

    users: Mapping[str, User | None] = field(default_factory=dict)  # None: removed
    roles: Mapping[str, Role] = field(default_factory=dict)
    locks: Sequence[Lock] = ()

    @classmethod
    def of(cls, stored: Iterable[Resource], removed: Iterable[str]) -> Along:
        """Raises `BadRequest` for what does not matter here."""
        users: dict[str, User | None] = dict.fromkeys(removed)
        roles: dict[str, Role] = {}
        locks: list[Lock] = []
        for one in stored:
            match one:
                case User():
                    users[one.name] = one
                case Role():
                    roles[one.name] = one
                case Lock():
                    locks.append(one)
                case _:
                    raise BadRequest(f"a {one.kind} does not matter to a removal", hint="name users, roles and locks")
        return cls(users, roles, locks)


@dataclass(frozen=True, slots=True)
class Standing:
    """What it depends on whether somebody may edit roles."""

    cluster: str
    now: datetime
    roles: Mapping[str, Role]
    locks: Sequence[Lock]

    @classmethod
    async def read(cls, state: ClusterState) -> Standing:
        """As it is now."""
        found = [from_json(item.value) for item in await state.backend.range(records.ROLES)]
        roles = {role.name: role for role in found if isinstance(role, Role)}
        return cls(state.cluster, state.clock.now(), roles, await state.locks())

    def may_edit(self, user: User | None) -> bool:
        """Whether the user, having logged in now, may change roles."""
        if user is None or user.expired(self.now):
            return False
        identity = UserIdentity(
            name=user.name,
            cluster=self.cluster,
            roles=tuple(user.roles),
            logins=(),
            expires=self.now + timedelta(hours=1),
            traits=user.traits,
            source_ip=_ADDRESS,
        )
        request = APIAccessRequest(
            identity, Verb.UPDATE, Kind.ROLE, self.cluster, self.now, client_address=_ADDRESS, locks=self.locks
        )
        return isinstance(evaluate_api_access(request, Policy(roles=self.roles)), APIPermit)


class Administrators:
    """Asked by whoever writes users, roles and locks."""

    def __init__(self, state: ClusterState) -> None:
        self._state = state

    async def guard(
        self, change: Change, *, confirmed: bool, along: Along | None = None
    ) -> tuple[list[Write], list[Condition]]:
        """What goes along with the change. Raises `BadRequest` when nobody would be left who may edit roles, unless
        that is `confirmed`. `along`: it is only asked about, and this will have been written before it."""
        mark = await self._state.backend.get(MARK)
        before = await Standing.read(self._state)
        roles = before.roles
        after = before
        if along is not None:
            after = Standing(before.cluster, before.now, {**roles, **along.roles}, [*before.locks, *along.locks])
        if change.role is not None:
            if not any(map(_is_about_roles, (change.role, roles.get(change.role.name)))):
                return [], []
            after = Standing(before.cluster, before.now, {**roles, change.role.name: change.role}, before.locks)
        if change.lock is not None:
            if change.lock.spec.target.kind not in ("user", "role"):
                return [], []
            after = Standing(before.cluster, before.now, roles, [*before.locks, change.lock])
        if change.user and along is None:
            held = await self._state.user(change.user)
            if not before.may_edit(held) or after.may_edit(change.put):
                return [], []
        condition: Condition = Absent(MARK) if mark is None else Exists(MARK, mark.revision)
        went: tuple[list[Write], list[Condition]] = ([PutOp(MARK, b"{}")], [condition])
        some = False
        users = await self._users()
        then = {**users, **(along.users if along is not None else {}), change.user: change.put}
        for name, user in then.items():
            if after.may_edit(user):
                return went
            some = some or before.may_edit(users.get(name))
        if some and not confirmed:
            raise BadRequest(
                "nobody would be left who may edit roles: this is about the last user who can",
                hint="give another user such a role first (tctl users update NAME --set-roles=editor,...), "
                "or repeat it with --force (tctl create: --confirm)",
            )
        return went

    async def _users(self) -> dict[str, User]:
        found = [from_json(item.value) for item in await self._state.backend.range(records.USERS)]
        return {user.name: user for user in found if isinstance(user, User)}


def _is_about_roles(role: Role | None) -> bool:
    """Whether a rule of the role, allowing or denying, is about roles."""
    if role is None:
        return False
    rules = (*role.allow.rules, *role.deny.rules)
    return any(not {Kind.ROLE.value, WILDCARD}.isdisjoint(rule.resources) for rule in rules)
