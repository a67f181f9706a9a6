"""The side whose users go elsewhere: another cluster proves a token, and from then on says by itself what its host
authority is. Both routes are open; a statement that is not believed reads the same whatever was wrong with it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import msgspec

from teleport.api import messages as m
from teleport.audit.events import (
    ClusterStatementRefused,
    Event,
    RemoteClusterCreate,
    RemoteClusterUpdate,
    TokenUsed,
)
from teleport.auth.caller import Caller
from teleport.auth.clusters.changes import TOO_OFTEN
from teleport.auth.clusters.statements import Statements, check_name
from teleport.auth.hosts.joining import FAILURE_BURST, FAILURES, JOIN_BURST, JOINS
from teleport.auth.hosts.tokens import Tokens
from teleport.auth.state import ClusterState
from teleport.backend.interface import Absent, Condition, Exists, PutOp, Write
from teleport.errors import AccessDenied, CompareFailed, LimitExceeded, TeleportError
from teleport.identity import HostIdentity, SystemRole
from teleport.pki.cluster_statement import (
    Purpose,
    SignedStatement,
    Statement,
    check_statement,
    public_keys,
    read_statement,
    signed_by,
)
from teleport.pki.trust import AuthorityKind
from teleport.resources.codec import checked, from_json, to_json
from teleport.resources.metadata import Metadata
from teleport.resources.names import canonical_host
from teleport.resources.secret import SecretText
from teleport.resources.server import Server
from teleport.resources.token import Token, TokenRole, token_id
from teleport.resources.trusted_cluster import RemoteCluster, RemoteClusterSpec
from teleport.resources.values import HostPort
from teleport.store import records
from teleport.store.foreign import other_cluster
from teleport.store.records import ClusterLink
from teleport.transport.limits import RateLimit, who_tries

log = logging.getLogger(__name__)

TRIES: Final = 5  # while the records are being changed
SEEN_EVERY: Final = 20.0  # seconds between two notes that a cluster's tunnels are there
R = TypeVar("R")
HOSTS_ONLY: Final = (AuthorityKind.HOST,)
NOT_BELIEVED: Final = "this cluster does not know the other one, or not the key that signed"
AGAIN: Final = "if it was removed here, or rotated while both were apart: tctl rm tc/NAME there, and create it anew"


class RemoteClusters:
    """The handlers of the routes for other clusters' auth services."""

    def __init__(self, state: ClusterState, tokens: Tokens, statements: Statements) -> None:
        self._state = state
        self._tokens = tokens
        self._statements = statements
        self._tries = RateLimit(JOINS, JOIN_BURST)
        self._failures = RateLimit(FAILURES, FAILURE_BURST)

    async def validate(self, caller: Caller, request: m.ValidateClusterRequest) -> m.ClusterStatement:
        """Takes in a cluster that offers a good token. Raises `AccessDenied`, the reason on record."""
        self._limit(caller)
        return await _retried(lambda: self._validate(caller, request))

    async def exchange(self, caller: Caller, request: m.ExchangeRequest) -> m.ClusterStatement:
        """What a known cluster says of its host authority, for what this one says of its own authorities."""
        self._limit(caller)
        return await _retried(lambda: self._exchange(caller, request))

    def _limit(self, caller: Caller) -> None:
        if not self._tries.allow(who_tries(caller.host), self._state.clock.monotonic()):
            raise LimitExceeded("too many attempts from this address", hint="wait a moment and try again")

    async def _validate(self, caller: Caller, request: m.ValidateClusterRequest) -> m.ClusterStatement:
        secret = SecretText(request.token)
        signed = SignedStatement(request.document, request.signatures)
        name = ""
        try:
            found = await self._tokens.find(secret)
            if found is None:
                raise _BadToken("the token is unknown or has expired")
            token, token_revision = found
            if TokenRole.TRUSTED_CLUSTER not in token.roles:
                raise _BadToken("the token is not for the type trusted_cluster")
            statement = read_statement(signed)
            name = statement.cluster
            own = public_keys(statement.host.ssh)  # nobody knows it yet: it proves that it has what it shows
            check_statement(signed, own, cluster=name, audience=self._state.cluster, after=0)
            if statement.purpose is not Purpose.ESTABLISH:
                raise AccessDenied(f"the statement of {name} was made for something else")
            check_name(self._state, name)
            _check_meant(token, name)
            remote = await self._state.find_cluster(name, RemoteCluster)
            await self._refuse_clash(name, signed)
            await self._refuse_hosts_of_ours(name)
            if token.spec.used_by and (token.spec.used_by != name or remote is None):
                raise _BadToken("the single-use token was used")
            link, link_revision = await self._statements.link(name)
            # the token makes it fresh: a cluster that starts anew may have lost what it said last
            taken = await self._statements.take(statement, HOSTS_ONLY, link=link, bounded=False)
        except TeleportError as error:
            await self._not_taken(caller, name, secret, error)
            if isinstance(error, _BadToken):
                raise AccessDenied(
                    "the token is unknown, has expired, was used up, or is not for trusted clusters",
                    hint="make a new one on the root: tctl tokens add --type=trusted_cluster",
                ) from None
            raise
        reply, sent = await self._statements.make(Purpose.EXCHANGE, name, sent=link.sent, holds=taken.holds)
        labels = dict(token.metadata.labels) or (dict(remote[0].metadata.labels) if remote is not None else {})
        cluster = checked(RemoteCluster(metadata=Metadata(name=name, labels=labels)))
        now = self._state.clock.now()
        link = msgspec.structs.replace(
            link, taken=statement.issued, sent=sent, holds=list(statement.holds), exchanged=now, problem=""
        )
        key = records.REMOTE_CLUSTERS + name
        put, unchanged = self._statements.linked(name, link, link_revision)
        writes: list[Write] = [PutOp(key, to_json(cluster)), put, *taken.writes]
        conditions: list[Condition] = [
            Exists(key, remote[1]) if remote is not None else Absent(key),
            unchanged,
            Absent(records.TRUSTED_CLUSTERS + name),
            *taken.conditions,
        ]
        if token.spec.single_use and not token.spec.used_by:
            writes.append(PutOp(records.TOKENS + token.name, to_json(token.used(name)), token.metadata.expires))
            conditions.append(Exists(records.TOKENS + token.name, token_revision))
        elif token_revision:
            conditions.append(Exists(records.TOKENS + token.name))
        told = self._state.event(
            RemoteClusterCreate,
            user="system",
            name=name,
            token=token.name,
            addr=caller.address,
            labels=labels,
            fingerprints=[key.fingerprint() for key in public_keys(statement.host.ssh)],
        )
        used = self._state.event(TokenUsed, name=token.name, host_id=name, addr=caller.address)
        await self._state.commit(writes, conditions=conditions, events=[told, used])
        return m.ClusterStatement(document=reply.document, signatures=dict(reply.signatures))

    async def _refuse_clash(self, name: str, signed: SignedStatement) -> None:
        """Raises `AccessDenied` when there is another cluster of this name."""
        if await self._state.backend.get(records.TRUSTED_CLUSTERS + name) is not None:
            raise AccessDenied(
                f"this cluster trusts {name}: two clusters do not trust each other both ways",
                hint=f"tctl rm tc/{name} on the root, if {name} is to be reached from here",
            )
        stored = [await self._statements.authority(kind, name) for kind in (AuthorityKind.HOST, AuthorityKind.USER)]
        known = await self._statements.known_keys(name)
        if any(one is not None for one in stored) and not signed_by(signed, known):
            raise AccessDenied(
                f"there is another cluster {name} already, or it has other keys now",
                hint=f"on the root: tctl rm rc/{name}, if this is the one that is meant",
            )

    async def _refuse_hosts_of_ours(self, name: str) -> None:
        """Raises `AccessDenied` when names of this cluster, its hosts or proxies end as those of the other one would:
        who asks for such a host would be led over there."""
        called = [self._state.cluster]
        for prefix in (records.NODES, records.PROXIES, records.AUTH_SERVERS, records.KUBE_SERVICES):
            for item in await self._state.backend.range(prefix):
                server = from_json(item.value)
                if isinstance(server, Server):
                    addresses = (HostPort.parse(text, 0).host for text in server.spec.public_addrs)
                    called += [server.hostname, *addresses]
        ending = f".{canonical_host(name)}"
        taken = next((one for one in called if canonical_host(one).endswith(ending)), "")
        if taken:
            raise AccessDenied(
                f"the name {taken!r} here ends with that of the cluster {name}: its hosts could not be told from ours",
                hint="give the other cluster a name that no host here ends with: auth_service.cluster_name",
            )

    async def _not_taken(self, caller: Caller, name: str, secret: SecretText, error: TeleportError) -> None:
        if self._failures.allow("", self._state.clock.monotonic()):
            await self._state.tell(
                self._state.event(
                    RemoteClusterCreate,
                    success=False,
                    error=error.message,
                    user="system",
                    name=name,
                    token=token_id(secret),
                    addr=caller.address,
                )
            )

    async def _exchange(self, caller: Caller, request: m.ExchangeRequest) -> m.ClusterStatement:
        signed = SignedStatement(request.document, request.signatures)
        name = ""
        try:
            name = read_statement(signed).cluster
            remote = await self._state.find_cluster(name, RemoteCluster)
            link, link_revision = await self._statements.link(name)
            known = await self._statements.known_keys(name)
            if remote is None or remote[0].removed:
                raise AccessDenied(f"the cluster {name} is not known here")
            statement = check_statement(signed, known, cluster=name, audience=self._state.cluster, after=link.taken)
            if statement.purpose is Purpose.ESTABLISH:
                raise AccessDenied(f"the statement of {name} was made for something else")
            taken = await self._statements.take(statement, HOSTS_ONLY, link=link)
        except TeleportError as error:
            if self._failures.allow("", self._state.clock.monotonic()):
                told = self._state.event(
                    ClusterStatementRefused, user="system", name=name, error=error.message, addr=caller.address
                )
                await self._state.tell(told)
            raise AccessDenied(NOT_BELIEVED, hint=AGAIN) from None
        reply, sent = await self._statements.make(Purpose.EXCHANGE, name, sent=link.sent, holds=taken.holds)
        before, link = link, _after(taken.link, statement, sent, self._state)
        if taken.put_off:
            await self._statements.tell_put_off(name, before)
            link = msgspec.structs.replace(link, problem=TOO_OFTEN)
        put, unchanged = self._statements.linked(name, link, link_revision)
        writes: list[Write] = [put, *taken.writes]
        key = records.REMOTE_CLUSTERS + name
        conditions: list[Condition] = [unchanged, Exists(key, remote[1]), *taken.conditions]
        events: list[Event] = list(taken.events)
        if statement.purpose is Purpose.GOODBYE:
            spec = RemoteClusterSpec(removed=self._state.clock.now())
            writes.append(PutOp(key, to_json(msgspec.structs.replace(remote[0], spec=spec))))
            events.append(self._state.event(RemoteClusterUpdate, user="system", name=name, removed=True))
        await self._state.commit(writes, conditions=conditions, events=events)
        return m.ClusterStatement(document=reply.document, signatures=dict(reply.signatures))

    async def seen(self, caller: Caller, request: m.SeenClustersRequest) -> m.Done:
        """A proxy holds tunnels of these clusters. Raises `AccessDenied` for anybody else."""
        if not isinstance(caller.identity, HostIdentity) or caller.identity.role is not SystemRole.PROXY:
            raise AccessDenied("only proxies hold tunnels of other clusters")
        now = self._state.clock.now()
        for name in dict.fromkeys(request.clusters[:1000]):
            link, revision = await self._statements.link(name)
            item = await self._state.backend.get(records.REMOTE_CLUSTERS + name)
            known = other_cluster(item.value, RemoteCluster, name) if item is not None else None
            if known is None or (link.heard is not None and (now - link.heard).total_seconds() < SEEN_EVERY):
                continue
            put, unchanged = self._statements.linked(name, msgspec.structs.replace(link, heard=now), revision)
            try:
                await self._state.commit([put], conditions=[unchanged], events=[])
            except CompareFailed:
                log.debug("the link to %s was changed at this moment; the next note counts", name)
        return m.Done()


class _BadToken(AccessDenied):
    """The token lets nobody in; whoever shows it learns nothing more."""


def _check_meant(token: Token, name: str) -> None:
    """Raises `AccessDenied` when the token is for another cluster than the one that came with it."""
    if token.spec.cluster and token.spec.cluster != name:
        raise AccessDenied(
            f"the token is for the cluster {token.spec.cluster}, and this one is called {name}",
            hint=f"on the root: tctl tokens add --type=trusted_cluster --cluster={name}, if {name} is the one meant",
        )


def _after(link: ClusterLink, statement: Statement, sent: int, state: ClusterState) -> ClusterLink:
    """The link once a statement was believed and answered."""
    return msgspec.structs.replace(
        link,
        taken=statement.issued,
        sent=sent,
        holds=list(statement.holds),
        exchanged=state.clock.now(),
        problem="",
        turning=statement.turning,
    )


async def _retried(work: Callable[[], Awaitable[R]]) -> R:
    for _ in range(TRIES):
        try:
            return await work()
        except CompareFailed:
            continue  # somebody else came first: what is true now decides
    raise AccessDenied("the token or the cluster changed at this moment; try again", hint="try again")
