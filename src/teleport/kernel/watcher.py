"""Watches the processes of sessions: what any facility offers, and what it says when the kernel offers none."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from teleport.errors import TeleportError
from teleport.kernel.seen import Kind, Seen


class Unavailable(TeleportError):
    """The kernel, or the rights of this process, do not allow it."""

    code = "watching_unavailable"


@dataclass(frozen=True, slots=True)
class Buffers:
    """Room for what is on its way from the kernel, in pages for each processor."""

    commands: int = 8
    files: int = 128
    connections: int = 8


class Watch(Protocol):
    """One session that is watched."""

    @property
    def alive(self) -> bool:
        """Whether a thread of the session is left."""
        ...

    def collect(self) -> None:
        """Hands over all that was seen until now, and what was lost."""
        ...

    def close(self) -> None:
        """Ends the watching. Idempotent."""
        ...


class Watcher(Protocol):
    """Sees what the processes of sessions do."""

    @property
    def kinds(self) -> frozenset[Kind]:
        """What it can see."""
        ...

    def watch(self, pid: int, kinds: Collection[Kind], deliver: Callable[[Seen], None]) -> Watch:
        """Watches the process `pid`, which does nothing yet, and everything that it starts, and that starts in turn.

        `deliver` is called for each thing that is seen, in the loop. `OSError` or `Unavailable` when that cannot be.
        """
        ...

    def close(self) -> None: ...
