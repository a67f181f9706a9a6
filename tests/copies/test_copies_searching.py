"""Searches of PostgreSQL and DynamoDB find what the log finds, page by page; and the log answers when they do not."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.audit.conftest import AUTH
from tests.backend.test_backend_dynamodb import raw
from tests.copies.test_copies import Rig, opened, running

from teleport.audit.cursor import Cursor
from teleport.audit.search import Page, Query, Searcher
from teleport.backend.postgresql.settings import parse
from teleport.copies import copier as copier_module
from teleport.copies.places import place_of, search_of
from teleport.copies.searching import TOLD_AGAIN, FirstSearched, Place, Why
from teleport.copies.settings import CopySettings, DynamoCopy, PostgresqlCopy, StdoutCopy
from teleport.errors import BadRequest, TeleportError
from teleport.testing import dynamodb, postgresql

T0 = datetime(2021, 5, 1, 12, tzinfo=UTC)


def lines() -> list[bytes]:
    """Events of three days: several of one moment, in words of other scripts, with fields that are none of ours."""
    made: list[dict[str, Any]] = []
    for number in range(40):
        when = T0 + timedelta(minutes=97 * (number % 23), microseconds=number % 3)
        made.append(
            {
                "event": ("exec", "session.start", "user.login")[number % 3],
                "code": "T1000I",
                "time": when.isoformat().replace("+00:00", "Z"),
                "uid": f"u{(number * 7) % 40}",
                "user": ("alice", "bob", "straße")[number % 3],
                "login": ("root", "")[number % 2],
                "sid": f"s{number % 5}",
                ("server_id", "hostname", "host_id")[number % 3]: "web-1",
                "command": ("Grep KELVIN", "grep kelvin", "GREP \u212aelvin", "straSSe")[number % 4],
                "emitter": "node-a",
                "epoch": 1,
                "seq": number,
            }
        )
    same = {"event": "exec", "time": "2021-05-01T12:00:00Z"}
    made += [
        {**same, "uid": uid, "user": "alice"} for uid in ("b", "a", "a b", "A", "\x01", "\x00", "\u00e9", "z" * 99)
    ]
    made += [
        {**same, "uid": "east", "time": "2021-05-02T01:30:00+02:00"},
        {**same, "uid": "naive", "time": "2021-05-01T12:00:00"},
        {**same, "uid": "early", "time": "1969-12-31T23:59:59.999999Z"},
        {**same, "uid": "late", "time": "2299-01-01T00:00:00Z"},
        {**same, "uid": "bare", "user": 7},
        {**same, "uid": "long", "sid": "s" * 3000, "login": "l\x00\x01", "user": "x" * 600},
        {"event": "exec", "uid": "no time"},
    ]
    return [json.dumps(one, ensure_ascii=number % 2 == 0).encode() for number, one in enumerate(made)] + [
        b"damaged \xff"
    ]


QUERIES = [
    Query(),
    Query(start=T0 + timedelta(hours=3), end=T0 + timedelta(hours=20)),
    Query(start=T0, end=T0 + timedelta(microseconds=1)),
    Query(start=T0 + timedelta(hours=1), end=T0),
    Query(start=datetime(2021, 5, 1, 12)),  # noqa: DTZ001 # as a caller may say it
    Query(types=("exec", "user.login")),
    Query(user="straße"),
    Query(user="x" * 600),
    Query(user="x" * 500),
    Query(login="root", host="web-1"),
    Query(login="l\x00\x01"),
    Query(host="node-a", sid="s2"),
    Query(sid="s" * 3000),
    Query(text="kelvin"),
    Query(text="STRASSE"),
    Query(text="\u212a"),
    Query(text='"user":'),
    Query(user="nobody"),
]


PAGED = {0, 2, 6}  # of these several pages are asked for


@pytest.fixture(scope="module")
def database() -> Iterator[postgresql.PostgresqlServer]:
    if postgresql.programs() is None:
        pytest.skip(postgresql.MISSING)
    with postgresql.PostgresqlServer() as server:
        yield server


@pytest.fixture(scope="module")
def table_server() -> Iterator[dynamodb.DynamoServer]:
    if dynamodb.program() is None:
        pytest.skip(dynamodb.MISSING)
    with dynamodb.DynamoServer() as server:
        yield server


@pytest.fixture(params=["postgresql", "dynamodb"])
def settings(request: pytest.FixtureRequest) -> CopySettings:
    if request.param == "dynamodb":
        return DynamoCopy(request.getfixturevalue("table_server").settings())
    server: postgresql.PostgresqlServer = request.getfixturevalue("database")
    return PostgresqlCopy(replace(parse(server.url()), schema=f"searched_{abs(hash(request.node.name)):x}"[:30]))


@asynccontextmanager
async def filled(settings: CopySettings) -> AsyncIterator[Place]:
    """With all lines in it, half of them twice."""
    writes, made = place_of(settings, "auth"), search_of(settings)
    await writes.write(lines()[:30])
    await writes.write(lines())
    await writes.close()
    try:
        yield made
    finally:
        await made.close()


def own(folder: Path) -> Searcher:
    path = folder / "auth" / "2021-05-01.00:00:00.log"
    path.parent.mkdir()
    path.write_bytes(b"".join(line + b"\n" for line in lines()))
    return Searcher(folder)


async def walk(searched: Any, query: Query) -> list[Page]:
    pages = [await searched.search(query)]
    while pages[-1].next_key:
        assert len(pages) < 100
        pages.append(await searched.search(replace(query, start_key=pages[-1].next_key)))
    return pages


async def test_each_search_finds_the_same_pages_as_the_log(settings: CopySettings, tmp_path: Path) -> None:
    """Of one event, of some and of all, newest and oldest first: the same lines, the same keys."""
    async with filled(settings) as place:
        searcher = own(tmp_path)
        for number, query in enumerate(QUERIES):
            for oldest in (False, True):
                for limit in (5, 500) if number in PAGED else (500,):
                    asked = replace(query, limit=limit, oldest_first=oldest)
                    expected = await walk(searcher, asked)
                    assert await walk(place, asked) == expected, asked
        found = [len((await searcher.search(query)).lines) for query in QUERIES]
        assert [number for number, one in enumerate(found) if not one] == [3, 8, 17], "the others find something"


async def test_a_list_that_began_with_one_goes_on_with_the_other(settings: CopySettings, tmp_path: Path) -> None:
    async with filled(settings) as place:
        searcher = own(tmp_path)
        for oldest in (False, True):
            query = Query(limit=4, oldest_first=oldest)
            whole = await searcher.search(replace(query, limit=1000))
            turns, key, lists = [searcher, place], "", list[bytes]()
            while True:
                turns.reverse()
                page = await turns[0].search(replace(query, start_key=key))
                lists += page.lines
                if not (key := page.next_key):
                    break
            assert lists == whole.lines


@pytest.mark.parametrize(
    "query", [Query(limit=0), Query(limit=10_001), Query(start_key="x"), Query(start_key="9" * 21 + "/")]
)
async def test_what_cannot_be_meant_is_refused(settings: CopySettings, query: Query) -> None:
    async with filled(settings) as place:
        with pytest.raises(BadRequest):
            await place.search(query)


@pytest.mark.parametrize("order", ["9" * 20, "-" + "9" * 19, "0"])
async def test_a_key_of_any_time_is_taken(settings: CopySettings, tmp_path: Path, order: str) -> None:
    async with filled(settings) as place:
        searcher = own(tmp_path)
        for oldest in (False, True):
            query = Query(start_key=f"{order}/' OR true --", oldest_first=oldest)
            assert await place.search(query) == await searcher.search(query)


async def test_a_database_of_an_older_version_is_made_ready(
    database: postgresql.PostgresqlServer, tmp_path: Path
) -> None:
    """Until its rows are, nothing is answered; then everything is found."""
    copy = PostgresqlCopy(replace(parse(database.url()), schema="older"))
    writes, place = place_of(copy, "auth"), search_of(copy)
    await writes.write(lines()[:50])
    drop = "ALTER TABLE older.events DROP COLUMN micros, DROP COLUMN tie, DROP COLUMN login, DROP COLUMN hosts"
    await writes.close()
    await asyncio.to_thread(database.sql, drop)
    with pytest.raises(TeleportError, match="an older version made it"):
        await place.search(Query())
    await writes.write(lines()[50:])
    searcher = own(tmp_path)
    assert await place.search(Query()) == await searcher.search(Query())
    await writes.close()
    await place.close()


def test_a_place_that_only_takes_events_cannot_be_searched() -> None:
    with pytest.raises(TeleportError, match="finds none"):
        search_of(StdoutCopy())


# The place first, the log behind it


class Rigged:
    """A log, a place with a copier that runs, and searches."""

    def __init__(self, rig: Rig, settings: CopySettings) -> None:
        rig.place = place_of(settings, "auth")  # type: ignore[assignment]
        self.copier = rig.copier()
        self.copier._look = 3600.0  # only a search makes it look
        self.first = FirstSearched(Searcher(rig.log.store), search_of(settings), self.copier, catch_up=30, answer=30)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copier_module, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(copier_module, "MOST_PAUSE", 0.1)


@pytest.mark.usefixtures("quick")
async def test_a_search_sees_what_was_taken_in_before_it_and_none_waits_for_the_copiers_next_look(
    settings: CopySettings, tmp_path: Path
) -> None:
    async with opened(tmp_path) as rig:
        made = Rigged(rig, settings)
        async with running(made.copier):
            for _ in range(3):
                await rig.tell(4)
                found = await made.first.search(Query(oldest_first=True))
                assert (sorted(found.page.lines), found.notice) == (sorted(rig.log.lines()), "")
        await made.first.close()


@pytest.mark.usefixtures("quick")
async def test_while_the_database_is_down_the_log_answers_and_says_so(
    database: postgresql.PostgresqlServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = PostgresqlCopy(replace(parse(database.url()), schema="goes_down"))
    async with opened(tmp_path) as rig:
        made = Rigged(rig, copy)
        with caplog.at_level(logging.INFO, "teleport.copies.searching"):
            async with running(made.copier):
                await rig.tell(4)
                assert (await made.first.search(Query())).notice == ""
                await asyncio.to_thread(database.kill)
                try:
                    for _ in range(2):
                        found = await made.first.search(Query(oldest_first=True))
                        assert sorted(found.page.lines) == sorted(rig.log.lines())
                        assert "from auth's own log" in found.notice
                        assert found.notice.startswith("siem is not searched: it does not serve; ")
                        assert "127.0.0.1" not in found.notice, "where it is stays in auth's log"
                    await rig.tell(3)
                    found = await made.first.search(Query(oldest_first=True))
                    assert sorted(found.page.lines) == sorted(rig.log.lines()), "what the database has not got either"
                finally:
                    await asyncio.to_thread(database.start)
                async with asyncio.timeout(60):
                    while (found := await made.first.search(Query(oldest_first=True))).notice:
                        await asyncio.to_thread(lambda: None)
                assert sorted(found.page.lines) == sorted(rig.log.lines())
        await made.first.close()
    told = [record.message for record in caplog.records]
    assert "searched at siem again" in told[-1]
    assert len(told) == len(set(told)), "each reason once"


@pytest.mark.usefixtures("quick")
async def test_a_place_that_is_behind_is_not_asked_and_keeps_nobody_waiting_twice(tmp_path: Path) -> None:
    """Nobody brings events there, as when the other auth server that should does not get on."""

    class Never:
        async def search(self, query: Query) -> Page:
            raise AssertionError("it was asked")

        async def mark(self) -> Cursor:
            raise AssertionError("it was asked")

        async def close(self) -> None:
            pass

    async with opened(tmp_path) as rig:
        await rig.tell(2)
        copier = rig.copier()
        waits: list[float] = []
        whole = copier.has_all

        async def counted(within: float, mark: Callable[[], Awaitable[Cursor]]) -> bool:
            waits.append(within)
            return await whole(within, mark)

        copier.has_all = counted  # type: ignore[method-assign]
        first = FirstSearched(Searcher(rig.log.store), Never(), copier, catch_up=0.2)
        for _ in range(3):
            found = await first.search(Query(oldest_first=True))
            assert sorted(found.page.lines) == sorted(rig.log.lines())
            assert "it has not got all events yet" in found.notice
        assert waits == [0.2, 0.0, 0.0]
        with pytest.raises(BadRequest):
            await first.search(Query(limit=0))


async def test_a_place_that_does_not_answer_in_time_is_given_up(tmp_path: Path) -> None:
    class Slow:
        async def search(self, query: Query) -> Page:
            await asyncio.Event().wait()
            raise AssertionError

        async def mark(self) -> Cursor:
            return await copier.cursor()

        async def close(self) -> None:
            pass

    async with opened(tmp_path) as rig:
        await rig.tell(2)
        copier = rig.copier()
        await copier.step()
        first = FirstSearched(Searcher(rig.log.store), Slow(), copier, answer=0.1)
        found = await first.search(Query(oldest_first=True))
        assert sorted(found.page.lines) == sorted(rig.log.lines())
        assert "has not answered in time" in found.notice


# What the place has lost


async def empty(database: postgresql.PostgresqlServer | None, settings: CopySettings, how: str) -> None:
    """What somebody does to a place while nothing is brought there."""
    if isinstance(settings, DynamoCopy):
        async with raw(settings.settings) as table:
            await table.call("delete_table", TableName=settings.settings.table)
        if how == "replaced":
            made = place_of(settings, "auth")
            await made.write([])
            await made.close()
        return
    assert database is not None
    assert isinstance(settings, PostgresqlCopy)
    schema = settings.settings.schema
    done = {
        "dropped": f"DROP SCHEMA {schema} CASCADE",
        "replaced": f"DELETE FROM {schema}.events; DELETE FROM {schema}.brought",
    }
    await asyncio.to_thread(database.sql, done[how])


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("how", ["dropped", "replaced"])
@pytest.mark.parametrize("news", [False, True], ids=["nothing-new", "more-comes"])
async def test_a_place_that_lost_its_events_is_noticed_by_a_search_and_gets_them_again(
    settings: CopySettings, how: str, news: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Auth's cursor says that all is there. An answer without a notice has all events all the same."""
    database = request.getfixturevalue("database") if isinstance(settings, PostgresqlCopy) else None
    async with opened(tmp_path) as rig:
        made = Rigged(rig, settings)
        async with running(made.copier):
            await rig.tell(7)
            assert (await made.first.search(Query())).notice == ""
            await empty(database, settings, how)
            if news:
                await rig.tell(3)
            async with asyncio.timeout(60):
                while True:
                    found = await made.first.search(Query(oldest_first=True))
                    assert sorted(found.page.lines) == sorted(rig.log.lines())
                    if not found.notice:
                        break
        await made.first.close()


