"""Who would be left behind: every live certificate whose keys a rotation ends, and why nothing brings its holder along.

Hosts that are heard of and follow get certificates of the new keys by themselves, and so does whoever uses tsh before
the end; what is listed is the rest. It is what auth knows from its inventory of live certificates and from presence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

from teleport.api import messages as m
from teleport.auth.authorities.following import Announced, Followers, authority_status, follows
from teleport.auth.authorities.rotation import Rotations
from teleport.auth.caller import Caller
from teleport.auth.state import ClusterState
from teleport.clock import how_long
from teleport.identity import SystemRole
from teleport.pki.keys import PublicKey
from teleport.pki.rotation import INIT, STANDBY, join_again
from teleport.resources.authority import Authority, AuthorityType, KeySet, RotationState
from teleport.store import records
from teleport.store.issued import ISSUED, IssuedCert
from teleport.store.records import HostRecord
from teleport.store.standing import host_counts

MOST: Final = 5000  # rows of an answer
ADMINISTRATOR: Final = "administrator"  # how the inventory marks what `tctl auth sign` issued
SERVICE_OF: Final[Mapping[str, str]] = {"Node": "node", "Proxy": "proxy", "Auth": "auth_server", "Kube": "kube_service"}


class RotationPlans:
    """The handler of `tctl auth rotate --plan`."""

    def __init__(self, state: ClusterState, rotations: Rotations) -> None:
        self._state = state
        self._rotations = rotations

    async def plan(self, caller: Caller, request: m.RotationPlanRequest) -> m.RotationPlan:
        """What the end of the rotation, that is under way or would begin now, ends."""
        found = await self._rotations.chosen(caller, request.types)
        grace = self._rotations.grace(request.grace_period)
        now = self._state.clock.now()
        ends = {str(one.type): _end(one, now, grace) for one in found}
        rows: list[m.LeftBehind] = []
        certs = [msgspec.json.decode(item.value, type=IssuedCert) for item in await self._state.backend.range(ISSUED)]
        for authority in found:
            end = ends[str(authority.type)]
            living = [one for one in certs if one.expires > end and one.revoked is None]
            if authority.type is AuthorityType.HOST:
                rows += await self._hosts(authority, [one for one in living if one.type == "host"])
                rows += _files(authority, [one for one in living if one.type == "user"])
                rows += await self._clusters(authority)
            elif authority.type is AuthorityType.OPENSSH:
                rows += await self._openssh_hosts(authority)
            elif authority.type is AuthorityType.USER:
                rows += _users(authority, [one for one in living if one.type == "user"])
                rows += await self._clusters(authority)
                rows += await self._plain_hosts(authority)
        return m.RotationPlan(
            authorities=[authority_status(one) for one in found],
            ends=ends,
            left_behind=rows[:MOST],
            more=max(len(rows) - MOST, 0),
        )

    async def _hosts(self, authority: Authority, certs: Sequence[IssuedCert]) -> list[m.LeftBehind]:
        ending = ending_keys(authority)
        followers = self._rotations.followers
        servers: dict[tuple[str, str], Announced] = {(one.kind, one.host_id): one for one in await followers.all()}
        rows = []
        for one in _newest(certs):
            role = one.system_roles[0] if one.system_roles else str(SystemRole.NODE)
            if one.signed_by not in ending or role == SystemRole.ADMIN:
                continue
            if one.factor == ADMINISTRATOR:
                why, remedy = "signed for a plain sshd", f"tctl auth sign --host={','.join(one.names)} --out=FILE"
            else:
                record = await self._state.record(records.HOSTS + one.subject, HostRecord)
                if not host_counts(one.host(self._state.cluster), record[0] if record is not None else None):
                    continue  # expelled: it counts for nothing as it is
                why = _why_not(servers.get((SERVICE_OF.get(role, ""), one.subject)), authority, followers)
                remedy = join_again(one.host(self._state.cluster))
            if why:
                rows.append(_row(authority, one, why, remedy, role))
        return rows

    async def _plain_hosts(self, authority: Authority) -> list[m.LeftBehind]:
        """Hosts that a person registered: their sshd trusts what somebody once wrote into a file of theirs."""
        found = [one for one in await self._rotations.followers.all() if one.spec.heard is None and not one.sub_kind]
        why = "registered by hand: its sshd trusts the keys in its own file"
        remedy = "its TrustedUserCAKeys takes what tctl auth export --type=user prints, from init until standby"
        return [_sshd(authority, one, why, remedy) for one in found]

    async def _clusters(self, authority: Authority) -> list[m.LeftBehind]:
        """Other clusters that believe this authority and are not heard of: nothing brings the new keys there."""
        followers = self._rotations.followers
        found = [one for one in await followers.believers(authority) if not followers.alive(one)]
        return [
            m.LeftBehind(
                authority=str(authority.type),
                type="cluster",
                subject=one.host_id,
                name=one.host_id,
                role=one.kind,
                why=f"silent for {how_long((followers.now() - one.spec.heard).total_seconds())}"
                if one.spec.heard is not None
                else "it never exchanged authorities",
                remedy="bring it back before the end, or establish the trust anew",
            )
            for one in found
        ]

    async def _openssh_hosts(self, authority: Authority) -> list[m.LeftBehind]:
        """Hosts that proxies reach with certificates of this authority: each has its keys in a file."""
        found = [one for one in await self._rotations.followers.all() if one.sub_kind]
        why = "its sshd trusts the keys in its own file"
        remedy = "run its script anew between init and update_clients: tctl nodes add --type=openssh"
        return [_sshd(authority, one, why, remedy) for one in found]


def ending_keys(authority: Authority) -> frozenset[str]:
    """Fingerprints of the SSH keys that the end of the rotation takes away."""
    spec = authority.spec
    ending: KeySet = spec.active_keys if spec.rotation.phase in (STANDBY, INIT) else spec.additional_trusted_keys
    return frozenset(PublicKey.parse(pair.public_key).fingerprint() for pair in ending.ssh)


def _end(authority: Authority, now: datetime, grace: timedelta) -> datetime:
    """When the keys end: as planned, or as soon as somebody says so."""
    rotation = authority.spec.rotation
    if rotation.state is RotationState.STANDBY:
        return now + grace
    return rotation.schedule.standby or now


def _newest(certs: Iterable[IssuedCert]) -> Iterator[IssuedCert]:
    """Of each host and role the newest one, which the host goes by."""
    newest: dict[tuple[str, str], IssuedCert] = {}
    for one in sorted(certs, key=lambda one: one.issued):
        newest[one.subject, ",".join(one.system_roles)] = one
    yield from sorted(newest.values(), key=lambda one: (one.names, one.subject))


def _why_not(server: Announced | None, authority: Authority, followers: Followers) -> str:
    """Why this service does not follow by itself; empty when it does."""
    if server is None:
        return "not announced: it is off"
    if not followers.alive(server):
        heard = server.spec.heard
        age = how_long((followers.now() - heard).total_seconds()) if heard is not None else "ever"
        return f"silent for {age}"
    said = server.spec.rotation.get(authority.type)
    if said is None:
        return f"its version {server.spec.version or 'unknown'} does not follow rotations"
    if authority.spec.rotation.state is RotationState.IN_PROGRESS and not follows(server, authority):
        return f"it has not reached {authority.spec.rotation.phase}: it reports {said.phase}"
    return ""


def _users(authority: Authority, certs: Sequence[IssuedCert]) -> Iterator[m.LeftBehind]:
    """Certificates of people that nobody renewed to one of the keys that stay."""
    ending = ending_keys(authority)
    renewed = {one.renewed_from for one in certs if one.renewed_from}
    for one in sorted(certs, key=lambda one: (one.subject, one.issued)):
        if one.signed_by not in ending or one.serial in renewed:
            continue
        if one.factor == ADMINISTRATOR:
            why = "a file of tctl auth sign, which nothing renews"
            remedy = f"tctl auth sign --user={one.subject} --out=FILE"
        else:
            why, remedy = "a login that was not used since; tsh renews it when it is", "tsh login, if it is not"
        yield _row(authority, one, why, remedy)


def _files(authority: Authority, certs: Sequence[IssuedCert]) -> Iterator[m.LeftBehind]:
    """Files of `tctl auth sign` that hold the host authority's keys as they were before the rotation began."""
    rotation = authority.spec.rotation
    begun = rotation.started if rotation.state is RotationState.IN_PROGRESS else None
    for one in sorted(certs, key=lambda one: (one.subject, one.issued)):
        if one.factor == ADMINISTRATOR and (begun is None or one.issued < begun):
            why = "a file of tctl auth sign, which trusts hosts of the old keys only"
            yield _row(authority, one, why, f"tctl auth sign --user={one.subject} --out=FILE")


def _sshd(authority: Authority, host: Announced, why: str, remedy: str) -> m.LeftBehind:
    return m.LeftBehind(
        authority=str(authority.type),
        type="host",
        subject=host.host_id,
        name=host.hostname,
        role="sshd",
        why=why,
        remedy=remedy,
    )


def _row(authority: Authority, one: IssuedCert, why: str, remedy: str, role: str = "") -> m.LeftBehind:
    return m.LeftBehind(
        authority=str(authority.type),
        type=one.type,
        subject=one.subject,
        name=",".join(one.names),
        role=role.lower(),
        serial=one.serial,
        expires=one.expires,
        why=why,
        remedy=remedy,
    )
