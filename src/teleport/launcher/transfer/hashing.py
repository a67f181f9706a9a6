"""The SHA-256 of what moved: streamed while it goes by in order, else of the whole file once it is closed."""

from __future__ import annotations

import hashlib
import os
import stat

from teleport.launcher.transfer.paths import through

MOST_HASHED = 64 * 1024 * 1024  # bytes of a file that is read again for its hash
_PIECE = 1024 * 1024


class Passing:
    """Bytes of one open file that go by, one way."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._at = 0
        self._in_order = True
        self.size = 0  # bytes moved

    def add(self, offset: int, data: bytes | memoryview) -> None:
        """`data` was read from, or written to, `offset`."""
        self.size += len(data)
        if not self._in_order or not data:
            return
        if offset == self._at:
            self._hash.update(data)
            self._at += len(data)
        else:
            self._in_order = False

    def spoiled(self) -> None:
        """The file was changed in another way."""
        self._in_order = False

    def result(self, descriptor: int, *, written: bool, hurry: bool = False) -> tuple[str, str]:
        """(hash in hex, why there is none or of what it is). `hurry`: nothing is read again."""
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
