"""Which arguments are places on hosts, and which names a host may give to a file here (threat T49)."""

from __future__ import annotations

import os.path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teleport.errors import BadRequest
from teleport.wire.transfer_names import (
    Place,
    is_pattern,
    joined,
    last_name,
    literal,
    matches,
    parse_place,
    safe_name,
)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("host:file", Place("file", "host")),
        ("ann@host:/etc/passwd", Place("/etc/passwd", "host", "ann")),
        ("host:", Place(".", "host")),
        ("[::1]:x", Place("x", "::1")),
        ("ann@[2001:db8::1]:x:y", Place("x:y", "2001:db8::1", "ann")),
        ("./a:b", Place("./a:b")),
        ("/a:b", Place("/a:b")),
        ("file", Place("file")),
        ("a@b", Place("a@b")),
        ("host:with\nline", Place("with\nline", "host")),
    ],
)
def test_places(text: str, place: Place) -> None:
    assert parse_place(text) == place


def test_a_drive_is_no_host_where_there_are_drives() -> None:
    assert parse_place(r"C:\x", windows=True) == Place(r"C:\x")
    assert parse_place("C:x", windows=True) == Place("x", "C")
    for bad in ("", "-o:x"):
        with pytest.raises(BadRequest):
            parse_place(bad)


HOSTILE = ["", ".", "..", "/", "/etc/passwd", "../x", "a/b", "a/", "x\0y", "n" * 256, "é" * 128]
FINE = ["a", "..a", "a..", "-rf", "~root", "a\nb", "\x1b[2J", "C:", r"a\b", "\udcff", "n" * 255]


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(BadRequest):
        safe_name(name)


@pytest.mark.parametrize("name", FINE, ids=range(len(FINE)))
def test_names_that_stay_are_taken_as_they_are(name: str) -> None:
    assert safe_name(name) == name


@pytest.mark.parametrize(
    "name", [r"..\x", r"a\b", "C:x", "CON", "nul.txt", "a ", "a.", "a:b", "a\nb", "x|y", "\udcff", "COM1"]
)
def test_windows_knows_further_ways_out(name: str) -> None:
    with pytest.raises(BadRequest):
        safe_name(name, windows=True)


@given(st.text(max_size=60))
def test_a_safe_name_is_one_component(name: str) -> None:
    try:
        safe_name(name)
    except BadRequest:
        return
    assert os.path.dirname(os.path.normpath(os.path.join("/srv/all", name))) == "/srv/all"


def test_last_names_and_joined_paths() -> None:
    assert [last_name(path) for path in ("a/b/", "b", ".", "..", "/", "x/..")] == ["b", "b", "", "", "", ""]
    assert [joined("", "a"), joined(".", "a"), joined("/", "a"), joined("x/", "a")] == ["a", "a", "/a", "x/a"]


def test_patterns() -> None:
    assert is_pattern("*.log")
    assert not is_pattern(r"\*.log")
    assert literal(r"\*.l\[og\\") == r"*.l[og" + "\\"
    assert matches("a.log", "*.log")
    assert not matches(".a.log", "*.log"), "as shells have it"
    assert matches(".a.log", ".*")
    assert matches("a*b", r"a\*b")
    assert not matches("axb", r"a\*b")
