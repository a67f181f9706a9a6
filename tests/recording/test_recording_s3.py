"""Recordings in S3, over a real server: what is brought there is proved, and what comes back is whole or refused."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from functools import partial
from pathlib import Path

import pytest
from tests.recording.recording_samples import HOST, OTHER_HOST, OTHER_SID, SID, chunk_list, recording
from tests.recording.s3_parts import PART, FailsOver, Killed, KilledAt, Sides, Slow, large

from teleport.auth.evidence.recorded import UPLOADS
from teleport.backend.interface import PutOp
from teleport.errors import AlreadyExists, ConnectionProblem, NotFound, TeleportError
from teleport.recording.format import BrokenPlace, BrokenRecording, Frame, FrameKind
from teleport.recording.s3.bucket import Bucket
from teleport.recording.s3.settings import parse
from teleport.recording.storage import UploadState
from teleport.recording.verify import VerifiedRecording
from teleport.testing import s3

pytestmark = pytest.mark.usefixtures("s3_login")

DATA = b"".join(chunk_list(5))


@pytest.fixture
def sides(tmp_path: Path) -> Sides:
    return Sides(tmp_path)


async def test_a_recording_is_brought_there_and_read_from_there(s3_server: s3.S3Server, sides: Sides) -> None:
    async with sides.side(s3_server.settings()) as side:
        await side.take(DATA)
        before = await side.store.all()
        assert await side.uploader.once()
        assert side.files() == [f"{SID}.away"]
        assert await side.object() == DATA
        with await side.store.open(SID) as file:
            assert file.read() == DATA
        assert isinstance(await side.store.verify(SID), VerifiedRecording)
        assert await side.store.all() == before == await side.store.some([SID])
        assert await side.store.names() == [SID]
        assert await side.store.exists(SID)
        assert (await side.store.header(SID)).sid == SID
        assert await side.store.name_of(f"{SID}.{HOST}") == SID
        assert side.store.url(SID) == f"s3://tests/{side.bucket.settings.prefix}/{SID}.rec"
        assert side.uploader.problem == ""
        assert side.files() == [f"{SID}.away"]  # what was fetched has no name


async def test_a_large_one_goes_in_parts(s3_server: s3.S3Server, sides: Sides) -> None:
    data = large(3 * PART)
    async with sides.side(s3_server.settings()) as side:
        await side.take(data)
        assert await side.uploader.once()
        assert side.files() == [f"{SID}.away"]
        assert await side.object() == data
        with await side.store.open(SID) as file:
            assert file.read() == data


async def test_the_host_is_answered_as_if_it_lay_here(s3_server: s3.S3Server, sides: Sides) -> None:
    """T41: duplicated uploads, to any auth server."""
    settings = s3_server.settings()
    async with sides.side(settings, "one") as one, sides.side(settings, "two") as two:
        await one.take(DATA)
        await one.uploader.once()
        for side in (one, two):
            sink = side.store.sink_for(HOST)
            assert await sink.begin(SID) == UploadState(len(DATA), DATA[-32:].hex())
            assert await sink.append(SID, 0, DATA) == len(DATA)
            assert await sink.keep(SID, DATA[-32:].hex()) == SID
            with pytest.raises(AlreadyExists):
                await sink.keep(SID, "0" * 64)
            assert f"{SID}.rec" not in side.files()
            assert await side.store.sink_for(OTHER_HOST).begin(SID) == UploadState(0)
        assert [found.name for found in await two.store.all()] == [SID]
        with await two.store.open(SID) as file:
            assert file.read() == DATA
        assert not await two.store.searchable(SID)


async def test_another_hosts_lies_beside_it(s3_server: s3.S3Server, sides: Sides) -> None:
    other = recording([Frame(1, FrameKind.OUTPUT, b"mine")], recorder=OTHER_HOST)
    async with sides.side(s3_server.settings()) as side:
        await side.take(DATA)
        await side.uploader.once()
        sink = side.store.sink_for(OTHER_HOST)
        await sink.append(SID, 0, other)
        assert await sink.keep(SID, other[-32:].hex(), first_is_told=True) == f"{SID}.{OTHER_HOST}"
        assert await side.store.names() == [SID, f"{SID}.{OTHER_HOST}"]
        with await side.store.open(f"{SID}.{OTHER_HOST}") as file:
            assert file.read() == other


async def test_what_was_not_told_of_waits(s3_server: s3.S3Server, sides: Sides) -> None:
    """The host has no answer yet, and comes again: then it is told."""
    async with sides.side(s3_server.settings()) as side:
        await side.take(DATA, told=False)
        assert await side.uploader.once()
        assert side.files() == [f"{SID}.rec"]
        assert not await side.noted()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (b"", "has 0 of the"),
        (DATA[:-1], "has"),
        (DATA[:40] + bytes([DATA[40] ^ 1]) + DATA[41:], "other bytes"),
        (b"".join(chunk_list(5, seed="another")), "longer"),
        (DATA + b"x", "longer"),
    ],
)
async def test_what_was_changed_there_is_never_served(
    s3_server: s3.S3Server, sides: Sides, changed: bytes, told: str
) -> None:
    async with sides.side(s3_server.settings()) as side:
        await side.take(DATA)
        await side.uploader.once()
        await side.replace(changed)
        with pytest.raises(BrokenRecording, match=told):
            await side.store.open(SID)
        found = await side.store.verify(SID)
        assert isinstance(found, BrokenPlace)
        assert told in found.what
        assert f"s3://tests/{side.bucket.settings.prefix}/{SID}.rec" in found.what


async def test_what_was_removed_there_is_told(s3_server: s3.S3Server, sides: Sides) -> None:
    async with sides.side(s3_server.settings()) as side:
        await side.take(DATA)
        await side.uploader.once()
        await side.call("delete_object", Key=side.bucket.settings.key(SID))
        with pytest.raises(BrokenRecording, match="is not there"):
            await side.store.open(SID)
        assert isinstance(await side.store.verify(SID), BrokenPlace)
        assert [found.name for found in await side.store.all()] == [SID]


async def test_an_object_that_is_there_is_never_replaced(
    s3_server: s3.S3Server, sides: Sides, caplog: pytest.LogCaptureFixture
) -> None:
    async with sides.side(s3_server.settings()) as side:
        await side.replace(b"of somebody else")
        await side.take(DATA)
        assert await side.uploader.once()
        assert side.files() == [f"{SID}.rec"]
        assert await side.object() == b"of somebody else"
        assert "move that object away" in side.uploader.problem
        assert [one.levelname for one in caplog.records if "stays here" in one.message] == ["ERROR"]
        await side.call("delete_object", Key=side.bucket.settings.key(SID))
        async with asyncio.timeout(60):
            while f"{SID}.rec" in side.files():
                await side.uploader.once()
        assert side.uploader.problem == ""
        assert await side.object() == DATA


async def test_a_file_that_broke_here_is_not_brought_there(s3_server: s3.S3Server, sides: Sides) -> None:
    async with sides.side(s3_server.settings()) as side:
        await side.take(DATA)
        (side.folder / f"{SID}.rec").write_bytes(DATA[:100] + b"?" + DATA[101:])
        await side.uploader.once()
        assert side.files() == [f"{SID}.rec"]
        assert "it is broken here" in side.uploader.problem
        assert not await side.noted()


SMALL = [("get_object", 1), ("put_object", 1), ("get_object", 2)]
LARGE = [
    ("create_multipart_upload", 1),
    ("upload_part", 1),
    ("upload_part", 2),
    ("complete_multipart_upload", 1),
    ("get_object", 2),
]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("call", "count"), [*SMALL, *LARGE])
async def test_a_process_that_ends_anywhere_loses_nothing(
    s3_server: s3.S3Server, sides: Sides, call: str, count: int, after: bool
) -> None:
    data = DATA if (call, count) in SMALL else large(3 * PART)
    settings = s3_server.settings()
    ends = partial(KilledAt, call=call, count=count, after=after)
    async with sides.side(settings, bucket=ends) as side:
        await side.take(data)
        with pytest.RaisesGroup(Killed):
            await side.uploader.once()
        with await side.store.open(SID) as file:
            assert file.read() == data
    watched = partial(KilledAt, call="", count=0, after=False)
    async with sides.side(settings, bucket=watched) as side:
        assert await side.uploader.once()
        assert side.files() == [f"{SID}.away"]
        with await side.store.open(SID) as file:
            assert file.read() == data
        assert isinstance(side.bucket, KilledAt)
        if call == "upload_part" and count == 2:  # what was acknowledged is not sent again
            assert side.bucket.calls.count("create_multipart_upload") == 0
            assert side.bucket.calls.count("upload_part") == -(-len(data) // PART) - 1


async def test_a_journal_that_is_torn_or_of_an_upload_that_is_gone_is_not_believed(
    s3_server: s3.S3Server, sides: Sides
) -> None:
    data = large(3 * PART)
    settings = s3_server.settings()
    for torn in (True, False):
        async with sides.side(settings, bucket=partial(KilledAt, call="upload_part", count=3, after=False)) as side:
            if torn:
                await side.take(data)
            with pytest.RaisesGroup(Killed):
                await side.uploader.once()
            journal = side.folder / f"{SID}.parts"
            if torn:
                journal.write_bytes(journal.read_bytes()[:-20])
            else:
                for one in (await side.call("list_multipart_uploads", Prefix=side.bucket.settings.prefix))["Uploads"]:
                    await side.bucket.abandon(one["Key"], one["UploadId"])
    async with sides.side(settings) as side:
        assert await side.uploader.once()
        assert await side.object() == data
        assert side.files() == [f"{SID}.away"]


async def test_a_server_that_is_away_is_waited_for(sides: Sides, caplog: pytest.LogCaptureFixture) -> None:
    server = await asyncio.to_thread(s3.S3Server().__enter__)
    try:
        async with sides.side(server.settings()) as side:
            await side.take(DATA)
            server.kill()
            task = asyncio.create_task(side.uploader.run())
            async with asyncio.timeout(60):
                while not side.uploader.problem:  # noqa: ASYNC110 - another task moves it on
                    await asyncio.sleep(0.01)
            assert "not reached" in side.uploader.problem
            with await side.store.open(SID) as file:
                assert file.read() == DATA
            await asyncio.to_thread(server.start)
            async with asyncio.timeout(120):
                while f"{SID}.rec" in side.files():  # noqa: ASYNC110 - another task moves it on
                    await asyncio.sleep(0.01)
                while side.uploader.problem:  # noqa: ASYNC110 - another task moves it on
                    await asyncio.sleep(0.01)
            with await side.store.open(SID) as file:
                assert file.read() == DATA
            server.kill()
            with pytest.raises(ConnectionProblem, match="cannot read"):
                await side.store.open(SID)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
    finally:
        await asyncio.to_thread(server.__exit__)
    assert s3.LOGIN["AWS_SECRET_ACCESS_KEY"] not in caplog.text


async def test_no_bucket_no_permission_and_no_key_are_told(
    s3_server: s3.S3Server, sides: Sides, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = s3_server.settings("another")
    async with sides.side(settings, made=False) as side:
        await side.take(DATA)
        assert not await side.uploader.once()
        assert "there is no such bucket" in side.uploader.problem
        assert side.uploader.problem in caplog.text
    async with sides.side(settings):
        pass
    with monkeypatch.context() as other:
        for name, value in s3.READER.items():
            other.setenv(name, value)
        async with sides.side(settings) as side:
            assert not await side.uploader.once()
            assert "may not do that" in side.uploader.problem
    with monkeypatch.context() as other:
        other.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret-of-tests")
        async with sides.side(settings, made=False) as side:
            assert not await side.uploader.once()
            assert "credentials are not known" in side.uploader.problem
        assert "wrong-secret-of-tests" not in caplog.text
    with monkeypatch.context() as other:
        for name in s3.LOGIN:
            other.delenv(name)
        async with sides.side(settings, made=False) as side:
            assert not await side.uploader.once()
            assert "there are none" in side.uploader.problem
    encrypted = s3_server.settings("another", settings.prefix, disablesse="false", sse_kms_key="no-such-key")
    async with sides.side(encrypted) as side:
        assert not await side.uploader.once()
        assert "InternalError" in side.uploader.problem  # this server has no KMS, and says so in no other way
    async with sides.side(settings) as side:
        assert side.files() == [f"{SID}.rec"]
        assert await side.uploader.once()
        assert side.files() == [f"{SID}.away"]


async def test_a_file_stays_until_it_is_searchable(s3_server: s3.S3Server, sides: Sides) -> None:
    async with sides.side(s3_server.settings(), searchable=[False]) as side:
        await side.take(DATA)
        await side.uploader.once()
        assert await side.noted()
        assert side.files() == [f"{SID}.rec"]
        async with asyncio.timeout(60):
            while f"{SID}.rec" in side.files():
                await side.uploader.once()
        assert side.uploader.problem == ""


async def test_two_processes_of_an_auth_server_do_not_meet(s3_server: s3.S3Server, sides: Sides) -> None:
    settings = s3_server.settings()
    async with sides.side(settings) as one, sides.side(settings) as two:
        await one.take(DATA)
        await asyncio.gather(one.uploader.once(), two.uploader.once())
        async with asyncio.timeout(60):
            while f"{SID}.rec" in one.files():
                await one.uploader.once()
        assert one.uploader.problem == two.uploader.problem == ""
        assert await one.object() == DATA


async def test_one_recording_over_which_the_service_fails_holds_up_no_other(
    s3_server: s3.S3Server, sides: Sides
) -> None:
    other = b"".join(chunk_list(3, OTHER_SID))
    async with sides.side(s3_server.settings(), bucket=partial(FailsOver, sid=SID)) as side:
        await side.take(DATA)
        await side.take(other, OTHER_SID)
        assert SID < OTHER_SID
        assert not await side.uploader.once()
        assert not await side.uploader.once()
        assert side.files() == [f"{SID}.rec", f"{OTHER_SID}.away"]
        assert "as told" in side.uploader.problem


async def test_a_disk_that_does_not_read_one_file_holds_up_no_other(s3_server: s3.S3Server, sides: Sides) -> None:
    other = b"".join(chunk_list(3, OTHER_SID))
    async with sides.side(s3_server.settings()) as side:
        await side.take(DATA)
        await side.take(other, OTHER_SID)
        (side.folder / f"{SID}.away").mkdir()  # so that the note cannot be written
        assert await side.uploader.once()
        assert side.files() == [f"{SID}.away", f"{SID}.rec", f"{OTHER_SID}.away"]
        assert "the disk of" in side.uploader.problem


async def test_two_hosts_claim_a_session_at_two_auth_servers_at_once(s3_server: s3.S3Server, sides: Sides) -> None:
    """Each auth server keeps its own first, and only one of them may be told of under that name."""
    theirs = recording([Frame(1, FrameKind.OUTPUT, b"mine")], recorder=OTHER_HOST)
    settings = s3_server.settings()
    async with sides.side(settings, "one") as one, sides.side(settings, "two") as two:
        await one.take(DATA)
        assert await two.take(theirs, host=OTHER_HOST, told=False) == SID
        name = await two.store.set_beside(SID, OTHER_HOST)
        assert name == f"{SID}.{OTHER_HOST}" == await two.store.set_beside(SID, OTHER_HOST)
        await two.backend.commit([PutOp(UPLOADS + name, theirs[-32:].hex().encode())])
        assert await one.uploader.once()
        assert await two.uploader.once()
        for side in (one, two):
            assert await side.store.names() == [SID, name]
            with await side.store.open(name) as file:
                assert file.read() == theirs


def test_objects_are_made_with_the_key_that_is_asked_for() -> None:
    made = Bucket(parse("records", {"sse_kms_key": "alias/k", "acl": "private"}))._made_as
    assert made == {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "alias/k", "ACL": "private"}
    assert Bucket(parse("records", {}))._made_as == {"ServerSideEncryption": "aws:kms"}
    assert Bucket(parse("records", {"disablesse": "true"}))._made_as == {}


async def test_a_fetch_goes_on_for_who_asks_again(s3_server: s3.S3Server, sides: Sides) -> None:
    """Clients wait for half a minute, and a large recording may take longer."""
    async with sides.side(s3_server.settings(), bucket=Slow) as side:
        await side.take(DATA)
        await side.uploader.once()
        assert isinstance(side.bucket, Slow)
        before = side.bucket.reads
        side.bucket.flows.clear()
        impatient = [asyncio.create_task(side.store.open(SID)) for _ in range(2)]
        async with asyncio.timeout(60):
            while side.bucket.reads == before:  # noqa: ASYNC110 - another task moves it on
                await asyncio.sleep(0.01)
        for task in impatient:
            task.cancel()
        assert all(
            isinstance(one, asyncio.CancelledError) for one in await asyncio.gather(*impatient, return_exceptions=True)
        )
        side.bucket.flows.set()
        files = await asyncio.gather(side.store.open(SID), side.store.open(SID))
        assert side.bucket.reads == before + 1
        for file in files:
            with file:
                assert file.read() == DATA
        (await side.store.open(SID)).close()
        assert side.bucket.reads == before + 2  # what was handed out is not kept
        side.bucket.flows.clear()
        waiting = asyncio.create_task(side.store.open(SID))
        async with asyncio.timeout(60):
            while side.bucket.reads == before + 2:  # noqa: ASYNC110 - another task moves it on
                await asyncio.sleep(0.01)
        await side.store.end()
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_a_missing_recording_is_not_found(s3_server: s3.S3Server, sides: Sides) -> None:
    async with sides.side(s3_server.settings()) as side:
        for call in (side.store.open, side.store.verify, side.store.header):
            with pytest.raises(NotFound):
                await call(SID)
        assert not await side.store.exists(SID)
        assert await side.store.some([SID]) == []


async def test_a_closed_bucket_is_not_opened_again(s3_server: s3.S3Server, sides: Sides) -> None:
    async with sides.side(s3_server.settings()) as side:
        await side.take(DATA)
        await side.uploader.once()
        await side.bucket.close()
        with pytest.raises(TeleportError, match="ends"):
            await side.store.open(SID)


async def test_bodies_and_credentials_are_not_logged(
    s3_server: s3.S3Server, sides: Sides, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with sides.side(s3_server.settings()) as side:
        await side.take(DATA)
        await side.uploader.once()
        async with aclosing(side.bucket.read(side.bucket.settings.key(SID))) as pieces:
            assert b"".join([piece async for piece in pieces]) == DATA
    assert not [one for one in caplog.records if one.name.startswith(("botocore", "aiobotocore", "urllib3"))]
    assert s3.LOGIN["AWS_SECRET_ACCESS_KEY"] not in caplog.text
