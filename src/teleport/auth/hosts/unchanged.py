"""Which announcements need not be written. Pure.

Every host would announce itself each minute, and mostly say what it said before. A write for each costs auth the write,
and every proxy the news of it: with ten thousand hosts that was most of what both did while nobody connected. So what
says the same as before is written every few minutes only, so that `WRITES` of them are written in a second, more or
less, and hosts are told to say it no sooner (`within`). Up to some thousands of hosts every announcement is written.
What is written says how long the host may be silent from then on (`resources.server.ServerSpec.lost_after`): whoever
reads it needs to know nothing of this.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

EVERY: Final = 60.0  # seconds between two announcements of a host (`protocols.md` 6)
WRITES: Final = 40  # in a second
MOST: Final = 4  # announcements of which one is written
MISSED: Final = 90  # seconds of silence more than between two writes: as much as `LOST_AFTER` bears
FORGOTTEN: Final = 900.0  # seconds after which a silent host counts no more
LONGEST_LOST_AFTER: Final = int(MOST * EVERY) + MISSED


@dataclass(slots=True)
class _Written:
    digest: bytes
    revision: int
    due: float  # when it has to be written again
    lost_after: int  # as it says
    heard: float


class Unchanged:
    """What was written of each host, by its UUID. Times are of one clock that never goes back, in seconds."""

    def __init__(self) -> None:
        self._written: dict[str, _Written] = {}
        self._looked = 0.0

    @property
    def lost_after(self) -> int:
        """`ServerSpec.lost_after` of what is written now; 0 while every announcement is written."""
        one_of = min(math.ceil(len(self._written) / (WRITES * EVERY)), MOST)
        return int(one_of * EVERY) + MISSED if one_of > 1 else 0

    def written(self, host_id: str, digest: bytes) -> int:
        """The revision in which a host was written last, if that was of this digest: all of it was looked at then. Else
        0."""
        known = self._written.get(host_id)
        return known.revision if known is not None and known.digest == digest else 0

    def revision(self, host_id: str, digest: bytes, now: float) -> int | None:
        """The revision in which what a host says is written. None: it says something else, or it is time to write."""
        known = self._written.get(host_id)
        if known is None:
            return None
        known.heard = now
        if known.digest != digest or not known.lost_after:
            return None
        # by what it says itself: there were fewer hosts then, perhaps. An announcement may come early or late.
        return None if now > known.due - EVERY / 2 else known.revision

    def wrote(
        self, host_id: str, digest: bytes, revision: int, now: float, lost_after: int, *, apart: float = 1.0
    ) -> None:
        """It is written now. `apart`, above 0 and 1 at most: of the time that it may take the first time, so that
        thousands which came within a minute do not come within a minute for ever."""
        known, later = self._written.get(host_id), float(lost_after - MISSED)
        if known is None or not known.lost_after:
            later = EVERY + (later - EVERY) * apart
        self._written[host_id] = _Written(digest, revision, now + later, lost_after, now)
        if now - self._looked > EVERY:
            self._looked = now
            self._written = {host: one for host, one in self._written.items() if now - one.heard < FORGOTTEN}

    def within(self, host_id: str, now: float) -> int:
        """The seconds after which a host has to say again what it said last."""
        known = self._written.get(host_id)
        if known is None or not known.lost_after:
            return int(EVERY)
        return max(int(known.due - now), int(EVERY))

    def forget(self, host_id: str) -> None:
        """What is written of it is not what it says."""
        self._written.pop(host_id, None)


def digest_of(
    said: bytes, proof: bytes, whence: Iterable[str], forced: Mapping[str, str], services: bytes = b""
) -> bytes:
    """Of an announcement, and of all else that its record depends on: the certificate that announced it, the addresses
    it came from, the labels that are forced on the host, and the names of the cluster's services, which it may not
    have."""
    made = hashlib.blake2b(digest_size=16)
    for part in (said, proof, *(one.encode() for one in whence), b"", *_pairs(forced), b"", services):
        made.update(len(part).to_bytes(8, "big"))
        made.update(part)
    return made.digest()


def _pairs(labels: Mapping[str, str]) -> Iterable[bytes]:
    for name in sorted(labels):
        yield name.encode()
        yield labels[name].encode()
