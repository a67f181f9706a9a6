"""The recorder: exact, bounded, durable, and loud when it cannot go on."""

from __future__ import annotations

import asyncio
import os
import random
import stat
import sys
import threading
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.recording.recording_samples import OTHER_SID, SID, check_signature, header, sign

from teleport.clock import SystemClock
from teleport.errors import AlreadyExists, BadRequest, LimitExceeded, TeleportError
from teleport.recording import writer
from teleport.recording.directory import Suffix
from teleport.recording.format import (
    ExecDetail,
    FileDetail,
    ForwardDetail,
    Frame,
    FrameKind,
    Signature,
    decode_size,
)
from teleport.recording.player import RecordingReader
from teleport.recording.recovery import recover
from teleport.recording.verify import VerifiedRecording, verify_recording
from teleport.recording.writer import RecordingSpool


@asynccontextmanager
async def spool_in(folder: Path) -> AsyncIterator[RecordingSpool]:
    spool = RecordingSpool(folder, clock=SystemClock(), sign=sign)
    try:
        yield spool
    finally:
        await spool.close()


def frames_of(path: Path) -> list[Frame]:
    with path.open("rb") as file:
        return list(RecordingReader(file).frames())


def stream(frames: list[Frame], kind: FrameKind) -> bytes:
    return b"".join(frame.payload for frame in frames if frame.kind is kind)


events = st.one_of(
    st.tuples(st.just("out"), st.binary(max_size=3000)),
    st.tuples(st.just("err"), st.binary(max_size=3000)),
    st.tuples(st.just("in"), st.binary(max_size=20)),
    st.tuples(st.just("out"), st.sampled_from([b"\xff" * 7, b"\xe2\x82", b"\xac", b"\xf0\x9f", b"\0", b"\x1b]52;c;"])),
    st.tuples(st.just("size"), st.tuples(st.integers(0, 70_000), st.integers(0, 70_000))),
    st.tuples(st.just("sync"), st.none()),
)


@settings(max_examples=25, deadline=None)
@given(script=st.lists(events, max_size=40))
def test_every_byte_comes_back_whatever_it_is_and_however_it_was_cut(
    tmp_path_factory: pytest.TempPathFactory, script: list[tuple[str, object]]
) -> None:
    """T39."""
    folder = tmp_path_factory.mktemp("spool")

    async def record() -> Path:
        async with spool_in(folder) as spool:
            recorder = await spool.start(header())
            for what, value in script:
                match what, value:
                    case "out", bytes(data):
                        recorder.record_output(data)
                    case "err", bytes(data):
                        recorder.record_stderr(data)
                    case "in", bytes(data):
                        recorder.record_input(data)
                    case "size", (int(width), int(height)):
                        recorder.resize(width, height)
                    case _:
                        await recorder.sync()
            summary = await recorder.close("session ended")
            return summary.path

    frames = frames_of(asyncio.run(record()))
    for what, kind in (("out", FrameKind.OUTPUT), ("err", FrameKind.STDERR), ("in", FrameKind.INPUT)):
        written = b"".join(value for name, value in script if name == what and isinstance(value, bytes))
        assert stream(frames, kind) == written
    sizes = [(min(v[0], 65535), min(v[1], 65535)) for name, v in script if name == "size" and isinstance(v, tuple)]
    assert [decode_size(frame.payload) for frame in frames if frame.kind is FrameKind.RESIZE] == sizes
    times = [frame.time for frame in frames]
    assert times == sorted(times)
    kinds = {"out": FrameKind.OUTPUT, "err": FrameKind.STDERR, "in": FrameKind.INPUT, "size": FrameKind.RESIZE}
    order = [kinds[name] for name, value in script if name in kinds and value != b""]
    assert [frame.kind for frame in frames] == order


async def test_sixteen_mebibytes_in_random_pieces_on_two_streams_come_back_exactly(tmp_path: Path) -> None:
    """T39; the summary, the signature and the sealed chain agree as well, though the bulk was written unsealed."""
    rng = random.Random(39)
    data = rng.randbytes(16 * 1024 * 1024)
    written = {FrameKind.OUTPUT: bytearray(), FrameKind.STDERR: bytearray()}
    async with spool_in(tmp_path) as spool:
        recorder = await spool.start(header())
        position = 0
        while position < len(data):
            piece = data[position : position + rng.choice([1, 3, 17, 1024, 32_768, 200_000])]
            kind = rng.choice([FrameKind.OUTPUT, FrameKind.STDERR])
            recorder.record_output(piece, kind)
            written[kind] += piece
            position += len(piece)
            await recorder.drain()
        summary = await recorder.close("session ended")
    frames = frames_of(summary.path)
    for kind, expected in written.items():
        assert stream(frames, kind) == expected
    assert summary.bytes_output == len(written[FrameKind.OUTPUT])
    assert summary.bytes_stderr == len(written[FrameKind.STDERR])
    with summary.path.open("rb") as file:
        found = verify_recording(file, sid=SID, check_signature=check_signature, require_signature=True)
    assert isinstance(found, VerifiedRecording)
    assert (found.sha256, found.size) == (summary.sha256, summary.size)


