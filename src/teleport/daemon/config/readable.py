"""Why a file cannot be read by the user who runs this, and the line that mends it.

The line gives the group of that user what is missing, and nobody else anything: keys are among these files.
"""

from __future__ import annotations

import grp
import os
import pwd
import shlex
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from teleport.resources.yaml_problems import quoted

MAX_LINKS: Final = 16


@dataclass(frozen=True, slots=True)
class Unreadable:
    """`mend` is a shell command, empty where none helps."""

    text: str
    mend: str = ""


def unreadable(path: Path) -> Unreadable | None:
    """Why `path` cannot be read as a file; None when it can. A link is followed, and each of its steps looked at."""
    at = Path(os.path.abspath(path))
    for _ in range(MAX_LINKS):
        for parent in _from_root(at.parent):
            if parent.is_dir() and not os.access(parent, os.X_OK):
                return _closed(parent, "the directory", "x")
        if not at.is_symlink():
            break
        to = at.parent / os.readlink(at)
        if not os.path.lexists(to) and _seen(to.parent):
            return Unreadable(f"{_told(at)}, a link to {_told(to)}, where nothing is")
        at = Path(os.path.abspath(to))
    if not os.path.lexists(at):
        return Unreadable(f"{_told(path)}, where nothing is")
    if not at.is_file():
        return Unreadable(f"{_told(path)}, which is no file")
    return None if os.access(at, os.R_OK) else _closed(at, "the file", "r")


def _told(path: Path) -> str:
    """As people read it: a name may hold what moves their cursor, or turns what follows."""
    return str(path) if str(path).isprintable() else quoted(str(path), 4096)


def _from_root(folder: Path) -> Iterator[Path]:
    yield from reversed(folder.parents)
    yield folder


def _seen(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.X_OK)


def _closed(path: Path, what: str, wanted: str) -> Unreadable:
    found = path.stat()
    user, group = _user(os.geteuid()), _group(os.getegid())
    mode = stat.S_IMODE(found.st_mode)
    mend = [f"chmod g+{wanted} {shlex.quote(str(path))}"] if not mode & {"x": 0o010, "r": 0o040}[wanted] else []
    if found.st_gid not in (os.getegid(), *os.getgroups()):
        mend.insert(0, f"chgrp {group} {shlex.quote(str(path))}")
    owner = f"{_user(found.st_uid)}:{_group(found.st_gid)}"
    return Unreadable(f"{what} {_told(path)} ({owner}, mode {mode:04o}), closed to the user {user}", " && ".join(mend))


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
