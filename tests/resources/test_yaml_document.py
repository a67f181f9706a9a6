"""Files that people write: every mistake is found in one pass, with its place, and hostile input costs little."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teleport.errors import BadRequest
from teleport.resources.yaml_document import InvalidDocument, Node, Problem, Problems, Reader, load_documents, quoted
from teleport.resources.yaml_readers import (
    ListOf,
    MapOf,
    boolean,
    duration,
    integer,
    one_of,
    text,
    text_list,
    text_map,
)


def only(document: str | bytes) -> Node:
    (node,) = load_documents(document, "f.yaml")
    return node


def problem_of(document: str | bytes) -> str:
    with pytest.raises(InvalidDocument) as caught:
        load_documents(document, "f.yaml")
    return str(caught.value)


def walk(node: Node) -> Any:
    """The plain value of a node, through its public face."""
    if node.is_map:
        return {key: walk(child) for key, child in node.entries()}
    if node.is_list:
        return [walk(child) for child in node.items()]
    return None if node.is_null else node.value


def test_a_problem_says_place_found_and_allowed() -> None:
    problem = Problem("teleport.yaml", 12, "ssh_service.labels.env", "a list", "text")
    assert str(problem) == "teleport.yaml:12: ssh_service.labels.env: found a list, allowed: text"


def test_all_problems_of_a_file_are_reported_at_once_by_line() -> None:
    node = only("name: [x]\ncount: many\nwait: 5\nlabels:\n  a: {}\ncolour: blue\nflag: perhaps\n")
    problems = Problems()
    schema: dict[str, Reader[Any]] = {
        "name": text,
        "count": integer(1, 9),
        "wait": duration,
        "labels": text_map,
        "color": text,
        "flag": boolean,
        "kind": one_of(("a", "b")),
    }
    values = node.mapping(problems, schema, required=("kind",))
    assert values == {"labels": {}}
    assert problems.lines() == [
        "f.yaml:1: name: found a list, allowed: text",
        "f.yaml:1: kind: found nothing, allowed: a or b (required)",
        'f.yaml:2: count: found "many", allowed: a whole number from 1 to 9',
        'f.yaml:3: wait: found "5", allowed: a duration such as 30s, 5m or 1h30m',
        "f.yaml:5: labels.a: found a map, allowed: text",
        "f.yaml:6: colour: found an unknown key, allowed: color",
        'f.yaml:7: flag: found "perhaps", allowed: yes, no, true, false, on, off, 1 or 0',
    ]
    with pytest.raises(InvalidDocument) as caught:
        problems.raise_if_any(hint="look again")
    assert isinstance(caught.value, BadRequest)
    assert str(caught.value).count("\n") == 6
    assert caught.value.hint == "look again"
    assert len(caught.value.problems) == 7


@pytest.mark.parametrize(
    ("document", "line", "words"),
    [
        (b"a: 1\nb: \xff\n", 2, "0xff"),
        ("a: 1\nb: \x00\n", 2, "U+0000"),
        ("a: 1\nb: \ud800\n", 2, "U+D800"),
        ("a: 1\n\tb: 2\n", 2, "a tab"),
        ("a:\n  - 1\n - 2\n", 3, "well-formed"),
        ("a: {\n", 2, "well-formed"),
        ("a: [b\n", 2, "found no ',' or ']', allowed: well-formed YAML"),
        ("a: b: c\n", 1, "found mapping values that are not allowed in this context"),
        ("a: 1\na: 2\n", 2, "a: found the key a second time (first in line 1)"),
        ("x:\n  - {b: 1,\n     b: 2}\n", 3, "x[0].b: found the key a second time"),
        ("a: *missing\n", 1, "the alias *missing without an anchor"),
        ("a: &x [*x]\n", 1, "inside its own value"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", 3, "merge key"),
        ("? [1]\n: 2\n", 1, "a list as a key"),
        ("a: !!python/object:os.system x\n", 1, "tag"),
        ("[" * 1000, 1, "deeper nesting"),
        ("- " * 1000, 1, "deeper nesting"),
        ("%YAML 9.1\n--- a\n", 1, "well-formed"),
        ('a: "\\ud800"\n', 1, "well-formed"),
    ],
)
def test_text_that_cannot_be_used_is_named_with_its_line(document: str | bytes, line: int, words: str) -> None:
    message = problem_of(document)
    assert message.startswith(f"f.yaml:{line}: ")
    assert words in message


def test_an_alias_bomb_is_refused_before_it_is_walked() -> None:
    levels = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
    assert "aliases written out" in problem_of("a0: &a0 [x]\n" + levels)
    assert "more aliases" in problem_of("a: &a x\nb: [" + "*a, " * 2000 + "]\n")


def test_too_much_text_is_refused_unread() -> None:
    with pytest.raises(InvalidDocument, match="found 11 bytes, allowed: at most 10 bytes"):
        load_documents("a" * 11, "f.yaml", max_bytes=10)


def test_an_alias_reads_like_what_it_stands_for() -> None:
    assert walk(only("a: &x {b: [1, 2]}\nc: *x\n")) == {"a": {"b": ["1", "2"]}, "c": {"b": ["1", "2"]}}


def test_mistakes_that_allow_reading_on_join_the_callers_problems() -> None:
    problems = Problems()
    (node,) = load_documents("a: 1\na: 2\nb: x\n", "f.yaml", problems=problems)
    node.mapping(problems, {"a": text, "b": integer()})
    assert [problem.line for problem in problems] == [2, 3]


def test_scalars_stay_as_they_were_written() -> None:
    node = only("a: 1.10\nb: yes\nc: 2020-01-01\nd: '0x1f'\ne: ~\nf: 'null'\ng:\n")
    assert walk(node) == {"a": "1.10", "b": "yes", "c": "2020-01-01", "d": "0x1f", "e": None, "f": "null", "g": None}
    assert node.get("e") is None
    assert node.get("h") is None


def test_a_stream_holds_several_documents_and_empty_ones_are_left_out() -> None:
    assert [walk(node) for node in load_documents("---\n---\na: 1\n---\n[b]\n", "f.yaml")] == [{"a": "1"}, ["b"]]
    assert load_documents("", "f.yaml") == []
    assert load_documents("# only a comment\n", "f.yaml") == []
    assert walk(only(b"\xef\xbb\xbfa: 1\r\n")) == {"a": "1"}


json_values = st.recursive(
    st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=8) | st.integers() | st.booleans(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc\U0001f600", min_size=1), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text('abc"\\/\U0001f600é', min_size=1), json_values), st.booleans(), st.booleans())
def test_json_takes_the_same_path(value: dict[str, Any], ascii_only: bool, indented: bool) -> None:
    def as_text(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: as_text(inner) for key, inner in part.items()}
        if isinstance(part, list):
            return [as_text(inner) for inner in part]
        return part if isinstance(part, str) else json.dumps(part)

    document = json.dumps(value, ensure_ascii=ascii_only, indent="\t" if indented else None)
    assert walk(only(document)) == as_text(value)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200) | st.text("ab:-[]{}&*!|>'\"#%@`,? \t\n\\<", max_size=80))
def test_no_input_raises_anything_but_invalid_document(document: bytes | str) -> None:
    try:
        nodes = load_documents(document, "f.yaml")
    except InvalidDocument as error:
        nodes, refused = [], error.problems
    else:
        refused = ()
    assert all(1 <= problem.line <= 201 and str(problem).isprintable() for problem in refused)
    problems = Problems()
    for node in nodes:
        walk(node)
        for reader in (text, text_list, text_map, boolean, duration, integer(), ListOf(MapOf(text))):
            reader(node, problems)
        node.mapping(problems, {"a": text})
    assert all(line.isprintable() for line in problems.lines())


def test_messages_are_cut_and_hold_no_control_characters() -> None:
    assert quoted('a\x1b[31m\u202e\n"\\') == '"a\\x1b[31m\\u202e\\n\\"\\\\"'
    assert quoted("x" * 100) == '"' + "x" * 60 + '..."'


def test_very_many_problems_are_counted_not_kept() -> None:
    node = only("".join(f"k{n}: 1\n" for n in range(1000)))
    problems = Problems()
    node.mapping(problems, {})
    assert len(problems) == 1000
    assert len(problems.lines()) == 201
    assert problems.lines()[-1] == "and 800 more"


def test_an_unknown_key_is_explained_by_the_hint_if_it_knows_the_key() -> None:
    problems = Problems()
    only("audit: 1\nport: 2\n").mapping(
        problems, {"part": text}, unknown=lambda node, key: f"under storage ({node.line})" if key == "audit" else ""
    )
    assert problems.lines() == [
        "f.yaml:1: audit: found a key that does not belong here, allowed: under storage (1)",
        "f.yaml:2: port: found an unknown key, allowed: part",
    ]


def test_null_counts_as_absent_and_as_an_empty_map() -> None:
    problems = Problems()
    assert only("a:\nb: ~\n").mapping(problems, {"a": text, "b": text}) == {}
    (node,) = [child for _, child in only("a:\n").entries()]
    assert node.mapping(problems, {"x": text}) == {}
    assert not problems


def test_notices_are_kept_apart_from_problems() -> None:
    problems = Problems()
    node = only("a:\n  b: 1\n")
    for _, child in node.entries():
        child.notice(problems, "is read but not used yet")
    assert not problems
    assert [str(notice) for notice in problems.notices] == ["f.yaml:1: a: is read but not used yet"]
