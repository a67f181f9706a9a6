"""What tsh needs of the operating system and only some have: the one place that imports what POSIX alone knows.

Elsewhere (Windows) the same is done with what there is, or said to be missing: folders are walked by path instead of by
descriptor, input is read by a thread, and an interactive terminal is left to the system's `ssh` (`HAS_TERMINAL`).
Files are private there by the access list that they inherit from the person's own folder; modes say nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio

termios: Any
tty: Any
try:
    import termios
    import tty
except ImportError:
    termios = tty = None

HAS_TERMINAL = termios is not None
"""Whether this program can put a terminal into the mode that a remote shell needs."""
_BY_DESCRIPTOR = os.open in os.supports_dir_fd and hasattr(os, "O_DIRECTORY") and hasattr(os, "O_NOFOLLOW")
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_COMMON = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOINHERIT", 0) | getattr(os, "O_BINARY", 0)
READ = os.O_RDONLY | _NO_FOLLOW | getattr(os, "O_NONBLOCK", 0) | _COMMON
CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW | _COMMON
REWRITE = os.O_WRONLY | os.O_TRUNC | _NO_FOLLOW | getattr(os, "O_NONBLOCK", 0) | _COMMON
PLAIN = getattr(os, "O_NONBLOCK", 0) | _COMMON  # for paths that the person typed


def make_private(descriptor: int) -> None:
    """Mode 0600, where modes mean anything."""
    if hasattr(os, "fchmod"):
        os.fchmod(descriptor, 0o600)


def is_private(found: os.stat_result) -> bool:
    """Whether nobody else may read a file, as far as its mode and owner say."""
    return not hasattr(os, "geteuid") or (found.st_mode & 0o077 == 0 and found.st_uid == os.geteuid())


def belongs_to_us(found: os.stat_result) -> bool:
    """Whether whoever runs this owns it; true where owners are not told by number."""
    return not hasattr(os, "geteuid") or found.st_uid == os.geteuid()


# --- folders


class Folder(Protocol):
    """An open folder; names are of what lies directly in it. Raises `OSError`; no link is followed."""

    def status(self) -> os.stat_result: ...

    def make_private(self) -> None: ...

    def inner(self, name: str, *, create: bool) -> Folder: ...

    def open(self, name: str, flags: int) -> int: ...

    def rename(self, old: str, new: str) -> None: ...

    def unlink(self, name: str) -> None: ...

    def remove_folder(self, name: str) -> None: ...

    def names(self) -> list[str]: ...

    def holds(self, name: str) -> bool: ...

    def set_times(self, name: str, times: tuple[int, int]) -> None: ...

    def finish(self, mode: int | None, times: tuple[int, int] | None) -> None: ...

    def close(self) -> None: ...


def open_folder(path: Path) -> Folder:
    """The folder at `path`, which may be a link."""
    if not _BY_DESCRIPTOR:
        if not path.is_dir():
            raise FileNotFoundError(errno.ENOENT, "No such folder", str(path))
        return _PathFolder(path)
    return _DescriptorFolder(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))


class _DescriptorFolder:
    """By descriptor: what is checked is what is used, whatever is renamed meanwhile."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def status(self) -> os.stat_result:
        return os.fstat(self._descriptor)

    def make_private(self) -> None:
        os.fchmod(self._descriptor, 0o700)

    def inner(self, name: str, *, create: bool) -> Folder:
        if create:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=self._descriptor)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        return _DescriptorFolder(os.open(name, flags, dir_fd=self._descriptor))

    def open(self, name: str, flags: int) -> int:
        return os.open(name, flags, 0o600, dir_fd=self._descriptor)

    def rename(self, old: str, new: str) -> None:
        os.rename(old, new, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)

    def unlink(self, name: str) -> None:
        os.unlink(name, dir_fd=self._descriptor)

    def remove_folder(self, name: str) -> None:
        os.rmdir(name, dir_fd=self._descriptor)

    def names(self) -> list[str]:
        return os.listdir(self._descriptor)

    def holds(self, name: str) -> bool:
        try:
            os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def set_times(self, name: str, times: tuple[int, int]) -> None:
        os.utime(name, times, dir_fd=self._descriptor, follow_symlinks=False)

    def finish(self, mode: int | None, times: tuple[int, int] | None) -> None:
        if mode is not None:
            os.fchmod(self._descriptor, mode & 0o777)
        if times is not None:
            os.utime(self._descriptor, times)

    def close(self) -> None:
        os.close(self._descriptor)


