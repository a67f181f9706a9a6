"""What is known of a recording that lies in S3: enough to list it, to decide about it, and to prove what comes back.

The notes lie in the cluster's storage, so every auth server knows of what any of them has brought there, and whoever
can write to the bucket cannot change them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from teleport.recording.format import RecordingHeader


class ObjectNote(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Written once the object was read back whole, before the file here goes."""

    size: int
    sha256: str  # hex, of all its bytes
    head: str  # hex, the recording's last hash
    header: RecordingHeader


class Notes(Protocol):
    """Where they are kept."""

    async def told(self, name: str) -> str:
        """The last hash under which the recording's arrival was told; empty when it was not."""
        ...

    async def get(self, name: str) -> ObjectNote | None: ...

    async def every(self) -> Mapping[str, ObjectNote]: ...

    async def write(self, name: str, note: ObjectNote) -> bool:
        """Whether it is there now; false when another one is."""
        ...
