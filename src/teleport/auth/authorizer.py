"""Who the caller is and whether it may: the one place where auth asks `authz` about its own API.

Routes whose answer depends on the thing asked for (a resource, a recording, the kinds of a watch) are decided in
their handlers, with `require`; `DECIDED_BY_HANDLER` lists them, anonymous callers never reach them, and a test calls
every route as everybody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol, TypeVar

from msgspec.structs import replace as replace_fields

from teleport.api import routes
from teleport.api.messages import UserCerts
from teleport.api.routes import Route
from teleport.auth.authorities.certify import UserGrant
from teleport.auth.caller import Caller
from teleport.auth.grants import Grants
from teleport.auth.hosts.joining import Joining
from teleport.auth.state import ClusterState
from teleport.authz.api import APIAccessRequest, APIPermit, decides_alike, deciding, evaluate_api_access
from teleport.authz.certificate import certificate_denial, unpinned_denial
from teleport.authz.clusters import why_no_cluster
from teleport.authz.decision import AccessDenial, ClusterDefaults, Policy
from teleport.authz.host_rules import Reach
from teleport.authz.locks import host_lock_denial
from teleport.authz.roles import RoleSet
from teleport.errors import AccessDenied
from teleport.identity import Anonymous, HostIdentity, Identity, SystemRole, UserIdentity
from teleport.resources.authority import Authority
from teleport.resources.codec import Resource, to_document, without_secrets
from teleport.resources.kinds import Kind, Verb
from teleport.resources.lock import Lock
from teleport.resources.role import IMPLICIT_ROLE_NAME
from teleport.resources.trusted_cluster import RemoteCluster
from teleport.resources.user import User

LISTING: Final = (Verb.LIST, Verb.READ_NO_SECRETS)  # what whoever lists must be allowed to

DECIDED_BY_HANDLER: Final = frozenset(
    {
        routes.WATCH.name,
        routes.HEARTBEAT.name,
        routes.WITHDRAW.name,
        routes.RENEW_HOST.name,
        routes.RENEW_USER.name,
        routes.SESSION_CHALLENGE.name,
        routes.SESSION_CERT.name,
        routes.READ_RECORDING.name,
        routes.LIST_RECORDINGS.name,
        routes.SEARCH_RECORDINGS.name,
        routes.VERIFY_RECORDINGS.name,
        routes.RUNNING_SESSIONS.name,
        routes.ADD_USER.name,
        routes.UPDATE_USER.name,
        routes.RESET_USER.name,
        routes.UNLOCK_USER.name,
        routes.ADD_TOKEN.name,
        routes.EXPLAIN_ACCESS.name,
        routes.CREATE_BACKUP.name,
        routes.ADD_HOLD.name,
        routes.LIST_HOLDS.name,
        routes.REMOVE_HOLD.name,
        routes.DIFF_ACCESS.name,
        routes.CHECK_REMOVAL.name,
        routes.LIST_CERTS.name,
        routes.REVOKE_CERT.name,
        routes.ROTATE.name,
        routes.ROTATION_PROGRESS.name,
        routes.ROTATION_PLAN.name,
        routes.FACTOR_CHALLENGE.name,
        routes.OWN_FACTORS.name,
        routes.BEGIN_FACTOR.name,
        routes.FINISH_FACTOR.name,
        routes.REMOVE_FACTOR.name,
        routes.OWN_WEB_SESSIONS.name,
        routes.END_OWN_WEB_SESSIONS.name,
        routes.CHANGE_PASSWORD.name,
        routes.FIND_NODES.name,
        routes.FIND_USERS.name,
        *(table[kind].name for table in (routes.LIST, routes.GET, routes.STORE, routes.REMOVE) for kind in table),
    }
)
# What needs a record of the user in this cluster. Who comes from a trusted one has none, whatever its roles allow.
NOT_FOR_OTHERS: Final = frozenset(
    {
        routes.RENEW_USER.name,
        routes.SESSION_CHALLENGE.name,
        routes.SESSION_CERT.name,
        routes.FACTOR_CHALLENGE.name,
        routes.OWN_FACTORS.name,
        routes.BEGIN_FACTOR.name,
        routes.FINISH_FACTOR.name,
        routes.REMOVE_FACTOR.name,
        routes.OWN_WEB_SESSIONS.name,
        routes.END_OWN_WEB_SESSIONS.name,
        routes.CHANGE_PASSWORD.name,
    }
)
# What any host may do about itself, unless it is locked: the others of those above ask for a verb and a kind.
DECIDED_BY_LOCKS: Final = frozenset({routes.WITHDRAW.name, routes.RENEW_HOST.name})


class Reachable(Protocol):
    """A node, as far as the logins there depend on it."""

    @property
    def host_id(self) -> str: ...
    @property
    def namespace(self) -> str: ...
    @property
    def all_labels(self) -> Mapping[str, str]: ...


N = TypeVar("N", bound=Reachable)


class Authorizer:
    """Identifies callers and decides on their calls."""

    def __init__(self, state: ClusterState, joining: Joining, new_uuid: Callable[[], str]) -> None:
        self._state = state
        self._joining = joining
        self.grants = Grants(state, new_uuid)

    async def identify(self, certificate: bytes | None) -> Identity:
        """Who showed this certificate (DER); raises `AccessDenied` when it does not count (any more)."""
        if certificate is None:
            return Anonymous()
        identity = await self._state.tls_identity(certificate)
        if identity.cluster == self._state.cluster:  # certificates of other clusters are in no inventory here
            self._state.uses.note(identity, self._state.clock.now())
        if isinstance(identity, HostIdentity):
            if not await self.counts(identity):
                raise AccessDenied(
                    "this host does not belong to the cluster any more", hint="join it again with a new token"
                )
            return identity
        present = await self._state.present(identity)
        if present is None:
            raise AccessDenied("the user of this certificate does not exist any more", hint="tsh login")
        return present

    async def counts(self, host: HostIdentity) -> bool:
        """Whether a host's certificate has not been overtaken by what happened since it was issued."""
        return await self._joining.still_counts(host)

    async def authorize(self, caller: Caller, route: Route[Any, Any]) -> None:
        """Raises `AccessDenied` unless the caller may use the route at all."""
        if route.verb is None:
            return
        if isinstance(caller.identity, Anonymous):
            raise AccessDenied("this needs a certificate of the cluster", hint="tsh login")
        origin = caller.identity.origin if isinstance(caller.identity, UserIdentity) else None
        if origin is not None and route.name in NOT_FOR_OTHERS:
            raise AccessDenied(
                f"users of the cluster {origin.cluster} have no record in {self._state.cluster}: certificates and"
                " second factors are given in their own cluster",
                hint=f"log in to {origin.cluster}: tsh login",
            )
        if route.name in DECIDED_BY_HANDLER:
            if route.name in DECIDED_BY_LOCKS:
                await self._refuse_locked(caller)
            await self._hold_to_terms(caller)
            return
        await self.require(caller, route.verb, Kind(route.kind))

    async def _hold_to_terms(self, caller: Caller) -> None:
        """Where a user's certificate holds counts on every route, also where a handler asks for nothing of the kind."""
        identity = caller.identity
        if not isinstance(identity, UserIdentity):
            return
        denial = certificate_denial(
            identity, cluster=self._state.cluster, now=self._state.clock.now(), client_address=caller.host
        )
        if denial is None and not identity.source_ip:
            roles = RoleSet.build(identity.roles, await self._state.roles(identity.roles), identity.traits)
            denial = unpinned_denial(identity, roles)
        if denial is not None:
            raise Denied(denial)

    async def _refuse_locked(self, caller: Caller) -> None:
        identity = caller.identity
        if isinstance(identity, HostIdentity):
            denial = host_lock_denial(identity, await self.locks(), self._state.clock.now())
            if denial is not None:
                raise Denied(denial)

    async def require(
        self,
        caller: Caller,
        verb: Verb,
        kind: Kind,
        facts: Mapping[str, object] | None = None,
        *,
        ca_type: str = "",
        reveals: bool = False,
    ) -> APIPermit:
        """The permit for one thing; raises `AccessDenied`. `reveals`: a secret, or what is in a recording."""
        decision = await self.decide(caller, verb, kind, facts or {}, ca_type=ca_type, reveals=reveals)
        if isinstance(decision, AccessDenial):
            raise Denied(decision)
        return decision

    async def require_listing(self, caller: Caller, *kinds: Kind) -> None:
        """Raises `AccessDenied` unless the caller may list and read things of each kind, whatever they are; decided by
        the rules of one moment."""
        policy = await self._policy(caller.identity)
        asked = await self._request(caller, LISTING[0], kinds[0])
        for kind in kinds:
            for verb in LISTING:
                decision = evaluate_api_access(replace(asked, verb=verb, kind=kind), policy)
                if isinstance(decision, AccessDenial):
                    raise Denied(decision)

    async def decide(
        self,
        caller: Caller,
        verb: Verb,
        kind: Kind,
        facts: Mapping[str, object],
        *,
        ca_type: str = "",
        reveals: bool = False,
    ) -> APIPermit | AccessDenial:
        request = replace(await self._request(caller, verb, kind), facts=facts, ca_type=ca_type, reveals=reveals)
        return evaluate_api_access(request, await self._policy(caller.identity))

    async def _request(self, caller: Caller, verb: Verb, kind: Kind) -> APIAccessRequest:
        return APIAccessRequest(
            identity=caller.identity,
            verb=verb,
            kind=kind,
            cluster=self._state.cluster,
            now=self._state.clock.now(),
            client_address=caller.host,
            locks=await self.locks(),
        )

    async def listable(self, caller: Caller, kind: Kind, resources: Sequence[Resource]) -> list[Resource]:
        """Those of `resources` that the caller may list and read; each decided with its own facts (`where`)."""
        if await self.lists_alike(caller, kind):
            general = [await self.decide(caller, verb, kind, {}) for verb in LISTING]
            return list(resources) if all(isinstance(one, APIPermit) for one in general) else []
        types = [str(one.type) if isinstance(one, Authority) else "" for one in resources]
        may = await self.may_list(caller, kind, [facts_of(one) for one in resources], types)
        return [one for one, allowed in zip(resources, may, strict=True) if allowed]

    async def may_list(
        self, caller: Caller, kind: Kind, facts: Sequence[Mapping[str, object]], ca_types: Sequence[str] = ()
    ) -> list[bool]:
        """Whether the caller may list and read each thing, by the facts of each."""
        decided = [await self.decide_each(caller, verb, kind, facts, ca_types) for verb in LISTING]
        return [all(answers) for answers in zip(*decided, strict=True)]

    async def lists_alike(self, caller: Caller, kind: Kind) -> bool:
        """Whether the caller may list and read all things of the kind, or none, whatever they are."""
        policy = await self._policy(caller.identity)
        asked = [await self._request(caller, verb, kind) for verb in LISTING]
        return all(decides_alike(request, policy) for request in asked)

    async def decide_each(
        self,
        caller: Caller,
        verb: Verb,
        kind: Kind,
        facts: Sequence[Mapping[str, object]],
        ca_types: Sequence[str] = (),
        *,
        reveals: bool = False,
    ) -> list[bool]:
        """Whether the caller may do it to each thing, by the rules of one moment."""
        request, policy = await self._request(caller, verb, kind), await self._policy(caller.identity)
        request = replace(request, reveals=reveals)
        types = ca_types or [""] * len(facts)
        decide = deciding(request, policy)
        return [isinstance(decide(one, ca_type), APIPermit) for one, ca_type in zip(facts, types, strict=True)]

    async def locks(self) -> Sequence[Lock]:
        return await self._state.locks()

    async def policy(self, identity: UserIdentity) -> Policy:
        """The roles that decide about a user, and what of the cluster's settings concerns calls."""
        return await self._policy(identity)

    async def _policy(self, identity: Identity) -> Policy:
        if not isinstance(identity, UserIdentity):
            return Policy()
        preference = await self._state.preference()
        return Policy(
            roles=await self._state.roles([*identity.roles, *identity.denying]),
            cluster=ClusterDefaults(require_session_mfa=preference.spec.require_session_mfa),
        )

    async def cluster_defaults(self) -> ClusterDefaults:
        """What the cluster's settings add to every role, as nodes read them."""
        state = self._state
        return ClusterDefaults.of(await state.preference(), await state.networking(), await state.recording())

    async def logins_on(self, caller: Caller, nodes: Sequence[Reachable]) -> list[list[str]]:
        """The logins that a user may use on each of `nodes`; nothing for other callers."""
        identity = caller.identity
        if not isinstance(identity, UserIdentity):
            return []
        reach = Reach(identity, await self._policy(identity), cluster=self._state.cluster, now=self._state.clock.now())
        return [list(reach.logins(node.all_labels, node.namespace)) for node in nodes]

    async def visible_nodes(self, caller: Caller, nodes: Sequence[N]) -> list[N]:
        """The nodes that the caller may know of: all, when a rule of its own roles says so; else those it may use."""
        identity = caller.identity
        if not isinstance(identity, UserIdentity):
            return list(nodes)
        permit = await self.decide(caller, Verb.LIST, Kind.NODE, {})
        if isinstance(permit, APIPermit) and permit.granted_by != IMPLICIT_ROLE_NAME:
            return list(nodes)
        reached = await self.logins_on(caller, nodes)
        return [node for node, logins in zip(nodes, reached, strict=True) if logins]

    async def sees_kube_services(self, caller: Caller) -> bool:
        """Whether the caller may know which Kubernetes services there are, and where they lead: a rule of its own roles
        has to say so. Everybody else is told by proxies which clusters are theirs."""
        if not isinstance(caller.identity, UserIdentity):
            return True
        permit = await self.decide(caller, Verb.LIST, Kind.KUBE_SERVICE, {})
        return isinstance(permit, APIPermit) and permit.granted_by != IMPLICIT_ROLE_NAME

    async def visible_clusters(self, caller: Caller, clusters: Sequence[RemoteCluster]) -> list[RemoteCluster]:
        """The remote clusters that the caller may know of: all, when a rule of its own roles says so; else those that
        it may go to."""
        identity = caller.identity
        if not isinstance(identity, UserIdentity):
            return list(clusters)
        permit = await self.decide(caller, Verb.LIST, Kind.REMOTE_CLUSTER, {})
        if isinstance(permit, APIPermit) and permit.granted_by != IMPLICIT_ROLE_NAME:
            return list(clusters)
        policy = await self._policy(identity)
        return [
            one
            for one in clusters
            if why_no_cluster(identity, policy, remote=one.name, labels=one.metadata.labels) is None
        ]

    async def reached_clusters(self, identity: UserIdentity) -> frozenset[str]:
        """The other clusters that somebody may go to, as a proxy decides it (`proxy.other_clusters`)."""
        clusters = await self._state.remote_clusters()
        policy = await self._policy(identity) if clusters else Policy()
        return frozenset(
            one.name
            for one in clusters
            if why_no_cluster(identity, policy, remote=one.name, labels=one.metadata.labels) is None
        )

    async def told_of_clusters(self, certs: UserCerts, user: User, grant: UserGrant) -> UserCerts:
        """The answer with the authorities of this cluster, and of those that its user may go to; of others nobody
        learns that they are there."""
        if all(one.domain_name == self._state.cluster for one in certs.host_signers):
            return certs
        identity = UserIdentity(
            name=user.name,
            cluster=self._state.cluster,
            roles=grant.roles,
            logins=grant.logins,
            expires=certs.expires,
            traits=grant.traits,
            denying=tuple(role for role in user.roles if role not in grant.roles),
        )
        told = {self._state.cluster, *await self.reached_clusters(identity)}
        return replace_fields(certs, host_signers=[one for one in certs.host_signers if one.domain_name in told])


class Denied(AccessDenied):
    """A refusal by `authz`: the caller reads the public sentence, the audit log the reasons."""

    def __init__(self, denial: AccessDenial) -> None:
        super().__init__(denial.public, hint=denial.hint)
        self.denial = denial


def require_administrator(caller: Caller, what: str) -> None:
    """Refuses everybody but tctl on an auth server; no role grants what this guards."""
    identity = caller.identity
    if not (isinstance(identity, HostIdentity) and identity.role is SystemRole.ADMIN):
        raise AccessDenied(f"only tctl on an auth server may {what}")


def facts_of(resource: Resource) -> dict[str, object]:
    """What `where` may see of a resource: its document without secrets."""
    return {"resource": to_document(without_secrets(resource))}
