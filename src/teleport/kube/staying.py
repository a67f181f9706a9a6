"""How many streams into pods a person may have, and for how long they may be idle: the limits of roles, as on hosts.

A stream holds one of the person's places in the whole cluster (`transport.places`), and ends when the place is lost.
While auth cannot count, nobody with a limit gets one. A stream is idle while nothing is typed, resized or carried; what
a terminal shows by itself does not keep it, as on hosts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from teleport.authz.kube import KubeAccessPermit
from teleport.errors import LimitExceeded, TeleportError
from teleport.kube.status import Refusal
from teleport.transport.places import Place

UNCOUNTED: Final = Refusal(503, "Your connections are limited, and cannot be counted now.", "try again later")


class Counts(Protocol):
    """Counts connections (`transport.places.Places`)."""

    async def enter(self, user: str, most: int) -> Place:
        """A place; raises `LimitExceeded`, or another `TeleportError` when nobody can tell."""
        ...

    def leave(self, place: Place) -> None: ...


class Stay:
    """One stream, as long as it may last. `leave` it in any case."""

    def __init__(self, counts: Counts, ended: Callable[[str, str], None]) -> None:
        """`ended` hears once why the stream has to end, and what its person is told, where that is something else."""
        self._counts = counts
        self._ended = ended
        self._place: Place | None = None
        self._permit: KubeAccessPermit | None = None
        self._loop = asyncio.get_running_loop()
        self._last_active = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None

    async def enter(self, permit: KubeAccessPermit) -> Refusal | None:
        """A place for the stream, where the permit has a limit; else why there is none."""
        if permit.max_connections:
            try:
                self._place = await self._counts.enter(permit.user, permit.max_connections)
            except LimitExceeded:
                return too_many(permit)
            except TeleportError:
                return UNCOUNTED
            self._place.gone = self._end
        self.active()
        self.obey(permit)
        return None

    def active(self) -> None:
        """Something was done: the idle time begins anew."""
        self._last_active = self._loop.time()

    def obey(self, permit: KubeAccessPermit) -> None:
        """Goes on under a newer permit."""
        self._permit = permit
        self._cancel()
        self._look()

    def _look(self) -> None:
        assert self._permit is not None, "it was let in"
        limit = self._permit.client_idle_timeout.total_seconds()
        if not limit:
            return
        left = self._last_active + limit - self._loop.time()
        if left <= 0:
            self._end(f"idle for more than {limit:g} s", self._permit.client_idle_timeout_message)
        else:
            self._timer = self._loop.call_later(left, self._look)

    def _end(self, reason: str, told: str = "") -> None:
        self._cancel()
        ended, self._ended = self._ended, lambda reason, told: None
        ended(reason, told)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def leave(self) -> None:
        """The stream is over."""
        self._ended = lambda reason, told: None
        self._cancel()
        if self._place is not None:
            self._counts.leave(self._place)
            self._place = None


def too_many(permit: KubeAccessPermit) -> Refusal:
    """What whoever has as many connections as they may hears."""
    return Refusal(429, f"Your roles allow {permit.max_connections} connections at the same time.", "end one of them")
