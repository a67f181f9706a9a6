"""The SHA-256 of what moved: streamed while it goes by in order, else of the whole file once it is closed.

Large files are hashed by a thread of their own, beside the moving (hashlib lets go of the interpreter's lock): at most
`_WAITING` pieces of a file wait for it, then the moving waits. Its hash is complete before the file counts as closed.
"""

from __future__ import annotations

import hashlib
import os
import queue
import stat
import threading
from typing import Protocol

from teleport.launcher.transfer.paths import through

MOST_HASHED = 64 * 1024 * 1024  # bytes of a file that is read again for its hash
_PIECE = 1024 * 1024
_INLINE = 1024 * 1024  # bytes of a file that are hashed as they go by: most files are no larger
_WAITING = 16  # pieces, of at most 256 KiB each
_MOST_THREADS = 8  # of all files; further ones are hashed as they go by

_threads = 0  # begun and not ended; only the thread that moves counts


class Digest(Protocol):
    """What hashlib makes."""

    def update(self, piece: bytes, /) -> None:
        """Takes more."""


class Hashing:
    """A thread that hashes what is put."""

    def __init__(self, digest: Digest) -> None:
        self._digest = digest
        self._pieces: queue.Queue[bytes | None] = queue.Queue(_WAITING)
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="hashing", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (piece := self._pieces.get()) is not None:
            try:
                self._digest.update(piece)
            except BaseException as error:  # what puts must not wait for ever
                self._failed = error

    def put(self, piece: bytes) -> None:
        """Waits while much is left to hash."""
        self._pieces.put(piece)

    def end(self) -> None:
        """Returns once everything is hashed."""
        self._pieces.put(None)
        self._thread.join()
        if self._failed is not None:
            raise self._failed


class Passing:
    """Bytes of one open file that go by, one way."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._beside: Hashing | None = None
        self._at = 0
        self._in_order = True
        self.size = 0  # bytes moved

    def add(self, offset: int, data: bytes | memoryview) -> None:
        """`data` was read from, or written to, `offset`."""
        self.size += len(data)
        if not self._in_order or not data:
            return
        if offset == self._at:
            self._at += len(data)
            if self._beside is None and self._at > _INLINE:
                self._begin_beside()
            if self._beside is not None:
                self._beside.put(bytes(data))  # a copy: the caller's memory is used again
            else:
                self._hash.update(data)
        else:
            self._in_order = False

    def _begin_beside(self) -> None:
        global _threads
        if _threads < _MOST_THREADS:
            try:
                self._beside = Hashing(self._hash)
            except RuntimeError:
                return  # the account may have no more threads: it is hashed here
            _threads += 1

    def _end_beside(self) -> None:
        global _threads
        if self._beside is not None:
            beside, self._beside = self._beside, None
            _threads -= 1
            beside.end()

    def spoiled(self) -> None:
        """The file was changed in another way."""
        self._in_order = False

    def result(self, descriptor: int, *, written: bool, hurry: bool = False) -> tuple[str, str]:
        """(hash in hex, why there is none or of what it is). `hurry`: nothing is read again."""
        self._end_beside()
        found = os.fstat(descriptor)
        size = found.st_size if stat.S_ISREG(found.st_mode) else self._at
        if self._in_order and (not written or self._at == size):
            return self._hash.hexdigest(), ""
        if hurry:
            return "", "not moved in order, and ended before it was closed"
        if not written and self.size < size:
            return "", "only parts of it were read, not in order"
        if size > MOST_HASHED:
            return "", f"not moved in order, and larger than {MOST_HASHED} bytes"
        try:
            return _whole(descriptor), "of the whole file when it was closed: not moved in order"
        except OSError as error:
            return "", f"not moved in order, and not readable: {error.strerror}"


def _whole(descriptor: int) -> str:
    again = os.open(through(descriptor), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        found, at = hashlib.sha256(), 0
        while at < MOST_HASHED and (data := os.pread(again, _PIECE, at)):
            found.update(data)
            at += len(data)
        return found.hexdigest()
    finally:
        os.close(again)
