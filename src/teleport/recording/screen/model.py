"""A terminal's screen: sanitised text in, cells out.

What it knows is what `recording.sanitise` lets pass: printing with wrap and insertion, wide and combining characters,
cursor movement, erasing, inserting and deleting lines and characters, scrolling and its region, tab stops, colours,
line drawing, origin mode, saved cursors and the alternate screen. Nothing is answered, nothing has an effect outside.

With `report`, every line of text is handed out before it is lost: when it leaves at the top, is erased or written
over, when the screen is changed, and at the end (`report_all`). Lines that the screen wrapped are whole again. Text
that was written over bit by bit counts against a budget, so a session cannot make its reports much larger than itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from teleport.recording.screen.row import PLAIN, Row, background_only, width
from teleport.recording.screen.sgr import apply_sgr

MAX_COLUMNS: Final = 1000
MAX_ROWS: Final = 500
_MAX_LINE: Final = 8192  # characters of a wrapped line that are kept together
_OVERLAP: Final = 512  # characters that its parts have in common
_MAX_COMBINED: Final = 8  # characters in one cell
_BUDGET: Final = 4  # characters of reports of what was written over, for each one that was fed
_START: Final = 64 * 1024

_TOKEN = re.compile(
    "([^\x00-\x1f\x7f]+)"  # 1 text
    "|\x1b\\[(\\??)([0-9;:]*)([ !]?)([@-~])"  # 2 private, 3 numbers, 4 intermediate, 5 final
    "|\x1b([()#]?[ -~])"  # 6
    "|(\r\n|[\x00-\x1f\x7f])"  # 7
)
# DEC special graphics (VT100 user guide, table 3-9)
_DRAWING = {
    ord(key): value for key, value in zip(
        "`abcdefghijklmnopqrstuvwxyz{|}~", "◆▒␉␌␍␊°±␤␋┘┐┌└┼⎺⎻─⎼⎽├┤┴┬│≤≥π≠£·", strict=True,
    )
}  # fmt: skip

Report = Callable[[int, str], None]
"""Takes when a line was written last (microseconds), and the line."""


class _Buffer:
    """The lines of the main or the alternate screen, and what belongs to them."""

    __slots__ = ("lines", "prefix", "prefix_fresh", "saved")

    def __init__(self, lines: list[Row]) -> None:
        self.lines = lines
        self.prefix = ""  # the part of a wrapped line that left at the top
        self.prefix_fresh = False
        self.saved: tuple[int, int, int, bool, tuple[bool, bool], bool] | None = None


class Screen:
    """A screen of `columns` and `rows`, both brought into their limits. `newline`: a line feed returns the carriage as
    well, which is how output without a terminal reads."""

    _top: int  # of the region that scrolls
    _bottom: int
    _origin: bool
    _insert: bool
    _wrap: bool
    _drawing: tuple[bool, bool]  # which of the two character sets draws lines
    _shifted: int  # which of them is in use
    _tabs: set[int]

    def __init__(
        self, columns: int, rows: int, *, newline: bool = False, report: Report | None = None, blanks: bool = False
    ) -> None:
        """`blanks`: empty lines that leave at the top are reported, too."""
        self.columns, self.rows = _fitting(columns, rows)
        self.time = 0  # microseconds; set by whoever feeds
        self.visible = True  # the cursor
        self._report = report
        self._newline = newline
        self._blanks = blanks
        self._number = 0
        self._main = self._fresh_buffer()
        self._alternate: _Buffer | None = None
        self._buffer = self._main
        self._budget = _START
        self._reset_modes()
        self.x = self.y = 0  # x equals `columns` while a wrap is due
        self._style = PLAIN
        self._last = " "
        self._default_tabs()

    def copy(self) -> Screen:
        """A screen that goes on from here by itself; it reports nothing."""
        twin = Screen(1, 1, newline=self._newline)
        for name, value in vars(self).items():
            setattr(twin, name, value)
        twin._report = None
        twin._tabs = set(self._tabs)
        twin._main = _copied(self._main)
        twin._alternate = None if self._alternate is None else _copied(self._alternate)
        twin._buffer = twin._main if self._buffer is self._main or twin._alternate is None else twin._alternate
        return twin

    @property
    def lines(self) -> list[Row]:
        """The rows, from the top."""
        return self._buffer.lines

    def text(self) -> list[str]:
        """What can be read, row by row."""
        return [row.text() for row in self.lines]

    def feed(self, text: str) -> None:
        """Takes sanitised text; sequences have to be whole. Unknown ones change nothing."""
        self._budget = min(self._budget + len(text) * _BUDGET, 1 << 24)
        for match in _TOKEN.finditer(text):
            kind = match.lastindex
            if kind == 1:
                self._put(match[1])
            elif kind == 7:
                self._control(match[7])
            elif kind == 5:
                self._csi(match[2], match[3], match[4], match[5])
            else:
                self._escape(match[6])

    def resize(self, columns: int, rows: int) -> None:
        """Gives the screen another size. What no longer fits is lost; what leaves at the top does so first."""
        columns, rows = _fitting(columns, rows)
        if (columns, rows) == (self.columns, self.rows):
            return
        self.report_all()
        for buffer in (self._main, self._alternate):
            if buffer is None:
                continue
            if rows < self.rows:
                below = self.rows - 1 - self.y if buffer is self._buffer else 0
                cut_below = min(below, self.rows - rows)
                cut_above = self.rows - rows - cut_below
                buffer.lines = buffer.lines[cut_above : self.rows - cut_below]
                if buffer is self._buffer:
                    self.y -= cut_above
            else:
                buffer.lines += [self._row() for _ in range(rows - self.rows)]
            for row in buffer.lines:
                row.resize(columns)
            buffer.prefix = ""
        self.columns, self.rows = columns, rows
        for buffer in (self._main, self._alternate):
            if buffer is not None:
                buffer.lines = [row if len(row.cells) == columns else self._row() for row in buffer.lines]
        self._top, self._bottom = 0, rows - 1
        self.x, self.y = min(self.x, columns - 1), max(0, min(self.y, rows - 1))
        self._default_tabs()

    # reports

    def report_all(self) -> None:
        """Hands out every line that was not reported since it was written."""
        if self._report is None:
            return
        for y, row in enumerate(self.lines):
            if row.fresh:
                self._report_line(y)
        if self._buffer.prefix_fresh:
            self._report_line(0)

    def _report_line(self, y: int) -> None:
        """Reports the line that row `y` is part of, with all its rows."""
        if self._report is None:
            return
        lines, buffer = self.lines, self._buffer
        first = last = y
        while first > 0 and lines[first - 1].wrapped and last - first < 64:
            first -= 1
        while lines[last].wrapped and last + 1 < len(lines) and last - first < 64:
            last += 1
        parts = [row.full_text() for row in lines[first:last]] + [lines[last].text()]
        if first == 0:
            parts.insert(0, buffer.prefix)
            buffer.prefix_fresh = False
        for row in lines[first : last + 1]:
            row.fresh = False
        if text := "".join(parts).rstrip():
            self._report(max(row.time for row in lines[first : last + 1]), text)

    def _before_loss(self, y: int) -> None:
        """Row `y` is about to lose text."""
        if self._report is not None and self.lines[y].fresh and self._budget > 0:
            self._budget -= self.columns
            self._report_line(y)

    def _leaves(self, row: Row) -> None:
        """The row at the very top scrolled away."""
        if self._report is None:
            return
        buffer = self._buffer
        if row.wrapped:
            buffer.prefix += row.full_text()
            buffer.prefix_fresh |= row.fresh
            if len(buffer.prefix) > _MAX_LINE:
                if buffer.prefix_fresh:
                    self._report(row.time, buffer.prefix)
                buffer.prefix, buffer.prefix_fresh = buffer.prefix[-_OVERLAP:], False
            return
        if row.fresh or buffer.prefix_fresh:
            text = (buffer.prefix + row.text()).rstrip()
            if text:
                self._report(row.time, text)
        elif self._blanks and not row.used and not buffer.prefix:
            self._report(row.time, "")
        buffer.prefix, buffer.prefix_fresh = "", False

    # printing

    def _put(self, text: str) -> None:
        if self._drawing[self._shifted]:
            text = text.translate(_DRAWING)
        if not text.isascii():
            self._put_wide(text)
            return
        self._last = text[-1]
        while text:
            row = self._row_to_write()
            room = self.columns - self.x
            piece = text[:room]
            text = text[room:]
            if text and not self._wrap:
                piece, text = piece[:-1] + text[-1], ""
            self._write(row, piece, len(piece))
            self.x += len(piece)
            if self.x >= self.columns and not self._wrap:
                self.x = self.columns - 1

    def _put_wide(self, text: str) -> None:
        """Text that is not all ASCII: its ASCII parts at once, the rest one by one."""
        for part in re.findall("[\x20-\x7e]+|[^\x20-\x7e]", text):
            if part.isascii():
                drawing, self._drawing = self._drawing, (False, False)
                self._put(part)
                self._drawing = drawing
                continue
            columns = width(part)
            if columns == 0:
                self._combine(part)
                continue
            self._last = part
            if columns == 2:
                if self.columns < 2:
                    continue
                if self.x == self.columns - 1 and self._wrap:
                    self.lines[self.y].wrapped = True
                    self.x = self.columns
                elif self.x == self.columns - 1:
                    self.x = self.columns - 2
            row = self._row_to_write()
            self._write(row, [part, ""] if columns == 2 else part, columns)
            row.wide |= columns == 2
            self.x += columns
            if self.x >= self.columns and not self._wrap:
                self.x = self.columns - 1

    def _combine(self, mark: str) -> None:
        at = self.x - 1
        self.lines[self.y].own()
        cells = self.lines[self.y].cells
        if at > 0 and cells[at] == "":
            at -= 1
        if at >= 0 and len(cells[at]) < _MAX_COMBINED:
            cells[at] += mark
            self.lines[self.y].changed = True

    def _row_to_write(self) -> Row:
        if self.x >= self.columns:
            if self._wrap:
                self.lines[self.y].wrapped = True
                self.x = 0
                self._index()
            else:
                self.x = self.columns - 1
        return self.lines[self.y]

    def _write(self, row: Row, piece: str | list[str], size: int) -> None:
        x = self.x
        end = x + size
        if x < row.used:
            if self._insert:
                if self.columns - size < row.used:
                    self._before_loss(self.y)
                row.shift(x, size, PLAIN)
            elif row.fresh:
                old = "".join(row.cells[x:end])
                if not old.isspace() and old != "".join(piece):
                    self._before_loss(self.y)
        row.own()
        row.cells[x:end] = piece
        if row.wide:
            row.mend(x, end)
        if self._style or row.styles is not None:
            row.paint(x, end, self._style)
        if end > row.used:
            row.used = end
        if end >= self.columns:
            row.wrapped = False
        if isinstance(piece, list) or not piece.isspace():
            row.fresh = True
            row.time = self.time
        row.changed = True

    # controls

    def _control(self, char: str) -> None:
        match char:
            case "\r\n":
                self.x = 0
                self._index()
            case "\r":
                self.x = 0
            case "\n" | "\x0b" | "\x0c":
                if self._newline:
                    self.x = 0
                self._index()
            case "\b":
                self.x = max(0, min(self.x, self.columns - 1) - 1)
            case "\t":
                self._tab(1)
            case "\x0e":
                self._shifted = 1
            case "\x0f":
                self._shifted = 0
            case _:
                pass

    def _index(self) -> None:
        if self.y == self._bottom:
            self._scroll_up(1)
        elif self.y < self.rows - 1:
            self.y += 1

    def _reverse_index(self) -> None:
        if self.y == self._top:
            self._scroll_down(1)
        elif self.y > 0:
            self.y -= 1

    def _scroll_up(self, count: int, top: int | None = None) -> None:
        """Lines from `top` (the region's) to the region's end move up."""
        lines = self.lines
        first = self._top if top is None else top
        for _ in range(min(count, self._bottom - first + 1)):
            row = lines[first]
            if first == 0:
                self._leaves(row)
            elif row.fresh:
                self._before_loss(first)
            del lines[first]
            lines.insert(self._bottom, self._row(background_only(self._style)))

    def _scroll_down(self, count: int, top: int | None = None) -> None:
        lines = self.lines
        first = self._top if top is None else top
        for _ in range(min(count, self._bottom - first + 1)):
            self._before_loss(self._bottom)
            del lines[self._bottom]
            lines.insert(first, self._row(background_only(self._style)))

    def _tab(self, count: int) -> None:
        x = min(self.x, self.columns - 1)
        stops = sorted(stop for stop in self._tabs if stop > x)
        self.x = stops[count - 1] if count <= len(stops) else self.columns - 1

    def _back_tab(self, count: int) -> None:
        x = min(self.x, self.columns - 1)
        stops = sorted((stop for stop in self._tabs if stop < x), reverse=True)
        self.x = stops[count - 1] if count <= len(stops) else 0

    def _escape(self, sequence: str) -> None:
        match sequence:
            case "7":
                self._save()
            case "8":
                self._restore()
            case "D":
                self._index()
            case "E":
                self.x = 0
                self._index()
            case "M":
                self._reverse_index()
            case "H":
                self._tabs.add(min(self.x, self.columns - 1))
            case "(0" | "(A" | "(B":
                self._drawing = (sequence == "(0", self._drawing[1])
            case ")0" | ")A" | ")B":
                self._drawing = (self._drawing[0], sequence == ")0")
            case "#8":
                self._align()
            case _:
                pass

    def _align(self) -> None:
        self._top, self._bottom, self.x, self.y = 0, self.rows - 1, 0, 0
        for y, row in enumerate(self.lines):
            self._before_loss(y)
            row.fill("E")

    def _save(self) -> None:
        self._buffer.saved = (self.x, self.y, self._style, self._origin, self._drawing, bool(self._shifted))

    def _restore(self) -> None:
        saved = self._buffer.saved or (0, 0, PLAIN, False, (False, False), False)
        x, y, self._style, self._origin, self._drawing, shifted = saved
        self._shifted = int(shifted)
        self.x, self.y = min(x, self.columns), min(y, self.rows - 1)

    # control sequences

    def _csi(self, private: str, numbers: str, intermediate: str, final: str) -> None:
        if intermediate:
            if intermediate == "!" and final == "p":
                self._reset_modes()
                self._style, self._buffer.saved, self.visible = PLAIN, None, True
            return
        if final == "m":
            if not private:
                self._style = apply_sgr(self._style, numbers)
            return
        if final in "hl":
            for number in numbers.split(";"):
                self._mode(private, number, on=final == "h")
            return
        if private and final not in "JK":
            return
        given = [int(one) if one else 0 for one in numbers.replace(":", ";").split(";")]
        self._move(final, given[0], given[1] if len(given) > 1 else 0)

    def _move(self, final: str, given: int, second: int) -> None:
        count = given or 1
        x, y = min(self.x, self.columns - 1), self.y
        match final:
            case "A":
                self.x, self.y = x, max(y - count, self._top if y >= self._top else 0)
            case "B" | "e":
                self.x, self.y = x, min(y + count, self._bottom if y <= self._bottom else self.rows - 1)
            case "C" | "a":
                self.x = min(x + count, self.columns - 1)
            case "D":
                self.x = max(x - count, 0)
            case "E":
                self.x, self.y = 0, min(y + count, self._bottom if y <= self._bottom else self.rows - 1)
            case "F":
                self.x, self.y = 0, max(y - count, self._top if y >= self._top else 0)
            case "G" | "`":
                self.x = min(count, self.columns) - 1
            case "d":
                self.x = x
                self._go_to_row(count - 1)
            case "H" | "f":
                self.x = min(second or 1, self.columns) - 1
                self._go_to_row(count - 1)
            case "I":
                self._tab(count)
            case "Z":
                self._back_tab(count)
            case "J":
                self._erase_screen(given)
            case "K":
                self._erase_line(given)
            case "X":
                self._loss(y, x, min(x + count, self.columns))
                self.lines[y].erase(x, min(x + count, self.columns), background_only(self._style))
            case "@":
                self.x = x
                self._before_loss(y)
                self.lines[y].shift(x, count, background_only(self._style))
            case "P":
                self.x = x
                self._loss(y, x, self.columns)
                self.lines[y].shift(x, -count, background_only(self._style))
            case "L":
                if self._top <= y <= self._bottom:
                    self.x = 0
                    self._scroll_down(count, y)
            case "M":
                if self._top <= y <= self._bottom:
                    self.x = 0
                    self._delete_lines(count)
            case "S":
                self._scroll_up(count)
            case "T":
                self._scroll_down(count)
            case "b":
                self._put_again(min(count, self.columns))
            case "g":
                self._tabs = set() if given == 3 else self._tabs - {x}
            case "r":
                self._region(given or 1, min(second or self.rows, self.rows))
            case "s":
                self._save()
            case "u":
                self._restore()
            case _:
                pass

    def _put_again(self, count: int) -> None:
        drawing, self._drawing = self._drawing, (False, False)
        self._put(self._last * count)
        self._drawing = drawing

    def _go_to_row(self, row: int) -> None:
        if self._origin:
            self.y = min(self._top + row, self._bottom)
        else:
            self.y = min(row, self.rows - 1)

    def _region(self, top: int, bottom: int) -> None:
        if top >= bottom:
            return
        self._top, self._bottom = top - 1, bottom - 1
        self.x = 0
        self._go_to_row(0)

    def _delete_lines(self, count: int) -> None:
        """Deleted lines are lost, they do not scroll away."""
        for y in range(self.y, min(self.y + count, self._bottom + 1)):
            self._before_loss(y)
        lines = self.lines
        for _ in range(min(count, self._bottom - self.y + 1)):
            del lines[self.y]
            lines.insert(self._bottom, self._row(background_only(self._style)))

    def _loss(self, y: int, start: int, end: int) -> None:
        row = self.lines[y]
        if row.fresh and start < row.used and "".join(row.cells[start:end]).strip():
            self._before_loss(y)

    def _erase_line(self, how: int) -> None:
        x = min(self.x, self.columns - 1)
        start, end = {0: (x, self.columns), 1: (0, x + 1), 2: (0, self.columns)}.get(how, (0, 0))
        if end:
            self._loss(self.y, start, end)
            self.lines[self.y].erase(start, end, background_only(self._style))

    def _erase_screen(self, how: int) -> None:
        if how == 0:
            self._erase_line(0)
            rows = range(self.y + 1, self.rows)
        elif how == 1:
            self._erase_line(1)
            rows = range(self.y)
        elif how == 2:
            rows = range(self.rows)
        else:
            return  # the scrollback
        style = background_only(self._style)
        for y in rows:
            if self.lines[y].fresh:
                self._before_loss(y)
        for y in rows:
            self.lines[y].erase(0, self.columns, style)
        if how == 2:
            self._buffer.prefix, self._buffer.prefix_fresh = "", False

    def _mode(self, private: str, number: str, *, on: bool) -> None:
        match private + number:
            case "4":
                self._insert = on
            case "?6":
                self._origin = on
                self.x = 0
                self._go_to_row(0)
            case "?7":
                self._wrap = on
            case "?25":
                self.visible = on
            case "?47" | "?1047":
                self._switch(on)
            case "?1048":
                self._save() if on else self._restore()
            case "?1049":
                if on:
                    self._save()
                    self._switch(on)
                else:
                    self._switch(on)
                    self._restore()
            case _:
                pass

    def _switch(self, to_alternate: bool) -> None:
        if to_alternate == (self._buffer is not self._main):
            return
        self.report_all()
        if to_alternate:
            self._alternate = self._fresh_buffer()
            self._buffer = self._alternate
        else:
            self._buffer, self._alternate = self._main, None
        self._top, self._bottom = 0, self.rows - 1

    # making

    def _row(self, style: int = PLAIN) -> Row:
        self._number += 1
        row = Row(self.columns, self._number)
        if style:
            row.erase(0, self.columns, style)
        return row

    def _fresh_buffer(self) -> _Buffer:
        return _Buffer([self._row() for _ in range(self.rows)])

    def _reset_modes(self) -> None:
        self._top, self._bottom = 0, self.rows - 1
        self._origin = self._insert = False
        self._wrap = True
        self._drawing = (False, False)
        self._shifted = 0

    def _default_tabs(self) -> None:
        self._tabs = set(range(8, self.columns, 8))


def _copied(buffer: _Buffer) -> _Buffer:
    twin = _Buffer([row.copy() for row in buffer.lines])
    twin.saved = buffer.saved
    return twin


def _fitting(columns: int, rows: int) -> tuple[int, int]:
    return max(1, min(columns or 80, MAX_COLUMNS)), max(1, min(rows or 24, MAX_ROWS))
