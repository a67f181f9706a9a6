"""Recordings in S3, over a real server: several at a time, removed for all auth servers, and encrypted with a key."""

from __future__ import annotations

import asyncio
import fcntl
from functools import partial
from pathlib import Path

import pytest
from tests.recording.recording_samples import OTHER_SID, SID, chunk_list
from tests.recording.s3_parts import PART, Gated, Killed, KilledAt, Sides, Watched, large

from teleport.auth.evidence.recorded import UPLOADS
from teleport.backend.interface import PutOp
from teleport.errors import NotFound
from teleport.recording.s3.uploader import AT_ONCE
from teleport.recording.storage import Stays
from teleport.testing import s3

pytestmark = pytest.mark.usefixtures("s3_login")

DATA = b"".join(chunk_list(5))


@pytest.fixture
def sides(tmp_path: Path) -> Sides:
    return Sides(tmp_path)


async def test_a_few_are_brought_at_a_time_and_a_large_one_holds_up_no_other(
    s3_server: s3.S3Server, sides: Sides
) -> None:
    """Also none that arrives meanwhile; no more than a part of each is in memory."""
    sids = [f"{n:08x}-1111-4222-8333-444444444444" for n in range(9)]
    async with sides.side(s3_server.settings(), bucket=partial(Gated, shut=sids[0])) as side:
        assert isinstance(side.bucket, Gated)
        await side.take(large(2 * PART, sids[0]), sids[0])
        for sid in sids[1:8]:
            await side.take(b"".join(chunk_list(3, sid)), sid)
        task = asyncio.create_task(side.uploader.once())
        async with asyncio.timeout(60):
            while len(side.files()) != len([*sids[1:8], f"{sids[0]}.rec", f"{sids[0]}.parts"]):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await side.take(b"".join(chunk_list(3, sids[8])), sids[8])
            side.uploader.look()
            while f"{sids[8]}.away" not in side.files():  # noqa: ASYNC110 - another task moves it on
                await asyncio.sleep(0.01)
        assert f"{sids[0]}.rec" in side.files()
        assert not task.done()
        side.bucket.opened.set()
        assert await task
        assert side.files() == [f"{sid}.away" for sid in sids]
        assert side.bucket.most == AT_ONCE
        assert side.bucket.most_bytes <= AT_ONCE * PART


async def test_what_one_auth_server_removed_leaves_nothing_at_another(s3_server: s3.S3Server, sides: Sides) -> None:
    """The text of a session is where the recording was brought from."""
    settings = s3_server.settings()
    other = b"".join(chunk_list(3, OTHER_SID))
    async with sides.side(settings, "one") as one, sides.side(settings, "two") as two:
        await two.take(DATA)
        await two.take(other, OTHER_SID)
        await two.uploader.once()
        for sid in (SID, OTHER_SID):
            (two.folder / f"{sid}.idx").write_text("whoami")
        await one.store.remove(SID)
        with pytest.raises(NotFound):
            await two.store.open(SID)
        for side in (one, two):
            await side.store.tidy()
        assert two.files() == [f"{OTHER_SID}.away", f"{OTHER_SID}.idx"]
        (await one.store.open(OTHER_SID)).close()


async def test_a_recording_on_its_way_is_removed_once_it_has_arrived(s3_server: s3.S3Server, sides: Sides) -> None:
    """What was brought of it in parts goes, too; an object of somebody else, which has its name, does not."""
    data = large(3 * PART)
    settings = s3_server.settings()
    ends = partial(KilledAt, call="upload_part", count=2, after=False)
    async with sides.side(settings, bucket=ends) as side:
        await side.take(data)
        with pytest.RaisesGroup(Killed):
            await side.uploader.once()
        with (side.folder / f"{SID}.rec").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with pytest.raises(Stays, match="being brought to S3"):
                await side.store.remove(SID)
        await side.store.remove(SID)
        assert side.files() == []
        assert not (await side.call("list_multipart_uploads", Prefix=settings.prefix)).get("Uploads")
    async with sides.side(settings) as side:
        await side.take(DATA)
        await side.replace(b"of somebody else")
        await side.store.remove(SID)
        assert side.files() == []
        assert await side.object() == b"of somebody else"


async def test_what_takes_long_is_done_before_the_removal(s3_server: s3.S3Server, sides: Sides) -> None:
    """Whoever removes holds the audit log's lock: reading what lies there, and ending an upload, come before."""
    settings = s3_server.settings()
    ends = partial(KilledAt, call="upload_part", count=2, after=False)
    async with sides.side(settings, bucket=ends) as side:
        await side.take(large(3 * PART))
        with pytest.RaisesGroup(Killed):
            await side.uploader.once()
    async with sides.side(settings, bucket=Watched) as side:
        assert isinstance(side.bucket, Watched)
        file = next(side.folder.glob("*.rec"))
        await side.replace(file.read_bytes())
        side.bucket.given.clear()
        async with side.store.removing(SID) as remove:
            assert [call for call, _ in side.bucket.given] == ["abort_multipart_upload", "get_object"]
            assert file.exists()
            side.bucket.given.clear()
            await remove()
        assert {call for call, _ in side.bucket.given} == {"list_object_versions", "delete_object"}
        assert side.files() == []


async def test_what_is_encrypted_with_a_key_is_so_on_the_servers_disk_and_comes_back_whole(sides: Sides) -> None:
    """Whole, and in parts: the key is named where an object, or an upload in parts, is made, and nowhere else."""
    server = await asyncio.to_thread(s3.S3Server(kms=True).__enter__)
    try:
        for n, options in enumerate(({}, {"disablesse": "false", "sse_kms_key": s3.KMS_KEY})):
            data = {SID: DATA, OTHER_SID: large(2 * PART, OTHER_SID)}
            settings = server.settings(**options)
            async with sides.side(settings, f"auth{n}", bucket=Watched) as side:
                assert isinstance(side.bucket, Watched)
                for sid, one in data.items():
                    await side.take(one, sid, told=False)
                    await side.backend.commit([PutOp(UPLOADS + sid, one[-32:].hex().encode())])
                assert await side.uploader.once()
                for sid, one in data.items():
                    with await side.store.open(sid) as file:
                        assert file.read() == one
                    there = await side.call("head_object", Key=settings.key(sid))
                    assert there.get("ServerSideEncryption") == (None if n == 0 else "aws:kms")
                    assert bool(there.get("SSEKMSKeyId")) == (n == 1)
                    assert sid == SID or server.stores(one[1000:1100]) == (n == 0)
                named = {call for call, given in side.bucket.given if given.get("SSEKMSKeyId") == s3.KMS_KEY}
                said = {call for call, given in side.bucket.given if "ServerSideEncryption" in given}
                assert named == said == (set() if n == 0 else {"put_object", "create_multipart_upload"})
                assert "upload_part" in {call for call, _ in side.bucket.given}
                for sid in data:
                    await side.store.remove(sid)
    finally:
        await asyncio.to_thread(server.__exit__)