async def test_a_burst_and_then_typing_is_sealed_on_the_way(tmp_path: Path) -> None:
    """Small batches work a burst off, so that closing has little left to do; the file is whole either way."""
    burst = random.Random(3).randbytes(3 * 1024 * 1024)
    async with spool_in(tmp_path) as spool:
        recorder = await spool.start(header())
        recorder.record_output(burst)
        await recorder.sync()
        for key in b"echo hello":
            recorder.record_output(bytes([key]))
            await recorder.sync()
        part = tmp_path / f"{SID}.rec.part"
        # everything but the end is there, sealed: the strict reader only misses the end
        with part.open("rb") as file:
            place = verify_recording(file)
        assert "without an end" in str(place)
        summary = await recorder.close("session ended")
    assert stream(frames_of(summary.path), FrameKind.OUTPUT) == burst + b"echo hello"


async def test_a_bulk_write_does_not_wait_for_its_hash_and_live_reading_still_works(tmp_path: Path) -> None:
    burst = random.Random(4).randbytes(2 * 1024 * 1024)
    async with spool_in(tmp_path) as spool:
        recorder = await spool.start(header())
        recorder.record_output(burst)
        await recorder.sync()
        with (tmp_path / f"{SID}.rec.part").open("rb") as file:
            assert "not linked" in str(verify_recording(file))
        with (tmp_path / f"{SID}.rec.part").open("rb") as file:
            live = RecordingReader(file, allow_unfinished=True)
            assert stream(list(live.frames()), FrameKind.OUTPUT) == burst
            assert live.end is None
        await recorder.close("session ended")


async def test_sealing_a_long_transfer_leaves_the_writing_threads_to_others(tmp_path: Path) -> None:
    """One writing thread, a transfer whose ending needs long, and a session that must not wait for it."""
    stuck = threading.Event()

    def slow_sign(message: bytes) -> Signature:
        stuck.wait(20)
        return sign(message)

    spool = RecordingSpool(tmp_path, clock=SystemClock(), sign=slow_sign, threads=1)
    bulk = await spool.start(header())
    noise = random.Random(6).randbytes(1024 * 1024)
    for _ in range(20):
        bulk.record_output(noise)
    ending = asyncio.ensure_future(bulk.close("done"))
    other = await spool.start(header(OTHER_SID))
    other.record_output(b"typed")
    try:
        await asyncio.wait_for(other.sync(), 15)
        assert not ending.done()
    finally:
        stuck.set()
    assert (await ending).bytes_output == 20 * len(noise)
    await spool.close()


async def test_what_happened_beside_the_bytes_is_recorded(tmp_path: Path) -> None:
    async with spool_in(tmp_path) as spool:
        recorder = await spool.start(header())
        recorder.exec(ExecDetail(command="make", status=0))
        recorder.file(FileDetail(action="read", path="/etc/\udcff", size=3))
        recorder.forward(ForwardDetail(kind="direct-tcpip", address="db:5432", sent=1))
        recorder.note("terminal lost \udcff")
        summary = await recorder.close("done")
    frames = frames_of(summary.path)
    assert b'"path":"/etc/\\\\xff"' in frames[1].payload
    assert frames[3].payload == b"terminal lost \\xff"
    kinds = [frame.kind for frame in frames]
    assert kinds == [FrameKind.EXEC, FrameKind.FILE, FrameKind.FORWARD, FrameKind.NOTE]


async def test_no_command_is_too_long_or_too_strange_to_be_recorded(tmp_path: Path) -> None:
    """The header keeps the beginning, the exec frame much more; neither can be made to fail by a user."""
    command = '\x00\udcff\u202e"' * 200_000
    async with spool_in(tmp_path) as spool:
        recorder = await spool.start(header(command=command, terminal="x" * 10_000))
        recorder.exec(ExecDetail(command=command))
        summary = await recorder.close("done")
    assert summary.lost == 0
    (frame,) = frames_of(summary.path)
    assert b"more characters)" in frame.payload


async def test_a_byte_is_on_disk_within_a_second_without_anybody_asking(tmp_path: Path) -> None:
    """The promise behind "acknowledged"."""
    async with spool_in(tmp_path) as spool:
        recorder = await spool.start(header())
        loop = asyncio.get_running_loop()
        recorder.record_output(b"$ ")
        began = loop.time()
        while recorder.acknowledged_bytes < 2:
            assert loop.time() - began < 5
            await asyncio.sleep(0.02)
        assert loop.time() - began < 1.5  # the promise is one second; the rest is a busy machine
        await recorder.close("done")


