"""The kernel's news of processes (the process events connector): messages to and from bytes. Values only.

Format: <linux/cn_proc.h> and <linux/connector.h>: a netlink header, a connector header, then what happened, the
processor, a time, and numbers. A thread is named by its own number and that of its process ("tgid").
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

PROTOCOL: Final = 11  # NETLINK_CONNECTOR
GROUP: Final = 1  # CN_IDX_PROC, also the multicast group
_NETLINK = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_CONNECTOR = struct.Struct("=IIIIHH")  # index, value, sequence, acknowledgement, length, flags
_EVENT = struct.Struct("=IIQ")  # what, processor, nanoseconds
_DONE: Final = 3  # NLMSG_DONE
_LISTEN: Final = 1  # PROC_CN_MCAST_LISTEN
_FORK, _EXEC, _EXIT = 0x1, 0x2, 0x80000000


@dataclass(frozen=True, slots=True)
class Forked:
    """`child`, a thread of the process `child_process`, was made; `parent_process` is the parent of that process."""

    parent_process: int
    child: int
    child_process: int


@dataclass(frozen=True, slots=True)
class Executed:
    """The process runs another program."""

    process: int


@dataclass(frozen=True, slots=True)
class Exited:
    """A thread has ended."""

    thread: int
    process: int


News = Forked | Executed | Exited


def listen(port: int) -> bytes:
    """The message that asks for news, from the socket bound to `port`."""
    body = _CONNECTOR.pack(GROUP, 1, 0, 0, 4, 0) + struct.pack("=I", _LISTEN)
    return _NETLINK.pack(_NETLINK.size + len(body), _DONE, 0, 0, port) + body


def parse(packet: bytes) -> Iterator[News]:
    """What a packet tells of forks, programs and ends; everything else is passed over."""
    at = 0
    while at + _NETLINK.size <= len(packet):
        length, _, _, _, _ = _NETLINK.unpack_from(packet, at)
        if length < _NETLINK.size or at + length > len(packet):
            return
        body = at + _NETLINK.size
        if length >= _NETLINK.size + _CONNECTOR.size + _EVENT.size and _CONNECTOR.unpack_from(packet, body)[0] == GROUP:
            news = _news(packet[body + _CONNECTOR.size : at + length])
            if news is not None:
                yield news
        at += (length + 3) // 4 * 4


def _news(event: bytes) -> News | None:
    what, _, _ = _EVENT.unpack_from(event)
    numbers = event[_EVENT.size :]
    try:
        if what == _FORK:
            _, parent_process, child, child_process = struct.unpack_from("=4I", numbers)
            return Forked(parent_process, child, child_process)
        if what == _EXEC:
            return Executed(struct.unpack_from("=2I", numbers)[1])
        if what == _EXIT:
            return Exited(*struct.unpack_from("=2I", numbers))
    except struct.error:
        return None
    return None
