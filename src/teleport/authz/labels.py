"""Matches label selectors against the labels of a target (`resources.md` 4).

Labels are brought to one form once (Unicode NFC, nothing else: labels are text, so case, trailing dots and spellings
of addresses all count). Selectors are compared in the same form. A selector that cannot be evaluated raises
`BadSelector`; under deny that is a hit, under allow it is none.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NewType

from teleport.resources.pattern import BadPattern, compile_pattern, is_pattern
from teleport.resources.role import LabelSelector

WILDCARD = "*"
CanonicalLabels = NewType("CanonicalLabels", Mapping[str, str])


class AmbiguousLabels(ValueError):
    """Two keys of a target are the same in canonical form with different values."""


class BadSelector(ValueError):
    """The selector holds an expression that cannot be evaluated (a trait may have brought it)."""


def canonical_labels(labels: Mapping[str, str]) -> CanonicalLabels:
    """The one form of a target's labels; raises `AmbiguousLabels`."""
    result: dict[str, str] = {}
    for key, value in labels.items():
        name, text = unicodedata.normalize("NFC", key), unicodedata.normalize("NFC", value)
        if result.setdefault(name, text) != text:
            raise AmbiguousLabels(f"label {name!r} has two values")
    return CanonicalLabels(result)


@dataclass(frozen=True, slots=True)
class LabelMatch:
    """Whether a selector matched, and in words why not (for the record, not for the caller)."""

    matched: bool
    why: str = ""


def match_labels(selector: LabelSelector | None, labels: CanonicalLabels) -> LabelMatch:
    """Whether `selector` matches; raises `BadSelector`. Absent and empty selectors match nothing."""
    if not selector:
        return LabelMatch(False, "selects no host")
    if tuple(selector.get(WILDCARD, ())) == (WILDCARD,):
        return LabelMatch(True)
    unmatched: LabelMatch | None = None
    for key, values in selector.items():
        name = unicodedata.normalize("NFC", key)
        if key == WILDCARD:
            raise BadSelector("the key '*' takes the value '*' only")
        target = labels.get(name)
        found = target is not None and _match_any(values, target)
        if not found and unmatched is None:
            unmatched = LabelMatch(False, _why(name, target))
    return unmatched or LabelMatch(True)


def _why(key: str, target: str | None) -> str:
    if target is None:
        return f"needs label {key!r}, which the host does not have"
    return f"label {key!r} is {target[:64]!r}, which does not match"


def _match_any(patterns: Sequence[str], value: str) -> bool:
    """Whether one of `patterns` matches; one that cannot be evaluated only counts if no other does."""
    bad: BadSelector | None = None
    for pattern in patterns:
        try:
            if _match_value(pattern, value):
                return True
        except BadSelector as error:
            bad = bad or error
    if bad is not None:
        raise bad
    return False


def _match_value(pattern: str, value: str) -> bool:
    """`pattern` is literal, a glob with `*`, or `^a regular expression$`; case counts, the whole value has to match."""
    pattern = unicodedata.normalize("NFC", pattern)
    if pattern == WILDCARD:
        return True
    if is_pattern(pattern):
        try:
            return compile_pattern(pattern).fullmatch(value)
        except BadPattern as error:
            raise BadSelector(f"{pattern[:64]!r}: {error}") from None
    return match_glob(pattern, value)


def match_glob(pattern: str, value: str) -> bool:
    """Whether `value` is `pattern` with any text for each `*`; time grows with the product of the lengths at most."""
    first, *rest = pattern.split("*")
    if not rest:
        return pattern == value
    if not value.startswith(first):
        return False
    at = len(first)
    for part in rest[:-1]:
        found = value.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    last = rest[-1]
    return len(value) - at >= len(last) and value.endswith(last)
