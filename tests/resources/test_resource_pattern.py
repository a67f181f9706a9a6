"""Regular expressions of roles: RE2's answers, RE2's refusals, no runaway."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teleport.resources.pattern import BadPattern, compile_pattern, is_pattern

MATCHES = [
    ("^us-(west|east)-[0-9]+$", "us-west-2", True),
    ("^us-(west|east)-[0-9]+$", "us-west-", False),
    ("^us-(west|east)-[0-9]+$", "xus-west-2", False),
    ("^prod$", "prod\n", False),
    ("^prod$", "Prod", False),
    ("^(?i)prod$", "PROD", True),
    ("^(?i:pr)od$", "PRod", True),
    ("^(?i:pr)od$", "PROD", False),
    ("^a|b$", "a", True),
    ("^a|b$", "b", True),
    ("^a|b$", "ab", False),
    ("^$", "", True),
    ("^.*$", "anything", True),
    (r"^\d{2,3}$", "12", True),
    (r"^\d{2,3}$", "1234", False),
    (r"^\d$", "\u0661", False),  # RE2's \d is ASCII
    (r"^\w+$", "é", False),
    ("^[^a-c]$", "d", True),
    ("^[^a-c]$", "b", False),
    ("^[]a]+$", "]a", True),
    ("^[[a&~|]$", "[", True),
    ("^(?P<name>a)(?:b)?$", "ab", True),
    ("^a{2}$", "aa", True),
    ("^a{,2}$", "a{,2}", True),  # no repetition in RE2: literal
    (r"^a\.b$", "axb", False),
    (r"^\x41$", "A", True),
    ("^é+$", "éé", True),
    ("^a.c$", "a\nc", False),
    ("^(?m)a$\n^b$", "a\nb", True),
    ("^a$\n^b$", "a\nb", False),
    ("^(?i)a(?-i)b$", "Ab", True),
    ("^(?i)a(?-i)b$", "AB", False),
    ("^(?i)[^a]$", "A", False),
    ("^[[:alpha:]_]+$", "a_Z", True),
    ("^[^[:digit:]]$", "1", False),
    ("^[a-]$", "-", True),
    (r"^[\d-]+$", "1-2", True),
    (r"^\x{1F600}$", "\U0001f600", True),
    ("^(?s)a.c$", "a\nc", True),
    (r"^\bprod\b.*$", "prod-1", True),
]


@pytest.mark.parametrize(("pattern", "value", "expected"), MATCHES, ids=[f"{p} on {v!r}" for p, v, _ in MATCHES])
def test_matches_the_whole_value(pattern: str, value: str, expected: bool) -> None:
    assert compile_pattern(pattern).fullmatch(value) is expected


REFUSED = [
    r"^(a)\1$",
    "^(?=a)a$",
    "^(?!a)b$",
    "^(?<=a)b$",
    "^(?<!a)b$",
    "^(?>a+)b$",
    "^(?P=x)$",
    "^(?#x)$",
    "^(?(1)a|b)$",
    "^a++$",
    "^a**$",
    "^*a$",
    "^(a$",
    "^a)$",
    "^[a$",
    "^[b-a]$",
    r"^\Z$",
    r"^\p{L}$",
    r"^\Qa$",
    "^a{1001}$",
    "^a{3,2}$",
    "^(?x)a$",
    "^" + "a" * 2000 + "$",
    "^" + "(" * 200 + ")" * 200 + "$",
    "^a\\",
]


@pytest.mark.parametrize("pattern", REFUSED, ids=[p[:20] for p in REFUSED])
def test_what_re2_or_our_limits_refuse_is_refused(pattern: str) -> None:
    with pytest.raises(BadPattern):
        compile_pattern(pattern)


def test_only_what_is_anchored_on_both_sides_is_a_pattern() -> None:
    assert [is_pattern(text) for text in ("^a$", "^$", "^a", "a$", "a", "", "^")] == [
        True, True, False, False, False, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("pattern", "value", "replacement", "expected"),
    [
        ("^(.*)@example.com$", "alice@example.com", "$1", "alice"),
        ("^(.*)@example.com$", "alice@example.com", "${1}_x", "alice_x"),
        ("^(.*)@example.com$", "alice@example.com", "$1x", ""),  # as in Go: the group named 1x
        ("^(?P<who>.*)@.*$", "alice@b", "u-${who}", "u-alice"),
        ("^(.*)@example.com$", "alice@other", "$1", None),
        ("a", "banana", "o", "bonono"),
        ("a(x)?", "banana", "<$1>", "b<>n<>n<>"),
        ("b", "abc", "$$", "a$c"),
        ("x*", "abc", "-", "-a-b-c-"),
        ("a*", "baac", "X", "XbXcX"),
        ("a+?", "aa", "x", "xx"),
        ("a|ab", "ab", "x", "xb"),
    ],
)
def test_replacing_works_as_in_go(pattern: str, value: str, replacement: str, expected: str | None) -> None:
    assert compile_pattern(pattern).replace(value, replacement) == expected


@pytest.mark.parametrize("pattern", ["^(a+)+$", "^(a|a)*$", "^(a*)*$", "^(a|aa)+b$", "^a*a*a*a*a*a*b$", "^(.*a){8}$"])
def test_no_pattern_runs_away(pattern: str) -> None:
    """A backtracking engine would not come back from the longest value there is."""
    began = time.monotonic()
    compiled = compile_pattern(pattern)
    assert not compiled.fullmatch("a" * 1023 + "!")
    compiled.replace("a" * 1023 + "!", "x")
    assert time.monotonic() - began < 20


def test_values_beyond_the_limit_match_nothing() -> None:
    assert not compile_pattern("^.*$").fullmatch("a" * 1025)
    assert compile_pattern("^.*$").replace("a" * 1025, "x") is None


ATOMS = st.sampled_from(["a", "b", ".", "[ab]", "[^a]", "(a)", "(ab)", "(a|b)", "(?:b|)", r"\w", "c", "(a|ab)(c|bcd)"])
PIECES = st.tuples(ATOMS, st.sampled_from(["", "?", "*", "+", "{2}", "{1,2}", "*?", "??"])).map("".join)
PATTERNS = st.lists(PIECES, min_size=1, max_size=4).map(lambda pieces: "^" + "".join(pieces) + "$")


@settings(deadline=None)
@given(PATTERNS, st.text("abcd", max_size=8))
def test_answers_agree_with_another_engine(pattern: str, value: str) -> None:
    try:
        compiled = compile_pattern(pattern)
    except BadPattern:
        return
    assert compiled.fullmatch(value) == (re.fullmatch(pattern, value) is not None)


@settings(deadline=None)
@given(PATTERNS, st.text("abcd", max_size=8))
def test_groups_agree_with_another_engine(pattern: str, value: str) -> None:
    try:
        compiled = compile_pattern(pattern)
    except BadPattern:
        return
    found = re.search(pattern, value)
    assert compiled.replace(value, "<${0}|${1}>") == (found and f"<{found[0]}|{(found.re.groups and found[1]) or ''}>")


@settings(deadline=None)
@given(st.text(r"ab()[]{}*+?|^$\.,-01?:P<>i!=", max_size=20))
def test_any_text_is_a_pattern_or_refused(text: str) -> None:
    """Fuzz: nothing but `BadPattern` comes out, and an accepted one can be used."""
    try:
        compiled = compile_pattern(text)
    except BadPattern:
        return
    compiled.fullmatch("ab")
    compiled.replace("ab", "$1")
