"""Who is logged in (utmp), who was (wtmp), and when each account was last (lastlog): for `who`, `last` and `lastlog`.

Formats: utmp(5) and lastlog's structure in <lastlog.h>, with the fields' widths of this machine's C library. Files that
do not exist are not made: an administrator, or a distribution, that has none wants none. Nothing here is the record of
sessions (that is the audit log), so that what cannot be written refuses nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
from dataclasses import dataclass
from typing import Final

_USER_PROCESS, _DEAD_PROCESS = 7, 8
_LASTLOG: Final = struct.Struct("=i32s256s")
# Where the C library of a 64-bit machine can also run 32-bit programs, times in utmp have 32 bits (bits/wordsize.h).
_NARROW: Final = os.uname().machine in ("x86_64", "i686", "i386", "ppc64le", "armv7l")
_NUMBER = ctypes.c_int32 if _NARROW else ctypes.c_long


class _Utmpx(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_short),
        ("pid", ctypes.c_int),
        ("line", ctypes.c_char * 32),
        ("id", ctypes.c_char * 4),
        ("user", ctypes.c_char * 32),
        ("host", ctypes.c_char * 256),
        ("exit", ctypes.c_short * 2),
        ("session", _NUMBER),
        ("seconds", _NUMBER),
        ("microseconds", _NUMBER),
        ("address", ctypes.c_int32 * 4),
        ("unused", ctypes.c_char * 20),
    ]


@dataclass(frozen=True, slots=True)
class LastLogin:
    """What lastlog said before."""

    seconds: int  # since 1970
    line: str
    host: str


@dataclass(frozen=True, slots=True)
class LoginRecords:
    """The three files."""

    utmp: str = "/run/utmp"
    wtmp: str = "/var/log/wtmp"
    lastlog: str = "/var/log/lastlog"

    def log_in(self, user: str, uid: int, tty: str, host: str, pid: int, now: float) -> LastLogin | None:
        """A session with a terminal begins; `now` in seconds since 1970. The account's last login, if it is known."""
        self._put(_entry(_USER_PROCESS, user, tty, host, pid, now))
        return self._last(uid, tty, host, now)

    def log_out(self, tty: str, pid: int, now: float) -> None:
        """The session is over."""
        self._put(_entry(_DEAD_PROCESS, "", tty, "", pid, now))

    def _put(self, entry: _Utmpx) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if os.path.exists(self.utmp):
            libc.utmpxname(os.fsencode(self.utmp))
            libc.setutxent()
            libc.pututxline(ctypes.byref(entry))
            libc.endutxent()
        if os.path.exists(self.wtmp):
            libc.updwtmpx(os.fsencode(self.wtmp), ctypes.byref(entry))

    def _last(self, uid: int, tty: str, host: str, now: float) -> LastLogin | None:
        with contextlib.suppress(OSError):
            descriptor = os.open(self.lastlog, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                at = uid * _LASTLOG.size
                former = os.pread(descriptor, _LASTLOG.size, at)
                os.pwrite(descriptor, _LASTLOG.pack(int(now), _short(tty).encode(), host.encode()[:255]), at)
            finally:
                os.close(descriptor)
            if len(former) == _LASTLOG.size:
                seconds, line, place = _LASTLOG.unpack(former)
                if seconds:
                    return LastLogin(seconds, _text(line), _text(place))
        return None


def _text(field: bytes) -> str:
    """A field of a file that others write, too: printable, whatever it holds."""
    shown = field.partition(b"\0")[0].decode(errors="replace")
    return "".join(letter if letter.isprintable() else "?" for letter in shown)


def _short(tty: str) -> str:
    return tty.removeprefix("/dev/")


def _entry(kind: int, user: str, tty: str, host: str, pid: int, now: float) -> _Utmpx:
    line = _short(tty)
    entry = _Utmpx(kind, pid, line.encode()[:31], line.removeprefix("pts/").rjust(4, "t")[-4:].encode())
    entry.user = user.encode()[:31]
    entry.host = host.encode()[:255]
    entry.session = pid
    entry.seconds, entry.microseconds = int(now), int(now % 1 * 1_000_000)
    with contextlib.suppress(OSError, ValueError):
        packed = socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
        ctypes.memmove(entry.address, packed, len(packed))
    return entry
