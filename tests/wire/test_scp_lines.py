"""The control lines of scp (threats T49, T61)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teleport.wire.scp_lines import (
    EndOfFolder,
    Entry,
    Line,
    Malformed,
    Times,
    Trouble,
    entry_line,
    parse,
    times_line,
)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"C0644 12 a b", Entry(False, 0o644, 12, b"a b")),
        (b"D4755 0 \xff", Entry(True, 0o4755, 0, b"\xff")),
        (b"E", EndOfFolder()),
        (b"T5 0 7 0", Times(5, 7)),
        (b"\x01no", Trouble(b"no", False)),
        (b"\x02", Trouble(b"", True)),
    ],
)
def test_lines_say_what_they_say(line: bytes, said: Line) -> None:
    assert parse(line) == said


@pytest.mark.parametrize(
    "line",
    [
        b"", b"X", b"C0644 12", b"C644 12 a", b"C0844 1 a", b"C0644 -1 a", b"C0644 99999999999999999999 a",
        b"C0644 9223372036854775807 a", b"C0644 1 a/b", b"C0644 1 ..", b"D0755 0 .", b"C0644 1 ", b"C0644 1 a\0b",
        b"C0644 1 a\nb", b"C0644 1 " + b"a" * 256, b"T-1 0 0 0", b"T1 0 99999999999999 0", b"E1", b"C0644 0x1 a",
    ],
)  # fmt: skip
def test_names_sizes_and_times_that_cannot_be_are_refused(line: bytes) -> None:
    with pytest.raises(Malformed):
        parse(line)


@given(
    st.booleans(),
    st.integers(0, 0o7777),
    st.integers(0, 2**62),
    st.binary(min_size=1, max_size=255).filter(lambda name: not set(name) & set(b"/\0\n.")),
)
def test_entries_come_back_as_they_were(folder: bool, mode: int, size: int, name: bytes) -> None:
    entry = Entry(folder, mode, size, name)
    assert parse(entry_line(entry)[:-1]) == entry
    assert parse(times_line(Times(mode, size % 2**40))[:-1]) == Times(mode, size % 2**40)
