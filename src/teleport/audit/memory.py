"""What auth keeps in its database for the log, in memory: for tests and for trying things out.

It implements `IntakeStore`, `SharedRecords`, `CheckpointStore` and `OutboxBackend`, and shows what a real one must do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from teleport.audit.chain import ChainKey, Head
from teleport.audit.checkpoints import SavedCheckpoint


class MemoryRecords:
    """All of them. `kept` survives as long as this object does, as a database would."""

    def __init__(self) -> None:
        self.kept_heads: dict[ChainKey, Head] = {}
        self.position = ""
        self.positions: dict[str, str] = {}
        self.ends: dict[tuple[str, str], str] = {}
        self.saved: SavedCheckpoint | None = None
        self.outbox: dict[str, bytes] = {}

    async def load_heads(self) -> tuple[Mapping[ChainKey, Head], str]:
        return dict(self.kept_heads), self.position

    async def save_heads(self, changed: Mapping[ChainKey, Head], position: str) -> None:
        self.kept_heads.update(changed)
        self.position = position

    async def load_head(self, key: ChainKey) -> Head | None:
        return self.kept_heads.get(key)

    async def load_positions(self) -> Mapping[str, str]:
        return dict(self.positions)

    async def save_in(self, store: str, changed: Mapping[ChainKey, Head], position: str) -> None:
        self.kept_heads.update(changed)
        self.positions[store] = position

    async def claim_end(self, sid: str, uid: str, host_id: str) -> str:
        return self.ends.setdefault((sid, host_id), uid)

    async def load_checkpoint(self) -> SavedCheckpoint | None:
        return self.saved

    async def save_checkpoint(self, saved: SavedCheckpoint) -> None:
        self.saved = saved

    async def range(self, prefix: str) -> Sequence[tuple[str, bytes]]:
        return sorted((key, value) for key, value in self.outbox.items() if key.startswith(prefix))

    async def delete(self, key: str) -> None:
        self.outbox.pop(key, None)
