"""A screen drawn on a viewer's terminal: text and colours of the model, in sequences of our own and no others.

Nothing of what the session printed reaches the terminal but the characters in the cells (threat T44). It does not
matter how large the viewer's terminal is: what does not fit is cut off, and the part with the cursor is shown.
"""

from __future__ import annotations

from itertools import groupby

from teleport.recording.screen.model import Screen
from teleport.recording.screen.row import (
    BOLD,
    DIM,
    HIDDEN,
    INVERSE,
    ITALIC,
    RGB,
    STRUCK,
    UNDERLINE,
    Row,
    colours,
    flags,
    width,
)

_CODES = ((BOLD, "1"), (DIM, "2"), (ITALIC, "3"), (UNDERLINE, "4"), (INVERSE, "7"), (HIDDEN, "8"), (STRUCK, "9"))


class Painter:
    """Draws one screen after another on a terminal of `columns` and `rows`, each time only what differs."""

    def __init__(self, columns: int, rows: int) -> None:
        self._columns, self._rows = max(1, columns), max(1, rows)
        self._shown: list[str | None] = [None] * self._rows
        self._top = 0

    def draw(self, screen: Screen, status: str = "") -> bytes:
        """The bytes that bring the terminal from what it shows to `screen`. `status` covers the last line; it holds no
        control characters."""
        self._top = min(max(self._top, screen.y - self._rows + 1), screen.y)
        if screen.rows <= self._rows:
            self._top = 0
        out = ["\x1b[?25l"]
        for line in range(self._rows):
            wanted = self._line(screen, line, status)
            if wanted != self._shown[line]:
                self._shown[line] = wanted
                out.append(f"\x1b[{line + 1};1H\x1b[0m\x1b[2K{wanted}")
        x = min(screen.x, screen.columns - 1, self._columns - 1)
        out.append(f"\x1b[0m\x1b[{screen.y - self._top + 1};{x + 1}H")
        if screen.visible and not status:
            out.append("\x1b[?25h")
        return "".join(out).encode()

    def _line(self, screen: Screen, line: int, status: str) -> str:
        if status and line == self._rows - 1:
            return f"\x1b[7m{_cut(status, self._columns - 1)}\x1b[0m"
        number = line + self._top
        if number >= screen.rows:
            return ""
        return "".join(f"\x1b[{_sgr(style)}m{text}" for text, style in runs(screen.lines[number], self._columns))


def runs(row: Row, columns: int | None = None) -> list[tuple[str, int]]:
    """The text of a row in pieces of one style, without plain blanks at the end; no wider than `columns`."""
    cells, styles = row.cells, row.styles
    if columns is not None and columns < len(cells):
        half = cells[columns] == ""  # the first half of a wide character is the last that would fit
        cells = [*cells[: columns - 1], " "] if half else cells[:columns]
        styles = styles and styles[:columns]
    if styles is None:
        text = "".join(cells[: row.used]).rstrip()
        return [(text, 0)] if text else []
    found = [
        ("".join(cell for cell, _ in pairs), style)
        for style, pairs in groupby(zip(cells, styles, strict=True), key=lambda pair: pair[1])
    ]
    while found and found[-1][1] == 0:
        if text := found[-1][0].rstrip():
            found[-1] = (text, 0)
            break
        found.pop()
    return found


def _cut(text: str, columns: int) -> str:
    taken = 0
    for at, char in enumerate(text):
        taken += 1 if char.isascii() else width(char)
        if taken > columns:
            return text[:at]
    return text


def _sgr(style: int) -> str:
    codes = ["0", *(code for flag, code in _CODES if flags(style) & flag)]
    foreground, background = colours(style)
    codes += _colour(foreground, 38) + _colour(background, 48)
    return ";".join(codes)


def _colour(colour: int, which: int) -> list[str]:
    if not colour:
        return []
    if colour & RGB:
        return [f"{which};2;{colour >> 16 & 255};{colour >> 8 & 255};{colour & 255}"]
    index = colour - 1
    if index < 8:
        return [str(which - 8 + index)]
    return [f"{which};5;{index}"]
