"""Rotations that run by themselves: the next step is taken when its time has come and all have followed.

The schedule is part of the authority, so it survives a restart of auth; whoever holds the lease takes the steps, and
each is written only on the authority as it was read, so that none is taken twice. A step that cannot be taken for
`PATIENCE` makes the rotation wait for a person, in the phase it is in: nothing is lost by waiting.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager, suppress
from typing import Final

from teleport.audit.checkpoints import LeaseElsewhere
from teleport.audit.events import AuthorityRotateStopped
from teleport.auth.authorities.following import Announced
from teleport.auth.authorities.rotation import NotFollowed, Rotations
from teleport.auth.state import ClusterState
from teleport.backend.interface import Exists, PutOp
from teleport.errors import CompareFailed, TeleportError
from teleport.pki.rotation import by_hand, command, next_by_itself
from teleport.resources.authority import Authority, AuthorityType, RotationMode, RotationPhase
from teleport.resources.codec import to_json
from teleport.store import records

log = logging.getLogger(__name__)

PATIENCE: Final = 180.0  # seconds for services to follow after a step was due; who is silent is not waited for before
SLACK: Final = 30.0  # seconds more than a service may be silent where it is not noted each minute
LOOK_EVERY: Final = 5.0  # seconds: another process may have begun a rotation
LOOK_WHILE_WAITING: Final = 0.5  # seconds between looks whether all have followed


def patience(missing: Iterable[Announced]) -> float:
    """Seconds for which these are waited for: for none that is silent longer than it takes to call it lost."""
    return max([PATIENCE, *(one.spec.lost_after + SLACK for one in missing if one.spec.lost_after)])


class RotationDriver:
    """One for an auth service; `run` is its task."""

    def __init__(
        self, state: ClusterState, rotations: Rotations, lease: Callable[[], AbstractAsyncContextManager[object]]
    ) -> None:
        self._state = state
        self._rotations = rotations
        self._lease = lease
        self._held_up: dict[tuple[str, RotationPhase], float] = {}  # a step of a rotation: since when (monotonic)

    async def run(self) -> None:
        """Takes the steps that are due until cancelled."""
        while True:
            self._rotations.changed.clear()
            delay = LOOK_EVERY
            try:
                if await self._running():
                    async with self._lease():
                        delay = await self.step()
            except LeaseElsewhere as error:
                log.debug("not rotating: %s", error)
            except TeleportError as error:
                log.warning("rotation: %s", error)
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._rotations.changed.wait()

    async def step(self) -> float:
        """Takes what is due now; seconds until it is worth looking again."""
        delay = LOOK_EVERY
        for kind in AuthorityType:
            found = await self._state.find(f"{records.AUTHORITIES}{kind}/", self._state.cluster, Authority)
            if found is not None:
                delay = min(delay, await self._of(*found))
        return delay

    async def _running(self) -> bool:
        """Whether there is anything to drive: taking the lease is a write."""
        found = [await self._state.authority(kind) for kind in AuthorityType]
        return any(next_by_itself(one.spec.rotation) is not None for one in found)

    async def _of(self, authority: Authority, revision: int) -> float:
        following = next_by_itself(authority.spec.rotation)
        if following is None:
            return LOOK_EVERY
        target, when = following
        early = (when - self._state.clock.now()).total_seconds()
        if early > 0:
            return early
        key = (f"{authority.type}/{authority.spec.rotation.current_id}", target)
        try:
            steps = await self._rotations.plan([(authority, revision)], target, RotationMode.AUTO)
            await self._rotations.take(steps, None)
        except CompareFailed:
            return 0.0  # somebody took a step at this moment
        except TeleportError as error:
            now = self._state.clock.monotonic()
            since = self._held_up.setdefault(key, now)
            if now - since < patience(error.missing if isinstance(error, NotFollowed) else ()):
                return LOOK_WHILE_WAITING
            await self._stop(authority, revision, target, error)
        else:
            log.info("rotation of the %s authority: %s, by itself", authority.type, target)
        self._held_up.pop(key, None)
        return 0.0

    async def _stop(self, authority: Authority, revision: int, target: RotationPhase, error: TeleportError) -> None:
        """The rotation waits for a person from here on, and says so."""
        missing = error.missing if isinstance(error, NotFollowed) else ()
        rotation = authority.spec.rotation
        key = records.authority_key(authority.type, authority.name)
        with suppress(CompareFailed):  # a person took over at this moment
            await self._state.commit(
                [PutOp(key, to_json(by_hand(authority), with_secrets=True))],
                conditions=[Exists(key, revision)],
                events=[
                    self._state.event(
                        AuthorityRotateStopped,
                        user="system",
                        updated_by="system",
                        name=authority.name,
                        authority=str(authority.type),
                        rotation_id=rotation.current_id,
                        phase=str(rotation.phase),
                        wanted_phase=str(target),
                        error=error.message,
                        left_behind=[server.host_id for server in missing],
                    )
                ],
            )
            log.error(
                "the rotation of the %s authority stopped in the phase %s, it could not go into %s: %s; go on with %s, "
                "or back with tctl auth rotate --rollback",
                authority.type,
                rotation.phase,
                target,
                error,
                command(str(authority.type), target),
            )
