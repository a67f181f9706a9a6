"""What is secret in `data_dir` is the daemon's alone: looked at before anything there is used.

Modes are put right, and that is said, since somebody may have read what was open. Owners are not: a key that belongs
to somebody else may be one that they put there, so the start is refused.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from teleport.errors import TeleportError

_TREES: Final = ("proc", "backend")
_FILES: Final = ("host_uuid", "epoch", "webproxy_key.pem", "revoked_keys", "daemon.lock", "epoch.lock")
_PUBLIC: Final = (".cert", ".crt")  # certificates may be read; the folders above close all of it anyway


def close_to_others(data_dir: Path) -> list[str]:
    """Takes every right of group and others from what is secret; a sentence for each thing that was open.

    Raises `TeleportError` for what belongs to another user, with nothing changed.
    """
    found = list(_secret(data_dir))
    owner = os.geteuid()
    for path, seen in found:
        if seen.st_uid != owner:
            raise TeleportError(
                f"{path} belongs to the uid {seen.st_uid}, and the daemon is the uid {owner}",
                hint=f"if you know how it came there: chown -Rh {owner} {shlex.quote(str(data_dir))}",
            )
    told = []
    for path, seen in found:
        mode = stat.S_IMODE(seen.st_mode)
        if mode & 0o077:
            _close(path, seen)
            told.append(
                f"{path} was open to other users (mode {mode:04o}) and is closed now; whoever has read a key of this "
                "host or cluster from it has it still: tctl auth rotate makes new ones"
            )
    return told


def _close(path: Path, seen: os.stat_result) -> None:
    """Through a descriptor of just what was looked at."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if os.path.samestat(os.fstat(descriptor), seen):
            os.fchmod(descriptor, stat.S_IMODE(seen.st_mode) & 0o700)
    finally:
        os.close(descriptor)


def _secret(data_dir: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Files and folders; links are not followed and do not count."""
    for name in (*_FILES, *_TREES):
        yield from _seen(data_dir / name)
    for tree in _TREES:
        for folder, folders, files in os.walk(data_dir / tree):
            for name in (*folders, *files):
                if not name.endswith(_PUBLIC):
                    yield from _seen(Path(folder) / name)


def _seen(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    try:
        seen = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISREG(seen.st_mode) or stat.S_ISDIR(seen.st_mode):
        yield path, seen