async def test_files_and_folder_are_closed_to_others(tmp_path: Path) -> None:
    async with spool_in(tmp_path / "a" / "spool") as spool:
        recorder = await spool.start(header())
        folder = tmp_path / "a" / "spool"
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / f"{SID}.rec.part").stat().st_mode) == 0o600
        summary = await recorder.close("done")
        assert summary.path == folder / f"{SID}.rec"
        assert stat.S_IMODE(summary.path.stat().st_mode) == 0o600
        assert [path.name for path in folder.iterdir()] == [f"{SID}.rec"]


async def test_a_session_is_recorded_once(tmp_path: Path) -> None:
    async with spool_in(tmp_path) as spool:
        recorder = await spool.start(header())
        with pytest.raises(AlreadyExists):
            await spool.start(header())
        recorder.record_output(b"kept")
        summary = await recorder.close("done")
        with pytest.raises(AlreadyExists):
            await spool.start(header())
    assert stream(frames_of(summary.path), FrameKind.OUTPUT) == b"kept"


async def test_a_link_in_the_spool_is_not_followed(tmp_path: Path) -> None:
    """T42."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    spool_folder = tmp_path / "spool"
    spool_folder.mkdir()
    (spool_folder / f"{SID}.rec.part").symlink_to(victim)
    async with spool_in(spool_folder) as spool:
        with pytest.raises(AlreadyExists):
            await spool.start(header())
    assert victim.read_bytes() == b"precious"


@pytest.mark.parametrize("sid", ["../../etc/x", "/tmp/x", SID.upper(), "a\0b", ""])
async def test_a_session_id_that_is_not_one_makes_no_file(tmp_path: Path, sid: str) -> None:
    """T42."""
    async with spool_in(tmp_path) as spool:
        with pytest.raises(BadRequest):
            await spool.start(header(sid))
        assert spool.directory.ids(Suffix.PART) == []
    assert os.listdir(tmp_path) == []


async def test_a_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(TeleportError) as caught:
        RecordingSpool(tmp_path / "link", clock=SystemClock())
    assert caught.value.hint


async def test_a_full_disk_ends_the_recording_at_once_and_what_was_written_stays(tmp_path: Path) -> None:
    """T41: a file size limit stands in for the full disk; the kernel answers the same way, with an error."""
    code = """
import asyncio, random, resource, signal, sys
from pathlib import Path
from tests.recording.recording_samples import header, sign
from teleport.clock import SystemClock
from teleport.recording.writer import RecordingSpool

async def main():
    spool = RecordingSpool(Path(sys.argv[1]), clock=SystemClock(), sign=sign)
    recorder = await spool.start(header())
    recorder.record_output(b"before")
    await recorder.sync()
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    recorder.record_output(random.Random(1).randbytes(1_000_000))
    error = await asyncio.wait_for(asyncio.shield(recorder.failed), 10)
    recorder.record_output(b"after")
    await recorder.drain()
    try:
        await recorder.sync()
    except Exception as again:
        assert again is error
    else:
        raise AssertionError("sync must not promise what is not there")
    summary = await recorder.close("recording failed")
    print(error.message, "|", error.hint, "|", summary.lost, "|", summary.bytes_output)
    await spool.close()
