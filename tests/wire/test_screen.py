"""What a session left behind is taken back, and nothing else; shown by a terminal emulator of another author (pyte)."""

from __future__ import annotations

import pyte
import pytest
from hypothesis import given
from hypothesis import strategies as st

from teleport.wire.screen import Screen

LEFT = {
    "alternate screen and cursor, as editors": (b"\x1b[?1049h\x1b[?25l", b"\x1b[?1049l\x1b[?25h"),
    "mouse, focus, pasting in brackets": (
        b"\x1b[?1002h\x1b[?1006h\x1b[?1004h\x1b[?2004h",
        b"\x1b[?1002l\x1b[?1004l\x1b[?1006l\x1b[?2004l",
    ),
    "several in one": (b"\x1b[?1;2004h", b"\x1b[?1l\x1b[?2004l"),
    "keypad": (b"\x1b=", b"\x1b>"),
    "a region that scrolls": (b"\x1b[5;20r", b"\x1b7\x1b[r\x1b8"),
    "colour": (b"\x1b[1;31mred", b"\x1b[0m"),
    "line drawing": (b"\x1b(0\x0e", b"\x1b(B\x0f"),
    "keyboard protocol": (b"\x1b[>1u", b"\x1b[<1u"),
    "no wrapping": (b"\x1b[?7l", b"\x1b[?7h"),
    "held output": (b"\x1b[?2026h", b"\x1b[?2026l"),
}
CLEAN = {
    "nothing": b"plain text\r\n",
    "set and unset": b"\x1b[?1049h\x1b[?25l...\x1b[?25h\x1b[?1049l",
    "colour and back": b"\x1b[31mred\x1b[0m \x1b[1mbold\x1b[m",
    "a full reset": b"\x1b[?1049h\x1b[?25l\x1b[31m\x1bc",
    "what is not ours": b"\x1b[?12h\x1b[2J\x1b[H\x1b]0;title\x07",
}


@pytest.mark.parametrize("name", LEFT)
def test_what_was_left_is_taken_back(name: str) -> None:
    left, back = LEFT[name]
    screen = Screen()
    screen.feed(left)
    assert screen.restore() == back
    in_pieces = Screen()
    for byte in left:
        in_pieces.feed(bytes([byte]))
    assert in_pieces.restore() == back


@pytest.mark.parametrize("name", CLEAN)
def test_a_clean_terminal_gets_nothing(name: str) -> None:
    screen = Screen()
    screen.feed(CLEAN[name])
    assert screen.restore() == b""


PARTS = st.sampled_from([*(left for left, _ in LEFT.values()), *CLEAN.values(), b"\x1b", b"[", b"?25l", b"x"])


@given(st.lists(PARTS, max_size=20))
def test_restoring_restores(parts: list[bytes]) -> None:
    """After it, a second look finds nothing left, and pyte's terminal shows its cursor and has its modes."""
    screen, shown = Screen(), pyte.Screen(80, 24)
    stream = pyte.ByteStream(shown)
    for part in parts:
        screen.feed(part)
    back = screen.restore()
    after = Screen()
    after.feed(b"".join(parts) + b"\x18" + back)
    assert after.restore() == b""
    stream.feed(b"".join(parts).replace(b"\x1b[>1u", b"") + b"\x18" + back.replace(b"\x1b[<1u", b""))
    assert not shown.cursor.hidden
    assert pyte.modes.DECAWM in shown.mode
    assert shown.margins is None or shown.margins == (0, 23)
    assert (shown.cursor.attrs.fg, shown.cursor.attrs.bold) == ("default", False)


@given(st.binary(max_size=200), st.integers(0, 200))
def test_any_bytes_in_any_pieces(data: bytes, at: int) -> None:
    whole, cut = Screen(), Screen()
    whole.feed(data)
    cut.feed(data[:at])
    cut.feed(data[at:])
    assert whole.restore() == cut.restore()
