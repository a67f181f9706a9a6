"""The rotation of an authority, as one state machine (`certificates.md` 7). Fresh keys and the time are handed in.

| from | allowed to |
|---|---|
| standby | init |
| init | update_clients, rollback |
| update_clients | update_servers, rollback |
| update_servers | standby, rollback |
| rollback | standby |

What each phase asks of a service, which reports it when done (`resources.server.ReachedPhase`):

| phase | keys: active / trusted besides | a service has reached it when it |
|---|---|---|
| init | old / new | trusts both |
| update_clients | new / old | trusts both, and shows certificates of the new keys where it is a client |
| update_servers | new / old | shows certificates of the new keys on its listeners, too |
| standby | new / none | trusts the new keys alone |
| rollback | old / new | trusts both, and shows certificates of the old keys everywhere |
| standby after it | old / none | trusts the old keys alone |

Rules that hold on every way through the table: there is always an active set of keys; keys that signed stay trusted
until standby; in standby exactly one set is trusted. What standby ends is remembered as *retired*; nothing trusts it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final

from msgspec.structs import replace

from teleport.identity import HostIdentity, SystemRole, UserIdentity
from teleport.pki.refusal import CertificateRefused, Refusal
from teleport.resources.authority import (
    Authority,
    KeySet,
    RetiredKeys,
    Rotation,
    RotationMode,
    RotationPhase,
    RotationSchedule,
    RotationState,
)
from teleport.resources.server import ReachedPhase
from teleport.resources.values import Duration

STANDBY, INIT, ROLLBACK = RotationPhase.STANDBY, RotationPhase.INIT, RotationPhase.ROLLBACK
UPDATE_CLIENTS, UPDATE_SERVERS = RotationPhase.UPDATE_CLIENTS, RotationPhase.UPDATE_SERVERS

NEXT: Final[Mapping[RotationPhase, tuple[RotationPhase, ...]]] = MappingProxyType(
    {
        STANDBY: (INIT,),
        INIT: (UPDATE_CLIENTS, ROLLBACK),
        UPDATE_CLIENTS: (UPDATE_SERVERS, ROLLBACK),
        UPDATE_SERVERS: (STANDBY, ROLLBACK),
        ROLLBACK: (STANDBY,),
    }
)
DEFAULT_GRACE: Final = timedelta(hours=48)
MAX_GRACE: Final = timedelta(days=90)  # as long as host certificates live
KEPT_GENERATIONS: Final = 40  # of retired keys: about 40 kB
ACKNOWLEDGED: Final = frozenset({UPDATE_CLIENTS, UPDATE_SERVERS, STANDBY})
"""The phases that are entered only when every live service has reached the one before. Not init, which takes nothing
from anybody, and not rollback, the way out."""


@dataclass(frozen=True, slots=True)
class Move:
    """What is asked. `keys`, `rotation_id` and `grace` are those of a rotation that begins."""

    target: RotationPhase
    mode: RotationMode = RotationMode.MANUAL
    grace: timedelta = timedelta(0)  # 0: the new keys replace the old ones at once
    keys: KeySet | None = None
    rotation_id: str = ""


@dataclass(frozen=True, slots=True)
class RotationRefusal:
    """The table has no such step from the phase that the authority is in."""

    current: RotationPhase
    target: RotationPhase
    message: str
    hint: str


def advance(authority: Authority, move: Move, now: datetime) -> Authority | RotationRefusal:
    """The authority after the step, or why there is no such step."""
    rotation, target = authority.spec.rotation, move.target
    if target not in NEXT[rotation.phase]:
        return _refusal(authority, target)
    if target is INIT:
        return _begin(authority, move, now)
    if target is STANDBY:
        return _end(authority, now)
    active, additional = authority.spec.active_keys, authority.spec.additional_trusted_keys
    if target is UPDATE_CLIENTS or (target is ROLLBACK and rotation.phase is not INIT):
        active, additional = additional, active
    if move.mode is RotationMode.AUTO and rotation.mode is RotationMode.AUTO and target is not ROLLBACK:
        changed = replace(rotation, phase=target, schedule=_late(rotation.schedule, target, now))
    else:  # a person's step in a rotation that runs by itself takes it over
        changed = replace(rotation, phase=target, mode=RotationMode.MANUAL, schedule=RotationSchedule())
    return _with(authority, active, additional, changed)


def _begin(authority: Authority, move: Move, now: datetime) -> Authority | RotationRefusal:
    keys = move.keys
    if keys is None or keys.empty or not move.rotation_id:
        raise ValueError("a rotation begins with fresh keys and an id")
    if not authority.spec.additional_trusted_keys.empty:
        message = f"the {authority.type} authority trusts further keys, though no rotation is in progress"
        hint = f"look at them: tctl get cert_authority/{authority.type}"
        return RotationRefusal(authority.spec.rotation.phase, INIT, message, hint)
    if move.grace <= timedelta(0):
        rotation = Rotation(current_id=move.rotation_id, started=now, last_rotated=now)
        ended = _retired(authority.spec.active_keys, move.rotation_id, now, at_once=True)
        retired = (*authority.spec.retired_keys, ended)
        return _with(authority, keys, KeySet(), rotation, retired)
    auto = move.mode is RotationMode.AUTO
    rotation = Rotation(
        state=RotationState.IN_PROGRESS,
        phase=INIT,
        mode=move.mode,
        current_id=move.rotation_id,
        started=now,
        grace_period=Duration.of(seconds=move.grace.total_seconds()),
        last_rotated=authority.spec.rotation.last_rotated,
        schedule=_schedule(now, move.grace) if auto else RotationSchedule(),
    )
    return _with(authority, authority.spec.active_keys, keys, rotation)


def _end(authority: Authority, now: datetime) -> Authority:
    spec = authority.spec
    done = spec.rotation.phase is not ROLLBACK
    rotation = replace(
        spec.rotation,
        state=RotationState.STANDBY,
        phase=STANDBY,
        mode=RotationMode.MANUAL,
        last_rotated=now if done else spec.rotation.last_rotated,
        schedule=RotationSchedule(),
    )
    retired = (*spec.retired_keys, _retired(spec.additional_trusted_keys, rotation.current_id, now))
    return _with(authority, spec.active_keys, KeySet(), rotation, retired)


def _with(
    authority: Authority,
    active: KeySet,
    additional: KeySet,
    rotation: Rotation,
    retired: tuple[RetiredKeys, ...] | None = None,
) -> Authority:
    kept = authority.spec.retired_keys if retired is None else retired[-KEPT_GENERATIONS:]
    spec = replace(
        authority.spec,
        active_keys=active,
        additional_trusted_keys=additional,
        rotation=rotation,
        retired_keys=kept,
    )
    return replace(authority, spec=spec)


def _retired(keys: KeySet, rotation_id: str, now: datetime, *, at_once: bool = False) -> RetiredKeys:
    return RetiredKeys(
        retired=now,
        rotation_id=rotation_id,
        ssh=tuple(pair.public_key for pair in keys.ssh),
        tls=tuple(pair.cert for pair in keys.tls),
        at_once=at_once,
    )


def _refusal(authority: Authority, target: RotationPhase) -> RotationRefusal:
    phase, kind = authority.spec.rotation.phase, authority.type
    allowed = NEXT[phase]
    if target is INIT:
        message = f"a rotation of the {kind} authority is in progress already, in the phase {phase}"
    elif target is phase:
        message = f"the {kind} authority is in the phase {phase} already"
    elif phase is STANDBY:
        message = f"the {kind} authority is in the phase standby: no rotation is in progress"
    else:
        message = f"the {kind} authority cannot go from the phase {phase} to {target}"
    return RotationRefusal(phase, target, message, command(kind, allowed[0]))


def command(kind: str, target: RotationPhase) -> str:
    """What a person types to get there."""
    return f"tctl auth rotate --type={kind} --manual --phase={target}"


# by itself


def _schedule(start: datetime, grace: timedelta) -> RotationSchedule:
    """Equal times for init, update_clients and update_servers; standby when the grace period ends."""
    return RotationSchedule(
        update_clients=start + grace / 3, update_servers=start + grace * 2 / 3, standby=start + grace
    )


def _late(schedule: RotationSchedule, done: RotationPhase, now: datetime) -> RotationSchedule:
    """What is left to do after a step, put off as long as that step was late: each phase keeps its time, also when
    auth was down or a host let everybody wait."""
    planned = _at(schedule, done)
    late = max(now - planned, timedelta(0)) if planned is not None else timedelta(0)
    if done is UPDATE_CLIENTS and schedule.update_servers is not None:
        schedule = replace(schedule, update_servers=schedule.update_servers + late)
    if schedule.standby is not None:
        schedule = replace(schedule, standby=schedule.standby + late)
    return schedule


def _at(schedule: RotationSchedule, phase: RotationPhase) -> datetime | None:
    return {
        UPDATE_CLIENTS: schedule.update_clients,
        UPDATE_SERVERS: schedule.update_servers,
        STANDBY: schedule.standby,
    }.get(phase)


def next_by_itself(rotation: Rotation) -> tuple[RotationPhase, datetime] | None:
    """The step that a rotation which runs by itself takes next, and when; None when it does not run by itself."""
    if rotation.state is RotationState.STANDBY or rotation.mode is not RotationMode.AUTO:
        return None
    following = NEXT[rotation.phase][0]
    when = _at(rotation.schedule, following)
    return None if when is None else (following, when)


def by_hand(authority: Authority) -> Authority:
    """The same rotation, which from here on a person takes further: what a failed step leads to."""
    rotation = replace(authority.spec.rotation, mode=RotationMode.MANUAL, schedule=RotationSchedule())
    return replace(authority, spec=replace(authority.spec, rotation=rotation))


# what services report


def has_reached(said: ReachedPhase | None, rotation: Rotation) -> bool:
    """Whether a service that says this has done what the present phase asks."""
    return said is not None and said.phase is rotation.phase and said.current_id == rotation.current_id


# who was left behind


def retired_refusal(identity: UserIdentity | HostIdentity, ended: datetime) -> CertificateRefused:
    """What somebody reads whose certificate is of keys that a rotation ended at `ended`."""
    when = f"{ended:%Y-%m-%d %H:%M:%S} UTC"
    if isinstance(identity, UserIdentity):
        message = f"This certificate is of a user authority that a rotation ended on {when}."
        hint = f"tsh login; for a file of its own: tctl auth sign --user={identity.name} --out=FILE"
    elif identity.role is SystemRole.PROXY:
        # read by whoever asked the proxy for something, too, while the proxy has not followed yet
        message = f"The certificate of this proxy is of a host authority that a rotation ended on {when}."
        hint = (
            "the proxy may follow within seconds: then tsh login, as certificates of before do not count either. "
            f"Where it stays so, {join_again(identity)}"
        )
    else:
        message = f"The certificate of this host is of a host authority that a rotation ended on {when}."
        hint = join_again(identity)
    return CertificateRefused(Refusal.UNKNOWN_AUTHORITY, message, hint=hint)


def join_again(identity: HostIdentity, proc: str = "DATA_DIR/proc") -> str:
    """What to run so that a host that missed a rotation comes back. `proc` is where it keeps its identities."""
    role = identity.role.value.lower()
    if identity.role is SystemRole.ADMIN:
        return "restart the auth service"
    expel = (
        f"tctl nodes rm {identity.host_id}"
        if identity.role is SystemRole.NODE
        else f"tctl rm {role}/{identity.host_id}"
    )
    return (
        f"join it again. On an auth server: {expel}; tctl nodes add --roles={role}. On this host: rm -r {proc}/{role}; "
        "teleport start with the token and the CA pin that tctl printed"
    )