class _PathFolder:
    """By path, where folders have no descriptors. The folder is the person's own, so nobody swaps what lies in it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _at(self, name: str) -> Path:
        path = self._path / name
        if path.is_symlink():
            raise OSError(errno.ELOOP, "Too many levels of symbolic links", str(path))
        return path

    def status(self) -> os.stat_result:
        return self._path.stat()

    def make_private(self) -> None:
        self._path.chmod(0o700)

    def inner(self, name: str, *, create: bool) -> Folder:
        path = self._at(name)
        if create:
            path.mkdir(mode=0o700, exist_ok=True)
        elif not path.exists():
            raise FileNotFoundError(errno.ENOENT, "No such folder", str(path))
        if not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "Not a folder", str(path))
        return _PathFolder(path)

    def open(self, name: str, flags: int) -> int:
        return os.open(self._at(name), flags, 0o600)

    def rename(self, old: str, new: str) -> None:
        os.replace(self._path / old, self._path / new)

    def unlink(self, name: str) -> None:
        path = self._path / name
        if path.is_dir() and not path.is_symlink():
            raise IsADirectoryError(errno.EISDIR, "Is a folder", str(path))
        path.unlink()

    def remove_folder(self, name: str) -> None:
        self._at(name).rmdir()

    def names(self) -> list[str]:
        return os.listdir(self._path)

    def holds(self, name: str) -> bool:
        return os.path.lexists(self._path / name)

    def set_times(self, name: str, times: tuple[int, int]) -> None:
        os.utime(self._at(name), times)

    def finish(self, mode: int | None, times: tuple[int, int] | None) -> None:
        if times is not None:
            os.utime(self._path, times)

    def close(self) -> None:
        """Nothing is held."""


def read_at(descriptor: int, size: int, offset: int) -> bytes:
    """`size` bytes at `offset`, fewer at the end."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, size, offset)
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.read(descriptor, size)


def write_at(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """All of `data` at `offset`."""
    view = memoryview(data)
    while view:
        if hasattr(os, "pwrite"):
            done = os.pwrite(descriptor, view, offset)
        else:
            os.lseek(descriptor, offset, os.SEEK_SET)
            done = os.write(descriptor, view)
        view, offset = view[done:], offset + done


# --- signals and input


def on_signals(loop: asyncio.AbstractEventLoop, names: tuple[str, ...], call: Callable[[], object]) -> None:
    """Calls `call` in the loop when one of the signals comes; those that this system does not have never do."""
    import signal

    for name in names:
        number = getattr(signal, name, None)
        if number is None:
            continue
        try:
            loop.add_signal_handler(number, call)
        except NotImplementedError:  # loops of Windows
            signal.signal(number, lambda _number, _frame: loop.call_soon_threadsafe(call))


def become(arguments: list[str]) -> int:
    """Goes on as another program; where a process cannot become another one, runs it and gives its status."""
    if os.name == "posix":
        os.execvp(arguments[0], arguments)  # noqa: S606 (a list, no shell)
    import subprocess

    return subprocess.run(arguments, check=False).returncode


def suspend() -> None:
    """Stops this program, as Ctrl-Z does, until its shell continues it."""
    import signal

    os.kill(os.getpid(), signal.SIGTSTP)


def has_to_be_waited_for(descriptor: int) -> bool:
    """Whether reading may wait for somebody: pipes, sockets and terminals; files and what is closed never do."""
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(descriptor)


async def readable(descriptor: int) -> None:
    """Returns when `descriptor` can be read, where the loop can tell."""
    import asyncio

    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(descriptor, _set, ready)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


def _set(ready: asyncio.Future[Any], value: object = None) -> None:
    if not ready.done():
        ready.set_result(value)


LOOPS_TELL = _BY_DESCRIPTOR
"""Whether a loop can wait for pipes and terminals; else `read_in_thread` waits."""


async def read_in_thread(descriptor: int, size: int) -> bytes:
    """Reads in a thread of its own, which ends with the program and is not waited for."""
    import asyncio
    import threading

    loop = asyncio.get_running_loop()
    done: asyncio.Future[bytes] = loop.create_future()

    def work() -> None:
        try:
            data = os.read(descriptor, size)
        except OSError:
            data = b""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody wants it any more
            loop.call_soon_threadsafe(_set, done, data)

    threading.Thread(target=work, name="input", daemon=True).start()
    return await done
