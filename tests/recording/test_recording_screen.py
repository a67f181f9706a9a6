"""The screen model shows what a terminal shows, and no text leaves it without having been reported."""

from __future__ import annotations

import re
import tracemalloc

import pyte
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.recording.recording_samples import header

from teleport.recording.format import Frame, FrameKind, encode_size
from teleport.recording.sanitise import TerminalSanitiser, sanitise_for_terminal
from teleport.recording.screen import MAX_COLUMNS, MAX_ROWS, Painter, Row, Screen, Shown, runs, shown_lines
from teleport.recording.screen.row import BOLD, INVERSE, RGB, colours, flags

COLUMNS, ROWS = 20, 6


def shown(*pieces: str, columns: int = COLUMNS, rows: int = ROWS) -> Screen:
    screen, cleaner = Screen(columns, rows), TerminalSanitiser()
    for piece in pieces:
        screen.feed(cleaner.feed_text(piece.encode()))
    return screen


def reported(*pieces: str, columns: int = COLUMNS, rows: int = ROWS, once: bool = True) -> list[str]:
    """The lines of a session that printed `pieces`, one a second."""
    frames = [Frame(number * 1_000_000, FrameKind.OUTPUT, piece.encode()) for number, piece in enumerate(pieces)]
    return [line.text for line in shown_lines(header(width=columns, height=rows), frames, once=once)]


# --- against another terminal

WORDS = st.sampled_from(
    [
        "a",
        "word",
        "  ",
        "0123456789" * 3,
        "\r\n",
        "\r",
        "\n",
        "\b",
        "\t",
        "日本",
        "é",
        "x日",
        "\x1b[m",
        "\x1b[31m",
        "\x1b[1;44m",
    ]
)
MOVES = st.builds(
    "\x1b[{}{}".format, st.one_of(st.just(""), st.integers(0, 8).map(str)), st.sampled_from(list("ABCDEFGdPX@LM"))
)
ERASURES = st.builds("\x1b[{}{}".format, st.sampled_from(["", "0", "1", "2"]), st.sampled_from("JK"))
PLACES = st.builds("\x1b[{};{}H".format, st.integers(0, 8), st.integers(0, 25))
REGIONS = st.builds("\x1b[{};{}r".format, st.integers(1, 3), st.integers(4, 6))
OTHERS = st.sampled_from(["\x1bD", "\x1bM", "\x1b7", "\x1b8", "\x1b[4h", "\x1b[4l", "\x1b[?25l", "\x1b[?25h"])
SESSIONS = st.lists(st.one_of(WORDS, MOVES, ERASURES, PLACES, REGIONS, OTHERS), max_size=40)
# pyte moves the cursor into the scrolling region when it is outside of it, leaves halves of wide characters, and
# forgets a saved cursor when it was restored once
COMPARED = st.lists(st.one_of(WORDS, MOVES, ERASURES, PLACES, OTHERS), max_size=40).filter(
    lambda parts: not any("日" in part or part in ("\x1b7", "\x1b8") for part in parts)
)


@settings(max_examples=300, deadline=None)
@given(COMPARED)
def test_it_shows_what_pyte_shows(parts: list[str]) -> None:
    """Two terminals that were written apart agree on text and cursor."""
    other = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.Stream(other)
    screen = Screen(COLUMNS, ROWS)
    for part in parts:
        if re.fullmatch(r"\x1b\[(?:\d*)[@PXKJLM]|\x1b\[[ABCDEFGd\d]*", part) and screen.x >= COLUMNS:
            continue  # with a wrap due, terminals differ
        stream.feed(part)
        screen.feed(sanitise_for_terminal(part.encode()).decode())
        assert screen.text() == [line.rstrip() for line in other.display], (part, parts)
        assert (screen.x, screen.y) == (other.cursor.x, other.cursor.y), (part, parts)


