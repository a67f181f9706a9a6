"""Lists and watches of which somebody may see a part: the JSON goes through, the other objects do not. Pure.

Read object by object, so that a list of any length takes the memory of its largest object, and closed by default: of
the list itself only what is known goes on (not how many objects remain, nor a place to go on from, both of which tell
of objects that are not shown), an object without a name is not shown, and what is no list is an error.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Mapping
from enum import Enum, auto
from typing import Any, Final

from teleport.authz.kube_resources import Shown
from teleport.errors import BadRequest

MOST: Final = 16 << 20  # characters of one object; etcd holds less than a tenth of that
LARGE: Final = 1 << 20  # characters of one object from which on its parts are counted before it is read
MOST_PARTS: Final = 500_000  # values of such an object
_TEXT: Final = re.compile(r'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_SPACE: Final = " \t\r\n"
_OBJECTS: Final = {"items": False, "rows": True}  # of lists, and of tables, whose rows hold the object
_OF_LIST: Final = frozenset({"resourceVersion", "selfLink"})
_INITIAL_END: Final = "k8s.io/initial-events-end"
_CHANGES: Final = frozenset({"ADDED", "MODIFIED", "DELETED"})
_decode = json.JSONDecoder().raw_decode


class UnreadableList(BadRequest):
    """The answer is not what a list or a watch is, so that nothing of it can be shown."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"The API server's list cannot be shown in part: {why}.", hint="ask for a single object by its name"
        )


class _More(Exception):
    """What is there does not end yet."""


class _Values:
    """JSON values one after the other, out of text that comes in parts."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._at = 0
        self._least = 0  # characters before which it is no use to look again

    def add(self, data: bytes, *, last: bool) -> None:
        try:
            self._text = self._text[self._at :] + self._utf8.decode(data, last)
        except UnicodeDecodeError:
            raise UnreadableList("it is no UTF-8 text") from None
        self._at = 0
        if len(self._text) > MOST:
            raise UnreadableList("one object is too large")
        if last:
            self._least = 0

    def peek(self) -> str:
        """The next character that is no white space; empty at the end of what is there."""
        text, at = self._text, self._at
        while at < len(text) and text[at] in _SPACE:
            at += 1
        self._at = at
        return text[at : at + 1]

    def sign(self, allowed: str) -> str:
        """The next character, one of these."""
        found = self.peek()
        if not found:
            raise _More
        if found not in allowed:
            raise UnreadableList("it is no JSON list")
        self._at += 1
        return found

    def value(self) -> tuple[Any, str]:
        """The next value, whole, and its text."""
        if not self.peek() or len(self._text) - self._at < self._least:
            raise _More
        self._count()
        try:
            value, end = _decode(self._text, self._at)
        except RecursionError:
            raise UnreadableList("an object is too deep") from None
        except ValueError:
            self._least = (len(self._text) - self._at) * 3 // 2  # a large object is not read for each part of it
            raise _More from None
        if end == len(self._text) and not isinstance(value, dict | list | str):
            raise _More  # a number that may go on
        self._least = 0
        start, self._at = self._at, end
        return value, self._text[start:end]

    def _count(self) -> None:
        """A value takes up to a hundred times the memory of its text, and time in which nobody else is served."""
        if len(self._text) - self._at > LARGE:
            signs = _TEXT.sub("", self._text[self._at :])
            if sum(signs.count(sign) for sign in "[{,") > MOST_PARTS:
                raise UnreadableList("an object has too many parts")

    def back(self, at: int) -> None:
        self._at = at

    @property
    def at(self) -> int:
        return self._at


class _State(Enum):
    BEGIN = auto()
    KEY = auto()  # or the end, of an empty object
    NEXT = auto()  # after a value
    OBJECT = auto()
    NEXT_OBJECT = auto()
    DONE = auto()


class ListFilter:
    """One list, or table."""

    def __init__(self, shown: Shown) -> None:
        self._shown = shown
        self._values = _Values()
        self._state = _State.BEGIN
        self._in_rows = False
        self._first_key = True
        self._first_object = True
        self._had: set[str] = set()

    def feed(self, data: bytes, *, last: bool = False) -> bytes:
        """What can be shown after this part of the answer. Raises `UnreadableList`."""
        self._values.add(data, last=last)
        out: list[str] = []
        try:
            while self._state is not _State.DONE:
                self._step(out)
        except _More:
            if last:
                raise UnreadableList("it does not end") from None
        else:
            if self._values.peek():
                raise UnreadableList("it does not end where it should")
        return "".join(out).encode()

    def _step(self, out: list[str]) -> None:
        values = self._values
        match self._state:
            case _State.BEGIN:
                values.sign("{")
                out.append("{")
                self._state = _State.KEY
            case _State.KEY:
                if self._first_key and not self._had and values.peek() == "}":
                    values.sign("}")
                    raise UnreadableList("it is empty")
                self._key(out)
            case _State.NEXT:
                if values.sign(",}") == ",":
                    self._state = _State.KEY
                    return
                if not self._had & _OBJECTS.keys():
                    raise UnreadableList("it has no objects")
                out.append("}\n")
                self._state = _State.DONE
            case _State.OBJECT:
                self._object(out)
            case _State.NEXT_OBJECT:
                if values.sign(",]") == "]":
                    self._close(out)
                else:
                    self._state = _State.OBJECT

    def _key(self, out: list[str]) -> None:
        values = self._values
        before = values.at
        try:
            if values.peek() not in ('"', ""):
                raise UnreadableList("it is no JSON list")
            key, _ = values.value()
            values.sign(":")
            begins = values.peek()
            if key in _OBJECTS and begins == "[":
                values.sign("[")
                self._begin_objects(key, out)
                return
            value, text = values.value()
        except _More:
            values.back(before)
            raise
        if key in self._had:
            raise UnreadableList("it says something twice")
        self._had.add(key)
        self._state = _State.NEXT
        kept = _of_list(key, value, text)
        if kept:
            self._member(key, kept, out)

    def _begin_objects(self, key: str, out: list[str]) -> None:
        if self._had & _OBJECTS.keys():
            raise UnreadableList("it says something twice")
        self._had.add(key)
        self._in_rows = _OBJECTS[key]
        self._member(key, "[", out)
        self._state = _State.OBJECT

    def _member(self, key: str, text: str, out: list[str]) -> None:
        out.append(f'{"" if self._first_key else ","}"{key}":{text}')
        self._first_key = False

    def _object(self, out: list[str]) -> None:
        if self._first_object and self._values.peek() == "]":
            self._values.sign("]")
            self._close(out)
            return
        value, text = self._values.value()
        if is_shown(self._shown, value, in_row=self._in_rows):
            out.append(text if self._first_object else "," + text)
            self._first_object = False
        self._state = _State.NEXT_OBJECT

    def _close(self, out: list[str]) -> None:
        out.append("]")
        self._state = _State.NEXT


def _of_list(key: str, value: Any, text: str) -> str:
    """What goes on of a list's own field; empty: nothing."""
    if key in _OBJECTS and value is None:
        return "[]"
    if key in _OBJECTS:
        raise UnreadableList("it is no JSON list")
    if key in ("kind", "apiVersion") and isinstance(value, str):
        return text
    if key == "columnDefinitions" and isinstance(value, list):
        return text
    if key == "metadata" and isinstance(value, dict):
        return json.dumps({name: value[name] for name in sorted(_OF_LIST & value.keys())})
    return ""


