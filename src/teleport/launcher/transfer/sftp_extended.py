"""The extensions of SFTP that OpenSSH's clients use (its file PROTOCOL, section 4)."""

from __future__ import annotations

import errno
import os
import pwd
import struct
from collections.abc import Callable

import teleport.wire.sftp as wire
from teleport.launcher.transfer.sftp_names import NameRequests, group_name, user_name
from teleport.launcher.transfer.sftp_work import Work
from teleport.wire.sftp import Attributes, Packet, Reader, Status

_PIECE = 1024 * 1024  # bytes of a copy


class Extended:
    """Serves them."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._names = names = NameRequests(work)
        self._serve: dict[bytes, Callable[[int, Reader], bytes]] = {
            b"posix-rename@openssh.com": lambda number, reader: names.rename(number, reader, replace=True),
            b"statvfs@openssh.com": self._statvfs,
            b"fstatvfs@openssh.com": self._fstatvfs,
            b"hardlink@openssh.com": names.hardlink,
            b"fsync@openssh.com": self._fsync,
            b"lsetstat@openssh.com": names.lsetstat,
            b"limits@openssh.com": self._limits,
            b"expand-path@openssh.com": self._expand,
            b"copy-data": self._copy,
            b"home-directory": self._home,
            b"users-groups-by-id@openssh.com": self._by_id,
        }
        assert set(self._serve) == {name for name, _ in wire.EXTENSIONS}, "what is announced is served"

    def serve(self, number: int, reader: Reader) -> bytes:
        """The reply to an EXTENDED request."""
        name = reader.string()
        serve = self._serve.get(name)
        if serve is None:
            return wire.status(number, Status.OP_UNSUPPORTED, "the extension is not known")
        return serve(number, reader)

    def _statvfs(self, number: int, reader: Reader) -> bytes:
        path = reader.path()
        with self._names.seen("stat", path) as (descriptor, _):
            return _space(number, os.fstatvfs(descriptor))

    def _fstatvfs(self, number: int, reader: Reader) -> bytes:
        return _space(number, os.fstatvfs(self._work.handles.any(reader.string()).descriptor))

    def _fsync(self, number: int, reader: Reader) -> bytes:
        os.fsync(self._work.handles.file(reader.string()).descriptor)
        return wire.status(number, Status.OK)

    def _limits(self, number: int, reader: Reader) -> bytes:
        limits = struct.pack(">QQQQ", wire.MAX_PACKET, wire.MAX_DATA, wire.MAX_DATA, self._work.handles.most)
        return wire.packet(Packet.EXTENDED_REPLY, number, limits)

    def _expand(self, number: int, reader: Reader) -> bytes:
        path = reader.path()
        if path.startswith(b"~"):
            name, _, rest = path[1:].partition(b"/")
            path = os.path.join(self._home_of(name), rest)
        whole = os.path.normpath(os.path.join(os.fsencode(self._work.home), path))
        return wire.names(number, [(whole, whole, Attributes())])

    def _home(self, number: int, reader: Reader) -> bytes:
        name = reader.string()
        home = self._home_of(name)
        return wire.names(number, [(home, home, Attributes())])

    def _home_of(self, name: bytes) -> bytes:
        """The home of an account, empty: of this one. Where roles name paths no other account's is told, nor whether
        there is such an account."""
        if not name:
            return os.fsencode(self._work.home)
        control = self._work.control
        if control.asks and control.looks and os.fsdecode(name) != user_name(os.getuid()):
            raise PermissionError(errno.EACCES, "your roles name paths, so only this account's home is told")
        return _home_of(name)

    def _by_id(self, number: int, reader: Reader) -> bytes:
        parts = []
        for look, group in ((user_name, False), (group_name, True)):
            ids = Reader(reader.string())
            found = b""
            while not ids.done:
                one = ids.u32()
                name = look(one) if self._work.may_name(one, group=group) else str(one)
                found += wire.string(b"" if name == str(one) else name.encode("utf-8", "replace"))
            parts.append(wire.string(found))
        return wire.packet(Packet.EXTENDED_REPLY, number, *parts)

    def _copy(self, number: int, reader: Reader) -> bytes:
        first = reader.string()
        source = self._work.handles.file(first)
        start, length = reader.u64(), reader.u64()
        second = reader.string()
        target = self._work.handles.file(second)
        to = reader.u64()
        if source.read is None or target.written is None or not target.takes:
            raise OSError(errno.EBADF, "the files were not opened for it")
        if source is target or max(start, to, length) >= 2**62:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        left = length or 2**62
        while left and (data := os.pread(source.descriptor, min(_PIECE, left), start)):
            self._work.handles.heed()
            if self._work.handles.file(first) is not source or self._work.handles.file(second) is not target:
                raise KeyError(first)
            target.within((os.fstat(target.descriptor).st_size if target.appends else to) + len(data))
            source.read.add(start, data)
            view = memoryview(data)
            done = 0
            while done < len(data):
                done += os.pwrite(target.descriptor, view[done:], to + done)
            if target.appends:  # the kernel puts it at the end, whatever place is named
                target.written.size += len(data)
                target.written.spoiled()
            else:
                target.written.add(to, data)
            start, to, left = start + len(data), to + len(data), left - len(data)
        return wire.status(number, Status.OK)


def _home_of(name: bytes) -> bytes:
    try:
        return os.fsencode(pwd.getpwnam(os.fsdecode(name)).pw_dir)
    except (KeyError, UnicodeEncodeError, ValueError):
        raise FileNotFoundError(errno.ENOENT, "there is no such account") from None


def _space(number: int, found: os.statvfs_result) -> bytes:
    flags = (1 if found.f_flag & os.ST_RDONLY else 0) | (2 if found.f_flag & os.ST_NOSUID else 0)
    fields = (
        found.f_bsize,
        found.f_frsize,
        found.f_blocks,
        found.f_bfree,
        found.f_bavail,
        found.f_files,
        found.f_ffree,
        found.f_favail,
        found.f_fsid,
        flags,
        found.f_namemax,
    )
    packed = struct.pack(">11Q", *(field & 0xFFFFFFFFFFFFFFFF for field in fields))
    return wire.packet(Packet.EXTENDED_REPLY, number, packed)
