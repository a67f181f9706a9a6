"""`tctl access diff`: what roles would change if they were stored, asked of the decision that the nodes take.

Whoever asks must be able to read roles, users, locks and sessions, and learns of the hosts that it may list; how many
others there are is said, so that nobody takes silence for safety.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, TypeVar

import msgspec

from teleport.api import messages as m
from teleport.auth.authorizer import Authorizer
from teleport.auth.caller import Caller
from teleport.auth.grants import DEFAULT_TTL
from teleport.auth.sessions.opened import OpenSession, open_sessions
from teleport.auth.state import ClusterState
from teleport.authz.decision import Policy
from teleport.authz.diff import Host, Somebody, changed_access, why_session_ends
from teleport.authz.ssh import SSHAccessRequest
from teleport.errors import AccessDenied, BadRequest
from teleport.identity import HostIdentity, SystemRole, UserIdentity
from teleport.resources.codec import from_json
from teleport.resources.kinds import Kind, Verb
from teleport.resources.lock import Lock
from teleport.resources.mfa_lease import MfaLease
from teleport.resources.role import Role
from teleport.resources.server import Server
from teleport.resources.user import User
from teleport.store import records
from teleport.store.standing import user_present

T = TypeVar("T", Role, User, Server, MfaLease)
MOST_CHANGES: Final = 10_000
MOST_ROLES: Final = 100


@dataclass(frozen=True, slots=True)
class _Facts:
    """Everything that the answer rests on, read at one moment."""

    cluster: str
    now: datetime
    before: Policy
    after: Policy
    users: Mapping[str, User]  # who has one of the roles
    nodes: Mapping[str, Server]
    locks: Sequence[Lock]
    leases: Sequence[MfaLease]
    sessions: Sequence[OpenSession]  # of these users, on these nodes


class AccessDiffs:
    """The handler of `diff_access`."""

    def __init__(self, state: ClusterState, authorizer: Authorizer) -> None:
        self._state = state
        self._authorizer = authorizer

    async def diff(self, caller: Caller, request: m.AccessDiffRequest) -> m.AccessDiff:
        """Who gains and loses what, and which open sessions end."""
        if isinstance(caller.identity, HostIdentity) and caller.identity.role is not SystemRole.ADMIN:
            raise AccessDenied("hosts take their own decisions and change no roles", hint="tctl access diff ROLE.yaml")
        for verb, kind in _NEEDED:
            await self._authorizer.require(caller, verb, kind)
        every = await self._all(records.NODES, Server)
        visible = await self._authorizer.visible_nodes(caller, every)
        facts = await self._facts(_roles(request.roles), visible)
        changes, ending = await asyncio.to_thread(_answer, facts, request.sessions_only)
        return m.AccessDiff(
            users=sorted(facts.users),
            open_sessions=len(facts.sessions),
            ending=ending,
            changes=changes[:MOST_CHANGES],
            more=len(changes) > MOST_CHANGES,
            hosts_left_out=len(every) - len(visible),
        )

    async def _facts(self, roles: Mapping[str, Role], nodes: Sequence[Server]) -> _Facts:
        now = self._state.clock.now()
        present = {role.name: role for role in await self._all(records.ROLES, Role)}
        defaults = await self._authorizer.cluster_defaults()
        users = {
            user.name: user
            for user in await self._all(records.USERS, User)
            if not user.expired(now) and not roles.keys().isdisjoint(user.roles)
        }
        known = {node.host_id: node for node in nodes}
        opened = await open_sessions(self._state)
        return _Facts(
            cluster=self._state.cluster,
            now=now,
            before=Policy(roles=present, cluster=defaults),
            after=Policy(roles={**present, **roles}, cluster=defaults),
            users=users,
            nodes=known,
            locks=await self._authorizer.locks(),
            leases=await self._all(records.MFA_LEASES, MfaLease),
            sessions=[one for one in opened if one.user in users and one.host_id in known],
        )

    async def _all(self, prefix: str, kind: type[T]) -> list[T]:
        found = [from_json(item.value) for item in await self._state.backend.range(prefix)]
        return [one for one in found if isinstance(one, kind)]


_NEEDED: Final = (
    (Verb.READ, Kind.ROLE),
    (Verb.READ, Kind.LOCK),
    (Verb.LIST, Kind.NODE),
    (Verb.LIST, Kind.USER),
    (Verb.READ_NO_SECRETS, Kind.USER),
    (Verb.LIST, Kind.SSH_SESSION),
)


def _roles(given: m.Document) -> dict[str, Role]:
    try:
        documents = msgspec.json.decode(bytes(given), type=list[m.Document])
    except msgspec.MsgspecError:
        raise BadRequest("the roles are no list of roles") from None
    if not 1 <= len(documents) <= MOST_ROLES:
        raise BadRequest(f"1 to {MOST_ROLES} roles are compared at a time, not {len(documents)}")
    found: dict[str, Role] = {}
    for document in documents:
        role = from_json(bytes(document))
        if not isinstance(role, Role):
            raise BadRequest(f"a diff is of roles; {role.metadata.name!r} is a {role.kind}")
        found[role.name] = role
    return found


def _answer(facts: _Facts, sessions_only: bool) -> tuple[list[m.AccessChange], list[m.EndingSession]]:
    """On a thread: it takes a while in a large cluster."""
    changes = [] if sessions_only else list(itertools.islice(_changes(facts), MOST_CHANGES + 1))
    return changes, list(_ending(facts))


def _changes(facts: _Facts) -> Iterator[m.AccessChange]:
    users = [Somebody(one.name, tuple(one.roles), one.traits) for _, one in sorted(facts.users.items())]
    nodes = sorted(facts.nodes.values(), key=lambda node: (node.hostname, node.host_id))
    hosts = [Host(node.host_id, node.hostname, node.all_labels, node.metadata.namespace) for node in nodes]
    found = changed_access(
        users, hosts, facts.before, facts.after, cluster=facts.cluster, now=facts.now, ttl=DEFAULT_TTL
    )
    for change in found:
        yield m.AccessChange(
            user=change.user,
            login=change.login,
            node_id=change.host.node_id,
            hostname=change.host.hostname,
            gained=change.gained,
            reasons=list(change.reasons),
        )


def _ending(facts: _Facts) -> Iterator[m.EndingSession]:
    for session in sorted(facts.sessions, key=lambda one: (one.started, one.sid)):
        request = _request(facts, session)
        reasons = why_session_ends(request, facts.before, facts.after) if request is not None else ()
        if reasons:
            yield m.EndingSession(
                sid=session.sid,
                user=session.user,
                login=session.login,
                node_id=session.host_id,
                hostname=session.hostname,
                started=session.started,
                reasons=list(reasons),
            )


def _request(facts: _Facts, session: OpenSession) -> SSHAccessRequest | None:
    """What the node asks about the connection of this session; None when the user is another one than began it."""
    user, node = facts.users[session.user], facts.nodes[session.host_id]
    if session.cert is not None:
        identity = session.cert.user(facts.cluster)
    else:  # begun with a certificate of a version that kept no inventory: as if it had been issued now
        identity = UserIdentity(
            name=user.name,
            cluster=facts.cluster,
            roles=tuple(user.roles),
            logins=(session.login,),
            expires=facts.now + timedelta(hours=1),
            traits=user.traits,
            issued=facts.now,
        )
    present = user_present(identity, user, facts.now)
    if present is None:
        return None
    return SSHAccessRequest(
        identity=present,
        login=session.login,
        cluster=facts.cluster,
        now=facts.now,
        node_id=node.host_id,
        node_hostname=node.hostname,
        node_labels=node.all_labels,
        joinable=not node.agentless,
        namespace=node.metadata.namespace,
        client_address=session.addr.rpartition(":")[0].strip("[]"),
        locks=facts.locks,
        key=session.cert.key_fingerprint if session.cert is not None else "",
        vouched=True,
        leases=facts.leases,
    )
