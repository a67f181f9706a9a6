"""What makes a directory one host: its lock, its UUID, and the count of its runs.

Everything held for a host is keyed by (UUID, epoch): a second process with the same directory is refused, and what a
killed process left can be told from what this one does (design, decision 14). The one exception is a child that the
running daemon started to take its place (`handover`): it is given the descriptor that holds the lock. The lock belongs
to the open file, not to the process, so that both hold it then, and nobody else gets it while either lives.
"""

from __future__ import annotations

import fcntl
import logging
import os
import stat
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from teleport.daemon.privacy import close_to_others
from teleport.errors import AlreadyExists, NotFound, TeleportError

log = logging.getLogger(__name__)

UNFINISHED: Final = "restore.unfinished"
"""In `data_dir` while a backup is being laid out there."""


@dataclass(frozen=True, slots=True)
class Host:
    """This run of the daemon on this host. The lock is held for as long as the process lives."""

    data_dir: Path
    host_id: str
    epoch: int
    lock: int  # descriptor

    @property
    def log_dir(self) -> Path:
        return self.data_dir / "log"

    @property
    def proc_dir(self) -> Path:
        return self.data_dir / "proc"


def open_host(data_dir: Path, inherited: int | None = None) -> Host:
    """Makes or finds the host in `data_dir`. Raises `AlreadyExists` when another daemon uses it, `TeleportError` when
    it cannot be used or other users could read it.

    `inherited` is the descriptor of the lock that a parent handed over. It counts only when it has the lock of this
    very directory; otherwise this is a stranger, as any other. It is closed or becomes `Host.lock`.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_private(data_dir)
        lock = os.open(data_dir / "daemon.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if (data_dir / UNFINISHED).exists():
            os.close(lock)
            raise TeleportError(
                f"a restore into data_dir {data_dir} did not come to its end",
                hint=f"remove what is in {data_dir}, then: tctl backup restore FILE",
            )
    except OSError as error:
        raise TeleportError(
            f"data_dir {data_dir} cannot be used: {error.strerror}",
            hint="set teleport.data_dir to a directory of the user that runs the daemon, or run as root",
        ) from None
    if inherited is not None:
        lock, other = (inherited, lock) if _same_file(inherited, lock) else (lock, inherited)
        os.close(other)
    try:
        # granted when it is free, and when this very descriptor (of a parent) has it
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise AlreadyExists(
            f"another daemon uses data_dir {data_dir}", hint="stop it, or set another teleport.data_dir for this one"
        ) from None
    try:
        for said in close_to_others(data_dir):
            log.warning("%s", said)
        return Host(data_dir, _host_id(data_dir), _next_epoch(data_dir), lock)
    except BaseException as error:
        os.close(lock)
        if isinstance(error, OSError):
            raise TeleportError(
                f"data_dir {data_dir} cannot be written: {error.strerror}",
                hint="create it for the user who runs the daemon, or set teleport.data_dir",
            ) from None
        raise


def hold_while_down(data_dir: Path, command: str = "teleport repair") -> int:
    """The descriptor of the lock on `data_dir`, for whoever works there while no daemon does; it is no run of one.

    Raises `NotFound` when no daemon ever ran there, `AlreadyExists` while one runs, and `TeleportError` for another
    user than the daemon's, whose files the daemon could not open afterwards.
    """
    try:
        owner = data_dir.stat().st_uid
        if owner != os.geteuid():
            raise TeleportError(
                f"data_dir {data_dir} belongs to the uid {owner}, and this is the uid {os.geteuid()}",
                hint=f"run it as that user: sudo -u '#{owner}' {command}",
            )
        lock = os.open(data_dir / "daemon.lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise NotFound(
            f"no daemon has run with data_dir {data_dir} yet", hint="name its configuration: --config=FILE"
        ) from None
    except OSError as error:
        raise TeleportError(
            f"data_dir {data_dir} cannot be used: {error.strerror}", hint="run it as the user who runs the daemon"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise AlreadyExists(
            f"a daemon uses data_dir {data_dir}", hint="while it runs, tctl on this host can do the same; else stop it"
        ) from None
    return lock


def _same_file(one: int, other: int) -> bool:
    try:
        return os.path.samestat(os.fstat(one), os.fstat(other))
    except OSError:
        return False


def _check_private(data_dir: Path) -> None:
    """Closes a directory of ours to others; keys and recordings are in it."""
    found = data_dir.stat()
    if found.st_uid not in (os.geteuid(), 0):
        raise TeleportError(
            f"data_dir {data_dir} belongs to another user (uid {found.st_uid})",
            hint="chown it to the user that runs the daemon",
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        data_dir.chmod(0o700)


def write_private(path: Path, content: str | bytes, mode: int = 0o600, *, sync_name: bool = True) -> None:
    """Writes a file so that it is whole or not there, readable by its owner only.

    Without `sync_name` the caller calls `sync_folder` once for several files.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    temporary.unlink(missing_ok=True)  # left by a crash of a process with the same id, as in containers
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if sync_name:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Names that were made, changed or removed in `folder` survive a power cut from here on."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _host_id(data_dir: Path) -> str:
    path = data_dir / "host_uuid"
    try:
        return str(uuid.UUID(path.read_text().strip()))
    except FileNotFoundError:
        text = str(uuid.uuid4())
        write_private(path, text + "\n")
        return text
    except ValueError:
        raise TeleportError(f"{path} does not hold the UUID of this host", hint="restore it from a backup") from None


def _next_epoch(data_dir: Path) -> int:
    path = data_dir / "epoch"
    # Children of two processes of this host could count at the same moment; this lock goes with its descriptor.
    counting = os.open(data_dir / "epoch.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(counting, fcntl.LOCK_EX)
        return _count(path)
    finally:
        os.close(counting)


def _count(path: Path) -> int:
    following = last_epoch(path.parent) + 1
    write_private(path, f"{following}\n")
    return following


def last_epoch(data_dir: Path) -> int:
    """The newest run of this host so far; 0 before the first."""
    path = data_dir / "epoch"
    try:
        last = int(path.read_text())
        if last < 0:
            raise ValueError("negative")
    except FileNotFoundError:
        return 0
    except ValueError:
        raise TeleportError(f"{path} does not hold a number", hint="restore it from a backup") from None
    return last
