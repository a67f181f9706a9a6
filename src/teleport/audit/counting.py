"""How many events of a few sorts happened in each hour, for a picture of the cluster.

Day files only grow, so each line is read once: of every file it is remembered how far it was counted and what was found
in each hour. A call counts for a few seconds at most, goes on where the one before stopped, and says whether it came to
the end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec

from teleport.audit.search import first_file, micros
from teleport.audit.sinks import DAY_GLOB
from teleport.errors import BadRequest

LONGEST: Final = timedelta(days=32)  # that one call may ask for
SECONDS: Final = 3.0  # of one call
_HOUR: Final = 3600
_LOOK: Final = 1000  # lines between two looks at the time
_HOURS_OF_A_FILE: Final = 1000  # hours that are remembered of a file; hosts name any

SERIES: Final = ("sessions", "commands", "logins", "failed_logins", "denied")
_OF_EVENT: Final[Mapping[str, str]] = {
    "session.start": "sessions",
    "exec": "commands",
    "user.login": "logins",
    "auth": "denied",
    "api.denied": "denied",
    "session.request_denied": "denied",
}


class _Head(msgspec.Struct):
    time: datetime
    event: str
    success: bool = True


_HEAD = msgspec.json.Decoder(_Head)


@dataclass(slots=True)
class _File:
    """What was counted of one."""

    read: int = 0  # bytes
    inode: int = 0
    hours: dict[int, list[int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Counts:
    """What was counted: by hour (UTC, its beginning), a number for each of `SERIES`."""

    hours: dict[datetime, tuple[int, ...]]
    complete: bool  # whether the whole range was


class Counter:
    """Counts in the store; keeps what it counted."""

    def __init__(self, directory: Path, seconds: float = SECONDS) -> None:
        """`directory`: the audit store, with one folder for each auth server."""
        self._directory = directory
        self._seconds = seconds
        self._files: dict[Path, _File] = {}
        self._turn = asyncio.Lock()

    async def count(self, start: datetime, end: datetime) -> Counts:
        """The hours from `start` until before `end`. Raises `BadRequest` for a range that is too long or backwards."""
        if not start < end or end - start > LONGEST:
            raise BadRequest(f"a range to count has up to {LONGEST.days} days, and its end after its start")
        async with self._turn:  # one counts, and the others find what it counted
            return await asyncio.to_thread(self._count, start, end)

    def _count(self, start: datetime, end: datetime) -> Counts:
        deadline = time.monotonic() + self._seconds
        earliest = first_file(start)
        every = {path for path in self._directory.glob(f"*/{DAY_GLOB}") if not path.parent.is_symlink()}
        for gone in self._files.keys() - every:
            del self._files[gone]
        complete = True
        found: dict[int, list[int]] = {}
        low, high = micros(start) // (_HOUR * 1_000_000), -(-micros(end) // (_HOUR * 1_000_000))
        for path in sorted((path for path in every if path.name >= earliest), key=lambda path: path.name, reverse=True):
            known = self._files.setdefault(path, _File())
            complete = _go_on(path, known, deadline) and complete
            for hour, numbers in known.hours.items():
                if low <= hour < high:
                    total = found.setdefault(hour, [0] * len(SERIES))
                    for index, number in enumerate(numbers):
                        total[index] += number
        hours = {datetime.fromtimestamp(hour * _HOUR, UTC): tuple(found[hour]) for hour in sorted(found)}
        return Counts(hours, complete)


def _go_on(path: Path, known: _File, deadline: float) -> bool:
    """Counts what is new in a file; whether all of it is counted."""
    try:
        about = path.stat()
        size = about.st_size
        if size < known.read or about.st_ino != known.inode:  # put back from a copy, or pruned
            known.read, known.hours, known.inode = 0, {}, about.st_ino
        if size == known.read:
            return True
        with path.open("rb") as file:
            file.seek(known.read)
            for number, raw in enumerate(file):
                if not raw.endswith(b"\n"):
                    break  # being written
                known.read += len(raw)
                _take(raw, known.hours)
                if number % _LOOK == _LOOK - 1 and time.monotonic() > deadline:
                    return False
    except FileNotFoundError:
        pass  # it was put away meanwhile
    return True


def _take(raw: bytes, hours: dict[int, list[int]]) -> None:
    try:
        head = _HEAD.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return  # damage is `verify`'s to report
    name = _OF_EVENT.get(head.event)
    if name is None:
        return
    if name == "logins" and not head.success:
        name = "failed_logins"
    hour = micros(head.time) // (_HOUR * 1_000_000)
    if hour not in hours and len(hours) >= _HOURS_OF_A_FILE:
        return
    hours.setdefault(hour, [0] * len(SERIES))[SERIES.index(name)] += 1
