"""The store of auth: day files and searching them."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from teleport.audit import search
from teleport.audit.chain import ChainKey, ChainState
from teleport.audit.chain.link import seal
from teleport.audit.counting import Counter
from teleport.audit.events import REGISTRY, Event, Exec, SessionStart, UserLogin
from teleport.audit.events.codec import encode_event
from teleport.audit.search import Query, Searcher
from teleport.audit.sinks import FileSink
from teleport.errors import BadRequest

if TYPE_CHECKING:
    from tests.audit.conftest import AuditLog, ManualClock


def sealed(event: Event) -> bytes:
    return ChainState(ChainKey("node-a", 1)).append(event)[0]


async def test_each_utc_day_has_a_file_and_events_log_points_at_the_newest(tmp_path: Path, clock: ManualClock) -> None:
    """`reference/audit-events.md` 4, with its modes."""
    former = os.umask(0o022)
    try:
        sink = FileSink(tmp_path / "log", "auth-1", clock)
        clock.when = datetime(2021, 5, 1, 23, 59, tzinfo=UTC)
        await sink.append([b"{1}"])
        clock.forward(minutes=2)
        await sink.append([b"{2}", b"{3}"])
        clock.forward(days=-1)  # the clock was set back: an old file never grows again
        await sink.append([b"{4}"])
        sink.close()
    finally:
        os.umask(former)
    names = sorted(path.name for path in (tmp_path / "log" / "auth-1").iterdir())
    assert names == ["2021-05-01.00:00:00.log", "2021-05-02.00:00:00.log"]
    current = tmp_path / "log" / "events.log"
    assert os.readlink(current) == "auth-1/2021-05-02.00:00:00.log"
    assert current.read_bytes() == b"{2}\n{3}\n{4}\n"
    assert current.stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "log" / "auth-1").stat().st_mode & 0o777 == 0o750


async def test_a_torn_last_line_is_cut_at_start(tmp_path: Path, clock: ManualClock) -> None:
    """It was never acknowledged; the next event begins on a line of its own."""
    sink = FileSink(tmp_path, "auth-1", clock)
    await sink.append([b"{1}"])
    sink.close()
    (path,) = (tmp_path / "auth-1").iterdir()
    with path.open("ab") as file:
        file.write(b"{2")
    sink = FileSink(tmp_path, "auth-1", clock)
    assert sink.position == f"{path.name} 4"
    await sink.append([b"{3}"])
    assert sink.lines_after(f"{path.name} 4") == [b"{3}"]
    sink.close()
    assert path.read_bytes() == b"{1}\n{3}\n"


@pytest.mark.parametrize("host", ["", "..", ".x", "a/b"])
def test_the_store_stays_in_its_folder(tmp_path: Path, clock: ManualClock, host: str) -> None:
    """T42."""
    with pytest.raises(BadRequest):
        FileSink(tmp_path, host, clock)


START = datetime(2021, 5, 1, 10, 0, tzinfo=UTC)


async def fill(log: AuditLog) -> None:
    """Three days; one event arrives two days late."""
    late: list[bytes] = []
    for number in range(30):
        when = START + timedelta(hours=number * 2)
        log.clock.when = when
        event: Event
        if number % 3 == 0:
            event = UserLogin(time=when, uid=f"u{number:02}", user=f"user{number % 2}", success=number % 2 == 0)
        elif number % 3 == 1:
            event = SessionStart(time=when, uid=f"u{number:02}", user="user0", login="root", sid=f"s{number}")
        else:
            event = Exec(
                time=when,
                uid=f"u{number:02}",
                user="user1",
                server_id="node-a",
                server_hostname="web.example",
                command="ls Ünter",
            )
        if number == 2:
            late.append(sealed(event))
        else:
            await log.sink.append([sealed(event)])
    await log.sink.append(late)


def uids(lines: list[bytes]) -> list[str]:
    return [REGISTRY.decode(line).uid for line in lines]


async def test_events_come_by_the_time_they_happened(audit_log: AuditLog) -> None:
    """Newest or oldest first, the late one in its place."""
    await fill(audit_log)
    searcher = Searcher(audit_log.store)
    newest = uids((await searcher.search(Query())).lines)
    assert newest == [f"u{number:02}" for number in reversed(range(30))]
    assert uids((await searcher.search(Query(oldest_first=True))).lines) == newest[::-1]


@pytest.mark.parametrize("oldest_first", [True, False])
@pytest.mark.parametrize("limit", [1, 7, 29, 30])
async def test_pages_fit_together(audit_log: AuditLog, limit: int, oldest_first: bool) -> None:
    """Each event once, whatever the size of a page; the last page has no key."""
    await fill(audit_log)
    searcher = Searcher(audit_log.store)
    found: list[str] = []
    key = ""
    while True:
        page = await searcher.search(Query(limit=limit, start_key=key, oldest_first=oldest_first))
        assert len(page.lines) <= limit
        found += uids(page.lines)
        key = page.next_key
        if not key:
            break
    assert sorted(found) == [f"u{number:02}" for number in range(30)]
    assert found == sorted(found, reverse=not oldest_first)


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        (Query(start=START + timedelta(hours=4), end=START + timedelta(hours=8)), [2, 3]),
        (Query(start=START + timedelta(hours=50)), [25, 26, 27, 28, 29]),
        (Query(end=START + timedelta(hours=5)), [0, 1, 2]),
        (Query(types=("user.login",), user="user1"), [3, 9, 15, 21, 27]),
        (Query(types=("user.login", "exec"), end=START + timedelta(hours=9)), [0, 2, 3]),
        (Query(login="root", end=START + timedelta(hours=9)), [1, 4]),
        (Query(sid="s4"), [4]),
        (Query(host="web.example", end=START + timedelta(hours=9)), [2]),
        (Query(text="ünter", end=START + timedelta(hours=9)), [2]),
        (Query(user="nobody"), []),
    ],
    ids=["range", "from", "until", "type and user", "types", "login", "sid", "host", "text", "nobody"],
)
async def test_a_search_finds_what_was_asked_for(audit_log: AuditLog, query: Query, numbers: list[int]) -> None:
    """Twice, for the second time the searcher knows the files."""
    await fill(audit_log)
    searcher = Searcher(audit_log.store)
    for _ in range(2):
        assert uids((await searcher.search(query)).lines) == [f"u{number:02}" for number in reversed(numbers)]


@pytest.mark.parametrize("oldest_first", [True, False])
async def test_parts_that_are_known_hide_nothing(
    audit_log: AuditLog, monkeypatch: pytest.MonkeyPatch, oldest_first: bool
) -> None:
    """Whatever is asked first, also while the files grow, and when one was put back from a copy."""
    monkeypatch.setattr(search, "PART", 700)
    await fill(audit_log)
    searcher = Searcher(audit_log.store)
    ranges = [
        (None, None),
        (START + timedelta(hours=4), START + timedelta(hours=8)),
        (START + timedelta(hours=50), None),
    ]
    for number in range(3):
        await audit_log.sink.append([sealed(Exec(time=START + timedelta(hours=7), uid=f"w{number}", command="more"))])
        for start, end in ranges:
            for limit in (1, 4, 100):
                query = Query(start=start, end=end, limit=limit, oldest_first=oldest_first)
                fresh = await Searcher(audit_log.store).search(query)
                assert await searcher.search(query) == fresh
    first = sorted(audit_log.sink.store.glob("*.log"))[0]
    first.write_bytes(first.read_bytes().splitlines(keepends=True)[0])
    assert await searcher.search(Query()) == await Searcher(audit_log.store).search(Query())


async def test_the_newest_events_are_read_from_the_end_of_the_file(
    audit_log: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What looks every few seconds does not read the day again each time."""
    monkeypatch.setattr(search, "PART", 4096)
    at = START
    for number in range(200):
        at += timedelta(seconds=1)
        await audit_log.sink.append([sealed(Exec(time=at, uid=f"u{number:03}", command="x"))])
    searcher = Searcher(audit_log.store)
    await searcher.search(Query())
    read: list[bytes] = []
    whole = search.read_head

    def counted(raw: bytes) -> search.Head | None:
        read.append(raw)
        return whole(raw)

    monkeypatch.setattr(search, "read_head", counted)
    page = await searcher.search(Query(limit=3))
    assert uids(page.lines) == ["u199", "u198", "u197"]
    assert len(read) < 40
    read.clear()
    assert await searcher.search(Query(start=at + timedelta(hours=1))) == search.Page([])
    assert len(read) < 20


