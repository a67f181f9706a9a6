"""Label and login matching against an independent model (T30), and the cases worth naming."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from teleport.authz.decision import Policy
from teleport.authz.labels import AmbiguousLabels, BadSelector, canonical_labels, match_glob, match_labels
from teleport.authz.ssh import SSHAccessPermit, SSHAccessRequest, evaluate_ssh_access
from teleport.identity import UserIdentity
from teleport.resources.metadata import Metadata
from teleport.resources.role import Conditions, LabelSelector, Role, RoleSpec

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def matches(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    return match_labels(selector, canonical_labels(labels)).matched


@pytest.mark.parametrize(
    ("selector", "labels", "expected"),
    [
        ({}, {}, False),
        ({}, {"env": "prod"}, False),
        ({"*": ("*",)}, {}, True),
        ({"*": ("*",)}, {"env": "prod"}, True),
        ({"*": ("*",), "env": ("x",)}, {}, True),
        ({"env": ("prod",)}, {"env": "prod"}, True),
        ({"env": ("prod",)}, {"env": "Prod"}, False),
        ({"Env": ("prod",)}, {"env": "prod"}, False),
        ({"env": ("prod",)}, {}, False),
        ({"env": ("prod", "dev")}, {"env": "dev"}, True),
        ({"env": ("prod",), "tier": ("web",)}, {"env": "prod"}, False),
        ({"env": ("prod",), "tier": ("web",)}, {"env": "prod", "tier": "web", "x": "y"}, True),
        ({"env": ("*",)}, {"env": ""}, True),
        ({"env": ("*",)}, {"other": "x"}, False),
        ({"env": ("x", "*")}, {"env": "anything"}, True),
        ({"env": ()}, {"env": "prod"}, False),
        ({"env": ("",)}, {"env": ""}, True),
        ({"env": ("",)}, {"env": "prod"}, False),
        ({"r": ("us-west-*",)}, {"r": "us-west-2"}, True),
        ({"r": ("us-west-*",)}, {"r": "xus-west-2"}, False),
        ({"r": ("*west*",)}, {"r": "us-west-2"}, True),
        ({"r": ("a?c",)}, {"r": "abc"}, False),
        ({"r": ("a.c",)}, {"r": "abc"}, False),
        ({"r": ("[ab]",)}, {"r": "a"}, False),
        ({"r": ("^us-(west|east)-2$",)}, {"r": "us-east-2"}, True),
        ({"r": ("^us$",)}, {"r": "us-east"}, False),
        ({"r": ("^us",)}, {"r": "us"}, False),
        ({"r": ("us$",)}, {"r": "us"}, False),
        ({"r": ("^prod$",)}, {"r": "prod\n"}, False),
        ({"n": (unicodedata.normalize("NFD", "é"),)}, {"n": unicodedata.normalize("NFC", "é")}, True),
        ({unicodedata.normalize("NFD", "é"): ("x",)}, {unicodedata.normalize("NFC", "é"): "x"}, True),
        ({"h": ("web.example.com",)}, {"h": "web.example.com."}, False),  # a label is text, not a host name
        ({"ip": ("2001:db8::1",)}, {"ip": "2001:0db8::1"}, False),  # nor an address
    ],
)
def test_selectors(selector: LabelSelector, labels: Mapping[str, str], expected: bool) -> None:
    assert matches(selector, labels) is expected


def test_labels_that_become_one_are_ambiguous() -> None:
    with pytest.raises(AmbiguousLabels):
        canonical_labels({unicodedata.normalize("NFD", "é"): "a", unicodedata.normalize("NFC", "é"): "b"})


def test_a_bad_expression_counts_only_if_no_other_value_matches() -> None:
    assert matches({"env": ("^($", "prod")}, {"env": "prod"})
    with pytest.raises(BadSelector):
        matches({"env": ("^($", "prod")}, {"env": "dev"})
    with pytest.raises(BadSelector):
        matches({"*": ("prod",)}, {"env": "prod"})


# --- the model: as short and as plain as the rules allow, made of other means than the product


def model_value(pattern: str, value: str) -> bool:
    pattern, value = unicodedata.normalize("NFC", pattern), unicodedata.normalize("NFC", value)
    if not (pattern.startswith("^") and pattern.endswith("$") and len(pattern) > 1):
        pattern = ".*".join(re.escape(part) for part in pattern.split("*"))
    return re.fullmatch(pattern, value, re.DOTALL) is not None


def model_labels(selector: LabelSelector | None, labels: Mapping[str, str]) -> bool:
    if not selector:
        return False
    if "*" in selector:
        return True
    target = {unicodedata.normalize("NFC", key): value for key, value in labels.items()}
    return all(
        unicodedata.normalize("NFC", key) in target
        and any(model_value(value, target[unicodedata.normalize("NFC", key)]) for value in values)
        for key, values in selector.items()
    )


def model_allows(roles: Sequence[Role], held: Sequence[str], login: str, labels: Mapping[str, str]) -> bool:
    for role in roles:
        if login in role.spec.deny.logins or "*" in role.spec.deny.logins:
            return False
        if model_labels(role.spec.deny.node_labels, labels):
            return False
    if login not in held:
        return False
    for role in roles:
        selector = role.spec.allow.node_labels
        if selector is None and role.version == "v3" and role.spec.allow.logins:
            selector = {"*": ("*",)}
        if login in role.spec.allow.logins and model_labels(selector, labels):
            return True
    return False


NFD = unicodedata.normalize("NFD", "é")
KEYS = st.sampled_from(["env", "env", "env", "Env", "é", NFD, ""])
VALUES = st.sampled_from(["", "prod", "prod", "Prod", "prod.", "é", NFD, "::1", "0::1", "a*b", "prod-1", "^", "$"])
SELECTED = VALUES | st.sampled_from(["*", "pro*", "*d", "p*d*", "**", "^prod$", "^pro.*$", "^(?i:PROD)$", "^$", "^é$"])
SELECTORS = st.just({"*": ("*",)}) | st.dictionaries(KEYS, st.lists(SELECTED, max_size=3).map(tuple), max_size=2)
LABELS = st.dictionaries(KEYS, VALUES, max_size=3).filter(
    lambda labels: len({unicodedata.normalize("NFC", key) for key in labels}) == len(labels)
)
LOGINS = st.lists(st.sampled_from(["root", "Root", "alice", "bob"]), max_size=3).map(tuple)
DENIED_LOGINS = LOGINS | st.just(("*",))


@st.composite
def roles(draw: st.DrawFn) -> tuple[Role, ...]:
    return tuple(
        Role(
            version=draw(st.sampled_from(["v3", "v4"])),
            metadata=Metadata(name=f"role-{number}"),
            spec=RoleSpec(
                allow=Conditions(logins=draw(LOGINS), node_labels=draw(st.none() | SELECTORS)),
                deny=Conditions(
                    logins=draw(st.just(()) | DENIED_LOGINS), node_labels=draw(st.none() | st.none() | SELECTORS)
                ),
            ),
        )
        for number in range(draw(st.integers(0, 3)))
    )


@settings(max_examples=500, deadline=None)
@given(SELECTORS, LABELS)
@example({"env": ("^prod$",)}, {"env": "prod\n"})
def test_label_matching_agrees_with_the_model(selector: LabelSelector, labels: Mapping[str, str]) -> None:
    assert matches(selector, labels) is model_labels(selector, labels)


@settings(max_examples=200, deadline=None)
@given(roles(), LOGINS, st.sampled_from(["root", "Root", "alice", "bob"]), LABELS)
def test_decisions_agree_with_the_model(
    given_roles: tuple[Role, ...], held: tuple[str, ...], login: str, labels: Mapping[str, str]
) -> None:
    """Whatever the roles, deny wins, and allow needs login and labels in one role."""
    identity = UserIdentity("alice", "c", tuple(role.name for role in given_roles), held, NOW + timedelta(hours=1))
    request = SSHAccessRequest(identity, login, "c", NOW, "node", node_labels=labels)
    outcome = evaluate_ssh_access(request, Policy(roles={role.name: role for role in given_roles}))
    assert isinstance(outcome, SSHAccessPermit) is model_allows(given_roles, held, login, labels)


@settings(deadline=None)
@given(st.text("ab*", max_size=8), st.text("ab\n", max_size=8))
def test_globs_agree_with_the_model(pattern: str, value: str) -> None:
    assert match_glob(pattern, value) is model_value(pattern, value)


def test_a_hostile_glob_is_quick() -> None:
    """Linear in practice; a backtracking matcher would not come back."""
    assert not match_glob("*a" * 200 + "b", "a" * 5000)
