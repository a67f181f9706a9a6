"""Matches label selectors against the labels of a target (`resources.md` 4).

Labels are brought to one form once (Unicode NFC, nothing else: labels are text, so case, trailing dots and spellings
of addresses all count). Selectors are compared in the same form. A selector that cannot be evaluated raises
`BadSelector`; under deny that is a hit, under allow it is none.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NewType

from teleport.resources.pattern import BadPattern, Pattern, compile_pattern, is_pattern
from teleport.resources.role import LabelSelector

WILDCARD = "*"
CanonicalLabels = NewType("CanonicalLabels", Mapping[str, str])


class AmbiguousLabels(ValueError):
    """Two keys of a target are the same in canonical form with different values."""


class BadSelector(ValueError):
    """The selector holds an expression that cannot be evaluated (a trait may have brought it)."""


def canonical_labels(labels: Mapping[str, str]) -> CanonicalLabels:
    """The one form of a target's labels; raises `AmbiguousLabels`."""
    if "".join(labels).isascii() and "".join(labels.values()).isascii():
        return CanonicalLabels(labels)  # has one form only
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


MATCHED: Final = LabelMatch(True)


@dataclass(frozen=True, slots=True)
class _Values:
    """The values that a selector has for one label, of which one has to match; sorted by what matching takes."""

    texts: frozenset[str]
    globs: tuple[str, ...]
    patterns: tuple[Pattern, ...]
    bad: str  # why the first that cannot be evaluated cannot; it only counts if no other matches
    anything: bool

    @classmethod
    @lru_cache(maxsize=1024)
    def of(cls, values: tuple[str, ...]) -> _Values:
        """Each value is literal, a glob with `*`, or `^a regular expression$`; case counts."""
        texts, globs, patterns, bad = set[str](), list[str](), list[Pattern](), ""
        for value in (unicodedata.normalize("NFC", one) for one in values):
            if is_pattern(value):
                try:
                    patterns.append(compile_pattern(value))
                except BadPattern as error:
                    bad = bad or f"{value[:64]!r}: {error}"
            elif WILDCARD in value:
                globs.append(value)
            else:
                texts.add(value)
        return cls(frozenset(texts), tuple(globs), tuple(patterns), bad, WILDCARD in globs)

    def match(self, value: str) -> bool:
        """Whether one of them is the whole of `value`; raises `BadSelector`."""
        if self.anything or value in self.texts:
            return True
        if any(match_glob(glob, value) for glob in self.globs) or any(one.fullmatch(value) for one in self.patterns):
            return True
        if self.bad:
            raise BadSelector(self.bad)
        return False


@dataclass(frozen=True, slots=True)
class Selector:
    """A label selector, read once and matched against any number of targets. Absent and empty ones match nothing."""

    everything: bool
    wanted: tuple[tuple[str, _Values | None], ...]  # without values: what no key may be

    @classmethod
    def of(cls, selector: LabelSelector | None) -> Selector:
        given = selector or {}
        if tuple(given.get(WILDCARD, ())) == (WILDCARD,):
            return cls(True, ())
        return cls(
            False,
            tuple(
                (unicodedata.normalize("NFC", key), None if key == WILDCARD else _Values.of(tuple(values)))
                for key, values in given.items()
            ),
        )

    @property
    def names(self) -> frozenset[str]:
        """The labels that it looks at. What a target says in others changes nothing."""
        return frozenset(name for name, _ in self.wanted)

    def match(self, labels: CanonicalLabels) -> LabelMatch:
        """Whether it matches; raises `BadSelector`."""
        if self.everything:
            return MATCHED
        if not self.wanted:
            return LabelMatch(False, "selects no host")
        name = self._unmatched(labels)
        return MATCHED if name is None else LabelMatch(False, _why(name, labels.get(name)))

    def matches(self, labels: CanonicalLabels) -> bool:
        """As `match`, without words."""
        return self.everything or (bool(self.wanted) and self._unmatched(labels) is None)

    def _unmatched(self, labels: CanonicalLabels) -> str | None:
        """The first label that is not as wanted; all are looked at: what cannot be evaluated counts anywhere."""
        unmatched: str | None = None
        for name, values in self.wanted:
            if values is None:
                raise BadSelector("the key '*' takes the value '*' only")
            target = labels.get(name)
            if (target is None or not values.match(target)) and unmatched is None:
                unmatched = name
        return unmatched


def match_labels(selector: LabelSelector | None, labels: CanonicalLabels) -> LabelMatch:
    """Whether `selector` matches; raises `BadSelector`. Absent and empty selectors match nothing."""
    return Selector.of(selector).match(labels)


def _why(key: str, target: str | None) -> str:
    if target is None:
        return f"needs label {key!r}, which the host does not have"
    return f"label {key!r} is {target[:64]!r}, which does not match"


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
