"""Recordings that lie in S3 go at their time as files do: over a real server, with and without versions of objects."""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.auth.test_auth_pruning_recordings import DAY, Rig, hold
from tests.recording.s3_parts import Killed, KilledAt, Watched
from tests.security.test_security_recordings import RecordingHost

from teleport.api import messages as m
from teleport.api import routes
from teleport.audit import checkpoints
from teleport.audit.retention import Retention
from teleport.auth.evidence.objects import OBJECTS, StoredNotes
from teleport.auth.evidence.removed import REMOVED
from teleport.auth.evidence.store import EvidenceStore
from teleport.auth.retention.recordings import RecordingPruner
from teleport.aws.answers import Kind
from teleport.backend.interface import PutOp
from teleport.errors import AccessDenied, LimitExceeded, NotFound, TeleportError
from teleport.recording.s3.bucket import Bucket, Refused
from teleport.recording.s3.notes import ObjectNote
from teleport.recording.s3.settings import S3Settings
from teleport.recording.s3.store import S3RecordingStore
from teleport.testing import s3
from teleport.testing.auth import Credentials, running_auth

pytestmark = pytest.mark.usefixtures("s3_login")

RULE = ("default", 3 * DAY)


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "INTERVAL", 0.02)


class S3Rig(Rig):
    """An auth server whose recordings lie in S3."""

    bucket: Bucket

    async def record(self, host: RecordingHost, user: str, *, days: int | None) -> str:
        """The session's id; it was brought there, and auth stored it so many days ago. None: nobody noted when."""
        sid = str(uuid.uuid4())
        await host.upload(sid, user)
        async with asyncio.timeout(120):
            while self.here(sid) != {".away", ".idx"}:  # noqa: ASYNC110 - another task moves it on
                await asyncio.sleep(0.01)
        note = await self.note(sid)
        assert note is not None
        assert note.stored is not None
        stored = None if days is None else self.service.state.clock.now() - days * DAY
        await self.put_note(sid, msgspec.structs.replace(note, stored=stored))
        return sid

    async def note(self, sid: str) -> ObjectNote | None:
        return await StoredNotes(self.service.state.backend).get(sid)

    async def put_note(self, sid: str, note: ObjectNote) -> None:
        await self.service.state.backend.commit([PutOp(OBJECTS + sid, msgspec.json.encode(note))])

    def here(self, sid: str) -> set[str]:
        """What of it is on auth's disk."""
        folder = self.service.evidence.recordings.directory.path
        return {path.name.removeprefix(sid) for path in folder.iterdir() if path.name.startswith(sid)}

    async def call(self, operation: str, **parameters: Any) -> Any:
        return await s3.call(self.bucket, operation, **parameters)

    async def versions(self, sid: str) -> list[str]:
        """Of everything that the bucket has under its name."""
        found = await self.call("list_object_versions", Prefix=self.bucket.settings.key(sid))
        return [one["VersionId"] for one in [*found.get("Versions", []), *found.get("DeleteMarkers", [])]]

    async def gone(self, sid: str) -> bool:
        """Whether nothing is left of it anywhere."""
        return not await self.versions(sid) and not self.here(sid) and await self.note(sid) is None

    async def read(self, sid: str, caller: Credentials | None = None) -> bytes:
        client = self.auth.async_client(caller or await self.auth.admin())
        try:
            return b"".join(
                [piece async for piece in client.download(routes.READ_RECORDING, m.RecordingRequest(sid=sid))]
            )
        finally:
            await client.close()

    async def played(self, sid: str) -> bytes | str:
        """Its bytes, or what who asks for it is told."""
        try:
            return await self.read(sid)
        except NotFound as told:
            return told.message

    def pruner_over(self, store: S3RecordingStore) -> RecordingPruner:
        """One of another process."""
        return RecordingPruner(
            self.service.state,
            store,
            Retention([RULE]),
            lease=lambda: nullcontext(),
            exclusive=nullcontext(),
            holds=self._holds,
            prove=self.service.evidence.api.proof,
            restored=EvidenceStore(self.service.state.backend, self.service.state.clock).load_restored,
        )

    def store_over(self, bucket: Bucket, notes: StoredNotes | None = None) -> S3RecordingStore:
        folder = self.service.evidence.recordings.directory.path
        return S3RecordingStore(folder, bucket, notes or StoredNotes(self.service.state.backend))


