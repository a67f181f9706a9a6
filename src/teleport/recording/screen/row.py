"""One line of a screen, and how a cell's look is kept in a number.

A style is one number: 8 flags, then foreground and background of 26 bits each. A colour is 0 for the terminal's own,
1 to 256 for the palette's, or `RGB` plus 24 bits. So a session that uses a million colours costs no table.
"""

from __future__ import annotations

from typing import Final

BOLD: Final = 1
DIM: Final = 2
ITALIC: Final = 4
UNDERLINE: Final = 8
INVERSE: Final = 16
STRUCK: Final = 32
HIDDEN: Final = 64
_FOREGROUND: Final = 8
_BACKGROUND: Final = 34
_COLOUR: Final = (1 << 26) - 1
RGB: Final = 1 << 24
PLAIN: Final = 0


def flags(style: int) -> int:
    """The flags of a style: BOLD, DIM, ..."""
    return style & 0xFF


def colours(style: int) -> tuple[int, int]:
    """Foreground and background of a style."""
    return style >> _FOREGROUND & _COLOUR, style >> _BACKGROUND & _COLOUR


def with_foreground(style: int, colour: int) -> int:
    return style & ~(_COLOUR << _FOREGROUND) | colour << _FOREGROUND


def with_background(style: int, colour: int) -> int:
    return style & ~(_COLOUR << _BACKGROUND) | colour << _BACKGROUND


def background_only(style: int) -> int:
    """What an erased cell keeps of the style in force."""
    return style & (_COLOUR << _BACKGROUND)


_cells: dict[tuple[str, int], list[str]] = {}
_styles: dict[tuple[int, int], list[int]] = {}
_KEPT: Final = 64  # lists of one content


def _cells_of(char: str, size: int) -> list[str]:
    """As many cells, the same list for every row that shows nothing else."""
    found = _cells.get((char, size))
    if found is None:
        if len(_cells) >= _KEPT:
            _cells.clear()
        found = _cells[char, size] = [char] * size
    return found


def _styles_of(style: int, size: int) -> list[int]:
    found = _styles.get((style, size))
    if found is None:
        if len(_styles) >= _KEPT:
            _styles.clear()
        found = _styles[style, size] = [style] * size
    return found


