"""Moments as people type them for a range: `-24h`, a date, RFC 3339. Pure: the time of now is handed in."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from teleport.errors import BadRequest
from teleport.resources.values import Duration

FORMS: Final = "-24h, now, 2024-05-31, 2024-05-31T12:00:00Z or with a zone such as +02:00"
_DAYS = re.compile(r"([0-9]{1,6})d")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def parse_moment(text: str, now: datetime, *, end: bool = False) -> datetime:
    """The UTC time that `text` means. A date is its beginning in UTC; as the `end` of a range, the end of that day.

    Raises `BadRequest` for anything else, a time without a zone included.
    """
    given = text.strip()
    try:
        if given == "now":
            return now.astimezone(UTC)
        if given.startswith("-"):
            return now.astimezone(UTC) - _span(given[1:])
        when = datetime.fromisoformat(given)
        if _DATE.fullmatch(given):
            return when.replace(tzinfo=UTC) + timedelta(days=1 if end else 0)
        if when.tzinfo is None:
            raise BadRequest(f"{given!r} names no zone", hint=f"for UTC write {given.replace(' ', 'T')}Z")
        return when.astimezone(UTC)
    except (ValueError, OverflowError):
        raise BadRequest(f"{given[:80]!r} is no time", hint=f"write {FORMS}") from None


def _span(text: str) -> timedelta:
    days = _DAYS.fullmatch(text)
    return timedelta(days=int(days[1])) if days else Duration.parse(text).timedelta


def parse_range(start: str, end: str, now: datetime) -> tuple[datetime | None, datetime | None]:
    """`--from` and `--to`; an empty one does not restrict. Raises `BadRequest`, also for a range that holds nothing."""
    first = parse_moment(start, now) if start else None
    last = parse_moment(end, now, end=True) if end else None
    if first is not None and last is not None and first >= last:
        raise BadRequest(f"the range from {start} to {end} holds nothing", hint="--from is the earlier one")
    return first, last
