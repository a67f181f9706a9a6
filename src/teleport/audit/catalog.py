"""The page of all events, made from their classes: `python -m teleport.audit.catalog > docs/audit-events.md`."""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap

import msgspec

from teleport.audit.codes import CODES, Origin
from teleport.audit.events import REGISTRY, Event, MfaDevice
from teleport.audit.events.base import Actor, ResourceEvent, ServerEvent, StatusEvent, UserEvent
from teleport.audit.events.cluster import CheckpointHead
from teleport.audit.events.sessions import PodEvent
from teleport.audit.events.settings import SettingsUpdate

_GROUPS: tuple[tuple[str, type[msgspec.Struct]], ...] = (
    ("Every event", Event),
    ("User events", UserEvent),
    ("Status events", StatusEvent),
    ("Resource events", ResourceEvent),
    ("Settings events", SettingsUpdate),
    ("Server events", ServerEvent),
    ("Events of sessions in hosts and pods", PodEvent),
    ("actor", Actor),
    ("mfa_device", MfaDevice),
    ("heads", CheckpointHead),
)
_HEAD = """# Audit events

Made from the code by `python -m teleport.audit.catalog > docs/audit-events.md`; a test keeps it true.

One event is one line of JSON. Fields keep their names and types for ever; new ones may be added. A field marked
*optional* is left out when it does not apply; all others are always there, empty when there is nothing to say. Text is
cut after 8192 characters with a mark (`[cut: N characters]`), an event after 65,536 bytes; bytes that were not UTF-8
read `\\xNN`; characters that are not printable are written as JSON escapes. How lines are chained and proved is in
[audit-log.md](audit-log.md).

Codes are those of Teleport 6 and 7 where it has the event; from T9010 on they are ours. *Written by* auth: intake
refuses the event from any other host.
"""


def field_docs(cls: type[msgspec.Struct]) -> dict[str, str]:
    """The comment on the line of each field that `cls` itself declares, by attribute name."""
    source = textwrap.dedent(inspect.getsource(cls))
    lines = source.splitlines()
    (body,) = ast.parse(source).body
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            comment = re.search(r"  # (.*)$", lines[(node.end_lineno or node.lineno) - 1])
            found[node.target.id] = comment.group(1) if comment else ""
    return found


def _type_name(declared: object) -> str:
    text = str(declared) if not isinstance(declared, type) else declared.__name__
    text = text.replace("datetime.datetime", "time").replace("datetime", "time")
    text = re.sub(r"teleport\.audit\.events\.\w+\.", "", text)
    optional = "UnsetType" in text
    text = re.sub(r" \| (msgspec\.)?UnsetType", "", text)
    names = {"str": "text", "int": "number", "bool": "yes or no", "list[str]": "list of text"}
    names |= {"dict[str, str]": "texts by name", "list[CheckpointHead]": "list of heads"}
    names |= {"Actor": "actor", "MfaDevice": "mfa_device"}
    return names.get(text, text) + (", optional" if optional else "")


def _table(cls: type[msgspec.Struct]) -> list[str]:
    docs = field_docs(cls)
    rows = [row for row in msgspec.structs.fields(cls) if row.name in docs]
    if not rows:
        return []
    lines = ["| Field | Type | Meaning |", "| --- | --- | --- |"]
    if cls is Event:
        lines.append("| `event` | text | name of the event |")
    for row in rows:
        lines.append(f"| `{row.encode_name}` | {_type_name(row.type)} | {docs[row.name].replace('|', '/')} |")
    return [*lines, ""]


def _group_of(cls: type[Event]) -> str:
    named = {group: title for title, group in _GROUPS}
    return next(named[base] for base in cls.__mro__[1:] if base in named)


def render() -> str:
    """The whole page."""
    lines = [_HEAD, "## Fields that many events share", ""]
    for title, group in _GROUPS:
        lines += [f"### {title}", "", (inspect.getdoc(group) or "").replace("\n", " "), ""]
        above = next((name for name, other in _GROUPS if other is group.__mro__[1]), "")
        if above:
            lines += [f"Those of *{above}* and:", ""]
        lines += _table(group)
    lines += ["## Events", "", "| Event | Code | Code of failure | Written by |", "| --- | --- | --- | --- |"]
    for name, code in CODES.items():
        failed = code.failed if code.failed != code.ok else ""
        by = "auth" if code.origin is Origin.AUTH else "any daemon"
        lines.append(f"| [{name}](#{name.replace('.', '')}) | {code.ok} | {failed} | {by} |")
    lines.append("")
    for name in CODES:
        cls = REGISTRY.by_name[name]
        lines += [f"### {name}", "", (inspect.getdoc(cls) or "").replace("\n", " "), ""]
        table = _table(cls)
        lines += [f"Fields of *{_group_of(cls)}*{' and:' if table else '.'}", "", *table]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    sys.stdout.write(render())
