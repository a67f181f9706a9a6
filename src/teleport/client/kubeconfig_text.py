"""A kubeconfig's text after a change: the lines that nothing changed stay as the person wrote them, comments too.

Entries are put into the text and cut out of it where YAML says that they stand, and the result is read again: unless it
says exactly what it should, the file is written anew, as kubectl writes it. So no text can come out that says something
else, whatever a file looks like.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from yaml.nodes import Node

LISTS: Final = ("clusters", "users", "contexts")
CURRENT: Final = "current-context"
_Edit = tuple[int, int, str]  # from, to, what stands there instead


class _OddText(Exception):
    """It is laid out in another way than kubectl's files are."""


def normal(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with its three lists, each of which may be missing or empty in the file."""
    return {**document, **{name: document.get(name) or [] for name in LISTS}}


def changed(text: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The text that says `new`, out of one that says `old`. Both are `normal`."""
    import yaml

    try:
        made = _spliced(text, old, new)
        found = yaml.safe_load(made)
        if isinstance(found, dict) and normal(found) == normal(new):
            return made
    except (_OddText, yaml.YAMLError, ValueError, OverflowError, RecursionError):
        pass
    return _dumped(new)


def _spliced(text: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    import yaml

    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if root is None:  # comments alone
        return _ended(text) + _dumped(new)
    if not isinstance(root, yaml.MappingNode) or root.flow_style:
        raise _OddText
    nodes = {str(key.value): value for key, value in root.value}
    edits: list[_Edit] = []
    after: dict[str, Any] = {}  # what the file does not have yet
    for name in LISTS:
        if name in nodes:
            edits += _list_edits(text, nodes[name], old[name], new[name])
        elif new[name]:
            after[name] = new[name]
    if new.get(CURRENT) != old.get(CURRENT):
        if CURRENT in nodes:
            node = nodes[CURRENT]
            edits.append((node.start_mark.index, node.end_mark.index, _scalar(text, node, str(new[CURRENT]))))
        else:
            after[CURRENT] = new[CURRENT]
    made = text
    for start, end, instead in sorted(edits, reverse=True):
        made = made[:start] + instead + made[end:]
    return _ended(made) + _dumped(after) if after else made


def _list_edits(text: str, node: Node, old: Sequence[Any], new: Sequence[Any]) -> list[_Edit]:
    import yaml

    if not old:
        return [(node.start_mark.index, node.end_mark.index, f"\n{_dumped(new).rstrip()}")] if new else []
    if not isinstance(node, yaml.SequenceNode) or node.flow_style or len(node.value) != len(old):
        raise _OddText
    wanted = {one.get("name"): one for one in new}
    indent = " " * node.start_mark.column
    edits: list[_Edit] = []
    end = 0
    for item, said in zip(node.value, old, strict=True):
        start, end = _lines_of(text, item)
        instead = wanted.pop(said.get("name"), None)
        if instead != said:
            edits.append((start, end, _items(instead, indent) if instead is not None else ""))
    if wanted:
        more = "".join(_items(one, indent) for one in wanted.values())
        edits.append((end, end, more if text[:end].endswith("\n") else f"\n{more}"))
    return edits


def _lines_of(text: str, item: Node) -> tuple[int, int]:
    """Where the lines of an entry begin, and where the next ones do."""
    at = item.start_mark.index
    start = text.rfind("\n", 0, at) + 1
    if text[start:at].strip() != "-":
        raise _OddText
    last = _last(item)
    if text[last - 1] == "\n":  # the text of a block
        return start, last
    end = text.find("\n", last)
    return start, len(text) if end < 0 else end + 1


def _last(node: Node) -> int:
    """Where what the node says ends: the node itself ends at the next one, behind comments."""
    import yaml

    if isinstance(node, yaml.MappingNode) and node.value and not node.flow_style:
        return _last(node.value[-1][1])
    if isinstance(node, yaml.SequenceNode) and node.value and not node.flow_style:
        return _last(node.value[-1])
    return int(node.end_mark.index)


def _items(entry: Any, indent: str) -> str:
    return "".join(f"{indent}{line}\n" for line in _dumped([entry]).splitlines())


def _scalar(text: str, node: Node, value: str) -> str:
    """As it stands behind its key."""
    said = _dumped({CURRENT: value}).removeprefix(f"{CURRENT}: ").rstrip("\n")
    return said if text[: node.start_mark.index].endswith((" ", "\t", "\n")) else f" {said}"


def _ended(text: str) -> str:
    return text if not text or text.endswith("\n") else f"{text}\n"


def _dumped(value: Any) -> str:
    import yaml

    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=math.inf))
