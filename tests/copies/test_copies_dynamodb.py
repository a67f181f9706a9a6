"""Events to a table of DynamoDB (moto): each once, whatever comes twice, is throttled, or is cut off in the middle."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.backend.test_backend_dynamodb import engine, raw, throttled
from tests.copies.test_copies import Killed, opened, running

from teleport.backend.dynamodb.settings import DynamoSettings
from teleport.clock import SystemClock
from teleport.copies import copier as copier_module
from teleport.copies.dynamodb import DynamoPlace
from teleport.copies.dynamodb_rows import DAMAGED, DAY, EVENTS, HEAD, event_row
from teleport.copies.settings import DynamoCopy
from teleport.errors import ConnectionProblem, TeleportError
from teleport.testing import dynamodb
from teleport.testing.cut_relay import CutRelay
from teleport.testing.dynamodb import DynamoServer
from teleport.testing.loopback import free_port
from teleport.testing.running import wait_until

needs_moto = pytest.mark.skipif(dynamodb.program() is None, reason=dynamodb.MISSING)
NOW = datetime(2021, 6, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def server() -> Iterator[DynamoServer]:
    with DynamoServer() as made:
        yield made


def place(settings: DynamoSettings, keep: timedelta | None = None, within: float = 10.0) -> DynamoPlace:
    return DynamoPlace(DynamoCopy(settings, keep), SystemClock(), within=within)


async def stored(settings: DynamoSettings) -> list[bytes]:
    """The lines of all events, by day and time; none while there is no table."""
    async with raw(settings) as table:
        if settings.table not in (await table.call("list_tables"))["TableNames"]:
            return []
        days = [row["key"]["S"] async for page in table.pages(DAY) for row in page]
        kinds = [*(EVENTS + day for day in days), DAMAGED]
        return [row["line"]["S"].encode() for kind in kinds async for page in table.pages(kind) for row in page]


async def rows(settings: DynamoSettings, kind: str) -> list[dict[str, Any]]:
    async with raw(settings) as table:
        return [dict(row) async for page in table.pages(kind) for row in page]


def test_the_row_of_an_event_comes_from_its_line_and_lasts_by_auths_clock() -> None:
    """A host that says that its event is of 1970 has it removed no sooner."""
    told = b'{"event":"exec","code":"T1","time":"1970-01-01T00:00:01.5Z","uid":"u","user":"a"'
    line = told + b',"received":"2021-05-01T10:00:00Z"}'
    found = event_row(line, timedelta(days=2), NOW)
    assert found["kind"]["S"] == "events/1970-01-01"
    assert found["key"]["S"] == f"00001500000/{hashlib.sha256(line).hexdigest()}"
    assert found["ttl"]["N"] == str(int(datetime(2021, 5, 3, 10, tzinfo=UTC).timestamp()))
    assert {name: found[name]["S"] for name in ("event", "code", "user")} == {
        "event": "exec",
        "code": "T1",
        "user": "a",
    }
    assert "sid" not in found
    assert event_row(told + b"}", timedelta(days=2), NOW)["ttl"]["N"] == str(
        int((NOW + timedelta(days=2)).timestamp())
    ), "a line of an older version, which does not say it"
    assert "ttl" not in event_row(line, None, NOW)


def test_a_damaged_line_is_kept_as_its_text_and_another_time_zone_is_another_day() -> None:
    damaged = event_row(b"x\0\xff", None, NOW)
    assert (damaged["kind"]["S"], damaged["line"]["S"]) == (DAMAGED, "x\0\ufffd")
    east = event_row(b'{"event":"exec","time":"2021-05-01T00:30:00+02:00","uid":"u"}', None, NOW)
    assert east["kind"]["S"] == "events/2021-04-30"


@needs_moto
async def test_what_comes_twice_is_once_and_its_first_row_stays(tmp_path: Path, server: DynamoServer) -> None:
    settings = server.settings()
    async with opened(tmp_path) as rig:
        made = place(settings, timedelta(days=3))
        rig.place = made  # type: ignore[assignment]
        await rig.tell(30)
        await rig.copier().step()
        before = await rows(settings, EVENTS + "2021-05-01")
        again = place(settings, timedelta(days=9))
        await again.write([*rig.log.lines(), b"damaged \xff"])
        assert sorted(await stored(settings)) == sorted([*rig.log.lines(), "damaged \ufffd".encode()])
        assert await rows(settings, EVENTS + "2021-05-01") == before
        assert len(before) == 30
        async with raw(settings) as table:
            told = await table.call("describe_time_to_live", TableName=settings.table)
        assert told["TimeToLiveDescription"]["AttributeName"] == "ttl"
        await made.close()
        await again.close()


@needs_moto
@pytest.mark.parametrize("passed", [True, False], ids=["done", "not-done"])
async def test_a_process_killed_or_cut_off_in_the_middle_leaves_each_event_once(
    tmp_path: Path, server: DynamoServer, monkeypatch: pytest.MonkeyPatch, passed: bool
) -> None:
    """The connection breaks while events are written; the process dies before it noted them; the next one goes on."""
    monkeypatch.setattr(copier_module, "LINES", 10)
    settings = server.settings()
    async with opened(tmp_path) as rig, CutRelay(server.port) as relay:
        cut = place(replace(settings, endpoint=server.endpoint(relay.port)))
        relay.cut_at(b"DynamoDB_20120810.PutItem", passed=passed)
        await rig.tell(25)

        class Dies:
            doubtful = 0.0

            async def write(self, lines: Any) -> None:
                await cut.write(lines)
                raise Killed

            async def close(self) -> None:
                await cut.close()

        rig.place = Dies()  # type: ignore[assignment]
        with pytest.raises(Killed):
            await rig.copier().step()
        assert relay.cut_at_word.is_set()
        await cut.close()
        rig.place = place(settings)  # type: ignore[assignment]
        copier = rig.copier(2)
        while await copier.step():
            pass
        assert sorted(await stored(settings)) == sorted(rig.log.lines())
        await rig.place.close()


@needs_moto
async def test_a_service_that_is_away_and_throttles_costs_no_event(
    tmp_path: Path, server: DynamoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is away it is named; events go on, and all of them are there later."""
    monkeypatch.setattr(copier_module, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(copier_module, "MOST_PAUSE", 0.1)
    monkeypatch.setattr(copier_module, "LINES", 10)
    settings = server.settings()
    async with (
        opened(tmp_path) as rig,
        throttled(server, 30, "PutItem") as endpoint,
        CutRelay(int(endpoint.rpartition(":")[2])) as relay,
    ):
        rig.place = place(replace(settings, endpoint=server.endpoint(relay.port)), within=0.3)  # type: ignore[assignment]
        copier = rig.copier()
        async with running(copier):
            await rig.tell(40)
            await wait_until(lambda: "capacity" in copier.problem, 60)
            await wait_until(lambda: not copier.problem, 60)
            relay.leave()
            await rig.tell(20)
            await wait_until(lambda: "not reached" in copier.problem, 60)
            await relay.come_back()
            await wait_until(lambda: not copier.problem, 60)
            async with asyncio.timeout(60):
                while sorted(await stored(settings)) != sorted(rig.log.lines()):
                    continue


@needs_moto
async def test_a_service_that_is_killed_is_gone_on_with_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This one forgets all it had (moto): the table is made anew, and everything is brought again."""
    monkeypatch.setattr(copier_module, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(copier_module, "MOST_PAUSE", 0.1)
    server = DynamoServer()
    with server:
        settings = server.settings()
        async with opened(tmp_path) as rig:
            rig.place = place(settings, within=0.3)  # type: ignore[assignment]
            copier = rig.copier()
            async with running(copier):
                await rig.tell(5)
                async with asyncio.timeout(60):
                    while len(await stored(settings)) < 5:
                        continue
                await asyncio.to_thread(server.kill)
                await rig.tell(7)
                await wait_until(lambda: copier.problem != "", 60)
                await asyncio.to_thread(server.start)
                async with asyncio.timeout(60):
                    while sorted(await stored(settings)) != sorted(rig.log.lines()):
                        continue


@needs_moto
async def test_a_table_of_others_is_refused_and_left_alone(server: DynamoServer) -> None:
    """The cluster's state, or another program's rows; and the state does not go where events are."""
    state = server.settings()
    async with engine(state) as backend:
        await backend.put("k", b"v")
    writes = place(state)
    with pytest.raises(TeleportError, match="of another program, or holds the cluster's state"):
        await writes.write([b"{}"])
    assert await rows(state, DAMAGED) == []
    others = server.settings()
    async with engine(others):
        pass
    async with raw(others) as table:
        await table.remove([HEAD, {"kind": {"S": "meta"}, "key": {"S": "checkpoint"}}])
        await table.call("put_item", TableName=others.table, Item={"kind": {"S": "theirs"}, "key": {"S": "x"}})
    with pytest.raises(TeleportError, match="of another program"):
        await place(others).write([b"{}"])
    events = server.settings()
    made = place(events)
    await made.write([b"{}"])
    await made.close()
    with pytest.raises(TeleportError, match="of another program"):
        async with engine(events):
            pass


@needs_moto
async def test_two_that_make_the_table_at_once_share_it(server: DynamoServer) -> None:
    settings = server.settings()
    one, other = place(settings), place(settings)
    await asyncio.gather(one.write([b"a", b"b"]), other.write([b"b", b"c"]))
    assert sorted(await stored(settings)) == [b"a", b"b", b"c"]
    await one.close()
    await other.close()


async def test_credentials_stay_out_of_problems() -> None:
    settings = DynamoSettings("events", "eu-central-1", f"http://127.0.0.1:{free_port()}", "AKIA", "sesame")
    with pytest.raises(ConnectionProblem) as caught:
        await place(settings, within=0.1).write([b"{}"])
    assert "sesame" not in f"{caught.value} {caught.value.hint} {settings!r} {DynamoCopy(settings)!r}"