async def test_a_database_that_was_put_back_gets_what_came_since_and_no_search_believes_it_before(
    database: postgresql.PostgresqlServer, tmp_path: Path
) -> None:
    """As after a restore, or a failover to a server that was behind. Of what it has nothing is brought again."""
    copy = PostgresqlCopy(replace(parse(database.url()), schema="put_back"))
    async with opened(tmp_path) as rig:
        made = Rigged(rig, copy)
        made.first._catch_up = 0.0
        await rig.tell(5)
        await made.copier.step()
        await asyncio.to_thread(database.sql, "CREATE TABLE put_back.a AS TABLE put_back.events")
        await asyncio.to_thread(database.sql, "CREATE TABLE put_back.b AS TABLE put_back.brought")
        await rig.tell(5)
        await made.copier.step()
        assert (await made.first.search(Query())).notice == ""
        for old, now in (("a", "events"), ("b", "brought")):
            await asyncio.to_thread(
                database.sql, f"DELETE FROM put_back.{now}; INSERT INTO put_back.{now} SELECT * FROM put_back.{old}"
            )
        found = await made.first.search(Query(oldest_first=True))
        assert str(Why.BEHIND) in found.notice
        assert sorted(found.page.lines) == sorted(rig.log.lines())
        before = (await made.copier.cursor()).at(AUTH).offset
        assert before > 0, "not from the beginning"
        await made.copier.step()
        found = await made.first.search(Query(oldest_first=True))
        assert (sorted(found.page.lines), found.notice) == (sorted(rig.log.lines()), "")
        await rig.place.close()
        await made.first.close()


