"""The store: only whole, true recordings get in, and no host touches another's."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.recording.recording_samples import (
    HOST,
    OTHER_HOST,
    OTHER_SID,
    SID,
    check_signature,
    chunk_list,
)

from teleport.errors import AccessDenied, AlreadyExists, BadRequest, LimitExceeded, NotFound, TeleportError
from teleport.recording.directory import reserve
from teleport.recording.format import BrokenRecording
from teleport.recording.player import RecordingReader
from teleport.recording.storage import FileRecordingStore, HostSink, UploadState
from teleport.recording.verify import VerifiedRecording

DATA = b"".join(chunk_list(5))
HASH = DATA[-32:].hex()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FileRecordingStore]:
    made = FileRecordingStore(tmp_path / "store", check_signature=check_signature, require_signature=True)
    yield made
    made.close()


async def put(sink: HostSink, data: bytes, sid: str = SID) -> None:
    await sink.append(sid, 0, data)
    await sink.complete(sid, data[-32:].hex())


async def test_a_recording_comes_in_pieces_and_is_read_back(store: FileRecordingStore, tmp_path: Path) -> None:
    sink = store.sink_for(HOST)
    assert await sink.begin(SID) == UploadState(0)
    assert await sink.append(SID, 0, DATA[:100]) == 100
    assert await sink.begin(SID) == UploadState(100)
    assert not await store.exists(SID)
    assert await sink.append(SID, 100, DATA[100:]) == len(DATA)
    await sink.complete(SID, HASH)
    assert await store.exists(SID)
    assert await sink.begin(SID) == UploadState(len(DATA), HASH)
    with await store.open(SID) as file:
        assert file.read() == DATA
        file.seek(0)
        assert RecordingReader(file).header.sid == SID
    assert isinstance(await store.verify(SID), VerifiedRecording)
    folder = tmp_path / "store"
    assert [path.name for path in folder.iterdir()] == [f"{SID}.rec"]
    assert stat.S_IMODE((folder / f"{SID}.rec").stat().st_mode) == 0o600


async def test_everything_may_be_said_twice(store: FileRecordingStore) -> None:
    """T41: duplicated uploads."""
    sink = store.sink_for(HOST)
    assert await sink.append(SID, 0, DATA[:100]) == 100
    assert await sink.append(SID, 0, DATA[:100]) == 100
    assert await sink.append(SID, 50, DATA[50:200]) == 100  # not where it ends: the count says where to go on
    assert await sink.append(SID, 500, DATA[500:]) == 100
    await sink.append(SID, 100, DATA[100:])
    await asyncio.gather(sink.complete(SID, HASH), sink.complete(SID, HASH), sink.complete(SID, HASH))
    await sink.complete(SID, HASH)
    assert await sink.append(SID, 0, DATA) == len(DATA)
    with await store.open(SID) as file:
        assert file.read() == DATA


async def test_the_same_bytes_sent_by_two_tasks_are_there_once(store: FileRecordingStore) -> None:
    sink = store.sink_for(HOST)

    async def send() -> None:
        offset = 0
        while offset < len(DATA):
            offset = await sink.append(SID, offset, DATA[offset : offset + 61])

    await asyncio.gather(*(send() for _ in range(4)))
    await sink.complete(SID, HASH)


BAD = {
    "a flipped bit": (DATA[:300] + bytes([DATA[300] ^ 1]) + DATA[301:], HASH),
    "cut": (b"".join(chunk_list(5)[:-1]), HASH),
    "trailing bytes": (DATA + b"x", HASH),
    "another session": (b"".join(chunk_list(2, OTHER_SID)), b"".join(chunk_list(2, OTHER_SID))[-32:].hex()),
    "another hash than announced": (DATA, "00" * 32),
    "nonsense": (b"nonsense" * 10, HASH),
}


@pytest.mark.parametrize(("data", "announced"), BAD.values(), ids=BAD.keys())
async def test_what_does_not_verify_is_not_kept(store: FileRecordingStore, data: bytes, announced: str) -> None:
    """T43: and the upload starts anew."""
    sink = store.sink_for(HOST)
    await sink.append(SID, 0, data)
    with pytest.raises(BrokenRecording):
        await sink.complete(SID, announced)
    assert not await store.exists(SID)
    assert await sink.begin(SID) == UploadState(0)


async def test_a_host_cannot_bring_or_replace_the_recording_of_another(store: FileRecordingStore) -> None:
    other = store.sink_for(OTHER_HOST)
    await other.append(SID, 0, b"rubbish of another host")
    sink = store.sink_for(HOST)
    assert await sink.begin(SID) == UploadState(0)  # undisturbed
    await put(sink, DATA)
    for call in (other.begin(SID), other.append(SID, 0, b"x"), other.complete(SID, HASH)):
        with pytest.raises(AccessDenied):
            await call
    with await store.open(SID) as file:
        assert file.read() == DATA


async def test_a_recording_made_by_another_host_is_refused(store: FileRecordingStore) -> None:
    """The header names the host; the signature is checked by the store's own check."""
    other = store.sink_for(OTHER_HOST)
    with pytest.raises(BrokenRecording, match="another host"):
        await put(other, DATA)


