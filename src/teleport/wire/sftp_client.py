"""The client's half of SFTP version 3 (draft-ietf-secsh-filexfer-02, OpenSSH's PROTOCOL): bytes in, values out.

Servers are not trusted: a packet is bounded before it is kept, and each field is checked against what is there.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from teleport.wire.sftp import EXTENDED as MORE
from teleport.wire.sftp import OWNER, PERMISSIONS, SIZE, TIMES, VERSION, Packet

MAX_PACKET = 1024 * 1024  # bytes; OpenSSH's servers send 256 KiB at most
_MAX_NAMES = 100_000  # in one answer
_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")
_READ = struct.Struct(">QI")


class Broken(Exception):
    """What the server sent is no SFTP."""


@dataclass(frozen=True, slots=True)
class Attributes:
    """What is known of a file; None is what nobody said. `mode` holds the type too, as `st_mode` does."""

    size: int | None = None
    mode: int | None = None
    accessed: int | None = None  # seconds since 1970
    modified: int | None = None

    def encoded(self) -> bytes:
        flags, out = 0, b""
        if self.size is not None:
            flags, out = flags | SIZE, out + _U64.pack(self.size)
        if self.mode is not None:
            flags, out = flags | PERMISSIONS, out + _U32.pack(self.mode)
        if self.modified is not None:
            accessed = self.modified if self.accessed is None else self.accessed
            flags, out = flags | TIMES, out + _U32.pack(accessed & 0xFFFFFFFF) + _U32.pack(self.modified & 0xFFFFFFFF)
        return _U32.pack(flags) + out


@dataclass(frozen=True, slots=True)
class Hello:
    """The server's first answer."""

    version: int
    extensions: dict[bytes, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Said:
    """A status."""

    code: int
    message: str = ""


@dataclass(frozen=True, slots=True)
class Handle:
    """An open file or folder."""

    value: bytes


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of a file."""

    value: memoryview


@dataclass(frozen=True, slots=True)
class Names:
    """Entries of a folder, or a path."""

    entries: tuple[tuple[bytes, Attributes], ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """The body of an extension's answer."""

    value: bytes


Answer = Said | Handle | Data | Names | Attributes | Reply


def packet(kind: Packet, *parts: bytes) -> bytes:
    """A packet with its length."""
    body = b"".join(parts)
    return _U32.pack(len(body) + 1) + bytes((kind,)) + body


def text(value: bytes) -> bytes:
    """A string with its length."""
    return _U32.pack(len(value)) + value


def hello() -> bytes:
    return packet(Packet.INIT, _U32.pack(VERSION))


def request(kind: Packet, number: int, *parts: bytes) -> bytes:
    """A request with its number."""
    return packet(kind, _U32.pack(number), *parts)


def read_request(number: int, handle: bytes, offset: int, size: int) -> bytes:
    return request(Packet.READ, number, text(handle), _READ.pack(offset, size))


def write_head(number: int, handle: bytes, offset: int, size: int) -> bytes:
    """All of a WRITE but its data, which follows."""
    head = bytes((Packet.WRITE,)) + _U32.pack(number) + text(handle) + _U64.pack(offset) + _U32.pack(size)
    return _U32.pack(len(head) + size) + head


def open_request(number: int, path: bytes, flags: int, attributes: Attributes) -> bytes:
    return request(Packet.OPEN, number, text(path), _U32.pack(flags), attributes.encoded())


class Packets:
    """Cuts the server's bytes into packets, without their length. Raises `Broken`."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self._wanted = 0  # bytes of the packet at hand with its length; 0: not known yet

    def feed(self, data: bytes) -> Iterator[memoryview]:
        self._pieces.append(data)
        self._size += len(data)
        while self._size >= 4:
            if not self._wanted:
                if len(self._pieces[0]) < 4:
                    self._join()
                (length,) = _U32.unpack_from(self._pieces[0])
                if not 1 <= length <= MAX_PACKET:
                    raise Broken(f"a packet cannot be {length} bytes long")
                self._wanted = 4 + length
            if self._size < self._wanted:
                return
            self._join()
            view = memoryview(self._pieces[0])
            rest = view[self._wanted :]
            yield view[4 : self._wanted]
            self._pieces = [bytes(rest)] if rest else []
            self._size, self._wanted = len(rest), 0

    def _join(self) -> None:
        if len(self._pieces) > 1:
            self._pieces = [b"".join(self._pieces)]


class _Reader:
    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "big")

    def take(self, size: int) -> memoryview:
        if self._at + size > len(self._data):
            raise Broken("a packet ends too early")
        found = self._data[self._at : self._at + size]
        self._at += size
        return found

    def string(self) -> bytes:
        return bytes(self.take(self.u32()))

    @property
    def more(self) -> bool:
        return self._at < len(self._data)

    def rest(self) -> bytes:
        return bytes(self._data[self._at :])

    def attributes(self) -> Attributes:
        flags = self.u32()
        size = self.u64() if flags & SIZE else None
        if flags & OWNER:
            self.take(8)
        mode = self.u32() if flags & PERMISSIONS else None
        accessed, modified = (self.u32(), self.u32()) if flags & TIMES else (None, None)
        if flags & MORE:
            for _ in range(min(self.u32(), 1000)):
                self.string(), self.string()
        return Attributes(size, mode, accessed, modified)


def parse_hello(data: memoryview) -> Hello:
    """The answer to `hello`. Raises `Broken`."""
    reader = _Reader(data[1:])
    if data[0] != Packet.VERSION:
        raise Broken("the first answer is no version")
    version, extensions = reader.u32(), {}
    if version < VERSION:
        raise Broken(f"version {version} is too old")
    while reader.more:
        name = reader.string()
        extensions[name] = reader.string()
    return Hello(version, extensions)


def parse_answer(data: memoryview) -> tuple[int, Answer]:
    """The number of a request, and its answer. Raises `Broken`."""
    kind, reader = data[0], _Reader(data[1:])
    number = reader.u32()
    match kind:
        case Packet.DATA:
            return number, Data(reader.take(reader.u32()))
        case Packet.STATUS:
            code = reader.u32()
            message = reader.string() if reader.more else b""
            return number, Said(code, message[:1000].decode(errors="replace"))
        case Packet.HANDLE:
            handle = reader.string()
            if len(handle) > 256:
                raise Broken("a handle longer than 256 bytes")
            return number, Handle(handle)
        case Packet.NAME:
            count = reader.u32()
            if count > _MAX_NAMES:
                raise Broken(f"{count} names in one answer")
            entries = []
            for _ in range(count):
                name = reader.string()
                reader.string()  # a line as `ls -l` shows it: for people, and not to be read
                entries.append((name, reader.attributes()))
            return number, Names(tuple(entries))
        case Packet.ATTRS:
            return number, reader.attributes()
        case Packet.EXTENDED_REPLY:
            return number, Reply(reader.rest())
    raise Broken(f"an answer of type {kind}")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server takes (`limits@openssh.com`), in bytes."""

    read: int = 32 * 1024  # what every server has to take
    write: int = 32 * 1024


MOST = 255 * 1024  # bytes in one request, whatever a server would take


def parse_limits(value: bytes) -> Limits:
    """Raises `Broken`."""
    reader = _Reader(memoryview(value))
    reader.u64()
    read, write = reader.u64(), reader.u64()
    return Limits(max(1024, min(read or MOST, MOST)), max(1024, min(write or MOST, MOST)))
