"""What storing a resource writes: by its kind, with the event that tells of it and what must still hold."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from teleport.audit.events import (
    AuthorityCreate,
    Event,
    LockCreated,
    NodeCreate,
    RemoteClusterUpdate,
    RoleCreated,
    TokenCreate,
    UserCreate,
    UserUpdate,
)
from teleport.auth.authorizer import require_administrator
from teleport.auth.caller import Caller
from teleport.auth.factors.passkeys import written_by_document
from teleport.auth.hosts.tokens import check_life
from teleport.auth.people import local_auth
from teleport.auth.people.administrators import Administrators, Change
from teleport.auth.state import ClusterState, giving_roles
from teleport.backend.interface import Condition, Item, PutOp, Write
from teleport.errors import BadRequest, NotFound
from teleport.resources.authority import Authority
from teleport.resources.codec import Resource, from_json, to_json, without_secrets
from teleport.resources.lock import Lock
from teleport.resources.mfa_lease import MfaLease
from teleport.resources.role import Role
from teleport.resources.server import Server
from teleport.resources.token import Token
from teleport.resources.trusted_cluster import RemoteCluster, TrustedCluster, check_local_user
from teleport.resources.user import CreatedBy, Creator, User
from teleport.resources.values import Duration
from teleport.store import records
from teleport.store.records import HostRecord, UserSecret


def key_of(resource: Resource) -> str:
    """Where the storage has it."""
    if isinstance(resource, Authority):
        return records.authority_key(resource.type, resource.name)
    return records.PREFIX_OF_KIND[resource.kind] + resource.name


class Storing:
    """Works out what is written; whoever asked for it has been judged before."""

    def __init__(self, state: ClusterState, administrators: Administrators) -> None:
        self._state = state
        self._administrators = administrators

    async def guarded(self, resource: Resource, *, confirmed: bool) -> tuple[list[Write], list[Condition]]:
        """What goes along with storing it, so that nobody takes the last administrator away by mistake."""
        guard = self._administrators.guard
        match resource:
            case User():
                return await guard(Change(user=resource.name, put=resource), confirmed=confirmed)
            case Role():
                return await guard(Change(role=resource), confirmed=confirmed)
            case Lock():
                return await guard(Change(lock=resource), confirmed=confirmed)
        return [], []

    async def written(
        self, caller: Caller, resource: Resource, former: Item | None, *, check: bool = False
    ) -> tuple[Sequence[Write], Event]:
        """What writes `resource`, in place of `former`, and the event that tells of it. Raises `BadRequest` when it is
        not made by hand, and `AccessDenied` when only administrators may. `check`: nothing will be written now, and
        what it refers to may come before it is."""
        event, name, by = self._state.event, resource.metadata.name, caller.name
        match resource:
            case Role():
                return [PutOp(key_of(resource), to_json(resource))], event(
                    RoleCreated, caller, name=name, updated_by=by
                )
            case User():
                stored = from_json(former.value) if former is not None else None
                known = stored if isinstance(stored, User) else None
                return await self.user_written(caller, resource, known, check=check)
            case Token():
                expires = resource.metadata.expires
                check_life(expires, self._state.clock.now())
                return [PutOp(key_of(resource), to_json(resource), expires)], event(
                    TokenCreate, caller, name=name, system_roles=[str(role) for role in resource.roles]
                )
            case Lock():
                target = {
                    field: getattr(resource.spec.target, field)
                    for field in resource.spec.target.__struct_fields__
                    if getattr(resource.spec.target, field)
                }
                return [PutOp(key_of(resource), to_json(resource), resource.metadata.expires)], event(
                    LockCreated, caller, name=name, target=target
                )
            case Server(kind="node"):
                require_administrator(caller, "register a node by hand")
                await self._check_agentless(resource, former)
                spec = msgspec.structs.replace(
                    resource.spec, heard=None, lost_after=0, silent_for=Duration(0), tunnel_lost_for=Duration(0)
                )  # so it is never lost
                resource = msgspec.structs.replace(resource, spec=spec)
                return [PutOp(key_of(resource), to_json(resource), resource.metadata.expires)], event(
                    NodeCreate, caller, name=name, hostname=resource.hostname
                )
            case Authority():
                require_administrator(caller, "replace an authority")
                if name == self._state.cluster:
                    raise BadRequest(
                        f"the authority {resource.type}/{name} is the cluster's own: whatever holds its "
                        "certificates would be cut off",
                        hint="to restore a cluster, put back its data_dir",
                    )
                await self.refuse_exchanged(name)
                if without_secrets(resource) == resource:
                    raise BadRequest(
                        f"the authority {resource.type}/{name} comes without its private keys",
                        hint="tctl get cert_authority --with-secrets writes a document that can be restored",
                    )
                return [PutOp(key_of(resource), to_json(resource, with_secrets=True))], event(
                    AuthorityCreate, caller, name=name, authority=str(resource.type), updated_by=by
                )
            case RemoteCluster():
                stored = from_json(former.value) if former is not None else None
                if not isinstance(stored, RemoteCluster):
                    raise BadRequest(
                        f"the remote cluster {name} is not made by hand: it appears when it proves a token",
                        hint="tctl tokens add --type=trusted_cluster, and tctl create of a trusted_cluster over there",
                    )
                resource = msgspec.structs.replace(stored, metadata=resource.metadata)
                labels = dict(resource.metadata.labels)
                return [PutOp(key_of(resource), to_json(resource), resource.metadata.expires)], event(
                    RemoteClusterUpdate, caller, name=name, updated_by=by, labels=labels
                )
            case TrustedCluster():
                raise BadRequest("a trusted cluster is established, not written", hint="tctl create")
        if isinstance(resource, MfaLease):
            raise BadRequest(
                "a lease is made by proving a second factor", hint="plain ssh through the proxy asks for it"
            )
        raise BadRequest(f"a {resource.kind} is not made by hand", hint="it announces itself when its service starts")

    async def refuse_exchanged(self, cluster: str) -> None:
        """Raises `BadRequest` when the authorities of another cluster are kept by the exchange with it."""
        for prefix, short in ((records.TRUSTED_CLUSTERS, "tc"), (records.REMOTE_CLUSTERS, "rc")):
            if await self._state.backend.get(prefix + cluster) is not None:
                raise BadRequest(
                    f"the authorities of {cluster} are exchanged with that cluster and not changed by hand",
                    hint=f"to trust it no more: tctl rm {short}/{cluster}",
                )

    async def _check_agentless(self, node: Server, former: Item | None) -> None:
        """Raises `BadRequest` when the id of a host with a plain sshd is, or was, that of a node service."""
        if not node.agentless:
            return
        stored = from_json(former.value) if former is not None else None
        joined = await self._state.record(records.HOSTS + node.host_id, HostRecord)
        if (joined is not None and not joined[0].expelled) or (isinstance(stored, Server) and not stored.agentless):
            raise BadRequest(
                f"{node.host_id} is the id of a host with a node service",
                hint="give the host with a plain sshd another one: uuidgen makes one",
            )

    async def user_written(
        self, caller: Caller, user: User, stored: User | None, *, check: bool = False
    ) -> tuple[Sequence[Write], Event]:
        """What writes `user`, which takes the place of `stored`.

        When and by whom a user was made is never taken from the document: certificates from before then do not count.
        """
        if stored is None:
            check_local_user(user.name)
        known = await self._state.roles(user.roles)
        unknown = [role for role in user.roles if role not in known]
        if unknown and not check:
            raise NotFound(
                f"user {user.name!r}: there is no role {', '.join(map(repr, unknown))}", hint="tctl get roles"
            )
        writes: list[Write] = [giving_roles(user.roles)[0]]
        key = records.USER_SECRETS + user.name
        if user.spec.local_auth is not None:
            require_administrator(caller, "set a user's password hash or second factor")
            secret = local_auth.from_document(user.spec.local_auth)
            writes += [PutOp(key, secret.encode()), *await written_by_document(self._state, user.name, secret)]
        elif stored is None:
            writes.append(PutOp(key, UserSecret().encode()))
        made = CreatedBy(time=self._state.clock.now(), user=Creator(name=caller.name))
        spec = msgspec.structs.replace(
            user.spec, local_auth=None, created_by=stored.spec.created_by if stored is not None else made
        )
        writes.append(PutOp(key_of(user), to_json(msgspec.structs.replace(user, spec=spec))))
        kind = UserUpdate if stored is not None else UserCreate
        return writes, self._state.event(kind, caller, name=user.name, roles=list(user.roles), updated_by=caller.name)
