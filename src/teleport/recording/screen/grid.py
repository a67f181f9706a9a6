"""The cells of a screen: text put at a cursor, scrolled, erased, and handed out before it is lost. Knows no sequences.

With `report`, every line of text is handed out before it is lost: when it leaves at the top, is erased or written
over, when the screen is changed, and at the end (`report_all`). Lines that the screen wrapped are whole again. Text
that was written over bit by bit counts against a budget, so a session cannot make its reports much larger than itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, Self

from teleport.recording.screen.row import PLAIN, Row, background_only, width

MAX_COLUMNS: Final = 1000
MAX_ROWS: Final = 500
_MAX_LINE: Final = 8192  # characters of a wrapped line that are kept together
_OVERLAP: Final = 512  # characters that its parts have in common
_MAX_COMBINED: Final = 8  # characters in one cell
_BUDGET: Final = 4  # characters of reports of what was written over, for each one that was fed
_START: Final = 64 * 1024

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


class Grid:
    """Cells in `columns` and `rows`, both brought into their limits. `newline`: a line feed returns the carriage as
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

    def copy(self) -> Self:
        """One that goes on from here by itself; it reports nothing."""
        twin = type(self)(1, 1, newline=self._newline)
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

    def _earn(self, fed: int) -> None:
        """So many characters came: they pay for reports of what is written over."""
        self._budget = min(self._budget + fed * _BUDGET, 1 << 24)

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

    # moving and scrolling

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
