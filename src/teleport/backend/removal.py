"""The deletion of what has expired, as a decision: whatever was found due is judged once more in the transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from teleport.backend.decide import Decision, Look
from teleport.backend.interface import DeleteOp, Write


class Removal:
    """The deletion of those of `keys` whose time has come; afterwards, how many these were."""

    def __init__(self, keys: list[str]) -> None:
        self.removed = 0
        self._keys = keys
        self.decision = Decision(self._decide, tuple(keys))

    def _decide(self, look: Look, now: datetime) -> Sequence[Write]:
        found = [item for key in self._keys if (item := look(key)) is not None]
        gone = [DeleteOp(item.key) for item in found if not item.live(now)]
        self.removed = len(gone)
        return gone
