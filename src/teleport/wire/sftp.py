"""SFTP version 3 as bytes: packets, attributes, statuses (draft-ietf-secsh-filexfer-02).

Extensions are those of OpenSSH (its file PROTOCOL, section 4). Nothing here touches a file or a socket: server, client
and whoever only watches share it. Names are bytes: what they mean is the host's affair.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

VERSION: Final = 3
MAX_PACKET: Final = 256 * 1024  # bytes, without the length; OpenSSH takes no longer one either
MAX_DATA: Final = MAX_PACKET - 1024  # bytes that one read or write moves
MAX_PATH: Final = 4096  # bytes (PATH_MAX of Linux)


class Packet(IntEnum):
    """What a packet is (section 3)."""

    INIT = 1
    VERSION = 2
    OPEN = 3
    CLOSE = 4
    READ = 5
    WRITE = 6
    LSTAT = 7
    FSTAT = 8
    SETSTAT = 9
    FSETSTAT = 10
    OPENDIR = 11
    READDIR = 12
    REMOVE = 13
    MKDIR = 14
    RMDIR = 15
    REALPATH = 16
    STAT = 17
    RENAME = 18
    READLINK = 19
    SYMLINK = 20
    STATUS = 101
    HANDLE = 102
    DATA = 103
    NAME = 104
    ATTRS = 105
    EXTENDED = 200
    EXTENDED_REPLY = 201


class Status(IntEnum):
    """How a request ended (section 7)."""

    OK = 0
    EOF = 1
    NO_SUCH_FILE = 2
    PERMISSION_DENIED = 3
    FAILURE = 4
    BAD_MESSAGE = 5
    NO_CONNECTION = 6
    CONNECTION_LOST = 7
    OP_UNSUPPORTED = 8


# Flags of OPEN (section 6.3) and of attributes (section 5).
READ, WRITE, APPEND, CREATE, TRUNCATE, EXCLUSIVE = 0x1, 0x2, 0x4, 0x8, 0x10, 0x20
SIZE, OWNER, PERMISSIONS, TIMES, EXTENDED = 0x1, 0x2, 0x4, 0x8, 0x80000000

EXTENSIONS: Final[tuple[tuple[bytes, bytes], ...]] = (
    (b"posix-rename@openssh.com", b"1"),
    (b"statvfs@openssh.com", b"2"),
    (b"fstatvfs@openssh.com", b"2"),
    (b"hardlink@openssh.com", b"1"),
    (b"fsync@openssh.com", b"1"),
    (b"lsetstat@openssh.com", b"1"),
    (b"limits@openssh.com", b"1"),
    (b"expand-path@openssh.com", b"1"),
    (b"copy-data", b"1"),
    (b"home-directory", b"1"),
    (b"users-groups-by-id@openssh.com", b"1"),
)

_U32, _U64 = struct.Struct(">I"), struct.Struct(">Q")
_HEAD = struct.Struct(">IBI")  # length, kind, id
_DATA_HEAD = struct.Struct(">IBII")  # the same, and the length of the data


class Malformed(ValueError):
    """A packet that is not one of SFTP version 3."""


@dataclass(frozen=True, slots=True)
class Attributes:
    """What is known, or to be set, of a file; None: nothing is said about it. Times are seconds since 1970."""

    size: int | None = None
    uid: int | None = None
    gid: int | None = None
    permissions: int | None = None
    accessed: int | None = None
    modified: int | None = None

    def encode(self) -> bytes:
        flags, rest = 0, b""
        if self.size is not None:
            flags |= SIZE
            rest += _U64.pack(self.size & 0xFFFFFFFFFFFFFFFF)
        if self.uid is not None and self.gid is not None:
            flags |= OWNER
            rest += struct.pack(">II", self.uid & 0xFFFFFFFF, self.gid & 0xFFFFFFFF)
        if self.permissions is not None:
            flags |= PERMISSIONS
            rest += _U32.pack(self.permissions)
        if self.accessed is not None and self.modified is not None:
            flags |= TIMES
            rest += struct.pack(">II", self.accessed & 0xFFFFFFFF, self.modified & 0xFFFFFFFF)
        return _U32.pack(flags) + rest

    def __str__(self) -> str:
        """The form that events use: `size=5 uid=1 gid=1 mode=0644 atime=.. mtime=..`, what is set only."""
        parts = [
            f"{name}={value}"
            for name, value in (("size", self.size), ("uid", self.uid), ("gid", self.gid))
            if value is not None
        ]
        if self.permissions is not None:
            parts.append(f"mode={self.permissions & 0o7777:04o}")
        parts += [
            f"{name}={value}"
            for name, value in (("atime", self.accessed), ("mtime", self.modified))
            if value is not None
        ]
        return " ".join(parts)


class Reader:
    """The fields of one packet, in order; `Malformed` when one is cut off."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data)
        self._at = 0

    def byte(self) -> int:
        return self.take(1)[0]

    def u32(self) -> int:
        return int(_U32.unpack(self.take(4))[0])

    def u64(self) -> int:
        return int(_U64.unpack(self.take(8))[0])

    def take(self, count: int) -> memoryview:
        """The next `count` bytes, which live as long as the packet does."""
        end = self._at + count
        if end > len(self._data):
            raise Malformed("a packet is cut off")
        part = self._data[self._at : end]
        self._at = end
        return part

    def view(self) -> memoryview:
        """A string, not copied."""
        return self.take(self.u32())

    def string(self) -> bytes:
        return bytes(self.view())

    def path(self) -> bytes:
        """A name of a file; `Malformed` when it cannot be one."""
        name = self.view()
        if len(name) > MAX_PATH:
            raise Malformed(f"a path of {len(name)} bytes; at most {MAX_PATH} are possible")
        path = bytes(name)
        if b"\0" in path:
            raise Malformed("a path with a zero byte")
        return path

    def attributes(self) -> Attributes:
        flags = self.u32()
        size = self.u64() if flags & SIZE else None
        uid, gid = (self.u32(), self.u32()) if flags & OWNER else (None, None)
        permissions = self.u32() if flags & PERMISSIONS else None
        accessed, modified = (self.u32(), self.u32()) if flags & TIMES else (None, None)
        if flags & EXTENDED:
            for _ in range(self.u32()):
                self.view()
                self.view()
        return Attributes(size, uid, gid, permissions, accessed, modified)

    def rest(self) -> memoryview:
        """Everything that is left."""
        return self.take(len(self._data) - self._at)

    @property
    def done(self) -> bool:
        return self._at == len(self._data)


