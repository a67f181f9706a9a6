"""Many writes in several transactions, for what need not happen at once: each part fits what every engine takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from teleport.backend.interface import MAX_VALUE, MAX_WRITES, PutOp, Write

PART_BYTES: Final = MAX_VALUE  # of keys and values; a group that has more is a part of its own


def size_of(write: Write) -> int:
    """Roughly what it costs in a request, in bytes."""
    return 64 + len(write.key.encode()) + (len(write.value) if isinstance(write, PutOp) else 0)


def in_parts(
    groups: Iterable[Sequence[Write]], *, most: int = MAX_WRITES, most_bytes: int = PART_BYTES
) -> Iterator[list[Write]]:
    """The writes in order, in few parts; what is in one group is written together."""
    part: list[Write] = []
    size = 0
    for group in groups:
        more = sum(map(size_of, group))
        if part and (len(part) + len(group) > most or size + more > most_bytes):
            yield part
            part, size = [], 0
        part += group
        size += more
    if part:
        yield part