async def test_a_stored_recording_is_never_replaced(store: FileRecordingStore) -> None:
    sink = store.sink_for(HOST)
    await put(sink, DATA)
    second = b"".join(chunk_list(3, SID, "rewritten"))
    assert await sink.append(SID, 0, second) == len(DATA)
    with pytest.raises(AlreadyExists):
        await sink.complete(SID, second[-32:].hex())
    with await store.open(SID) as file:
        assert file.read() == DATA


@pytest.mark.parametrize("sid", ["../x", "/etc/passwd", SID.upper(), "", "a\0", "x" * 5000])
async def test_only_session_ids_are_names(store: FileRecordingStore, sid: str) -> None:
    """T42."""
    sink = store.sink_for(HOST)
    for call in (sink.begin(sid), sink.append(sid, 0, b"x"), sink.complete(sid, HASH), store.open(sid)):
        with pytest.raises(BadRequest):
            await call
    with pytest.raises(BadRequest):
        store.sink_for(sid)


async def test_links_in_the_store_are_not_followed(store: FileRecordingStore, tmp_path: Path) -> None:
    """T42."""
    victim = tmp_path / "victim"
    victim.write_bytes(DATA)
    folder = tmp_path / "store"
    (folder / f"{SID}.rec").symlink_to(victim)
    (folder / f"{OTHER_SID}.{HOST}.upload").symlink_to(victim)
    assert not await store.exists(SID)
    with pytest.raises(NotFound):
        await store.open(SID)
    with pytest.raises(TeleportError):
        await store.sink_for(HOST).append(OTHER_SID, 0, b"x")
    assert victim.read_bytes() == DATA


async def test_sizes_are_limited(tmp_path: Path) -> None:
    store = FileRecordingStore(tmp_path / "small", max_size=1000)
    sink = store.sink_for(HOST)
    with pytest.raises(LimitExceeded):
        await sink.append(SID, 0, bytes(1001))
    with pytest.raises(BadRequest):
        await sink.append(SID, 0, bytes(5 * 1024 * 1024))
    with pytest.raises(BadRequest):
        await sink.append(SID, -1, b"x")
    store.close()


async def test_recordings_are_listed_in_pages(store: FileRecordingStore, tmp_path: Path) -> None:
    sink = store.sink_for(HOST)
    for sid in (SID, OTHER_SID):
        await put(sink, b"".join(chunk_list(2, sid)), sid)
    (tmp_path / "store" / "readme.rec").write_text("not ours")
    (first,) = await store.recordings(limit=1)
    (second,) = await store.recordings(after=first.sid)
    assert [first.sid, second.sid] == sorted([SID, OTHER_SID])
    assert (first.user, first.login, first.node_name) == ("ann", "root", "db1")
    assert first.size == os.stat(tmp_path / "store" / f"{SID}.rec").st_size
    assert await store.recordings(after=second.sid) == []


async def test_a_changed_recording_is_found_later(store: FileRecordingStore, tmp_path: Path) -> None:
    await put(store.sink_for(HOST), DATA)
    path = tmp_path / "store" / f"{SID}.rec"
    path.write_bytes(DATA[:-40] + bytes([DATA[-40] ^ 1]) + DATA[-39:])
    assert not isinstance(await store.verify(SID), VerifiedRecording)


async def test_a_missing_recording_is_not_found(store: FileRecordingStore) -> None:
    for call in (store.open(SID), store.verify(SID), store.sink_for(HOST).complete(SID, HASH)):
        with pytest.raises(NotFound):
            await call


def test_how_much_of_a_disk_recordings_leave_to_events() -> None:
    assert reserve(1024**4) == 64 * 1024**2
    assert reserve(100 * 1024**2) == 5 * 1024**2
