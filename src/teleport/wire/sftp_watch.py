"""What happens to files in an SFTP session that only passes by: both directions are read, none is changed.

Sans-IO. Requests are remembered until their answer; what a file gave or took is told when it is closed, with a hash of
the bytes where they moved in order. Paths are as the client named them: where links lead, only the host knows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from teleport.wire.sftp import APPEND, CREATE, TRUNCATE, WRITE, Malformed, Packet, Reader, Status, split

if TYPE_CHECKING:
    from hashlib import _Hash

MAX_PENDING: Final = 10_000  # requests without an answer; clients keep up to some hundred
MAX_OPEN: Final = 10_000  # files
OUT_OF_ORDER: Final = "not moved in order"
NOT_CLOSED: Final = "the session ended before the file was closed"
_CHANGES: Final = WRITE | APPEND | CREATE | TRUNCATE
_PATHS: Final = {Packet.REMOVE: "remove", Packet.MKDIR: "mkdir", Packet.RMDIR: "rmdir"}
_RENAMES: Final = {b"posix-rename@openssh.com": "rename", b"hardlink@openssh.com": "link"}
_LOOKS: Final = frozenset(
    {
        *(b"statvfs@openssh.com", b"fstatvfs@openssh.com", b"fsync@openssh.com", b"limits@openssh.com"),
        *(b"expand-path@openssh.com", b"home-directory", b"users-groups-by-id@openssh.com"),
    }
)


@dataclass(frozen=True, slots=True)
class FileAction:
    """One thing that was done, or was tried."""

    action: str  # read, write, remove, rename, mkdir, rmdir, setstat, symlink, link, list or extended
    path: str
    target: str = ""
    size: int = 0  # bytes moved
    sha256: str = ""
    hash_reason: str = ""
    error: str = ""

    @property
    def direction(self) -> str:
        return {"read": "download", "list": "look"}.get(self.action, "upload")


class _Flow:
    """The bytes of a file in one direction, hashed while they come in order from the beginning."""

    def __init__(self) -> None:
        self.size = 0
        self._next = 0
        self._hash: _Hash | None = hashlib.sha256()

    def add(self, offset: int, data: memoryview) -> None:
        self.size += len(data)
        if offset != self._next:
            self._hash = None
        if self._hash is not None:
            self._hash.update(data)
            self._next += len(data)

    def spoil(self) -> None:
        """Something moved that was not seen."""
        self._hash = None

    def action(self, action: str, path: str, error: str) -> FileAction:
        digest = self._hash.hexdigest() if self._hash is not None else ""
        return FileAction(action, path, "", self.size, digest, "" if digest else OUT_OF_ORDER, error)


@dataclass(slots=True)
class _File:
    path: str
    changes: bool
    directory: bool = False
    closing: bool = False  # the client has asked to close it: soon its handle may be another file's
    read: _Flow = field(default_factory=_Flow)
    written: _Flow = field(default_factory=_Flow)

    def actions(self, error: str = "") -> list[FileAction]:
        found: list[FileAction] = []
        if self.directory:
            return found
        if self.read.size or not self.changes:
            found.append(self.read.action("read", self.path, error))
        if self.changes:
            found.append(self.written.action("write", self.path, error))
        return found


_Answered = Callable[[int, Reader, str], list[FileAction]]
"""Takes the kind of an answer, its fields after the id, and the error that it says, if it does."""


class SftpWatch:
    """Watches one session. A call raises `Malformed` when what passes is not SFTP: then nobody knows what it does."""

    def __init__(self) -> None:
        self._from_client = bytearray()
        self._from_server = bytearray()
        self._pending: dict[int, _Answered] = {}
        self._files: dict[bytes, _File] = {}

    def client_sends(self, data: bytes) -> None:
        """Bytes from the client, before they go on."""
        for packet in _whole(self._from_client, data):
            self._request(packet)

    def server_sends(self, data: bytes) -> list[FileAction]:
        """Bytes from the host, before they go on: what they say was done."""
        found: list[FileAction] = []
        for packet in _whole(self._from_server, data):
            found += self._answer(packet)
        return found

    def ended(self) -> list[FileAction]:
        """The session is over: what was left open."""
        files, self._files = self._files, {}
        return [action for file in files.values() for action in file.actions(NOT_CLOSED)]

    # requests

    def _request(self, packet: bytes) -> None:
        reader = Reader(packet)
        kind = reader.byte()
        if kind == Packet.INIT:
            return
        number = reader.u32()
        if number in self._pending:
            raise Malformed("two requests with one number")
        if len(self._pending) >= MAX_PENDING:
            raise Malformed("too many requests without an answer")
        answered = self._understood(kind, reader)
        self._pending[number] = answered or _nothing

    def _understood(self, kind: int, reader: Reader) -> _Answered | None:
        match kind:
            case Packet.OPEN:
                path, flags = _text(reader), reader.u32()
                return lambda kind, answer, error: self._opened(path, bool(flags & _CHANGES), kind, answer, error)
            case Packet.OPENDIR:
                path = _text(reader)
                return lambda kind, answer, error: self._listed(path, kind, answer, error)
            case Packet.READ:
                return self._reads(self._held(reader.string()), reader.u64())
            case Packet.WRITE:
                return self._wrote(self._held(reader.string()), reader.u64(), reader.view())
            case Packet.CLOSE:
                return self._closes(reader.string())
            case Packet.REMOVE | Packet.MKDIR | Packet.RMDIR:
                return _told(_PATHS[Packet(kind)], _text(reader))
            case Packet.SETSTAT:
                path = _text(reader)
                return _told("setstat", path, str(reader.attributes()))
            case Packet.FSETSTAT:
                file = self._held(reader.string())
                return _told("setstat", file.path, str(reader.attributes()))
            case Packet.RENAME:
                path = _text(reader)
                return _told("rename", path, _text(reader))
            case Packet.SYMLINK:  # OpenSSH's order: where it leads, then its own name
                target = _text(reader)
                return _told("symlink", _text(reader), target)
            case Packet.EXTENDED:
                return self._extended(reader)
        return None

    def _extended(self, reader: Reader) -> _Answered | None:
        name = reader.string()
        if name in _RENAMES:
            path = _text(reader)
            return _told(_RENAMES[name], path, _text(reader))
        if name == b"lsetstat@openssh.com":
            path = _text(reader)
            return _told("setstat", path, str(reader.attributes()))
        if name == b"copy-data":
            source = self._held(reader.string())
            reader.u64()
            reader.u64()
            target = self._held(reader.string())
            target.written.spoil()
            return _told("write", target.path, source.path)
        return None if name in _LOOKS else _told("extended", "", name.decode("utf-8", "backslashreplace"))

    def _held(self, name: bytes) -> _File:
        """What a handle is of. Hosts give handles that can be guessed: one that is used before the host gave it, or
        after it was to be closed, may be of a file that nobody here knows."""
        file = self._files.get(name)
        if file is None or file.closing:
            raise Malformed("a handle of nothing that is open")
        return file

    def _reads(self, file: _File, offset: int) -> _Answered:
        def answered(kind: int, answer: Reader, error: str) -> list[FileAction]:
            if kind == Packet.DATA:
                file.read.add(offset, answer.view())
            return []

        return answered

    def _closes(self, name: bytes) -> _Answered:
        file = self._held(name)
        file.closing = True

        def answered(kind: int, answer: Reader, error: str) -> list[FileAction]:
            if self._files.get(name) is file:
                del self._files[name]
            return file.actions(error)

        return answered

    def _wrote(self, file: _File, offset: int, data: memoryview) -> _Answered:
        file.written.add(offset, data)
        flow, size = file.written, len(data)

        def answered(kind: int, answer: Reader, error: str) -> list[FileAction]:
            if error:
                flow.size -= size
                flow.spoil()
            return []

        return answered

    # answers

    def _answer(self, packet: bytes) -> list[FileAction]:
        reader = Reader(packet)
        kind = reader.byte()
        if kind == Packet.VERSION:
            return []
        answered = self._pending.pop(reader.u32(), None)
        if answered is None:
            raise Malformed("an answer that nobody asked for")
        error = ""
        if kind == Packet.STATUS:
            code = reader.u32()
            said = reader.string().decode("utf-8", "backslashreplace") if not reader.done else ""
            if code not in (Status.OK, Status.EOF):
                error = said[:500] or f"status {code}"
        return answered(kind, reader, error)

    def _opened(self, path: str, changes: bool, kind: int, answer: Reader, error: str) -> list[FileAction]:
        if kind != Packet.HANDLE:
            return [FileAction("write" if changes else "read", path, error=error or "not opened")]
        self._gave(answer.string(), _File(path, changes))
        return []

    def _listed(self, path: str, kind: int, answer: Reader, error: str) -> list[FileAction]:
        if kind == Packet.HANDLE:
            self._gave(answer.string(), _File(path, changes=False, directory=True))
        return [FileAction("list", path, error=error)] if error else []

    def _gave(self, name: bytes, file: _File) -> None:
        if len(self._files) >= MAX_OPEN:
            raise Malformed("too many files are open")
        former = self._files.get(name)
        if former is not None and not former.closing:
            raise Malformed("one handle for two files")
        self._files[name] = file


def _nothing(kind: int, answer: Reader, error: str) -> list[FileAction]:
    return []


def _told(action: str, path: str, target: str = "") -> _Answered:
    return lambda kind, answer, error: [FileAction(action, path, target, error=error)]


def _text(reader: Reader) -> str:
    return reader.path().decode("utf-8", "backslashreplace")


def _whole(buffer: bytearray, data: bytes) -> list[bytes]:
    """The packets that are whole now; the rest stays in `buffer`."""
    buffer += data
    with memoryview(buffer) as view:
        found, taken = split(view)
        packets = [bytes(packet) for packet in found]
        for packet in found:
            packet.release()
    del buffer[:taken]
    return packets
