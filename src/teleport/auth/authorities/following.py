"""How a rotation stands, in words and values, and which services have not followed it yet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

import msgspec

from teleport.api import messages as m
from teleport.auth.state import ClusterState
from teleport.pki.keys import PublicKey
from teleport.pki.pin import ca_pin
from teleport.pki.rotation import has_reached, next_by_itself
from teleport.resources.authority import Authority, AuthorityType, RotationMode, RotationPhase, RotationState
from teleport.resources.server import LOST_AFTER, ReachedPhase, is_lost
from teleport.resources.trusted_cluster import RemoteCluster
from teleport.store import records
from teleport.store.foreign import other_cluster
from teleport.store.records import ClusterLink

FOLLOWED: Final = frozenset({AuthorityType.USER, AuthorityType.HOST})
"""Authorities that services hold something of. Nothing verifies tokens of the jwt authority yet."""
SERVICES: Final = (records.AUTH_SERVERS, records.PROXIES, records.KUBE_SERVICES, records.NODES)


class _Spec(msgspec.Struct, frozen=True):
    hostname: str = ""
    version: str = ""
    heard: datetime | None = None
    lost_after: int = 0
    rotation: dict[AuthorityType, ReachedPhase] = {}


class _Metadata(msgspec.Struct, frozen=True):
    name: str


class Announced(msgspec.Struct, frozen=True):
    """What counts here of a stored `Server`. Ten thousand of them are looked through twice a second while a rotation
    waits: reading all of each would take auth's loop two seconds."""

    kind: str
    metadata: _Metadata
    spec: _Spec = _Spec()
    sub_kind: str = ""

    @property
    def host_id(self) -> str:
        return self.metadata.name

    @property
    def hostname(self) -> str:
        return self.spec.hostname


_ANNOUNCED: Final = msgspec.json.Decoder(Announced)


OTHER_CLUSTERS: Final = ("remote_cluster", "trusted_cluster")


class Followers:
    """The services of the cluster, as they announce themselves, and clusters that believe its authorities.

    A service that is silent for long is not waited for. After a start of auth all of them have been silent, for as
    long as auth was away: for a while those count as alive that were when auth was last heard of.
    """

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self._since = state.clock.monotonic()
        self._before: datetime | None = None  # when any service was heard of last before this start

    async def start(self) -> None:
        """Notes, before services are heard of anew, when they were heard of last."""
        self._before = max((one.spec.heard for one in await self.all() if one.spec.heard is not None), default=None)

    async def all(self) -> list[Announced]:
        """Every service that is on record: also those that are lost, or were registered by a person."""
        items = [item for prefix in SERVICES for item in await self._state.backend.range(prefix)]
        return [_ANNOUNCED.decode(item.value) for item in items]

    def now(self) -> datetime:
        """Auth's time."""
        return self._state.clock.now()

    def alive(self, server: Announced) -> bool:
        """Whether a rotation waits for the service."""
        heard, clock = server.spec.heard, self._state.clock
        if heard is None:
            return False  # registered by a person: it announces nothing
        starting = clock.monotonic() - self._since < LOST_AFTER.total_seconds()
        reference = self._before if starting and self._before is not None else clock.now()
        return not is_lost(heard, server.spec.lost_after, reference)

    async def missing(self, authority: Authority) -> list[Announced]:
        """The live services that have not reached the phase of this authority."""
        if authority.type not in FOLLOWED:
            return []
        services = [one for one in await self.all() if self.alive(one) and not follows(one, authority)]
        return [*services, *(one for one in await self.clusters(authority) if self.alive(one))]

    async def clusters(self, authority: Authority) -> list[Announced]:
        """The other clusters that do not hold all keys of this authority yet, by what they said last."""
        keys = {PublicKey.parse(line).fingerprint() for line in authority.trusted_ssh_keys}
        return [one for one, held in await self._linked(authority) if not keys <= held]

    async def believers(self, authority: Authority) -> list[Announced]:
        """The other clusters that believe this authority."""
        return [one for one, _ in await self._linked(authority)]

    async def _linked(self, authority: Authority) -> list[tuple[Announced, set[str]]]:
        """Those, each with the keys that it holds. Clusters whose hosts are reached from here believe both authorities,
        those whose users are let in the one of hosts."""
        prefixes = {records.REMOTE_CLUSTERS: OTHER_CLUSTERS[0]}
        if authority.type is AuthorityType.HOST:
            prefixes[records.TRUSTED_CLUSTERS] = OTHER_CLUSTERS[1]
        found: list[tuple[Announced, set[str]]] = []
        for prefix, kind in prefixes.items():
            for item in await self._state.backend.range(prefix):
                name = item.key.removeprefix(prefix)  # one that cannot be read is waited for, as long as it is heard of
                other = other_cluster(item.value, RemoteCluster, name) if kind == "remote_cluster" else None
                if other is not None and other.removed:
                    continue
                record = await self._state.record(records.CLUSTER_LINKS + name, ClusterLink)
                link = record[0] if record is not None else ClusterLink()
                spec = _Spec(hostname=name, heard=link.exchanged)
                found.append((Announced(kind, _Metadata(name), spec), set(link.holds)))
        return found


