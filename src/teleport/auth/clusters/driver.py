"""The exchange of authorities by itself: every minute, at once when an authority of this cluster changes, and every few
seconds while a rotation is under way on either side, so that neither waits long for the other.

Whoever holds the lease does it. What was taken is written only on what was read, so that two who exchange at the same
moment do no harm.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import Final

from teleport.audit.checkpoints import LeaseElsewhere
from teleport.auth.authorities.trusting import whenever_authorities_change
from teleport.auth.clusters.leaf import TrustedClusters
from teleport.auth.clusters.statements import Statements
from teleport.auth.state import ClusterState
from teleport.errors import TeleportError
from teleport.resources.authority import RotationState
from teleport.store import records

log = logging.getLogger(__name__)

EVERY: Final = 60.0  # seconds
WHILE_TURNING: Final = 5.0  # seconds, while a rotation is under way
RETRY: Final = 5.0  # seconds after a failure; doubled up to `EVERY`


class ExchangeDriver:
    """One for an auth service; `run` is its task."""

    def __init__(
        self,
        state: ClusterState,
        clusters: TrustedClusters,
        statements: Statements,
        lease: Callable[[], AbstractAsyncContextManager[object]],
    ) -> None:
        self._state = state
        self._clusters = clusters
        self._statements = statements
        self._lease = lease
        self._own: tuple[int, ...] = ()
        self._due: dict[str, float] = {}  # monotonic
        self._failures: dict[str, int] = {}

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(whenever_authorities_change(self._state, self._look), name="authorities to exchange")
            tasks.create_task(self._drive(), name="exchange of authorities")

    async def _look(self) -> None:
        """Own authorities that changed are told at once; those of others change by the exchange itself."""
        keys = [records.authority_key(kind, self._state.cluster) for kind in ("user", "host")]
        items = [await self._state.backend.get(key) for key in keys]
        own = tuple(item.revision for item in items if item is not None)
        if self._own and own != self._own:
            self._due.clear()
            self._clusters.changed.set()
        self._own = own

    async def _drive(self) -> None:
        while True:
            self._clusters.changed.clear()
            delay = EVERY
            try:
                names = [
                    item.key.removeprefix(records.TRUSTED_CLUSTERS)
                    for item in await self._state.backend.range(records.TRUSTED_CLUSTERS)
                ]
                if names:
                    async with self._lease():
                        pass  # that it is ours is enough: what is done takes longer than others may wait for the lease
                    delay = await self._step(names)
            except LeaseElsewhere as error:
                log.debug("not exchanging: %s", error)
            except TeleportError as error:
                log.warning("exchange of authorities: %s", error)
            except Exception:
                log.exception("exchange of authorities")
            with suppress(TimeoutError):
                async with asyncio.timeout(max(delay, 0.05)):
                    await self._clusters.changed.wait()

    async def _step(self, names: list[str]) -> float:
        """Exchanges with those that are due; seconds until the next one is."""
        for name in set(self._due) - set(names):
            self._due.pop(name)
        async with asyncio.TaskGroup() as tasks:
            for name in names:
                if self._due.get(name, 0.0) <= self._now():
                    tasks.create_task(self._exchange(name), name=f"exchange with {name}")
        return min((when - self._now() for when in self._due.values()), default=EVERY)

    async def _exchange(self, name: str) -> None:
        try:
            problem = await self._clusters.exchange(name)
            failures = self._failures.get(name, 0) + 1 if problem else 0
            self._failures[name] = failures
            pause = min(EVERY, RETRY * 2.0 ** min(failures - 1, 8)) if failures else await self._pause(name)
        except TeleportError as error:  # of the store; the others go on
            log.warning("exchange of authorities with %s: %s", name, error)
            pause = RETRY
        except Exception:  # nothing that one cluster says, or that is stored of it, ends the service
            log.exception("exchange of authorities with %s", name)
            pause = EVERY
        self._due[name] = self._now() + pause

    async def _pause(self, name: str) -> float:
        link, _ = await self._statements.link(name)
        own = [await self._state.authority(kind) for kind in ("user", "host")]
        turning = link.turning or any(one.spec.rotation.state is RotationState.IN_PROGRESS for one in own)
        return WHILE_TURNING if turning else EVERY

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
