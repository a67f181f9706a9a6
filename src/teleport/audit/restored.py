"""What a restore from a backup lets intake do: take a chain further behind events that are lost, and say so.

Events that hosts had delivered after the backup was made are gone. Their chains go on all the same: those that the
backup knew once, at whatever event they are; others only with events from before the restore. Each gap is put on record
by auth itself (`audit.gap`), so that verifying tells it from a gap that somebody made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from teleport.audit.chain import ChainKey, Head, Linked


@dataclass(frozen=True, slots=True)
class Lost:
    """Events of a chain that a restore lost; `first` 0: those of a former epoch, before this chain began."""

    key: ChainKey
    first: int
    last: int
    follows: str  # hash of the event before the one with which the chain goes on


@dataclass(frozen=True, slots=True)
class Restored:
    """A restore: when it was, and how far the backup had each chain."""

    when: datetime
    heads: Mapping[ChainKey, int] = field(default_factory=dict)

    def may_skip(self, key: ChainKey, head: Head, time: datetime) -> bool:
        """Whether the next event of a chain may be a later one than the next; `time` is that event's."""
        return time < self.when or (key in self.heads and head.seq == self.heads[key])

    def gap_before(self, linked: Linked, head: Head, known: Mapping[ChainKey, Head]) -> Lost | None:
        """What is missing before an event that is the first one after the head; None when nothing is."""
        if linked.seq > head.seq + 1:
            return Lost(linked.key, head.seq + 1, linked.seq - 1, linked.prev)
        if linked.seq == 1 and linked.prev:
            former = {one.hash for key, one in known.items() if key.emitter == linked.key.emitter}
            return None if linked.prev in former else Lost(linked.key, 0, 0, linked.prev)
        return None