async def test_damage_does_not_hide_the_rest(audit_log: AuditLog) -> None:
    """Searching shows what can be read; verifying names what cannot."""
    await fill(audit_log)
    first = sorted(audit_log.sink.store.glob("*.log"))[0]
    lines = first.read_bytes().splitlines()
    lines[0] = b"\xff\xfe not json"
    first.write_bytes(b"\n".join([*lines, b""]) + b'{"torn')
    assert len((await Searcher(audit_log.store).search(Query())).lines) == 29


async def test_a_damaged_line_that_is_found_is_still_text(audit_log: AuditLog) -> None:
    """Readers get UTF-8 whatever stands in the file."""
    await audit_log.sink.append([sealed(Exec(time=START, uid="u", command="ls XX")).replace(b"XX", b"\xff\xfe")])
    for line in (await Searcher(audit_log.store).search(Query())).lines:
        assert "ls" in line.decode()


@pytest.mark.parametrize("query", [Query(limit=0), Query(limit=10_001), Query(start_key="x"), Query(start_key="x/y")])
async def test_a_query_that_cannot_be_meant_is_refused(audit_log: AuditLog, query: Query) -> None:
    """The limits of `reference/audit-events.md` 4."""
    with pytest.raises(BadRequest):
        await Searcher(audit_log.store).search(query)


