"""Regular expressions with RE2's syntax that take time in proportion to the pattern times the text, whatever they are.

Roles hold expressions and hosts and identity providers hold the values, so a pattern that Python's `re` would chew on
for hours must not stop the service. The parser writes a small program; the machine follows all ways through it side
by side (Thompson's method with captures as in https://swtch.com/~rsc/regexp/regexp2.html). Not supported, as in RE2:
back references, looking ahead or behind, possessive and atomic groups. Not supported although RE2 does: `\\p`, `\\Q`,
`\\C`, octal escapes and the flag U. `\\d`, `\\w`, `\\s` and `\\b` are ASCII.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto

MAX_INSTRUCTIONS = 1000
MAX_REPEAT = 1000
MAX_DEPTH = 50


class BadPattern(ValueError):
    """The expression is not one that is accepted; the message says why."""


Ranges = tuple[tuple[int, int], ...]  # of code points, inclusive, sorted
_LAST = 0x10FFFF


def _union(*parts: Ranges) -> Ranges:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(pair for part in parts for pair in part):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def _complement(ranges: Ranges) -> Ranges:
    result, at = [], 0
    for low, high in ranges:
        if low > at:
            result.append((at, low - 1))
        at = high + 1
    return (*result, (at, _LAST)) if at <= _LAST else tuple(result)


def _of(text: str) -> Ranges:
    """Ranges written as pairs: `azAZ` is a-z and A-Z."""
    return _union(tuple((ord(text[i]), ord(text[i + 1])) for i in range(0, len(text), 2)))


_DIGIT, _WORD, _SPACE = _of("09"), _of("09AZaz__"), _of("\t\n\f\r  ")
_CLASSES = {"d": _DIGIT, "w": _WORD, "s": _SPACE}
_CLASSES |= {name.upper(): _complement(ranges) for name, ranges in _CLASSES.items()}
_NAMED = {
    "alnum": _of("09AZaz"), "alpha": _of("AZaz"), "ascii": ((0, 127),), "blank": _of("\t\t  "), "digit": _DIGIT,
    "cntrl": ((0, 31), (127, 127)), "graph": _of("!~"), "lower": _of("az"), "print": _of(" ~"), "space": _of("\t\r  "),
    "punct": _of("!/:@[`{~"), "upper": _of("AZ"), "word": _WORD, "xdigit": _of("09AFaf"),
}  # fmt: skip
_CONTROLS = {"a": 7, "f": 12, "t": 9, "n": 10, "r": 13, "v": 11}


class At(Enum):
    """Places that match without taking a character."""

    BEGIN = auto()
    END = auto()
    LINE_BEGIN = auto()
    LINE_END = auto()
    WORD = auto()
    NOT_WORD = auto()


@dataclass(frozen=True, slots=True)
class Take:
    """Takes one character of the set, or of what is not in it; `fold` also compares its other case."""

    ranges: Ranges
    fold: bool = False
    negated: bool = False

    def takes(self, character: str) -> bool:
        return self._takes_plain(character) is not self.negated

    def _takes_plain(self, character: str) -> bool:
        if self._has(ord(character)):
            return True
        return self.fold and any(len(c) == 1 and self._has(ord(c)) for c in (character.lower(), character.upper()))

    def _has(self, point: int) -> bool:
        return any(low <= point <= high for low, high in self.ranges)


@dataclass(frozen=True, slots=True)
class Split:
    """Goes both ways, the first preferred; distances are relative."""

    first: int
    second: int


@dataclass(frozen=True, slots=True)
class Jump:
    by: int


@dataclass(frozen=True, slots=True)
class Save:
    slot: int


@dataclass(frozen=True, slots=True)
class Match:
    pass


Instruction = Take | Split | Jump | Save | Match | At
Code = tuple[Instruction, ...]
Spans = tuple[int, ...]  # begin and end of the match and of each group; -1 where a group took no part


@dataclass(frozen=True, slots=True)
class Program:
    """A pattern ready to run. `groups` maps names and numbers (as text) of groups to numbers."""

    code: Code
    groups: dict[str, int]

    @property
    def slots(self) -> int:
        return 2 * (max(self.groups.values()) + 1)

    def fullmatch(self, text: str) -> bool:
        """Whether all of `text` is matched."""
        code = (*self.code[:-1], At.END, Match())
        return _run(code, text, 0, self.slots, anchored=True) is not None

    def search(self, text: str, start: int = 0) -> Spans | None:
        """The leftmost match from `start` on, preferring as Perl does; None if there is none."""
        return _run(self.code, text, start, self.slots, anchored=False)


def compile_regex(source: str) -> Program:
    """The program of `source`; raises `BadPattern`."""
    parser = _Parser(source)
    code = parser.alternatives(_Flags(), 0)
    if parser.at < len(source):
        raise BadPattern("a group is closed that was not opened")
    return Program((Save(0), *code, Save(1), Match()), parser.groups)


def _run(code: Code, text: str, start: int, slots: int, *, anchored: bool) -> Spans | None:
    found: Spans | None = None
    threads: list[tuple[int, Spans]] = []
    for at in range(start, len(text) + 1):
        entering = list(threads)
        if found is None and (at == start or not anchored):
            entering.append((0, (-1,) * slots))
        if not entering:
            break
        threads = []
        seen: set[int] = set()
        for pc, spans in entering:
            found_here = _follow(code, text, at, pc, spans, seen, threads)
            if found_here is not None:
                found = found_here
                break  # what comes later was less preferred
        # `threads` now wait at a Take, in order of preference.
        if at == len(text):
            break
        taken: dict[int, bool] = {}
        moved: list[tuple[int, Spans]] = []
        for pc, spans in threads:
            instruction = code[pc]
            assert isinstance(instruction, Take)
            if pc not in taken:
                taken[pc] = instruction.takes(text[at])
            if taken[pc]:
                moved.append((pc + 1, spans))
        threads = moved
    return found


def _follow(
    code: Code, text: str, at: int, pc: int, spans: Spans, seen: set[int], waiting: list[tuple[int, Spans]]
) -> Spans | None:
    """Follows one thread to every Take it can reach at `at`; gives the spans if it reaches the match first."""
    stack = [(pc, spans)]
    while stack:
        pc, spans = stack.pop()
        if pc in seen:
            continue
        seen.add(pc)
        match code[pc]:
            case Match():
                return spans
            case Jump(by):
                stack.append((pc + by, spans))
            case Split(first, second):
                stack.append((pc + second, spans))
                stack.append((pc + first, spans))
            case Save(slot):
                stack.append((pc + 1, (*spans[:slot], at, *spans[slot + 1 :])))
            case At() as place:
                if _is_at(place, text, at):
                    stack.append((pc + 1, spans))
            case Take():
                waiting.append((pc, spans))
    return None


def _is_at(place: At, text: str, at: int) -> bool:
    match place:
        case At.BEGIN:
            return at == 0
        case At.END:
            return at == len(text)
        case At.LINE_BEGIN:
            return at == 0 or text[at - 1] == "\n"
        case At.LINE_END:
            return at == len(text) or text[at] == "\n"
    before = at > 0 and _word_character(text[at - 1])
    after = at < len(text) and _word_character(text[at])
    return (before != after) is (place is At.WORD)


def _word_character(character: str) -> bool:
    return character.isascii() and (character.isalnum() or character == "_")


@dataclass(frozen=True, slots=True)
class _Flags:
    fold: bool = False
    dot_all: bool = False
    lines: bool = False


_COUNT = re.compile(r"\{(\d{1,6})(,(\d{0,6}))?\}")
_GROUP = re.compile(r"\(\?(?:P?<([A-Za-z_][A-Za-z0-9_]{0,31})>|([ims]*)(?:-([ims]+))?([:)]))")
_HEX = re.compile(r"\\x(?:([0-9A-Fa-f]{2})|\{([0-9A-Fa-f]{1,6})\})")


class _Parser:
    def __init__(self, source: str) -> None:
        self.source = source
        self.at = 0
        self.groups: dict[str, int] = {"0": 0}
        self.count = 0  # of capturing groups

    @property
    def next(self) -> str:
        return self.source[self.at : self.at + 1]

    def alternatives(self, flags: _Flags, depth: int) -> Code:
        if depth > MAX_DEPTH:
            raise BadPattern("groups are nested too deeply")
        branches: list[Code] = []
        branch: Code = ()
        while self.next not in {"", ")"}:
            if self.next == "|":
                self.at += 1
                branches.append(branch)
                branch = ()
                continue
            group = _GROUP.match(self.source, self.at)
            if group and group[4] == ")":
                if not (group[2] or group[3]):
                    raise BadPattern("'(?)' sets no flag")
                flags = _changed(flags, group[2], group[3] or "")
                self.at = group.end()
                continue
            branch = self._sized((*branch, *self._repeated(flags, depth)))
        branches.append(branch)
        code = branches[-1]
        for before in reversed(branches[:-1]):
            code = self._sized((Split(1, len(before) + 2), *before, Jump(len(code) + 1), *code))
        return code

    def _sized(self, code: Code) -> Code:
        if len(code) > MAX_INSTRUCTIONS:
            raise BadPattern("comes to too many steps; shorten it or lower its counts")
        return code

    def _repeated(self, flags: _Flags, depth: int) -> Code:
        began = self.at
        atom = self._atom(flags, depth)
        counted = _COUNT.match(self.source, self.at)
        if self.next not in {"*", "+", "?"} and not counted:
            return atom
        if len(atom) == 1 and isinstance(atom[0], At):
            raise BadPattern(f"{self.source[began : self.at + 1]!r} repeats a place")
        if counted:
            low = int(counted[1])
            high = low if counted[2] is None else int(counted[3]) if counted[3] else None
            if max(low, high or 0) > MAX_REPEAT or (high is not None and high < low):
                raise BadPattern(f"{counted[0]} is no count of at most {MAX_REPEAT}")
            self.at = counted.end()
        else:
            low, high = {"*": (0, None), "+": (1, None), "?": (0, 1)}[self.next]
            self.at += 1
        lazy = self.next == "?"
        self.at += lazy
        if self.next in {"*", "+", "?"} or _COUNT.match(self.source, self.at):
            raise BadPattern(f"{self.source[began : self.at + 1][-20:]!r} repeats a repetition")
        return self._repeat(atom, low, high, lazy=lazy)

    def _repeat(self, atom: Code, low: int, high: int | None, *, lazy: bool) -> Code:
        if len(atom) * max(low, high or 0) > MAX_INSTRUCTIONS:
            self._sized((Match(),) * (MAX_INSTRUCTIONS + 1))
        code = atom * low
        if high is None:
            if low:
                return self._sized((*code, _split(-len(atom), 1, lazy)))
            return self._sized((_split(1, len(atom) + 2, lazy), *atom, Jump(-len(atom) - 1)))
        rest: Code = ()
        for _ in range(high - low):
            rest = self._sized((_split(1, len(atom) + len(rest) + 1, lazy), *atom, *rest))
        return self._sized((*code, *rest))

    def _atom(self, flags: _Flags, depth: int) -> Code:
        character = self.next
        match character:
            case "(":
                return self._group(flags, depth)
            case "[":
                return (self._set(flags),)
            case "*" | "+" | "?":
                raise BadPattern(f"{character!r} repeats nothing")
            case "\\":
                return (self._escape(flags),)
            case ".":
                self.at += 1
                return (Take(_complement(()) if flags.dot_all else _complement(_of("\n\n"))),)
            case "^":
                self.at += 1
                return (At.LINE_BEGIN if flags.lines else At.BEGIN,)
            case "$":
                self.at += 1
                return (At.LINE_END if flags.lines else At.END,)
        if _COUNT.match(self.source, self.at):
            raise BadPattern("a count repeats nothing")
        self.at += 1
        return (Take(((ord(character), ord(character)),), flags.fold),)

    def _group(self, flags: _Flags, depth: int) -> Code:
        slot = None
        if self.source.startswith("(?", self.at):
            group = _GROUP.match(self.source, self.at)
            if group is None:
                raise BadPattern(f"{self.source[self.at : self.at + 4]!r}: groups of this kind are not allowed")
            if group[1]:
                if group[1] in self.groups:
                    raise BadPattern(f"two groups are called {group[1]!r}")
                slot = self._new_group(group[1])
            else:
                flags = _changed(flags, group[2], group[3] or "")
            self.at = group.end()
        else:
            self.at += 1
            slot = self._new_group()
        inner = self.alternatives(flags, depth + 1)
        if self.next != ")":
            raise BadPattern("a group is not closed")
        self.at += 1
        return inner if slot is None else (Save(2 * slot), *inner, Save(2 * slot + 1))

    def _new_group(self, name: str = "") -> int:
        self.count += 1
        self.groups[str(self.count)] = self.count
        if name:
            self.groups[name] = self.count
        return self.count

    def _escape(self, flags: _Flags) -> Take | At:
        following = self.source[self.at + 1 : self.at + 2]
        places = {"b": At.WORD, "B": At.NOT_WORD, "A": At.BEGIN, "z": At.END}
        if following in places:
            self.at += 2
            return places[following]
        return Take(self._escaped_set(), flags.fold)

    def _escaped_set(self) -> Ranges:
        """A set or a single character after a backslash."""
        following = self.source[self.at + 1 : self.at + 2]
        if code := _HEX.match(self.source, self.at):
            self.at = code.end()
            point = int(code[1] or code[2], 16)
            if point > _LAST:
                raise BadPattern(f"{code[0]} is no character")
            return ((point, point),)
        if following in _CLASSES:
            self.at += 2
            return _CLASSES[following]
        if following in _CONTROLS or (following and following.isascii() and not following.isalnum()):
            self.at += 2
            point = _CONTROLS.get(following, ord(following))
            return ((point, point),)
        if following.isdigit():
            raise BadPattern(f"\\{following}: back references are not allowed")
        raise BadPattern(f"\\{following} is not an escape" if following else "ends in a lone backslash")

    def _set(self, flags: _Flags) -> Take:
        self.at += 1
        negated = self.next == "^"
        self.at += negated
        parts: list[Ranges] = []
        first = True
        while first or self.next != "]":
            first = False
            if named := re.compile(r"\[:(\^?)(\w+):\]").match(self.source, self.at):
                if named[2] not in _NAMED:
                    raise BadPattern(f"{named[0]} is not a class")
                ranges = _NAMED[named[2]]
                parts.append(_complement(ranges) if named[1] else ranges)
                self.at = named.end()
                continue
            low = self._set_item()
            if self.next == "-" and self.source[self.at + 1 : self.at + 2] not in {"]", ""}:
                self.at += 1
                high = self._set_item()
                if not _single(low) or not _single(high) or high[0][0] < low[0][0]:
                    raise BadPattern("a range in a character class goes from one character to a later one")
                parts.append(((low[0][0], high[0][0]),))
            else:
                parts.append(low)
        self.at += 1
        return Take(_union(*parts), flags.fold, negated)

    def _set_item(self) -> Ranges:
        character = self.next
        if not character:
            raise BadPattern("a character class is not closed")
        if character == "\\":
            return self._escaped_set()
        self.at += 1
        return ((ord(character), ord(character)),)


def _single(ranges: Ranges) -> bool:
    return len(ranges) == 1 and ranges[0][0] == ranges[0][1]


def _split(body: int, after: int, lazy: bool) -> Split:
    return Split(after, body) if lazy else Split(body, after)


def _changed(flags: _Flags, on: str, off: str) -> _Flags:
    def one(letter: str, before: bool) -> bool:
        return (before or letter in on) and letter not in off

    return _Flags(one("i", flags.fold), one("s", flags.dot_all), one("m", flags.lines))


def span(spans: Spans, group: int, text: str) -> str:
    """The text of a group, empty if it took no part."""
    begin, end = spans[2 * group], spans[2 * group + 1]
    return text[begin:end] if begin >= 0 and end >= 0 else ""
