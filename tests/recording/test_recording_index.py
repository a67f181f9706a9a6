"""The text beside a recording: right, private, bounded, and made anew whenever it does not fit."""

from __future__ import annotations

import asyncio
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.recording.recording_samples import OTHER_SID, SID, recording

from teleport.errors import BadRequest, LimitExceeded, NotFound
from teleport.recording import index
from teleport.recording.directory import RecordingDirectory
from teleport.recording.format import BrokenRecording, Frame, FrameKind, encode_size
from teleport.recording.index import Hit, build_index, index_head, missing_indexes, remove_orphans, search_index
from teleport.recording.indexing import Indexer

OUT = FrameKind.OUTPUT


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[RecordingDirectory]:
    found = RecordingDirectory(tmp_path / "records")
    yield found
    found.close()


def keep(directory: RecordingDirectory, *texts: bytes, sid: str = SID) -> Path:
    frames = [Frame(number * 1_000_000, OUT, text) for number, text in enumerate(texts)]
    path = directory.path / f"{sid}.rec"
    path.write_bytes(recording(frames, sid=sid))
    return path


def test_lines_are_found_with_their_time_whatever_their_case(directory: RecordingDirectory) -> None:
    keep(directory, b"$ make\r\n", b"ER\x1b[31mROR\x1b[0m: Stra\xc3\x9fe\r\n", b"error 2\r\n")
    assert search_index(directory, SID, "error") is None
    build_index(directory, SID)
    found = search_index(directory, SID, "eRRor")
    assert found is not None
    assert found.first == [
        Hit(time=1_000_000, kind="screen", text="ERROR: Straße"),
        Hit(time=2_000_000, kind="screen", text="error 2"),
    ]
    assert (found.count, found.whole) == (2, True)
    strasse = search_index(directory, SID, "STRASSE")
    assert strasse is not None
    assert strasse.count == 1
    for absent in ("screen", "2000000", "\t", "1000000"):
        nothing = search_index(directory, SID, absent)
        assert nothing is not None
        assert nothing.count == 0, "only text counts"


def test_it_is_as_private_as_the_recording_and_no_recording_itself(directory: RecordingDirectory) -> None:
    keep(directory, b"x")
    assert missing_indexes(directory) == [SID]
    build_index(directory, SID)
    assert missing_indexes(directory) == []
    path = directory.path / f"{SID}.idx"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(os.listdir(directory.path)) == [f"{SID}.idx", f"{SID}.rec"]


def test_an_index_of_another_recording_or_a_spoilt_one_is_made_anew(directory: RecordingDirectory) -> None:
    keep(directory, b"first")
    build_index(directory, SID)
    path = directory.path / f"{SID}.idx"
    keep(directory, b"second")
    assert search_index(directory, SID, "first") is None, "the recording is another one"
    build_index(directory, SID)
    assert search_index(directory, SID, "second") is not None
    whole = path.read_bytes()
    for spoilt in (b"", whole[:100], b"{}" + whole[2:], whole[:-5], b"\0" * 5000, whole[:4096] + b"junk"):
        path.write_bytes(spoilt)
        found = search_index(directory, SID, "second")
        assert found is None or found.count <= 1
    path.unlink()
    path.symlink_to("/etc/passwd")
    assert search_index(directory, SID, "root") is None, "no other file is read"
    build_index(directory, SID)
    assert not path.is_symlink()
    (directory.path / f"{SID}.idx.new").symlink_to(directory.path / "elsewhere")
    build_index(directory, SID)
    assert not (directory.path / "elsewhere").exists()


def test_what_a_deleted_recording_showed_is_deleted_too(directory: RecordingDirectory) -> None:
    keep(directory, b"kept")
    gone = keep(directory, b"secret", sid=OTHER_SID)
    for sid in (SID, OTHER_SID):
        build_index(directory, sid)
    gone.unlink()
    (directory.path / f"{OTHER_SID}.idx.new").write_bytes(b"a part of it, of a maker that was killed")
    remove_orphans(directory)
    assert sorted(os.listdir(directory.path)) == [f"{SID}.idx", f"{SID}.rec"]


