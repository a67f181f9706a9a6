"""The lines that a recorded session showed, and what else its recording tells: for searching and for reading.

Every kind of frame is handled: what is no output is a line of its own, read as JSON where it is JSON.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from teleport.recording.format import BYTE_KINDS, Frame, FrameKind, RecordingHeader, decode_size
from teleport.recording.sanitise import TerminalSanitiser, one_line
from teleport.recording.screen.model import Screen

SCREEN: Final = "screen"
_PIECE: Final = 64 * 1024
_WITHOUT_TERMINAL: Final = (1000, 50)
_REMEMBERED: Final = 512  # lines that are not told again while they are among the last so many
_MAX_DETAIL: Final = 4096


class Shown(NamedTuple):
    """One line: when it was written last (microseconds since the start), where it comes from (`screen`, or the name of
    the frame's kind), and its text, which holds no control characters."""

    time: int
    kind: str
    text: str


def screen_of(header: RecordingHeader) -> Screen:
    """The screen that a session began with."""
    return Screen(*_size(header), newline=not header.interactive)


def _size(header: RecordingHeader) -> tuple[int, int]:
    return (header.width or 80, header.height or 24) if header.interactive else _WITHOUT_TERMINAL


def shown_lines(header: RecordingHeader, frames: Iterable[Frame], *, once: bool = True) -> Iterator[Shown]:
    """What was shown and done, in order. `once`: a line that a program draws again and again is told once in a while.

    What the user typed is none of it: it may be a password; where it was echoed, the screen has it.
    """
    found: list[Shown] = []
    told: OrderedDict[str, None] = OrderedDict()

    def report(time: int, text: str) -> None:
        if once:  # then there are no blank ones
            if text in told:
                told.move_to_end(text)
                return
            told[text] = None
            if len(told) > _REMEMBERED:
                told.popitem(last=False)
        found.append(Shown(time, SCREEN, text))

    screen = Screen(*_size(header), newline=not header.interactive, report=report, blanks=not once)
    cleaner = TerminalSanitiser()
    for frame in frames:
        if frame.kind in (FrameKind.OUTPUT, FrameKind.STDERR):
            screen.time = frame.time
            for at in range(0, len(frame.payload), _PIECE):
                screen.feed(cleaner.feed_text(frame.payload[at : at + _PIECE]))
                yield from found
                found.clear()
        elif frame.kind is FrameKind.RESIZE:
            if header.interactive:
                screen.resize(*decode_size(frame.payload))
        elif frame.kind not in BYTE_KINDS:
            screen.report_all()
            found.append(Shown(frame.time, frame.kind.name.lower(), detail_line(frame)))
        yield from found
        found.clear()
    screen.feed(cleaner.finish_text())
    screen.report_all()
    yield from found


def detail_line(frame: Frame) -> str:
    """What a frame that is no output says, in one line that drives nothing."""
    if frame.kind is FrameKind.NOTE:
        return one_line(frame.payload.decode(errors="backslashreplace"), _MAX_DETAIL)
    try:
        detail = json.loads(frame.payload)
    except (ValueError, RecursionError):
        return one_line(frame.payload.decode(errors="backslashreplace"), _MAX_DETAIL)
    if not isinstance(detail, dict):
        return one_line(json.dumps(detail, ensure_ascii=False), _MAX_DETAIL)
    if frame.kind is FrameKind.EXEC and set(detail) == {"command"}:
        return one_line(str(detail["command"]), _MAX_DETAIL)
    first = [
        str(detail[name]) for name in ("action", "kind", "command", "path", "address", "target") if detail.get(name)
    ]
    rest = [
        f"{name}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for name, value in detail.items()
        if name not in ("action", "kind", "command", "path", "address", "target")
    ]
    return one_line(" ".join(first + rest), _MAX_DETAIL)
