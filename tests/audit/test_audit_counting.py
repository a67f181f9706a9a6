"""Counting events by the hour: complete, once each, in pieces of time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from tests.audit.test_audit_store import sealed

from teleport.audit import counting
from teleport.audit.counting import SERIES, Counter
from teleport.audit.events import AuthFailed, Exec, SessionStart, UserLogin
from teleport.errors import BadRequest

if TYPE_CHECKING:
    from tests.audit.conftest import AuditLog

START = datetime(2021, 5, 1, 10, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


def told(counts: counting.Counts) -> dict[datetime, dict[str, int]]:
    return {
        hour: {name: number for name, number in zip(SERIES, numbers, strict=True) if number}
        for hour, numbers in counts.hours.items()
    }


async def fill(log: AuditLog) -> None:
    at = START + timedelta(minutes=30)
    for event in (
        SessionStart(time=at, uid="1"),
        Exec(time=at, uid="2"),
        UserLogin(time=at, uid="3"),
        UserLogin(time=at + HOUR, uid="4", success=False),
        AuthFailed(time=at + HOUR, uid="5"),
        UserLogin(time=at + 30 * HOUR, uid="6"),
    ):
        log.clock.when = max(log.clock.when, event.time)
        await log.sink.append([sealed(event)])


async def test_each_hour_has_its_numbers(audit_log: AuditLog) -> None:
    """Over days, whichever range is asked for first; and what comes later is counted later."""
    await fill(audit_log)
    counter = Counter(audit_log.store)
    first = {START: {"sessions": 1, "commands": 1, "logins": 1}, START + HOUR: {"failed_logins": 1, "denied": 1}}
    found = await counter.count(START, START + 2 * HOUR)
    assert (told(found), found.complete) == (first, True)
    later = {START + 30 * HOUR: {"logins": 1}}
    assert told(await counter.count(START, START + 48 * HOUR)) == first | later
    assert told(await counter.count(START + HOUR, START + 48 * HOUR)) == {START + HOUR: first[START + HOUR]} | later
    await audit_log.sink.append([sealed(UserLogin(time=START + 30 * HOUR, uid="7")), b"no event"])
    assert told(await counter.count(START + 3 * HOUR, START + 48 * HOUR)) == {START + 30 * HOUR: {"logins": 2}}


async def test_a_call_ends_in_time_and_the_next_goes_on(audit_log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "_LOOK", 1)
    await fill(audit_log)
    counter = Counter(audit_log.store, seconds=-1.0)
    totals = []
    for _ in range(20):
        found = await counter.count(START, START + 48 * HOUR)
        totals.append(sum(map(sum, found.hours.values())))
        if found.complete:
            break
    assert totals[-1] == 6
    assert totals == sorted(totals)
    assert len(totals) > 2, "in pieces"


async def test_a_file_that_was_put_back_or_away_is_counted_as_it_is(audit_log: AuditLog) -> None:
    await fill(audit_log)
    counter = Counter(audit_log.store)
    await counter.count(START, START + 48 * HOUR)
    first, last = sorted(audit_log.sink.store.glob("*.log"))
    first.write_bytes(first.read_bytes().splitlines(keepends=True)[0] + b'{"torn')
    last.unlink()
    assert told(await counter.count(START, START + 48 * HOUR)) == {START: {"sessions": 1}}


@pytest.mark.parametrize("length", [timedelta(0), -HOUR, timedelta(days=33)])
async def test_a_range_that_cannot_be_meant_is_refused(audit_log: AuditLog, length: timedelta) -> None:
    with pytest.raises(BadRequest):
        await Counter(audit_log.store).count(START, START + length)
