"""What was seen of a session's processes: values, and how they lie in the records that the kernel programs write."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """What can be recorded of a session; the words of the role option `enhanced_recording`."""

    COMMAND = "command"
    DISK = "disk"
    NETWORK = "network"


@dataclass(frozen=True, slots=True)
class Acted:
    """Which process did it. Numbers are those of the host."""

    pid: int
    ppid: int
    cgroup_id: int
    program: str  # the name of the program that runs in the process, up to 15 characters


@dataclass(frozen=True, slots=True)
class Command:
    """A program was started."""

    by: Acted
    path: str  # as it was named to the kernel
    argv: tuple[str, ...]
    cut: bool  # whether arguments, or a part of one, are missing


@dataclass(frozen=True, slots=True)
class Opened:
    """A file was opened, or its opening was refused."""

    by: Acted
    path: str  # as the program named it: relative ones begin in its directory
    flags: int
    result: int  # the descriptor, or the negative error number


@dataclass(frozen=True, slots=True)
class Connected:
    """A TCP connection was begun."""

    by: Acted
    src_addr: str
    dst_addr: str
    dst_port: int
    version: int  # 4 or 6


@dataclass(frozen=True, slots=True)
class Unseen:
    """Something was done that is not seen in full: `count` events, 0 when nobody knows how many."""

    reason: str
    count: int = 0


Seen = Command | Opened | Connected | Unseen

# Record numbers; also the bits of a session's mask, for the first three.
COMMAND_BIT, DISK_BIT, NETWORK_BIT, RING_BIT = 1, 2, 4, 8
BITS: Final[Mapping[Kind, int]] = {
    Kind.COMMAND: COMMAND_BIT,
    Kind.DISK: DISK_BIT,
    Kind.NETWORK: NETWORK_BIT,
}

# session, record number, pid, ppid, (spare), cgroup, extra, result, length of arguments, length of path, program's name
HEADER = struct.Struct("=QIIIIQQqII16s")
MOST_ARGUMENTS = 4095  # bytes
MOST_PATH = 4096
RECORD = HEADER.size + MOST_ARGUMENTS + MOST_PATH + 1  # a multiple of 8
SOCKET = 48  # bytes of a tracepoint about a socket that are copied, from its field `sport` on
URING: Final = Unseen("a program uses io_uring: files that it opens that way are not seen")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def session_of(record: bytes) -> int:
    """The number of the session that a record belongs to."""
    number: int = struct.unpack_from("=Q", record)[0]
    return number


def decode(record: bytes, socket_fields: Mapping[str, int]) -> Seen:
    """The value in a record. `socket_fields`: where the copied fields of a socket lie (`SOCKET`).

    `ValueError` for a record that is none of ours.
    """
    try:
        _, number, pid, ppid, _, cgroup, extra, result, arguments, path, name = HEADER.unpack_from(record)
    except struct.error as error:
        raise ValueError("a record that is too short") from error
    by = Acted(pid, ppid, cgroup, _text(name.partition(b"\0")[0]))
    body = record[HEADER.size :]
    named = _text(body[arguments : arguments + path].partition(b"\0")[0])
    match number:
        case 1:
            raw = body[:arguments]
            words = raw.removesuffix(b"\0").split(b"\0") if raw else []
            return Command(by, named, tuple(_text(word) for word in words), extra > arguments)
        case 2:
            return Opened(by, named, extra, result)
        case 4:
            return _connected(by, body, socket_fields)
        case 8:
            return URING
    raise ValueError(f"a record with the number {number}")


def _connected(by: Acted, body: bytes, fields: Mapping[str, int]) -> Connected:
    def number(name: str) -> int:
        value: int = struct.unpack_from("=H", body, fields[name])[0]
        return value

    v6 = number("family") == 10  # AF_INET6
    length, suffix = (16, "_v6") if v6 else (4, "")
    addresses = []
    for name in ("saddr", "daddr"):
        at = fields[name + suffix]
        address: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(body[at : at + length])
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        addresses.append(address)
    source, target = addresses
    return Connected(by, str(source), str(target), number("dport"), target.version)