def string(data: bytes) -> bytes:
    """`data` with its length before it."""
    return _U32.pack(len(data)) + data


def packet(kind: Packet, number: int, *parts: bytes) -> bytes:
    """A packet with an id (for INIT and VERSION: the version)."""
    body = b"".join(parts)
    return _HEAD.pack(5 + len(body), kind, number) + body


def data_head(number: int, size: int) -> bytes:
    """What comes before `size` bytes of a DATA packet."""
    return _DATA_HEAD.pack(9 + size, Packet.DATA, number, size)


def status(number: int, code: Status, message: str = "") -> bytes:
    """A STATUS packet; the message is for people."""
    return packet(
        Packet.STATUS, number, _U32.pack(code), string(message.encode("utf-8", "backslashreplace")), string(b"en")
    )


def handle(number: int, name: bytes) -> bytes:
    return packet(Packet.HANDLE, number, string(name))


def attrs(number: int, attributes: Attributes) -> bytes:
    return packet(Packet.ATTRS, number, attributes.encode())


def names(number: int, entries: Sequence[tuple[bytes, bytes, Attributes]]) -> bytes:
    """A NAME packet of (name, the line of `ls -l`, attributes)."""
    parts = [_U32.pack(len(entries))]
    for name, line, attributes in entries:
        parts += (string(name), string(line), attributes.encode())
    return packet(Packet.NAME, number, *parts)


def version(extensions: Sequence[tuple[bytes, bytes]] = EXTENSIONS) -> bytes:
    """What a server answers to INIT."""
    return packet(Packet.VERSION, VERSION, *(string(name) + string(value) for name, value in extensions))


def split(buffer: bytes | memoryview, most: int = MAX_PACKET) -> tuple[list[memoryview], int]:
    """The whole packets (without their lengths) at the start of `buffer`, and how many bytes they take.

    `Malformed` when one claims to be empty or longer than `most`.
    """
    view, at, found = memoryview(buffer), 0, []
    while len(view) - at >= 4:
        length = int(_U32.unpack_from(view, at)[0])
        if not 0 < length <= most:
            raise Malformed(f"a packet of {length} bytes; at most {most} are possible")
        if len(view) - at - 4 < length:
            break
        found.append(view[at + 4 : at + 4 + length])
        at += 4 + length
    return found, at