@pytest.mark.parametrize("calls", [0, 1])
def test_room_that_is_kept_for_events_is_left_to_them(
    directory: RecordingDirectory, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    """Before it begins and while it writes; nothing stays of what was begun."""
    keep(directory, *(b"%d %d of many\r\n" % (number, number**8) for number in range(30_000)))
    room = [0] * calls

    def check_room(sid: str, what: str, *, part: int = 1) -> None:
        if not room:
            raise LimitExceeded("no room")
        room.pop()

    monkeypatch.setattr(directory, "check_room", check_room)
    with pytest.raises(LimitExceeded):
        build_index(directory, SID)
    assert os.listdir(directory.path) == [f"{SID}.rec"]


def test_two_makers_of_an_index_do_not_spoil_it(directory: RecordingDirectory) -> None:
    """As the old and the new process of a restart may be: each writes a file that nobody else writes."""
    keep(directory, *(b"line %d needle\r\n" % number for number in range(300)))
    with ThreadPoolExecutor(4) as pool:
        for made in [pool.submit(build_index, directory, SID) for _ in range(20)]:
            made.result()
    found = search_index(directory, SID, "needle")
    assert found is not None
    assert (found.count, found.whole) == (300, True)
    assert sorted(os.listdir(directory.path)) == [f"{SID}.idx", f"{SID}.rec"]


@pytest.mark.parametrize("sid", ["../x", "/etc/passwd", "x\0", SID.upper(), "a" * 5000])
def test_ids_never_lead_elsewhere(directory: RecordingDirectory, sid: str) -> None:
    for call in (build_index, index_head):
        with pytest.raises(BadRequest):
            call(directory, sid)
    with pytest.raises(BadRequest):
        search_index(directory, sid, "x")
    with pytest.raises(NotFound):
        build_index(directory, OTHER_SID)


def test_a_broken_recording_is_searched_up_to_the_break(directory: RecordingDirectory) -> None:
    path = keep(directory, b"before\r\n" * 3, os.urandom(100_000).hex().encode())
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - 20_000])
    build_index(directory, SID)
    found = search_index(directory, SID, "before")
    assert found is None or not found.whole
    path.write_bytes(b"nothing")
    with pytest.raises(BrokenRecording):
        build_index(directory, SID)


def test_the_work_is_bounded_and_what_was_left_out_is_said(directory: RecordingDirectory) -> None:
    keep(directory, *(b"line %d of many\r\n" % number for number in range(2000)))
    build_index(directory, SID, max_text=10_000)
    found = search_index(directory, SID, "line")
    assert found is not None
    assert (found.whole, 200 < found.count < 500) == (False, True)
    ticks = iter(range(10**6))
    build_index(directory, SID, clock=lambda: float(next(ticks)), max_seconds=50)
    head = index_head(directory, SID)
    assert head is not None
    assert not head.whole
    keep(directory, *[b"\x1b[H"] * 1000)  # frames that show nothing count as well
    ticks = iter(range(10**6))
    build_index(directory, SID, clock=lambda: float(next(ticks)), max_seconds=50)
    assert next(ticks) < 100
    keep(directory, *(b"line %d of many\r\n" % number for number in range(2000)))
    build_index(directory, SID)
    found = search_index(directory, SID, "line")
    assert found is not None
    assert (len(found.first), found.count, found.whole) == (index.MAX_HITS, index.MAX_COUNT, True)


