"""Files below `~/.tsh` (`TELEPORT_HOME`), which hold private keys.

Rules: folders are 0700, files 0600, both owned by whoever runs tsh; a file is replaced whole, by rename; below the home
no symbolic link is ever followed, whether in a folder's or in a file's place.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from teleport.client.system import CREATE, READ, Folder, belongs_to_us, is_private, make_private, open_folder
from teleport.errors import TeleportError

MAX_FILE = 1024 * 1024  # bytes; nothing that is kept here is larger
TRIES = 5  # to write a file whose folder is taken away by others


def home_path(environment: Mapping[str, str]) -> Path:
    """`TELEPORT_HOME`, else `~/.tsh`."""
    given = environment.get("TELEPORT_HOME", "")
    return Path(given).absolute() if given else default_path(environment)


def default_path(environment: Mapping[str, str]) -> Path:
    """`~/.tsh`, where programs look that nobody told otherwise."""
    return Path(environment.get("HOME") or Path.home()) / ".tsh"


class Home:
    """The folder. Paths are relative, as tuples of names."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, *names: str) -> Path:
        """The full path of a file, for programs that open it themselves."""
        return self.root.joinpath(*(_plain(name) for name in names))

    def read(self, *names: str, private: bool = False) -> bytes | None:
        """A file's content, None when there is none. A `private` one must not be readable by others.

        Raises `TeleportError` for what is no plain file of ours.
        """
        path = self.path(*names)
        try:
            with self._folder(names[:-1], create=False) as folder:
                file = folder.open(names[-1], READ)
                with open(file, "rb") as stream:
                    found = os.fstat(file)
                    if not stat.S_ISREG(found.st_mode):
                        raise TeleportError(f"{path} is not a plain file", hint="move it away, then tsh login")
                    if private and not is_private(found):
                        raise TeleportError(f"other people may read {path}", hint="tsh logout, then log in again")
                    data = stream.read(MAX_FILE + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _failed("read", path, error) from None
        if len(data) > MAX_FILE:
            raise TeleportError(
                f"{path} is larger than {MAX_FILE} bytes", hint="it is none of ours: move it away, then tsh login"
            )
        return data

    def write(self, data: bytes, *names: str) -> Path:
        """Replaces a file by one with mode 0600; makes the folders it lies in, anew when another tsh, which renews the
        login, takes one away meanwhile."""
        path = self.path(*names)
        try:
            for left in reversed(range(TRIES)):
                try:
                    self._write(data, names)
                    break
                except FileNotFoundError:
                    if not left:
                        raise
        except OSError as error:
            raise _failed("write", path, error) from None
        return path

    def _write(self, data: bytes, names: tuple[str, ...]) -> None:
        with self._folder(names[:-1], create=True) as folder:
            temporary = f".{os.urandom(8).hex()}.new"
            file = folder.open(temporary, CREATE)
            try:
                with open(file, "wb") as stream:
                    make_private(file)
                    stream.write(data)
                    stream.flush()
                    os.fsync(file)
                folder.rename(temporary, names[-1])
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    folder.unlink(temporary)
                raise

    def remove(self, *names: str) -> bool:
        """Removes a file, or a folder with all that is in it; whether there was one."""
        try:
            with self._folder(names[:-1], create=False) as folder:
                _remove_at(folder, _plain(names[-1]))
        except FileNotFoundError:
            return False
        except OSError as error:
            raise _failed("remove", self.path(*names), error) from None
        return True

    def names(self, *names: str) -> list[str]:
        """What lies in a folder, sorted; nothing when there is no such folder."""
        try:
            with self._folder(names, create=False) as folder:
                return sorted(folder.names())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _failed("read", self.path(*names), error) from None

    @contextmanager
    def _folder(self, names: tuple[str, ...], *, create: bool) -> Iterator[Folder]:
        if create:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        # the home itself may be reached by a link that its owner made; what lies below may not
        current = open_folder(self.root)
        try:
            self._check(current, self.root, create=create)
            for depth, name in enumerate(names):
                inner = current.inner(_plain(name), create=create)
                current.close()
                current = inner
                self._check(current, self.root.joinpath(*names[: depth + 1]), create=create)
            yield current
        finally:
            current.close()

    def _check(self, folder: Folder, path: Path, *, create: bool) -> None:
        found = folder.status()
        if not belongs_to_us(found):
            raise TeleportError(
                f"{path} belongs to another user (uid {found.st_uid})", hint="set TELEPORT_HOME to a folder of your own"
            )
        if create and found.st_mode & 0o077:
            folder.make_private()


def _plain(name: str) -> str:
    """`name` when it names a file in its folder and nothing else."""
    if not name or name in (".", "..") or "/" in name or "\0" in name or len(name.encode()) > 200:
        raise TeleportError(f"{name[:80]!r} cannot be the name of a file", hint="use another name")
    return name


def _remove_at(folder: Folder, name: str) -> None:
    try:
        folder.unlink(name)
        return
    except (IsADirectoryError, PermissionError) as error:  # what a folder gives differs between systems
        try:
            inner = folder.inner(name, create=False)
        except NotADirectoryError:
            raise error from None
    try:
        for entry in inner.names():
            _remove_at(inner, entry)
    finally:
        inner.close()
    folder.remove_folder(name)


def _failed(what: str, path: Path, error: OSError) -> TeleportError:
    if error.errno in (errno.ENOTDIR, errno.ELOOP):  # a link or a file stands where one of our folders or files belongs
        return TeleportError(
            f"cannot {what} {path}: there is a symbolic link in the way, and none is followed here",
            hint="remove it, or set TELEPORT_HOME to another folder",
        )
    return TeleportError(f"cannot {what} {path}: {error.strerror}", hint="TELEPORT_HOME names another folder")
