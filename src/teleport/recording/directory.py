"""A folder of recordings in which no name can lead outside.

Every access goes through a descriptor of the folder itself, takes only names made from canonical UUIDs and one of our
suffixes, and follows no link. Folder 0700, files 0600.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

from teleport.errors import LimitExceeded, NotFound, TeleportError
from teleport.recording.format import canonical_name, canonical_uuid


class Suffix(StrEnum):
    """What a file in the folder is."""

    NEW = ".rec.new"  # without its header yet: nothing of the session has begun
    PART = ".rec.part"  # being written
    DONE = ".rec"
    TORN = ".torn"  # bytes that recovery cut off, kept for inspection
    INDEX = ".idx"  # what a stored recording showed, for searching; made anew when it is not there
    INDEX_NEW = ".idx.new"  # that text while it is made; its maker holds an flock
    OPEN = ".open"  # note of a session that runs and is not recorded here (`unrecorded`)
    AWAY = ".away"  # note that the recording was brought to S3: its last hash, by which its index is believed
    PARTS = ".parts"  # journal of the parts of a recording that is being brought to S3
    BROKEN = ".rec.broken"  # cannot be read at all; never tried again


MOST_KEPT = 64 * 1024 * 1024  # bytes of a disk that recordings leave to audit events ...
KEPT_PART = 20  # ... or this part of a small one


def reserve(size: int) -> int:
    """How many bytes of a file system of `size` bytes recordings leave to audit events."""
    return min(MOST_KEPT, size // KEPT_PART)


class RecordingDirectory:
    """Opens (and makes) `path`. Raises `TeleportError` when it cannot be used safely."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise TeleportError(
                f"the recordings folder {path} cannot be used: {error.strerror}",
                hint=f"make it a folder that only the service's user may enter: install -d -m 0700 {path}",
            ) from error

    def check_room(self, sid: str, what: str, *, part: int = 1, more: int = 0) -> None:
        """Raises `LimitExceeded` when what is free on this file system is kept for audit events.

        Recordings give way first: a disk that fills leaves room to put on record why sessions are refused. What has
        begun may use some of it: `part` 2 stands for half of what is kept. `more`: bytes that are about to be written.
        """
        found = os.statvfs(self.descriptor)
        free, kept = found.f_bavail * found.f_frsize, reserve(found.f_blocks * found.f_frsize) // part
        if free - more < kept:
            raise LimitExceeded(
                f"the recording of session {sid} cannot be {what}: {free >> 20} MiB are free, the last {kept >> 20} "
                "MiB are kept for audit events",
                hint=f"make room on the disk of {self.path} (df {self.path})",
            )

    def close(self) -> None:
        """Gives the descriptor back; the object is of no use afterwards."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    @contextmanager
    def locked(self, *, alone: bool) -> Iterator[None]:
        """Holds the folder's lock: writers share it while they make and lock a file, recovery takes it alone.

        So recovery never meets a file that exists but is not locked yet. Blocks; for worker threads.
        """
        # a descriptor of its own: locks belong to descriptors, and threads share ours
        own = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.descriptor)
        try:
            fcntl.flock(own, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            yield
        finally:
            os.close(own)

    def create(self, name: str) -> int:
        """A descriptor for a new file; `FileExistsError` when there is one already."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, 0o600, dir_fd=self.descriptor)

    def open(self, name: str, *, write: bool = False) -> int:
        """A descriptor of an existing regular file; `NotFound` when there is none, or something else has its name."""
        flags = os.O_RDWR if write else os.O_RDONLY
        try:
            # O_NONBLOCK: a pipe planted under the name must not make us wait for ever
            found = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=self.descriptor)
        except OSError as error:
            raise NotFound(
                f"recording {name} cannot be opened: {error.strerror}", hint="see `tctl recordings ls`"
            ) from error
        if not stat.S_ISREG(os.fstat(found).st_mode):
            os.close(found)
            raise NotFound(f"recording {name} is not a file", hint=f"remove it from {self.path}")
        return found

    def exists(self, name: str) -> bool:
        try:
            return stat.S_ISREG(os.stat(name, dir_fd=self.descriptor, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return False

    def same_file(self, name: str, descriptor: int) -> bool:
        """Whether `name` still is the file that `descriptor` has open."""
        try:
            named = os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(descriptor))

    def rename(self, old: str, new: str) -> None:
        """Gives `old` the name `new`, durably. `FileExistsError` rather than replacing anything."""
        os.link(old, new, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor, follow_symlinks=False)
        os.unlink(old, dir_fd=self.descriptor)
        self.sync()

    def replace(self, old: str, new: str) -> None:
        """Gives `old` the name `new`, durably, replacing what had it."""
        os.replace(old, new, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)
        self.sync()

    def remove(self, name: str) -> None:
        """Removes the file, durably, if it is there."""
        try:
            os.unlink(name, dir_fd=self.descriptor)
        except FileNotFoundError:
            return
        self.sync()

    def sync(self) -> None:
        """The names as they are now survive a power cut. `OSError`, as all else here raises, when it was closed: a
        daemon that ends may close it before the last session has begun."""
        if self.descriptor < 0:
            raise OSError(errno.EBADF, "the folder was closed")
        os.fsync(self.descriptor)

    def ids(self, suffix: Suffix) -> list[str]:
        """The session ids that have a file with `suffix`, sorted. Anything else in the folder is ignored."""
        return self._with(suffix, canonical_uuid)

    def names(self, suffix: Suffix) -> list[str]:
        """The names of stored recordings (`stored_name`) that have a file with `suffix`, sorted."""
        return self._with(suffix, canonical_name)

    def _with(self, suffix: Suffix, canonical: Callable[[str], str]) -> list[str]:
        found: list[str] = []
        for name in os.listdir(self.descriptor):
            stem = name.removesuffix(suffix)
            if stem == name:
                continue
            try:
                found.append(canonical(stem))
            except TeleportError:
                continue
        return sorted(found)


def stored_name(name: str, suffix: Suffix) -> str:
    """The name of a stored recording's file; `BadRequest` unless `name` is canonical."""
    return canonical_name(name) + suffix


def file_name(sid: str, suffix: Suffix) -> str:
    """The name of a session's file; `BadRequest` unless `sid` is a canonical UUID."""
    return canonical_uuid(sid) + suffix


def write_all(descriptor: int, pieces: list[bytes], offset: int) -> int:
    """Writes all pieces at `offset` and returns their length; `OSError` may leave part of them written."""
    views = [memoryview(piece) for piece in pieces if piece]
    start = offset
    while views:
        written = os.pwritev(descriptor, views[:512], offset)  # IOV_MAX is 1024
        offset += written
        while views and written >= len(views[0]):
            written -= len(views.pop(0))
        if written:
            views[0] = views[0][written:]
    return offset - start
