"""Reading the log in the order in which auth took it in, from a cursor on: each event once, none left out.

Only what is kept for good is handed out: up to the position that intake saves after each batch. What follows may be
cut again when a write fails. Lines come as they are stored. A cursor that does not fit the log is refused: its reader
would miss events, and must know (`docs/audit-log.md`).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from teleport.audit.appendlog import whole_lines
from teleport.audit.cursor import CHECKED, Cursor, StorePlace, check_of
from teleport.audit.sinks import day_files, in_order
from teleport.errors import NotFound

MOST_LINES: Final = 1000  # of one stretch
MOST_BYTES: Final = 2 * 1024 * 1024  # of the lines of one stretch; one more line may go beyond
MOST_READ: Final = 16 * 1024 * 1024  # of the log, for one stretch, when few lines are wanted


class _Name(msgspec.Struct):
    event: str = ""


_NAME = msgspec.json.Decoder(_Name)


def is_of(event: str, types: Collection[str]) -> bool:
    """Whether an event's name is one of `types`, or matches one that ends with a star; no types mean all."""
    return not types or any(event == one or ("*" in one and fnmatchcase(event, one)) for one in types)


@dataclass(frozen=True, slots=True)
class Taken:
    """A line, and where reading goes on behind it."""

    line: bytes
    store: str
    place: StorePlace


@dataclass(frozen=True, slots=True)
class Stretch:
    """What follows a cursor. `cursor` is behind all of it, and behind lines of other types that follow."""

    taken: tuple[Taken, ...]
    cursor: Cursor
    more: bool  # there is more by now


def stores_of(directory: Path) -> list[Path]:
    """The stores of all auth servers."""
    return sorted(one for one in directory.iterdir() if one.is_dir() and not one.is_symlink() and day_files(one))


def end_of(directory: Path, durable: Mapping[str, str]) -> Cursor:
    """The cursor behind everything that is kept now. Blocks."""
    cursor = Cursor()
    for store in stores_of(directory):
        path = day_files(store)[-1]
        limit = _limit(store, path, durable)
        with path.open("rb") as file:
            cursor = cursor.after(store.name, StorePlace(path.name, limit, _check_at(file, limit)))
    return cursor


def read_on(
    directory: Path,
    cursor: Cursor,
    durable: Mapping[str, str],
    *,
    types: Collection[str] = (),
    limit: int = MOST_LINES,
    only: str | None = None,
) -> Stretch:
    """The next lines, at most `limit`. Blocks.

    `durable` says of stores how far they are kept for good; others are written by nobody. `only` names a store when the
    others are not wanted. Raises `NotFound` when the log does not hold what the cursor says was read.
    """
    stores = [store for store in stores_of(directory) if only in (None, store.name)]
    names = {store.name for store in stores}
    for gone in sorted(cursor.places.keys() - names if only is None else ()):
        raise _lost(f"the store of auth server {gone} is not there")
    taken: list[Taken] = []
    more = False
    for index, store in enumerate(stores):
        share = max(1, (limit - len(taken)) // (len(stores) - index))  # none starves behind a busy one
        place = start = cursor.at(store.name)
        count, size, read = 0, 0, 0
        for line, place in _lines(store, start, durable):
            read += len(line) + 1
            if _wanted(line, types):
                taken.append(Taken(line, store.name, place))
                count, size = count + 1, size + len(line)
            if count >= share or size >= MOST_BYTES // len(stores) or read >= MOST_READ // len(stores):
                more = True
                break
        if place.file:
            cursor = cursor.after(store.name, place)
    return Stretch(tuple(taken), cursor, more)


def _wanted(line: bytes, types: Collection[str]) -> bool:
    try:
        name = _NAME.decode(line).event
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return not types  # damage: shown, `verify` names it
    return is_of(name, types)


def _lines(store: Path, start: StorePlace, durable: Mapping[str, str]) -> Iterator[tuple[bytes, StorePlace]]:
    files = [path for path in day_files(store) if path.name >= start.file]
    if start.file and (not files or files[0].name != start.file):
        raise _lost(f"its file {store.name}/{start.file} is gone")
    for path in files:
        offset = start.offset if path.name == start.file else 0
        with path.open("rb") as file:
            if offset and (os.fstat(file.fileno()).st_size < offset or _check_at(file, offset) != start.check):
                raise _lost(f"its file {store.name}/{path.name} is not the one that was read")
            limit = _limit(store, path, durable)
            file.seek(offset)
            before = b""
            while offset < limit and (raw := file.readline()).endswith(b"\n"):
                offset += len(raw)
                before = raw if len(raw) >= CHECKED else (before + raw)[-CHECKED:]
                check = check_of(before) if len(before) >= CHECKED else _check_at(file, offset)
                yield raw[:-1], StorePlace(path.name, offset, check)


def _limit(store: Path, path: Path, durable: Mapping[str, str]) -> int:
    """How many bytes of a file may be read."""
    if store.name not in durable:
        return whole_lines(path)
    name, length = in_order(durable[store.name])
    if path.name == name:
        return length
    return whole_lines(path) if path.name < name else 0


def _check_at(file: BinaryIO, offset: int) -> str:
    """The check of a place; the file goes on being read where it was."""
    was = file.tell()
    file.seek(max(0, offset - CHECKED))
    before = file.read(min(offset, CHECKED))
    file.seek(was)
    return check_of(before)


def _lost(why: str) -> NotFound:
    return NotFound(
        f"the audit log is not the one that this cursor was made on, or was pruned since: {why}",
        hint="events may be missing in between: compare with tctl audit ls, then begin again with a new cursor",
    )
