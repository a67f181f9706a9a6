"""T44: what a recording holds never drives the viewer's terminal."""

from __future__ import annotations

import pyte
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teleport.recording.sanitise import (
    RESET_TERMINAL,
    TerminalSanitiser,
    TextSanitiser,
    one_line,
    sanitise_for_terminal,
    sanitise_to_text,
)

HOSTILE: dict[str, str] = {
    "OSC 52 sets the clipboard": "\x1b]52;c;cm0gLXJmIC8K\x07",
    "OSC 52 asks for the clipboard": "\x1b]52;c;?\x1b\\",
    "OSC 8 hides a link": "\x1b]8;;http://evil.example\x1b\\",
    "OSC 0 sets the title": "\x1b]0;title\x07",
    "OSC 4 asks for a colour": "\x1b]4;1;?\x07",
    "OSC 50 asks for the font": "\x1b]50;?\x07",
    "OSC 1337 writes a file": "\x1b]1337;File=name=eA==:eA==\x07",
    "OSC ended by the 8-bit ST": "\x1b]52;c;eA==\u009c",
    "8-bit OSC": "\u009d52;c;eA==\x07",
    "CSI 21 t reports the title": "\x1b[21t",
    "8-bit CSI reports the title": "\u009b21t",
    "CSI 8 t resizes the window": "\x1b[8;10;10t",
    "title stack": "\x1b[22;0t",
    "title mode": "\x1b[>2T",
    "DA": "\x1b[c",
    "secondary DA": "\x1b[>c",
    "tertiary DA": "\x1b[=c",
    "DECID": "\x1bZ",
    "8-bit DECID": "\u009a",
    "DSR cursor position": "\x1b[6n",
    "DSR status": "\x1b[5n",
    "DECXCPR": "\x1b[?6n",
    "DECRQSS": "\x1bP$qm\x1b\\",
    "8-bit DECRQSS": "\u0090$qm\u009c",
    "XTGETTCAP": "\x1bP+q544e\x1b\\",
    "DECRQM": "\x1b[?25$p",
    "DECREQTPARM": "\x1b[x",
    "XTVERSION": "\x1b[>q",
    "ENQ answerback": "\x05",
    "media copy prints": "\x1b[5i",
    "DECUDK programs keys": "\x1bP0;1|17/0d\x1b\\",
    "mouse reports": "\x1b[?1000h",
    "mouse tracking": "\x1b[1;2;3;4;5T",
    "focus reports": "\x1b[?1004h",
    "bracketed paste": "\x1b[?2004h",
    "application keys": "\x1b[?1h",
    "mixed with an allowed mode": "\x1b[?25;1004h",
    "key protocol": "\x1b[>1u",
    "modifyOtherKeys": "\x1b[>4;2m",
    "checksum of the screen": "\x1b[1;1;1;1;1;1*y",
    "screen's title": "\x1bktitle\x1b\\",
    "PM": "\x1b^secret\x1b\\",
    "APC": "\x1b_Gi=1,a=q;AAAA\x1b\\",
    "SOS": "\x1bXtext\x1b\\",
    "leaves UTF-8": "\x1b%@",
    "7 or 8 bit controls": "\x1b F",
    "single shift": "\x1bN",
    "a number too large": "\x1b[99999999999A",
    "a count that takes for ever": "\x1b[65536b",
    "too many numbers": "\x1b[" + ";".join(["1"] * 40) + "m",
    "a sequence too long": "\x1b[" + "1" * 5000 + "m",
    "XOFF": "\x13",
    "DEL": "\x7f",
    "right-to-left override": "\u202e",
    "isolate": "\u2066",
    "Arabic letter mark": "\u061c",
    "zero-width space": "\u200b",
    "zero-width joiner": "\u200d",
    "word joiner": "\u2060",
    "byte order mark": "\ufeff",
    "tag characters": "\U000e0041\U000e007f",
    "line separator": "\u2028",
    "soft hyphen": "\u00ad",
    "an 8-bit control without a use": "\u0086",
}

