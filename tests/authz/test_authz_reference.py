"""Access against a second, slow and plain model of the same rules (threat T30), on what spellings can differ in.

The model is written from `docs/roles.md` alone and shares no code with the product. Both must agree on every request;
and three laws hold whatever the roles: a role more that denies lets nobody in, the order of roles says nothing, and
another Unicode spelling of the same text changes nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from teleport.authz.decision import Policy
from teleport.authz.ssh import SSHAccessPermit, SSHAccessRequest, evaluate_ssh_access
from teleport.identity import UserIdentity
from teleport.resources.lock import Lock, LockSpec, LockTarget
from teleport.resources.metadata import Metadata
from teleport.resources.role import Conditions, LabelSelector, Role, RoleSpec

NOW = datetime(2030, 1, 1, tzinfo=UTC)
CAFE, CAFE_APART = "caf\u00e9", "cafe\u0301"
TEXTS = ["prod", "Prod", "prod.", "prod\n", "pro", "", CAFE, CAFE_APART, "::1", "0:0:0:0:0:0:0:1", "a*b", "^prod$"]
PATTERNS = ["*", "p*", "*d", "*o*", "**", "^prod$", "^pro$", "^(?i)prod$", "^.*$", "^$", "^pr[aeiou]d|dev$"]
PATTERNS += [f"^{CAFE_APART}$", f"{CAFE[:3]}*", "prod$", "^prod", "^[$", "^(prod$", "^a\\*b$"]
KEYS = ["env", "Env", CAFE, CAFE_APART, "*"]
LOGINS = ["root", "Root", "ann"]


# --- the model


def same(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def fits(pattern: str, value: str) -> bool | None:
    """None: it cannot be evaluated."""
    pattern = same(pattern)
    if pattern.startswith("^") and pattern.endswith("$"):
        inner = pattern[1:-1]
        flags = re.IGNORECASE if inner.startswith("(?i)") else 0
        try:
            compiled = re.compile(f"(?:{inner.removeprefix('(?i)')})", flags)
        except re.error:
            return None
        # The anchors bind closer than the bar: `^a|b$` is `^a` or `b$`, and the whole value has to match.
        return compiled.fullmatch(value) is not None
    words = [re.escape(word) for word in pattern.split("*")]
    return re.fullmatch(".*".join(words), value, re.DOTALL) is not None


def selects(selector: LabelSelector | None, labels: Mapping[str, str]) -> bool | None:
    if not selector:
        return False
    if list(selector.get("*", ())) == ["*"]:
        return True
    answers: list[bool | None] = []
    for key, patterns in selector.items():
        if key == "*":
            answers.append(None)
        elif same(key) not in labels:
            answers.append(False)
        else:
            each = [fits(pattern, labels[same(key)]) for pattern in patterns]
            answers.append(True if True in each else None if None in each else False)
    return None if None in answers else all(answers)


def lets_in(roles: Sequence[Role], login: str, given_labels: Mapping[str, str]) -> bool:
    labels: dict[str, str] = {}
    for key, value in given_labels.items():
        if labels.setdefault(same(key), same(value)) != same(value):
            return False  # a host that says two things at once
    for role in roles:
        if login in role.deny.logins or "*" in role.deny.logins or selects(role.deny.node_labels, labels) is not False:
            return False
    return any(login in role.allow.logins and selects(role.allow.node_labels, labels) is True for role in roles)


# --- the two side by side

selectors = st.none() | st.dictionaries(
    st.sampled_from(KEYS), st.lists(st.sampled_from([*TEXTS, *PATTERNS]), max_size=3).map(tuple), max_size=3
)
logins = st.lists(st.sampled_from([*LOGINS, "*"]), max_size=2).map(tuple)
conditions = st.builds(lambda names, labels: Conditions(logins=names, node_labels=labels), logins, selectors)
nothing = st.just(Conditions())
wide = st.builds(lambda labels: Conditions(logins=("root", "ann"), node_labels=labels), selectors)
roles = st.lists(
    st.builds(lambda allow, deny: (allow, deny), conditions | wide, nothing | nothing | conditions), max_size=3
).map(lambda pairs: [role(f"r{at}", *pair) for at, pair in enumerate(pairs)])
labels_of_hosts = st.dictionaries(st.sampled_from(KEYS[:4]), st.sampled_from(TEXTS), max_size=3)


def role(name: str, allow: Conditions, deny: Conditions | None = None) -> Role:
    return Role(metadata=Metadata(name=name), spec=RoleSpec(allow=allow, deny=deny or Conditions()))


def request(held: Sequence[Role], login: str, labels: Mapping[str, str]) -> SSHAccessRequest:
    identity = UserIdentity("ann", "main", tuple(one.name for one in held), tuple(LOGINS), NOW + timedelta(hours=1))
    return SSHAccessRequest(identity, login, "main", NOW, "node-1", "Alpha.Example", labels)


def permitted(held: Sequence[Role], login: str, labels: Mapping[str, str]) -> bool:
    policy = Policy(roles={one.name: one for one in held})
    return isinstance(evaluate_ssh_access(request(held, login, labels), policy), SSHAccessPermit)


def only(key: str, *values: str) -> list[Role]:
    return [role("r0", Conditions(logins=("root",), node_labels={key: values}))]


@settings(max_examples=800, deadline=None, derandomize=True)
@given(roles, st.sampled_from(LOGINS), labels_of_hosts)
@example(only("env", "^prod$"), "root", {"env": "prod\n"})
@example(only(CAFE, CAFE), "root", {CAFE_APART: CAFE_APART})
@example(only("env", ""), "root", {"env": ""})
@example(only("env", "::1"), "root", {"env": "0:0:0:0:0:0:0:1"})
@example(only("*", "prod"), "root", {"env": "prod"})
def test_the_decision_is_the_model_s(held: list[Role], login: str, labels: dict[str, str]) -> None:
    assert permitted(held, login, labels) is lets_in(held, login, labels)


@settings(max_examples=250, deadline=None, derandomize=True)
@given(roles, conditions, st.sampled_from(LOGINS), labels_of_hosts)
def test_a_role_more_that_denies_lets_nobody_in_and_order_says_nothing(
    held: list[Role], deny: Conditions, login: str, labels: dict[str, str]
) -> None:
    before = permitted(held, login, labels)
    assert permitted([*reversed(held)], login, labels) is before
    for more in ([*held, role("deny", Conditions(), deny)], [role("deny", Conditions(), deny), *held]):
        assert before or not permitted(more, login, labels)


@settings(max_examples=250, deadline=None, derandomize=True)
@given(roles, st.sampled_from(LOGINS), labels_of_hosts, st.sampled_from(["NFC", "NFD"]))
def test_another_unicode_spelling_changes_nothing(
    held: list[Role], login: str, labels: dict[str, str], form: str
) -> None:
    def spelled(text: str) -> str:
        return unicodedata.normalize(form, text)  # type: ignore[arg-type]

    if len({unicodedata.normalize("NFC", key) for key in labels}) < len(labels):
        return
    again = {spelled(key): spelled(value) for key, value in labels.items()}
    assert permitted(held, login, again) is permitted(held, login, labels)


@pytest.mark.parametrize("planted", [str.casefold, str.strip, lambda text: text.rstrip(".")])
def test_the_model_finds_a_planted_fault(planted: object) -> None:
    """A decision that forgives case, blanks or a final dot differs from the model somewhere."""
    assert callable(planted)
    differs = [
        (pattern, text)
        for pattern in [*TEXTS, *PATTERNS]
        for text in TEXTS
        if permitted(only("env", planted(pattern)), "root", {"env": planted(text)})
        is not lets_in(only("env", pattern), "root", {"env": text})
    ]
    assert differs


SPELLINGS = ["Alpha.Example", "alpha.example", "ALPHA.EXAMPLE.", "node-1", "NODE-1"]


@pytest.mark.parametrize("target", SPELLINGS)
def test_no_spelling_of_a_host_escapes_its_lock(target: str) -> None:
    held = only("env", "*")
    open_request = request(held, "root", {"env": "x"})
    policy = Policy(roles={one.name: one for one in held})
    assert isinstance(evaluate_ssh_access(open_request, policy), SSHAccessPermit)
    lock = Lock(metadata=Metadata(name="l"), spec=LockSpec(target=LockTarget(node=target)))
    assert not isinstance(evaluate_ssh_access(replace(open_request, locks=(lock,)), policy), SSHAccessPermit)


@pytest.mark.parametrize(
    ("written", "asked"), [("::1", "0:0:0:0:0:0:0:1"), ("10.0.0.1", "::ffff:10.0.0.1"), ("[::1]", "::1")]
)
def test_no_spelling_of_an_address_escapes_its_lock(written: str, asked: str) -> None:
    held = only("env", "*")
    lock = Lock(metadata=Metadata(name="l"), spec=LockSpec(target=LockTarget(node=written)))
    locked = replace(request(held, "root", {"env": "x"}), node_hostname=asked, locks=(lock,))
    assert not isinstance(evaluate_ssh_access(locked, Policy(roles={one.name: one for one in held})), SSHAccessPermit)
