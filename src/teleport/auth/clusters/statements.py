"""Statements of this cluster made, and those of others taken into the storage.

What another cluster says changes nothing but the public halves of authorities of its own name. A key that is known here
as anybody else's is never taken: whoever shows a copy of our own authority as theirs is refused.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import msgspec

from teleport.audit.events import ClusterAuthorityUpdate, ClusterStatementRefused, Event
from teleport.auth.authorities.certify import sign_statement
from teleport.auth.clusters.changes import EVERY, TOO_OFTEN, counted, only_withdraws
from teleport.auth.state import ClusterState
from teleport.backend.interface import Absent, Condition, Exists, PutOp, Write
from teleport.errors import AccessDenied, BadRequest
from teleport.pki.cluster_statement import (
    MAX_KEYS,
    Purpose,
    SignedStatement,
    StatedKeys,
    Statement,
    public_keys,
    tls_blob,
)
from teleport.pki.keys import PublicKey
from teleport.pki.trust import AuthorityKind
from teleport.pki.x509verify import one_pem, pem_of
from teleport.resources.authority import (
    Authority,
    AuthorityType,
    KeySet,
    RetiredKeys,
    RoleMapping,
    RotationState,
    SSHKeyPair,
    TLSKeyPair,
)
from teleport.resources.codec import from_json, to_json
from teleport.store import records
from teleport.store.foreign import foreign_authority
from teleport.store.records import ClusterLink
from teleport.transport.limits import RateLimit

log = logging.getLogger(__name__)

BOTH: Final = (AuthorityKind.USER, AuthorityKind.HOST)


@dataclass(frozen=True, slots=True)
class Taken:
    """What writes what another cluster said."""

    writes: list[Write]
    conditions: list[Condition]
    events: list[Event]
    holds: tuple[str, ...]  # fingerprints of that cluster's SSH keys that are believed then
    link: ClusterLink  # with the change counted
    put_off: bool = False  # it comes too soon after others: what was known before holds until a later exchange

    @property
    def changed(self) -> bool:
        return bool(self.writes)


class Statements:
    """One for an auth service."""

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self._told = RateLimit(1 / EVERY, 1.0)

    async def make(
        self, purpose: Purpose, audience: str, *, sent: int, holds: Sequence[str]
    ) -> tuple[SignedStatement, int]:
        """A statement for `audience`, and when it was issued: later than `sent`, when the last one was."""
        user, host = await self._state.authority("user"), await self._state.authority("host")
        issued = max(int(self._state.clock.now().timestamp() * 1000), sent + 1)
        statement = Statement(
            purpose=purpose,
            cluster=self._state.cluster,
            audience=audience,
            issued=issued,
            user=_stated(user),
            host=_stated(host),
            holds=tuple(holds),
            turning=any(one.spec.rotation.state is RotationState.IN_PROGRESS for one in (user, host)),
        )
        return await asyncio.to_thread(sign_statement, host, self._state.keys, statement), issued

    async def authority(self, kind: AuthorityKind, cluster: str) -> tuple[Authority, int] | None:
        """An authority of another cluster as it is stored, and its revision."""
        return await self._state.find(f"{records.AUTHORITIES}{kind}/", cluster, Authority)

    async def known_keys(self, cluster: str) -> list[PublicKey]:
        """The SSH keys of another cluster's host authority: who signs for it."""
        found = await self.authority(AuthorityKind.HOST, cluster)
        return public_keys(found[0].trusted_ssh_keys) if found is not None and cluster != self._state.cluster else []

    async def take(
        self,
        statement: Statement,
        kinds: Sequence[AuthorityKind],
        role_map: Sequence[RoleMapping] = (),
        *,
        link: ClusterLink,
        bounded: bool = True,
    ) -> Taken:
        """What a statement that is believed changes: the authorities of these kinds, of its cluster; nothing when they
        change too often and it is `bounded`. Raises `AccessDenied` when it shows keys of somebody else."""
        if statement.cluster.lower() == self._state.cluster.lower():
            raise AccessDenied(f"the cluster {statement.cluster} has the name of this one")
        holds = _fingerprints([key for kind in kinds for key in statement.keys(kind).ssh])
        taken = Taken([], [], [], holds, link)
        now, withdraws = self._state.clock.now(), True
        for kind in kinds:
            found = await self.authority(kind, statement.cluster)
            former = found[0] if found is not None else None
            made = _authority(kind, statement, former, role_map, now)
            if former == made:
                continue
            await self._refuse_known(statement)
            withdraws = withdraws and only_withdraws(former, made)
            key = records.authority_key(kind, statement.cluster)
            taken.writes.append(PutOp(key, to_json(made)))
            taken.conditions.append(Exists(key, found[1]) if found is not None else Absent(key))
            taken.events.append(
                self._state.event(
                    ClusterAuthorityUpdate,
                    user="system",
                    updated_by="system",
                    name=statement.cluster,
                    authority=str(kind),
                    fingerprints=list(_fingerprints(made.trusted_ssh_keys)),
                    former=list(_fingerprints(former.trusted_ssh_keys)) if former is not None else [],
                )
            )
        if not taken.changed or withdraws or not bounded:
            return taken
        after = counted(link, now)
        if after is None:
            return Taken([], [], [], await self.holds(statement.cluster, kinds), link, put_off=True)
        return replace(taken, link=after)

    async def tell_put_off(self, cluster: str, link: ClusterLink) -> None:
        """Says that changes of that cluster come too often, unless the link says so already, and no oftener than they
        may come: whoever says the former keys in between is not told of each time."""
        if link.problem != TOO_OFTEN and self._told.allow(cluster, self._state.clock.monotonic()):
            log.warning("the cluster %s: %s", cluster, TOO_OFTEN)
            told = self._state.event(ClusterStatementRefused, user="system", name=cluster, error=TOO_OFTEN)
            await self._state.tell(told)

    async def _refuse_known(self, statement: Statement) -> None:
        """Raises `AccessDenied` when a key in it belongs to an authority of another name, this cluster's among them."""
        stated = [statement.keys(kind) for kind in BOTH]
        shown = {PublicKey.parse(line).blob for keys in stated for line in (*keys.ssh, *keys.let_go)}
        shown |= {tls_blob(pem) for keys in stated for pem in keys.tls}
        for item in await self._state.backend.range(records.AUTHORITIES):
            kind, _, name = item.key.removeprefix(records.AUTHORITIES).partition("/")
            if name == statement.cluster:
                continue
            own = name == self._state.cluster or kind not in BOTH
            other = from_json(item.value) if own else foreign_authority(item.value, AuthorityKind(kind), name)
            if not isinstance(other, Authority):
                continue
            retired = other.spec.retired_keys
            lines = (*other.trusted_ssh_keys, *(line for one in retired for line in one.ssh))
            certs = (*other.trusted_tls_certs, *(pem for one in retired for pem in one.tls))
            theirs = {PublicKey.parse(line).blob for line in lines} | {tls_blob(pem) for pem in certs}
            if not shown.isdisjoint(theirs):
                raise AccessDenied(
                    f"the cluster {statement.cluster} shows a key of the {other.type} authority of {other.name}"
                )

    async def link(self, cluster: str) -> tuple[ClusterLink, int]:
        """How the exchange with a cluster stands, and the revision (0: nothing is on record)."""
        found = await self._state.record(records.CLUSTER_LINKS + cluster, ClusterLink)
        return found if found is not None else (ClusterLink(), 0)

    def linked(self, cluster: str, link: ClusterLink, revision: int) -> tuple[Write, Condition]:
        """What writes that."""
        key = records.CLUSTER_LINKS + cluster
        return PutOp(key, link.encode()), Exists(key, revision) if revision else Absent(key)

    async def holds(self, cluster: str, kinds: Sequence[AuthorityKind]) -> tuple[str, ...]:
        """Fingerprints of the cluster's SSH keys that are believed here."""
        found = [await self.authority(kind, cluster) for kind in kinds]
        return _fingerprints([line for one in found if one is not None for line in one[0].trusted_ssh_keys])