KEPT = [
    "plain",
    "Grüße, 日本, 🎉, e\u0301",
    "\x1b[31;1mred\x1b[0m",
    "\x1b[38;5;196m\x1b[48;2;1;2;3mx\x1b[m",
    "\x1b[4:3mcurly\x1b[0m",
    "\x1b[2J\x1b[H\x1b[3;4Hx\x1b[5A\x1b[2B\x1b[3C\x1b[4D\x1b[K\x1b[1J",
    "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[1;20r\x1b[?1049l",
    "\x1b7\x1b8\x1bD\x1bM\x1bE",
    "\x1b(0lqk\x1b(B",
    "a\bb\tc\r\nd\x07",
    "\x1b[2 q",
    "\x1b[!p",
    "\x1b[3@\x1b[2P\x1b[4L\x1b[1M\x1b[2X\x1b[10b",
]


@pytest.mark.parametrize("attack", HOSTILE.values(), ids=HOSTILE.keys())
def test_nothing_of_an_attack_reaches_the_terminal(attack: str) -> None:
    shown = sanitise_for_terminal(f"before{attack}after".encode()).decode()
    assert shown == "beforeafter"


@pytest.mark.parametrize("attack", HOSTILE.values(), ids=HOSTILE.keys())
def test_an_attack_in_any_pieces_is_still_seen(attack: str) -> None:
    data = f"before{attack}after".encode()
    cleaner = TerminalSanitiser()
    shown = b"".join(cleaner.feed(data[number : number + 1]) for number in range(len(data))) + cleaner.finish()
    assert shown == b"beforeafter"


@pytest.mark.parametrize("attack", HOSTILE.values(), ids=HOSTILE.keys())
def test_text_has_no_control_characters_at_all(attack: str) -> None:
    """Characters that only deceive are shown, so that nobody hides anything with them."""
    shown = sanitise_to_text(f"before{attack}after\n".encode())
    assert shown.startswith("before")
    assert shown.endswith("after\n")
    assert all(char == "\n" or char.isprintable() for char in shown)
    middle = shown.removeprefix("before").removesuffix("after\n")
    assert middle == "".join(f"<U+{ord(char):04X}>" for char in attack if ord(char) > 0xA0)


@pytest.mark.parametrize("text", KEPT)
def test_colours_movement_and_every_script_pass_unchanged(text: str) -> None:
    assert sanitise_for_terminal(text.encode()).decode() == text


def test_raw_c1_bytes_cannot_start_a_sequence() -> None:
    """0x9b is CSI to a terminal that does not speak UTF-8; in a recording it is not UTF-8 and becomes U+FFFD."""
    assert sanitise_for_terminal(b"a\x9b21tb\x9d52;c;x\x07") == "a\ufffd21tb\ufffd52;c;x\x07".encode()


def test_8_bit_colour_is_kept_in_its_7_bit_form() -> None:
    assert sanitise_for_terminal("\u009b31mx".encode()) == b"\x1b[31mx"


def test_an_aborted_sequence_does_not_swallow_the_next() -> None:
    assert sanitise_for_terminal(b"\x1b]0;a\x1b[31mred") == b"\x1b[31mred"
    assert sanitise_for_terminal(b"\x1b[12\x18text") == b"text"
    assert sanitise_for_terminal(b"\x1b[3\x1b[32mgreen") == b"\x1b[32mgreen"


def test_controls_inside_a_sequence_act_as_in_a_terminal() -> None:
    assert sanitise_for_terminal(b"\x1b[3\n1mx") == b"\n\x1b[31mx"


def test_a_string_without_an_end_cannot_hide_all_that_follows() -> None:
    shown = sanitise_for_terminal(b"\x1b]0;" + b"x" * (1024 * 1024 + 10) + b"the rest")
    assert shown.endswith(b"the rest")
    assert len(shown) < 100