async def test_searches_do_not_make_an_older_auth_server_bring_everything_over_and_over(tmp_path: Path) -> None:
    """During an upgrade it holds the lease, and writes no mark. Until a newer one does, the log answers."""

    async def nothing() -> Cursor:
        return Cursor()

    async with opened(tmp_path) as rig:
        older, newer = rig.copier(), rig.copier()
        await rig.tell(3)
        for _ in range(4):
            while await older.step():
                pass
            assert not await newer.has_all(0.0, nothing)
        assert rig.place.lines == rig.log.lines() * 2


async def test_a_search_makes_no_table(database: postgresql.PostgresqlServer) -> None:
    place = search_of(PostgresqlCopy(replace(parse(database.url()), schema="not_made")))
    assert await place.mark() == Cursor()
    with pytest.raises(TeleportError, match="not there"):
        await place.search(Query())
    assert await asyncio.to_thread(database.sql, "SELECT to_regclass('not_made.events') IS NULL") == "t"
    await place.close()


async def test_events_of_types_that_are_not_wanted_leave_no_place_behind(
    settings: CopySettings, tmp_path: Path
) -> None:
    async with opened(tmp_path) as rig:
        rig.place = place_of(settings, "auth")  # type: ignore[assignment]
        copier, place = rig.copier(types=["user.*"]), search_of(settings)
        await rig.tell(3)
        while await copier.step():
            pass
        assert await copier.has_all(0.0, place.mark)
        await rig.place.close()
        await place.close()


