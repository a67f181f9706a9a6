"""`tctl access explain`: what would become of a session, asked of the same decision that the node takes.

The person need not be logged in: what a login would give now is what is judged. Whoever asks must be able to read
users, roles and locks, and learns of the nodes that it may list, and of no other.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from datetime import timedelta

import msgspec

from teleport.api import messages as m
from teleport.auth.authorizer import DEFAULT_TTL, Authorizer, facts_of
from teleport.auth.server import Caller
from teleport.auth.state import ClusterState
from teleport.authz.decision import AccessDenial, DenialCode, Policy
from teleport.authz.explain import explain_ssh_access
from teleport.authz.ssh import SSHAccessPermit, SSHAccessRequest
from teleport.errors import AccessDenied, NotFound
from teleport.identity import HostIdentity, SystemRole, UserIdentity
from teleport.resources.codec import from_json
from teleport.resources.kinds import Kind, Verb
from teleport.resources.names import canonical_host
from teleport.resources.server import Server
from teleport.resources.user import User
from teleport.store import records

_SHOWN = 8  # hosts of one name


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
        return await self._decided(said, user, matches[0], request)

    async def _decided(self, said: m.Explanation, user: User, node: Server, request: m.ExplainRequest) -> m.Explanation:
        now = self._state.clock.now()
        reasons: list[m.ExplainReason] = []
        if user.expired(now):
            reasons.append(m.ExplainReason(code=str(DenialCode.EXPIRED), reason=f"the user {user.name} has expired"))
        logins: tuple[str, ...] = ()
        lifetime, source_ip = timedelta(0), ""
        try:
            grant = await self._authorizer.grant(
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
            namespace=node.metadata.namespace,
            client_address=_WHERE,  # whoever logged in there comes from there
            locks=await self._authorizer.locks(),
        )
        found = explain_ssh_access(asked, Policy(roles=roles, cluster=await self._authorizer.cluster_defaults()))
        reasons += [m.ExplainReason(code=str(no.code), reason=reason) for no in found.denials for reason in no.reasons]
        said = _with(said, node_id=node.host_id, hostname=node.hostname)
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
_NEXT = "tctl get role/NAME and tctl get lock show what refuses; tctl users update USER --set-roles=... gives roles"


def _with(said: m.Explanation, **fields: object) -> m.Explanation:
    return msgspec.structs.replace(said, **fields)
