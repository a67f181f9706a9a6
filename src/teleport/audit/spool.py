"""An emitter's own spool: its events on disk until auth has them.

    <dir>/<epoch, 20 digits>/lock                    held by the living process of this epoch
    <dir>/<epoch, 20 digits>/<first seq, 12 digits>.log   segments: whole lines of the chain, in order
    <dir>/last                                       epoch, seq and hash of the last epoch that was delivered whole

Epochs lie side by side, because two processes of one host run side by side during a restart. The lock tells whether
an epoch's process still lives; a dead one's spool is delivered by the next. Everything blocks: callers use threads.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from teleport.audit.appendlog import AppendLog, cut_torn_line, make_directory, sync_directory, whole_lines
from teleport.audit.chain import Linked
from teleport.errors import AlreadyExists, BadRequest

SEGMENT_SIZE = 4 * 1024 * 1024  # bytes after which a new segment begins
_EPOCH = re.compile(r"\d{20}")
_SEGMENT = re.compile(r"\d{12}\.log")


def epoch_directory(directory: Path, epoch: int) -> Path:
    """Where an epoch keeps its segments."""
    return directory / f"{epoch:020d}"


def epochs(directory: Path) -> list[int]:
    """The epochs that have a spool, oldest first."""
    if not directory.is_dir():
        return []
    return sorted(int(entry.name) for entry in directory.iterdir() if _EPOCH.fullmatch(entry.name) and entry.is_dir())


def segments(epoch_dir: Path) -> list[Path]:
    """An epoch's segments, oldest first."""
    if not epoch_dir.is_dir():
        return []
    return sorted(entry for entry in epoch_dir.iterdir() if _SEGMENT.fullmatch(entry.name))


def first_seq(segment: Path) -> int:
    """The seq of a segment's first line, as its name says."""
    return int(segment.stem)


def lock_epoch(epoch_dir: Path) -> int | None:
    """The descriptor of the epoch's lock, or None while its process lives, or when another process has just delivered
    all of it. Close it to let go."""
    try:
        descriptor = os.open(epoch_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def last_line(segment: Path) -> bytes | None:
    """The last whole line of a segment."""
    with segment.open("rb") as file:
        content = file.read(whole_lines(segment))
    lines = content.splitlines()
    return lines[-1] if lines else None


def last_hash(directory: Path, before: int) -> str:
    """The hash of the last event known of an epoch older than `before`; empty when none is known."""
    for epoch in reversed([epoch for epoch in epochs(directory) if epoch < before]):
        for segment in reversed(segments(epoch_directory(directory, epoch))):
            line = last_line(segment)
            if line is not None:
                try:
                    return Linked.parse(line).computed
                except BadRequest:
                    return ""
    try:
        return (directory / "last").read_text().split()[2]
    except (OSError, IndexError):
        return ""


def remember_last(directory: Path, epoch: int, seq: int, digest: str) -> None:
    """Notes the end of an epoch whose spool is about to go. An older epoch never replaces a newer one."""
    path = directory / "last"
    try:
        if int(path.read_text().split()[0]) > epoch:
            return
    except (OSError, IndexError, ValueError):
        pass
    draft = directory / f"last.{epoch}.tmp"
    draft.write_text(f"{epoch} {seq} {digest}\n")
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    draft.replace(path)
    sync_directory(directory)


def recover_epoch(epoch_dir: Path) -> None:
    """Cuts the torn last line that a killed process left. Only under the epoch's lock."""
    for segment in segments(epoch_dir)[-1:]:
        cut_torn_line(segment)


def read_lines(epoch_dir: Path, start: int, limit: int, max_bytes: int, durable: int | None) -> list[bytes]:
    """Up to `limit` lines from seq `start` on, not past `durable` when given; empty when there is none."""
    found: list[bytes] = []
    size = 0
    files = segments(epoch_dir)
    for index, segment in enumerate(files):
        if index + 1 < len(files) and first_seq(files[index + 1]) <= start:
            continue
        seq = first_seq(segment)
        if seq > start + len(found):
            break  # delivered and removed, or damaged: the caller sees that nothing fits
        with segment.open("rb") as file:
            for raw in file:
                if not raw.endswith(b"\n") or (durable is not None and seq > durable):
                    return found
                if seq >= start:
                    found.append(raw[:-1])
                    size += len(raw)
                    if len(found) >= limit or size >= max_bytes:
                        return found
                seq += 1
    return found


def drop_delivered(epoch_dir: Path, next_seq: int) -> None:
    """Removes the segments all of whose events are before `next_seq`, except the last one."""
    files = segments(epoch_dir)
    for segment, following in itertools.pairwise(files):
        if first_seq(following) <= next_seq:
            segment.unlink()


def drop_epoch(directory: Path, epoch: int, descriptor: int) -> None:
    """Removes a delivered epoch's spool and lets its lock go."""
    epoch_dir = epoch_directory(directory, epoch)
    for segment in segments(epoch_dir):
        segment.unlink()
    (epoch_dir / "lock").unlink(missing_ok=True)
    os.close(descriptor)
    epoch_dir.rmdir()
    sync_directory(directory)


def undelivered(directory: Path) -> Iterator[bytes]:
    """All lines that the spools of this host still hold."""
    for epoch in epochs(directory):
        for segment in segments(epoch_directory(directory, epoch)):
            with segment.open("rb") as file:
                for raw in file:
                    if raw.endswith(b"\n"):
                        yield raw[:-1]


@dataclass(slots=True)
class Writer:
    """The living epoch's end of its spool: appends whole lines, a new segment now and then."""

    directory: Path
    epoch_dir: Path
    lock: int
    next_seq: int = 1
    log: AppendLog | None = None
    syncs: int = 0  # how often data was made durable, for measuring

    @classmethod
    def open(cls, directory: Path, epoch: int) -> Writer:
        """Makes the epoch's spool and locks it; `AlreadyExists` when this epoch has been used before."""
        make_directory(directory, 0o700)
        epoch_dir = epoch_directory(directory, epoch)
        make_directory(epoch_dir, 0o700)
        lock = lock_epoch(epoch_dir)
        if lock is None or segments(epoch_dir):
            if lock is not None:
                os.close(lock)
            raise AlreadyExists(
                f"epoch {epoch} of the audit spool {directory} is in use or has been used",
                hint="each run of a daemon on a host needs an epoch of its own, larger than those before",
            )
        return cls(directory, epoch_dir, lock)

    def append(self, lines: list[bytes]) -> None:
        """Durable, or none of them and a `TeleportError`."""
        if self.log is not None and self.log.length >= SEGMENT_SIZE:
            self.log.close()
            self.log = None
        if self.log is None:
            self.log = AppendLog(self.epoch_dir / f"{self.next_seq:012d}.log", 0o600)
        self.log.append(lines)
        self.next_seq += len(lines)
        self.syncs += 1

    def close(self) -> None:
        """Closes files and lets the lock go; what is not delivered stays for the next process."""
        if self.log is not None:
            self.log.close()
            self.log = None
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1