def check_name(state: ClusterState, cluster: str) -> None:
    """Raises `BadRequest` for a cluster that cannot be told from this one."""
    if cluster.lower() == state.cluster.lower():
        raise BadRequest(
            f"the other cluster is called {cluster}, as this one is", hint="clusters that trust need two names"
        )


def _stated(authority: Authority) -> StatedKeys:
    let_go = [line for one in authority.spec.retired_keys if not one.at_once for line in one.ssh]
    return StatedKeys(
        ssh=tuple(PublicKey.parse(line).line() for line in authority.trusted_ssh_keys),
        tls=tuple(pem_of(pem) for pem in authority.trusted_tls_certs),
        let_go=tuple(PublicKey.parse(line).line() for line in let_go[-MAX_KEYS:]),
    )


def _authority(
    kind: AuthorityKind,
    statement: Statement,
    former: Authority | None,
    role_map: Sequence[RoleMapping],
    now: datetime,
) -> Authority:
    """The public halves as they are stored. What was let go keeps the time when that was first heard."""
    keys = statement.keys(kind)
    active = KeySet(
        ssh=tuple(SSHKeyPair(public_key=line) for line in keys.ssh),
        tls=tuple(TLSKeyPair(cert=one_pem(pem)) for pem in keys.tls),
    )
    made = Authority.new(AuthorityType(kind.value), statement.cluster, active)
    before = former.spec.retired_keys if former is not None else ()
    known = {line: one for one in before for line in one.ssh}
    retired = tuple(known.get(line, RetiredKeys(retired=now, ssh=(line,))) for line in keys.let_go)
    mapped = tuple(role_map) if kind is AuthorityKind.USER else ()
    return msgspec.structs.replace(made, spec=msgspec.structs.replace(made.spec, retired_keys=retired, role_map=mapped))


def _fingerprints(lines: Sequence[str]) -> tuple[str, ...]:
    return tuple(PublicKey.parse(line).fingerprint() for line in lines)
