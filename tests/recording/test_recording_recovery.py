"""Recovery: what was acknowledged is there after a kill, ended, and nothing is tried for ever."""

from __future__ import annotations

import asyncio
import fcntl
import io
import os
import random
import signal
import sys
from pathlib import Path

import pytest
from tests.recording.recording_samples import OTHER_SID, SID, check_signature, chunk_list, header, sign, write_recording

from teleport.clock import SystemClock
from teleport.errors import AlreadyExists, TeleportError
from teleport.recording.format import BLOCK, Frame, FrameKind, Signature
from teleport.recording.player import RecordingReader
from teleport.recording.recovery import NODE_LOST, recover
from teleport.recording.verify import VerifiedRecording, verify_recording
from teleport.recording.writer import RecordingSpool

PARTS = chunk_list(6)
SIZES = [len(part) for part in PARTS]

WRITER = """
import asyncio, random, sys
from pathlib import Path
from tests.recording.recording_samples import header, sign
from teleport.clock import SystemClock
from teleport.recording.writer import RecordingSpool

async def main():
    rng = random.Random(int(sys.argv[2]))
    spool = RecordingSpool(Path(sys.argv[1]), clock=SystemClock(), sign=sign)
    recorder = await spool.start(header())
    told = -1
    while True:
        if rng.random() < 0.02:
            recorder.record_output(rng.randbytes(1_500_000))
            await recorder.sync()
        recorder.record_output(rng.randbytes(rng.choice([1, 80, 4000])))
        if rng.random() < 0.1:
            await recorder.sync()
        else:
            await asyncio.sleep(0.001)
        if recorder.acknowledged_bytes != told:
            told = recorder.acknowledged_bytes
            sys.stdout.write(f"{told}\\n")
            sys.stdout.flush()
asyncio.run(main())
"""


def replay(seed: int, size: int) -> bytes:
    """The first `size` bytes that the writer above makes."""
    rng = random.Random(seed)
    data = bytearray()
    while len(data) < size:
        if rng.random() < 0.02:
            data += rng.randbytes(1_500_000)
        data += rng.randbytes(rng.choice([1, 80, 4000]))
        rng.random()
    return bytes(data[:size])


async def kill_and_recover(folder: Path, seed: int) -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, str(folder), str(seed), stdout=asyncio.subprocess.PIPE, cwd=Path.cwd()
    )
    assert child.stdout is not None
    rng = random.Random(seed + 1000)
    for _ in range(rng.randint(1, 25)):
        line = await asyncio.wait_for(child.stdout.readline(), 20)
    assert recover(folder).recovered == ()  # it lives: its file is its own
    await asyncio.sleep(rng.random() / 50)  # not a wait: the kill shall fall anywhere
    child.send_signal(signal.SIGKILL)
    rest = await child.stdout.read()
    await child.wait()
    complete = rest.rpartition(b"\n")[0].split(b"\n")
    acknowledged = int(complete[-1]) if complete[-1] else int(line)

    report = recover(folder, sign=sign)
    (found,) = report.recovered
    assert found.place is None
    assert found.header == header()
    assert found.summary.reason == NODE_LOST
    with found.summary.path.open("rb") as file:
        verified = verify_recording(file, sid=SID, check_signature=check_signature, require_signature=True)
    assert isinstance(verified, VerifiedRecording)
    assert verified.sha256 == found.summary.sha256
    assert verified.end.recovered
    with found.summary.path.open("rb") as file:
        data = b"".join(frame.payload for frame in RecordingReader(file).frames())
    assert len(data) >= acknowledged
    assert len(data) == found.summary.bytes_output
    assert data == replay(seed, len(data))
    again = recover(folder, sign=sign)
    assert again.recovered == ()
    assert [one.summary for one in again.finished] == [found.summary]


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_a_killed_writer_loses_nothing_that_it_acknowledged(tmp_path: Path, seed: int) -> None:
    """T41."""
    await kill_and_recover(tmp_path, seed)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10, 20))
async def test_a_killed_writer_loses_nothing_at_ten_moments(tmp_path: Path, seed: int) -> None:
    """T41, long form."""
    await kill_and_recover(tmp_path, seed)


@pytest.mark.parametrize("missing", [1, 40, 70, 120])
@pytest.mark.parametrize("keep", [1, 2, 5, 7])
def test_a_torn_tail_is_cut_and_all_before_it_is_kept(tmp_path: Path, keep: int, missing: int) -> None:
    """`keep` whole chunks (the seventh is the end), then one that lacks its last bytes."""
    parts = [*PARTS[: keep + 1], PARTS[min(keep + 1, 7)][:-missing]]
    (tmp_path / f"{SID}.rec.part").write_bytes(b"".join(parts))
    (found,) = recover(tmp_path, sign=sign).recovered
    assert found.place is None or keep == 7
    with found.summary.path.open("rb") as file:
        verified = verify_recording(file, check_signature=check_signature)
    assert isinstance(verified, VerifiedRecording)
    assert verified.chunks == min(keep, 6) + 1
    assert found.cut == len(parts[-1])
    assert verified.end.recovered is (keep < 7)


