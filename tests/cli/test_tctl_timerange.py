"""Moments as people type them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from teleport.cli.tctl.timerange import parse_moment, parse_range
from teleport.errors import BadRequest

NOW = datetime(2024, 6, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("now", NOW),
        ("-24h", NOW - timedelta(hours=24)),
        ("-1h30m", NOW - timedelta(minutes=90)),
        ("-7d", NOW - timedelta(days=7)),
        ("2024-05-31", datetime(2024, 5, 31, tzinfo=UTC)),
        ("2024-05-31T10:00:00Z", datetime(2024, 5, 31, 10, tzinfo=UTC)),
        ("2024-05-31T10:00:00+02:00", datetime(2024, 5, 31, 8, tzinfo=UTC)),
        ("2024-05-31 10:00:00.5Z", datetime(2024, 5, 31, 10, 0, 0, 500000, tzinfo=UTC)),
    ],
)
def test_what_people_type_is_a_moment_in_utc(text: str, meant: datetime) -> None:
    """Relative times, dates and RFC 3339 with any zone."""
    assert parse_moment(text, NOW) == meant


@pytest.mark.parametrize(
    "text", ["", "24h", "-", "-24", "-5x", "yesterday", "2024-05-31T10:00:00", "2024-13-01", "-9999999d"]
)
def test_what_could_mean_two_things_is_refused(text: str) -> None:
    """A time without a zone among them."""
    with pytest.raises(BadRequest):
        parse_moment(text, NOW)


def test_a_range_to_a_date_holds_that_day() -> None:
    """From the beginning of the first to the end of the last; an empty or reversed range is refused."""
    day = datetime(2024, 5, 31, tzinfo=UTC)
    assert parse_range("2024-05-31", "2024-05-31", NOW) == (day, day + timedelta(days=1))
    assert parse_range("", "", NOW) == (None, None)
    with pytest.raises(BadRequest):
        parse_range("-1h", "-2h", NOW)
