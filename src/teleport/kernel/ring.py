"""Reads a ring in which the kernel puts records for us (BPF_MAP_TYPE_RINGBUF, Documentation/bpf/ringbuf.rst of Linux).

A page with the reader's position, which we write; a page with the writer's position; then the data, mapped twice in a
row, so that no record is ever in two pieces. A record has 8 bytes before it: its length, with two flags, and a place
that is no business of ours. Positions only grow; they count bytes.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from typing import Final

_BUSY: Final = 1 << 31  # still being written
_DISCARD: Final = 1 << 30
_LENGTH: Final = _DISCARD - 1


class Ring:
    """The reading end of one ring of `size` bytes (a power of 2, whole pages). `OSError` when it cannot be mapped."""

    def __init__(self, descriptor: int, size: int) -> None:
        page = mmap.PAGESIZE
        self._size = size
        self._ours = mmap.mmap(descriptor, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._theirs = mmap.mmap(descriptor, page + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        # Whole words, so that neither side sees half of a position.
        self._position = memoryview(self._ours)[:8].cast("Q")
        self._written = memoryview(self._theirs)[:8].cast("Q")

    def read(self) -> Iterator[bytes]:
        """The records that are there now; each is taken when the next one is asked for.

        What comes meanwhile is left for the next time: whoever writes faster than this reads must not hold it for ever.
        """
        page = mmap.PAGESIZE
        at, end = self._position[0], self._written[0]
        while at < end:
            start = page + at % self._size
            (head,) = struct.unpack_from("=I", self._theirs, start)
            if head & _BUSY:
                return
            length = head & _LENGTH
            record = b"" if head & _DISCARD else self._theirs[start + 8 : start + 8 + length]
            at += (length + 8 + 7) // 8 * 8
            self._position[0] = at
            if record:
                yield record

    def close(self) -> None:
        for view in (self._position, self._written):
            view.release()
        for mapping in (self._ours, self._theirs):
            mapping.close()
