"""The memory of a process that holds much, in large pages.

Ten thousand tunnels are half a GiB of small objects. In pages of 4 KiB a processor knows only where a hundredth of that
lies, and looks the rest up in tables in memory, twice over in a virtual machine: a tenth of what a connect takes. Linux
6.1 and later puts what there is into pages of 2 MiB when it is asked to (madvise(2), MADV_COLLAPSE). Only what is
nearly full is asked for, so that it takes no more memory, and nothing where the administrator has switched them off.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

LARGE: Final = 2 * 1024 * 1024  # bytes; where they are larger, the kernel says that it cannot
FULL: Final = 0.9  # of a mapping is in memory
REFUSED: Final = 16  # in a row, after which no more are asked for
COLLAPSE: Final = 25  # MADV_COLLAPSE
_HEAD: Final = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw-p [0-9a-f]+ [0-9a-f:]+ 0 *(\[heap\])?$")
_SWITCH: Final = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def collapse() -> int:
    """Asks for large pages for what this process holds. Returns the bytes that are in some now; 0 where there are none.

    It takes a second for a GiB, without the interpreter's lock: a thread is the place for it.
    """
    try:
        import ctypes  # few daemons hold so much

        if "[never]" in _SWITCH.read_text():
            return 0
        libc = ctypes.CDLL(None)
        done = refused = 0
        for begin, end in mappings(Path("/proc/self/smaps").read_text()):
            for piece in range(begin, end, LARGE):
                if libc.madvise(ctypes.c_void_p(piece), ctypes.c_size_t(LARGE), COLLAPSE) == 0:
                    done, refused = done + LARGE, 0
                elif (refused := refused + 1) > REFUSED:  # this system knows none, or has none left
                    return done
    except (ImportError, MemoryError, OSError, ValueError, AttributeError) as error:
        log.debug("no large pages: %s", error)
        return 0
    return done


def mappings(smaps: str) -> Iterator[tuple[int, int]]:
    """Where there may be large pages, by `/proc/PID/smaps` (proc(5)): memory of the process alone, of no file, nearly
    full. From and to, whole large pages."""
    begin = end = 0
    for line in smaps.splitlines():
        if head := _HEAD.fullmatch(line):
            begin, end = int(head[1], 16), int(head[2], 16)
        elif "-" in line.partition(" ")[0]:
            begin = end = 0  # another kind of mapping
        elif line.startswith("Rss:") and end:
            resident = int(line.split()[1]) * 1024
            first, last = -(-begin // LARGE) * LARGE, end // LARGE * LARGE
            if resident >= FULL * (end - begin) and first < last:
                yield first, last
