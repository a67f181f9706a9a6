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
    recording,
)

from teleport.errors import AccessDenied, AlreadyExists, BadRequest, LimitExceeded, NotFound, TeleportError
from teleport.recording.directory import reserve
from teleport.recording.format import BrokenRecording, Frame, FrameKind
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
    assert await other.begin(SID) == UploadState(len(b"rubbish of another host")), "nor is its own stopped"
    with pytest.raises(BrokenRecording):
        await other.complete(SID, HASH)
    assert await store.names() == [SID]
    with await store.open(SID) as file:
        assert file.read() == DATA


async def test_who_comes_second_has_a_recording_beside_the_first(store: FileRecordingStore, tmp_path: Path) -> None:
    """Whoever was first: each is found by its host, however often it is said, and none is the other's."""
    theirs = recording([Frame(0, FrameKind.OUTPUT, b"of another")], node_id=OTHER_HOST)
    other, sink = store.sink_for(OTHER_HOST), store.sink_for(HOST)
    await put(other, theirs)
    for _ in range(2):
        await put(sink, DATA)
    assert sorted(os.listdir(tmp_path / "store")) == [f"{SID}.{HOST}.rec", f"{SID}.rec"]
    for name, data in ((f"{SID}.{HOST}", DATA), (f"{SID}.{OTHER_HOST}", theirs), (SID, theirs)):
        with await store.open(name) as file:
            assert file.read() == data
        assert isinstance(await store.verify(name), VerifiedRecording)
    assert [(one.name, one.sid, one.made_by) for one in sorted(await store.all(), key=lambda one: one.name)] == [
        (SID, SID, OTHER_HOST), (f"{SID}.{HOST}", SID, HOST),
    ]  # fmt: skip
    assert await sink.begin(SID) == UploadState(len(DATA), HASH)
    (tmp_path / "store" / f"{SID}.rec").rename(tmp_path / "store" / f"{OTHER_SID}.{HOST}.rec")
    assert [one.name for one in await store.all()] == [f"{SID}.{HOST}"], "a file under a wrong name is nobody's"
    await other.append(SID, 0, theirs)
    assert await other.keep(SID, theirs[-32:].hex(), first_is_told=True) == f"{SID}.{OTHER_HOST}"


async def test_a_recording_made_by_another_host_is_refused(store: FileRecordingStore) -> None:
    """The header names the host; the signature is checked by the store's own check."""
    other = store.sink_for(OTHER_HOST)
    with pytest.raises(BrokenRecording, match="another host"):
        await put(other, DATA)


@pytest.mark.parametrize("node_id", ["n" * 1500, f"x/{HOST}", HOST.upper(), "", "../x"])
async def test_a_recording_of_a_host_without_a_uuid_is_refused(store: FileRecordingStore, node_id: str) -> None:
    """What is told of a session is kept under its host's id: the recording would be here, and never be told of."""
    data = recording([Frame(1, FrameKind.OUTPUT, b"x")], node_id=node_id, recorder=HOST)
    with pytest.raises(BrokenRecording, match="names no host by its UUID"):
        await put(store.sink_for(HOST), data)
    assert not await store.exists(SID)


async def test_only_a_proxy_stores_what_happened_on_another_host(store: FileRecordingStore) -> None:
    data = recording([Frame(1, FrameKind.OUTPUT, b"x")], node_id=OTHER_HOST, recorder=HOST)
    sink = store.sink_for(HOST)
    await sink.append(SID, 0, data)
    with pytest.raises(AccessDenied, match="only proxies record those"):
        await sink.keep(SID, data[-32:].hex(), records_others=False)
    assert await sink.begin(SID) == UploadState(len(data)), "nothing was dropped"
    assert await sink.keep(SID, data[-32:].hex()) == SID


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
