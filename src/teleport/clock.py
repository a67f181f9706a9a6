"""Time as a value that is handed in: pure code takes `now`, long-lived objects take a `Clock`.

All times are aware and in UTC. `rfc3339` is how they are written wherever a program reads them (RFC 3339).
"""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Where long-lived objects read the time."""

    def now(self) -> datetime:
        """The wall-clock time, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back, for measuring how long something took."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


def how_long(seconds: float) -> str:
    """A span as people say it: `1h5m`, `30m`, `45s`."""
    whole = int(seconds + 0.5)
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    parts = [f"{hours}h" if hours else "", f"{minutes}m" if minutes else "", f"{rest}s" if rest and not hours else ""]
    return "".join(parts) or "0s"


def rfc3339(when: datetime) -> str:
    """`when` in RFC 3339, in UTC, with a trailing Z; microseconds only when there are any."""
    with suppress(OverflowError):  # at the edge of the calendar it stays in the zone that it has
        when = when.astimezone(UTC)
    text = when.isoformat(timespec="microseconds" if when.microsecond else "seconds")
    return text.replace("+00:00", "Z")


def parse_rfc3339(text: str) -> datetime:
    """The aware UTC time that `text` names; `ValueError` when it is not RFC 3339 with a zone."""
    when = datetime.fromisoformat(text)
    if when.tzinfo is None:
        raise ValueError(f"{text!r} names no zone")
    return when.astimezone(UTC)
