"""A file that only grows by whole lines, durably.

A write that fails is cut off again, so that the file never holds a line of which its writer was told that it is not
there; when even that fails the file is given up. After a crash the last line may be torn; `cut_torn_line` removes it
(nobody was told that it is durable).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from teleport.errors import TeleportError


def sync_directory(path: Path) -> None:
    """Makes names created, renamed or removed in `path` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path, mode: int) -> None:
    """Makes `path` and what leads to it, durably, the last one with `mode`."""
    if path.is_dir():
        return
    make_directory(path.parent, mode)
    path.mkdir(mode=mode, exist_ok=True)
    sync_directory(path.parent)


def whole_lines(path: Path) -> int:
    """How many bytes of the file are whole lines."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - 65536)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
    return 0


def cut_torn_line(path: Path) -> int:
    """Cuts what follows the last newline; the file's length after it."""
    length = whole_lines(path)
    if length != path.stat().st_size:
        os.truncate(path, length)
    return length


class AppendLog:
    """One such file, opened for writing by one writer."""

    def __init__(self, path: Path, mode: int) -> None:
        """Opens or makes the file; `TeleportError` when that fails. A torn last line is cut."""
        self.path = path
        try:
            new = not path.exists()
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            self._descriptor = os.open(path, flags, mode)
            self.length = 0 if new else cut_torn_line(path)
            if new:
                sync_directory(path.parent)
        except OSError as error:
            raise _problem(path, error) from error

    def append(self, lines: Sequence[bytes]) -> None:
        """All `lines` (without newlines) durably at the end, or none and a `TeleportError`."""
        block = b"\n".join([*lines, b""])
        view = memoryview(block)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
            os.fdatasync(self._descriptor)
        except OSError as error:
            try:
                os.ftruncate(self._descriptor, self.length)
            except OSError:
                self.close()  # every later append fails on the closed descriptor: loudly
            raise _problem(self.path, error) from error
        self.length += len(block)

    def close(self) -> None:
        """Closes the file; more than once is fine."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _problem(path: Path, error: OSError) -> TeleportError:
    return TeleportError(
        f"the audit log cannot be written to {path}: {error.strerror or error}",
        hint="free space on that file system or repair it; operations that must be audited are refused until then",
    )
