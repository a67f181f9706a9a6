"""A recording that can be played from any place: what was on the screen at a time, and where a text was shown.

Frames are read when they are needed, so playing begins at once; what was read is kept in a file without a name.
Screens are kept on the way, so that going back costs no more than half a MiB of the recording.
"""

from __future__ import annotations

import copy
import tempfile
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from teleport.recording.format import BrokenRecording, Frame, FrameKind, RecordingHeader, decode_size
from teleport.recording.sanitise import TerminalSanitiser
from teleport.recording.screen import Screen, Shown, shown_lines

_IN_MEMORY = 32 * 1024 * 1024
_APART = 512 * 1024  # bytes of the recording between two screens that are kept
_MOST_KEPT = 400
_MOST_TEXT = 256 * 1024 * 1024  # of lines that are searched


@dataclass(slots=True)
class Place:
    """A screen as it was before frame `index`."""

    index: int
    screen: Screen
    cleaner: TerminalSanitiser

    def copy(self) -> Place:
        return Place(self.index, self.screen.copy(), copy.deepcopy(self.cleaner))


class Timeline:
    """`size` is the screen of a session that had no terminal: the viewer's. Close it."""

    def __init__(self, header: RecordingHeader, frames: Iterable[Frame], size: tuple[int, int] = (80, 24)) -> None:
        self.header = header
        self.error: BrokenRecording | None = None  # where it broke off, once that was reached
        self._source = iter(frames)
        self._times = array("q")
        self._kinds = bytearray()
        self._ends = array("q")
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - closed by close()
        self._whole = False
        columns, rows = (header.width or 80, header.height or 24) if header.interactive else size
        first = Place(0, Screen(columns, rows, newline=not header.interactive), TerminalSanitiser())
        self._places = [first]
        self._apart = _APART
        self._lines: list[Shown] | None = None
        self.now = first.copy()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Timeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # reading

    def _read_one(self) -> bool:
        """Takes in one frame more; False at the end."""
        if self._whole:
            return False
        try:
            frame = next(self._source)
        except StopIteration:
            self._whole = True
            return False
        except BrokenRecording as error:
            self._whole, self.error = True, error
            return False
        payload = b"" if frame.kind is FrameKind.INPUT else frame.payload
        before = self._ends[-1] if self._ends else 0
        self._file.seek(before)
        self._file.write(payload)
        self._times.append(frame.time)
        self._kinds.append(frame.kind)
        self._ends.append(before + len(payload))
        return True

    def _frame(self, index: int) -> Frame:
        start = self._ends[index - 1] if index else 0
        self._file.seek(start)
        return Frame(self._times[index], FrameKind(self._kinds[index]), self._file.read(self._ends[index] - start))

    # playing

    @property
    def next_time(self) -> int | None:
        """When the next frame is due (microseconds); None at the end."""
        index = self.now.index
        return self._times[index] if index < len(self._times) or self._read_one() else None

    def step(self) -> None:
        """Takes the next frame to the screen."""
        if self.next_time is None:
            return
        place = self.now
        last = self._places[-1]
        begun = self._ends[place.index - 1] if place.index else 0
        if place.index > last.index and begun - (self._ends[last.index - 1] if last.index else 0) >= self._apart:
            self._places.append(place.copy())
            if len(self._places) > _MOST_KEPT:
                del self._places[1::2]
                self._apart *= 2
        _apply(place, self._frame(place.index))

    def seek(self, time: int) -> int:
        """The screen becomes what it was at `time`; the answer is the time that was reached, which is the last frame's
        when there is none so late."""
        while not self._whole and not (self._times and self._times[-1] > time):
            self._read_one()
        wanted = bisect_right(self._times, time)
        if not self.now.index <= wanted:
            self.now = self._places[0].copy()
        best = bisect_right([place.index for place in self._places], wanted) - 1
        if self._places[best].index > self.now.index:
            self.now = self._places[best].copy()
        while self.now.index < wanted:
            self.step()
        return time if self._times and time < self._times[-1] else (self._times[-1] if self._times else 0)

    # finding

    def find(self, text: str, time: int, *, back: bool = False) -> Shown | None:
        """The next line after `time` (or the last one before) that holds `text`, whatever the case."""
        if self._lines is None:
            self._lines = sorted(self._shown())
        wanted = text.casefold()
        times = [line.time for line in self._lines]
        if back:
            candidates: Iterable[Shown] = reversed(self._lines[: bisect_left(times, time)])
        else:
            candidates = self._lines[bisect_right(times, time) :]
        return next((line for line in candidates if wanted in line.text.casefold()), None)

    def _shown(self) -> Iterator[Shown]:
        size = 0
        for line in shown_lines(self.header, self._all()):
            size += len(line.text) + 100
            if size > _MOST_TEXT:
                return
            yield line

    def _all(self) -> Iterator[Frame]:
        index = 0
        while index < len(self._times) or self._read_one():
            yield self._frame(index)
            index += 1


def _apply(place: Place, frame: Frame) -> None:
    place.index += 1
    place.screen.time = frame.time
    if frame.kind in (FrameKind.OUTPUT, FrameKind.STDERR):
        place.screen.feed(place.cleaner.feed_text(frame.payload))
    elif frame.kind is FrameKind.RESIZE:
        place.screen.resize(*decode_size(frame.payload))