def test_a_file_that_unpacks_to_more_than_was_ever_written_is_refused(
    directory: RecordingDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(directory, b"x")
    build_index(directory, SID)
    path = directory.path / f"{SID}.idx"
    head = path.read_bytes()[:4096]
    path.write_bytes(head + zstandard.compress(b"x" * 10_000_000))
    assert search_index(directory, SID, "y") is None


def test_a_long_line_is_shown_around_the_find(directory: RecordingDirectory) -> None:
    keep(directory, b"a" * 3000 + b"needle" + b"b" * 3000)
    build_index(directory, SID)
    found = search_index(directory, SID, "NEEDLE")
    assert found is not None
    assert "needle" in found.first[0].text
    assert len(found.first[0].text) <= index.MAX_CONTEXT + 2


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30), max_size=10))
def test_what_is_found_is_a_line_that_drives_nothing(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    directory = RecordingDirectory(tmp_path_factory.mktemp("records"))
    try:
        keep(directory, *((text + "\r\nmark\r\n").encode() for text in texts))
        build_index(directory, SID)
        found = search_index(directory, SID, "")
        assert found is not None
        for hit in found.first:
            assert "\n" not in hit.text
            assert all(ord(char) >= 32 and not 0x7F <= ord(char) < 0xA0 for char in hit.text)
    finally:
        directory.close()


async def test_the_indexer_makes_what_is_waited_for_in_a_process_of_its_own(directory: RecordingDirectory) -> None:
    """A recording that cannot be read holds up no other."""
    keep(directory, b"one needle\r\n")
    keep(directory, b"two", sid=OTHER_SID).write_bytes(b"not a recording")
    indexer = Indexer(directory.path, directory)
    task = asyncio.create_task(indexer.run(), name="indexer")
    try:
        await indexer.ensure([OTHER_SID, SID], 60)
        assert indexer.failed(OTHER_SID)
        assert not indexer.failed(SID)
        found = search_index(directory, SID, "needle")
        assert found is not None
        assert found.count == 1
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


_FLOODS = {
    "alignment": b"\x1b#8",
    "alternate screen": b"\x1b[?1049h\x1b[?1049l",
    "alternate screen with text": b"\x1b[?1049hx\x1b[?1049l",
    "coloured erasing": b"\x1b[41m\x1b[2Jx",
    "scrolling": b"\x1b[500S",
    "tabs": b"\r\x1b[999I",
}


def keep_flood(directory: RecordingDirectory, flood: bytes, size: int) -> None:
    """One frame, on the largest screen there is, between two lines."""
    every_column = b"".join(b"\x1b[%dG\x1bH" % column for column in range(1, 1001))
    frames = [
        Frame(0, FrameKind.RESIZE, encode_size(1000, 500)),
        Frame(1, OUT, b"before it\r\n" + every_column),
        Frame(2, OUT, flood * (size // len(flood))),
        Frame(3, OUT, b"\x1b[H\r\nafter it\r\n"),
    ]
    (directory.path / f"{SID}.rec").write_bytes(recording(frames, interactive=True))


@pytest.mark.parametrize("flood", _FLOODS.values(), ids=_FLOODS)
def test_what_costs_much_for_few_bytes_is_cut_off_by_the_bytes_and_found_up_to_there(
    directory: RecordingDirectory, flood: bytes
) -> None:
    """Also within one frame. The time is the real one, with five times the slack."""
    keep_flood(directory, flood, 1024 * 1024)
    began = time.process_time()
    build_index(directory, SID, base_seconds=0.2, seconds_per_mib=0.2)
    assert time.process_time() - began < 5 * 0.4
    before, after = (search_index(directory, SID, text) for text in ("before it", "after it"))
    assert before is not None
    assert after is not None
    assert before.count == 1
    assert (after.count == 1) == after.whole
    head = index_head(directory, SID)
    assert head is not None
    assert head.cut == ("" if head.whole else "time")


def test_the_work_on_a_frame_is_looked_at_within_it(directory: RecordingDirectory) -> None:
    """Whatever its size, time counts by what was seen of it: 10 s, and so many for each MiB."""
    keep(directory, b"needle\r\n" + b"y" * 2_000_000)
    ticks = iter(range(10**6))
    build_index(directory, SID, clock=lambda: float(next(ticks)), base_seconds=10, seconds_per_mib=4)
    assert next(ticks) < 20
    found = search_index(directory, SID, "needle")
    assert found is not None
    assert (found.count, found.whole, found.cut) == (1, False, "time")
    ticks = iter(range(10**6))
    build_index(directory, SID, clock=lambda: next(ticks) / 1000, base_seconds=10, seconds_per_mib=4)
    found = search_index(directory, SID, "needle")
    assert found is not None
    assert (found.whole, found.cut) == (True, ""), "an honest session has all the time it needs"


async def test_nobody_waits_long_for_a_recording_that_takes_long_nor_for_those_behind_it(
    directory: RecordingDirectory,
) -> None:
    """Another maker holds the first one's index, so its turn does not end; then it ends, and both are made."""
    keep(directory, b"one\r\n")
    keep(directory, b"two\r\n", sid=OTHER_SID)
    indexer = Indexer(directory.path, directory, patience=0.2)
    task = asyncio.create_task(indexer.run(), name="indexer")
    try:
        with os.fdopen(directory.create(f"{SID}.idx.new"), "wb") as held:
            fcntl.flock(held.fileno(), fcntl.LOCK_EX)
            await indexer.ensure([SID], 0.3)
            assert indexer.overdue(SID)
            async with asyncio.timeout(5):
                await indexer.ensure([OTHER_SID], 60)
            assert indexer.overdue(OTHER_SID), "it is behind one that takes long"
            assert missing_indexes(directory) == sorted([SID, OTHER_SID])
        async with asyncio.timeout(60):
            while missing_indexes(directory):
                await indexer.ensure([SID, OTHER_SID], 0.1)
                await asyncio.to_thread(missing_indexes, directory)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