async def to_its_end(pruner: RecordingPruner) -> None:
    while await pruner.step():
        continue


@asynccontextmanager
async def opened(
    directory: Path, settings: S3Settings, *, versions: bool = False, lock: bool = False
) -> AsyncIterator[tuple[S3Rig, RecordingHost]]:
    bucket = Bucket(settings)
    try:
        await s3.make(bucket, versions=versions, lock=lock)
        async with running_auth(directory, s3=settings) as auth:
            rig = S3Rig(auth, RULE)
            rig.bucket = bucket
            yield rig, await RecordingHost.join(auth)
    finally:
        await bucket.close()


@pytest.mark.parametrize("versions", [False, True])
async def test_old_recordings_go_with_all_versions_and_who_asks_is_told(
    s3_server: s3.S3Server, tmp_path: Path, versions: bool
) -> None:
    settings = s3_server.settings("versions" if versions else "tests")
    async with opened(tmp_path, settings, versions=versions) as (rig, host):
        old, new = await rig.record(host, "eve", days=4), await rig.record(host, "eve", days=2)
        if versions:  # somebody wrote over it, and took that back again
            data = await rig.read(old)
            await rig.call("put_object", Key=settings.key(old), Body=b"another")
            await rig.call("delete_object", Key=settings.key(old))
            await rig.call("put_object", Key=settings.key(old), Body=data)
            assert len(await rig.versions(old)) == 4
        assert await rig.pruner.step(), "it is said first"
        assert await rig.read(old)
        await rig.prune()
        assert await rig.gone(old)
        assert await rig.read(new)
        assert await rig.faults() == []
        (event,) = await rig.auth.events("session_recording.prune")
        assert (event["sid"], event["user"], event["gone"], event["number"]) == (old, "eve", True, 1)
        assert event["rule"] == "default: 72h"
        stored = datetime.fromisoformat(event["stored"])
        assert abs(rig.service.state.clock.now() - stored - 4 * DAY) < timedelta(minutes=5)
        with pytest.raises(NotFound, match=f"session {old} was removed on .* keeps default: 72h"):
            await rig.read(old)
        stranger = await rig.auth.user("zoe", ["access"])
        refusals = []
        for sid in (old, "00000000-0000-4000-8000-000000000000"):
            with pytest.raises((AccessDenied, NotFound)) as refused:
                await rig.read(sid, stranger)
            refusals.append((type(refused.value), refused.value.message.replace(sid, "SID")))
        assert refusals[0] == refusals[1], "strangers are not told that there ever was one"
        admin = await rig.auth.admin()
        verdicts = await rig.auth.call(admin, routes.VERIFY_RECORDINGS, m.VerifyRecordingsRequest())
        assert [(one.sid, one.ok) for one in verdicts.items] == [(new, True)]
        with pytest.raises(NotFound, match="was removed on"):
            await rig.auth.call(admin, routes.VERIFY_RECORDINGS, m.VerifyRecordingsRequest(sid=old))
        await rig.call("delete_object", Key=settings.key(new))
        await rig.missing()


async def test_what_is_held_stays_also_when_the_hold_comes_last(s3_server: s3.S3Server, tmp_path: Path) -> None:
    async with opened(tmp_path, s3_server.settings()) as (rig, host):
        held, late = await rig.record(host, "ann", days=9), await rig.record(host, "eve", days=4)
        rig.holds, rig.held_at_the_lock = [hold(user="ann")], [hold(user="eve")]
        await rig.prune()
        assert await rig.read(held)
        assert await rig.read(late)
        async with asyncio.timeout(60):
            while (await rig.service.evidence.api.proof()).basis.recordings[late].gone:
                continue  # no checkpoint has seen it yet
        assert await rig.faults() == []
        assert not await rig.service.state.backend.range(REMOVED)
        await rig.call("delete_object", Key=rig.bucket.settings.key(late))
        await rig.missing()


