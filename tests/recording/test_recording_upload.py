"""Uploading: whatever interrupts it, the sink ends up with the recording, once, and the spool is empty only then."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.recording.recording_samples import HOST, OTHER_SID, SID, header, sign, write_recording

from teleport.clock import SystemClock
from teleport.errors import ConnectionProblem, NotFound, TeleportError
from teleport.recording import upload
from teleport.recording.storage import FileRecordingStore, RecordingSink, UploadState
from teleport.recording.upload import Uploader, UploadOutcome, UploadReport
from teleport.recording.writer import RecordingSpool


class Interrupted:
    """A sink behind a bad network: calls get lost before or after they had their effect."""

    def __init__(self, sink: RecordingSink, rng: random.Random, chance: float = 0.3) -> None:
        self._sink = sink
        self._rng = rng
        self._chance = chance
        self.failures = 0

    def _perhaps(self) -> None:
        if self._rng.random() < self._chance:
            self.failures += 1
            raise ConnectionProblem("the connection was lost")

    async def begin(self, sid: str) -> UploadState:
        self._perhaps()
        return await self._sink.begin(sid)

    async def append(self, sid: str, offset: int, data: bytes) -> int:
        self._perhaps()
        cut = self._rng.randint(0, len(data))  # part of it arrived
        if self._rng.random() < self._chance:
            await self._sink.append(sid, offset, data[:cut])
            self.failures += 1
            raise ConnectionProblem("the connection was lost half way")
        return await self._sink.append(sid, offset, data)

    async def complete(self, sid: str, sha256: str) -> None:
        self._perhaps()
        await self._sink.complete(sid, sha256)
        self._perhaps()


@asynccontextmanager
async def running(uploader: Uploader) -> AsyncIterator[None]:
    task = asyncio.create_task(uploader.run(), name="uploader")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        uploader.close()


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not reached():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("seed", range(4))
async def test_a_bad_network_delays_but_loses_nothing(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T41."""
    monkeypatch.setattr(upload, "PIECE", 97)
    spool = tmp_path / "spool"
    expected = {sid: write_recording(spool, sid, 4) for sid in (SID, OTHER_SID)}
    store = FileRecordingStore(tmp_path / "store")
    sink = Interrupted(store.sink_for(HOST), random.Random(seed), 0.1)
    reports: list[UploadReport] = []
    uploader = Uploader(spool, sink, report=reports.append, first_pause=0.001, longest_pause=0.01)
    async with running(uploader):
        await until(lambda: sum(one.outcome is UploadOutcome.UPLOADED for one in reports) == 2)
    assert sink.failures > 0
    assert list(spool.iterdir()) == []
    for sid, data in expected.items():
        with await store.open(sid) as file:
            assert file.read() == data
    store.close()


async def test_a_finished_session_is_uploaded_when_told(tmp_path: Path) -> None:
    store = FileRecordingStore(tmp_path / "store")
    spool = RecordingSpool(tmp_path / "spool", clock=SystemClock(), sign=sign)
    reports: list[UploadReport] = []
    uploader = Uploader(tmp_path / "spool", store.sink_for(HOST), report=reports.append)
    async with running(uploader):
        recorder = await spool.start(header())
        recorder.record_output(b"hello")
        summary = await recorder.close("done")
        uploader.notify(SID)
        await until(lambda: bool(reports))
    assert reports == [UploadReport(SID, UploadOutcome.UPLOADED, summary.sha256, summary.size)]
    assert not summary.path.exists()
    assert await store.exists(SID)
    await spool.close()
    store.close()


async def test_a_recording_that_is_held_is_left_alone_by_every_look(tmp_path: Path) -> None:
    """Finished, but the end of its session is not on record yet."""
    store = FileRecordingStore(tmp_path / "store")
    uploader = Uploader(tmp_path / "spool", store.sink_for(HOST))
    uploader.hold(SID)
    write_recording(tmp_path / "spool")
    assert await uploader.upload_all()
    assert not await store.exists(SID)
    uploader.notify(SID)
    assert await uploader.upload_all()
    assert await store.exists(SID)
    store.close()


async def test_the_file_stays_until_the_sink_has_verified_it(tmp_path: Path) -> None:
    class Forgetful:
        async def begin(self, sid: str) -> UploadState:
            return UploadState(0)

        async def append(self, sid: str, offset: int, data: bytes) -> int:
            return offset + len(data)

        async def complete(self, sid: str, sha256: str) -> None:
            raise TeleportError("the disk is full")

    data = write_recording(tmp_path)
    uploader = Uploader(tmp_path, Forgetful())
    assert not await uploader.upload_all()
    assert not await uploader.upload_all()
    assert (tmp_path / f"{SID}.rec").read_bytes() == data
    uploader.close()


