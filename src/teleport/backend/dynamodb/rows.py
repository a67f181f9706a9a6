"""What the rows of the table look like. Pure.

    kind        key                      what
    meta        head                     the last revision, the version of this layout, and whose rows these are
    meta        checkpoint               up to which revision items are written out, and the log is not kept any more
    log         <revision>[.<part>]      the changes that were committed together, by the last revision of theirs
    item        <key>                    an item as of the checkpoint, or of one that is being made
    part/<key>  <revision>.<part>        more of an item's value, which is larger than a row may be

Numbers in keys are padded, so that their order is that of numbers. `ttl` is when DynamoDB may remove a row by itself:
some time after the item expired, which nobody relies on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from teleport.backend.feed import Entry
from teleport.backend.interface import Deleted, Event, Item, Put

Row = dict[str, dict[str, Any]]
PIECE: Final = 300 * 1024  # bytes of a value in one row, which may have 400 KiB in all
TTL_LATER: Final = timedelta(days=1)  # after the expiry: sweeping is to find it first, and tell watchers
HEAD: Final[Row] = {"kind": {"S": "meta"}, "key": {"S": "head"}}
CHECKPOINT: Final[Row] = {"kind": {"S": "meta"}, "key": {"S": "checkpoint"}}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICRO: Final = timedelta(microseconds=1)

_Change = tuple[int, str, bytes | None, int | None]  # revision, key, value or none where deleted, expiry


@dataclass(frozen=True, slots=True)
class Record:
    """What was committed together: the revisions after `before` up to that of its last entry."""

    before: int
    by: str  # the process, and the number of its transaction
    at: int  # microseconds, by that process's clock
    entries: tuple[Entry, ...]
    size: int = 0  # bytes in the log
    rows: int = 1  # there

    @property
    def revision(self) -> int:
        return self.entries[-1].revision


def text(value: str) -> dict[str, Any]:
    return {"S": value}


def number(value: int) -> dict[str, Any]:
    return {"N": str(value)}


def padded(revision: int) -> str:
    return f"{revision:020d}"


def int_of(row: Mapping[str, Any], name: str, otherwise: int = 0) -> int:
    return int(row[name]["N"]) if name in row else otherwise


def micros(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICRO


def log_rows(record: Record) -> list[Row]:
    """The record and, when it is large, its further parts."""
    changes: list[_Change] = [_change(event) for entry in record.entries for event in entry.events]
    pieces = _pieces(msgspec.msgpack.encode(changes))
    first: Row = {
        "kind": text("log"),
        "key": text(padded(record.revision)),
        "before": number(record.before),
        "by": text(record.by),
        "at": number(record.at),
        "parts": number(len(pieces)),
        "data": {"B": pieces[0]},
    }
    return [first] + [
        {"kind": text("log"), "key": text(f"{padded(record.revision)}.{at:02d}"), "data": {"B": piece}}
        for at, piece in enumerate(pieces[1:], 1)
    ]


def records_of(rows: Sequence[Mapping[str, Any]]) -> list[Record]:
    """The records of rows of the log in order; one whose last parts are missing is left out, with all after it."""
    found: list[Record] = []
    at = 0
    while at < len(rows):
        first = rows[at]
        parts = int_of(first, "parts", 0)
        together = rows[at : at + parts]
        if not parts or len(together) < parts or any("parts" in row for row in together[1:]):
            break
        data = b"".join(bytes(row["data"]["B"]) for row in together)
        entries = _entries(msgspec.msgpack.decode(data, type=list[_Change]))
        found.append(Record(int_of(first, "before"), first["by"]["S"], int_of(first, "at"), entries, len(data), parts))
        at += parts
    return found


def item_rows(item: Item) -> list[Row]:
    """The row of an item and, when it is large, those of its further parts."""
    pieces = _pieces(bytes(item.value))
    first: Row = {
        "kind": text("item"),
        "key": text(item.key),
        "revision": number(item.revision),
        "parts": number(len(pieces)),
        "data": {"B": pieces[0]},
    }
    if item.expires is not None:
        first["expires"] = number(micros(item.expires))
        first["ttl"] = number(int((item.expires + TTL_LATER - _EPOCH).total_seconds()) + 1)
    return [first] + [
        {
            "kind": text(f"part/{item.key}"),
            "key": text(f"{padded(item.revision)}.{at:02d}"),
            "data": {"B": piece},
        }
        for at, piece in enumerate(pieces[1:], 1)
    ]


def item_of(row: Mapping[str, Any], more: Sequence[Mapping[str, Any]] = ()) -> Item:
    value = b"".join(bytes(one["data"]["B"]) for one in (row, *more))
    return Item(row["key"]["S"], value, int_of(row, "revision"), _moment(int_of(row, "expires", -1)))


def _pieces(value: bytes) -> list[bytes]:
    return [value[at : at + PIECE] for at in range(0, len(value), PIECE)] or [b""]


def _moment(at: int | None) -> datetime | None:
    return None if at is None or at == -1 else _EPOCH + at * _MICRO


def _change(event: Event) -> _Change:
    if isinstance(event, Deleted):
        return event.revision, event.key, None, None
    item = event.item
    return item.revision, item.key, bytes(item.value), None if item.expires is None else micros(item.expires)


def _entries(changes: Sequence[_Change]) -> tuple[Entry, ...]:
    found: dict[int, list[Event]] = {}
    for revision, key, value, expires in changes:
        event: Event = Deleted(key, revision) if value is None else Put(Item(key, value, revision, _moment(expires)))
        found.setdefault(revision, []).append(event)
    return tuple(Entry(revision, tuple(events)) for revision, events in found.items())
