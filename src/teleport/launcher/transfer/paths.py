"""Names of files turned into things that are held open, and their real paths (threats T49).

What is judged is what the kernel says of an open descriptor (`/proc/self/fd`, proc(5)); what is then used is that
descriptor, or a name directly in a folder that is held open. So no link that somebody swaps in between leads elsewhere.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from teleport.launcher import processes

PIN = os.O_PATH | os.O_CLOEXEC
_PLAIN = os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK  # a FIFO or a device never holds this process up
_MOST_LINKS = 40
_DELETED = " (deleted)"


def through(descriptor: int) -> str:
    """A name for what a descriptor holds."""
    return f"/proc/self/fd/{descriptor}"


def real_path(descriptor: int) -> str:
    """Where what is open lies; `FileNotFoundError` when it lies nowhere any more."""
    path = os.readlink(through(descriptor))
    if path.endswith(_DELETED):
        try:
            still = os.path.samestat(os.stat(path), os.fstat(descriptor))
        except OSError:
            still = False
        if not still:
            raise FileNotFoundError(errno.ENOENT, "it was removed")
    return path


def own(descriptor: int, path: str) -> bool:
    """Whether what is open is about this very process: its memory, its descriptors, on whichever procfs."""
    return str(os.getpid()) in path.split("/") and processes.on_procfs(descriptor)


def not_of_processes(descriptor: int, real: str) -> None:
    """`PermissionError` for what lies on procfs: through a process's memory there, files become commands."""
    if real == "/proc" or real.startswith("/proc/") or processes.on_procfs(descriptor):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


@dataclass(frozen=True, slots=True)
class Place:
    """A name in a folder that is held open."""

    folder: int
    name: bytes
    path: str  # the real path of the folder, and the name

    def status(self) -> os.stat_result:
        """Of the name itself; a link is not followed."""
        return os.stat(self.name, dir_fd=self.folder, follow_symlinks=False)


@contextmanager
def pinned(path: bytes, *, follow: bool = True) -> Iterator[tuple[int, str]]:
    """What is at `path`, held open without a right to read it, and its real path."""
    descriptor = os.open(path or b".", PIN if follow else PIN | os.O_NOFOLLOW)
    try:
        real = real_path(descriptor)
        if own(descriptor, real):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        yield descriptor, real
    finally:
        os.close(descriptor)


@contextmanager
def place(path: bytes) -> Iterator[Place]:
    """The folder of `path`, held open, and the last name in it, which need not exist and is not followed."""
    parent, name = os.path.split(path.rstrip(b"/") or path)
    if name in (b"", b".", b".."):  # the folder by another name: its own name is what counts
        with pinned(path) as (_, whole):
            parent, name = os.path.split(os.fsencode(whole))
        name = name or b"."
    with pinned(parent) as (folder, real):
        yield Place(folder, name, os.path.join(real, os.fsdecode(name)) if name != b"." else real)


def presumed(path: bytes) -> str:
    """Where something that is not there would be: the real path of what is there of it, and the rest by its name."""
    head, rest = path or b".", b""
    while True:
        try:
            with pinned(head) as (_, real):
                return os.path.normpath(os.path.join(real, os.fsdecode(rest)))
        except OSError:
            parent, name = os.path.split(head.rstrip(b"/"))
            if not name:
                raise
            head, rest = parent or b".", os.path.join(name, rest)


def open_file(path: bytes, flags: int, mode: int, judge: Callable[[str], int] | None) -> tuple[int, str, int]:
    """Opens a file: (descriptor, real path, what `judge` returned).

    `judge` is asked about the real path before anything is read, created or cut short; of what is not there it is the
    presumed one. None: there is no need to.
    """
    if judge is None:
        descriptor = os.open(path, flags | _PLAIN, mode)
        return _usable(descriptor, 0)
    for _ in range(_MOST_LINKS):
        try:
            with pinned(path) as (pin, real):
                most = judge(real)
                _regular(pin)
                if flags & os.O_EXCL and flags & os.O_CREAT:
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
                return _usable(os.open(through(pin), flags & ~(os.O_CREAT | os.O_EXCL) | _PLAIN), most)
        except OSError as error:
            gone = isinstance(error, FileNotFoundError) and os.path.isdir(os.path.dirname(path) or b".")
            if not gone or not flags & os.O_CREAT:
                judge(presumed(path))  # who may not have it does not learn whether it is there
                raise
        with place(path) as spot:
            try:
                link = os.readlink(spot.name, dir_fd=spot.folder)
            except OSError:
                most = judge(spot.path)
                descriptor = os.open(spot.name, flags | _PLAIN | os.O_NOFOLLOW, mode, dir_fd=spot.folder)
                try:
                    _regular(descriptor)
                except BaseException:
                    os.close(descriptor)
                    raise
                return _usable(descriptor, most)
            if flags & os.O_EXCL:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            path = os.path.join(os.fsencode(os.path.dirname(spot.path)), link)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _regular(descriptor: int) -> None:
    """`PermissionError` for a device, which reaches what its path says nothing of."""
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise PermissionError(errno.EPERM, "it is no regular file, and your roles limit transfers")


def _usable(descriptor: int, most: int) -> tuple[int, str, int]:
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            raise OSError(errno.EINVAL, "it is neither a file nor a device")
        real = real_path(descriptor)
        not_of_processes(descriptor, real)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, real, most
