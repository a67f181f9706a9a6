"""What is DynamoDB's own: lost answers, throttling, what is written out and what is kept, whose table it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from teleport.aws.answers import Kind
from teleport.backend import DeleteOp, PutOp, WatchCompacted
from teleport.backend.dynamodb.engine import DynamoBackend
from teleport.backend.dynamodb.refusals import explain, kind_of
from teleport.backend.dynamodb.rows import CHECKPOINT, HEAD, int_of
from teleport.backend.dynamodb.settings import DynamoSettings, Scaling, mistake
from teleport.backend.dynamodb.table import Table
from teleport.clock import SystemClock
from teleport.errors import AlreadyExists, ConnectionProblem, TeleportError
from teleport.testing import dynamodb
from teleport.testing.clock import FakeClock
from teleport.testing.cut_relay import CutRelay
from teleport.testing.dynamodb import DynamoServer

pytestmark = pytest.mark.skipif(dynamodb.program() is None, reason=dynamodb.MISSING)

WRITE = b"TransactWriteItems"


@pytest.fixture(scope="module")
def server() -> Iterator[DynamoServer]:
    with DynamoServer() as made:
        yield made


def engine(settings: DynamoSettings, *, within: float = 15.0, log_keep: int = 50_000) -> DynamoBackend:
    return DynamoBackend(settings, SystemClock(), sweep_every=None, within=within, log_keep=log_keep)


@asynccontextmanager
async def raw(settings: DynamoSettings) -> AsyncIterator[Table]:
    table = Table(settings)
    try:
        await table.open()
        yield table
    finally:
        await table.close()


async def rows(table: Table, kind: str) -> list[str]:
    return [row["key"]["S"] async for page in table.pages(kind) for row in page]


# Answers that are lost


@pytest.mark.parametrize("passed", [True, False], ids=["done", "not-done"])
async def test_a_write_whose_answer_is_lost_happens_once(server: DynamoServer, passed: bool) -> None:
    settings = server.settings()
    async with (
        CutRelay(server.port) as relay,
        engine(settings) as beside,
        engine(replace(settings, endpoint=server.endpoint(relay.port))) as backend,
    ):
        await backend.put("before", b"")
        relay.cut_at(WRITE, passed=passed)
        assert await backend.create("once", b"mine") == 2
        assert relay.cut_at_word.is_set()
        assert [item.key for item in await beside.range()] == ["before", "once"]
        assert await beside.revision() == 2


@pytest.mark.parametrize("passed", [True, False], ids=["done", "not-done"])
async def test_one_whose_place_another_took_meanwhile_is_decided_anew(server: DynamoServer, passed: bool) -> None:
    """Its answer is lost and the way stays cut until another process has written."""
    settings = server.settings()
    async with (
        CutRelay(server.port) as relay,
        engine(settings) as beside,
        engine(replace(settings, endpoint=server.endpoint(relay.port))) as backend,
    ):
        relay.cut_at(WRITE, passed=passed)
        writing = asyncio.create_task(backend.create("k", b"mine"))
        await relay.cut_at_word.wait()
        relay.cut()
        theirs = asyncio.create_task(beside.create("k", b"theirs"))
        found = (await asyncio.gather(theirs, return_exceptions=True))[0]
        relay.mend()
        item = await beside.get("k")
        assert item is not None
        if passed:
            assert isinstance(found, AlreadyExists)
            assert (await writing, item.value) == (1, b"mine")
        else:
            assert found == 1
            with pytest.raises(AlreadyExists):
                await writing
            assert item.value == b"theirs"


async def test_when_nobody_answers_it_is_said_that_it_is_not_known(server: DynamoServer) -> None:
    settings = server.settings()
    async with (
        CutRelay(server.port) as relay,
        engine(replace(settings, endpoint=server.endpoint(relay.port)), within=0.3) as backend,
    ):
        relay.cut_at(WRITE, passed=True)
        writing = asyncio.create_task(backend.put("k", b""))
        await relay.cut_at_word.wait()
        relay.cut()
        with pytest.raises(ConnectionProblem, match="not known whether"):
            await writing
        with pytest.raises(ConnectionProblem):
            await backend.get("k")
        relay.mend()
        with suppress(ConnectionProblem):
            await backend.revision()
        await backend.put("after", b"")
        assert {item.key for item in await backend.range()} == {"k", "after"}


async def test_what_finds_nobody_listening_is_tried_again(server: DynamoServer) -> None:
    settings = server.settings()
    async with (
        CutRelay(server.port) as relay,
        engine(replace(settings, endpoint=server.endpoint(relay.port))) as backend,
    ):
        await backend.put("before", b"")
        relay.leave()
        writing = asyncio.create_task(backend.put("k", b""))
        done, _ = await asyncio.wait([writing], timeout=1.0)  # as long as several tries take
        assert not done
        await relay.come_back()
        await writing
        assert [item.key for item in await backend.range()] == ["before", "k"]


# Throttling


@asynccontextmanager
async def throttled(server: DynamoServer, refusals: int, operation: str) -> AsyncIterator[str]:
    """Where `operation` is refused for its rate, `refusals` times; the rest goes to the server."""
    left = refusals

    async def passed_on(request: web.Request) -> web.Response:
        nonlocal left
        name = request.headers["X-Amz-Target"].partition(".")[2]
        if name == operation and left:
            left -= 1
            return web.json_response(
                {"__type": "com.amazon.coral.availability#ThrottlingException", "message": "Rate exceeded"}, status=400
            )
        headers = {key: value for key, value in request.headers.items() if key.lower() != "content-length"}
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.post(server.endpoint(), data=await request.read(), headers=headers) as answer,
        ):
            return web.Response(
                status=answer.status, body=await answer.read(), content_type="application/x-amz-json-1.0"
            )

    app = web.Application(client_max_size=2**24)
    app.router.add_post("/", passed_on)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        assert runner.addresses
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("operation", ["TransactWriteItems", "GetItem", "Query"])
async def test_what_is_throttled_is_tried_again(server: DynamoServer, operation: str) -> None:
    settings = server.settings()
    async with throttled(server, 4, operation) as endpoint, engine(replace(settings, endpoint=endpoint)) as backend:
        assert await backend.create("k", b"v") == 1
        item = await backend.get("k")
        assert item is not None
        assert item.value == b"v"


async def test_throttling_that_lasts_is_told_with_what_mends_it(server: DynamoServer) -> None:
    settings = server.settings()
    async with engine(settings):
        pass
    async with (
        throttled(server, 10**6, "TransactWriteItems") as endpoint,
        engine(replace(settings, endpoint=endpoint), within=0.3) as backend,
    ):
        with pytest.raises(ConnectionProblem, match="capacity") as caught:
            await backend.put("k", b"")
        assert "not known" not in str(caught.value), "a throttled write has not happened"
        assert "write_max_capacity" in caught.value.hint
        assert await backend.get("k") is None


# What is written out


async def test_all_is_there_for_who_opens_it_later_whatever_was_written_out(server: DynamoServer) -> None:
    """Small and large values, changed and deleted before and after they were written out."""
    settings = server.settings()
    large = bytes(range(256)) * 4096
    async with engine(settings, log_keep=3) as one, engine(settings, log_keep=3) as other:
        for number in range(12):
            await one.put(f"k/{number}", str(number).encode())
        await other.put("large", large)
        await other.put("large/gone", large)
        assert await one.revision() == 14
        await one.sweep()
        async with raw(settings) as table:
            about = await table.get(CHECKPOINT)
            assert (int_of(about, "applied"), int_of(about, "kept")) == (14, 11)
            assert len(await rows(table, "item")) == 14
            assert len(await rows(table, "part/large")) == 3
        await one.delete("k/3")
        await other.put("k/4", b"again")
        await one.put("large", large[::-1])
        await one.delete("large/gone")
        wanted = await other.range()
        async with engine(settings) as later:
            assert await later.range() == wanted
        for number in range(4):
            await other.put("more", str(number).encode())
        await other.sweep()
        wanted = await one.range()
        async with raw(settings) as table:
            assert len(await rows(table, "part/large")) == 3, "the parts of the older value are gone"
            assert await rows(table, "part/large/gone") == []
            assert "k/3" not in await rows(table, "item")
        async with engine(settings) as later:
            assert await later.range() == wanted
            assert (await later.get("large")).value == large[::-1]  # type: ignore[union-attr]


async def test_who_stood_still_writes_nothing_into_a_log_that_was_cut(server: DynamoServer) -> None:
    """The place after all that it knows is free again; it still is not the newest."""
    settings = server.settings()
    async with engine(settings, log_keep=2) as slow, engine(settings, log_keep=2) as busy:
        await slow.put("k", b"first")
        known = slow._replica.position
        for number in range(10):
            await busy.put("k", str(number).encode())
        await busy.sweep()
        slow._replica.position = min(slow._replica.position, known)
        assert await slow.compare_and_swap("k", 11, b"last") == 12
        assert [item.value for item in await busy.range()] == [b"last"]


async def test_expired_rows_tell_dynamodb_a_time_long_after_ours(server: DynamoServer) -> None:
    settings, clock = server.settings(), FakeClock()
    async with DynamoBackend(settings, clock, sweep_every=None, log_keep=0) as backend:
        await backend.put("lease", b"", expires=clock.now() + timedelta(seconds=10))
        await backend.put("stays", b"")
        await backend.sweep()
        async with raw(settings) as table:
            found = {row["key"]["S"]: row async for page in table.pages("item") for row in page}
            about = await table.call("describe_time_to_live", TableName=settings.table)
        assert about["TimeToLiveDescription"]["AttributeName"] == "ttl"
        assert int_of(found["lease"], "ttl") > (clock.now() + timedelta(hours=23)).timestamp()
        assert "ttl" not in found["stays"]
        clock.advance(11)
        assert await backend.get("lease") is None


async def test_a_transaction_of_a_thousand_writes_is_one(server: DynamoServer) -> None:
    settings = server.settings()
    async with engine(settings, log_keep=0) as backend, engine(settings) as beside:
        assert await backend.commit([PutOp(f"k/{number}", b"v" * 500) for number in range(1000)]) == 1
        assert len(await beside.range()) == 1000
        await backend.commit([DeleteOp(f"k/{number}") for number in range(0, 1000, 2)])
        await backend.sweep()
        async with engine(settings) as later:
            assert len(await later.range()) == 500


# Whose table it is


async def set_head(settings: DynamoSettings, name: str, value: dict[str, Any]) -> None:
    async with raw(settings) as table:
        await table.call(
            "update_item",
            TableName=settings.table,
            Key=HEAD,
            UpdateExpression="SET #name = :value",
            ExpressionAttributeNames={"#name": name},
            ExpressionAttributeValues={":value": value},
        )


async def test_a_newer_schema_is_refused_with_the_way_back(server: DynamoServer) -> None:
    settings = server.settings()
    async with engine(settings) as backend:
        await backend.put("k", b"")
        await set_head(settings, "version", {"N": "2"})
        with pytest.raises(TeleportError, match="another version"):
            await backend.put("k", b"old")
        with pytest.raises(TeleportError, match="another version"):
            await backend.get("k")
    with pytest.raises(TeleportError, match="newer version of Teleport wrote it") as caught:
        await engine(settings).open()
    assert "restore" in caught.value.hint
    await set_head(settings, "version", {"N": "1"})
    async with engine(settings) as backend:
        assert [item.value for item in await backend.range()] == [b""]


async def test_a_table_of_another_program_is_refused_and_left_alone(server: DynamoServer) -> None:
    settings = server.settings()
    async with raw(settings) as table:
        await table.call(
            "create_table",
            TableName=settings.table,
            KeySchema=[{"AttributeName": "HashKey", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "HashKey", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        with pytest.raises(TeleportError, match="of another program"):
            await engine(settings).open()
        assert (await table.call("scan", TableName=settings.table))["Items"] == []


async def test_a_table_that_is_removed_is_noticed(server: DynamoServer) -> None:
    settings = server.settings()
    async with engine(settings) as backend:
        await backend.put("k", b"")
        async with raw(settings) as table:
            await table.call("delete_table", TableName=settings.table)
        for call in (backend.get("k"), backend.put("k", b"")):
            with pytest.raises(TeleportError, match="not there any more"):
                await call


async def test_two_that_open_an_absent_table_at_once_share_it(server: DynamoServer) -> None:
    settings = server.settings()
    async with asyncio.TaskGroup() as group:
        backends = [engine(settings) for _ in range(3)]
        for backend in backends:
            group.create_task(backend.open())
    await backends[0].put("k", b"v")
    assert [len(await backend.range()) for backend in backends] == [1, 1, 1]
    for backend in backends:
        await backend.close()


async def test_capacity_and_backups_are_as_asked(server: DynamoServer) -> None:
    settings = replace(server.settings(), continuous_backups=True, reads=Scaling(5, 50, 60), writes=Scaling(6, 70, 50))
    for _ in range(2):  # the second time all of it is there
        async with engine(settings):
            pass
    async with raw(settings) as table:
        backups = await table.call("describe_continuous_backups", TableName=settings.table)
        client = await table.client("application-autoscaling")
        targets = await table.call("describe_scalable_targets", client=client, ServiceNamespace="dynamodb")
        policies = await table.call("describe_scaling_policies", client=client, ServiceNamespace="dynamodb")
    told = backups["ContinuousBackupsDescription"]["PointInTimeRecoveryDescription"]
    assert told["PointInTimeRecoveryStatus"] == "ENABLED"
    ours = f"table/{settings.table}"
    assert {
        (one["ScalableDimension"], one["MinCapacity"], one["MaxCapacity"])
        for one in targets["ScalableTargets"]
        if one["ResourceId"] == ours
    } == {("dynamodb:table:ReadCapacityUnits", 5, 50), ("dynamodb:table:WriteCapacityUnits", 6, 70)}
    assert {
        one["TargetTrackingScalingPolicyConfiguration"]["TargetValue"]
        for one in policies["ScalingPolicies"]
        if one["ResourceId"] == ours
    } == {60.0, 50.0}


# Settings and refusals


@pytest.mark.parametrize(
    ("changed", "wrong"),
    [
        ({}, ""),
        ({"table": "a b"}, "table_name"),
        ({"region": "../x"}, "region"),
        ({"secret_key": ""}, "go together"),
        ({"reads": Scaling(5, 4, 50)}, "above"),
        ({"reads": Scaling(1, 4, 95)}, "percent"),
        ({"endpoint": "http://db.example.com"}, "could read"),
        ({"endpoint": "https://u:p@db.example.com"}, "endpoint"),
        ({"endpoint": "https://db.example.com/path"}, "endpoint"),
        ({"endpoint": "https://db.example.com"}, ""),
    ],
)
def test_mistakes_of_settings_are_told(changed: dict[str, Any], wrong: str) -> None:
    settings = replace(DynamoSettings("table", "us-east-1", "", "key", "secret"), **changed)
    assert wrong in mistake(settings)
    assert bool(wrong) == bool(mistake(settings))


def test_credentials_stay_out_of_what_is_printed() -> None:
    settings = DynamoSettings("table", "us-east-1", "", "AKIAPRIVATE", "hidden")
    assert "AKIAPRIVATE" not in repr(settings) + settings.where
    assert "hidden" not in repr(settings) + settings.where


@pytest.mark.parametrize(
    ("code", "status", "reasons", "kind"),
    [
        ("TransactionCanceledException", 400, ["None", "ConditionalCheckFailed"], Kind.CONDITION),
        ("TransactionCanceledException", 400, ["TransactionConflict", "None"], Kind.SLOWER),
        ("TransactionCanceledException", 400, ["ThrottlingError"], Kind.SLOWER),
        ("TransactionCanceledException", 400, ["ThrottlingError", "ConditionalCheckFailed"], Kind.CONDITION),
        ("TransactionCanceledException", 400, ["ValidationError"], Kind.REFUSED),
        ("TransactionInProgressException", 400, [], Kind.AGAIN),
        ("ProvisionedThroughputExceededException", 400, [], Kind.SLOWER),
        ("InternalServerError", 500, [], Kind.AGAIN),
        ("whatever", 503, [], Kind.AGAIN),
        ("whatever", 400, [], Kind.REFUSED),
        ("ExpiredTokenException", 400, [], Kind.NO_LOGIN),
        ("AccessDeniedException", 400, [], Kind.NOT_ALLOWED),
    ],
)
def test_what_answers_mean(code: str, status: int, reasons: list[str], kind: Kind) -> None:
    assert kind_of(code, status, "", reasons) is kind


def test_every_refusal_has_a_hint() -> None:
    for kind in Kind:
        assert explain("read", "here", kind, "so").hint


async def test_the_log_is_trimmed_past_records_of_many_parts(server: DynamoServer) -> None:
    """Also when a break left the last parts of one that was forgotten."""
    settings = server.settings()
    async with engine(settings, log_keep=0) as backend:
        await backend.put("large", b"v" * 1024 * 1024)
        await backend.put("k", b"")
        async with raw(settings) as table:
            gone = (await rows(table, "log"))[:2]
            await backend.snapshot([""])
            await backend._checkpoints._write(await backend._checkpoints._read())
            await table.remove([{"kind": {"S": "log"}, "key": {"S": key}} for key in gone])
            await backend.put("more", b"")
            await backend.sweep()
            assert await rows(table, "log") == []
        async with engine(settings) as later:
            assert len(await later.range()) == 3


async def test_a_table_that_a_backup_caught_half_way_is_refused(server: DynamoServer) -> None:
    settings = server.settings()
    async with engine(settings) as backend:
        await backend.put("k", b"")
        await backend.put("k", b"")
    async with raw(settings) as table:
        await table.remove([{"kind": {"S": "log"}, "key": {"S": (await rows(table, "log"))[0]}}])
    with pytest.raises(TeleportError, match="not whole") as caught:
        await engine(settings, within=0.1).open()
    assert "another moment" in caught.value.hint


async def test_a_restored_table_has_another_history(server: DynamoServer) -> None:
    """Whoever knew the old one reads everything again, also when the new one has come to the same revision."""
    settings = server.settings()
    restored = replace(settings, table=f"{settings.table}-restored")
    async with engine(settings) as backend, raw(settings) as table:
        for number in range(5):
            await backend.put(f"k/{number}", b"old")
        made = await table.call("create_backup", TableName=settings.table, BackupName="nightly")
        await backend.put("after", b"")
        seen = await backend.revision()
        await table.call(
            "restore_table_from_backup",
            TargetTableName=restored.table,
            BackupArn=made["BackupDetails"]["BackupArn"],
        )
    async with engine(restored) as backend:
        assert [item.key for item in await backend.range()] == [f"k/{number}" for number in range(5)]
        first = await backend.put("k/5", b"new")
        assert first > 2**32
        with pytest.raises(WatchCompacted):
            await anext(backend.watch([""], start=seen))
        async with aclosing(backend.watch([""], start=first - 1)) as batches:
            assert [event.key for event in await anext(batches)] == ["k/5"]
    async with engine(restored) as later:
        assert await later.revision() == first, "it is a history of its own from now on"
        assert len(await later.range()) == 6
