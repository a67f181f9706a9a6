"""Recordings that are sent while they are made: with the real recorder and the real store, and one that fails."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from teleport.clock import SystemClock
from teleport.errors import BadRequest, ConnectionProblem, TeleportError
from teleport.recording.format import RecordingHeader
from teleport.recording.live import LiveStreams
from teleport.recording.storage import FileRecordingStore, RecordingSink, UploadState
from teleport.recording.upload import Uploader
from teleport.recording.verify import VerifiedRecording
from teleport.recording.writer import Recorder, RecordingSpool

HOST = str(uuid4())


def header() -> RecordingHeader:
    return RecordingHeader(sid=str(uuid4()), started=datetime.now(UTC), user="ann", login="root", node_id=HOST)


class Away:
    """A sink that can be away, and that loses what comes then."""

    def __init__(self, sink: RecordingSink) -> None:
        self._sink = sink
        self.away: Exception | None = None
        self.appended = asyncio.Event()
        self.there = 0

    async def begin(self, sid: str) -> UploadState:
        if self.away is not None:
            raise self.away
        return await self._sink.begin(sid)

    async def append(self, sid: str, offset: int, data: bytes) -> int:
        if self.away is not None:
            raise self.away
        self.there = await self._sink.append(sid, offset, data)
        self.appended.set()
        return self.there

    async def complete(self, sid: str, sha256: str) -> None:
        await self._sink.complete(sid, sha256)


class Place:
    def __init__(self, folder: Path) -> None:
        self.store = FileRecordingStore(folder / "store")
        self.sink = Away(self.store.sink_for(HOST))
        self.spool = RecordingSpool(folder / "spool", clock=SystemClock())
        self.uploader = Uploader(folder / "spool", self.sink, report=lambda report: None, jitter=lambda: 1.0)
        self.live = LiveStreams(self.sink, patience=0.3, every=0.01)

    async def begun(self) -> Recorder:
        made = await self.spool.start(header())
        self.live.follow(made)
        return made

    async def until(self, size: int) -> None:
        async with asyncio.timeout(10):
            while self.sink.there < size:
                self.sink.appended.clear()
                await self.sink.appended.wait()


@asynccontextmanager
async def place(folder: Path) -> AsyncIterator[Place]:
    made = Place(folder)
    try:
        yield made
    finally:
        await made.live.close()
        await made.spool.close()
        made.uploader.close()
        made.store.close()


@pytest.mark.parametrize("sizes", [[10], [100_000, 1, 3_000_000, 5], [5_000_000, 5_000_000]])
async def test_what_was_recorded_is_there_before_the_session_ends(tmp_path: Path, sizes: list[int]) -> None:
    """Bulk, too, which is written in a hurry and sealed later."""
    async with place(tmp_path) as here:
        recorder = await here.begun()
        for size in sizes:
            recorder.record_output(os.urandom(size))
            await recorder.drain()
            await here.until(await recorder.sealed())
        assert here.sink.there > sum(sizes)  # random bytes do not shrink
        part = (tmp_path / "spool" / f"{recorder.sid}.rec.part").read_bytes()
        [sent] = (tmp_path / "store").glob("*.upload")
        assert sent.read_bytes() == part[: here.sink.there]
        recorder.record_output(b"the end")
        await recorder.close("ended")
        assert await here.uploader.upload_all()
        found = await here.store.verify(recorder.sid)
        assert isinstance(found, VerifiedRecording), found


async def test_a_sink_that_is_away_for_a_moment_ends_nothing(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        recorder = await here.begun()
        recorder.record_output(b"before")
        await here.until(await recorder.sealed())
        here.sink.away = ConnectionProblem("auth is away")
        recorder.record_output(b"meanwhile")
        size = await recorder.sealed()
        await asyncio.sleep(0)
        here.sink.away = None
        await here.until(size)
        assert not recorder.failed.done()


async def test_a_sink_that_stays_away_ends_the_session(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        recorder = await here.begun()
        await here.until(1)
        here.sink.away = ConnectionProblem("auth is away")
        recorder.record_output(b"never seen")
        async with asyncio.timeout(10):
            error = await recorder.failed
        assert "could not be sent for 0.3 s" in error.message
        await recorder.close("the recording failed")  # what was noted is kept all the same
        here.sink.away = None
        assert await here.uploader.upload_all()
        assert isinstance(await here.store.verify(recorder.sid), VerifiedRecording)


async def test_a_silent_session_is_not_ended_while_the_sink_is_away(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        recorder = await here.begun()
        await here.until(await recorder.sealed())
        here.sink.away = ConnectionProblem("auth is away")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.6):
                await asyncio.shield(recorder.failed)


async def test_what_the_sink_refuses_for_good_ends_the_session_at_once(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        here.sink.away = BadRequest("no such thing")
        recorder = await here.begun()
        async with asyncio.timeout(10):
            await recorder.failed


async def test_nothing_begins_while_the_sink_does_not_answer(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        await here.live.check(str(uuid4()))
        here.sink.away = ConnectionProblem("auth is away")
        with pytest.raises(TeleportError, match="auth is away"):
            await here.live.check(str(uuid4()))


async def test_ending_while_pieces_are_on_their_way_leaves_a_whole_recording(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        for _ in range(20):
            recorder = await here.begun()
            recorder.record_output(os.urandom(400_000))
            ending = asyncio.gather(recorder.sealed(), recorder.close("ended"), return_exceptions=True)
            await ending
        assert await here.uploader.upload_all()
        for sid in await here.store.names():
            assert isinstance(await here.store.verify(sid), VerifiedRecording)
        assert len(await here.store.names()) == 20
