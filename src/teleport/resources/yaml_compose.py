"""YAML text to a tree of plain values with lines: the part of reading files that faces hostile input.

PyYAML's parser events are composed here without recursion, because PyYAML's own composer recurses as deep as the file,
keeps the last of duplicate keys, and lets aliases grow without limit. Limited are size, depth, aliases, and the number
of values with all aliases written out. Nothing but `Unreadable` is raised.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, Self

import yaml

from teleport.resources.yaml_problems import Problem, Problems, join_path, quoted

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

MAX_BYTES: Final = 10 * 1024 * 1024
MAX_DEPTH: Final = 64
MAX_ALIASES: Final = 1_000
MAX_NODES: Final = 200_000

_NULL_TAG: Final = "tag:yaml.org,2002:null"
_TAGS: Final = {
    "scalar": {"!", _NULL_TAG, *(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool"))},
    "list": {"!", "tag:yaml.org,2002:seq"},
    "map": {"!", "tag:yaml.org,2002:map"},
}
_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_NOT_TEXT: Final = yaml.reader.Reader.NON_PRINTABLE  # reused: compiling such a large class takes 10 ms
_JSON_SURROGATES: Final = re.compile(
    r"(?<!\\)((?:\\\\)*)\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})"
)


@dataclass(slots=True)
class Raw:
    """A composed YAML node. `weight` is its size with all aliases written out."""

    kind: str  # scalar, list, map
    line: int
    text: str = ""
    null: bool = False
    items: list[Raw] = field(default_factory=list)
    entries: dict[str, tuple[int, Raw]] = field(default_factory=dict)  # key: line of the key, value
    weight: int = 1
    open: bool = True  # still being read: an alias to it would be a circle


class Unreadable(Exception):
    """The text is no YAML, or exceeds a limit."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem

    @classmethod
    def at(cls, source: str, line: int, found: str, allowed: str) -> Self:
        return cls(Problem(source, line, "", found, allowed))


def _decoded(text: str | bytes, source: str, max_bytes: int) -> str:
    """The text, checked to hold only characters that YAML allows (YAML 1.1, 5.1)."""
    if len(text) > max_bytes:
        raise Unreadable.at(source, 1, f"{len(text)} bytes", f"at most {max_bytes} bytes")
    if isinstance(text, bytes):
        try:
            text = text.decode()
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            byte = error.object[error.start]
            raise Unreadable.at(source, line, f"the byte 0x{byte:02x}", "UTF-8 text") from None
    text = text.removeprefix("\ufeff")
    if bad := _NOT_TEXT.search(text):
        line = text.count("\n", 0, bad.start()) + 1
        raise Unreadable.at(source, line, f"the character U+{ord(bad[0]):04X}", "printable text")
    if text.lstrip()[:1] in ("{", "["):  # JSON writes characters beyond U+FFFF as two escapes, YAML has none for them
        text = _JSON_SURROGATES.sub(_joined_surrogates, text)
    return text


def _joined_surrogates(match: re.Match[str]) -> str:
    return match[1] + chr(0x10000 + ((int(match[2], 16) - 0xD800) << 10) + int(match[3], 16) - 0xDC00)


def compose(
    text: str | bytes,
    source: str,
    problems: Problems,
    *,
    max_bytes: int,
    max_depth: int,
    max_aliases: int,
    max_nodes: int,
) -> list[Raw]:
    """The root values of all documents in `text`.

    Mistakes after which reading can go on go to `problems`; raises `Unreadable` for all others.
    """
    decoded = _decoded(text, source, max_bytes)
    composer = _Composer(source, problems, max_depth, max_aliases, max_nodes)
    loader = None
    try:
        loader = _Loader(decoded)
        for event in iter(loader.get_event, None):
            composer.take(event)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        line = min(mark.line, decoded.count("\n")) + 1 if mark is not None else 1
        what = str(getattr(error, "problem", None) or error).removeprefix("found ")
        what = re.sub("^(did|could) not find (the )?expected ", "no ", what).replace(" are not ", " that are not ")
        if _is_indented_by_tab(decoded, line):
            raise Unreadable.at(source, line, "a tab", "spaces for indentation") from None
        raise Unreadable.at(source, line, what, "well-formed YAML") from None
    except (ValueError, OverflowError, RecursionError) as error:  # of PyYAML built without libyaml
        raise Unreadable.at(source, 1, str(error), "well-formed YAML") from None
    finally:
        if loader is not None:
            loader.dispose()
    return composer.roots


def _is_indented_by_tab(text: str, line: int) -> bool:
    start = text.split("\n", line)[line - 1]
    return "\t" in start[: len(start) - len(start.lstrip())]


