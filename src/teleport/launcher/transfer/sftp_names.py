"""Requests about names and attributes: look, list, set, remove, rename, make, link."""

from __future__ import annotations

import errno
import functools
import grp
import os
import pwd
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import TypeVar

import teleport.wire.sftp as wire
from teleport.launcher import processes
from teleport.launcher.transfer.handles import OpenFile, OpenFolder
from teleport.launcher.transfer.paths import PIN, Place, not_of_processes, pinned, place, presumed, through
from teleport.launcher.transfer.sftp_work import Work
from teleport.wire.sftp import Attributes, Packet, Reader, Status

_T = TypeVar("_T")
_ENTRIES = 100  # to one reply
_HALF_A_YEAR = 182 * 86_400


class NameRequests:
    """Serves them; each returns the reply, or nothing where it follows later."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._control = work.control
        self.table: dict[int, Callable[[int, Reader], bytes]] = {
            Packet.STAT: self._stat,
            Packet.LSTAT: self._lstat,
            Packet.FSTAT: self._fstat,
            Packet.SETSTAT: self._setstat,
            Packet.FSETSTAT: self._fsetstat,
            Packet.OPENDIR: self._opendir,
            Packet.READDIR: self._readdir,
            Packet.REMOVE: self._remove,
            Packet.MKDIR: self._mkdir,
            Packet.RMDIR: self._rmdir,
            Packet.REALPATH: self._realpath,
            Packet.RENAME: self._rename,
            Packet.READLINK: self._readlink,
            Packet.SYMLINK: self._symlink,
        }

    # looking

    def _looks(self, action: str, path: bytes) -> bool:
        """Whether it has to be asked what may be seen; then a refusal is told as `action`."""
        if self._control.asks and self._control.looks:
            self._work.trying(action, self._work.shown(path), direction="look")
            return True
        return False

    def _seen(self, real: str) -> None:
        """`Refused` unless it may be seen. What fails from now on is no refusal, and not told."""
        attempt = self._work.attempt
        if attempt is not None:
            self._work.trying(attempt.action, real, direction="look")
            self._control.look(real)
            self._work.attempt = None

    @contextmanager
    def seen(self, action: str, path: bytes) -> Iterator[tuple[int, str]]:
        """What may be seen, held open; who may not see it does not learn whether it is there."""
        asks = self._looks(action, path)
        try:
            with pinned(path) as (descriptor, real):
                if asks:
                    self._seen(real)
                yield descriptor, real
        except OSError:
            if asks and self._work.attempt is not None:
                self._seen(presumed(path))
            self._work.attempt = None
            raise

    @contextmanager
    def _there(self, path: bytes, held: AbstractContextManager[_T]) -> Iterator[_T]:
        """What is to be changed, held open; who may not change it does not learn whether it is there."""
        with ExitStack() as stack:
            try:
                found = stack.enter_context(held)
            except OSError:
                if self._control.asks:
                    self._control.ask(("upload", presumed(path), 0))
                raise
            yield found

    def _stat(self, number: int, reader: Reader) -> bytes:
        path = reader.path()
        if not self._control.asks or not self._control.looks:
            return wire.attrs(number, self._work.attributes(os.stat(path or b".")))
        with self.seen("stat", path) as (descriptor, _):
            return wire.attrs(number, self._work.attributes(os.fstat(descriptor)))

    def _lstat(self, number: int, reader: Reader) -> bytes:
        path = reader.path()
        if not self._looks("stat", path):
            return wire.attrs(number, self._work.attributes(os.lstat(path or b".")))
        with self._seen_place(path) as spot:
            return wire.attrs(number, self._work.attributes(spot.status()))

    @contextmanager
    def _seen_place(self, path: bytes) -> Iterator[Place]:
        try:
            with place(path) as spot:
                self._seen(spot.path)
                yield spot
        except OSError:
            if self._work.attempt is not None:
                self._seen(presumed(path))
            self._work.attempt = None
            raise

    def _fstat(self, number: int, reader: Reader) -> bytes:
        return wire.attrs(number, self._work.attributes(os.fstat(self._work.handles.any(reader.string()).descriptor)))

    def _opendir(self, number: int, reader: Reader) -> bytes:
        path = reader.path()
        self._work.handles.room()
        with self.seen("list", path) as (descriptor, real):
            opened = os.open(through(descriptor), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return wire.handle(number, self._work.handles.add(OpenFolder(opened, real)))

    def _readdir(self, number: int, reader: Reader) -> bytes:
        folder = self._work.handles.folder(reader.string())
        found: list[tuple[bytes, bytes, Attributes]] = []
        for name in folder.left:
            try:
                status = os.stat(name, dir_fd=folder.descriptor, follow_symlinks=False)
            except OSError:
                continue  # it went meanwhile
            found.append((name, long_line(name, status), self._work.attributes(status)))
            if len(found) >= _ENTRIES:
                break
        return wire.names(number, found) if found else wire.status(number, Status.EOF)

    def _realpath(self, number: int, reader: Reader) -> bytes:
        path = reader.path() or b"."
        if self._control.asks and self._control.looks:
            # Without a word about what is there: where links lead is seen by who may look at them.
            whole = os.path.normpath(os.path.join(os.fsencode(self._work.home), path))
        else:
            whole = os.path.realpath(path)
            parent = os.path.dirname(whole)
            if not os.path.isdir(parent):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return wire.names(number, [(whole, whole, Attributes())])

    def _readlink(self, number: int, reader: Reader) -> bytes:
        path = reader.path()
        if not self._looks("stat", path):
            target = os.readlink(path or b".")
        else:
            with self._seen_place(path) as spot:
                target = os.readlink(spot.name, dir_fd=spot.folder)
        return wire.names(number, [(target, target, Attributes())])

    # changing

    def _setstat(self, number: int, reader: Reader) -> bytes:
        path, attributes = reader.path(), reader.attributes()
        self._work.trying("setstat", self._work.shown(path), str(attributes))
        with self._there(path, pinned(path)) as (descriptor, real):
            self._work.trying("setstat", real, str(attributes))
            _within(self._control.ask(("upload", real, attributes.size or 0)), attributes)
            not_of_processes(descriptor, real)
            set_attributes(through(descriptor), attributes)
        return self._work.did(number)

    def _fsetstat(self, number: int, reader: Reader) -> bytes:
        opened, attributes = self._work.handles.any(reader.string()), reader.attributes()
        if isinstance(opened, OpenFile) and opened.written is not None:
            # Told with what is written, when the file is closed.
            if attributes.size is not None:
                opened.within(attributes.size)
                if attributes.size != opened.written.size:
                    opened.written.spoiled()
            set_attributes(opened.descriptor, attributes)
            if len(opened.changed) < 16:
                opened.changed.append(str(attributes))
            return wire.status(number, Status.OK)
        self._work.trying("setstat", opened.path, str(attributes))
        _within(self._control.ask(("upload", opened.path, attributes.size or 0)), attributes)
        set_attributes(opened.descriptor, attributes)
        return self._work.did(number)

    def lsetstat(self, number: int, reader: Reader) -> bytes:
        """As `_setstat`, of a link itself (lsetstat@openssh.com)."""
        path, attributes = reader.path(), reader.attributes()
        self._work.trying("setstat", self._work.shown(path), str(attributes))
        with self._there(path, place(path)) as spot:
            self._work.trying("setstat", spot.path, str(attributes))
            _within(self._control.ask(("upload", spot.path, attributes.size or 0)), attributes)
            not_of_processes(spot.folder, spot.path)
            pin = os.open(spot.name, PIN | os.O_NOFOLLOW, dir_fd=spot.folder)
            try:
                if not stat.S_ISLNK(os.fstat(pin).st_mode):
                    set_attributes(through(pin), attributes)
                else:
                    _set_link(spot, attributes)
            finally:
                os.close(pin)
        return self._work.did(number)

    def _remove(self, number: int, reader: Reader) -> bytes:
        return self._unlink(number, reader, "remove")

    def _rmdir(self, number: int, reader: Reader) -> bytes:
        return self._unlink(number, reader, "rmdir")

    def _unlink(self, number: int, reader: Reader, action: str) -> bytes:
        path = reader.path()
        self._work.trying(action, self._work.shown(path))
        with self._there(path, place(path)) as spot:
            self._work.trying(action, spot.path)
            self._control.ask(("upload", spot.path, 0))
            if action == "rmdir":
                os.rmdir(spot.name, dir_fd=spot.folder)
            else:
                os.unlink(spot.name, dir_fd=spot.folder)
        return self._work.did(number)

    def _mkdir(self, number: int, reader: Reader) -> bytes:
        path, attributes = reader.path(), reader.attributes()
        self._work.trying("mkdir", self._work.shown(path))
        with self._there(path, place(path)) as spot:
            self._work.trying("mkdir", spot.path)
            self._control.ask(("upload", spot.path, 0))
            mode = 0o777 if attributes.permissions is None else attributes.permissions & 0o7777
            os.mkdir(spot.name, mode, dir_fd=spot.folder)
        return self._work.did(number)

    def _rename(self, number: int, reader: Reader) -> bytes:
        return self.rename(number, reader, replace=False)

    def rename(self, number: int, reader: Reader, *, replace: bool) -> bytes:
        """Gives a file another name; `replace`: also one that another has (posix-rename@openssh.com)."""
        old, new = reader.path(), reader.path()
        self._work.trying("rename", self._work.shown(old), self._work.shown(new))
        with self._there(old, place(old)) as source, self._there(new, place(new)) as target:
            self._work.trying("rename", source.path, target.path)
            self._ask_move(source, target)
            if replace:
                os.rename(source.name, target.name, src_dir_fd=source.folder, dst_dir_fd=target.folder)
            else:
                _rename_new(source, target)
        return self._work.did(number)

    def _ask_move(self, source: Place, target: Place) -> None:
        if not self._control.asks:
            return
        self._control.ask(("move", source.path, target.path))
        if self._control.looks and stat.S_ISDIR(source.status().st_mode):
            # With a folder everything in it gets another path, and rules are about paths.
            raise PermissionError(errno.EPERM, "your roles name paths, so folders cannot be renamed")

    def _symlink(self, number: int, reader: Reader) -> bytes:
        text, path = reader.path(), reader.path()  # in the order of OpenSSH, which is not that of the draft
        self._work.trying("symlink", self._work.shown(path), os.fsdecode(text))
        with self._there(path, place(path)) as spot:
            self._work.trying("symlink", spot.path, os.fsdecode(text))
            self._control.ask(("link", spot.path, 0))
            os.symlink(text, spot.name, dir_fd=spot.folder)
        return self._work.did(number)

    def hardlink(self, number: int, reader: Reader) -> bytes:
        """A second name for a file (hardlink@openssh.com)."""
        old, new = reader.path(), reader.path()
        self._work.trying("link", self._work.shown(new), self._work.shown(old))
        with self._there(old, place(old)) as source, self._there(new, place(new)) as target:
            self._work.trying("link", target.path, source.path)
            if self._control.asks:
                self._control.ask(("move", source.path, target.path))
            os.link(source.name, target.name, src_dir_fd=source.folder, dst_dir_fd=target.folder, follow_symlinks=False)
        return self._work.did(number)


def _within(most: int, attributes: Attributes) -> None:
    if most and attributes.size is not None and attributes.size > most:
        raise PermissionError(errno.EPERM, f"your roles allow files of at most {most} bytes")


def set_attributes(target: str | int, attributes: Attributes) -> None:
    """Sets what is given, in the order of OpenSSH: size, permissions, times, owner."""
    if attributes.size is not None:
        os.truncate(target, attributes.size)
    if attributes.permissions is not None:
        os.chmod(target, attributes.permissions & 0o7777)
    if attributes.accessed is not None and attributes.modified is not None:
        os.utime(target, (attributes.accessed, attributes.modified))
    if attributes.uid is not None and attributes.gid is not None:
        os.chown(target, attributes.uid, attributes.gid)


def _set_link(spot: Place, attributes: Attributes) -> None:
    if attributes.size is not None or attributes.permissions is not None:
        raise OSError(errno.EOPNOTSUPP, "a link has neither a size nor permissions of its own")
    if attributes.accessed is not None and attributes.modified is not None:
        times = (attributes.accessed, attributes.modified)
        os.utime(spot.name, times, dir_fd=spot.folder, follow_symlinks=False)
    if attributes.uid is not None and attributes.gid is not None:
        os.chown(spot.name, attributes.uid, attributes.gid, dir_fd=spot.folder, follow_symlinks=False)


def _rename_new(source: Place, target: Place) -> None:
    try:
        processes.rename_new(source.name, target.name, source.folder, target.folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS):
            raise
        with suppress(FileNotFoundError):  # a file system that cannot do both in one step
            target.status()
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from error
        os.rename(source.name, target.name, src_dir_fd=source.folder, dst_dir_fd=target.folder)


@functools.lru_cache(maxsize=4096)
def user_name(uid: int) -> str:
    """The name of a Unix account, its number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return str(uid)


@functools.lru_cache(maxsize=4096)
def group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except (KeyError, OverflowError):
        return str(gid)


def long_line(name: bytes, found: os.stat_result) -> bytes:
    """A line as `ls -l` prints it; clients show it as it is."""
    when = time.localtime(max(min(found.st_mtime, 2**40), -(2**40)))
    recent = abs(time.time() - found.st_mtime) < _HALF_A_YEAR
    date = time.strftime("%b %e %H:%M" if recent else "%b %e  %Y", when)
    head = (
        f"{stat.filemode(found.st_mode)} {found.st_nlink:4d} {user_name(found.st_uid):<8} "
        f"{group_name(found.st_gid):<8} {found.st_size:8d} {date} "
    )
    return head.encode("utf-8", "replace") + name
