"""Any place of a recording is the same whichever way one comes there."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.recording.recording_samples import chunk_list, header, recording

from teleport.recording import timeline as module
from teleport.recording.format import Frame, FrameKind, encode_size
from teleport.recording.player import RecordingReader
from teleport.recording.timeline import Timeline

OUT = FrameKind.OUTPUT
PIECES = st.sampled_from(
    [b"a\r\n", b"word ", b"\x1b[31m", b"\xe6\x97", b"\xa5", b"\x1b[", b"2J", b"\x1b[?1049h", b"x" * 90]
)
FRAMES = st.lists(
    st.tuples(st.integers(0, 3), st.one_of(PIECES, st.tuples(st.integers(1, 90), st.integers(1, 30)))), max_size=30
).map(
    lambda parts: [
        Frame(
            sum(delay for delay, _ in parts[: number + 1]),
            OUT if isinstance(what, bytes) else FrameKind.RESIZE,
            what if isinstance(what, bytes) else encode_size(*what),
        )
        for number, (_, what) in enumerate(parts)
    ]
)


@settings(max_examples=100, deadline=None)
@given(FRAMES, st.lists(st.integers(0, 100), max_size=8))
def test_there_and_back(frames: list[Frame], times: list[int]) -> None:
    before, module._APART = module._APART, 20  # many screens are kept
    try:
        with Timeline(header(), frames) as timeline:
            for time in times:
                reached = timeline.seek(time)
                with Timeline(header(), frames) as fresh:
                    while fresh.next_time is not None and fresh.next_time <= time:
                        fresh.step()
                    assert timeline.now.screen.text() == fresh.now.screen.text()
                    assert timeline.next_time == fresh.next_time
                assert reached == min(time, frames[-1].time if frames else 0)
    finally:
        module._APART = before


def test_frames_are_read_when_they_are_due() -> None:
    taken: list[int] = []

    def source() -> Iterator[Frame]:
        for number in range(100):
            taken.append(number)
            yield Frame(number * 10, OUT, b"%d\r\n" % number)

    with Timeline(header(), source()) as timeline:
        timeline.step()
        assert timeline.next_time == 10
        assert len(taken) == 2
        assert timeline.seek(500) == 500
        assert len(taken) == 52
        found = timeline.find("77", 0)
        assert found is not None
        assert (found.time, found.text) == (770, "77")


def test_text_is_found_forward_and_back_whatever_its_case() -> None:
    frames = [Frame(number * 1000, OUT, f"Line {number}\r\n".encode()) for number in range(1, 6)]
    with Timeline(header(), [*frames, Frame(9000, FrameKind.INPUT, b"line 9")]) as timeline:
        later, earlier = timeline.find("LINE", 2000), timeline.find("line", 2000, back=True)
        assert (later and later.text, earlier and earlier.text) == ("Line 3", "Line 1")
        assert timeline.find("line 9", 0) is None, "what was typed was not shown"


def test_a_broken_recording_plays_to_where_it_breaks() -> None:
    parts = chunk_list(4)
    reader = RecordingReader(io.BytesIO(b"".join([*parts[:3], b"\xff" * 200])))
    with Timeline(reader.header, reader.frames()) as timeline:
        assert timeline.error is None
        timeline.seek(10**9)
        assert timeline.next_time is None
        assert timeline.error is not None
        assert timeline.error.place.chunk == 2
        assert "line 1" in timeline.now.screen.text()[3]


def test_a_session_without_a_terminal_takes_the_viewers_size() -> None:
    data = recording([Frame(0, OUT, b"one\ntwo\n")], interactive=False, width=0, height=0)
    reader = RecordingReader(io.BytesIO(data))
    with Timeline(reader.header, reader.frames(), (50, 3)) as timeline:
        timeline.seek(0)
        assert timeline.now.screen.columns == 50
        assert timeline.now.screen.text() == ["one", "two", ""]


@pytest.mark.parametrize("frames", [[], [Frame(5, FrameKind.NOTE, b"note")]])
def test_a_recording_that_shows_nothing(frames: list[Frame]) -> None:
    with Timeline(header(), frames) as timeline:
        assert timeline.seek(10) == (5 if frames else 0)
        assert timeline.next_time is None
        timeline.step()