async def test_what_the_bucket_keeps_is_told_and_tried_again_and_holds_up_no_other(
    s3_server: s3.S3Server, tmp_path: Path
) -> None:
    """Object lock: it is played as before, and nobody says that it was removed."""
    async with opened(tmp_path, s3_server.settings("locked"), lock=True) as (rig, host):
        kept, other = await rig.record(host, "eve", days=4), await rig.record(host, "eve", days=4)
        key = rig.bucket.settings.key(kept)
        await rig.call("put_object_legal_hold", Key=key, LegalHold={"Status": "ON"})
        async with asyncio.timeout(60):
            while not await rig.gone(other):  # a checkpoint comes between the two, perhaps
                with pytest.raises(TeleportError, match=f"stays beyond its time: recording {kept} .* keeps it"):
                    await rig.prune()
        assert await rig.read(kept)
        assert await rig.faults() == []
        with pytest.raises(TeleportError, match="stays beyond its time"):
            await rig.prune()
        assert rig.here(kept) == {".away", ".idx"}
        await rig.call("put_object_legal_hold", Key=key, LegalHold={"Status": "OFF"})
        await rig.prune()
        assert await rig.gone(kept)
        assert len(await rig.auth.events("session_recording.prune")) == 2
        with pytest.raises(NotFound, match="was removed"):
            await rig.read(kept)


async def test_a_role_that_may_not_remove_is_told_what_it_needs(
    s3_server: s3.S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, s3_server.settings()) as (rig, host):
        sid = await rig.record(host, "eve", days=4)
        for name, value in s3.READER.items():
            monkeypatch.setenv(name, value)
        bucket = Bucket(rig.bucket.settings)
        store = rig.store_over(bucket)
        try:
            with pytest.raises(TeleportError, match=f"recording {sid} is not removed: .* keeps it") as told:
                await to_its_end(rig.pruner_over(store))
            assert "docs/operations.md" in (told.value.hint or "")
        finally:
            store.close()
            await bucket.close()
        assert await rig.read(sid)


async def test_what_was_altered_there_stays_and_is_told(s3_server: s3.S3Server, tmp_path: Path) -> None:
    """It is evidence."""
    async with opened(tmp_path, s3_server.settings()) as (rig, host):
        altered, other = await rig.record(host, "eve", days=4), await rig.record(host, "eve", days=4)
        await rig.call("put_object", Key=rig.bucket.settings.key(altered), Body=b"nothing happened here")
        with pytest.raises(TeleportError, match=f"{altered} is not what was stored"):
            await rig.prune()
        async with asyncio.timeout(60):
            while not await rig.gone(other):
                with pytest.raises(TeleportError, match=f"{altered} is not what was stored"):
                    await rig.prune()
        assert len(await rig.versions(altered)) == 1
        assert {event["sid"] for event in await rig.auth.events("session_recording.prune")} == {other}
        assert any(altered in fault for fault in await rig.faults())


async def test_what_is_altered_or_taken_after_it_was_said_stays_noted_and_is_told(
    s3_server: s3.S3Server, tmp_path: Path
) -> None:
    """The bytes are looked at again before they go; that nothing is there is no removal of ours."""
    async with opened(tmp_path, s3_server.settings()) as (rig, host):
        altered, taken = await rig.record(host, "eve", days=4), await rig.record(host, "eve", days=4)
        assert await rig.pruner.step(), "it is said, of both"
        async with asyncio.timeout(60):
            while len((await rig.service.evidence.api.proof()).basis.recordings) < 2:
                continue  # no checkpoint has seen both yet
        await rig.call("put_object", Key=rig.bucket.settings.key(altered), Body=b"nothing happened here")
        await rig.call("delete_object", Key=rig.bucket.settings.key(taken))
        with pytest.raises(TeleportError, match=r"2 recordings stay .* is not what was stored"):
            await to_its_end(rig.pruner)
        assert len(await rig.versions(altered)) == 1
        assert await rig.note(altered) is not None
        assert await rig.note(taken) is not None
        assert not await rig.service.state.backend.range(REMOVED), "nobody is told that they were removed"