@settings(max_examples=200, deadline=None)
@given(SESSIONS, SESSIONS, st.integers(1, 5))
def test_drawn_again_it_looks_the_same(parts: list[str], more: list[str], size: int) -> None:
    """What a painter writes is read back as the same text, colours and cursor, at once and after changes; a copy is as
    its original and goes on alone."""
    text = "".join(parts)
    screen = shown(*[text[at : at + size] for at in range(0, len(text), size)])
    painter = Painter(COLUMNS, ROWS)
    first = painter.draw(screen).decode()
    assert _look(shown(first)) == _look(screen)
    twin = screen.copy()
    twin.feed(sanitise_for_terminal("".join(more).encode()).decode())
    assert _look(screen) == _look(shown(first)), "the original is as it was"
    again = shown(first, painter.draw(twin, "status").decode(), painter.draw(twin).decode())
    assert _look(again) == _look(twin)


def _look(screen: Screen) -> object:
    return [_looks(row) for row in screen.lines], min(screen.x, screen.columns - 1), screen.y, screen.visible


def _looks(row: Row) -> list[tuple[str, int]]:
    return runs(row)


def test_on_a_smaller_terminal_the_part_with_the_cursor_is_shown() -> None:
    screen = shown(*(f"{number} 日本日本\r\n" for number in range(5)))
    small = shown(Painter(7, 3).draw(screen).decode(), columns=7, rows=3)
    assert small.text() == ["3 日本", "4 日本", ""]
    status = shown(Painter(7, 3).draw(screen, "a long status").decode(), columns=7, rows=3)
    assert status.text()[2] == "a long"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.integers(1, 50), st.integers(1, 20))
def test_any_bytes_keep_it_whole(data: bytes, columns: int, rows: int) -> None:
    """Every row keeps its width, the cursor stays inside, and cells hold nothing that drives a terminal."""
    screen, cleaner = Screen(columns, rows), TerminalSanitiser()
    for at in range(0, len(data), 7):
        screen.feed(cleaner.feed_text(data[at : at + 7]))
        if at % 21 == 14:
            screen.resize(1 + data[at] % 40, 1 + data[at] % 15)
    assert len(screen.lines) == screen.rows
    assert all(len(row.cells) == screen.columns for row in screen.lines)
    assert all(row.styles is None or len(row.styles) == screen.columns for row in screen.lines)
    assert 0 <= screen.x <= screen.columns
    assert 0 <= screen.y < screen.rows
    assert not any(re.search("[\x00-\x1f\x7f-\x9f\u202e\u200b]", "".join(row.cells)) for row in screen.lines)


# --- the subset, case by case


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a\x1b(0lqk\x1b(Bb", ["a┌─┐b"]),
        ("\x1b)0\x0eq\x0fq", ["─q"]),
        ("x\x1b[5b", ["xxxxxx"]),
        ("one\x1b[?1049htwo\x1b[?1049l!", ["one!"]),
        ("one\x1b[?1049htwo", ["   two"]),
        ("\x1b[2;4r\x1b[?6h\x1b[Htop", ["", "top"]),
        ("ab\x1b[?7l" + "c" * 30 + "Z", ["ab" + "c" * 17 + "Z"]),
        ("e\u0301", ["e\u0301"]),
        ("日\x1b[2GX", [" X"]),
        ("日本\x1b[1GX", ["X 本"]),
        ("a" * 19 + "日", ["a" * 19, "日"]),
        ("\x1b#8\x1b[2J", []),
        ("a\r\nb\r\nc\r\nd\x1b[2;3r\x1b[3;1H\ne", ["a", "c", "e", "d"]),
        ("a\r\nb\r\nc\x1b[2;3r\x1b[2;1H\x1bM", ["a", "", "b"]),
        ("a\r\nb\x1b[2;3r\x1b[1;1H\x1bM\x1b[Ax", ["x", "b"]),
        ("a\x1bEb", ["a", "b"]),
        ("a\tb\x1b[3g\r\tc", ["a       b          c"]),
        ("q\x1b[!p", ["q"]),
        ("\x1b[1;1Hab\x1b[s\x1b[3;3Hx\x1b[uc", ["abc", "", "  x"]),
    ],
)  # fmt: skip
def test_the_subset(text: str, lines: list[str]) -> None:
    found = shown(text).text()
    while found and not found[-1]:
        found.pop()
    assert found == lines