def test_a_full_reset_becomes_a_soft_one() -> None:
    assert sanitise_for_terminal(b"\x1bcx") == b"\x1b[!p\x1b[0m\x1b[H\x1b[2Jx"


def test_the_reset_after_playing_passes_its_own_filter() -> None:
    assert sanitise_for_terminal(RESET_TERMINAL) == RESET_TERMINAL


def test_text_keeps_overwritten_lines_and_tabs() -> None:
    assert sanitise_to_text(b"10%\r20%\r\ndone\tok\n") == "10%\n20%\ndone\tok\n"
    assert sanitise_to_text(b"caf\xc3") == "caf\ufffd"


def test_one_line_is_one_line() -> None:
    """T45: names and commands in lists."""
    assert one_line("a\nb\r\x1b[31m\u202ec\x00\udcff") == "a\\nb\\r<U+001B>[31m<U+202E>c<U+0000>\\udcff"
    assert one_line("x" * 500, 10) == "x" * 9 + "\u2026"


class Terminal(pyte.Screen):
    """A terminal emulator that notes when it is driven beyond its screen."""

    def __init__(self) -> None:
        super().__init__(80, 24)
        self.answers: list[str] = []
        self.titles: list[str] = []

    def write_process_input(self, data: str) -> None:
        self.answers.append(data)

    def set_title(self, param: str) -> None:
        self.titles.append(param)

    def set_icon_name(self, param: str) -> None:
        self.titles.append(param)


def test_the_emulator_of_this_test_is_driven_by_raw_bytes() -> None:
    """So that the next test can fail."""
    terminal = Terminal()
    pyte.Stream(terminal).feed("\x1b[c\x1b[6n\x1b]0;title\x07")
    assert len(terminal.answers) == 2
    assert terminal.titles == ["title", "title"]  # the window's and the icon's


def test_a_terminal_emulator_is_never_driven() -> None:
    terminal = Terminal()
    stream = pyte.ByteStream(terminal)
    for attack in HOSTILE.values():
        stream.feed(sanitise_for_terminal(f"{attack}x\r\n".encode()))
    assert terminal.answers == []
    assert terminal.titles == []


def test_the_screen_looks_the_same_for_what_is_kept() -> None:
    raw, clean = Terminal(), Terminal()
    for text in KEPT:
        pyte.ByteStream(raw).feed(text.encode())
        pyte.ByteStream(clean).feed(sanitise_for_terminal(text.encode()))
    assert raw.display == clean.display
    assert (raw.cursor.x, raw.cursor.y) == (clean.cursor.x, clean.cursor.y)


noise = st.lists(
    st.one_of(
        st.binary(max_size=6),
        st.sampled_from([attack.encode() for attack in HOSTILE.values()] + [text.encode() for text in KEPT]),
        st.text(alphabet="\x1b[]P;?0123456789cntRhqm\x07\x18\\\u009b\u009dk", max_size=12).map(str.encode),
    ),
    max_size=12,
).map(b"".join)


@settings(max_examples=200, deadline=None)
@given(data=noise, cut=st.integers(1, 7))
def test_any_bytes_in_any_pieces_give_the_same_harmless_result(data: bytes, cut: int) -> None:
    """Cleaning is independent of the pieces, final (cleaning twice changes nothing) and leaves no way to answer."""
    for kind in (TerminalSanitiser, TextSanitiser):
        whole = kind()
        expected = whole.feed(data) + whole.finish()
        pieces = kind()
        shown = b"".join(pieces.feed(data[at : at + cut]) for at in range(0, len(data), cut)) + pieces.finish()
        assert shown == expected
    clean = sanitise_for_terminal(data)
    assert sanitise_for_terminal(clean) == clean
    terminal = Terminal()
    pyte.ByteStream(terminal).feed(clean)
    assert terminal.answers == []
    assert terminal.titles == []
