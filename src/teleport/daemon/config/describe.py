"""Every key of teleport.yaml, listed from the schema itself, so that documentation can be checked against code."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from teleport.daemon.config.file import Document
from teleport.daemon.config.forms import commands
from teleport.daemon.config.storage import STORAGE_KINDS, StorageReader
from teleport.daemon.config.teleport_section import LogFormat
from teleport.resources.yaml_readers import Key, ListOf, Section, allowed_by, keys_of


@dataclass(frozen=True, slots=True)
class KeyDescription:
    """One key: `path` with [] for the items of a list, what it takes, its default and meaning as text."""

    path: str
    type: str
    default: str
    meaning: str


@cache
def describe_keys() -> tuple[KeyDescription, ...]:
    """All keys in the order of the schema; each path once."""
    found: dict[str, KeyDescription] = {}
    for description in _section(Document, ""):
        found.setdefault(description.path, description)
    return tuple(found.values())


def _section(kind: type[Any], prefix: str) -> Iterator[KeyDescription]:
    for name, (field, entry) in keys_of(kind).items():
        path = f"{prefix}{name}"
        yield KeyDescription(path, allowed_by(entry.reader), _default(field, entry), entry.meaning)
        reader = entry.reader
        if isinstance(reader, StorageReader):
            for storage in dict.fromkeys(STORAGE_KINDS.values()):
                yield from _section(storage, f"{path}.")
        elif reader is commands:
            for part, inner in reader.item.keys.items():
                yield KeyDescription(f"{path}[].{part}", allowed_by(inner), "", "part of a dynamic label")
        elif isinstance(reader, ListOf) and isinstance(reader.item, Section):
            yield from _section(reader.item.kind, f"{path}[].")
        elif isinstance(reader, Section):
            yield from _section(reader.kind, f"{path}.")
        elif field.default_factory is LogFormat:
            yield from _section(LogFormat, f"{path}.")


def _default(field: dataclasses.Field[Any], entry: Key) -> str:
    if entry.required:
        return "required"
    return entry.default_text or _as_text(field.default)


def _as_text(value: Any) -> str:
    match value:
        case None | dataclasses._MISSING_TYPE() | "" | ():
            return ""
        case bool():
            return "yes" if value else "no"
        case tuple():
            return ", ".join(_as_text(item) for item in value)
        case StrEnum() | Path():
            return str(value)
        case Mapping():
            return ""
        case _:
            return str(value)