def test_colours_and_flags_are_kept_in_every_form() -> None:
    screen = shown("\x1b[1;31mr\x1b[38;5;200mp\x1b[38;2;1;2;3md\x1b[48:2::9:8:7mb\x1b[7mi\x1b[22;27;39;49mn\x1b[95mv")
    styles = screen.lines[0].styles
    assert styles is not None
    assert [colours(style) for style in styles[:7]] == [
        (2, 0), (201, 0), (RGB | 0x010203, 0), (RGB | 0x010203, RGB | 0x090807), (RGB | 0x010203, RGB | 0x090807),
        (0, 0), (14, 0),
    ]  # fmt: skip
    assert [flags(style) for style in styles[3:6]] == [BOLD, BOLD | INVERSE, 0]


def test_sizes_are_kept_in_bounds() -> None:
    for columns, rows in ((65535, 65535), (0, 0), (1, 1)):
        screen = Screen(columns, rows)
        screen.feed("x" * 10 + "日\r\n")
        screen.resize(rows, columns)
        assert 1 <= screen.columns <= MAX_COLUMNS
        assert 1 <= screen.rows <= MAX_ROWS


# --- what is reported


def test_text_split_by_sequences_and_wrapped_is_one_line() -> None:
    long = "The quick brown fox jumps over the lazy dog, and over the fence, and away it goes."
    assert reported("pass\x1b[31mword\x1b[0m: o\x1b[1mk\r\n", long, "\r\nend") == ["password: ok", long, "end"]
    assert reported(*long, "\r\n" * 20) == [long], "typed letter by letter, and scrolled away row by row"


def test_what_was_written_over_erased_or_left_is_reported_before_it_is_gone() -> None:
    assert reported("10 %\r", "20 %\r", "done\r\n") == ["10 %", "20 %", "done"]
    assert reported("secret\r\x1b[K", "safe") == ["secret", "safe"]
    assert reported("secret\x1b[2J\x1b[Hsafe") == ["secret", "safe"]
    assert reported("main\r\n\x1b[?1049h\x1b[Hinside\x1b[?1049l", "after") == ["main", "inside", "after"]
    assert reported("top\x1b[1;1H\x1b[M", "x") == ["top", "x"]
    assert reported("abc\b \b\b \b") == ["abc"], "no new text"


def test_what_is_drawn_again_is_told_once_and_everything_for_reading() -> None:
    again = ["\x1b[H\x1b[2Jload 1\r\nprocesses", "\x1b[H\x1b[2Jload 2\r\nprocesses"]
    assert reported(*again) == ["load 1", "processes", "load 2"]
    assert reported(*again, once=False) == ["load 1", "processes", "load 2", "processes"]


def test_a_line_has_the_time_at_which_it_was_written() -> None:
    frames = [
        Frame(1_000_000, FrameKind.OUTPUT, b"first\r\n"),
        Frame(2_000_000, FrameKind.OUTPUT, b"second"),
        Frame(9_000_000, FrameKind.OUTPUT, b"\x1b[2J"),
    ]
    assert list(shown_lines(header(), frames)) == [
        Shown(1_000_000, "screen", "first"), Shown(2_000_000, "screen", "second"),
    ]  # fmt: skip


def test_every_other_kind_of_frame_is_a_line_and_typed_text_is_none() -> None:
    frames = [
        Frame(0, FrameKind.EXEC, b'{"command":"tar cf - /etc"}'),
        Frame(1, FrameKind.STDERR, b"tar: removing\n"),
        Frame(2, FrameKind.INPUT, b"hunter2\r"),
        Frame(3, FrameKind.FILE, b'{"action":"write","path":"/tmp/x\\u001b]0;y","size":7,"sha256":"ab"}'),
        Frame(4, FrameKind.FORWARD, b'{"kind":"direct-tcpip","address":"db:5432","sent":1,"unknown":[1]}'),
        Frame(5, FrameKind.NOTE, b"the disk is full\x1b[2J"),
        Frame(6, FrameKind.FILE, b"not json\xff"),
        Frame(7, FrameKind.EXEC, b'{"command":"tar","status":1}'),
        Frame(8, FrameKind.RESIZE, encode_size(300, 90)),
    ]
    assert list(shown_lines(header(interactive=False, width=0, height=0), frames)) == [
        Shown(0, "exec", "tar cf - /etc"),
        Shown(1, "screen", "tar: removing"),
        Shown(3, "file", "write /tmp/x<U+001B>]0;y size=7 sha256=ab"),
        Shown(4, "forward", "direct-tcpip db:5432 sent=1 unknown=[1]"),
        Shown(5, "note", "the disk is full<U+001B>[2J"),
        Shown(6, "file", "not json\\xff"),
        Shown(7, "exec", "tar status=1"),
    ]


