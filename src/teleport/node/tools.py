"""What every session of a node shares."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from teleport.clock import Clock
from teleport.node.needs import Emitter, Launcher, NodeConfig, Recordings


class Registry:
    """The sessions that run now, by id. An id is held by one session at a time."""

    def __init__(self, new_id: Callable[[], UUID]) -> None:
        self._new_id = new_id
        self._held: set[UUID] = set()

    def claim(self) -> UUID:
        """A new id. Clients have no say in it: recordings and events count by it, over all nodes."""
        sid = self._new_id()
        self._held.add(sid)
        return sid

    def release(self, sid: UUID) -> None:
        """The session is over."""
        self._held.discard(sid)

    def __len__(self) -> int:
        return len(self._held)


@dataclass(frozen=True, slots=True)
class Tools:
    """Handed to each connection and session."""

    config: NodeConfig
    launcher: Launcher
    recordings: Recordings
    emitter: Emitter
    clock: Clock
    registry: Registry
    in_background: Callable[[Coroutine[Any, Any, None], str], None]
