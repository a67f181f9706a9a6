"""Playing: what is shown when, and reading what is not whole."""

from __future__ import annotations

import io

import pytest
from tests.recording.recording_samples import chunk_list, header, recording

from teleport.errors import BadRequest
from teleport.recording.format import BrokenRecording, Frame, FrameKind, encode_size
from teleport.recording.player import PlayStep, RecordingReader, schedule
from teleport.recording.sanitise import RESET_TERMINAL

FRAMES = [
    Frame(500_000, FrameKind.OUTPUT, b"$ "),
    Frame(600_000, FrameKind.INPUT, b"secret"),
    Frame(1_500_000, FrameKind.STDERR, b"\xe2\x82"),
    Frame(1_500_000, FrameKind.OUTPUT, b"\xac\x1b]0;title\x07"),
    Frame(61_500_000, FrameKind.RESIZE, encode_size(100, 30)),
    Frame(62_000_000, FrameKind.OUTPUT, b"done"),
]


def test_steps_keep_the_recorded_times_and_show_only_output() -> None:
    """The player never types: what the user typed is no step."""
    assert list(schedule(FRAMES)) == [
        PlayStep(0.5, b"$ ", None, 500_000),
        PlayStep(1.0, b"", None, 1_500_000),
        PlayStep(0.0, "€".encode(), None, 1_500_000),
        PlayStep(60.0, b"", (100, 30), 61_500_000),
        PlayStep(0.5, b"done", None, 62_000_000),
        PlayStep(0.0, RESET_TERMINAL, None, 62_000_000),
    ]


def test_speed_and_idle_cap_shorten_the_pauses() -> None:
    delays = [step.delay for step in schedule(FRAMES, speed=2, idle_cap=2)]
    assert delays == [0.25, 0.5, 0.0, 1.0, 0.25, 0.0]


@pytest.mark.parametrize("speed", [0, -1])
def test_a_speed_that_is_none_is_refused(speed: float) -> None:
    with pytest.raises(BadRequest):
        list(schedule(FRAMES, speed=speed))


def test_bytes_can_be_had_as_they_were() -> None:
    shown = b"".join(step.data for step in schedule(FRAMES, sanitise=False))
    assert shown == b"$ \xe2\x82\xac\x1b]0;title\x07done"


def test_a_reader_gives_header_frames_and_end() -> None:
    reader = RecordingReader(io.BytesIO(recording(FRAMES)))
    assert reader.header == header()
    assert reader.end is None
    assert list(reader.frames()) == FRAMES
    assert reader.end is not None
    assert reader.end.record.reason == "session ended"


def test_frames_before_a_broken_place_are_shown_and_then_it_is_named() -> None:
    parts = chunk_list(4)
    reader = RecordingReader(io.BytesIO(b"".join([*parts[:3], b"\xff" * 200])))
    frames = reader.frames()
    assert [next(frames).time for _ in range(4)] == [0, 5, 1000, 1005]
    with pytest.raises(BrokenRecording) as caught:
        next(frames)
    assert caught.value.place.chunk == 2


def test_a_recording_broken_right_behind_its_header_still_has_a_header() -> None:
    reader = RecordingReader(io.BytesIO(chunk_list(1)[0] + b"\xff" * 200))
    assert reader.header == header()
    with pytest.raises(BrokenRecording):
        next(reader.frames())


@pytest.mark.parametrize("data", [b"", b"PK", chunk_list(1)[0][:-1]])
def test_what_has_no_header_is_not_opened(data: bytes) -> None:
    with pytest.raises(BrokenRecording):
        RecordingReader(io.BytesIO(data))


def test_an_unfinished_recording_is_an_error_unless_allowed() -> None:
    data = b"".join(chunk_list(3)[:3])
    with pytest.raises(BrokenRecording):
        list(RecordingReader(io.BytesIO(data)).frames())
    reader = RecordingReader(io.BytesIO(data + b"\0" * 3), allow_unfinished=True)
    assert len(list(reader.frames())) == 4
    assert reader.end is None
