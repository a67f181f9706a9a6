"""The lines that a recorded session showed, and what else its recording tells: for searching and for reading.

Every kind of frame is handled: what is no output is a line of its own, read as JSON where it is JSON.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from teleport.recording.format import BYTE_KINDS, Frame, FrameKind, RecordingHeader, decode_size
from teleport.recording.format.parties import PartyNote, TypedNote, decode_note
from teleport.recording.sanitise import TerminalSanitiser, one_line
from teleport.recording.screen.model import Screen

SCREEN: Final = "screen"
_WITHOUT_TERMINAL: Final = (1000, 50)
_REMEMBERED: Final = 512  # lines that are not told again while they are among the last so many
_MAX_DETAIL: Final = 4096
FOR_PROGRAMS: Final = b'{"about":'  # how a note begins that is JSON
_ACTIONS: Final = {"there": "is there", "joined": "joined", "left": "left"}


class Shown(NamedTuple):
    """One line: when it was written last (microseconds since the start), where it comes from (`screen`, or the name of
    the frame's kind), and its text, which holds no control characters."""

    time: int
    kind: str
    text: str


class LineReader:
    """Frames in, lines out. `size`: the screen's, where it is not the session's own."""

    def __init__(self, header: RecordingHeader, *, once: bool, size: tuple[int, int] | None = None) -> None:
        own = (header.width or 80, header.height or 24) if header.interactive else _WITHOUT_TERMINAL
        self._interactive = header.interactive
        self._once = once
        self._found: list[Shown] = []
        self._told: OrderedDict[str, None] = OrderedDict()
        self._cleaner = TerminalSanitiser()
        self._users: dict[int, str] = {}  # of the parties that notes told of
        self._typing = 0
        self.screen = Screen(*(size or own), newline=not header.interactive, report=self._report, blanks=not once)

    def take(self, frame: Frame) -> list[Shown]:
        """What came of a frame."""
        if frame.kind in (FrameKind.OUTPUT, FrameKind.STDERR):
            self.screen.time = frame.time
            self.screen.feed(self._cleaner.feed_text(frame.payload))
        elif frame.kind is FrameKind.RESIZE:
            if self._interactive:
                self.screen.resize(*decode_size(frame.payload))
        elif (note := decode_note(frame.payload) if frame.kind is FrameKind.NOTE else None) is not None:
            self._about(frame.time, note)
        elif frame.kind is FrameKind.NOTE and frame.payload.startswith(FOR_PROGRAMS):
            pass  # of a later version
        elif frame.kind not in BYTE_KINDS:
            self.screen.report_all()
            self._found.append(Shown(frame.time, frame.kind.name.lower(), detail_line(frame)))
        return self._taken()

    def _about(self, time: int, note: PartyNote | TypedNote) -> None:
        """Who comes and goes, and whose input it is from here on; the line that is being typed is not cut by it."""
        match note:
            case PartyNote():
                self._users[note.party] = note.user
                origin = f" from {note.client}" if note.client else ""
                text = f"{note.user} {_ACTIONS[note.action]} as {note.mode}{origin}"
                self._found.append(Shown(time, "party", one_line(text, _MAX_DETAIL)))
            case TypedNote():
                if note.party != self._typing:
                    self._typing = note.party
                    user = self._users.get(note.party, f"party {note.party}")
                    self._found.append(Shown(time, "typed", one_line(f"by {user} from here on", _MAX_DETAIL)))

    def finish(self) -> list[Shown]:
        """What is on the screen at the end, if it was not told."""
        self.screen.feed(self._cleaner.finish_text())
        self.screen.report_all()
        return self._taken()

    def _taken(self) -> list[Shown]:
        found, self._found = self._found, []
        return found

    def _report(self, time: int, text: str) -> None:
        if self._once:  # then there are no blank ones
            if text in self._told:
                self._told.move_to_end(text)
                return
            self._told[text] = None
            if len(self._told) > _REMEMBERED:
                self._told.popitem(last=False)
        self._found.append(Shown(time, SCREEN, text))


def shown_lines(header: RecordingHeader, frames: Iterable[Frame], *, once: bool = True) -> Iterator[Shown]:
    """What was shown and done, in order. `once`: a line that a program draws again and again is told once in a while.

    What the user typed is none of it: it may be a password; where it was echoed, the screen has it.
    """
    reader = LineReader(header, once=once)
    for frame in frames:
        yield from reader.take(frame)
    yield from reader.finish()


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
