"""Reading recordings from files: frames in order, and when each is due on a viewer's screen.

`schedule` is pure: frames in, steps out; whoever plays sleeps and writes. Played bytes pass `TerminalSanitiser`, so a
recording never drives the viewer's terminal or makes it answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from teleport.errors import BadRequest
from teleport.recording.format import (
    BrokenRecording,
    End,
    Frame,
    FrameKind,
    RecordingHeader,
    RecordingParser,
    decode_size,
)
from teleport.recording.sanitise import RESET_TERMINAL, TerminalSanitiser

_PIECE = 256 * 1024


class RecordingReader:
    """A recording opened for reading. `header` is known at once; iterate `frames()` once, in order.

    Raises `BrokenRecording`. `allow_unfinished` is for a file that is still being written, or torn: it gives what is
    whole and no error, `end` then stays None, and hashes are not looked at.
    """

    def __init__(self, file: BinaryIO, *, allow_unfinished: bool = False, name: str = "") -> None:
        self._file = file
        self._allow_unfinished = allow_unfinished
        self._parser = RecordingParser(name, unsealed=allow_unfinished)
        self._source = self._read()
        self._first: list[Frame] = []
        self._error: BrokenRecording | None = None
        try:
            while self._parser.header is None:
                self._first = next(self._source)
        except BrokenRecording as error:
            if self._parser.header is None:
                raise
            self._error = error  # the header is whole; what is behind it is reported when it is read
        except StopIteration:
            self._parser.finish()  # raises: the file stops inside its header
        assert self._parser.header is not None, "finish() raises without a header"
        self.header: RecordingHeader = self._parser.header

    @property
    def end(self) -> End | None:
        """How the recording ended, once all frames were read."""
        return self._parser.end

    def frames(self) -> Iterator[Frame]:
        """All frames but the end's. The chain and the totals are checked on the way: frames before a broken place
        come out, then it raises."""
        yield from self._first
        if self._error is not None:
            raise self._error
        for frames in self._source:
            yield from frames
        if self._parser.end is not None or not self._allow_unfinished:
            self._parser.check_totals()

    def _read(self) -> Iterator[list[Frame]]:
        """The frames of one chunk at a time (never more: a small file can unpack to a large one)."""
        while piece := self._file.read(_PIECE):
            for chunk in self._parser.feed(piece):
                yield [frame for frame in self._parser.frames(chunk) if frame.kind is not FrameKind.END]
            yield []


@dataclass(frozen=True, slots=True)
class PlayStep:
    """What happens next on the viewer's screen."""

    delay: float  # seconds to wait first
    data: bytes = b""
    size: tuple[int, int] | None = None  # columns, rows: the recorded terminal's new size
    at: int = 0  # microseconds since the session's start


def schedule(
    frames: Iterable[Frame], *, speed: float = 1.0, idle_cap: float | None = None, sanitise: bool = True
) -> Iterator[PlayStep]:
    """When to show what: output and stderr as they were timed, divided by `speed`, no pause above `idle_cap` seconds
    (of the recording). Ends with the bytes that put the viewer's terminal back in order."""
    if speed <= 0:
        raise BadRequest(f"a playing speed of {speed} makes no sense", hint="use a number above 0, such as 2")
    cleaner = TerminalSanitiser()
    before = 0
    for frame in frames:
        if frame.kind is FrameKind.RESIZE:
            step_data, size = b"", decode_size(frame.payload)
        elif frame.kind in (FrameKind.OUTPUT, FrameKind.STDERR):
            step_data, size = cleaner.feed(frame.payload) if sanitise else frame.payload, None
        else:
            continue
        pause = (frame.time - before) / 1_000_000
        before = frame.time
        if idle_cap is not None:
            pause = min(pause, idle_cap)
        yield PlayStep(pause / speed, step_data, size, frame.time)
    yield PlayStep(0.0, (cleaner.finish() + RESET_TERMINAL) if sanitise else b"", None, before)


__all__ = ["BrokenRecording", "PlayStep", "RecordingReader", "schedule"]
