"""Select graphic rendition: what `ESC [ ... m` does to a style (ECMA-48 8.3.117, colours of ISO 8613-6)."""

from __future__ import annotations

from functools import lru_cache

from teleport.recording.screen.row import (
    BOLD,
    DIM,
    HIDDEN,
    INVERSE,
    ITALIC,
    PLAIN,
    RGB,
    STRUCK,
    UNDERLINE,
    with_background,
    with_foreground,
)

_SET = {1: BOLD, 2: DIM, 3: ITALIC, 4: UNDERLINE, 7: INVERSE, 8: HIDDEN, 9: STRUCK, 21: UNDERLINE}
_CLEAR = {
    22: BOLD | DIM, 23: ITALIC, 24: UNDERLINE, 27: INVERSE, 28: HIDDEN, 29: STRUCK,
}  # fmt: skip


@lru_cache(4096)
def apply_sgr(style: int, text: str) -> int:
    """The style after the parameters `text`; unknown ones change nothing."""
    if not text or text == "0":
        return PLAIN
    parts = text.split(";")
    position = 0
    while position < len(parts):
        part = parts[position]
        position += 1
        if ":" in part:
            style = _with_colons(style, part)
            continue
        number = int(part or "0")
        if number in (38, 48):
            colour, taken = _colour(
                [int(one or "0") if ":" not in one else -1 for one in parts[position : position + 4]]
            )
            position += taken
            if colour is not None:
                style = with_foreground(style, colour) if number == 38 else with_background(style, colour)
        else:
            style = _simple(style, number)
    return style


def _simple(style: int, number: int) -> int:
    if number == 0:
        return PLAIN
    if number in _SET:
        return style | _SET[number]
    if number in _CLEAR:
        return style & ~_CLEAR[number]
    if 30 <= number <= 37 or 90 <= number <= 97:
        return with_foreground(style, number - 29 if number < 90 else number - 81)
    if 40 <= number <= 47 or 100 <= number <= 107:
        return with_background(style, number - 39 if number < 100 else number - 91)
    if number == 39:
        return with_foreground(style, 0)
    if number == 49:
        return with_background(style, 0)
    return style


def _with_colons(style: int, part: str) -> int:
    numbers = [int(one or "0") for one in part.split(":")]
    if numbers[0] == 4:
        return style | UNDERLINE if numbers[1] else style & ~UNDERLINE
    if numbers[0] not in (38, 48):
        return style
    rest = numbers[1:]
    if rest[:1] == [2] and len(rest) >= 5:
        del rest[1]  # the colour space's id
    colour, _ = _colour(rest[:4])
    if colour is None:
        return style
    return with_foreground(style, colour) if numbers[0] == 38 else with_background(style, colour)


def _colour(numbers: list[int]) -> tuple[int | None, int]:
    """A colour of the palette (`5;N`) or a direct one (`2;R;G;B`), and how many numbers it took."""
    match numbers:
        case [5, index, *_]:
            return (index + 1 if 0 <= index <= 255 else None), 2
        case [2, red, green, blue]:
            fits = all(0 <= one <= 255 for one in (red, green, blue))
            return (RGB | red << 16 | green << 8 | blue if fits else None), 4
        case _:
            return None, len(numbers)
