"""The readers that schemas are put together from: what each takes, refuses, and says about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from teleport.resources import yaml_readers as readers
from teleport.resources.values import Duration, HostPort
from teleport.resources.yaml_document import Node, Problems, Reader, load_documents


def read(reader: Callable[[Node, Problems], Any], text: str) -> tuple[Any, list[str]]:
    """What `reader` makes of the value `text`, and the problems it found."""
    problems = Problems()
    (node,) = load_documents(f"key: {text}\n", "f")
    ((_, child),) = node.entries()
    value = reader(child, problems)
    return value, problems.lines()


@pytest.mark.parametrize(
    ("reader", "text", "value"),
    [
        (readers.text, "1.10", "1.10"),
        (readers.text, "", ""),
        (readers.some_text, "a b", "a b"),
        (readers.boolean, "Off", False),
        (readers.integer(), "-7", -7),
        (readers.integer(1, 3), "'3'", 3),
        (readers.number, "2.5e1", 25.0),
        (readers.duration, "1m", Duration.parse("1m")),
        (readers.duration_or_never, "NEVER", Duration(0)),
        (readers.moment, "2030-01-31T12:00:00+01:00", datetime(2030, 1, 31, 11, tzinfo=UTC)),
        (readers.moment, "2030-01-31", datetime(2030, 1, 31, tzinfo=UTC)),
        (readers.url, "https://a.example.com:443/x", "https://a.example.com:443/x"),
        (readers.one_of({"a": 1, "b": 2}), "b", 2),
        (readers.one_of(("warn",), any_case=True), "WARN", "warn"),
        (readers.address(22), "host", HostPort("host", 22)),
        (readers.address(22, any_host="0.0.0.0"), "':23'", HostPort("0.0.0.0", 23)),
        (readers.text_list, "a", ("a",)),
        (readers.text_list, "[a, b]", ("a", "b")),
        (readers.ListOf(readers.integer()), "[]", ()),
        (readers.text_map, "{a: 1, b: }", {"a": "1", "b": ""}),
    ],
)
def test_a_reader_takes_what_it_allows(reader: Reader[Any], text: str, value: Any) -> None:
    assert read(reader, text) == (value, [])


@pytest.mark.parametrize(
    ("reader", "text", "problem"),
    [
        (readers.text, "[]", "f:1: key: found a list, allowed: text"),
        (readers.text, '"a\\x07"', 'f:1: key: found "a\\x07", allowed: text'),
        (readers.some_text, "' '", 'f:1: key: found " ", allowed: text that is not empty'),
        (readers.secret_text, "' '", "f:1: key: found a value that is not shown, allowed: text that is not empty"),
        (readers.integer(1, 3), "4", 'f:1: key: found "4", allowed: a whole number from 1 to 3'),
        (readers.integer(None, 3), "4", 'f:1: key: found "4", allowed: a whole number, 3 or less'),
        (readers.integer(), "1.0", 'f:1: key: found "1.0", allowed: a whole number'),
        (readers.integer(), "9" * 30, f'f:1: key: found "{"9" * 30}", allowed: a whole number'),
        (readers.number, "nan", 'f:1: key: found "nan", allowed: a number'),
        (readers.moment, "yesterday", "a time such as 2030-01-31T12:00:00Z, or a date"),
        (readers.moment, "2030-02-31", "a time such as"),
        (readers.url, "example", 'f:1: key: found "example", allowed: a URL'),
        (readers.one_of(("a", "b", "c")), "d", "allowed: a, b or c"),
        (readers.address(None), "host", "allowed: host:port, an IPv6 host in brackets"),
        (readers.text_list, "{}", "found a map, allowed: one value or a list, each text"),
        (readers.ListOf(readers.text), "a", 'found "a", allowed: a list, each text'),
        (readers.ListOf(readers.text, least=1), "[]", "found an empty list, allowed: a list of at least 1"),
        (readers.ListOf(readers.boolean), "[yes, x]", 'key[1]: found "x"'),
        (readers.text_map, "a", 'found "a", allowed: a map to text'),
        (readers.MapOf(readers.text, str.encode, "x"), "[]", "found a list"),  # type: ignore[arg-type]
    ],
)
def test_a_reader_says_what_it_found_and_what_it_allows(reader: Reader[Any], text: str, problem: str) -> None:
    _, (said,) = read(reader, text)
    assert problem in said


def test_good_items_beside_a_bad_one_are_kept_so_that_reading_goes_on() -> None:
    assert read(readers.ListOf(readers.integer()), "[1, x, 3]")[0] == (1, 3)


@dataclass(frozen=True, slots=True)
class Door:
    """A section, for the tests."""

    width: int = readers.key(readers.integer(1), 1, "how wide", required=True)
    colour: str = readers.key(readers.text, "red", "its colour", name="color")
    bell: bool = readers.key(readers.boolean, False, "has a bell", warning="is ignored: bells are out")
    code: str = readers.key(readers.text, "", "to open it", secret=True)


def check_door(door: Door, node: Node, problems: Problems) -> None:
    if door.width > 9:
        node.problem(problems, "a narrow door", found="a wide door")


def test_a_section_is_read_into_its_dataclass() -> None:
    assert read(readers.Section(Door), "{width: 2, color: blue}") == (Door(2, "blue"), [])
    assert "1234" not in repr(Door(code="1234"))


def test_a_section_names_missing_keys_and_what_its_check_finds() -> None:
    assert read(readers.Section(Door), "{}")[1] == [
        "f:1: key.width: found nothing, allowed: a whole number, 1 or more (required)"
    ]
    assert read(readers.Section(Door, check_door), "{width: 10}")[1] == [
        "f:1: key: found a wide door, allowed: a narrow door"
    ]
    assert read(readers.Section(Door), "{width: 1, colour: x}")[1] == [
        "f:1: key.colour: found an unknown key, allowed: color"
    ]


def test_a_key_with_a_warning_gives_a_notice() -> None:
    problems = Problems()
    (node,) = load_documents("width: 1\nbell: yes\n", "f")
    assert readers.Section(Door)(node, problems) == Door(1, bell=True)
    assert [str(notice) for notice in problems.notices] == ["f:2: bell: is ignored: bells are out"]
    assert not problems
