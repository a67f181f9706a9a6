"""`tctl access explain`: what would become of a session, asked of the same decision that the node takes.

The person need not be logged in: what a login would give now is what is judged. Whoever asks must be able to read
users, roles and locks, and learns of the nodes that it may list, and of no other.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import msgspec

from teleport.api import messages as m
from teleport.auth.authorizer import Authorizer, facts_of
from teleport.auth.caller import Caller
from teleport.auth.factors.lockout import locked_until
from teleport.auth.grants import DEFAULT_TTL
from teleport.auth.state import ClusterState
from teleport.authz.decision import AccessDenial, DenialCode, Policy
from teleport.authz.explain import explain_ssh_access
from teleport.authz.host_rules import Reach
from teleport.authz.ssh import SSHAccessPermit, SSHAccessRequest
from teleport.clock import rfc3339
from teleport.errors import AccessDenied, NotFound
from teleport.identity import HostIdentity, SystemRole, UserIdentity
from teleport.resources.codec import from_json
from teleport.resources.kinds import Kind, Verb
from teleport.resources.names import canonical_host
from teleport.resources.server import Server
from teleport.resources.user import User
from teleport.store import records
from teleport.store.records import UserSecret

_SHOWN = 8  # hosts of one name
LOCKED_OUT = "locked_out"  # beside the codes of denials: after failed logins
NO_HOST = "no_host"  # likewise: nothing to reach, although logins are taken


class Explaining:
    """The handler of `explain_access`."""

    def __init__(self, state: ClusterState, authorizer: Authorizer) -> None:
        self._state = state
        self._authorizer = authorizer

    async def explain(self, caller: Caller, request: m.ExplainRequest) -> m.Explanation:
        """The permit with the roles of each part, or every reason against it."""
        if isinstance(caller.identity, HostIdentity) and caller.identity.role is not SystemRole.ADMIN:
            raise AccessDenied("hosts take their own decisions and ask for none", hint="tctl access explain")
        for kind in (Kind.ROLE, Kind.LOCK, Kind.NODE):
            await self._authorizer.require(caller, Verb.READ, kind)
        found = await self._state.find(records.USERS, request.user, User)
        facts = facts_of(found[0]) if found else {"resource": {"metadata": {"name": request.user}}}
        await self._authorizer.require(caller, Verb.READ_NO_SECRETS, Kind.USER, facts)
        if found is None:
            raise NotFound(f"there is no user {request.user!r}", hint="tctl users ls")
        user = found[0]
        nodes = await self._nodes(caller)
        matches = self._named(nodes, request.host)
        if not matches:
            raise NotFound(
                f"there is no node {request.host!r}{self._nearest(nodes, request.host)}", hint="tctl nodes ls"
            )
        said = m.Explanation(allowed=False, user=user.name, login=request.login, host=request.host)
        if len(matches) > 1:
            ids = ", ".join(f"{node.host_id} ({node.hostname}, {node.spec.addr})" for node in matches[:_SHOWN])
            reason = m.ExplainReason(code="ambiguous", reason=f"{request.host} fits {len(matches)} nodes: {ids}")
            hint = f"name one by its id: tctl access explain {user.name} {request.login}@{matches[0].host_id}"
            return _with(said, reasons=[reason], hint=hint)
        return await self._decided(said, user, matches[0], request, nodes)

    async def _reaches_any(self, identity: UserIdentity, nodes: Sequence[Server]) -> bool:
        """Whether a login of the user would be let in anywhere, locks aside."""
        policy = Policy(
            roles=await self._state.roles(identity.roles), cluster=await self._authorizer.cluster_defaults()
        )
        now, cluster = self._state.clock.now(), self._state.cluster
        asked = replace(identity, cluster=cluster)
        reach = Reach(asked, policy, cluster=cluster, now=now)
        return any(reach.logins(node.all_labels, node.metadata.namespace) for node in nodes)

    async def _decided(
        self, said: m.Explanation, user: User, node: Server, request: m.ExplainRequest, nodes: Sequence[Server]
    ) -> m.Explanation:
        now = self._state.clock.now()
        reasons: list[m.ExplainReason] = []
        if user.expired(now):
            reasons.append(m.ExplainReason(code=str(DenialCode.EXPIRED), reason=f"the user {user.name} has expired"))
        found_secret = await self._state.record(records.USER_SECRETS + user.name, UserSecret)
        until = locked_until(found_secret[0], now) if found_secret is not None else None
        if found_secret is not None and until is not None:
            unlock = f"tctl users unlock {shlex.quote(user.name)}"
            where = f"{_where(found_secret[0], now)} until {rfc3339(until)}"
            why = f"no login is taken {where}, after too many that failed: {unlock}"
            reasons.append(m.ExplainReason(code=LOCKED_OUT, reason=why))
        logins: tuple[str, ...] = ()
        lifetime, source_ip = timedelta(0), ""
        try:
            grant = await self._authorizer.grants.of_login(
                user, DEFAULT_TTL.total_seconds(), route_to_cluster="", client_address=_WHERE
            )
            logins, lifetime, source_ip = grant.logins, grant.ttl, grant.source_ip
        except AccessDenied as error:
            reasons.append(m.ExplainReason(code=str(DenialCode.NOT_GRANTED), reason=error.message))
        identity = UserIdentity(
            name=user.name,
            cluster=request.cluster or self._state.cluster,
            roles=tuple(user.roles),
            logins=logins,
            expires=now + max(lifetime, timedelta(minutes=1)),
            traits=user.traits,
            source_ip=source_ip,
        )
        roles = await self._state.roles(user.roles)
        asked = SSHAccessRequest(
            identity=identity,
            login=request.login,
            cluster=self._state.cluster,
            now=now,
            node_id=node.host_id,
            node_hostname=node.hostname,
            node_labels=node.all_labels,
            joinable=not node.agentless,
            namespace=node.metadata.namespace,
            client_address=_WHERE,  # whoever logged in there comes from there
            locks=await self._authorizer.locks(),
        )
        found = explain_ssh_access(asked, Policy(roles=roles, cluster=await self._authorizer.cluster_defaults()))
        reasons += [m.ExplainReason(code=str(no.code), reason=reason) for no in found.denials for reason in no.reasons]
        said = _with(said, node_id=node.host_id, hostname=node.hostname)
        if found.denials and logins and not await self._reaches_any(identity, nodes):
            why = f"the user may log in to the cluster, and sees none of its {len(nodes)} hosts"
            reasons.append(m.ExplainReason(code=NO_HOST, reason=why))
        if reasons:
            denied = found.decision if isinstance(found.decision, AccessDenial) else None
            return _with(said, reasons=reasons, told=denied.public if denied else "", hint=_NEXT)
        assert isinstance(found.decision, SSHAccessPermit)
        parts = [m.ExplainPart(name=part.name, value=part.value, sources=list(part.sources)) for part in found.parts]
        return _with(said, allowed=True, roles=list(found.decision.roles), parts=parts)

    async def _nodes(self, caller: Caller) -> list[Server]:
        items = await self._state.backend.range(records.NODES)
        nodes = [one for one in (from_json(item.value) for item in items) if isinstance(one, Server)]
        return await self._authorizer.visible_nodes(caller, nodes)

    def _named(self, nodes: Sequence[Server], host: str) -> list[Server]:
        """As the proxy understands a host: by UUID, by name with or without the cluster, by address."""
        names = {canonical_host(host), canonical_host(host).removesuffix(f".{self._state.cluster.lower()}")}
        by_id = [node for node in nodes if canonical_host(node.host_id) in names]
        by_name = [node for node in nodes if canonical_host(node.hostname) in names]
        return by_id or by_name or [node for node in nodes if canonical_host(_host(node)) in names]

    def _nearest(self, nodes: Sequence[Server], host: str) -> str:
        near = difflib.get_close_matches(host.partition(".")[0], sorted({node.hostname for node in nodes}), n=3)
        return f"; did you mean {' or '.join(near)}?" if near else ""


def _host(node: Server) -> str:
    address = node.spec.public_addrs[0] if node.spec.public_addrs else node.spec.addr
    return address.rpartition(":")[0].strip("[]")


_WHERE = "192.0.2.1"


def _where(secret: UserSecret, now: datetime) -> str:
    """From where the lockout of a user holds."""
    places = [f"from {one.place}" for one in secret.places if one.locked(now)]
    if secret.locked(now):
        places.append("from where the user has not logged in lately" if secret.places else "from anywhere")
    return " and ".join(places)


_NEXT = "tctl get role/NAME and tctl get lock show what refuses; tctl users update USER --set-roles=... gives roles"


def _with(said: m.Explanation, **fields: object) -> m.Explanation:
    return msgspec.structs.replace(said, **fields)
