"""Whose socket is at the other end of a connection over the loopback, as the kernel says: by `sock_diag`, where that is
missing by `/proc/net/tcp`.

Only a socket that is connected has an owner: of one that its process has closed both say 0, which is root's number.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from pathlib import Path
from typing import Final

Address = tuple[str, int]

GONE: Final = -1
SOCK_DIAG: Final = 4  # netlink family
BY_FAMILY: Final = 20  # SOCK_DIAG_BY_FAMILY
REQUEST: Final = 1  # NLM_F_REQUEST
CONNECTED: Final = 1  # TCP_ESTABLISHED
SECONDS: Final = 1.0  # the kernel answers at once
HEAD: Final = struct.Struct("=IHHII")  # nlmsghdr
ASKED: Final = struct.Struct("=BBBxI")  # inet_diag_req_v2, up to the socket's id
ENDS: Final = struct.Struct("!HH16s16s")  # inet_diag_sockid: ports and addresses
ANY_COOKIE: Final = struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)  # on whatever interface
ANSWER: Final = struct.Struct("=BBBB48sIIIII")  # inet_diag_msg
TABLE: Final = Path("/proc/net/tcp")


def owner(theirs: Address, ours: Address) -> int | None:
    """The user id of who has the socket that is `theirs`, connected to `ours`, both of IPv4; `GONE` when nobody has it
    any more, None when the kernel does not say."""
    try:
        return _by_sock_diag(theirs, ours)
    except OSError:
        return _by_table(theirs, ours)


def _by_sock_diag(theirs: Address, ours: Address) -> int:
    """Raises `OSError` where it is not to be had."""
    ends = ENDS.pack(theirs[1], ours[1], _padded(theirs[0]), _padded(ours[0])) + ANY_COOKIE
    body = ASKED.pack(socket.AF_INET, socket.IPPROTO_TCP, 0, 0xFFFFFFFF) + ends
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, SOCK_DIAG) as asking:
        asking.settimeout(SECONDS)
        asking.sendto(HEAD.pack(HEAD.size + len(body), BY_FAMILY, REQUEST, 1, 0) + body, (0, 0))
        answer = asking.recv(4096)
    if len(answer) < HEAD.size or HEAD.unpack_from(answer)[1] != BY_FAMILY:
        code = -struct.unpack_from("=i", answer, HEAD.size)[0] if len(answer) >= HEAD.size + 4 else 0
        if code == 2:  # ENOENT: there is no such socket
            return GONE
        raise OSError(code, os.strerror(code))
    if len(answer) < HEAD.size + ANSWER.size:
        raise OSError("a short answer")
    _, state, _, _, found, *_, user, _ = ANSWER.unpack_from(answer, HEAD.size)
    same = found[: ENDS.size] == ends[: ENDS.size]  # else it is one that listens there
    return int(user) if state == CONNECTED and same else GONE


def _by_table(theirs: Address, ours: Address) -> int | None:
    wanted = (_hexed(theirs), _hexed(ours))
    try:
        with TABLE.open(encoding="ascii") as table:
            next(table, "")
            for line in table:
                fields = line.split()
                if (fields[1], fields[2]) == wanted:
                    return int(fields[7]) if int(fields[3], 16) == CONNECTED else GONE
    except (OSError, ValueError, IndexError):
        return None
    return GONE


def _padded(host: str) -> bytes:
    return ipaddress.IPv4Address(host).packed.ljust(16, b"\0")


def _hexed(address: Address) -> str:
    number = struct.unpack("=I", ipaddress.IPv4Address(address[0]).packed)[0]
    return f"{number:08X}:{address[1]:04X}"