def odd(told: Exec, **fields: object) -> bytes:
    """A line that a host of its own mind could have brought to a version before."""
    return json.dumps(json.loads(sealed(told)) | fields).encode()


async def test_no_event_is_in_the_way_of_the_others(audit_log: AuditLog) -> None:
    """Neither a time without a zone, nor one at the edge of the calendar; both are found, too."""
    times = ("2021-05-01T10:00:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00")
    lines = [odd(Exec(time=START, uid=f"u{number}"), time=time) for number, time in enumerate(times)]
    await audit_log.sink.append([*lines, sealed(Exec(time=START, uid="usual"))])
    for oldest_first in (True, False):
        found = (await Searcher(audit_log.store).search(Query(oldest_first=oldest_first))).lines
        assert sorted(uids(found)) == ["u0", "u1", "u2", "usual"]
    counts = await Counter(audit_log.store).count(START, START + timedelta(hours=1))
    assert [sum(numbers) for numbers in counts.hours.values()] == [2]


@pytest.mark.parametrize("start", ["0001-01-01T00:00:00Z", "0900-01-01T00:00:00Z", "1970-01-01T00:00:00Z"])
async def test_a_search_may_begin_as_early_as_it_likes(audit_log: AuditLog, start: str) -> None:
    await audit_log.sink.append([sealed(Exec(time=START, uid="u"))])
    found = await Searcher(audit_log.store).search(Query(start=datetime.fromisoformat(start)))
    assert uids(found.lines) == ["u"]


async def test_fields_of_other_types_hide_no_event(audit_log: AuditLog) -> None:
    """A host may name an event as it likes and call its user 5; it is shown all the same."""
    event = Exec(time=START, uid="u")
    await audit_log.sink.append([odd(event, event="own.kind", user=5, sid=None)])
    searcher = Searcher(audit_log.store)
    assert len((await searcher.search(Query())).lines) == 1
    assert len((await searcher.search(Query(types=("own.kind",)))).lines) == 1
    assert not (await searcher.search(Query(user="5"))).lines


@pytest.mark.parametrize("oldest_first", [True, False])
async def test_a_uid_that_is_used_again_hides_no_event(audit_log: AuditLog, oldest_first: bool) -> None:
    """Not even of the same moment at the end of a page; and a long one makes no long key."""
    uid = "u" * 500
    made = [
        Exec(time=START, uid=uid, emitter=host, epoch=1, seq=seq) for host in ("node-a", "node-b") for seq in (1, 2)
    ]
    await audit_log.sink.append([seal(encode_event(event))[0] for event in made])
    searcher, key, places = Searcher(audit_log.store), "", []
    for _ in made:
        page = await searcher.search(Query(limit=1, start_key=key, oldest_first=oldest_first))
        places += [(event.emitter, event.seq) for event in map(REGISTRY.decode, page.lines)]
        key = page.next_key
        assert len(key) <= 200
    assert not key
    assert sorted(places) == [("node-a", 1), ("node-a", 2), ("node-b", 1), ("node-b", 2)]


@pytest.mark.parametrize("oldest_first", [True, False])
async def test_pages_that_come_later_read_no_more_what_came_before(
    audit_log: AuditLog, oldest_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else all pages of a large store together would take the square of its size."""
    monkeypatch.setattr(search, "PART", 4096)
    events = [Exec(time=START + timedelta(seconds=number), uid=f"u{number:04}") for number in range(400)]
    await audit_log.sink.append([sealed(event) for event in events])
    searcher = Searcher(audit_log.store)
    await searcher.search(Query(oldest_first=oldest_first))
    read = 0

    def counted(raw: bytes) -> Any:
        nonlocal read
        read += 1
        return parse(raw)

    parse = search.read_head
    monkeypatch.setattr(search, "read_head", counted)
    key, pages = "", 0
    while key or not pages:
        page = await searcher.search(Query(limit=20, start_key=key, oldest_first=oldest_first))
        key, pages = page.next_key, pages + 1
    assert pages == 20
    assert read < 4 * len(events)
