"""Writing long runs of bytes past the system's cache.

A bulk transfer is written once and read once, much later. Through the cache each page is made, copied to, written back
and dropped, which costs the processor more than everything else about a recording. `O_DIRECT` writes from our memory,
in whole blocks at offsets that are multiples of a block (4,096 bytes: devices ask for that or for 512).

Rules: at any moment all that was written is in the file, followed by fewer zero bytes than a block has; where the file
system cannot write in this way, nothing is lost and `write` says so.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections.abc import Sequence

from teleport.recording.format import BLOCK

_SPACE = 2304 * 1024  # bytes: an ordinary batch goes in one write
_O_DIRECT: int = getattr(os, "O_DIRECT", 0)  # Linux has it
_NOT_SO = (errno.EINVAL, errno.EOPNOTSUPP)  # what file systems answer that have no such writes, or larger blocks


class _Space(threading.local):
    """Memory that begins where a page does."""

    def __init__(self) -> None:
        self.memory = memoryview(mmap.mmap(-1, _SPACE))


_space = _Space()


class DirectWriter:
    """Writes to one file. Its caller writes one run at a time, and to no part of the file at the same time."""

    def __init__(self, descriptor: int) -> None:
        """Writes to the file that `descriptor` has open, through a descriptor of its own."""
        self._file = descriptor
        self._descriptor = -1
        self._tried = not _O_DIRECT
        self._end = -1  # where the last run ended ...
        self._tail = b""  # ... and what its last block begins with

    def write(self, pieces: Sequence[bytes], offset: int) -> int | None:
        """Writes all pieces at `offset` and returns their length, or None when that is not possible here.

        The block in which they end is filled up with zeros: call it where the file ends. `OSError` of the disk, and
        None, may leave part of them written.
        """
        if not self._tried:
            self._tried = True
            self._descriptor = self._open()
        if self._descriptor < 0:
            return None
        try:
            return self._write(pieces, offset)
        except OSError as error:
            self._end = -1
            if error.errno not in _NOT_SO:
                raise
            self.close()
            return None

    def _open(self) -> int:
        try:
            return os.open(f"/proc/self/fd/{self._file}", os.O_WRONLY | os.O_CLOEXEC | _O_DIRECT)
        except OSError:
            return -1

    def _write(self, pieces: Sequence[bytes], offset: int) -> int:
        space = _space.memory
        filled = offset % BLOCK
        at = offset - filled
        if filled:
            space[:filled] = self._tail if offset == self._end else os.pread(self._file, filled, at)
        total = 0
        for piece in pieces:
            total += len(piece)
            rest = memoryview(piece)
            while len(rest) > len(space) - filled:
                room = len(space) - filled
                space[filled:] = rest[:room]
                self._put(space, at)
                at, filled, rest = at + len(space), 0, rest[room:]
            space[filled : filled + len(rest)] = rest
            filled += len(rest)
        padding = -filled % BLOCK
        space[filled : filled + padding] = bytes(padding)
        self._put(space[: filled + padding], at)
        self._end = offset + total
        self._tail = bytes(space[filled - filled % BLOCK : filled])
        return total

    def _put(self, blocks: memoryview, at: int) -> None:
        while blocks:
            written = os.pwrite(self._descriptor, blocks, at)
            if written % BLOCK or not written:
                raise OSError(errno.EIO, "a write ended within a block")
            at, blocks = at + written, blocks[written:]

    def changed(self) -> None:
        """What was written was changed in place by somebody else: its last block is read anew."""
        self._end = -1

    def close(self) -> None:
        """Gives the descriptor back; then `write` returns None."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
