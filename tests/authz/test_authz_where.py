"""`where` over facts: a table, and fuzz."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teleport.authz.where import WhereError, holds

FACTS = {
    "user": {"metadata": {"name": "alice"}, "spec": {"roles": ("dev", "ops"), "traits": {"x-y": ["1", "2"]}}},
    "resource": {"metadata": {"name": "web", "labels": {"env": "prod"}}, "spec": {"roles": [], "count": 3, "on": True}},
    "session": {"participants": ["alice", "bob"]},
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", True),
        ('equals(user.metadata.name, "alice")', True),
        ('equals(user.metadata.name, "Alice")', False),
        ('!equals(user.metadata.name, "bob")', True),
        ('contains(user.spec.roles, "ops")', True),
        ('contains(user.spec.roles, "op")', False),
        ('contains(user.spec.traits["x-y"], "2")', True),
        ('contains(user.spec.traits["missing"], "2")', False),
        ("contains(session.participants, user.metadata.name)", True),
        ("contains(ssh_session.participants, user.metadata.name)", False),
        ('equals(resource.metadata.labels["env"], "prod")', True),
        ('equals(resource.metadata.labels["nope"], "")', True),
        ('equals(resource.metadata.labels["nope"], "prod")', False),
        ("equals(resource.metadata.labels.nope, resource.spec.nope)", True),
        ('equals(resource.spec.count, "3")', True),
        ('equals(resource.spec.on, "true")', True),
        ("equals(user.spec.roles, user.spec.roles)", True),
        ('equals("a", "a") && equals("a", "b")', False),
        ('equals("a", "a") || equals("a", "b")', True),
        ('equals("a", "b") || equals("a", "a") && equals("a", "b")', False),
        ('(equals("a", "a") || equals("a", "a")) && equals("a", "b")', False),
        ('equals(system.catype(), "user")', True),
        ('contains(reviewer.roles, "x")', False),
    ],
)
def test_predicates(text: str, expected: bool) -> None:
    assert holds(text, FACTS, ca_type="user") is expected


@pytest.mark.parametrize(
    "text",
    [
        'equals(user.spec.roles, "dev")',
        'contains(user.metadata.name, "a")',
        "contains(user.spec.roles, user.spec.roles)",
        'equals(resource.metadata.name.first, "w")',
        'equals(resource.metadata, "w")',
        "nonsense(",
    ],
)
def test_what_cannot_be_compared_is_an_error(text: str) -> None:
    with pytest.raises(WhereError):
        holds(text, FACTS)


OPERANDS = st.sampled_from(
    ["user.metadata.name", "user.spec.roles", 'user.spec.traits["a"]', "resource.a.b", '"x"', "system.catype()"]
)
CALLS = st.builds("{}({}, {})".format, st.sampled_from(["equals", "contains"]), OPERANDS, OPERANDS)
EXPRESSIONS = st.recursive(
    CALLS,
    lambda inner: (
        st.builds("({} {} {})".format, inner, st.sampled_from(["&&", "||"]), inner)
        | inner.map(lambda text: f"!({text})")
    ),
    max_leaves=8,
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2),
    max_leaves=4,
)


@settings(deadline=None)
@given(EXPRESSIONS, VALUES)
def test_any_expression_over_any_facts_is_true_false_or_an_error(text: str, resource: object) -> None:
    with contextlib.suppress(WhereError):
        assert holds(text, {**FACTS, "resource": resource}) in (True, False)


@settings(deadline=None)
@given(CALLS)
def test_negation_negates(text: str) -> None:
    with contextlib.suppress(WhereError):
        assert holds(f"!{text}", FACTS) is not holds(text, FACTS)
