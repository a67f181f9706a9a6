"""Whether this tsh and a cluster fit: versions of one major do, and tsh may be one major behind, none ahead
(`operations.md` 9).

Pure. What a proxy says of itself is foreign text: nothing of it is shown but the numbers.
"""

from __future__ import annotations

import re
from typing import Final

_NUMBERS: Final = re.compile(r"v?(\d{1,6})\.(\d{1,6})\.(\d{1,6})(?:[-+].*)?", re.ASCII | re.DOTALL)


def _read(version: str) -> tuple[int, int, int] | None:
    found = _NUMBERS.fullmatch(version)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def concern(own: str, server: str, least: str) -> str:
    """Why tsh of version `own` does not fit a cluster of version `server` that takes clients from `least` on, and what
    to do; empty when it does, or when a version cannot be read. Versions as semver."""
    ours, theirs, needed = _read(own), _read(server), _read(least)
    if ours is None:
        return ""
    shown = ".".join(map(str, ours))
    if needed is not None and ours < needed:
        wanted = ".".join(map(str, needed))
        old = f"tsh {shown} is older than this cluster takes ({wanted} or newer)"
        return f"{old}: some things may fail; install a newer tsh"
    if theirs is not None and ours[0] > theirs[0]:
        has = ".".join(map(str, theirs))
        return f"tsh {shown} is newer than this cluster ({has}): some things may fail; install tsh {theirs[0]}.x"
    return ""
