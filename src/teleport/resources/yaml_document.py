"""Files that people write (configuration, resources), walked over the YAML node tree with its lines.

Rules this module keeps:

- Everything wrong with a file is found in one pass and reported with source, line, path, what was found and what is
  allowed. A reader records a problem and gives None; nothing but `InvalidDocument` is ever raised.
- Nothing is guessed: duplicate keys, unknown keys, custom tags and merge keys are problems, never ignored.
- A hostile file costs little: size, depth, the number of aliases and the *expanded* number of nodes are limited.
- A `Node` says in its `line` where its key stands, which is where a reader of the file looks first.

JSON is YAML's flow style and takes the same path. Values that must not be shown (`secret`) are not quoted in problems.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, TypeVar

from teleport.resources.yaml_compose import (
    MAX_ALIASES,
    MAX_BYTES,
    MAX_DEPTH,
    MAX_NODES,
    Raw,
    Unreadable,
    compose,
)
from teleport.resources.yaml_problems import InvalidDocument, Notice, Problem, Problems, join_path, quoted

__all__ = [
    "MAX_ALIASES",
    "MAX_BYTES",
    "MAX_DEPTH",
    "MAX_NODES",
    "InvalidDocument",
    "Node",
    "Notice",
    "Problem",
    "Problems",
    "Reader",
    "UnknownKeyHint",
    "load_documents",
    "quoted",
]

T_co = TypeVar("T_co", covariant=True)


class Reader(Protocol[T_co]):
    """Reads one node into a value, or records a problem and gives None. A plain function is a reader."""

    def __call__(self, node: Node, problems: Problems, /) -> T_co | None: ...


class UnknownKeyHint(Protocol):
    """Says for an unknown key what is allowed instead (`under teleport.storage`), or "" if nothing is known."""

    def __call__(self, node: Node, key: str, /) -> str: ...


class Node:
    """A value in a file: its text, list or map, with the place where it stands."""

    __slots__ = ("_raw", "line", "path", "source")

    def __init__(self, source: str, raw: Raw, path: str, line: int) -> None:
        self.source = source
        self.path = path
        self.line = line  # of its key or list item, from 1
        self._raw = raw

    def detached(self) -> Node:
        """The same value as a document of its own: paths begin here."""
        return Node(self.source, self._raw, "", self.line)

    @property
    def is_scalar(self) -> bool:
        return self._raw.kind == "scalar"

    @property
    def is_list(self) -> bool:
        return self._raw.kind == "list"

    @property
    def is_map(self) -> bool:
        return self._raw.kind == "map"

    @property
    def is_null(self) -> bool:
        """Nothing was written after the key, or `null` or `~`."""
        return self._raw.null

    @property
    def value(self) -> str:
        """The scalar as it was written (`1.10` stays so), "" for lists and maps."""
        return "" if self._raw.null else self._raw.text

    def found(self, *, secret: bool = False) -> str:
        """What stands here, for a message."""
        if self._raw.kind != "scalar":
            return f"a {self._raw.kind}"
        if self._raw.null:
            return "nothing"
        return "a value that is not shown" if secret else quoted(self._raw.text)

    def problem(self, problems: Problems, allowed: str, *, found: str = "", secret: bool = False) -> None:
        """Records that something else was expected here."""
        problems.add(Problem(self.source, self.line, self.path, found or self.found(secret=secret), allowed))

    def notice(self, problems: Problems, text: str) -> None:
        """Records a warning about this value, which is accepted."""
        problems.add_notice(Notice(self.source, self.line, self.path, text))

    def items(self) -> list[Node]:
        """The items of a list, empty for anything else."""
        return [Node(self.source, raw, f"{self.path}[{i}]", raw.line) for i, raw in enumerate(self._raw.items)]

    def entries(self) -> list[tuple[str, Node]]:
        """The keys and values of a map in the order of the file, empty for anything else."""
        return [(key, self._child(key, line, raw)) for key, (line, raw) in self._raw.entries.items()]

    def get(self, key: str) -> Node | None:
        """The value under `key`, None when absent or null."""
        line, raw = self._raw.entries.get(key, (0, None))
        return None if raw is None or raw.null else self._child(key, line, raw)

    def _child(self, key: str, line: int, raw: Raw) -> Node:
        return Node(self.source, raw, join_path(self.path, key), line)

    def mapping(
        self,
        problems: Problems,
        schema: Mapping[str, Reader[Any]],
        *,
        required: Iterable[str] = (),
        unknown: UnknownKeyHint | None = None,
    ) -> dict[str, Any] | None:
        """The values of a map that were present and could be read, by key; None (and a problem) if it is no map.

        A null value counts as absent, and null instead of a map as an empty one. Keys outside `schema` are problems
        that name the nearest known key, or what `unknown` says about them.
        """
        if not self.is_map and not self.is_null:
            self.problem(problems, "a map with the keys " + _listed(schema))
            return None
        values: dict[str, Any] = {}
        present: set[str] = set()
        for key, child in self.entries():
            reader = schema.get(key)
            if reader is None and problems.is_full:
                child.problem(problems, "", found="an unknown key")
                continue
            if reader is None:
                hint = unknown(child, key) if unknown is not None else ""
                found = "a key that does not belong here" if hint else "an unknown key"
                child.problem(problems, hint or _nearest(key, schema), found=found)
                continue
            if child.is_null:
                continue
            present.add(key)
            value = reader(child, problems)
            if value is not None:
                values[key] = value
        for key in required:
            if key not in present:
                allowed = getattr(schema[key], "allowed", "") or "a value"
                problems.add(
                    Problem(self.source, self.line, join_path(self.path, key), "nothing", f"{allowed} (required)")
                )
        return values


def _listed(names: Iterable[str], limit: int = 30) -> str:
    known = sorted(names)
    return ", ".join(known[:limit]) + (", ..." if len(known) > limit else "")


def _nearest(key: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(key[:80].lower().replace("-", "_"), names, n=2, cutoff=0.7)
    return " or ".join(near) if near else _listed(names) or "no keys"


def load_documents(
    text: str | bytes,
    source: str,
    *,
    max_bytes: int = MAX_BYTES,
    max_depth: int = MAX_DEPTH,
    max_aliases: int = MAX_ALIASES,
    max_nodes: int = MAX_NODES,
    problems: Problems | None = None,
) -> list[Node]:
    """The documents of a YAML stream (or JSON text); empty documents are left out.

    Raises `InvalidDocument`: at once when the text cannot be read as YAML or exceeds a limit. Mistakes after which
    reading can go on (duplicate keys, tags, merge keys) go to `problems` if that is given, so that the caller reports
    them together with its own; without it they are raised too.
    """
    collected = problems if problems is not None else Problems()
    try:
        roots = compose(
            text,
            source,
            collected,
            max_bytes=max_bytes,
            max_depth=max_depth,
            max_aliases=max_aliases,
            max_nodes=max_nodes,
        )
    except Unreadable as error:
        collected.add(error.problem)
        raise InvalidDocument(collected) from None
    if problems is None:
        collected.raise_if_any()
    return [Node(source, raw, "", raw.line) for raw in roots if not raw.null]
