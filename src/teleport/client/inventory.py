"""`tsh ls --format=ansible`: hosts as an inventory script prints them (Ansible's "developing dynamic inventory"). Pure.

Ansible evaluates what stands in variables as templates, on the machine that runs it: a label of
`{{ lookup('pipe', ...) }}` would be a command. What hosts say of themselves is therefore marked as data
(`__ansible_unsafe`), left out where it holds a brace nevertheless, and becomes a group's name only as letters, digits
and underscores.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from teleport.client.addresses import NODE_PORT
from teleport.client.cluster import Node

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?")
_MAX_GROUP = 120


def inventory(nodes: Sequence[Node], cluster: str, login: str = "") -> tuple[dict[str, Any], int]:
    """The answer to `--list`, and how many hosts are left out for their names and ids.

    `login` is said for every host that lets it in, or did not say; else a host's only login is.
    """
    times = Counter(node.hostname.lower() for node in nodes)
    variables: dict[str, dict[str, Any]] = {}
    groups: dict[str, list[str]] = {}
    missing = 0
    for node in nodes:
        named = node.hostname if times[node.hostname.lower()] == 1 and _NAME.fullmatch(node.hostname) else node.id
        if not _NAME.fullmatch(named) or ".." in named or named in variables:
            missing += 1
            continue
        variables[named] = _variables(node, named, cluster, login)
        for label, value in node.labels.items():
            groups.setdefault(_group(label, value), []).append(named)
    listed: dict[str, Any] = {
        "_meta": {"hostvars": variables},
        "all": {"children": ["ungrouped", *sorted(groups)]},
        "ungrouped": {"hosts": [name for name, said in variables.items() if not said["teleport_labels"]]},
    }
    return {**listed, **{group: {"hosts": hosts} for group, hosts in sorted(groups.items())}}, missing


def _variables(node: Node, named: str, cluster: str, login: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "ansible_host": f"{named}.{cluster}",
        "ansible_port": NODE_PORT,
        "teleport_id": _data(node.id),
        "teleport_name": _data(node.hostname),
        "teleport_cluster": cluster,
        "teleport_labels": {
            label: _data(value) for label, value in node.labels.items() if _plain(label) and _plain(value)
        },
    }
    logins = node.logins
    if login and (logins is None or login in logins):
        found["ansible_user"] = login
    elif logins is not None and len(logins) == 1 and not login:
        found["ansible_user"] = logins[0]
    return found


def _plain(text: str) -> bool:
    return "{" not in text and "}" not in text


def _data(text: str) -> Any:
    return {"__ansible_unsafe": text} if _plain(text) else ""


def _group(label: str, value: str) -> str:
    """A group's name: `env_prod`. Different labels may share one, as `a-b=c` and `a=b-c` do."""
    words = re.sub(r"[^A-Za-z0-9_]", "_", f"{label}_{value}")[:_MAX_GROUP]
    return words if re.match(r"[A-Za-z_]", words) and words not in ("all_", "_meta") else f"label_{words}"