# What is said


class Says:
    """A place that answers, or fails as it is told to."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.page = Page([])
        self.name = "siem"
        self.problem = ""

    async def search(self, query: Query) -> Page:
        if self.failure is not None:
            raise self.failure
        return self.page

    async def mark(self) -> Cursor:
        return Cursor()

    async def has_all(self, within: float, mark: Callable[[], Awaitable[Cursor]]) -> bool:
        return True

    async def close(self) -> None:
        pass


SECRET = "db-7.example.com:5432 refuses auditor, arn:aws:iam::1234:role/x"


@pytest.mark.parametrize("of", ["search", "copier"])
async def test_readers_are_not_told_where_the_place_is_and_auths_log_is_told_not_too_often(
    of: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever may list events need not learn servers and accounts."""
    says = Says()
    first = FirstSearched(Says(), says, says)
    with caplog.at_level(logging.INFO, "teleport.copies.searching"):
        for number in range(50):
            if of == "search":
                says.failure = TeleportError(f"{SECRET} {number}")
            else:
                says.problem = f"{SECRET} {number}"
            found = await first.search(Query())
            assert found.notice == (
                f"siem is not searched: {Why.AWAY}; this is from auth's own log, without what was pruned there"
            )
            says.failure, says.problem = None, ""
            assert (await first.search(Query())).notice == ""
    assert [SECRET in record.message for record in caplog.records] == [True, False], "once, and that it is over"
    assert TOLD_AGAIN > 60


async def test_a_search_that_goes_back_to_what_the_place_removed_says_so() -> None:
    now, says = T0 + timedelta(days=9), Says()
    first = FirstSearched(Says(), says, says, keep=timedelta(days=2), now=lambda: now)
    recent = int((now - timedelta(days=1)).timestamp()) * 1_000_000
    old = int((now - timedelta(days=3)).timestamp()) * 1_000_000
    for query, key, told in (
        (Query(), "", True),
        (Query(start=now - timedelta(days=1)), "", False),
        (Query(start=now - timedelta(days=3)), "", True),
        (Query(), f"{-recent}/x", False),
        (Query(), f"{-old}/x", True),
        (Query(oldest_first=True), f"{recent}/x", True),
    ):
        says.page = Page([], key)
        notice = (await first.search(query)).notice
        assert ("removes events after a time" in notice) is told, (query, key)
    assert (await FirstSearched(Says(), says, says).search(Query())).notice == ""
