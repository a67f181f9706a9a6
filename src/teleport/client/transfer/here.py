"""This machine's side of a file transfer.

What a host sends never leaves the folder that was named: its folders are walked by descriptor, no link in them is
followed, nothing is made that is neither a file nor a folder, and no set-user-ID bit survives (threat T49). A path that
the person typed is theirs, and links in it are followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from pathlib import Path

from teleport.client import system
from teleport.client.transfer.copying import Into, Item, Reading, Writing
from teleport.errors import BadRequest, NotFound, TeleportError
from teleport.wire.sftp_client import MOST, Attributes
from teleport.wire.transfer_names import last_name, safe_name

_NOTHING = os.stat_result((0,) * 10)


def _status(path: str, *, follow: bool) -> os.stat_result | None:
    try:
        return os.stat(path, follow_symlinks=follow)
    except OSError:
        return None


def _failure(error: OSError) -> TeleportError:
    if isinstance(error, FileNotFoundError):
        return NotFound("no such file or folder here", hint="check the path")
    if error.errno == getattr(os, "ELOOP", 40) or "symbolic link" in (error.strerror or ""):
        return BadRequest("is a symbolic link here, which is not followed", hint="remove the link, or copy elsewhere")
    return TeleportError((error.strerror or str(error)).lower(), hint="check the path and the room on this machine")


def _attributes(found: os.stat_result) -> Attributes:
    return Attributes(found.st_size, found.st_mode, max(0, int(found.st_atime)), max(0, int(found.st_mtime)))


class Here:
    """Both a source and a sink."""

    block = MOST

    def __init__(self) -> None:
        self._mask = os.umask(0o077)
        os.umask(self._mask)

    def limit(self) -> int:
        return 0

    def shown(self, path: str) -> str:
        return path

    def name(self, name: str) -> str:
        return safe_name(name, windows=os.sep == "\\")

    # --- as a source

    async def find(self, path: str) -> Sequence[Item]:
        try:
            found = os.stat(path)
        except OSError as error:
            raise _failure(error) from None
        name = last_name(path.replace("\\", "/") if os.sep == "\\" else path)
        return [Item(path, name, _attributes(found), ((found.st_dev, found.st_ino),))]

    async def children(self, folder: Item, note: Callable[[str], None]) -> AsyncIterator[Item]:
        try:
            names = sorted(os.listdir(folder.path))
        except OSError as error:
            raise _failure(error) from None
        for name in names:
            path = os.path.join(folder.path, name)
            try:
                found = os.stat(path)
            except OSError:  # a link to nothing: told when it is opened
                found = _NOTHING
            mark = (found.st_dev, found.st_ino)
            if stat.S_ISDIR(found.st_mode) and mark in folder.trail:
                note(path)
                continue
            yield Item(path, name, _attributes(found), (*folder.trail, mark))

    async def open(self, item: Item) -> Reading:
        try:
            descriptor = os.open(item.path, os.O_RDONLY | system.PLAIN)
        except OSError as error:
            raise _failure(error) from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise BadRequest("is no file any more", hint="copy it again")
        return _Reading(descriptor)

    # --- as a sink

    async def into(self, path: str) -> Into | None:
        found = _status(path, follow=True)
        if found is None or not stat.S_ISDIR(found.st_mode):
            return None
        try:
            return _Into(system.open_folder(Path(path)), self, 0)
        except OSError as error:
            raise _failure(error) from None

    async def make(self, path: str, mode: int) -> Into:
        try:
            os.mkdir(path, 0o700)
            return _Into(system.open_folder(Path(path)), self, mode)
        except OSError as error:
            raise _failure(error) from None

    async def file(self, path: str, mode: int) -> Writing:
        try:
            new = _status(path, follow=False) is None
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | system.PLAIN, 0o600)
        except OSError as error:
            raise _failure(error) from None
        return _Writing(descriptor, mode & ~self._mask if new else None, lambda times: os.utime(path, times))

    def masked(self, mode: int) -> int:
        return mode & ~self._mask


class _Reading:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    async def read(self, offset: int, size: int) -> bytes:
        try:
            return system.read_at(self._descriptor, size, offset)
        except OSError as error:
            raise _failure(error) from None

    async def close(self) -> None:
        os.close(self._descriptor)


class _Writing:
    """`mode` is that of a new file, None where it was there before."""

    def __init__(self, descriptor: int, mode: int | None, set_times: Callable[[tuple[int, int]], None]) -> None:
        self._descriptor = descriptor
        self._mode = mode
        self._set_times = set_times

    async def write(self, offset: int, data: bytes | memoryview) -> None:
        try:
            system.write_at(self._descriptor, data, offset)
        except OSError as error:
            raise _failure(error) from None

    async def finish(self, kept: Attributes | None) -> None:
        try:
            mode = kept.mode if kept is not None else self._mode
            if mode is not None and hasattr(os, "fchmod"):
                os.fchmod(self._descriptor, mode & 0o777)
        except OSError as error:
            raise _failure(error) from None
        finally:
            os.close(self._descriptor)
        if kept is not None and kept.modified is not None:
            try:
                self._set_times((kept.accessed or kept.modified, kept.modified))
            except OSError as error:
                raise _failure(error) from None

    async def abandon(self) -> None:
        os.close(self._descriptor)


class _Into:
    def __init__(self, folder: system.Folder, here: Here, mode: int) -> None:
        self._folder = folder
        self._here = here
        self._mode = mode  # of a new folder, 0 where it was there before

    async def folder(self, name: str, mode: int) -> Into:
        try:
            new = not self._folder.holds(name)
            return _Into(self._folder.inner(name, create=True), self._here, mode if new else 0)
        except OSError as error:
            raise _failure(error) from None

    async def file(self, name: str, mode: int) -> Writing:
        try:
            try:
                descriptor, new = self._folder.open(name, system.CREATE), True
            except FileExistsError:
                descriptor, new = self._folder.open(name, system.REWRITE), False
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise BadRequest("is something else than a file here", hint="remove it, or copy elsewhere")
        except OSError as error:
            raise _failure(error) from None
        return _Writing(
            descriptor, self._here.masked(mode) if new else None, lambda times: self._folder.set_times(name, times)
        )

    async def finish(self, kept: Attributes | None) -> None:
        try:
            mode = kept.mode if kept is not None else self._here.masked(self._mode) if self._mode else None
            with suppress(NotImplementedError):
                self._folder.finish(mode, None if kept is None else (kept.accessed or 0, kept.modified or 0))
        except OSError as error:
            raise _failure(error) from None
        finally:
            self._folder.close()
