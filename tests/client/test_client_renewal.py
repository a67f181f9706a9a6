"""When a login looks whether the authorities are others, and when it renews: seldom at rest, often in a rotation."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from teleport.client import renewal
from teleport.client.home import Home
from teleport.client.renewal import Due, Seen

NOW = datetime(2026, 11, 28, 10, 0, tzinfo=UTC)
PROXY = "proxy.example.test"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def due(home: Home, seconds: float) -> Due:
    return renewal.due(home, PROXY, NOW + timedelta(seconds=seconds))


def look(home: Home, seconds: float, *, rotating: bool = False, asked_for: str = "") -> None:
    """The proxy was asked then."""
    when = (NOW + timedelta(seconds=seconds)).timestamp()
    renewal._remember(home, PROXY, Seen(when, rotating, asked_for))


def test_what_was_never_renewed_is_due(home: Home) -> None:
    assert due(home, 0) is Due.RENEW


def test_at_rest_it_is_looked_every_ten_seconds_and_renewed_every_ten_minutes(home: Home) -> None:
    renewal.mark(home, PROXY, NOW, worked=True)
    look(home, 0)
    assert due(home, renewal.LOOK - 1) is Due.NOTHING
    assert due(home, renewal.LOOK + 1) is Due.LOOK
    look(home, renewal.FRESH)
    assert due(home, renewal.FRESH + 1) is Due.RENEW


def test_in_a_rotation_it_is_looked_every_second(home: Home) -> None:
    renewal.mark(home, PROXY, NOW, worked=True)
    look(home, 0, rotating=True)
    assert due(home, renewal.BUSY / 2) is Due.NOTHING
    assert due(home, renewal.BUSY * 1.5) is Due.LOOK


def test_a_failure_is_left_alone_for_a_minute_and_in_a_rotation_for_a_second(home: Home) -> None:
    renewal.mark(home, PROXY, NOW, worked=False)
    look(home, 0)
    assert due(home, renewal.RETRY - 1) is Due.NOTHING, "a proxy that is away does not slow down every connection"
    assert due(home, renewal.RETRY + 1) is Due.RENEW
    look(home, 0, rotating=True)
    assert due(home, renewal.BUSY * 2) is Due.RENEW


def test_stamps_from_the_future_and_nonsense_do_not_count(home: Home) -> None:
    renewal.mark(home, PROXY, NOW + timedelta(hours=1), worked=True)
    assert due(home, 0) is Due.RENEW
    renewal.mark(home, PROXY, NOW, worked=True)
    look(home, 3600)
    assert due(home, 0) is Due.LOOK
    for nonsense in (b"", b"x", b"1 2", b"nan rotating x", b"\xff\xfe"):
        home.write(nonsense, "hosts", f"{PROXY}.looked")
        assert due(home, 0) is Due.LOOK, nonsense


def test_what_is_remembered_comes_back_and_goes_with_the_logout(home: Home) -> None:
    look(home, 0, rotating=True, asked_for="ab" * 32)
    assert renewal.seen(home, PROXY) == Seen(NOW.timestamp(), True, "ab" * 32)
    renewal.mark(home, PROXY, NOW, worked=True)
    renewal.forget(home, PROXY)
    assert renewal.seen(home, PROXY) == Seen()
    assert due(home, 0) is Due.RENEW
