"""Regular expressions as roles may use them: the part of RE2 that Python's `re` shares, refused otherwise.

Roles are read by other implementations too, so what RE2 refuses is refused here (back references, looking ahead or
behind, possessive and atomic groups), and what the two read differently is either translated (`$`) or refused.
Repetition inside repetition is refused as well: `re` backtracks, and a pattern like `(a+)+` on a hostile value would
stop the service (RE2 is linear and does not mind).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

MAX_PATTERN = 1024  # characters
_ESCAPED_CLASSES = "dDsSwWbBAntrfv"  # escapes of letters that both engines read alike


class BadPattern(ValueError):
    """The expression is not one that RE2 and we accept; the message says why."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """A checked expression. `search` finds the first match, `fullmatch` asks about the whole value."""

    source: str
    compiled: re.Pattern[str]

    def fullmatch(self, value: str) -> bool:
        return self.compiled.fullmatch(value) is not None

    def replace(self, value: str, replacement: str) -> str | None:
        """`value` with every match replaced (`$1`, `${1}`, `${name}`, `$$` as in Go); None when nothing matches."""
        if self.compiled.search(value) is None:
            return None
        return self.compiled.sub(lambda match: _expand(match, replacement), value)


def is_pattern(value: str) -> bool:
    """Whether a selector's value is a regular expression: it begins with `^` and ends with `$`."""
    return len(value) >= 2 and value.startswith("^") and value.endswith("$")


@lru_cache(maxsize=4096)
def compile_pattern(source: str) -> Pattern:
    """The checked form of `source`; raises `BadPattern`."""
    if len(source) > MAX_PATTERN:
        raise BadPattern(f"is longer than {MAX_PATTERN} characters")
    translated = _Scanner(source).translate()
    try:
        return Pattern(source, re.compile(translated, re.ASCII))
    except (re.error, OverflowError, RecursionError) as error:
        raise BadPattern(str(error)) from None


@dataclass(slots=True)
class _Group:
    """What is known of an open group: whether something in it repeats, and the flags it set."""

    repeats: bool = False
    alternates: bool = False


