"""What goes along when a resource is removed: what belonged to it, and whose certificates do not count any more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from teleport.api import messages as m
from teleport.audit.events import (
    AuthorityDelete,
    AuthServerDelete,
    Event,
    KubeServiceDelete,
    LockDeleted,
    MfaLeaseDeleted,
    NodeDelete,
    ProxyDelete,
    RemoteClusterDelete,
    RoleDeleted,
    TokenDelete,
    UserDelete,
)
from teleport.auth.authorizer import Authorizer, require_administrator
from teleport.auth.caller import Caller
from teleport.auth.factors.leases import leases_of
from teleport.auth.factors.passkeys import unknown_to_passkeys
from teleport.auth.hosts.tokens import Tokens
from teleport.auth.people.administrators import Administrators, Along, Change
from teleport.auth.people.invitations import UserTokens
from teleport.auth.resources.storing import Storing, key_of
from teleport.auth.state import ClusterState
from teleport.backend.interface import Absent, Condition, DeleteOp, Exists, PutOp, Write
from teleport.errors import BadRequest
from teleport.identity import SystemRole
from teleport.resources.authority import Authority
from teleport.resources.codec import Resource, from_json
from teleport.resources.kinds import Kind
from teleport.resources.lock import Lock
from teleport.resources.metadata import Metadata
from teleport.resources.mfa_lease import MfaLease
from teleport.resources.role import Role
from teleport.resources.server import Server, ServerSpec
from teleport.resources.token import Token
from teleport.resources.trusted_cluster import RemoteCluster
from teleport.resources.user import User
from teleport.store import records
from teleport.store.records import HostRecord, UserSecret
from teleport.store.standing import without_role

_ROLE_OF: Final[Mapping[Kind, SystemRole]] = {
    Kind.NODE: SystemRole.NODE,
    Kind.PROXY: SystemRole.PROXY,
    Kind.KUBE_SERVICE: SystemRole.KUBE,
}


class Removing:
    """Works out what is removed; whoever asked for it has been judged before."""

    def __init__(
        self,
        state: ClusterState,
        authorizer: Authorizer,
        administrators: Administrators,
        tokens: Tokens,
        user_tokens: UserTokens,
        storing: Storing,
    ) -> None:
        self._state = state
        self._authorizer = authorizer
        self._storing = storing
        self._administrators = administrators
        self._tokens = tokens
        self._user_tokens = user_tokens

    async def taken_along(
        self,
        caller: Caller,
        resource: Resource,
        request: m.ExpelRequest,
        *,
        silent: bool,
        along: Along | None = None,
    ) -> tuple[list[Write], list[Condition], Event]:
        """The writes, what must still hold, and the event. `silent`: it may be gone already. `along`: it is
        only asked about, and this will have been written before it. Raises `BadRequest`."""
        writes: list[Write] = [DeleteOp(key_of(resource), missing_ok=silent)]
        conditions: list[Condition] = []
        event = self._state.event
        gone: Event
        match resource:
            case Role():
                conditions.append(await self._check_unused(caller, resource.name, along or Along()))
                gone = event(RoleDeleted, caller, name=resource.name)
            case User():
                change = Change(user=resource.name)
                marks, unchanged = await self._administrators.guard(change, confirmed=request.force, along=along)
                writes += marks
                conditions += unchanged
                links = await self._user_tokens.remove_links(resource.name)
                writes += [DeleteOp(records.USER_SECRETS + resource.name, missing_ok=True), *links]
                writes += await leases_of(self._state, resource.name)
                secret = await self._state.record(records.USER_SECRETS + resource.name, UserSecret)
                writes += unknown_to_passkeys(secret[0]) if secret is not None else []
                gone = event(UserDelete, caller, name=resource.name)
            case Token():
                if any(token.name == resource.name for token in self._tokens.static):
                    raise BadRequest(
                        f"the token {resource.name} is static", hint="remove it from auth_service.tokens and restart"
                    )
                gone = event(TokenDelete, caller, name=resource.name)
            case Lock():
                gone = event(LockDeleted, caller, name=resource.name)
            case MfaLease():
                gone = event(
                    MfaLeaseDeleted,
                    caller,
                    name=resource.name,
                    lease_user=resource.spec.user,
                    key_fingerprint=resource.spec.key,
                    client_addr=resource.spec.client_address,
                )
            case Server(kind="node"):
                if not request.keep_identity:
                    writes += await self._expel(resource.host_id, SystemRole.NODE)
                gone = event(
                    NodeDelete,
                    caller,
                    name=resource.name,
                    hostname=resource.hostname,
                    keep_identity=request.keep_identity,
                )
            case Server(kind="proxy"):
                if not request.keep_identity:
                    writes += await self._expel(resource.host_id, SystemRole.PROXY)
                gone = event(ProxyDelete, caller, name=resource.name)
            case Server(kind="kube_service"):
                if not request.keep_identity:
                    writes += await self._expel(resource.host_id, SystemRole.KUBE)
                gone = event(
                    KubeServiceDelete,
                    caller,
                    name=resource.name,
                    hostname=resource.hostname,
                    keep_identity=request.keep_identity,
                )
            case Server():
                gone = event(AuthServerDelete, caller, name=resource.name)
            case Authority():
                require_administrator(caller, "remove an authority")
                if resource.name == self._state.cluster:
                    raise BadRequest(
                        f"the authority {resource.type}/{resource.name} is the cluster's own and cannot be removed"
                    )
                await self._storing.refuse_exchanged(resource.name)
                gone = event(AuthorityDelete, caller, name=resource.name, authority=str(resource.type))
            case RemoteCluster():
                writes.append(DeleteOp(records.authority_key("host", resource.name), missing_ok=True))
                writes.append(DeleteOp(records.CLUSTER_LINKS + resource.name, missing_ok=True))
                gone = event(RemoteClusterDelete, caller, name=resource.name, updated_by=caller.name)
            case _:
                raise BadRequest(f"a {resource.kind} cannot be removed")
        return writes, conditions, gone

    async def silent_host(self, kind: Kind, name: str) -> Server | None:
        """A host of this UUID that belongs to the cluster and announces nothing now: one that was stopped."""
        role = _ROLE_OF.get(kind)
        found = await self._state.record(records.HOSTS + name, HostRecord) if role is not None else None
        if found is None or found[0].expelled or str(role) not in found[0].roles:
            return None
        metadata = Metadata(name=found[0].host_id, labels=found[0].labels)
        spec = ServerSpec(hostname=found[0].node_name)
        named: Literal["node", "proxy", "kube_service"] = "node"
        match kind:
            case Kind.PROXY:
                named = "proxy"
            case Kind.KUBE_SERVICE:
                named = "kube_service"
        return Server(kind=named, metadata=metadata, spec=spec)

    async def _expel(self, host_id: str, role: SystemRole) -> list[Write]:
        """Its certificates for this role do not count any more; services of other roles on that host stay."""
        key = records.HOSTS + host_id
        found = await self._state.record(key, HostRecord)
        record = found[0] if found is not None else HostRecord(host_id=host_id)
        return [PutOp(key, without_role(record, role).encode())]

    async def _check_unused(self, caller: Caller, role: str, along: Along) -> Condition:
        """Raises `BadRequest` when a user has the role; else what must hold so that none was given it meanwhile. Named
        are those users only whom the caller may list.

        A role that is missing grants nothing, but what it denies would be allowed: users must not be left with one.
        """
        given = await self._state.backend.get(records.GIVEN_ROLES)
        found = [from_json(item.value) for item in await self._state.backend.range(records.USERS)]
        users = {user.name: user for user in found if isinstance(user, User)}
        holders = [user for user in {**users, **along.users}.values() if user is not None and role in user.roles]
        if holders:
            visible = await self._authorizer.listable(caller, Kind.USER, holders)
            names = [user.metadata.name for user in visible[:10]]
            shown = ", ".join(names) + (" ..." if len(holders) > len(names) else "") if names else "users"
            raise BadRequest(
                f"the role {role!r} is held by {shown}",
                hint="take it from them first: tctl users update NAME --set-roles=...",
            )
        return Absent(records.GIVEN_ROLES) if given is None else Exists(records.GIVEN_ROLES, given.revision)