@dataclass(slots=True)
class _Open:
    """A list or map whose end was not read yet; for a map the key that waits for its value, None if it is dropped."""

    raw: Raw
    has_key: bool = False
    key: str | None = None
    key_line: int = 0


class _Composer:
    """Takes parser events one by one."""

    def __init__(self, source: str, problems: Problems, max_depth: int, max_aliases: int, max_nodes: int) -> None:
        self.roots: list[Raw] = []
        self._source = source
        self._problems = problems
        self._max_depth = max_depth
        self._max_aliases = max_aliases
        self._max_nodes = max_nodes
        self._stack: list[_Open] = []
        self._anchors: dict[str, Raw] = {}
        self._nodes = 0
        self._aliases = 0

    def take(self, event: Any) -> None:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent):
            self._anchors = {}
        elif isinstance(event, yaml.AliasEvent):
            self._attach(self._target(event.anchor, line), line)
        elif isinstance(event, yaml.ScalarEvent | yaml.SequenceStartEvent | yaml.MappingStartEvent):
            raw = self._raw(event, line)
            if event.anchor is not None:
                self._anchors[event.anchor] = raw
            if raw.kind == "scalar":
                self._attach(raw, line)
            elif len(self._stack) >= self._max_depth:
                self._refuse(line, "deeper nesting than allowed", f"{self._max_depth} levels")
            else:
                self._stack.append(_Open(raw))
        elif isinstance(event, yaml.SequenceEndEvent | yaml.MappingEndEvent):
            raw = self._stack.pop().raw
            raw.open = False
            self._attach(raw, raw.line)

    def _target(self, anchor: str | None, line: int) -> Raw:
        self._aliases += 1
        target = self._anchors.get(anchor or "")
        if target is None:
            self._refuse(line, f"the alias *{anchor} without an anchor", "an alias of an anchor above it")
        if target.open:
            self._refuse(line, f"the alias *{anchor} inside its own value", "values that end")
        if self._aliases > self._max_aliases:
            self._refuse(line, "more aliases than allowed", f"{self._max_aliases} aliases")
        return target

    def _attach(self, raw: Raw, line: int) -> None:
        """Puts a finished value where it belongs: under its key, into its list, or among the documents."""
        if not self._stack:
            self.roots.append(raw)
            return
        top = self._stack[-1]
        parent = top.raw
        parent.weight += raw.weight
        if parent.weight > self._max_nodes:
            self._refuse(line, "more values than allowed", f"{self._max_nodes} values, aliases written out")
        if parent.kind == "list":
            parent.items.append(raw)
        elif top.has_key:
            top.has_key = False
            if top.key is not None:
                parent.entries[top.key] = (top.key_line, raw)
        else:
            top.key = self._checked_key(parent, raw, line)
            top.key_line = line
            top.has_key = True

    def _checked_key(self, parent: Raw, raw: Raw, line: int) -> str | None:
        """The key as text; None, with a problem, when its value is not to be kept."""
        if raw.kind != "scalar":
            self._problem(line, f"a {raw.kind} as a key", "text as a key")
        elif raw.text == "<<":
            self._problem(line, "a merge key (<<)", "the keys written out")
        elif raw.text in parent.entries:
            first = parent.entries[raw.text][0]
            self._problem(line, f"the key a second time (first in line {first})", "each key once", key=raw.text)
        else:
            return raw.text
        return None

    def _raw(self, event: Any, line: int) -> Raw:
        self._nodes += 1
        if self._nodes > self._max_nodes:
            self._refuse(line, "more values than allowed", f"{self._max_nodes} values")
        if isinstance(event, yaml.ScalarEvent):
            plain = event.style in (None, "") and event.tag is None
            null = (plain and event.value in _NULLS) or event.tag == _NULL_TAG
            raw = Raw("scalar", line, event.value, null, open=False)
        else:
            raw = Raw("list" if isinstance(event, yaml.SequenceStartEvent) else "map", line)
        if event.tag is not None and event.tag not in _TAGS[raw.kind]:
            self._problem(line, f"the tag {quoted(event.tag)}", "values without tags")
        return raw

    def _problem(self, line: int, found: str, allowed: str, *, key: str = "") -> None:
        path = ""
        for top in self._stack:
            if top.raw.kind == "list":
                path += f"[{len(top.raw.items)}]"
            elif top.has_key:
                path = join_path(path, top.key or "?")
        self._problems.add(Problem(self._source, line, join_path(path, key) if key else path, found, allowed))

    def _refuse(self, line: int, found: str, allowed: str) -> NoReturn:
        raise Unreadable.at(self._source, line, found, allowed)