def test_every_length_of_a_file_recovers_to_its_whole_chunks(tmp_path: Path) -> None:
    """A writer killed in the middle of any write."""
    data = b"".join(PARTS)
    for length in range(SIZES[0], len(data), 37):
        part = tmp_path / f"{SID}.rec.part"
        part.write_bytes(data[:length])
        (found,) = recover(tmp_path).recovered
        whole = max(number for number in range(8) if sum(SIZES[: number + 1]) <= length)
        with found.summary.path.open("rb") as file:
            verified = verify_recording(file)
        assert isinstance(verified, VerifiedRecording)
        assert verified.end.chunks == whole
        os.unlink(found.summary.path)


def test_a_tail_that_is_not_merely_torn_is_kept_aside_and_named(tmp_path: Path) -> None:
    """Zeros where a chunk should be: a disk that lost power; or somebody's doing."""
    (tmp_path / f"{SID}.rec.part").write_bytes(b"".join(PARTS[:4]) + bytes(5000))
    (found,) = recover(tmp_path).recovered
    assert found.place is not None
    assert (found.place.chunk, found.place.offset, found.cut) == (3, sum(SIZES[:4]), 5000)
    assert (tmp_path / f"{SID}.torn").read_bytes() == bytes(5000)
    with found.summary.path.open("rb") as file:
        assert isinstance(verify_recording(file), VerifiedRecording)


@pytest.mark.parametrize("padding", [1, 68, 69, BLOCK - 1])
@pytest.mark.parametrize("chunks", [1, 4, 7])
def test_zeros_that_fill_up_the_last_block_are_no_loss(tmp_path: Path, chunks: int, padding: int) -> None:
    """Bulk output is written in whole blocks."""
    (tmp_path / f"{SID}.rec.part").write_bytes(b"".join(PARTS[:chunks]) + bytes(padding))
    (found,) = recover(tmp_path).recovered
    assert (found.place, found.cut) == (None, 0)
    assert not (tmp_path / f"{SID}.torn").exists()
    with found.summary.path.open("rb") as file:
        verified = verify_recording(file)
    assert isinstance(verified, VerifiedRecording)
    assert verified.end.cut == 0


def test_a_chunk_that_was_sealed_with_another_hash_is_named(tmp_path: Path) -> None:
    """Bytes that change after sealing, in a way that the check for tearing does not see."""
    changed = bytearray(PARTS[2])
    changed[-1] ^= 1
    (tmp_path / f"{SID}.rec.part").write_bytes(b"".join([*PARTS[:2], bytes(changed), *PARTS[3:5]]))
    (found,) = recover(tmp_path).recovered
    assert found.place is not None
    assert found.place.offset == sum(SIZES[:2])
    with found.summary.path.open("rb") as file:
        assert isinstance(verify_recording(file), VerifiedRecording)


def test_a_kill_between_the_end_and_the_name_keeps_the_true_end(tmp_path: Path) -> None:
    (tmp_path / f"{SID}.rec.part").write_bytes(b"".join(PARTS))
    (found,) = recover(tmp_path, sign=sign).recovered
    assert found.summary.reason == "session ended"
    assert found.summary.path.read_bytes() == b"".join(PARTS)


def test_a_kill_between_the_two_names_leaves_one(tmp_path: Path) -> None:
    part, done = tmp_path / f"{SID}.rec.part", tmp_path / f"{SID}.rec"
    part.write_bytes(b"".join(PARTS))
    os.link(part, done)
    (found,) = recover(tmp_path).recovered
    assert found.summary.path == done
    assert [path.name for path in tmp_path.iterdir()] == [done.name]


@pytest.mark.parametrize("content", [b"", PARTS[0][:-5], PARTS[0]])
def test_what_was_killed_before_it_began_is_removed_without_a_word(tmp_path: Path, content: bytes) -> None:
    (tmp_path / f"{SID}.rec.new").write_bytes(content)
    report = recover(tmp_path, sign=sign)
    assert (report.recovered, report.unreadable, report.failed, report.finished) == ((), (), (), ())
    assert list(tmp_path.iterdir()) == []


def test_a_kill_between_the_first_two_names_leaves_one_recording(tmp_path: Path) -> None:
    new, part = tmp_path / f"{SID}.rec.new", tmp_path / f"{SID}.rec.part"
    new.write_bytes(PARTS[0])
    os.link(new, part)
    (found,) = recover(tmp_path, sign=sign).recovered
    assert found.summary.reason == NODE_LOST
    assert [path.name for path in tmp_path.iterdir()] == [f"{SID}.rec"]


