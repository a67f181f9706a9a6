"""What is known of a recording that lies in S3: enough to list it, to decide about it, and to prove what comes back.

The notes lie in the cluster's storage, so every auth server knows of what any of them has brought there, and whoever
can write to the bucket cannot change them.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

import msgspec

from teleport.recording.format import RecordingHeader


class ObjectNote(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Written once the object was read back whole, before the file here goes."""

    size: int
    sha256: str  # hex, of all its bytes
    head: str  # hex, the recording's last hash
    header: RecordingHeader
    stored: datetime | None = None
    """When it was stored whole, by an auth server's clock. None: the note is of a version that did not say it."""

    def same(self, other: ObjectNote | None) -> bool:
        """Whether it is of the same recording, whoever knows since when it is there."""
        return other is not None and msgspec.structs.replace(other, stored=self.stored) == self


class Notes(Protocol):
    """Where they are kept."""

    async def told(self, name: str) -> str:
        """The last hash under which the recording's arrival was told; empty when it was not."""
        ...

    async def get(self, name: str) -> ObjectNote | None: ...

    async def every(self) -> Mapping[str, ObjectNote]: ...

    async def write(self, name: str, note: ObjectNote) -> bool:
        """Whether it is there now; false when that of another recording is."""
        ...

    async def date(self, name: str, stored: datetime) -> None:
        """Says when the recording was stored, where its note does not."""
        ...

    async def remove(self, name: str) -> None:
        """Durably; nothing happens where none is. Raises `CompareFailed` when it was changed at this moment."""
        ...
