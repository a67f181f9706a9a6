"""The control lines of scp's own protocol, the one of rcp: bytes in, values out.

C0644 SIZE NAME    a file, followed by SIZE bytes and a status      D0755 0 NAME    a folder begins    E    it ends
T MTIME 0 ATIME 0  times of the next one                            0, 1, 2         fine; an error; the last error
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

MAX_LINE: Final = 8192  # bytes
MAX_SIZE: Final = 2**62
MAX_TIME: Final = 2**40

_ENTRY = re.compile(rb"([CD])([0-7]{4}) ([0-9]{1,19}) ([^\n]+)", re.DOTALL)
_TIMES = re.compile(rb"T([0-9]{1,15}) ([0-9]{1,6}) ([0-9]{1,15}) ([0-9]{1,6})")


class Malformed(ValueError):
    """A line that is none of the protocol's."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, or a folder that begins. The name is one that stays in the folder it is put into."""

    folder: bool
    mode: int
    size: int
    name: bytes


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds since 1970."""

    modified: int
    accessed: int


@dataclass(frozen=True, slots=True)
class EndOfFolder:
    """The folder that was begun last is over."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """The other side could not do something; `fatal`: it gave up."""

    message: bytes
    fatal: bool


Line = Entry | Times | EndOfFolder | Trouble


def parse(line: bytes) -> Line:
    """What a line (without its newline) says; `Malformed` when it says nothing that may be."""
    if line[:1] in (b"\x01", b"\x02"):
        return Trouble(line[1:], line[:1] == b"\x02")
    if line == b"E":
        return EndOfFolder()
    times = _TIMES.fullmatch(line)
    if times is not None:
        modified, accessed = int(times[1]), int(times[3])
        if max(modified, accessed) > MAX_TIME:
            raise Malformed("a time is out of range")
        return Times(modified, accessed)
    entry = _ENTRY.fullmatch(line)
    if entry is None:
        raise Malformed("a line is none of scp's")
    size, name = int(entry[3]), entry[4]
    if size > MAX_SIZE:
        raise Malformed("a size is out of range")
    if b"/" in name or b"\0" in name or name in (b".", b"..") or len(name) > 255:
        raise Malformed("a name is not that of a file in a folder")
    return Entry(entry[1] == b"D", int(entry[2], 8), size, name)


def entry_line(entry: Entry) -> bytes:
    """The line for a file or a folder; `Malformed` when its name cannot be in one."""
    if b"\n" in entry.name:
        raise Malformed("its name has a line break, which scp's protocol cannot carry")
    return b"%c%04o %d %s\n" % (b"D" if entry.folder else b"C", entry.mode & 0o7777, entry.size, entry.name)


def times_line(times: Times) -> bytes:
    return b"T%d 0 %d 0\n" % (max(times.modified, 0), max(times.accessed, 0))
