"""The `where` language: its grammar and limits."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teleport.resources.lexer import BadSyntax
from teleport.resources.predicate import And, Call, Function, Not, Or, Path, Text, parse_predicate

EQUAL = Call(Function.EQUALS, Path(("user", "metadata", "name")), Text("alice"))


def test_operators_bind_as_in_go() -> None:
    """`&&` binds tighter than `||`, `!` tightest; parentheses win."""
    one = 'equals(user.metadata.name, "alice")'
    assert parse_predicate(one) == EQUAL
    assert parse_predicate(f"{one} || {one} && !{one}") == Or((EQUAL, And((EQUAL, Not(EQUAL)))))
    assert parse_predicate(f"({one} || {one}) && {one}") == And((Or((EQUAL, EQUAL)), EQUAL))
    assert parse_predicate(f"!!({one})") == Not(Not(EQUAL))


def test_paths_take_names_and_keys() -> None:
    call = parse_predicate('contains(user.spec.traits["x-y"], resource.metadata.labels["a\\"b"])')
    assert call == Call(
        Function.CONTAINS, Path(("user", "spec", "traits", "x-y")), Path(("resource", "metadata", "labels", 'a"b'))
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "equals",
        "equals(",
        'equals("a")',
        'equals("a", "b"',
        'equals("a", "b"))',
        'equals("a", "b") &&',
        '&& equals("a", "b")',
        'equals("a", "b") equals("a", "b")',
        'equals("a", "b") & equals("a", "b")',
        'equals("a, "b")',
        "equals('a', \"b\")",
        'equal("a", "b")',
        'user.metadata.name == "a"',
        'equals(usr.metadata.name, "a")',
        'equals(user.metadata.nam, "a")',
        'equals(user, "a")',
        'equals(user.spec.traits[x], "a")',
        'equals(system.catype, "a")',
        'equals(system.other(), "a")',
        'equals("\\q", "a")',
        "true",
        "__import__('os')",
        "(" * 50 + 'equals("a", "b")' + ")" * 50,
        "!" * 50 + 'equals("a", "b")',
        " || ".join(['equals("a", "b")'] * 300),
        'equals("' + "a" * 5000 + '", "b")',
    ],
    ids=lambda text: text[:30] or "empty",
)
def test_what_is_not_in_the_language_is_refused_with_a_place(text: str) -> None:
    with pytest.raises(BadSyntax, match=r"\w"):
        parse_predicate(text)


TOKENS = st.sampled_from(
    [
        "equals",
        "contains",
        "(",
        ")",
        ",",
        "!",
        "&&",
        "||",
        '"a"',
        "`b`",
        "user.metadata.name",
        "[",
        "]",
        ".",
        "system",
        " ",
    ]
)


@settings(deadline=None)
@given(st.lists(TOKENS, max_size=200).map("".join) | st.text(max_size=60))
def test_any_text_is_a_predicate_or_refused(text: str) -> None:
    """Fuzz (T61): nothing but `BadSyntax` comes out, however deep."""
    with contextlib.suppress(BadSyntax):
        parse_predicate(text)
