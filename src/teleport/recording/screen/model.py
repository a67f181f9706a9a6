"""A terminal's screen: sanitised text in, cells out.

What it knows is what `recording.sanitise` lets pass: printing with wrap and insertion, wide and combining characters,
cursor movement, erasing, inserting and deleting lines and characters, scrolling and its region, tab stops, colours,
line drawing, origin mode, saved cursors and the alternate screen. Nothing is answered, nothing has an effect outside.
What each does to the cells, and what is reported before it is lost, is in `grid`.
"""

from __future__ import annotations

import re

from teleport.recording.screen.grid import MAX_COLUMNS, MAX_ROWS, Grid
from teleport.recording.screen.row import PLAIN, background_only
from teleport.recording.screen.sgr import apply_sgr

_TOKEN = re.compile(
    "([^\x00-\x1f\x7f]+)"  # 1 text
    "|\x1b\\[(\\??)([0-9;:]*)([ !]?)([@-~])"  # 2 private, 3 numbers, 4 intermediate, 5 final
    "|\x1b([()#]?[ -~])"  # 6
    "|(\r\n|[\x00-\x1f\x7f])"  # 7
)


class Screen(Grid):
    """A grid that does what the text and the sequences in it say."""

    def feed(self, text: str) -> None:
        """Takes sanitised text; sequences have to be whole. Unknown ones change nothing."""
        self._earn(len(text))
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


__all__ = ["MAX_COLUMNS", "MAX_ROWS", "Screen"]