def test_what_a_living_process_begins_is_left_alone(tmp_path: Path) -> None:
    new = tmp_path / f"{SID}.rec.new"
    with new.open("wb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        recover(tmp_path)
        assert new.exists()
    recover(tmp_path)
    assert not new.exists()


async def test_a_session_id_is_used_once(tmp_path: Path) -> None:
    spool = RecordingSpool(tmp_path, clock=SystemClock(), sign=sign)
    recorder = await spool.start(header())
    recorder.record_output(b"mine")
    with pytest.raises(AlreadyExists, match="is being recorded"):
        await spool.start(header())
    assert os.listdir(tmp_path) == [f"{SID}.rec.part"]
    summary = await recorder.close("done")
    await spool.close()
    assert summary.bytes_output == 4


async def test_the_recording_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    spool = RecordingSpool(tmp_path, clock=SystemClock(), sign=sign)
    recorder = await spool.start(header())
    recorder.record_output(b"still here")
    report = recover(tmp_path)
    assert (report.recovered, report.unreadable) == ((), ())
    summary = await recorder.close("done")
    await spool.close()
    assert summary.bytes_output == 10


@pytest.mark.parametrize("content", [b"", b"\x89TR", PARTS[0][:-5], b"something else", chunk_list(1, OTHER_SID)[0]])
def test_a_file_without_a_header_is_set_aside_and_not_tried_again(tmp_path: Path, content: bytes) -> None:
    (tmp_path / f"{SID}.rec.part").write_bytes(content)
    report = recover(tmp_path)
    assert [one.sid for one in report.unreadable] == [SID]
    assert (tmp_path / f"{SID}.rec.broken").read_bytes() == content
    assert recover(tmp_path).unreadable == ()


def test_one_bad_file_does_not_stop_the_others(tmp_path: Path) -> None:
    (tmp_path / f"{OTHER_SID}.rec.part").write_bytes(b"".join(chunk_list(2, OTHER_SID)[:-1]))
    (tmp_path / f"{SID}.rec.part").write_bytes(b"nonsense")
    (tmp_path / "not-a-uuid.rec.part").write_bytes(b"nonsense")
    report = recover(tmp_path)
    assert [one.header.sid for one in report.recovered] == [OTHER_SID]
    assert [one.sid for one in report.unreadable] == [SID]
    assert (tmp_path / "not-a-uuid.rec.part").exists()


def test_a_link_in_the_spool_is_not_followed(tmp_path: Path) -> None:
    """T42."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"".join(PARTS[:3]))
    spool = tmp_path / "spool"
    spool.mkdir()
    (spool / f"{SID}.rec.part").symlink_to(victim)
    assert recover(spool).recovered == ()
    assert victim.read_bytes() == b"".join(PARTS[:3])


def test_a_pipe_in_the_spool_does_not_hold_the_start_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f"{SID}.rec.part")
    os.mkfifo(tmp_path / f"{OTHER_SID}.rec")
    assert recover(tmp_path).recovered == ()


def test_a_recording_that_cannot_be_ended_now_stays_for_the_next_time(tmp_path: Path) -> None:
    def broken(message: bytes) -> Signature:
        raise TeleportError("the host key is gone")

    part = tmp_path / f"{SID}.rec.part"
    part.write_bytes(b"".join(PARTS[:4]))
    report = recover(tmp_path, sign=broken)
    assert "host key is gone" in report.failed[0].why
    assert part.exists()
    assert len(recover(tmp_path, sign=sign).recovered) == 1


def test_finished_recordings_are_reported_so_that_their_events_can_be_completed(tmp_path: Path) -> None:
    write_recording(tmp_path)
    (found,) = recover(tmp_path).finished
    assert found.header == header()
    assert found.summary.reason == "session ended"
    assert found.summary.bytes_stderr == 10


def test_a_finished_recording_that_was_altered_is_set_aside_and_named(tmp_path: Path) -> None:
    data = bytearray(write_recording(tmp_path))
    data[SIZES[0] + 80] ^= 4
    (tmp_path / f"{SID}.rec").write_bytes(bytes(data))
    report = recover(tmp_path)
    assert "chunk 0" in report.unreadable[0].why
    assert report.finished == ()


def test_the_lock_of_a_writer_is_an_flock(tmp_path: Path) -> None:
    """Another program of the host (a backup) may hold it off as well."""
    part = tmp_path / f"{SID}.rec.part"
    part.write_bytes(b"".join(PARTS[:3]))
    with part.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert recover(tmp_path).recovered == ()
    assert recover(tmp_path).recovered[0].summary.bytes_output == sum(
        len(f.payload) for f in _frames(b"".join(PARTS)) if f.time < 2000 and f.kind is FrameKind.OUTPUT
    )


def _frames(data: bytes) -> list[Frame]:
    return list(RecordingReader(io.BytesIO(data)).frames())
