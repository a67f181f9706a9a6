"""What whoever tells of something asks for: that it is on record."""

from __future__ import annotations

from typing import Protocol

from teleport.audit.events import Event


class Emits(Protocol):
    """Puts an event on record: when it returns, the event is durable."""

    async def emit(self, event: Event) -> object: ...