asyncio.run(main())
"""
    child = await _run_child(code, str(tmp_path))
    message, hint, lost, recorded = child.split(" | ")
    assert "cannot be continued" in message
    assert "make room" in hint
    assert (int(lost), int(recorded)) == (1_000_005, 6)
    assert stream(frames_of(tmp_path / f"{SID}.rec"), FrameKind.OUTPUT) == b"before"


async def test_a_service_that_stops_keeps_what_was_noted_and_nothing_after(tmp_path: Path) -> None:
    """A session that still prints is told by `failed`; one that begins at this moment is refused and leaves no file."""
    spool = RecordingSpool(tmp_path, clock=SystemClock(), sign=sign)
    recorder = await spool.start(header())
    recorder.record_output(b"before")
    beginning = asyncio.create_task(spool.start(header(OTHER_SID)))
    await asyncio.sleep(0)  # its file is being made
    await spool.close("service stopped")
    assert recorder.failed.done()
    recorder.record_output(b"after")  # the session has not noticed yet; it sends no more to its client
    with pytest.raises(TeleportError, match="the service stops"):
        await beginning
    with pytest.raises(TeleportError, match="the service stops"):
        await spool.start(header(OTHER_SID))
    assert os.listdir(tmp_path) == [f"{SID}.rec"]
    assert stream(frames_of(tmp_path / f"{SID}.rec"), FrameKind.OUTPUT) == b"before"


async def _run_child(code: str, *arguments: str) -> str:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, *arguments, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    out, _ = await asyncio.wait_for(child.communicate(), 30)
    assert child.returncode == 0
    return out.decode().strip()


async def test_a_disk_that_refuses_the_first_byte_means_the_session_must_not_begin(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    async with spool_in(folder) as spool:
        os.rmdir(folder)  # as good as a disk that is gone: nothing can be made in it any more
        with pytest.raises(TeleportError) as caught:
            await spool.start(header())
    assert "cannot be begun" in caught.value.message


async def test_signing_that_fails_fails_the_ending_loudly_and_recovery_ends_it(tmp_path: Path) -> None:
    """T43."""

    def broken(message: bytes) -> Signature:
        raise TeleportError("the host key is gone")

    spool = RecordingSpool(tmp_path, clock=SystemClock(), sign=broken)
    recorder = await spool.start(header())
    recorder.record_output(b"kept")
    with pytest.raises(TeleportError, match="host key is gone"):
        await recorder.close("done")
    await spool.close()
    assert not (tmp_path / f"{SID}.rec").exists()
    assert recover(tmp_path, sign=broken).failed[0].sid == SID
    (found,) = recover(tmp_path, sign=sign).recovered
    assert stream(frames_of(found.summary.path), FrameKind.OUTPUT) == b"kept"


async def test_memory_is_bounded_by_drain_and_by_failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is stuck: `drain` holds back who asks, and the recording of who does not ask fails."""
    stuck = threading.Event()
    async with spool_in(tmp_path) as spool:
        for _ in range(4):
            spool.pool.submit(stuck.wait)  # every thread is at a disk that does not answer
        starting = asyncio.ensure_future(spool.start(header()))
        stuck.set()
        recorder = await starting
        other = await spool.start(header(OTHER_SID))
        stuck.clear()
        for _ in range(4):
            spool.pool.submit(stuck.wait)
        try:
            piece = bytes(1024 * 1024)
            while not recorder.must_drain:
                recorder.record_output(piece)
            draining = asyncio.ensure_future(recorder.drain())
            await asyncio.sleep(0)
            assert not draining.done()
            while other.failure is None:
                other.record_output(piece)
            assert isinstance(other.failure, LimitExceeded)
            with pytest.raises(LimitExceeded):
                await other.sync()
        finally:
            stuck.set()
        await draining
        assert not recorder.must_drain
        await recorder.close("done")
        summary = await other.close("recording failed")
        assert summary.lost + summary.bytes_output > writer.HARD_LIMIT


async def test_closing_twice_or_giving_up_waiting_changes_nothing(tmp_path: Path) -> None:
    async with spool_in(tmp_path) as spool:
        recorder = await spool.start(header())
        recorder.record_output(b"all of it")
        impatient = asyncio.ensure_future(recorder.close("first"))
        await asyncio.sleep(0)
        impatient.cancel()
        await asyncio.wait([impatient])
        first, second = await asyncio.gather(recorder.close("second"), recorder.close("third"))
        assert first == second
        assert first.reason == "first"
        with pytest.raises(BadRequest):
            recorder.record_output(b"too late")
    assert stream(frames_of(first.path), FrameKind.OUTPUT) == b"all of it"


async def test_stopping_the_service_ends_what_still_records(tmp_path: Path) -> None:
    spool = RecordingSpool(tmp_path, clock=SystemClock(), sign=sign)
    recorder = await spool.start(header())
    recorder.record_output(b"in the middle")
    await spool.close()
    (found,) = recover(tmp_path).finished
    assert found.summary.reason == "service stopped"
    assert found.summary.bytes_output == 13


async def test_many_sessions_share_the_threads_and_stay_apart(tmp_path: Path) -> None:
    rng = random.Random(5)
    sids = [str(uuid.UUID(int=rng.getrandbits(128))) for _ in range(40)]
    async with spool_in(tmp_path) as spool:
        recorders = await asyncio.gather(*(spool.start(header(sid)) for sid in sids))
        for number in range(50):
            for recorder in recorders:
                recorder.record_output(f"{recorder.sid} {number}\n".encode())
            await asyncio.sleep(0)
        summaries = await asyncio.gather(*(recorder.close("done") for recorder in recorders))
        assert sum(thread.name.startswith("recording") for thread in threading.enumerate()) <= 4
    for summary in summaries:
        expected = "".join(f"{summary.sid} {number}\n" for number in range(50))
        assert stream(frames_of(summary.path), FrameKind.OUTPUT).decode() == expected
