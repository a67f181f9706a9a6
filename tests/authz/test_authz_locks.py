"""Locks stop exactly whom they name, in every spelling of a host."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from teleport.authz.locks import Locked, describe, find_lock
from teleport.resources.lock import Lock, LockSpec, LockTarget
from teleport.resources.metadata import Metadata

NOW = datetime(2030, 1, 1, tzinfo=UTC)
SUBJECT = Locked("alice", ("dev", "ops"), "root", ("uuid-1", "web-1", "2001:db8::1"), "d")


def lock(expires: datetime | None = None, **target: str) -> Lock:
    return Lock(
        metadata=Metadata(name="l"), spec=LockSpec(target=LockTarget(**target), message="on leave", expires=expires)
    )


@pytest.mark.parametrize(
    ("target", "value", "hit"),
    [
        ("user", "alice", True),
        ("user", "Alice", False),
        ("user", "ali*", False),
        ("role", "ops", True),
        ("role", "op", False),
        ("login", "root", True),
        ("login", "Root", False),
        ("node", "uuid-1", True),
        ("node", "WEB-1.", True),
        ("node", "2001:DB8:0::1", True),
        ("node", "web", False),
        ("mfa_device", "d", True),
        ("mfa_device", "e", False),
    ],
)
def test_a_lock_stops_exactly_its_target(target: str, value: str, hit: bool) -> None:
    target_lock = Lock(metadata=Metadata(name="l"), spec=LockSpec(target=LockTarget(**{target: value})))
    assert (find_lock([target_lock], SUBJECT, NOW) is not None) is hit


def test_a_lock_without_a_target_stops_nobody() -> None:
    """Also not whoever has no device, role or login."""
    assert find_lock([lock()], Locked(), NOW) is None
    assert find_lock([lock(user="alice")], Locked(), NOW) is None


def test_a_lock_ends_when_it_says() -> None:
    assert find_lock([lock(expires=NOW, user="alice")], SUBJECT, NOW) is None
    assert find_lock([lock(expires=NOW + timedelta(seconds=1), user="alice")], SUBJECT, NOW) is not None


def test_one_of_many_locks_is_enough_and_says_itself() -> None:
    found = find_lock([lock(user="bob"), lock(role="ops")], SUBJECT, NOW)
    assert found is not None
    assert describe(found) == "lock l on role: ops: on leave"
