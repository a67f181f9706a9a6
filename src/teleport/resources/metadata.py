"""What every resource has: the envelope (`resources.md` 1), and how a resource says what is wrong with it.

Resources are frozen structs laid out as their documents are. Their constructors are dumb: a value that came from
outside is made by `codec` or `parse`, which ask `findings()` and refuse what it names. Formats only grow: fields are
appended with defaults, and unknown fields are refused.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

import msgspec

from teleport.resources.names import check_name, check_text

DEFAULT_NAMESPACE = "default"
ORIGIN_LABEL = "teleport.dev/origin"
MAX_LABELS = 256
MAX_LABEL = 256  # characters, of a key or a value
MAX_TEXT = 4096  # characters, of descriptions and messages
Moment = Annotated[datetime, msgspec.Meta(tz=True)]
"""A time in a resource. One without a zone is refused: it could not be compared with any other."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong with a resource: where (keys and list positions), what was found, what is allowed."""

    where: tuple[str | int, ...]
    found: str
    allowed: str

    @property
    def path(self) -> str:
        text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.where)
        return text.removeprefix(".")

    def __str__(self) -> str:
        return f"{self.path}: found {self.found}; allowed: {self.allowed}"


@dataclass(frozen=True, slots=True)
class FieldWarning:
    """A field that is kept but has no effect yet, or hardly the intended one."""

    path: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"


class Value(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A part of a resource."""


class Metadata(Value, frozen=True, kw_only=True):
    """Name and circumstances of a resource."""

    name: str
    namespace: str = DEFAULT_NAMESPACE
    description: str = ""
    labels: Mapping[str, str] = {}
    expires: Moment | None = None
    id: int = 0  # the backend's revision, output only

    def findings(self) -> Iterator[Finding]:
        at = ("metadata",)
        if problem := check_name(self.name):
            yield Finding((*at, "name"), shown(self.name), f"a name; this one {problem}")
        if problem := check_name(self.namespace):
            yield Finding((*at, "namespace"), shown(self.namespace), f"a namespace; this one {problem}")
        yield from text_findings((*at, "description"), self.description)
        yield from label_findings((*at, "labels"), self.labels)
        if self.expires is not None and self.expires.tzinfo is None:
            yield Finding((*at, "expires"), str(self.expires), "a time with a zone")


def shown(text: str) -> str:
    """`text` as it may stand in a message: quoted, escaped, short."""
    return ascii(text if len(text) <= 80 else text[:77] + "...") if check_text(text) else repr(text[:80])


def text_findings(where: tuple[str | int, ...], text: str, limit: int = MAX_TEXT) -> Iterator[Finding]:
    """What is wrong with a line of free text."""
    if len(text) > limit:
        yield Finding(where, f"{len(text)} characters", f"at most {limit}")
    elif problem := check_text(text.replace("\n", " ")):
        yield Finding(where, shown(text), f"text; this one {problem}")


def label_findings(where: tuple[str | int, ...], labels: Mapping[str, str]) -> Iterator[Finding]:
    """What is wrong with the labels of a resource (not of a selector): keys may not become equal by normal form."""
    if len(labels) > MAX_LABELS:
        yield Finding(where, f"{len(labels)} labels", f"at most {MAX_LABELS}")
        return
    for key, value in labels.items():
        for text in (key, value):
            if len(text) > MAX_LABEL:
                yield Finding((*where, key), f"{len(text)} characters", f"at most {MAX_LABEL}")
            elif problem := check_text(text):
                yield Finding((*where, key), shown(text), f"label text; this one {problem}")
        if key in {"", "*"}:
            yield Finding((*where, key), shown(key), "a label key; '*' belongs to selectors only")
    if len({unicodedata.normalize("NFC", key) for key in labels}) != len(labels):
        yield Finding(where, "keys that differ in Unicode normal form only", "each key once")