class WatchFilter:
    """One watch: events, each a JSON object."""

    def __init__(self, shown: Shown) -> None:
        self._shown = shown
        self._values = _Values()
        self._columns: Any = None  # of a table, which only its first event has, and that may not be shown

    def feed(self, data: bytes, *, last: bool = False) -> bytes:
        """The events that can be shown after this part of the answer. Raises `UnreadableList`."""
        self._values.add(data, last=last)
        out: list[str] = []
        try:
            while self._values.peek():
                event, text = self._values.value()
                out.append(self._event(event, text))
        except _More:
            pass  # of a watch that ends within an event the rest is nothing
        return "".join(out).encode()

    def _event(self, event: Any, text: str) -> str:
        if not isinstance(event, dict) or not isinstance(about := event.get("object"), dict):
            raise UnreadableList("it is no watch")
        kind = event.get("type")
        if kind == "ERROR":
            return text + "\n" if about.get("kind") == "Status" else ""
        if kind == "BOOKMARK":
            return json.dumps({"type": kind, "object": _bookmark(about)}) + "\n"
        if kind not in _CHANGES:
            return ""
        if about.get("kind") != "Table":
            return text + "\n" if is_shown(self._shown, about) else ""
        return self._table(str(kind), about)

    def _table(self, kind: str, table: dict[str, Any]) -> str:
        columns = table.get("columnDefinitions") or self._columns
        rows = table.get("rows")
        left = [row for row in rows if is_shown(self._shown, row, in_row=True)] if isinstance(rows, list) else []
        if not left:
            self._columns = columns
            return ""
        self._columns = None
        kept: dict[str, Any] = {name: table[name] for name in ("kind", "apiVersion") if name in table}
        kept["metadata"] = _without(table.get("metadata"))
        kept["columnDefinitions"] = columns
        kept["rows"] = left
        return json.dumps({"type": kind, "object": kept}) + "\n"


def _bookmark(about: Mapping[str, Any]) -> dict[str, Any]:
    """How far a watch has come, which is about no object."""
    found = about.get("metadata")
    metadata: dict[str, Any] = _without(found)
    notes = found.get("annotations") if isinstance(found, dict) else None
    if isinstance(notes, dict) and _INITIAL_END in notes:
        metadata["annotations"] = {_INITIAL_END: notes[_INITIAL_END]}
    kept: dict[str, Any] = {name: about[name] for name in ("kind", "apiVersion") if name in about}
    kept["metadata"] = metadata
    if about.get("kind") == "Table":
        kept |= {"columnDefinitions": about.get("columnDefinitions"), "rows": []}
    return kept


def _without(metadata: Any) -> dict[str, Any]:
    return {name: metadata[name] for name in _OF_LIST & metadata.keys()} if isinstance(metadata, dict) else {}


def is_shown(shown: Shown, value: Any, *, in_row: bool = False) -> bool:
    """Whether an object of a list, or of a row of a table, is shown."""
    if in_row and isinstance(value, dict):
        value = value.get("object")
    metadata = value.get("metadata") if isinstance(value, dict) else None
    if not isinstance(metadata, dict):
        return False
    name, namespace = metadata.get("name"), metadata.get("namespace", "")
    return isinstance(name, str) and isinstance(namespace, str) and shown.shows(namespace, name)
