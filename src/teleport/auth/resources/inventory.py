"""Resources over the API: list, get, store, remove, for each kind that `api.routes` declares.

What a caller may do can depend on the resource itself (`where`), so the decision is taken here, with the resource at
hand; a caller who may not ask learns nothing about what exists.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import msgspec

from teleport.api import messages as m
from teleport.audit.events import (
    SecretRevealed,
)
from teleport.auth.authorizer import LISTING, Authorizer, Denied, facts_of, require_administrator
from teleport.auth.caller import Caller
from teleport.auth.factors.lockout import locked_until
from teleport.auth.hosts.tokens import Tokens
from teleport.auth.hosts.tunnels_lost import TunnelsLost
from teleport.auth.people import local_auth
from teleport.auth.people.administrators import Administrators, Along
from teleport.auth.people.invitations import UserTokens
from teleport.auth.resources.removing import Removing
from teleport.auth.resources.storing import Storing, key_of
from teleport.auth.state import ClusterState, document, giving_roles
from teleport.authz.api import APIPermit
from teleport.authz.decision import AccessDenial
from teleport.backend.interface import Absent, Condition, Exists, Item
from teleport.errors import AlreadyExists, BadRequest, CompareFailed, NotFound
from teleport.resources.authority import Authority
from teleport.resources.cluster import SINGLETONS
from teleport.resources.codec import Resource, checked, from_json
from teleport.resources.kinds import Kind, Verb
from teleport.resources.metadata import Metadata
from teleport.resources.role import IMPLICIT_ROLE_NAME
from teleport.resources.secret import SecretText
from teleport.resources.server import Glance, Server
from teleport.resources.token import token_id
from teleport.resources.trusted_cluster import RemoteCluster, TrustedCluster, TrustedClusterStatus
from teleport.resources.user import User
from teleport.store import foreign, records
from teleport.store.records import ClusterLink, UserSecret

MAX_PAGE: Final = 1000
MAX_PROBLEM: Final = 1000  # characters
WITH_SECRETS: Final = frozenset({Kind.USER, Kind.CERT_AUTHORITY})
READ_AT_ONCE: Final = 250  # stored items that are looked through at a time
Bound = Callable[[Caller, m.Request], Awaitable[m.Message]]


@dataclass(frozen=True, slots=True)
class _Seen:
    """Something stored that a caller may see."""

    item: Item
    thing: Resource | Glance | m.Unreadable


class Inventory:
    """The handlers of the resource routes."""

    def __init__(
        self,
        state: ClusterState,
        authorizer: Authorizer,
        tokens: Tokens,
        user_tokens: UserTokens,
        tunnels: TunnelsLost | None = None,
    ) -> None:
        """`tunnels`: what proxies say of tunnels that ended."""
        self._state = state
        self._tunnels = tunnels or TunnelsLost(state.clock)
        self._authorizer = authorizer
        self._tokens = tokens
        administrators = Administrators(state)
        self._storing = Storing(state, administrators)
        self._removing = Removing(state, authorizer, administrators, tokens, user_tokens, self._storing)

    # list and get

    async def page(self, kind: Kind, caller: Caller, request: m.ListRequest) -> m.Page:
        """A page of what the caller may see of `kind`, ordered by key. It is made of that alone, and so is the key of
        the next one: neither tells of anything else (threat T34)."""
        general = await self._authorizer.decide(caller, Verb.LIST, kind, {})
        if request.with_secrets:
            await self._authorizer.require(caller, Verb.READ, kind)
            self._may_see_secrets(caller, kind)
        if not 1 <= request.limit <= MAX_PAGE:
            raise BadRequest(f"a page has 1 to {MAX_PAGE} items, not {request.limit}")
        prefix = records.PREFIX_OF_KIND[kind]
        seen = await self._seen(caller, kind, request)
        static = list(self._tokens.static) if kind is Kind.TOKEN and not request.start_key else []
        beside = await self._authorizer.listable(caller, kind, static) if static else []
        if isinstance(general, AccessDenial) and not seen and not beside and not request.start_key:
            raise Denied(general)
        shown = seen[: request.limit]
        if request.with_secrets and kind in WITH_SECRETS:
            await self._revealed(caller, kind, "")
        now = self._state.clock.now()
        items = [await self._shown(one, now, secrets=request.with_secrets) for one in shown]
        nodes = [one.thing for one in shown if isinstance(one.thing, (Glance, Server)) and kind is Kind.NODE]
        return m.Page(
            items=[
                *(item for item in items if isinstance(item, m.Document)),
                *(document(one, with_secrets=request.with_secrets) for one in beside),
            ],
            next_key=shown[-1].item.key.removeprefix(prefix) if len(seen) > len(shown) else "",
            logins=await self._authorizer.logins_on(caller, nodes) if nodes else [],
            unreadable=[item for item in items if isinstance(item, m.Unreadable)],
        )

    async def _seen(self, caller: Caller, kind: Kind, request: m.ListRequest) -> list[_Seen]:
        """What the caller may see behind the request's key: all that a page holds, and one more where there is more."""
        prefix = records.PREFIX_OF_KIND[kind]
        start = prefix + request.start_key if request.start_key else ""
        # of thousands of nodes, most are shown as they are stored
        glancing = kind is Kind.NODE and not request.with_secrets and await self._authorizer.lists_alike(caller, kind)
        if glancing and not await self._lists(caller, kind):
            return []
        at_once = max(request.limit + 1, READ_AT_ONCE)
        seen: list[_Seen] = []
        while True:
            items = await self._state.backend.range(prefix, start=start, limit=at_once)
            seen += await (self._glanced(caller, items) if glancing else self._of(caller, kind, items))
            if len(items) < at_once or len(seen) > request.limit:
                return seen[: request.limit + 1]
            start = items[-1].key

    async def _lists(self, caller: Caller, kind: Kind) -> bool:
        decided = [await self._authorizer.decide(caller, verb, kind, {}) for verb in LISTING]
        return all(isinstance(one, APIPermit) for one in decided)

    async def _glanced(self, caller: Caller, items: Sequence[Item]) -> list[_Seen]:
        """The nodes among `items` that the caller may know of, who may list all of them or none."""
        stored = {item.key.removeprefix(records.NODES): item for item in items}
        glances = [msgspec.json.decode(item.value, type=Glance) for item in items]
        return [_Seen(stored[one.host_id], one) for one in await self._authorizer.visible_nodes(caller, glances)]

    async def _of(self, caller: Caller, kind: Kind, items: Sequence[Item]) -> list[_Seen]:
        """What the caller may see of `items`."""
        unreadable = await self._unreadable(caller, kind, items)
        every = {item.key: from_json(item.value) for item in items if item.key not in unreadable}
        found = await self._authorizer.listable(caller, kind, list(every.values()))
        if kind is Kind.NODE:
            found = list(
                await self._authorizer.visible_nodes(caller, [node for node in found if isinstance(node, Server)])
            )
        if kind is Kind.KUBE_SERVICE and not await self._authorizer.sees_kube_services(caller):
            found = []
        if kind is Kind.REMOTE_CLUSTER:
            remotes = [one for one in found if isinstance(one, RemoteCluster)]
            found = list(await self._authorizer.visible_clusters(caller, remotes))
        may = {id(one) for one in found}
        things = {key: one for key, one in every.items() if id(one) in may} | unreadable
        return [_Seen(item, thing) for item in items if (thing := things.get(item.key)) is not None]

    async def _shown(self, one: _Seen, now: datetime, *, secrets: bool) -> m.Document | m.Unreadable:
        match one.thing:
            case m.Unreadable():
                return one.thing
            case Glance():
                return self._as_of(one.thing, one.item, now)
            case resource:
                return document(await self._with_status(resource, secrets=secrets), with_secrets=secrets)

    async def _unreadable(self, caller: Caller, kind: Kind, items: Sequence[Item]) -> dict[str, m.Unreadable | None]:
        """What is stored of other clusters and cannot be read, by its key; None where the caller may not know of it."""
        if kind not in foreign.KINDS:
            return {}
        found: dict[str, m.Unreadable | None] = {}
        for item in items:
            name = item.key.removeprefix(records.PREFIX_OF_KIND[kind])
            problem = foreign.unreadable(item.value, kind, name)
            if problem:
                may = await self._sees_unreadable(caller, kind, name)
                found[item.key] = m.Unreadable(name=name, problem=problem[:MAX_PROBLEM]) if may else None
        return found

    async def _sees_unreadable(self, caller: Caller, kind: Kind, name: str) -> bool:
        """Whether a rule of the caller's own says so. Labels, by which others see a cluster, cannot be read."""
        decided = [await self._authorizer.decide(caller, verb, kind, _named(name)) for verb in LISTING]
        return all(isinstance(one, APIPermit) and one.granted_by != IMPLICIT_ROLE_NAME for one in decided)

    async def _refuse_unreadable(self, caller: Caller, kind: Kind, item: Item | None, name: str) -> None:
        """Raises `BadRequest` for what is stored of another cluster and cannot be read, `NotFound` for whoever may not
        know of it."""
        if item is not None and kind in foreign.KINDS and foreign.unreadable(item.value, kind, name):
            if await self._sees_unreadable(caller, kind, name):
                raise foreign.refuse_unreadable(kind, name)
            raise _missing(kind, name)

    def _as_of(self, node: Glance, item: Item, now: datetime) -> m.Document:
        """A node as a list shows it: nothing of it is secret, and most are shown as they are stored."""
        if node.as_stored(now) and not self._tunnels.concerns(node.host_id):
            return m.Document(item.value)
        server = from_json(item.value)
        assert isinstance(server, Server)
        return document(self._tunnels.shown(server.as_of(now)))

    async def get(self, kind: Kind, caller: Caller, request: m.GetRequest) -> m.One:
        """One resource by name; for authorities the name is `type/cluster` or `type`."""
        # raises for a cluster that cannot be read
        resource, revision = await self._find(kind, request.name, caller)
        verb = Verb.READ if request.with_secrets else Verb.READ_NO_SECRETS
        await self._require(caller, verb, kind, resource, request.name)
        if request.with_secrets:
            self._may_see_secrets(caller, kind)
        if resource is None:
            raise _missing(kind, request.name)
        if (
            isinstance(resource, Server)
            and resource.kind == "node"
            and not await self._authorizer.visible_nodes(caller, [resource])
        ):
            raise _missing(kind, request.name)
        if kind is Kind.KUBE_SERVICE and not await self._authorizer.sees_kube_services(caller):
            raise _missing(kind, request.name)
        if isinstance(resource, RemoteCluster) and not await self._authorizer.visible_clusters(caller, [resource]):
            raise _missing(kind, request.name)
        if request.with_secrets and kind in WITH_SECRETS:
            await self._revealed(caller, kind, request.name)
        resource = await self._with_status(resource, secrets=request.with_secrets)
        return m.One(item=document(resource, with_secrets=request.with_secrets), revision=revision)

    def _may_see_secrets(self, caller: Caller, kind: Kind) -> None:
        """Password hashes, second factors and private keys make their reader anybody: no role grants them."""
        if kind in WITH_SECRETS:
            require_administrator(caller, f"read the secrets of a {kind}")

    async def _require(
        self,
        caller: Caller,
        verb: Verb,
        kind: Kind,
        resource: Resource | None,
        name: str = "",
        *,
        reveals: bool = False,
    ) -> None:
        """Raises `AccessDenied`; about what does not exist, only its name is known."""
        facts = facts_of(resource) if resource is not None else _named(name)
        ca_type = str(resource.type) if isinstance(resource, Authority) else ""
        await self._authorizer.require(caller, verb, kind, facts, ca_type=ca_type, reveals=reveals)

    async def _find(self, kind: Kind, name: str, caller: Caller) -> tuple[Resource | None, int]:
        """The resource, and the revision in which it is stored; 0 when it is not stored under this name."""
        if kind is Kind.TOKEN:
            name = name if len(name) == 8 else token_id(SecretText(name))
            static = [token for token in self._tokens.static if token.name == name]
            if static:
                return static[0], 0
        if kind is Kind.CERT_AUTHORITY and "/" not in name:
            name = f"{name}/{self._state.cluster}"
        if kind is Kind.NODE:
            return await self._node(caller, name), 0
        item = await self._state.backend.get(records.PREFIX_OF_KIND[kind] + name)
        await self._refuse_unreadable(caller, kind, item, name)
        return (None, 0) if item is None else (from_json(item.value), item.revision)

    async def _node(self, caller: Caller, name: str) -> Resource | None:
        """A node by UUID, else by a host name that only one node has, of those that the caller may know of."""
        item = await self._state.backend.get(records.NODES + name)
        if item is not None:
            return from_json(item.value)
        nodes = [from_json(item.value) for item in await self._state.backend.range(records.NODES)]
        named = [node for node in nodes if isinstance(node, Server) and node.hostname == name]
        if len(named) > 1:
            named = await self._authorizer.visible_nodes(caller, named)
        if len(named) > 1:
            ids = ", ".join(node.host_id for node in named)
            raise BadRequest(f"{len(named)} nodes are called {name!r}: {ids}", hint="name one by its UUID")
        return named[0] if named else None

    async def _with_status(self, resource: Resource, *, secrets: bool) -> Resource:
        """A user with the state of its login lock, and its secrets when those are asked for; how long a service that is
        lost has been silent."""
        if isinstance(resource, Server):
            return self._tunnels.shown(resource.as_of(self._state.clock.now()))
        if isinstance(resource, (TrustedCluster, RemoteCluster)):
            return await self._as_linked(resource)
        if not isinstance(resource, User):
            return resource
        found = await self._state.record(records.USER_SECRETS + resource.name, UserSecret)
        if found is None:
            return resource
        from teleport.resources.user import UserStatus

        record, _ = found
        until = locked_until(record, self._state.clock.now())
        status = UserStatus(is_locked=until is not None, lock_expires=until)
        spec = msgspec.structs.replace(resource.spec, status=status if status.is_locked else UserStatus())
        if secrets:
            spec = msgspec.structs.replace(spec, local_auth=local_auth.to_document(record))
        return msgspec.structs.replace(resource, spec=spec)

    async def _as_linked(self, cluster: TrustedCluster | RemoteCluster) -> Resource:
        """Another cluster, with how the exchange with it stands."""
        found = await self._state.record(records.CLUSTER_LINKS + cluster.name, ClusterLink)
        link = found[0] if found is not None else ClusterLink()
        if isinstance(cluster, RemoteCluster):
            return cluster.as_of(link.heard, link.exchanged, self._state.clock.now())
        status = TrustedClusterStatus(last_exchange=link.exchanged, problem=link.problem)
        return msgspec.structs.replace(cluster, status=status)

    async def _revealed(self, caller: Caller, kind: Kind, name: str) -> None:
        await self._state.tell(
            self._state.event(SecretRevealed, caller, kind=str(kind), name=name, what="the resource with its secrets")
        )

    # store

    async def store(self, kind: Kind, caller: Caller, request: m.StoreRequest) -> m.Done:
        """Creates a resource, or replaces it with `force`. Raises `CompareFailed` when it is not any more as it was at
        the `revision` that is named."""
        resource = from_json(bytes(request.item))
        if resource.kind != kind:
            raise BadRequest(f"this stores a {kind}, the document is a {resource.kind}")
        key = key_of(resource)
        item = await self._state.backend.get(key)
        # whoever stores a token knows its secret, and could let in a host with it: as if it had been revealed
        await self._require(caller, Verb.CREATE, kind, resource, reveals=kind is Kind.TOKEN)
        if item is not None:
            await self._refuse_unreadable(caller, kind, item, resource.metadata.name)
            await self._require(caller, Verb.UPDATE, kind, from_json(item.value))
            if not request.force:
                raise AlreadyExists(f"{kind} {resource.name!r} exists already", hint="tctl create -f replaces it")
        if request.revision and (item is None or item.revision != request.revision):
            raise _changed(kind, resource.name, gone=item is None)
        guarded = await self._storing.guarded(resource, confirmed=request.confirm)
        written, event = await self._storing.written(caller, resource, item, check=request.check)
        if request.check:
            return m.Done()
        writes = [*written, *guarded[0]]
        conditions: list[Condition] = [Exists(key, item.revision) if item is not None else Absent(key), *guarded[1]]
        if isinstance(resource, User):
            conditions += giving_roles(resource.roles)[1]
        try:
            await self._state.commit(writes, conditions=conditions, events=[event])
        except CompareFailed:
            raise CompareFailed(
                f"{kind} {resource.name!r} was changed by somebody else at this moment", hint="look at it and try again"
            ) from None
        return m.Done()

    async def update_user(self, caller: Caller, request: m.UpdateUserRequest) -> m.Done:
        """Sets a user's roles, and its traits where they are given."""
        found = await self._state.find(records.USERS, request.name, User)
        await self._require(caller, Verb.UPDATE, Kind.USER, found[0] if found else None, request.name)
        if found is None:
            raise _missing(Kind.USER, request.name)
        user, revision = found
        if request.revision and request.revision != revision:
            raise _changed(Kind.USER, request.name)
        spec = msgspec.structs.replace(user.spec, roles=tuple(request.roles))
        if request.traits is not None:
            traits = {name: tuple(values) for name, values in request.traits.items()}
            spec = msgspec.structs.replace(spec, traits=traits)
        changed = checked(msgspec.structs.replace(user, spec=spec))
        await self._require(caller, Verb.UPDATE, Kind.USER, changed)
        along, unchanged = await self._storing.guarded(changed, confirmed=request.force)
        written, event = await self._storing.user_written(caller, changed, user)
        writes = [*written, *along]
        conditions = [Exists(records.USERS + request.name, revision), *giving_roles(changed.roles)[1], *unchanged]
        try:
            await self._state.commit(writes, conditions=conditions, events=[event])
        except CompareFailed:
            raise _changed(Kind.USER, request.name) from None
        return m.Done()

    # remove

    async def check_removal(self, caller: Caller, request: m.CheckRemovalRequest) -> m.Done:
        """Raises what removing it would be refused with, once the changes that go along were made."""
        if request.kind not in (Kind.USER, Kind.ROLE, Kind.LOCK, Kind.TRUSTED_CLUSTER):
            raise BadRequest(
                f"the removal of a {request.kind[:64]!r} is not checked apart", hint="tctl apply asks this"
            )
        kind = Kind(request.kind)
        resource, _ = await self._find(kind, request.name, caller)
        await self._require(caller, Verb.DELETE, kind, resource, request.name)  # before megabytes are parsed for nobody
        if resource is None:
            raise _missing(kind, request.name)
        if kind is Kind.TRUSTED_CLUSTER:  # others remove these (`clusters`), and what goes along does not matter
            return m.Done()
        try:
            stored = [from_json(bytes(one)) for one in msgspec.json.decode(request.along, type=list[msgspec.Raw])]
        except (ValueError, msgspec.MsgspecError):
            raise BadRequest("not a list of resources", hint="tctl apply asks this") from None
        return await self.remove(
            kind, caller, m.ExpelRequest(name=request.name), along=Along.of(stored, request.removed)
        )

    async def remove(
        self, kind: Kind, caller: Caller, request: m.ExpelRequest, *, along: Along | None = None
    ) -> m.Done:
        """Removes a resource; a node or proxy is expelled unless it keeps its identity, also when it is not here.
        `along`: it is only asked about, and this will have been written before it."""
        try:
            resource, _ = await self._find(kind, request.name, caller)
        except BadRequest:
            if kind not in foreign.KINDS:
                raise
            # whether a role's conditions would allow it, nobody can say
            require_administrator(caller, "remove what is stored of a cluster and cannot be read")
            resource = RemoteCluster(metadata=Metadata(name=request.name))
        silent = resource is None and not request.keep_identity
        if silent:
            resource = await self._removing.silent_host(kind, request.name)
        await self._require(caller, Verb.DELETE, kind, resource, request.name)
        if resource is None:
            raise _missing(kind, request.name)
        writes, conditions, gone = await self._removing.taken_along(
            caller, resource, request, silent=silent, along=along
        )
        if along is not None:
            return m.Done()
        try:
            await self._state.commit(writes, conditions=conditions, events=[gone])
        except CompareFailed:
            raise CompareFailed(
                f"a user was given roles while the {kind} {resource.name!r} was being removed", hint="try again"
            ) from None
        return m.Done()

    # by route name

    def handlers(self) -> dict[str, Bound]:
        """The handler of each resource route."""
        from teleport.api import routes

        table: dict[str, Bound] = {}
        for name in routes.LIST:
            kind = Kind(name)
            if kind in SINGLETONS:
                continue  # `auth.cluster.settings`
            table[routes.LIST[name].name] = _bind(self.page, kind)
            table[routes.GET[name].name] = _bind(self.get, kind)
            table[routes.STORE[name].name] = _bind(self.store, kind)
            table[routes.REMOVE[name].name] = _bind(self.remove, kind)
        return table


def _bind(method: Callable[..., Awaitable[m.Message]], kind: Kind) -> Bound:
    async def handler(caller: Caller, request: m.Request) -> m.Message:
        return await method(kind, caller, request)

    return handler


def _named(name: str) -> dict[str, object]:
    """What conditions of roles may see of something of which no more than the name is known."""
    return {"resource": {"metadata": {"name": name}}}


def _changed(kind: Kind, name: str, *, gone: bool = False) -> CompareFailed:
    what = "removed" if gone else "changed by somebody else"
    return CompareFailed(f"{kind} {name!r} was {what} in the meantime", hint="look at it as it is now and try again")


def _missing(kind: Kind, name: str) -> NotFound:
    shown = "with this id" if kind is Kind.TOKEN else repr(name)
    return NotFound(f"there is no {kind} {shown}", hint=f"tctl get {kind} lists them")
