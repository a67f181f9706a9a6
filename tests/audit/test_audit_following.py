"""Reading the log by a cursor: each event once and in order, whatever happens to the log in between."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from tests.audit.conftest import AuditLog, ManualClock

from teleport.audit.cursor import Cursor, StorePlace
from teleport.audit.events import Exec, SessionStart
from teleport.audit.following import end_of, is_of, read_on
from teleport.audit.sinks import FileSink
from teleport.errors import BadRequest, NotFound


async def filled(log: AuditLog, count: int) -> None:
    """So many events, the last half on the next day."""
    emitter = log.emitter("node-a")
    shipper = log.shipper(emitter)
    for number in range(count):
        if number == count // 2:
            await shipper.deliver_all()
            log.clock.forward(days=1)
        kind = SessionStart if number % 3 == 0 else Exec
        await emitter.emit(emitter.new(kind, login=f"login{number}"))
    await shipper.deliver_all()


def durable(log: AuditLog) -> dict[str, str]:
    return {log.sink.store.name: log.records.position}


async def test_steps_of_any_size_give_every_line_once_in_order(audit_log: AuditLog) -> None:
    """Over the end of a day, and with the cursor as text in between."""
    await filled(audit_log, 11)
    for limit in (1, 2, 3, 100):
        found, cursor, more = [], Cursor(), True
        while more:
            stretch = read_on(audit_log.store, Cursor.parse(str(cursor)), durable(audit_log), limit=limit)
            assert len(stretch.taken) <= limit
            found += [one.line for one in stretch.taken]
            cursor, more = stretch.cursor, stretch.more
        assert found == audit_log.lines()
        assert cursor == end_of(audit_log.store, durable(audit_log))


async def test_each_line_has_the_place_behind_it(audit_log: AuditLog) -> None:
    """A reader that takes lines one by one goes on behind the last one that it took."""
    await filled(audit_log, 7)
    whole = read_on(audit_log.store, Cursor(), durable(audit_log))
    for number, taken in enumerate(whole.taken, 1):
        rest = read_on(audit_log.store, Cursor().after(taken.store, taken.place), durable(audit_log))
        assert [one.line for one in rest.taken] == audit_log.lines()[number:]


async def test_only_wanted_types_come_and_the_cursor_passes_the_others(audit_log: AuditLog) -> None:
    await filled(audit_log, 9)
    found = read_on(audit_log.store, Cursor(), durable(audit_log), types=("session.*",))
    assert [b'"event":"session.start"' in one.line for one in found.taken] == [True] * 3
    assert found.cursor == end_of(audit_log.store, durable(audit_log))
    assert is_of("exec", ("session.*", "exec"))
    assert not is_of("sessions", ("session.*",))


async def test_what_intake_has_not_kept_for_good_is_not_handed_out(audit_log: AuditLog) -> None:
    """A line that a failed write leaves behind, or cuts again, is nobody's event yet."""
    await filled(audit_log, 4)
    before = durable(audit_log)
    await audit_log.sink.append([b'{"event":"exec","half":true}'])
    assert read_on(audit_log.store, end_of(audit_log.store, before), before).taken == ()
    unwritten = {audit_log.sink.store.name: ""}
    assert read_on(audit_log.store, Cursor(), unwritten).taken == ()


async def test_a_torn_line_waits_until_it_is_whole(tmp_path: Path, clock: ManualClock) -> None:
    """In the folder of an auth server that writes no more, too."""
    sink = FileSink(tmp_path / "log", "auth-1", clock)
    await sink.append([b'{"event":"exec"}'])
    sink.close()
    path = next((tmp_path / "log" / "auth-1").glob("*.log"))
    with path.open("ab") as file:
        file.write(b'{"event":')
    first = read_on(tmp_path / "log", Cursor(), {})
    assert [one.line for one in first.taken] == [b'{"event":"exec"}']
    with path.open("ab") as file:
        file.write(b'"login"}\n')
    assert [one.line for one in read_on(tmp_path / "log", first.cursor, {}).taken] == [b'{"event":"login"}']


async def test_a_busy_store_does_not_starve_another(tmp_path: Path, clock: ManualClock) -> None:
    for name, count in (("auth-1", 50), ("auth-2", 2)):
        sink = FileSink(tmp_path / "log", name, clock, shared=True)
        await sink.append([b'{"event":"exec","n":%d}' % number for number in range(count)])
        sink.close()
    found = read_on(tmp_path / "log", Cursor(), {}, limit=10)
    assert {one.store for one in found.taken} == {"auth-1", "auth-2"}
    assert found.more
    alone = read_on(tmp_path / "log", Cursor(), {}, only="auth-2")
    assert {one.store for one in alone.taken} == {"auth-2"}


@pytest.mark.parametrize("harm", ["shorter", "other", "gone", "store"])
async def test_a_cursor_into_another_log_is_refused(audit_log: AuditLog, harm: str) -> None:
    """Reading on would leave events out, and nobody would know."""
    await filled(audit_log, 4)
    cursor = end_of(audit_log.store, durable(audit_log))
    audit_log.sink.close()
    path = sorted(audit_log.sink.store.glob("*.log"))[-1]
    match harm:
        case "shorter":
            path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
        case "other":
            path.write_bytes(path.read_bytes().replace(b"exec", b"exex").replace(b"a", b"b"))
        case "gone":
            path.rename(path.with_name((audit_log.clock.when + timedelta(days=9)).strftime("%Y-%m-%d.00:00:00.log")))
        case "store":
            path.parent.rename(path.parent.with_name("auth-9"))
    with pytest.raises(NotFound, match="not the one that this cursor was made on"):
        read_on(audit_log.store, cursor, {})


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "{}",
        '{"version":2,"stores":{}}',
        '{"version":1,"stores":{},"more":1}',
        '{"version":1,"stores":{"../../etc":["2021-05-01.00:00:00.log",0,""]}}',
        '{"version":1,"stores":{"a":["../passwd",0,""]}}',
        '{"version":1,"stores":{"a":["2021-05-01.00:00:00.log",-1,""]}}',
        '{"version":1,"stores":{"a":["2021-05-01.00:00:00.log",5,""]}}',
        '{"version":1,"stores":{"a":["2021-05-01.00:00:00.log",5,"xyz"]}}',
        "[" * 3000,
        " " * 300_000,
    ],
)
def test_what_is_no_cursor_is_refused(text: str) -> None:
    """It comes from outside: no path leads out of the store."""
    with pytest.raises(BadRequest, match="no cursor"):
        Cursor.parse(text)


def test_a_cursor_is_itself_after_writing_and_reading() -> None:
    cursor = Cursor({"auth-1": StorePlace("2021-05-01.00:00:00.log", 7, "0" * 16), "a": StorePlace()})
    assert Cursor.parse("") == Cursor()
    assert Cursor.parse(str(Cursor({"auth-1": cursor.at("auth-1")}))).at("auth-1") == cursor.at("auth-1")
