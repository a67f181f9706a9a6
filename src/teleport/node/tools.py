"""What every session of a node shares."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from teleport.audit.emits import Emits
from teleport.clock import Clock
from teleport.node.enhanced import Enhanced
from teleport.node.needs import Launcher, NodeConfig, Recordings
from teleport.node.reserved import Reserved

if TYPE_CHECKING:
    from teleport.node.session import Session


class Registry:
    """The sessions that run now, by id. An id is held by one session at a time."""

    def __init__(self, new_id: Callable[[], UUID]) -> None:
        self._new_id = new_id
        self._held: dict[UUID, Session] = {}
        self.changed: Callable[[], None] = lambda: None  # called when what is told of the sessions is not true any more

    def claim(self, session: Session, sid: UUID | None = None) -> UUID:
        """A new id, or the one under which a proxy records already. Clients have no say in it: recordings and events
        count by it, over all nodes."""
        sid = sid or self._new_id()
        self._held[sid] = session
        return sid

    def release(self, sid: UUID) -> None:
        """The session is over."""
        self._held.pop(sid, None)
        self.changed()

    def find(self, sid: UUID) -> Session | None:
        """The session that holds the id now."""
        return self._held.get(sid)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._held.values()))

    def __len__(self) -> int:
        return len(self._held)


@dataclass(frozen=True, slots=True)
class Tools:
    """Handed to each connection and session."""

    config: NodeConfig
    launcher: Launcher
    recordings: Recordings
    emitter: Emits
    clock: Clock
    registry: Registry
    enhanced: Enhanced
    in_background: Callable[[Coroutine[Any, Any, None], str], None]
    reserved: Reserved
