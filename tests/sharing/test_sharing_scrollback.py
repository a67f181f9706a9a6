"""The last output of a terminal, whatever pieces it came in."""

from __future__ import annotations

import random

import pytest

from teleport.recording.sanitise import sanitise_for_terminal
from teleport.sharing.scrollback import LIMIT, Scrollback, TerminalState

PIECES = [
    b"plain text\r\n",
    "Umlaute äöü, 漢字".encode(),
    b"\x1b[?1049h",
    b"\x1b[?1049l",
    b"\x1b[?25l",
    b"\x1b[?25h",
    b"\x1b[?1000;1006h",
    b"\x1b[?2004h",
    b"\x1b[?7l",
    b"\x1b[4h",
    b"\x1b[4l",
    b"\x1b[1;31m",
    b"\x1b[38;2;1;2;3m",
    b"\x1b[0m",
    b"\x1b[m",
    b"\x1b[2;20r",
    b"\x1b[4 q",
    b"\x1b(0",
    b"\x1b)B",
    b"\x0e",
    b"\x0f",
    b"\x1b=",
    b"\x1b>",
    b"\x1bc",
    b"\x1b[!p",
    b"\x1b]52;c;" + b"QUJD" * 30 + b"\x07",
    b"\x1b]0;a title with [?25l in it\x1b\\",
    b"\x1bP+q544e\x1b\\",
    b"\x1b]never ended \x1b[?6h",
    b"\x1b]52;c\x0eQUJD\x1b\\",
    b"\x1bP\x0e aborted \x0f\x1b[?7h",
    b"\x1b[" + b"1;" * 80 + b"m",
    b"\x1b[6n",
    b"\xff\xfe\x9b?25l",
]


def chunks(data: bytes, chance: random.Random) -> list[bytes]:
    found = []
    while data:
        size = chance.choice((1, 2, 3, 7, 50, 1000))
        found.append(data[:size])
        data = data[size:]
    return found


def kept(state: TerminalState) -> tuple[object, ...]:
    return tuple(vars(state).values())


@pytest.mark.parametrize("seed", range(40))
def test_the_state_is_that_of_the_bytes_whatever_their_pieces(seed: int) -> None:
    """Cut anywhere, also within a sequence, the state comes out the same."""
    chance = random.Random(seed)
    data = b"".join(chance.choice(PIECES) for _ in range(60))
    whole = TerminalState.initial()
    whole.feed(data)
    cut = TerminalState.initial()
    for piece in chunks(data, chance):
        cut.feed(piece)
    assert kept(cut) == kept(whole)
    again = TerminalState.initial()
    again.feed(whole.restore())
    assert again.modes == {mode: on for mode, on in whole.modes.items() if on != (mode in (7, 25))}
    assert (again.insert, again.keypad, again.charsets, again.shifted) == (
        whole.insert,
        whole.keypad,
        whole.charsets,
        whole.shifted,
    )
    assert again.colours == whole.colours


def test_everything_is_replayed_while_it_is_little() -> None:
    scrollback = Scrollback()
    scrollback.feed(b"one\r\n")
    scrollback.feed(b"two\r\n")
    assert scrollback.replay().output == b"one\r\ntwo\r\n"


def test_the_last_mebibyte_is_kept_and_begins_with_the_state() -> None:
    """What was set long ago and still holds comes first; what was ended does not."""
    scrollback = Scrollback()
    scrollback.feed(b"\x1b[?1049h\x1b[?1h\x1b[?25l\x1b[1;32m\x1b[3;9r" + b"gone" * 1000)
    body = (
        random.Random(1).randbytes(3 * LIMIT // 2).replace(b"\x1b", b".").replace(b"\x0e", b".").replace(b"\x0f", b".")
    )
    for piece in chunks(body, random.Random(2)):
        scrollback.feed(piece)
    output = scrollback.replay().output
    assert output.startswith(b"\x1b[?1049h\x1b[?1h\x1b[?25l")
    assert b"\x1b[1;32m" in output[:100]
    assert output.endswith(body[-LIMIT:])
    assert len(output) < LIMIT + 200_000


def test_a_window_never_begins_within_a_sequence() -> None:
    """The string that set the clipboard, cut in two by the window's edge, shows nothing of itself."""
    scrollback = Scrollback(limit=1000, block=100)
    for _ in range(50):
        scrollback.feed(b"\x1b]52;c;" + b"SECRET" * 40 + b"\x07shown ")
    output = scrollback.replay().output
    assert b"SECRET" in output
    cleaned = sanitise_for_terminal(output)
    assert b"SECRET" not in cleaned
    assert set(cleaned.split()) == {b"shown"}


def test_modes_that_a_filter_drops_are_put_back_at_the_end() -> None:
    """Mouse and paste reporting of one's own terminal; the alternate screen is not entered twice."""
    scrollback = Scrollback()
    scrollback.feed(b"\x1b[?1049h\x1b[?1002h\x1b[?2004h\x1b[?1002lhello")
    replay = scrollback.replay()
    assert replay.after == b"\x1b[?2004h"
    assert replay.output.count(b"\x1b[?1049h") == 1