async def test_in_another_bucket_nothing_is_taken_for_removed(s3_server: s3.S3Server, tmp_path: Path) -> None:
    """`audit_sessions_uri` changed while a removal was under way."""
    async with opened(tmp_path, s3_server.settings()) as (rig, host):
        sid = await rig.record(host, "eve", days=4)
        buckets = [
            KilledAt(rig.bucket.settings, call="delete_object", count=1, after=False),
            Bucket(dataclasses.replace(rig.bucket.settings, prefix="elsewhere")),
        ]
        for bucket, ends in zip(buckets, (Killed, TeleportError), strict=True):
            store = rig.store_over(bucket)
            try:
                with pytest.raises(ends, match="is not there" if ends is TeleportError else None):
                    await to_its_end(rig.pruner_over(store))
            finally:
                store.close()
                await bucket.close()
        assert await rig.read(sid), "it is where it was"
        await rig.prune()
        assert await rig.gone(sid)


class Archived(Bucket):
    """A bucket that does not hand out one object, as one whose object lies in an archive, or breaks over it."""

    key, why = "", Kind.REFUSED

    async def read(self, key: str) -> AsyncGenerator[bytes, None]:
        if key == self.key:
            raise Refused(self.why, "it is not handed out")
        async for piece in super().read(key):
            yield piece


@pytest.mark.parametrize("why", [Kind.REFUSED, Kind.KMS, Kind.AGAIN])
async def test_one_that_cannot_be_read_holds_up_no_other(s3_server: s3.S3Server, tmp_path: Path, why: Kind) -> None:
    """And none needs room on auth's disk."""
    async with opened(tmp_path, s3_server.settings()) as (rig, host):
        first, second = sorted([await rig.record(host, "eve", days=4), await rig.record(host, "eve", days=4)])
        bucket = Archived(rig.bucket.settings)
        bucket.key, bucket.why = bucket.settings.key(first), why
        store = rig.store_over(bucket)

        def no_room(*_: object, **__: object) -> None:
            raise LimitExceeded("no room")

        store.directory.check_room = no_room  # type: ignore[method-assign]
        try:
            pruner = rig.pruner_over(store)
            async with asyncio.timeout(60):
                while not await rig.gone(second):  # a checkpoint has to see it first
                    with pytest.raises(TeleportError, match=f"{first} cannot be read: .*it is not handed out"):
                        await to_its_end(pruner)
        finally:
            store.close()
            await bucket.close()
        assert await rig.read(first)


async def test_a_service_that_does_not_answer_is_not_asked_for_each_recording(
    s3_server: s3.S3Server, tmp_path: Path
) -> None:
    """And those that it did not hand out come last in the next round."""

    class Away(Bucket):
        asked: list[str] = []  # noqa: RUF012 - of this test

        async def read(self, key: str) -> AsyncGenerator[bytes, None]:
            self.asked.append(key)
            raise Refused(Kind.AGAIN, "no answer")
            yield b""

    async with opened(tmp_path, s3_server.settings()) as (rig, host):
        sids = sorted([await rig.record(host, "eve", days=4) for _ in range(4)])
        bucket = Away(rig.bucket.settings)
        store = rig.store_over(bucket)
        try:
            pruner = rig.pruner_over(store)
            for _ in range(2):
                with pytest.raises(TeleportError, match="3 recordings stay"):
                    await pruner.step()
        finally:
            store.close()
            await bucket.close()
        assert bucket.asked == [bucket.settings.key(sids[n]) for n in (0, 1, 2, 3, 0, 1)]