class _Scanner:
    """Walks the expression once, refusing what RE2 refuses, and writes it as `re` understands it."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.at = 0
        self.out: list[str] = []
        self.groups = [_Group()]
        self.last: _Group | None = None  # what a repetition that follows would repeat; None: nothing

    def translate(self) -> str:
        while self.at < len(self.source):
            self._step()
        if len(self.groups) > 1:
            raise BadPattern("a group is not closed")
        return "".join(self.out)

    def _step(self) -> None:
        character = self.source[self.at]
        match character:
            case "\\":
                self.out.append(self._escape())
                self.last = _Group()
            case "[":
                self.out.append(self._class())
                self.last = _Group()
            case "(":
                self._open()
            case ")":
                self._close()
            case "*" | "+" | "?":
                self._repeat(character, unbounded=character != "?")
            case "{" if bounds := re.compile(r"\{(\d+)(,(\d*))?\}").match(self.source, self.at):
                low, comma, high = bounds[1], bounds[2], bounds[3]
                if max(int(low), int(high or 0)) > 1000:
                    raise BadPattern("repeats more than 1000 times")
                self._repeat(bounds[0], unbounded=bool(comma) or int(low) > 1)
            case "|":
                self.groups[-1].alternates = True
                self.out.append("|")
                self.at += 1
                self.last = None
            case "$":
                # In `re`, `$` also matches before a final newline; in RE2 it does not.
                self.out.append(r"\Z")
                self.at += 1
                self.last = None
            case "^":
                self.out.append("^")
                self.at += 1
                self.last = None
            case _:
                self.out.append(re.escape(character) if character in "{}" else character)
                self.at += 1
                self.last = _Group()

    def _escape(self) -> str:
        if self.at + 1 >= len(self.source):
            raise BadPattern("ends in a lone backslash")
        following = self.source[self.at + 1]
        if following.isdigit():
            raise BadPattern(f"\\{following}: back references and octal escapes are not allowed")
        if following == "z":
            self.at += 2
            return r"\Z"
        if following == "x" and (code := re.compile(r"\\x([0-9a-fA-F]{2})").match(self.source, self.at)):
            self.at = code.end()
            return code[0]
        if following.isalpha() and following not in _ESCAPED_CLASSES:
            raise BadPattern(f"\\{following} is not supported")
        if not following.isascii():
            raise BadPattern(f"\\{following} is not an escape")
        self.at += 2
        return "\\" + following

    def _class(self) -> str:
        out = ["["]
        self.at += 1
        if self.source.startswith("^", self.at):
            out.append("^")
            self.at += 1
        first = True
        while True:
            if self.at >= len(self.source):
                raise BadPattern("a character class is not closed")
            character = self.source[self.at]
            if character == "]" and not first:
                self.at += 1
                return "".join([*out, "]"])
            if self.source.startswith("[:", self.at):
                raise BadPattern("named classes like [:alpha:] are not supported")
            if self.source.startswith("--", self.at):
                raise BadPattern("two dashes inside a character class; write \\- for a dash")
            if character == "\\":
                if self.source[self.at + 1 : self.at + 2] in {"b", "B", "A", "z"}:
                    raise BadPattern(f"\\{self.source[self.at + 1]} is not allowed inside a character class")
                out.append(self._escape())
            else:
                # `re` warns of sets inside sets (`[[`, `--`, `&&`): a literal sign is escaped.
                out.append("\\" + character if character in "[&~|]" else character)
                self.at += 1
            first = False

    def _open(self) -> None:
        rest = self.source[self.at :]
        if not rest.startswith("(?"):
            self.out.append("(")
            self.at += 1
        elif rest.startswith("(?:"):
            self.out.append("(?:")
            self.at += 3
        elif named := re.match(r"\(\?P?<([A-Za-z_]\w*)>", rest):
            self.out.append(f"(?P<{named[1]}>")
            self.at += len(named[0])
        elif flags := re.match(r"\(\?([is]+)(:|\))", rest):
            if flags[2] == ")" and self.at > 1:
                raise BadPattern("flags belong at the beginning")
            if flags[2] == ")":
                # `re` wants flags before everything, also before the anchor.
                self.out.insert(0, f"(?{flags[1]})")
                self.at += len(flags[0])
                return
            self.out.append(flags[0])
            self.at += len(flags[0])
        else:
            raise BadPattern(f"{rest[:4]!r}: looking ahead or behind, back references and such groups are not allowed")
        self.groups.append(_Group())
        if len(self.groups) > 50:
            raise BadPattern("groups are nested too deeply")
        self.last = None

    def _close(self) -> None:
        if len(self.groups) == 1:
            raise BadPattern("a group is closed that was not opened")
        self.last = self.groups.pop()
        self.groups[-1].repeats |= self.last.repeats
        self.out.append(")")
        self.at += 1

    def _repeat(self, text: str, *, unbounded: bool) -> None:
        if self.last is None:
            raise BadPattern(f"{text!r} repeats nothing")
        if unbounded and (self.last.repeats or self.last.alternates):
            raise BadPattern(f"{text!r} repeats a group that itself repeats or has alternatives")
        self.at += len(text)
        self.out.append(text)
        if self.source.startswith("?", self.at):  # the lazy form
            self.out.append("?")
            self.at += 1
        if self.at < len(self.source) and self.source[self.at] in "*+?":
            raise BadPattern(f"{text}{self.source[self.at]} is not a repetition")
        self.groups[-1].repeats = True
        self.last = None


_REFERENCE = re.compile(r"\$(?:\$|\{(\w+)\}|(\w+))")


def _expand(match: re.Match[str], replacement: str) -> str:
    def one(reference: re.Match[str]) -> str:
        name = reference[1] or reference[2]
        if name is None:
            return "$"
        try:
            return match[int(name) if name.isdigit() else name] or ""
        except (IndexError, KeyError):
            return ""  # as in Go: an unknown group is empty

    return _REFERENCE.sub(one, replacement)
