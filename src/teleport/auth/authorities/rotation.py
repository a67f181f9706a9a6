"""Rotating authorities: a step asked for, judged, and written together with its events.

What a step does to the keys is `pki.rotation`. Here it is decided whether it may be taken now: no step takes anything
away from a live service that has not done what the phase before asked of it, unless that is forced. A step is written
only if no authority changed since it was read.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from teleport.api import messages as m
from teleport.audit.events import AuthorityRotate
from teleport.auth.authorities.following import (
    Announced,
    Followers,
    authority_status,
    pins_of,
    waited_for,
    who_is_missing,
)
from teleport.auth.authorizer import Authorizer
from teleport.auth.caller import Caller
from teleport.auth.state import ClusterState
from teleport.backend.interface import Condition, Exists, PutOp, Write
from teleport.errors import BadRequest, CompareFailed, TeleportError
from teleport.pki.keys import PublicKey
from teleport.pki.rotation import ACKNOWLEDGED, INIT, MAX_GRACE, NEXT, Move, RotationRefusal, advance
from teleport.pki.trust import AuthorityKind
from teleport.resources.authority import Authority, AuthorityType, KeySet, RotationMode, RotationPhase, RotationState
from teleport.resources.codec import to_json
from teleport.resources.kinds import Kind, Verb
from teleport.store import records

BY_THEMSELVES: Final = (AuthorityType.USER, AuthorityType.HOST, AuthorityType.JWT)
"""The authorities that are rotated when none is named."""


class NotFollowed(TeleportError):
    """Live services have not reached the phase, so the next one would cut them off."""

    def __init__(self, authority: Authority, missing: Sequence[Announced]) -> None:
        self.missing = tuple(missing)
        count = f"{len(missing)} live services have" if len(missing) > 1 else "a live service has"
        super().__init__(
            f"{count} not reached the phase {authority.spec.rotation.phase} of the {authority.type} authority yet: "
            f"{who_is_missing(missing, authority)}",
            hint="wait for them (tctl status), stop them, or go on without them: --force",
        )


@dataclass(frozen=True, slots=True)
class _Step:
    """One authority's part of a step, and what goes on record."""

    before: Authority
    revision: int
    after: Authority
    missing: tuple[Announced, ...]


class Rotations:
    """The handlers, and the one way in which an authority of this cluster changes."""

    def __init__(self, state: ClusterState, authorizer: Authorizer, look: Callable[[], Awaitable[None]]) -> None:
        """`look` makes this process believe what the authorities say now."""
        self._state = state
        self._authorizer = authorizer
        self._look = look
        self.followers = Followers(state)
        self.changed = asyncio.Event()  # a step was taken: whoever takes steps by itself looks anew

    async def rotate(self, caller: Caller, request: m.RotateRequest) -> m.RotateReply:
        """Takes one step for all authorities that are meant, or none. Raises `TeleportError` saying in which phase
        they are, or which services have not followed; `CompareFailed` when they are not where the caller saw them."""
        target, mode = _phase(request.phase), _mode(request.mode)
        # Nobody tells of hosts with a plain sshd that they have followed, so their authority changes when it is named.
        everything = list(AuthorityType) if target is RotationPhase.ROLLBACK else BY_THEMSELVES
        found = await self._chosen(caller, request.types, everything)
        if target is RotationPhase.ROLLBACK and not request.types:
            found = [one for one in found if one[0].spec.rotation.state is RotationState.IN_PROGRESS]
            if not found:
                raise BadRequest("no rotation is in progress, so there is nothing to roll back", hint="tctl status")
        if request.seen:
            _check_seen(found, _phase(request.seen))
        grace = self.grace(request.grace_period) if target is INIT else timedelta(0)
        steps = await self.plan(found, target, mode, grace, force=request.force)
        await self.take(steps, caller, forced=request.force)
        return m.RotateReply(authorities=[authority_status(step.after) for step in steps])

    async def progress(self, caller: Caller, request: m.Empty) -> m.RotationProgress:
        """How the authorities stand, and which live services are waited for."""
        found = await self.chosen(caller, [])
        waiting = [
            row
            for authority in found
            if authority.spec.rotation.state is RotationState.IN_PROGRESS
            for row in waited_for(authority, await self.followers.missing(authority))
        ]
        return m.RotationProgress(authorities=[authority_status(one) for one in found], waiting=waiting)

    async def chosen(self, caller: Caller, types: Sequence[str]) -> list[Authority]:
        """The authorities of these types, or all. Raises `AccessDenied` unless the caller may rotate each of them."""
        return [authority for authority, _ in await self._chosen(caller, types, list(AuthorityType))]

    async def _chosen(
        self, caller: Caller, types: Sequence[str], everything: Sequence[AuthorityType]
    ) -> list[tuple[Authority, int]]:
        kinds = _types(types, everything)
        for one in kinds:
            await self._authorizer.require(caller, Verb.ROTATE, Kind.CERT_AUTHORITY, ca_type=str(one))
        prefix, cluster = records.AUTHORITIES, self._state.cluster
        return [await self._state.need(f"{prefix}{one}/", cluster, Authority) for one in kinds]

    @staticmethod
    def grace(seconds: float) -> timedelta:
        """A grace period; raises `BadRequest` for one that is none."""
        if not 0 <= seconds <= MAX_GRACE.total_seconds():
            raise BadRequest(f"a grace period lasts up to {MAX_GRACE.days} days", hint="--grace-period=48h")
        return timedelta(seconds=seconds)

    async def plan(
        self,
        found: Sequence[tuple[Authority, int]],
        target: RotationPhase,
        mode: RotationMode,
        grace: timedelta = timedelta(0),
        *,
        force: bool = False,
    ) -> list[_Step]:
        """What the step makes of each authority. Raises `BadRequest` and `NotFollowed`; nothing is written."""
        now = self._state.clock.now()
        rotation_id = str(uuid.uuid4())  # one for all that begin together
        made: list[KeySet] = []
        steps = []
        try:
            for authority, revision in found:
                keys = None
                if target is INIT and INIT in NEXT[authority.spec.rotation.phase]:
                    keys = await self._keys(authority.type)
                    made.append(keys)
                after = advance(authority, Move(target, mode, grace, keys, rotation_id), now)
                if isinstance(after, RotationRefusal):
                    raise BadRequest(after.message, hint=_other_types(found, target, after.hint))
                missing = await self.followers.missing(authority) if target in ACKNOWLEDGED else []
                if missing and not force:
                    raise NotFollowed(authority, missing)
                steps.append(_Step(authority, revision, after, tuple(missing)))
        except BaseException:
            await self._destroy(made)
            raise
        return steps

    async def _destroy(self, unused: Sequence[KeySet]) -> None:
        """Keys that nothing refers to: in a token they would stay for ever."""
        for keys in unused:
            await asyncio.to_thread(self._state.keys.destroy, keys)

    async def _keys(self, kind: AuthorityType) -> KeySet:
        made = await asyncio.to_thread(
            self._state.keys.make, AuthorityKind(kind.value), self._state.cluster, self._state.clock.now()
        )
        return made.spec.active_keys

    async def take(self, steps: Sequence[_Step], caller: Caller | None, *, forced: bool = False) -> None:
        """Writes the steps and their events in one transaction. Raises `CompareFailed` when an authority changed."""
        writes: list[Write] = []
        conditions: list[Condition] = []
        events = []
        for step in steps:
            key = records.authority_key(step.after.type, step.after.name)
            writes.append(PutOp(key, to_json(step.after, with_secrets=True)))
            conditions.append(Exists(key, step.revision))
            events.append(self._event(step, caller, forced=forced and bool(step.missing)))
        try:
            await self._state.commit(writes, conditions=conditions, events=events)
        except CompareFailed:
            await self._destroy([_only_in(step.after, step.before) for step in steps])
            raise CompareFailed(
                "an authority was changed at this moment; nothing was done", hint="see where it stands: tctl status"
            ) from None
        await self._look()
        self.changed.set()
        await self._destroy([_only_in(step.before, step.after) for step in steps])

    def _event(self, step: _Step, caller: Caller | None, *, forced: bool) -> AuthorityRotate:
        rotation, after = step.after.spec.rotation, step.after
        by = caller.name if caller is not None else "system"
        return self._state.event(
            AuthorityRotate,
            caller,
            **({} if caller is not None else {"user": "system"}),
            name=after.name,
            updated_by=by,
            authority=str(after.type),
            rotation_id=rotation.current_id,
            phase=str(rotation.phase),
            previous_phase=str(step.before.spec.rotation.phase),
            mode=str(rotation.mode),
            grace_period=str(rotation.grace_period),
            fingerprints=[PublicKey.parse(pair.public_key).fingerprint() for pair in after.spec.active_keys.ssh],
            ca_pins=pins_of(after) if after.type is AuthorityType.HOST else [],
            forced=forced,
            left_behind=[server.host_id for server in step.missing],
        )