async def test_nothing_is_read_while_the_log_waits(s3_server: s3.S3Server, tmp_path: Path) -> None:
    """Under the lock there is the removal, which has its 10 s, and no more."""
    async with opened(tmp_path, s3_server.settings()) as (rig, host):
        sid = await rig.record(host, "eve", days=4)
        bucket = Watched(rig.bucket.settings)
        store, under = rig.store_over(bucket), list[str]()

        class Lock(nullcontext[None]):
            async def __aenter__(self) -> None:
                bucket.given.clear()

            async def __aexit__(self, *_: object) -> None:
                under.extend(call for call, _ in bucket.given)

        try:
            pruner = rig.pruner_over(store)
            pruner._exclusive = Lock()
            while not under:
                await pruner.step()
        finally:
            store.close()
            await bucket.close()
        assert set(under) == {"list_object_versions", "delete_object"}
        assert await rig.gone(sid)


async def test_one_of_unknown_age_is_kept_until_its_age_is_known(s3_server: s3.S3Server, tmp_path: Path) -> None:
    """Notes of the first version do not say when it was stored: the event of its upload does, else its time begins."""
    async with opened(tmp_path, s3_server.settings()) as (rig, host):
        told, untold = await rig.record(host, "eve", days=None), "11111111-2222-4333-8444-555555555555"
        old = b'{"size":7,"sha256":"00","head":"00","header":%s}'
        note = await rig.note(told)
        assert note is not None
        written = old % msgspec.json.encode(note.header).replace(told.encode(), untold.encode())
        await rig.service.state.backend.commit([PutOp(OBJECTS + untold, written)])
        await rig.prune()
        dates = {}
        for sid in (told, untold):
            found = await rig.note(sid)
            assert found is not None
            assert found.stored is not None
            dates[sid] = found.stored
        (event,) = await rig.auth.events("session.upload")
        assert dates[told] == datetime.fromisoformat(event["time"])
        assert dates[untold] == rig.service.state.clock.now()
        assert await rig.read(told)
        assert not await rig.auth.events("session_recording.prune", wait_for=0)


class KilledNotes(StoredNotes):
    """Notes at whose removal the process is gone."""

    def __init__(self, *args: Any, after: bool) -> None:
        super().__init__(*args)
        self._after = after

    async def remove(self, name: str) -> None:
        if self._after:
            await super().remove(name)
        raise Killed


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    ("call", "count"),
    [("list_object_versions", 1), ("delete_object", 1), ("delete_object", 2), ("list_object_versions", 2), ("", 0)],
)
async def test_a_process_that_ends_anywhere_leaves_nothing_and_loses_nothing(
    s3_server: s3.S3Server, tmp_path: Path, call: str, count: int, after: bool
) -> None:
    """In a bucket with versions; the last case is the note."""
    settings = s3_server.settings("versions")
    async with opened(tmp_path, settings, versions=True) as (rig, host):
        old, new = await rig.record(host, "eve", days=4), await rig.record(host, "eve", days=2)
        data = await rig.read(old)
        await rig.call("put_object", Key=settings.key(old), Body=data)
        bucket = partial(KilledAt, call=call, count=count, after=after)(settings) if call else Bucket(settings)
        notes = None if call else KilledNotes(rig.service.state.backend, after=after)
        store = rig.store_over(bucket, notes)
        try:
            with pytest.raises(Killed):
                await to_its_end(rig.pruner_over(store))
        finally:
            store.close()
            await bucket.close()
        played = await rig.played(old)
        assert played == data or "was removed on" in str(played)
        assert played == data or (call, count) != ("list_object_versions", 1)
        assert await rig.faults() == []
        await rig.prune()
        assert await rig.gone(old)
        assert await rig.read(new)
        assert await rig.faults() == []
        assert len(await rig.auth.events("session_recording.prune")) == 1
        with pytest.raises(NotFound, match="was removed on"):
            await rig.read(old)
