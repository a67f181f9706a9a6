"""What can only be looked up slowly is looked up by the way, in a thread, for `/metrics`: disks and folders.

A network file system that is away holds up whoever asks it, for hours. Here that is one thread; what was seen last is
shown meanwhile, and how long ago that was.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from teleport import counted
from teleport.daemon.monitoring.metrics import Gauge, Metrics
from teleport.recording.directory import Suffix

log = logging.getLogger(__name__)

EVERY: Final = 5.0  # seconds
USED: Final = Gauge("audit_percentage_disk_space_used", "How full the disk of the audit log is, or of the spool.")
FULL: Final = Gauge("teleport_disk_used_percent", "How full the disk of a folder is, in percent.", "place")
FREE: Final = Gauge("teleport_disk_free_bytes", "Bytes that this daemon may still write, by folder.", "place")
READ_ONLY: Final = Gauge("teleport_disk_read_only", "1 where a folder's file system takes no writes.", "place")
LOOKED: Final = Gauge("teleport_disk_looked_seconds", "How long ago disks and folders were looked at.")
WAITING: Final = Gauge(
    "teleport_recordings_waiting", "Recordings here that wait to be brought on, by where they go.", "to"
)
OLDEST: Final = Gauge("teleport_recordings_waiting_oldest_seconds", "How long the oldest of them has waited.", "to")


@dataclass(slots=True)
class Seen:
    """What one look saw."""

    used: float = 0.0
    full: Mapping[str, float] = field(default_factory=dict)
    free: Mapping[str, float] = field(default_factory=dict)
    read_only: Mapping[str, float] = field(default_factory=dict)
    waiting: Mapping[str, float] = field(default_factory=dict)
    oldest: Mapping[str, float] = field(default_factory=dict)


class Looking:
    """`run` looks; `add` shows."""

    def __init__(self, places: Mapping[str, Path], log_place: str, leaving: Mapping[str, list[Path]]) -> None:
        """`places` by name, `log_place` is the one of them with audit events; `leaving`: folders of recordings by
        where they are brought to, with those of earlier runs below."""
        self._places, self._log_place, self._leaving = places, log_place, leaving
        self._at = time.monotonic()
        self.seen = Seen()

    def add(self, metrics: Metrics) -> None:
        metrics.add(USED, lambda: self.seen.used)
        metrics.add(FULL, lambda: self.seen.full)
        metrics.add(FREE, lambda: self.seen.free)
        metrics.add(READ_ONLY, lambda: self.seen.read_only)
        metrics.add(WAITING, lambda: self.seen.waiting)
        metrics.add(OLDEST, lambda: self.seen.oldest)
        metrics.add(LOOKED, lambda: time.monotonic() - self._at)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                self.seen = await asyncio.to_thread(self.look)
                self._at = time.monotonic()
            except OSError as error:
                counted.DISK_FAILED.add()
                log.warning("a disk cannot be looked at: %s", error)
            await asyncio.sleep(EVERY)

    def look(self) -> Seen:
        """Blocks. Raises `OSError`."""
        found = {name: os.statvfs(path) for name, path in self._places.items() if path.exists()}
        ours = found.get(self._log_place)
        waiting = {to: _ages(folders) for to, folders in self._leaving.items()}
        return Seen(
            _percent(ours) if ours is not None else 0.0,
            {name: _percent(one) for name, one in found.items()},
            {name: one.f_bavail * one.f_frsize for name, one in found.items()},
            {name: 1 if one.f_flag & os.ST_RDONLY else 0 for name, one in found.items()},
            {to: len(ages) for to, ages in waiting.items()},
            {to: max(ages, default=0.0) for to, ages in waiting.items()},
        )


def _percent(disk: os.statvfs_result) -> float:
    return round(100 * (1 - disk.f_bavail / disk.f_blocks), 2) if disk.f_blocks else 0.0


def _ages(folders: list[Path]) -> list[float]:
    """Seconds since each finished recording below `folders` was written."""
    now = time.time()
    return [age for folder in folders for age in _ages_in(folder, now, 1)]


def _ages_in(folder: Path, now: float, deeper: int) -> list[float]:
    found: list[float] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(Suffix.DONE):
                    try:
                        found.append(max(0.0, now - entry.stat().st_mtime))
                    except FileNotFoundError:  # it was brought there at this moment
                        continue
                elif deeper and entry.is_dir(follow_symlinks=False):
                    found += _ages_in(Path(entry.path), now, deeper - 1)
    except FileNotFoundError:
        return found
    return found