class Row:
    """The cells of one line. The second half of a wide character is an empty text.

    Rows with the same content may share its lists, so filling a screen costs little whatever its width: who changes
    `cells` or `styles` in place calls `own` first.
    """

    __slots__ = ("cells", "changed", "fresh", "number", "shared", "styles", "time", "used", "wide", "wrapped")

    def __init__(self, columns: int, number: int) -> None:
        self.cells: list[str] = _cells_of(" ", columns)
        self.styles: list[int] | None = None  # None: plain everywhere
        self.shared = True  # its lists may be those of other rows as well
        self.used = 0  # nothing was written from this column on
        self.wrapped = False  # the text goes on in the next row
        self.wide = False  # holds characters of two columns
        self.fresh = False  # holds text that was not reported yet
        self.changed = False  # since whoever draws looked at it
        self.time = 0  # when text was written last
        self.number = number  # no two rows of a screen's life have the same

    def copy(self) -> Row:
        twin = Row(0, self.number)
        twin.cells, twin.styles = self.cells, self.styles
        self.shared = True
        for name in ("used", "wrapped", "wide", "fresh", "changed", "time"):
            setattr(twin, name, getattr(self, name))
        return twin

    def own(self) -> None:
        """Its lists are its own from here on."""
        if self.shared:
            self.cells = self.cells.copy()
            self.styles = None if self.styles is None else self.styles.copy()
            self.shared = False

    def fill(self, char: str) -> None:
        """The same plain character in every cell."""
        size = len(self.cells)
        self.cells, self.styles, self.shared = _cells_of(char, size), None, True
        self.used, self.wide, self.wrapped, self.fresh, self.changed = size, False, False, False, True

    def text(self) -> str:
        """What can be read, without the blanks at the end."""
        return "".join(self.cells[: self.used]).rstrip()

    def full_text(self) -> str:
        """All of it: of a row that goes on in the next one."""
        return "".join(self.cells)

    def paint(self, start: int, end: int, style: int) -> None:
        """Gives the cells from `start` to before `end` a style."""
        if style == PLAIN and self.styles is None:
            return
        self.own()
        if self.styles is None:
            self.styles = [PLAIN] * len(self.cells)
        self.styles[start:end] = [style] * (end - start)

    def erase(self, start: int, end: int, style: int) -> None:
        """Blanks the cells from `start` to before `end`."""
        size = len(self.cells)
        if start <= 0 and end >= size:
            if self.used or self.styles is not None or style:
                self.cells = _cells_of(" ", size)
                self.styles = _styles_of(style, size) if style else None
                self.shared = self.changed = True
            self.used, self.wide, self.wrapped, self.fresh = 0, False, False, False
            return
        if start < self.used or style or self.styles is not None:
            self.own()
            self.cells[start:end] = [" "] * (end - start)
            self.paint(start, end, style)
            self.changed = True
            self.mend(start, end)
        if end >= self.used:
            self.used = min(self.used, start)
        if end >= size:
            self.wrapped = False

    def mend(self, start: int, end: int) -> None:
        """Blanks what is left of wide characters that were cut at either edge of what was written."""
        if not self.wide:
            return
        self.own()
        cells = self.cells
        if 0 < start <= len(cells) and cells[start - 1 : start] != [""] and start < len(cells):
            first = cells[start - 1]
            if first and _is_wide(first[0]) and cells[start] != "":
                cells[start - 1] = " "
        if end < len(cells) and cells[end] == "" and (end == 0 or not (cells[end - 1] and _is_wide(cells[end - 1][0]))):
            cells[end] = " "

    def shift(self, at: int, count: int, style: int) -> None:
        """Moves the cells from `at` on by `count` columns: to the right (blanks come in), or to the left."""
        size = len(self.cells)
        self.own()
        if count > 0:
            count = min(count, size - at)
            self.cells[at:] = [" "] * count + self.cells[at : size - count]
            if self.styles is not None:
                self.styles[at:] = [style] * count + self.styles[at : size - count]
            self.used = min(size, self.used + count) if self.used > at else self.used
        else:
            count = min(-count, size - at)
            self.cells[at:] = self.cells[at + count :] + [" "] * count
            if self.styles is not None:
                self.styles[at:] = self.styles[at + count :] + [style] * count
            self.used = max(min(self.used, at), self.used - count)
        if self.wide:
            for edge in {at, min(at + abs(count), size), size}:
                self.mend(edge, edge)
            if self.cells and self.cells[-1] and _is_wide(self.cells[-1][0]):
                self.cells[-1] = " "
        self.changed = True

    def resize(self, columns: int) -> None:
        size = len(self.cells)
        self.own()
        if columns < size:
            del self.cells[columns:]
            if self.styles is not None:
                del self.styles[columns:]
            self.used = min(self.used, columns)
            if self.cells and self.cells[-1] and _is_wide(self.cells[-1][0]):
                self.cells[-1] = " "
        else:
            self.cells += [" "] * (columns - size)
            if self.styles is not None:
                self.styles += [PLAIN] * (columns - size)
        self.wrapped = False
        self.changed = True


_widths: dict[str, int] = {}


def width(char: str) -> int:
    """Columns of a character that is not ASCII: 0, 1 or 2."""
    found = _widths.get(char)
    if found is None:
        import unicodedata

        if unicodedata.category(char) in ("Mn", "Me", "Cf"):
            found = 0
        else:
            found = 2 if unicodedata.east_asian_width(char) in "WF" else 1
        if len(_widths) > 20_000:  # whatever a session prints
            _widths.clear()
        _widths[char] = found
    return found


def _is_wide(char: str) -> bool:
    return not char.isascii() and width(char) == 2