def _only_in(one: Authority, other: Authority) -> KeySet:
    """The keys of one state of an authority that another state of it does not have."""
    there = (other.spec.active_keys, other.spec.additional_trusted_keys)
    sets = [held for held in (one.spec.active_keys, one.spec.additional_trusted_keys) if held not in there]
    return KeySet(
        ssh=tuple(pair for held in sets for pair in held.ssh),
        tls=tuple(pair for held in sets for pair in held.tls),
        jwt=tuple(pair for held in sets for pair in held.jwt),
    )


def _types(names: Sequence[str], everything: Sequence[AuthorityType]) -> list[AuthorityType]:
    try:
        return [AuthorityType(name) for name in dict.fromkeys(names)] or list(everything)
    except ValueError:
        raise BadRequest(
            "authorities are user, host and jwt, and openssh for hosts with a plain sshd, not "
            + ", ".join(repr(name[:20]) for name in names),
            hint="--type=host",
        ) from None


def _phase(name: str) -> RotationPhase:
    try:
        return RotationPhase(name)
    except ValueError:
        raise BadRequest(f"{name[:40]!r} is no phase", hint=f"phases are {', '.join(RotationPhase)}") from None


def _check_seen(found: Sequence[tuple[Authority, int]], seen: RotationPhase) -> None:
    """Raises `CompareFailed` unless all are in the phase in which somebody looked at them and decided: the same step
    may end the new keys after a rollback and the old ones before it."""
    for authority, _ in found:
        if authority.spec.rotation.phase is not seen:
            raise CompareFailed(
                f"the {authority.type} authority is in the phase {authority.spec.rotation.phase} by now, "
                f"not in {seen}; nothing was done",
                hint="see where it stands: tctl status",
            )


def _mode(name: str) -> RotationMode:
    try:
        return RotationMode(name)
    except ValueError:
        raise BadRequest(f"{name[:40]!r} is no mode", hint="modes are manual and auto") from None


def _other_types(found: Sequence[tuple[Authority, int]], target: RotationPhase, hint: str) -> str:
    """The hint of a refusal; when several authorities were meant, for which of them the step may be meant."""
    running = [str(one.type) for one, _ in found if one.spec.rotation.state is RotationState.IN_PROGRESS]
    others = [str(one.type) for one, _ in found if str(one.type) not in running]
    if not running or not others:
        return hint
    flags = " ".join(f"--type={kind}" for kind in (others if target is INIT else running))
    return f"only {' and '.join(running)} is being rotated: give {flags}"
