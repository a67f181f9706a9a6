"""The side whose hosts are reached: `tctl create` of a trusted cluster, its switch, its end, and the exchange.

Nothing of the other cluster is believed before its auth service proved the authority that a pin or its web page names,
and then nothing but what that authority's keys sign. `enabled` is the switch; while it is off the exchange goes on, so
that the trust can be given back after rotations, and gives nothing to anybody.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final
from weakref import WeakValueDictionary

import msgspec

from teleport.api import messages as m
from teleport.api import routes
from teleport.api.join import ProvedCluster
from teleport.audit.events import (
    ClusterStatementRefused,
    Event,
    TrustedClusterCreate,
    TrustedClusterDelete,
    TrustedClusterUpdate,
)
from teleport.auth.authorizer import Authorizer, facts_of, require_administrator
from teleport.auth.caller import Caller
from teleport.auth.clusters.changes import TOO_OFTEN
from teleport.auth.clusters.reaching import Reaching, apart
from teleport.auth.clusters.statements import BOTH, Statements, check_name
from teleport.auth.state import ClusterState
from teleport.backend.interface import Absent, Condition, DeleteOp, Exists, PutOp, Write
from teleport.errors import (
    AccessDenied,
    AlreadyExists,
    BadRequest,
    CompareFailed,
    ConnectionProblem,
    LimitExceeded,
    NotFound,
    TeleportError,
)
from teleport.identity import REMOTE_PREFIX
from teleport.pki.cluster_statement import (
    Purpose,
    SignedStatement,
    Statement,
    check_statement,
    public_keys,
    read_statement,
    tls_blob,
)
from teleport.pki.trust import AuthorityKind
from teleport.resources.codec import checked, from_json, to_json
from teleport.resources.kinds import Kind, Verb
from teleport.resources.secret import SecretText
from teleport.resources.trusted_cluster import (
    RemoteCluster,
    TrustedCluster,
    names_meet,
)
from teleport.store import records
from teleport.store.foreign import other_cluster
from teleport.store.records import ClusterLink

log = logging.getLogger(__name__)

GOODBYE_SECONDS: Final = 10.0
EXCHANGE_SECONDS: Final = 60.0  # for one whole exchange, however slowly the other side answers


class TrustedClusters:
    """The handlers for trusted clusters, and the exchange with each."""

    def __init__(
        self,
        state: ClusterState,
        authorizer: Authorizer,
        statements: Statements,
        reaching: Reaching,
        look: Callable[[], Awaitable[None]],
    ) -> None:
        """`look` makes the listener of this process believe what the authorities say now."""
        self._look = look
        self._state = state
        self._authorizer = authorizer
        self._statements = statements
        self.reaching = reaching
        self.changed = asyncio.Event()  # whoever exchanges by itself looks anew
        self._turns = WeakValueDictionary[str, asyncio.Lock]()  # one exchange with each at a time: each is newer

    # create and update

    async def store(self, caller: Caller, request: m.StoreRequest) -> m.Done:
        """Establishes the trust, or switches it. Raises `TeleportError` saying which side refuses, and why."""
        wanted = from_json(bytes(request.item))
        if not isinstance(wanted, TrustedCluster):
            raise BadRequest(f"this stores a trusted_cluster, the document is a {wanted.kind}")
        await self._require(caller, Verb.CREATE, wanted)
        found = await self._state.find_cluster(wanted.name, TrustedCluster)
        if found is not None:
            await self._require(caller, Verb.UPDATE, found[0])
            if not request.force:
                raise AlreadyExists(
                    f"trusted_cluster {wanted.name!r} exists already", hint="tctl create -f switches it on and off"
                )
        if request.revision and (found is None or found[1] != request.revision):
            raise CompareFailed(
                f"trusted_cluster {wanted.name!r} was changed by somebody else in the meantime",
                hint="look at it as it is now and try again",
            )
        if request.check:
            _token_of(wanted) if found is None else _refuse_more_than_a_switch(wanted, found[0])
            return m.Done()
        if found is not None:
            return await self._switch(caller, wanted, *found)
        return await self._establish(caller, wanted)

    async def _require(self, caller: Caller, verb: Verb, cluster: TrustedCluster) -> None:
        await self._authorizer.require(caller, verb, Kind.TRUSTED_CLUSTER, facts_of(cluster))

    async def _switch(self, caller: Caller, wanted: TrustedCluster, stored: TrustedCluster, revision: int) -> m.Done:
        """Takes the trust away or gives it back. All else of it stays as it was established."""
        _refuse_more_than_a_switch(wanted, stored)
        await self._check_roles(stored)
        if wanted.spec.enabled != stored.spec.enabled:
            spec = msgspec.structs.replace(stored.spec, enabled=wanted.spec.enabled)
            key = records.TRUSTED_CLUSTERS + stored.name
            told = self._state.event(
                TrustedClusterUpdate, caller, name=stored.name, updated_by=caller.name, enabled=spec.enabled
            )
            await self._state.commit(
                [PutOp(key, to_json(msgspec.structs.replace(stored, spec=spec)))],
                conditions=[Exists(key, revision)],
                events=[told],
            )
            await self._look()
        self.changed.set()
        problem = await self.exchange(stored.name)
        return m.Done(note=f"authorities could not be exchanged now: {problem}" if problem else "")

    async def _establish(self, caller: Caller, wanted: TrustedCluster) -> m.Done:
        token = _token_of(wanted)
        await self._check_roles(wanted)
        proved = await apart(partial(self.reaching.prove, wanted))
        cluster = checked(
            msgspec.structs.replace(
                wanted, metadata=msgspec.structs.replace(wanted.metadata, name=proved.name)
            ).without_token()
        )
        if cluster.name != wanted.name:  # what it may be called was decided for another name
            await self._require(caller, Verb.CREATE, cluster)
        await self._check_unmistakable(cluster)
        link, link_revision = await self._statements.link(cluster.name)
        signed, sent = await self._statements.make(Purpose.ESTABLISH, cluster.name, sent=link.sent, holds=())
        request = m.ValidateClusterRequest(
            token=token.reveal(), document=signed.document, signatures=dict(signed.signatures)
        )
        reply = await apart(partial(self.reaching.call, proved, routes.VALIDATE_CLUSTER, request))
        statement = self._first(proved, reply)
        taken = await self._statements.take(statement, BOTH, cluster.role_map, link=link, bounded=False)
        link = self._heard(taken.link, statement, sent)
        put, unchanged = self._statements.linked(cluster.name, link, link_revision)
        key = records.TRUSTED_CLUSTERS + cluster.name
        told = self._state.event(
            TrustedClusterCreate,
            caller,
            name=cluster.name,
            updated_by=caller.name,
            enabled=cluster.spec.enabled,
            web_proxy_addr=cluster.spec.web_proxy_addr,
            role_map={one.remote: list(one.local) for one in cluster.role_map},
            fingerprints=[key.fingerprint() for key in public_keys(statement.user.ssh)],
        )
        try:
            await self._state.commit(
                [PutOp(key, to_json(cluster)), put, *taken.writes],
                conditions=[
                    Absent(key),
                    Absent(records.REMOTE_CLUSTERS + cluster.name),
                    unchanged,
                    *taken.conditions,
                ],
                events=[told],
            )
        except CompareFailed:
            raise CompareFailed(
                f"the trusted cluster {cluster.name} was made by somebody else at this moment",
                hint=f"tctl get tc/{cluster.name}",
            ) from None
        await self._look()
        self.changed.set()
        problem = await self.exchange(cluster.name)  # the root learns at once what is held here
        return m.Done(
            name=cluster.name if cluster.name != wanted.name else "",
            note=f"authorities could not be exchanged now: {problem}" if problem else "",
        )

    def _first(self, proved: ProvedCluster, reply: m.ClusterStatement) -> Statement:
        """The first statement of a root. It proves itself by the authority that its auth service has just proved."""
        signed = SignedStatement(reply.document, reply.signatures)
        own = public_keys(read_statement(signed).host.ssh)
        found = check_statement(signed, own, cluster=proved.name, audience=self._state.cluster, after=0)
        shown = {tls_blob(pem) for pem in found.host.tls}
        if not any(tls_blob(pem) in shown for pem in proved.ca_certs):
            raise AccessDenied(
                f"{proved.door} states another host authority than the one that it proved", hint="try again"
            )
        return found

    async def _check_roles(self, cluster: TrustedCluster) -> None:
        """Raises `NotFound` for a role of this cluster that is named as it is and does not exist."""
        named = [role for one in cluster.role_map for role in one.local if "$" not in role]
        known = await self._state.roles(named)
        missing = [role for role in dict.fromkeys(named) if role not in known]
        if missing:
            raise NotFound(
                f"the role_map of {cluster.name} gives roles that do not exist here: {', '.join(map(repr, missing))}",
                hint="tctl get roles",
            )

    async def _check_unmistakable(self, cluster: TrustedCluster) -> None:
        """Raises `BadRequest` when users of this root could not be told from others, or its name is taken."""
        name = cluster.name
        check_name(self._state, name)
        if await self._state.find_cluster(name, TrustedCluster) is not None:
            raise AlreadyExists(
                f"trusted_cluster {name!r} exists already: that is the name of the cluster behind "
                f"{cluster.spec.web_proxy_addr}",
                hint=f"tctl get tc/{name}",
            )
        if await self._state.find_cluster(name, RemoteCluster) is not None:
            raise BadRequest(
                f"{name} trusts this cluster: two clusters do not trust each other both ways",
                hint=f"tctl rm rc/{name}, if its users are to come here",
            )
        for kind in BOTH:
            if await self._statements.authority(kind, name) is not None:
                raise BadRequest(
                    f"there is a {kind} authority of another cluster called {name}",
                    hint=f"tctl rm cert_authority/{kind}/{name}, if nothing needs it",
                )
        for item in await self._state.backend.range(records.TRUSTED_CLUSTERS):
            other = item.key.removeprefix(records.TRUSTED_CLUSTERS)
            if names_meet(name, other):
                raise BadRequest(
                    f"users of {name} could not be told from those of the trusted cluster {other}: both become "
                    f"{REMOTE_PREFIX}USER-CLUSTER here",
                    hint=f"only one of them can be trusted: tctl rm tc/{other}",
                )
        ending = f"-{name}".lower()
        for item in await self._state.backend.range(records.USERS + REMOTE_PREFIX):
            user = item.key.removeprefix(records.USERS)
            if user.lower().endswith(ending):
                raise BadRequest(
                    f"the local user {user!r} could not be told from users of {name}",
                    hint=f"make that user anew under another name: tctl users rm {user}",
                )

    # remove

    async def remove(self, caller: Caller, request: m.ExpelRequest) -> m.Done:
        """Takes the trust away for good, at once, and tells the root, if it is there."""
        name = request.name
        key = records.TRUSTED_CLUSTERS + name
        item = await self._state.backend.get(key)
        cluster = other_cluster(item.value, TrustedCluster, name) if item is not None else None
        facts = facts_of(cluster) if cluster is not None else {"resource": {"metadata": {"name": name}}}
        await self._authorizer.require(caller, Verb.DELETE, Kind.TRUSTED_CLUSTER, facts)
        if item is None:
            raise NotFound(f"there is no trusted_cluster {name!r}", hint="tctl get tc lists them")
        if cluster is None:  # whether a role's conditions would allow it, nobody can say
            require_administrator(caller, "remove what is stored of a cluster and cannot be read")
        host = await self._statements.authority(AuthorityKind.HOST, name) if cluster is not None else None
        link, _ = await self._statements.link(name)
        writes: list[Write] = [DeleteOp(key), DeleteOp(records.CLUSTER_LINKS + name, missing_ok=True)]
        writes += [DeleteOp(records.authority_key(kind, name), missing_ok=True) for kind in BOTH]
        told = self._state.event(TrustedClusterDelete, caller, name=name, updated_by=caller.name)
        await self._state.commit(writes, conditions=[Exists(key, item.revision)], events=[told])
        self.changed.set()
        problem = "its authority is not known here any more" if cluster is not None else "its address cannot be read"
        if cluster is not None and host is not None:
            try:
                signed, _ = await self._statements.make(Purpose.GOODBYE, cluster.name, sent=link.sent, holds=())
                proved = self.reaching.known(cluster, host[0].trusted_tls_certs)
                async with asyncio.timeout(GOODBYE_SECONDS):
                    await self._ask(proved, signed)
                return m.Done()
            except (TeleportError, TimeoutError) as error:
                problem = str(error) or "it did not answer in time"
        note = f"the cluster {name} could not be told ({problem}); there: tctl rm rc/{self._state.cluster}"
        return m.Done(note=note)

    # exchange

    async def _ask(self, proved: ProvedCluster, signed: SignedStatement) -> m.ClusterStatement:
        request = m.ExchangeRequest(document=signed.document, signatures=dict(signed.signatures))
        try:
            async with asyncio.timeout(EXCHANGE_SECONDS):
                return await apart(partial(self.reaching.call, proved, routes.EXCHANGE_AUTHORITIES, request))
        except TimeoutError:
            raise ConnectionProblem(f"{proved.name} did not answer within {EXCHANGE_SECONDS:g} s") from None

    async def exchange(self, name: str) -> str:
        """Says and hears what the authorities are now, again when that changed what is held here. What went wrong, in
        words; empty when nothing did."""
        turn = self._turns.setdefault(name, asyncio.Lock())
        async with turn:
            try:
                if await self._exchange(name):
                    await self._exchange(name)
            except (TeleportError, OSError) as error:
                await self._failed(name, error)
                return str(error)
            return ""

    async def _exchange(self, name: str) -> bool:
        """Whether it changed anything. Raises `TeleportError`."""
        found = await self._state.find_cluster(name, TrustedCluster)
        if found is None:
            return False
        cluster, revision = found
        host = await self._statements.authority(AuthorityKind.HOST, name)
        if host is None:
            raise NotFound(
                f"the host authority of {name} is not known here any more",
                hint=f"tctl rm tc/{name}, then create it with a new token",
            )
        link, link_revision = await self._statements.link(name)
        signed, sent = await self._statements.make(
            Purpose.EXCHANGE, name, sent=link.sent, holds=await self._statements.holds(name, BOTH)
        )
        # on record before it is said: whatever becomes of the answer, the next one is newer
        put, unchanged = self._statements.linked(name, msgspec.structs.replace(link, sent=sent), link_revision)
        await self._state.commit([put], conditions=[unchanged], events=[])
        link, link_revision = await self._statements.link(name)
        reply = await self._ask(self.reaching.known(cluster, host[0].trusted_tls_certs), signed)
        answer = SignedStatement(reply.document, reply.signatures)
        known = public_keys(host[0].trusted_ssh_keys)
        try:
            statement = check_statement(answer, known, cluster=name, audience=self._state.cluster, after=link.taken)
            if statement.purpose is not Purpose.EXCHANGE:
                raise AccessDenied(f"the statement of {name} was made for something else")
            taken = await self._statements.take(statement, BOTH, cluster.role_map, link=link)
        except TeleportError as error:
            if error.message != link.problem:
                told = self._state.event(ClusterStatementRefused, user="system", name=name, error=error.message)
                await self._state.tell(told)
            raise
        before, link = link, self._heard(taken.link, statement, sent)
        if taken.put_off:
            await self._statements.tell_put_off(name, before)
            link = msgspec.structs.replace(link, problem=TOO_OFTEN)
        put, unchanged = self._statements.linked(name, link, link_revision)
        conditions: list[Condition] = [unchanged, Exists(records.TRUSTED_CLUSTERS + name, revision), *taken.conditions]
        events: Sequence[Event] = taken.events
        await self._state.commit([put, *taken.writes], conditions=conditions, events=events)
        if taken.put_off:
            raise LimitExceeded(TOO_OFTEN)  # it is tried again sooner than in a minute
        if taken.changed:
            await self._look()
        return taken.changed

    def _heard(self, link: ClusterLink, statement: Statement, sent: int) -> ClusterLink:
        """The link once a statement of the root was believed."""
        return ClusterLink(
            changes=link.changes,
            changed=link.changed,
            taken=statement.issued,
            sent=sent,
            holds=list(statement.holds),
            exchanged=self._state.clock.now(),
            turning=statement.turning,
        )

    async def _failed(self, name: str, error: Exception) -> None:
        """Keeps what went wrong where `tctl get tc` shows it."""
        message = error.message if isinstance(error, TeleportError) else str(error)
        link, revision = await self._statements.link(name)
        if not revision or link.problem == message:
            return
        log.warning("authorities are not exchanged with the cluster %s: %s", name, message)
        put, unchanged = self._statements.linked(name, msgspec.structs.replace(link, problem=message[:1000]), revision)
        try:
            await self._state.commit([put], conditions=[unchanged], events=[])
        except CompareFailed:
            log.debug("the link to %s was changed at this moment", name)


def _refuse_more_than_a_switch(wanted: TrustedCluster, stored: TrustedCluster) -> None:
    """Raises `BadRequest`: all but `enabled` stays as it was established."""
    same = msgspec.structs.replace(wanted.without_token().spec, enabled=stored.spec.enabled)
    if same != stored.spec:
        raise BadRequest(
            f"of the trusted cluster {stored.name} only enabled may change",
            hint=f"to change the rest, with a new token of the root: tctl rm tc/{stored.name}, then create it",
        )


def _token_of(wanted: TrustedCluster) -> SecretText:
    """What a cluster that is not trusted yet comes with. Raises `BadRequest` without one."""
    if wanted.spec.token is None:
        raise BadRequest(
            f"the trusted cluster {wanted.name} comes without a token of the root",
            hint="on the root: tctl tokens add --type=trusted_cluster; put it into spec.token",
        )
    return wanted.spec.token
