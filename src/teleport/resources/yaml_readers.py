"""Readers of values in files that people write: small functions from a node to a value, put together in schemas.

A reader gives None after recording a problem, so that reading goes on and all problems are found. Each carries
`allowed`, the words that say what may stand there; documentation lists them from here. Values come out frozen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from types import MappingProxyType
from typing import Any, Final, Generic, TypeVar
from urllib.parse import urlsplit

from teleport.clock import parse_rfc3339
from teleport.resources.values import (
    ADDRESS_FORMS,
    BOOLEAN_FORMS,
    DURATION_FORMS,
    Duration,
    HostPort,
    parse_boolean,
)
from teleport.resources.yaml_document import Node, Problems, Reader, UnknownKeyHint

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Scalar(Generic[T]):
    """Reads a single value with `parse`, which raises `ValueError` for what is not `allowed`."""

    allowed: str
    parse: Callable[[str], T]
    secret: bool = False  # never quote the value in a problem

    def __call__(self, node: Node, problems: Problems, /) -> T | None:
        if not node.is_scalar:
            node.problem(problems, self.allowed)
            return None
        try:
            return self.parse(node.value)
        except ValueError:
            node.problem(problems, self.allowed, secret=self.secret)
            return None


def _line_of_text(value: str) -> str:
    if any((ord(character) < 32 and character not in "\t\n") or ord(character) == 127 for character in value):
        raise ValueError
    return value


def _some_text(value: str) -> str:
    if not value.strip():
        raise ValueError
    return _line_of_text(value)


def _integer(value: str) -> int:
    digits = value.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 18):
        raise ValueError
    return int(value)


def _number(value: str) -> float:
    if len(value) > 40 or not set(value) <= set("0123456789.-+eE"):
        raise ValueError
    return float(value)


def _time(value: str) -> datetime:
    try:
        return parse_rfc3339(value)
    except ValueError:
        return datetime.combine(date.fromisoformat(value), time(), UTC)


def _url(value: str) -> str:
    parts = urlsplit(value)
    if not parts.scheme or not (parts.netloc or parts.path) or any(character.isspace() for character in value):
        raise ValueError
    return value


text: Final = Scalar("text", _line_of_text)
some_text: Final = Scalar("text that is not empty", _some_text)
secret_text: Final = Scalar("text that is not empty", _some_text, secret=True)
boolean: Final = Scalar(BOOLEAN_FORMS, parse_boolean)
number: Final = Scalar("a number", _number)
duration: Final = Scalar(DURATION_FORMS, Duration.parse)
duration_or_never: Final = Scalar(DURATION_FORMS + ", or never", lambda value: Duration.parse(value, never=True))
moment: Final = Scalar("a time such as 2030-01-31T12:00:00Z, or a date", _time)
url: Final = Scalar("a URL", _url)


def integer(least: int | None = None, most: int | None = None) -> Scalar[int]:
    """A whole number, from `least` to `most`."""

    def parse(value: str) -> int:
        found = _integer(value)
        if (least is not None and found < least) or (most is not None and found > most):
            raise ValueError
        return found

    match least, most:
        case None, None:
            allowed = "a whole number"
        case _, None:
            allowed = f"a whole number, {least} or more"
        case None, _:
            allowed = f"a whole number, {most} or less"
        case _:
            allowed = f"a whole number from {least} to {most}"
    return Scalar(allowed, parse)


def matching(allowed: str, parse: Callable[[str], T], *, secret: bool = False) -> Scalar[T]:
    """Whatever `parse` takes without `ValueError`; `allowed` describes it."""
    return Scalar(allowed, parse, secret)


def one_of(choices: Mapping[str, T] | Iterable[str], *, any_case: bool = False) -> Scalar[T]:
    """One of some words; with a mapping each word stands for its value."""
    table: Mapping[str, Any] = choices if isinstance(choices, Mapping) else {choice: choice for choice in choices}

    def parse(value: str) -> T:
        key = value.lower() if any_case else value
        if key not in table:
            raise ValueError
        found: T = table[key]
        return found

    return Scalar(" or ".join(filter(None, [", ".join([*table][:-1]), [*table][-1]])), parse)


def address(default_port: int | None, *, any_host: str = "") -> Scalar[HostPort]:
    """A host and port; `any_host` is what an empty host means, where one may be left out (listeners)."""
    port = "a port from 0 to 65535" if default_port is None else f"port {default_port} when left out"
    forms = ADDRESS_FORMS if default_port is not None else "host:port, an IPv6 host in brackets"
    return Scalar(
        f"{forms} ({port})" if default_port is not None else f"{forms}, {port}",
        lambda value: HostPort.parse(value, default_port, any_host=any_host),
    )


@dataclass(frozen=True, slots=True)
class ListOf(Generic[T]):
    """A list of what `item` reads; with `single` also one value without a list."""

    item: Reader[T]
    single: bool = False
    least: int = 0

    @property
    def allowed(self) -> str:
        inner = allowed_by(self.item)
        some = "a list" if self.least == 0 else f"a list of at least {self.least}"
        return f"one value or a list, each {inner}" if self.single else f"{some}, each {inner}"

    def __call__(self, node: Node, problems: Problems, /) -> tuple[T, ...] | None:
        if not node.is_list:
            if self.single and node.is_scalar:
                value = self.item(node, problems)
                return None if value is None else (value,)
            node.problem(problems, self.allowed)
            return None
        if len(node.items()) < self.least:
            node.problem(problems, self.allowed, found="an empty list")
            return None
        values = [self.item(child, problems) for child in node.items()]
        return tuple(value for value in values if value is not None)


def one_or_many(item: Reader[T]) -> ListOf[T]:
    """One value or a list of them."""
    return ListOf(item, single=True)


text_list: Final = one_or_many(text)


@dataclass(frozen=True, slots=True)
class MapOf(Generic[T]):
    """A map from keys that the file chooses to what `value` reads. A null value is read like empty text."""

    value: Reader[T]
    key: Callable[[str], str] | None = None  # raises ValueError for a key that is not allowed
    key_allowed: str = "any key"

    @property
    def allowed(self) -> str:
        return f"a map to {allowed_by(self.value)}"

    def __call__(self, node: Node, problems: Problems, /) -> Mapping[str, T] | None:
        if not node.is_map and not node.is_null:
            node.problem(problems, self.allowed)
            return None
        values: dict[str, T] = {}
        for key, child in node.entries():
            name = key
            if self.key is not None:
                try:
                    name = self.key(key)
                except ValueError:
                    child.problem(problems, self.key_allowed, found="this key")
                    continue
            value = self.value(child, problems)
            if value is not None:
                values[name] = value
        return MappingProxyType(values)


text_map: Final = MapOf(text)


def allowed_by(reader: Reader[Any]) -> str:
    """The words that say what `reader` takes."""
    return str(getattr(reader, "allowed", "") or "a value")


@dataclass(frozen=True, slots=True)
class Key:
    """What the schema of a dataclass says about one of its fields; put there by `key`."""

    reader: Reader[Any]
    meaning: str
    name: str = ""  # in the file, when it differs from the field's name
    required: bool = False
    default_text: str = ""  # what documentation shows when the default is worked out later
    warning: str = ""  # given when the key is present


_METADATA: Final = "teleport.key"


def key(
    reader: Callable[[Node, Problems], Any],
    default: Any,
    meaning: str,
    *,
    name: str = "",
    required: bool = False,
    default_text: str = "",
    warning: str = "",
    secret: bool = False,
) -> Any:
    """A dataclass field that is read from the key of the same name; `default` may be a class of such fields."""
    metadata = {_METADATA: Key(reader, meaning, name, required, default_text, warning)}
    shown = not secret
    if default.__class__.__hash__ is None:  # empty maps, which are frozen all the same
        return dataclasses.field(default_factory=lambda: default, metadata=metadata, repr=shown)
    if isinstance(default, type):
        return dataclasses.field(default_factory=default, metadata=metadata, repr=shown)
    return dataclasses.field(default=default, metadata=metadata, repr=shown)


def keys_of(kind: type[Any]) -> dict[str, tuple[dataclasses.Field[Any], Key]]:
    """The keys a file may use for a dataclass of `key` fields, in order, with field and schema."""
    found = {}
    for field in dataclasses.fields(kind):
        entry = field.metadata.get(_METADATA)
        if entry is not None:
            found[entry.name or field.name] = (field, entry)
    return found


@dataclass(frozen=True, slots=True)
class Section(Generic[T]):
    """Reads a map into a dataclass of `key` fields; keys that are absent keep the field's default.

    `check` sees the finished value and records what only shows when keys are looked at together.
    """

    kind: type[T]
    check: Callable[[T, Node, Problems], None] | None = None
    unknown: UnknownKeyHint | None = None

    @property
    def allowed(self) -> str:
        return "a map"

    def __call__(self, node: Node, problems: Problems, /) -> T | None:
        keys = keys_of(self.kind)
        schema = {name: entry.reader for name, (_, entry) in keys.items()}
        required = [name for name, (_, entry) in keys.items() if entry.required]
        values = node.mapping(problems, schema, required=required, unknown=self.unknown)
        if values is None:
            return None
        for name, (_, entry) in keys.items():
            child = node.get(name) if entry.warning else None
            if child is not None:
                child.notice(problems, entry.warning)
        value = self.kind(**{keys[name][0].name: found for name, found in values.items()})
        if self.check is not None:
            self.check(value, node, problems)
        return value
