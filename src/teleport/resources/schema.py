"""Readers for resource types, made from the types themselves, so that every field of a resource can be written.

`reader_for(Role)` reads the map of a role out of a YAML node, with problems that carry their lines. Single values
stand for lists inside maps (`env: prod`), as label selectors and traits are written.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin

import msgspec

from teleport.resources.metadata import Moment
from teleport.resources.secret import SecretText
from teleport.resources.values import Duration
from teleport.resources.yaml_document import Node, Problems, Reader
from teleport.resources.yaml_readers import (
    ListOf,
    MapOf,
    boolean,
    duration_or_never,
    integer,
    matching,
    moment,
    one_of,
    text,
)

_SCALARS: Mapping[object, Reader[Any]] = {
    str: text,
    bool: boolean,
    int: integer(),
    Moment: moment,
    Duration: duration_or_never,
    SecretText: matching("text", SecretText, secret=True),
}


class StructReader:
    """Reads a map into a struct; None after recording problems."""

    def __init__(self, type_: type[msgspec.Struct]) -> None:
        self._type = type_
        fields = msgspec.structs.fields(type_)
        self._schema = {field.name: reader_for(field.type) for field in fields}
        self._required = [field.name for field in fields if field.required]

    @property
    def allowed(self) -> str:
        return "a map with the keys " + ", ".join(sorted(self._schema))

    def __call__(self, node: Node, problems: Problems, /) -> msgspec.Struct | None:
        before = len(problems)
        values = node.mapping(problems, self._schema, required=self._required)
        if values is None or any(name not in values for name in self._required):
            assert len(problems) > before
            return None
        return self._type(**values)


class _DictOf:
    """A map as an ordinary dict: what the codec writes and reads."""

    def __init__(self, value: Reader[Any]) -> None:
        self._inner: MapOf[Any] = MapOf(value)

    @property
    def allowed(self) -> str:
        return self._inner.allowed

    def __call__(self, node: Node, problems: Problems, /) -> dict[str, Any] | None:
        found = self._inner(node, problems)
        return None if found is None else dict(found)


@cache
def reader_for(type_: Any, *, single: bool = False) -> Reader[Any]:
    """The reader of values of `type_`; `single`: one value also stands for a list of it."""
    if type_ in _SCALARS:
        return _SCALARS[type_]
    if isinstance(type_, type) and issubclass(type_, StrEnum):
        return one_of({member.value: member for member in type_ if member.value}, any_case=True)
    if isinstance(type_, type) and issubclass(type_, msgspec.Struct):
        return StructReader(type_)
    origin, arguments = get_origin(type_), get_args(type_)
    if origin is Literal:
        return one_of(cast("tuple[str, ...]", arguments))
    if origin in (Union, UnionType):
        (inner,) = (argument for argument in arguments if argument is not NoneType)
        return reader_for(inner)
    if origin is tuple:
        return ListOf(reader_for(arguments[0]), single=single)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _DictOf(reader_for(arguments[1], single=True))
    raise TypeError(f"no reader for {type_}")
