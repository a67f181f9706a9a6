"""Where the processes of one host record, so that none takes the recordings of another that lives.

    <root>/<epoch, 20 digits>/lock      held by the process of this epoch for as long as it lives
    <root>/<epoch, 20 digits>/<sid>...  what it records, and what waits to be uploaded

Whoever finds a folder that nobody holds ends what is in it (`recovery`) and takes it into its own. Versions before this
one kept everything in `<root>` itself; that is taken over, too. Everything blocks: callers use threads.
"""

from __future__ import annotations

import fcntl
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from teleport.errors import AlreadyExists, TeleportError
from teleport.recording.directory import RecordingDirectory, Suffix, file_name

LOCK: Final = "lock"
_EPOCH = re.compile(r"\d{20}")


@dataclass(frozen=True, slots=True)
class AbandonedFolder:
    """A folder whose process is gone, held by us; `close` it."""

    path: Path
    lock: int  # descriptor; -1 for the root

    def close(self) -> None:
        if self.lock >= 0:
            os.close(self.lock)


def begin(root: Path, epoch: int) -> tuple[Path, int]:
    """Makes the folder of this process's epoch; its path, and the descriptor that holds it. Raises `AlreadyExists` when
    it is held already, `TeleportError` when it cannot be made."""
    path = root / f"{epoch:020d}"
    RecordingDirectory(path).close()  # makes it, privately
    held = _hold(path)
    if held is None:
        raise AlreadyExists(f"another process records in {path}", hint="each run of a daemon needs an epoch of its own")
    return path, held


def abandoned(root: Path, epoch: int) -> list[AbandonedFolder]:
    """The folders whose processes are gone, oldest first; `epoch` is our own."""
    found = [AbandonedFolder(root, -1)] if _recordings(root) else []
    for entry in sorted(root.iterdir()):
        if not _EPOCH.fullmatch(entry.name) or int(entry.name) == epoch or not entry.is_dir():
            continue
        if int(entry.name) > epoch and not (entry / LOCK).exists():
            continue  # of a child that is just beginning
        held = _hold(entry)
        if held is not None:
            found.append(AbandonedFolder(entry, held))
    return found


def take_over(folder: AbandonedFolder, own: Path) -> list[str]:
    """Moves what has ended into our own folder and removes the other when it is empty; the ids to upload.

    What recovery could not end or remove stays, and is tried again.
    """
    for name in _recordings(folder.path):
        if not name.endswith((Suffix.NEW, Suffix.PART, Suffix.OPEN)):
            (folder.path / name).rename(own / name)
    directory = RecordingDirectory(own)
    try:
        directory.sync()
        finished = directory.ids(Suffix.DONE)
    finally:
        directory.close()
    if folder.lock >= 0 and not _recordings(folder.path):
        with suppress(OSError):  # something that is not ours lies in it
            (folder.path / LOCK).unlink(missing_ok=True)
            folder.path.rmdir()
    return finished


def holds_any(folder: Path) -> bool:
    """Whether a recording is being made here, or waits to be uploaded."""
    return any(name.endswith((Suffix.NEW, Suffix.PART, Suffix.DONE)) for name in _recordings(folder))


def _recordings(folder: Path) -> list[str]:
    """The names in a folder that are ours."""
    found = []
    for entry in os.scandir(folder):
        stem = entry.name.partition(".")[0]
        with suppress(TeleportError):
            if entry.name in {file_name(stem, suffix) for suffix in Suffix} and entry.is_file(follow_symlinks=False):
                found.append(entry.name)
    return sorted(found)


def _hold(folder: Path) -> int | None:
    try:
        held = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None  # another process has just taken it over
    except OSError as error:
        raise TeleportError(f"the recordings folder {folder} cannot be locked: {error.strerror}") from error
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        return None
    return held
