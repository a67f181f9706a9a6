"""The tunnels that a proxy holds, by (host UUID, process epoch). Values and waiting; nothing here speaks SSH.

A host that restarts has two processes for a while, each with a tunnel of its own: new clients are led to the newest
process, what is open stays where it is. A process may for a moment have more than one tunnel (its network was away, and
the former one has not been noticed dead): the one that came last is taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator
from typing import Final, Protocol, TypeVar

MOST_OF_HOST: Final = 16  # tunnels


class Held(Protocol):
    """A tunnel, as far as it is told from others."""

    @property
    def host_id(self) -> str: ...

    @property
    def epoch(self) -> int: ...


T = TypeVar("T", bound=Held)


class Registry(dict[str, list[T]]):
    """By host UUID, in the order in which they are to be taken: the last one first."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = 0  # how often the hosts that have a tunnel became others
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}

    def add(self, tunnel: T) -> bool:
        """Takes a tunnel in; False when the host has as many as it may."""
        beside = self.setdefault(tunnel.host_id, [])
        if len(beside) >= MOST_OF_HOST:
            return False
        self.turns += not beside
        beside.append(tunnel)
        beside.sort(key=lambda one: one.epoch)  # stable: of one process the last one stays last
        for waiting in self._waiting.pop(tunnel.host_id, ()):
            if not waiting.done():
                waiting.set_result(None)
        return True

    def remove(self, tunnel: T) -> None:
        """It is gone, or takes nobody any more."""
        beside = self.get(tunnel.host_id, [])
        if tunnel in beside:
            beside.remove(tunnel)
        if not beside:
            self.turns += self.pop(tunnel.host_id, None) is not None

    def newest(self, host_id: str, but: Collection[T] = ()) -> T | None:
        """The tunnel by which new clients are led to a host, none of `but`; None when there is none."""
        return next((one for one in reversed(self.get(host_id, ())) if one not in but), None)

    async def wait_newest(self, host_id: str, seconds: float, but: Collection[T] = ()) -> T | None:
        """The same; waits a while for one that may be on its way."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while (found := self.newest(host_id, but)) is None and loop.time() < until:
            come = loop.create_future()
            self._waiting.setdefault(host_id, []).append(come)
            try:
                async with asyncio.timeout_at(until):
                    await come
            except TimeoutError:
                break
            finally:
                waiting = self._waiting.get(host_id, [])
                if come in waiting:
                    waiting.remove(come)
                if not waiting:
                    self._waiting.pop(host_id, None)
        return found if found is not None else self.newest(host_id, but)

    def every(self) -> Iterator[T]:
        """All of them, of every process."""
        for beside in list(self.values()):
            yield from list(beside)
