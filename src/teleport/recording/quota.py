"""How much recordings that auth has not taken yet may use of a node's disk. Blocks: callers use threads."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from teleport.errors import LimitExceeded
from teleport.recording.directory import Suffix

MIB = 1024 * 1024
_SUFFIXES = tuple(Suffix)


def used(root: Path) -> int:
    """Bytes on disk of all recordings below `root` (see `upload_folders`), of whatever process, whole or not."""
    total = 0
    for folder in (root, *(entry for entry in root.iterdir() if entry.is_dir() and not entry.is_symlink())):
        with suppress(FileNotFoundError):  # another process has just taken it over
            for entry in os.scandir(folder):
                if entry.name.endswith(_SUFFIXES) and entry.is_file(follow_symlinks=False):
                    with suppress(FileNotFoundError):  # uploaded just now
                        total += entry.stat(follow_symlinks=False).st_blocks * 512  # the unit of stat(2)
    return total


def check_quota(root: Path, quota: int) -> None:
    """Raises `LimitExceeded` when recordings below `root` use `quota` bytes or more; a quota of 0 is none."""
    if quota and (found := used(root)) >= quota:
        raise LimitExceeded(
            f"recordings that wait to be uploaded use {found / MIB:.1f} MiB of the {quota // MIB} that "
            "ssh_service.recording_quota_mib gives them",
            hint=f"see why auth does not take them (the daemon's log says it), move broken ones out of {root}, "
            "or set a larger quota",
        )
