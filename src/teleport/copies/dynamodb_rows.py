"""What the rows of a table of DynamoDB with audit events look like. Pure.

    kind          key                     what
    meta          head                    whose rows these are, and the version of this layout
    day           <day>                   a UTC day, `2021-05-01`, of which there are events
    events/<day>  <microseconds>/<id>     an event, by its own time on that day; `id` is the SHA-256 of the stored line
    damaged       <id>                    a line of which nothing can be read
    brought       <store>                 how far events of that auth server's store were brought (`marks`)

The key of an event comes from its line alone, so that an event that comes twice is once. `ttl` (seconds since 1970) is
when DynamoDB may remove it: counted from when auth took it in. A host that lies about the time has no event removed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import msgspec

from teleport.audit.search import read_head
from teleport.backend.dynamodb.rows import Row, number, text

PROGRAM: Final = "teleport-access-events"
VERSION: Final = 1
HEAD: Final[Row] = {"kind": {"S": "meta"}, "key": {"S": "head"}}
DAY: Final = "day"
EVENTS: Final = "events/"
DAMAGED: Final = "damaged"
BROUGHT: Final = "brought"
DIGITS: Final = 11  # of the microseconds of a day
_MICRO: Final = timedelta(microseconds=1)


class _Besides(msgspec.Struct):
    """What is read of a line beside what is searched."""

    code: str = ""
    received: datetime | None = None


_BESIDES = msgspec.json.Decoder(_Besides)


def event_row(line: bytes, keep: timedelta | None, now: datetime) -> Row:
    """The row of a stored line. `now` counts for one that does not say when auth took it in."""
    name = hashlib.sha256(line).hexdigest()
    head = read_head(line)
    try:
        besides = _BESIDES.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        besides = _Besides()
    row: Row = {"line": text(line.decode("utf-8", "replace"))}
    if head is None:
        row |= {"kind": text(DAMAGED), "key": text(name)}
    else:
        when = head.time.replace(tzinfo=UTC) if head.time.tzinfo is None else head.time.astimezone(UTC)
        row |= {"kind": text(EVENTS + when.date().isoformat()), "key": text(f"{place(when)}/{name}")}
        told = {
            "time": when.isoformat(),
            "event": head.event,
            "code": besides.code,
            "user": head.user,
            "sid": head.sid,
            "host": head.server_id,
            "uid": head.uid,
        }
        row |= {column: text(value) for column, value in told.items() if value}
    if keep is not None:
        taken = besides.received or now
        row["ttl"] = number(int((taken + keep).timestamp()))
    return row


def place(when: datetime) -> str:
    """The beginning of the key of events of that moment, in UTC."""
    midnight = when.replace(hour=0, minute=0, second=0, microsecond=0)
    return f"{(when - midnight) // _MICRO:0{DIGITS}d}"


def day_of(row: Mapping[str, Any]) -> str:
    """The day of the row of an event; empty for one of which nothing can be read."""
    kind: str = row["kind"]["S"]
    return kind.removeprefix(EVENTS) if kind.startswith(EVENTS) else ""


def day_row(day: str) -> Row:
    return {"kind": text(DAY), "key": text(date.fromisoformat(day).isoformat())}


def mark_row(store: str, place: str) -> Row:
    return {"kind": text(BROUGHT), "key": text(store), "place": text(place)}
