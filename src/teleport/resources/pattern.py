"""Regular expressions as roles hold them: `^...$` in label selectors, and in `regexp.replace` and `regexp.match`.

They have RE2's syntax and its promise that no expression runs away (`regex`); other implementations read the same
roles. The whole value has to match; replacement texts are Go's (`$1`, `${1}`, `${name}`, `$$`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from teleport.resources.regex import BadPattern as BadPattern
from teleport.resources.regex import Program, Spans, compile_regex, span

MAX_PATTERN = 1024  # characters
MAX_VALUE = 1024  # characters; longer values match nothing (labels and traits are shorter)
_REMEMBERED = 256  # characters; answers about longer values are not kept in memory


@dataclass(frozen=True, slots=True)
class Pattern:
    """A checked expression."""

    source: str
    program: Program

    def fullmatch(self, value: str) -> bool:
        """Whether the whole of `value` matches."""
        if len(value) > MAX_VALUE:
            return False
        if len(value) > _REMEMBERED:
            return self.program.fullmatch(value)
        return _fullmatch(self.source, value)

    def replace(self, value: str, replacement: str) -> str | None:
        """`value` with every match replaced; None when nothing matches.

        As in Go, an empty match right after another match is none.
        """
        if len(value) > MAX_VALUE:
            return None
        result: list[str] = []
        copied, at, last_end = 0, 0, -1
        while at <= len(value) and (spans := self.program.search(value, at)) is not None:
            begin, end = spans[0], spans[1]
            if begin == end == last_end:
                at = end + 1
                continue
            result += [value[copied:begin], _expand(self.program, spans, value, replacement)]
            copied = last_end = end
            at = end if end > begin else end + 1
        if last_end < 0:
            return None
        return "".join([*result, value[copied:]])


def is_pattern(value: str) -> bool:
    """Whether a selector's value is a regular expression: it begins with `^` and ends with `$`."""
    return len(value) >= 2 and value.startswith("^") and value.endswith("$")


@lru_cache(maxsize=4096)
def compile_pattern(source: str) -> Pattern:
    """The checked form of `source`; raises `BadPattern`."""
    if len(source) > MAX_PATTERN:
        raise BadPattern(f"is longer than {MAX_PATTERN} characters")
    return Pattern(source, compile_regex(source))


@lru_cache(maxsize=16384)
def _fullmatch(source: str, value: str) -> bool:
    """Many hosts have the same few values: answers are remembered."""
    return compile_pattern(source).program.fullmatch(value)


_REFERENCE = re.compile(r"\$(?:\$|\{(\w+)\}|(\w+))", re.ASCII)


def _expand(program: Program, spans: Spans, value: str, replacement: str) -> str:
    def one(reference: re.Match[str]) -> str:
        name = reference[1] or reference[2]
        if name is None:
            return "$"
        group = program.groups.get(name)
        return "" if group is None else span(spans, group, value)  # as in Go: an unknown group is empty

    return _REFERENCE.sub(one, replacement)