def follows(server: Announced, authority: Authority) -> bool:
    """Whether the service has reached the phase that the authority is in."""
    return has_reached(server.spec.rotation.get(authority.type), authority.spec.rotation)


def waited_for(authority: Authority, servers: Iterable[Announced]) -> list[m.WaitedFor]:
    """The same as a message."""
    found = []
    for server in servers:
        said = server.spec.rotation.get(authority.type)
        found.append(
            m.WaitedFor(
                authority=str(authority.type),
                host_id=server.host_id,
                hostname=server.hostname,
                service=server.kind,
                reached="" if said is None else str(said.phase),
            )
        )
    return found


def who_is_missing(servers: Sequence[Announced], authority: Authority) -> str:
    """`node web1 (6f...): in init`, for people; the first ten."""
    shown = []
    for server in servers[:10]:
        said = server.spec.rotation.get(authority.type)
        if server.kind in OTHER_CLUSTERS:
            shown.append(f"{server.kind.replace('_', ' ')} {server.host_id}: does not hold the new keys yet")
            continue
        if said is None:
            state = "reports no phase"
        elif said.current_id != authority.spec.rotation.current_id:
            state = "has not begun"
        else:
            state = f"in {said.phase}"
        shown.append(
            f"{server.kind.replace('_', ' ')} {server.hostname or 'without a name'} ({server.host_id}): {state}"
        )
    more = f"; and {len(servers) - 10} more" if len(servers) > 10 else ""
    return "; ".join(shown) + more


def authority_status(authority: Authority) -> m.AuthorityStatus:
    """What everybody may know of an authority."""
    rotation = authority.spec.rotation
    schedule = rotation.schedule
    times = {
        "update_clients": schedule.update_clients,
        "update_servers": schedule.update_servers,
        "standby": schedule.standby,
    }
    return m.AuthorityStatus(
        kind=str(authority.type),
        rotation=rotation_text(authority),
        keys=len(authority.trusted_tls_certs)
        or len(authority.spec.active_keys.jwt) + len(authority.spec.additional_trusted_keys.jwt),
        phase=str(rotation.phase),
        mode=str(rotation.mode),
        rotation_id=rotation.current_id,
        started=rotation.started,
        grace_period=rotation.grace_period.seconds,
        last_rotated=rotation.last_rotated,
        schedule={name: when for name, when in times.items() if when is not None},
        ca_pins=pins_of(authority) if authority.type is AuthorityType.HOST else [],
    )


def pins_of(authority: Authority) -> list[str]:
    """The CA pins of an authority's certificates, of the active ones first."""
    return [ca_pin(cert.encode()) for cert in authority.trusted_tls_certs]


_IN_WORDS: Final = {
    RotationPhase.INIT: "initialized",
    RotationPhase.UPDATE_CLIENTS: "rotating clients",
    RotationPhase.UPDATE_SERVERS: "rotating servers",
    RotationPhase.ROLLBACK: "rolling back",
}


def rotation_text(authority: Authority) -> str:
    """How `tctl status` names the state of an authority's rotation (`certificates.md` 7)."""
    rotation = authority.spec.rotation
    if rotation.state is RotationState.STANDBY:
        return "never updated" if rotation.last_rotated is None else f"rotated {_when(rotation.last_rotated)}"
    parts = [f"mode: {rotation.mode}"]
    if rotation.started is not None:
        parts.append(f"started: {_when(rotation.started)}")
    following = next_by_itself(rotation)
    if following is not None:
        parts.append(f"{following[0]} at {_when(following[1])}")
    if rotation.mode is RotationMode.AUTO and rotation.schedule.standby is not None:
        parts.append(f"ending: {_when(rotation.schedule.standby)}")
    return f"{_IN_WORDS[rotation.phase]} ({', '.join(parts)})"


def _when(moment: datetime) -> str:
    return f"{moment:%b %-d %H:%M:%S} UTC"