def test_who_was_there_and_whose_input_it_is_is_told_and_cuts_no_line() -> None:
    def note(text: str) -> bytes:
        return text.encode()

    frames = [
        Frame(0, FrameKind.NOTE, note('{"about":"party","party":1,"action":"there","user":"ann","mode":"peer"}')),
        Frame(
            1,
            FrameKind.NOTE,
            note('{"about":"party","party":2,"action":"joined","user":"b\\u001bob","mode":"observer"}'),
        ),
        Frame(2, FrameKind.OUTPUT, b"$ l"),
        Frame(3, FrameKind.NOTE, note('{"about":"typed","party":1,"offset":0,"size":1}')),
        Frame(4, FrameKind.OUTPUT, b"s"),
        Frame(5, FrameKind.NOTE, note('{"about":"typed","party":1,"offset":1,"size":1}')),
        Frame(6, FrameKind.OUTPUT, b"\r\n"),
        Frame(7, FrameKind.NOTE, note('{"about":"typed","party":2,"offset":2,"size":1}')),
        Frame(8, FrameKind.NOTE, note('{"about":"weather"}')),
        Frame(9, FrameKind.NOTE, b"a sentence"),
    ]
    assert [(line.kind, line.text) for line in shown_lines(header(), frames)] == [
        ("party", "ann is there as peer"), ("party", "b<U+001B>ob joined as observer"),
        ("typed", "by ann from here on"),
        ("typed", "by b<U+001B>ob from here on"), ("screen", "$ ls"), ("note", "a sentence"),
    ]  # fmt: skip


def test_reports_stay_in_proportion_to_what_was_printed() -> None:
    """Writing over a wide line, letter by letter, does not multiply."""
    noisy = "".join(f"\r{chr(97 + number % 26)}{'z' * (number % 3)}" for number in range(200_000))
    told = reported("y" * 900, noisy, columns=1000, once=False)
    assert sum(map(len, told)) < 5 * len(noisy) + 100_000


WORD = st.text("abcdefghij", min_size=4, max_size=12)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(WORD, st.sampled_from(["\r\n", "\r", "\x1b[2J", "\x1b[K\r", "\n", "\x1b[H"])), max_size=40))
def test_no_word_is_lost(parts: list[tuple[str, str]]) -> None:
    """Whatever becomes of it afterwards, a word that stood on the screen is in a line of what is reported."""
    told = "\n".join(reported(*(word + after for word, after in parts), columns=30))
    for word, _ in parts:
        assert word in told


def test_a_saved_cursor_can_be_restored_again_and_again() -> None:
    screen = shown("ab\x1b7\r\nxyz\x1b8\r\n\x1b8c")
    assert screen.text()[0] == "abc"


def test_short_lines_cost_no_memory_beyond_their_size() -> None:
    """A MiB of them, which a session may print at once, costs its copies and no more."""
    data = b"a\n" * (512 * 1024)
    tracemalloc.start()
    try:
        TerminalSanitiser().feed(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 * len(data)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(WORDS, MOVES, PLACES, st.text(max_size=5)), max_size=40))
def test_the_quick_way_of_the_sanitiser_is_the_same_as_the_slow_one(parts: list[str]) -> None:
    text = "".join(parts).encode("utf-8", "surrogatepass")
    slow = TerminalSanitiser()
    slow._quick = None
    assert TerminalSanitiser().feed(text) == slow.feed(text)
