"""Giving an administrator back to a cluster that has none who gets in: what `teleport repair` does to the storage.

It acts as the host's own administrator through the same handlers as the API, so that the rules and the events are the
same; the events wait in the outbox, and reach the log when the daemon runs again.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import msgspec

from teleport.api import messages as m
from teleport.audit.events import ClusterRepaired
from teleport.auth.authorizer import Authorizer
from teleport.auth.caller import Caller
from teleport.auth.cluster.api import ClusterAPI
from teleport.auth.factors.checking import Factors
from teleport.auth.factors.lockout import locked_until
from teleport.auth.hosts.joining import Joining
from teleport.auth.hosts.naming import Names
from teleport.auth.hosts.tokens import Tokens
from teleport.auth.people.administrators import Standing
from teleport.auth.people.devices import Devices
from teleport.auth.people.invitations import UserTokens
from teleport.auth.people.logins import Logins
from teleport.auth.people.web_sessions import WebSessions
from teleport.auth.resources.inventory import Inventory
from teleport.auth.state import ClusterState, document
from teleport.authz.locks import describe
from teleport.errors import NotFound
from teleport.identity import HostIdentity, SystemRole
from teleport.resources.codec import from_json
from teleport.resources.kinds import Kind
from teleport.resources.presets import preset_roles
from teleport.resources.user import User
from teleport.store import records
from teleport.store.records import UserSecret

EDITOR = "editor"
LINK = 8 * 3600.0  # seconds that the link of an administrator is good for


@dataclass(frozen=True, slots=True)
class Findings:
    """What an administrator who is locked out wants to know."""

    cluster: str
    administrators: tuple[str, ...]  # who may edit roles, and is not locked
    locks: tuple[tuple[str, str], ...]  # name, description
    locked_out: tuple[str, ...]  # users, after failed logins
    missing_roles: tuple[str, ...]  # presets that are not as they were at first


class Repair:
    """Acts on the storage of a cluster of which no daemon runs."""

    def __init__(self, state: ClusterState, host_id: str, actor: Mapping[str, str]) -> None:
        """`actor` is the person at the terminal, as tctl says it (`Caller.local_actor`)."""
        self._state = state
        end = state.clock.now() + timedelta(hours=1)
        self._caller = Caller(HostIdentity(host_id, state.cluster, SystemRole.ADMIN, end), "", actor)
        tokens = Tokens(state, ())
        authorizer = Authorizer(state, Joining(state, tokens, Names(state)), lambda: str(uuid.uuid4()))
        proxies = ClusterAPI(state, authorizer)
        factors = Factors(state, proxies, authorizer.locks)
        logins = Logins(state, authorizer, factors)
        devices = Devices(state, factors, logins, authorizer)
        self._users = UserTokens(
            state, logins, proxies, authorizer, devices, WebSessions(state, authorizer, logins, devices)
        )
        self._inventory = Inventory(state, authorizer, tokens, self._users)

    async def look(self) -> Findings:
        """Changes nothing."""
        now = self._state.clock.now()
        users = [from_json(item.value) for item in await self._state.backend.range(records.USERS)]
        standing = await Standing.read(self._state)
        out = []
        for item in await self._state.backend.range(records.USER_SECRETS):
            if locked_until(msgspec.json.decode(item.value, type=UserSecret), now) is not None:
                out.append(item.key.removeprefix(records.USER_SECRETS))
        return Findings(
            cluster=self._state.cluster,
            administrators=tuple(one.name for one in users if isinstance(one, User) and standing.may_edit(one)),
            locks=tuple((lock.name, describe(lock)) for lock in standing.locks if lock.in_force(now)),
            locked_out=tuple(out),
            missing_roles=tuple(await self._changed_presets()),
        )

    async def _changed_presets(self) -> list[str]:
        known = {role.name: role for role in preset_roles("") if role.name != "auditor"}  # which differs by a random id
        stored = await self._state.roles([*known, "auditor"])
        return [
            name for name in (*known, "auditor") if name not in stored or stored[name] != known.get(name, stored[name])
        ]

    async def restore_roles(self) -> Sequence[str]:
        """Writes the preset roles that are missing or were changed as they were at first; their names."""
        names = await self._changed_presets()
        for role in preset_roles(str(uuid.uuid4())):
            if role.name in names:
                request = m.StoreRequest(item=document(role), force=True, confirm=True)
                await self._inventory.store(Kind.ROLE, self._caller, request)
        return names

    async def remove_locks(self, names: Sequence[str]) -> Sequence[str]:
        """Removes these locks, or all when none is named; their names. Raises `NotFound`."""
        present = [lock.name for lock in await self._state.locks()]
        unknown = [name for name in names if name not in present]
        if unknown:
            raise NotFound(f"there is no lock {', '.join(map(repr, unknown))}", hint="teleport repair lists them")
        chosen = list(names) or present
        for name in chosen:
            await self._inventory.remove(Kind.LOCK, self._caller, m.ExpelRequest(name=name))
        return chosen

    async def make_administrator(self, name: str, logins: Sequence[str]) -> m.UserToken:
        """Gives the user, made when there is none, the role `editor`, and a link for a new password and second factor;
        what they had of these ends. A lock is left alone: `remove_locks`."""
        user = await self._state.user(name)
        if user is None:
            traits = {"logins": list(logins)} if logins else {}
            request = m.AddUserRequest(name=name, roles=[EDITOR, "access"], traits=traits, ttl=LINK)
            return await self._users.add_user(self._caller, request)
        if EDITOR not in user.roles:
            update = m.UpdateUserRequest(name=name, roles=[*user.roles, EDITOR], force=True)
            await self._inventory.update_user(self._caller, update)
        return await self._users.reset_user(self._caller, m.ResetUserRequest(name=name, ttl=LINK))

    async def tell(self, what: Sequence[str]) -> None:
        """Puts on record that the cluster was repaired, beside the events of each change."""
        await self._state.tell(self._state.event(ClusterRepaired, self._caller, what=list(what)))
