"""Which files are opened to be executed, by whom: fanotify(7) on the host's file systems.

The kernel hands over an open descriptor of each file, so that the name is known also when the process is long gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterator
from typing import Final

_CLASS_NOTIF, _CLOEXEC, _NONBLOCK = 0x0, 0x1, 0x2
_ADD, _FILESYSTEM = 0x1, 0x100
_OPEN_EXEC: Final = 0x1000
_HERE: Final = -100  # AT_FDCWD
_EVENT = struct.Struct("=IBBHQii")  # length, version, reserved, metadata length, mask, descriptor, process
_READS: Final = 4  # of 64 KiB
_NO_FILES: Final = frozenset(
    {"proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue", "debugfs", "tracefs", "bpf", "securityfs", "autofs"}
)
_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


class Executables:
    """Tells of files that are opened to be executed, on the file systems that were mounted when it was made."""

    def __init__(self) -> None:
        """`OSError` when the kernel or the rights of this process do not allow it."""
        flags = _CLASS_NOTIF | _CLOEXEC | _NONBLOCK
        self.descriptor = _checked(
            _libc.fanotify_init(flags, os.O_RDONLY | os.O_CLOEXEC | os.O_LARGEFILE), "fanotify_init"
        )
        try:
            self._mark("/")
            for place in _mounts():
                with contextlib.suppress(OSError):  # what cannot be watched is named by /proc, or on record as a gap
                    self._mark(place)
        except BaseException:
            self.close()
            raise

    def _mark(self, place: str) -> None:
        mask = ctypes.c_uint64(_OPEN_EXEC)
        _checked(
            _libc.fanotify_mark(self.descriptor, _ADD | _FILESYSTEM, mask, _HERE, os.fsencode(place)), "fanotify_mark"
        )

    def read(self) -> Iterator[tuple[int, str]]:
        """(process, path) of what was opened since, oldest first; up to a bound, the rest is for the next time."""
        for _ in range(_READS):
            try:
                data = os.read(self.descriptor, 65_536)
            except BlockingIOError:
                return
            at = 0
            while at + _EVENT.size <= len(data):
                length, _, _, _, _, descriptor, process = _EVENT.unpack_from(data, at)
                at += max(length, _EVENT.size)
                if descriptor < 0:
                    continue  # the queue was full: who has no name then is on record as a gap
                try:
                    yield process, os.readlink(f"/proc/self/fd/{descriptor}").removesuffix(" (deleted)")
                finally:
                    os.close(descriptor)

    def close(self) -> None:
        os.close(self.descriptor)


def _mounts() -> list[str]:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        rows = [line.split() for line in file]
    found = []
    for row in rows:
        kind = row[row.index("-") + 1] if "-" in row else ""
        if kind and kind not in _NO_FILES:
            found.append(row[4].encode().decode("unicode_escape"))  # spaces are \\040 there
    return found