class Refusing:
    """A sink that begins nothing."""

    def __init__(self, why: TeleportError) -> None:
        self._why = why

    async def begin(self, sid: str) -> UploadState:
        raise self._why

    async def append(self, sid: str, offset: int, data: bytes) -> int:
        raise AssertionError

    async def complete(self, sid: str, sha256: str) -> None:
        raise AssertionError


async def test_pauses_grow_to_a_limit_and_are_spread(tmp_path: Path) -> None:
    write_recording(tmp_path)
    reports: list[UploadReport] = []
    uploader = Uploader(
        tmp_path,
        Refusing(ConnectionProblem("auth is away")),
        report=reports.append,
        jitter=lambda: 0.5,
        first_pause=1.0,
        longest_pause=10.0,
    )
    for _ in range(6):
        await uploader.upload_all()
    assert [one.retry_after for one in reports] == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]
    assert {one.error for one in reports} == {"auth is away"}
    uploader.close()


async def test_a_sink_that_never_takes_anything_does_not_hold_the_uploader(tmp_path: Path) -> None:
    class Stuck:
        async def begin(self, sid: str) -> UploadState:
            return UploadState(0)

        async def append(self, sid: str, offset: int, data: bytes) -> int:
            return 0

        async def complete(self, sid: str, sha256: str) -> None:
            raise AssertionError

    write_recording(tmp_path)
    uploader = Uploader(tmp_path, Stuck())
    assert not await asyncio.wait_for(uploader.upload_all(), 10)
    uploader.close()


async def test_an_upload_with_wrong_bytes_in_it_is_begun_anew(tmp_path: Path) -> None:
    """A part that the store's disk spoilt."""
    store = FileRecordingStore(tmp_path / "store")
    await store.sink_for(HOST).append(SID, 0, b"something that is not the beginning")
    data = write_recording(tmp_path / "spool")
    uploader = Uploader(tmp_path / "spool", store.sink_for(HOST))
    assert not await uploader.upload_all()
    assert await uploader.upload_all()
    with await store.open(SID) as file:
        assert file.read() == data
    uploader.close()
    store.close()


async def test_a_broken_recording_is_set_aside_and_not_tried_for_ever(tmp_path: Path) -> None:
    """T41: no loop."""
    spool = tmp_path / "spool"
    data = bytearray(write_recording(spool))
    data[400] ^= 1
    (spool / f"{SID}.rec").write_bytes(bytes(data))
    store = FileRecordingStore(tmp_path / "store")
    reports: list[UploadReport] = []
    uploader = Uploader(spool, store.sink_for(HOST), report=reports.append)
    await uploader.upload_all()
    assert reports[0].outcome is UploadOutcome.BROKEN
    assert "chunk" in reports[0].error
    assert (spool / f"{SID}.rec.broken").read_bytes() == bytes(data)
    assert await uploader.upload_all()
    assert len(reports) == 1
    uploader.close()
    store.close()


async def test_two_processes_with_one_spool_send_it_once(tmp_path: Path) -> None:
    """An old and a new process during a restart."""
    spool = tmp_path / "spool"
    data = write_recording(spool)
    store = FileRecordingStore(tmp_path / "store")
    uploaders = [Uploader(spool, store.sink_for(HOST)) for _ in range(3)]
    await asyncio.gather(*(uploader.upload_all() for uploader in uploaders))
    assert all([await uploader.upload_all() for uploader in uploaders])
    with await store.open(SID) as file:
        assert file.read() == data
    for uploader in uploaders:
        uploader.close()
    store.close()


async def test_a_sink_that_knows_nothing_of_the_session_does_not_count_as_uploaded(tmp_path: Path) -> None:
    write_recording(tmp_path)
    reports: list[UploadReport] = []
    uploader = Uploader(tmp_path, Refusing(NotFound("no such session")), report=reports.append)
    assert not await uploader.upload_all()
    assert [one.outcome for one in reports] == [UploadOutcome.RETRY]
    uploader.close()


async def test_an_unfinished_recording_is_not_sent(tmp_path: Path) -> None:
    spool = RecordingSpool(tmp_path / "spool", clock=SystemClock())
    recorder = await spool.start(header())
    store = FileRecordingStore(tmp_path / "store")
    uploader = Uploader(tmp_path / "spool", store.sink_for(HOST))
    assert await uploader.upload_all()
    assert not await store.exists(SID)
    await recorder.close("done")
    await spool.close()
    uploader.close()
    store.close()
