"""The configuration of a host that only takes sessions, as text, from values that were checked. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from teleport.daemon.config.values import Config


def node_text(config: Config, token_file: Path, data_dir: Path, nodename: str) -> str:
    """The whole file. What is text in it is quoted as JSON, which YAML reads as the same text whatever stands in it.

    Without a `nodename` the host goes by its host name. The same values give the same file.
    """
    return "\n".join(_lines(config, token_file, data_dir, nodename)) + "\n"


def _lines(config: Config, token_file: Path, data_dir: Path, nodename: str) -> Iterator[str]:
    assert config.node is not None
    yield "# Written by `teleport join`. Check it after a change: teleport configure --test=FILE"
    yield "teleport:"
    if nodename:
        yield f"  nodename: {json.dumps(nodename)}"
    yield f"  data_dir: {json.dumps(str(data_dir))}"
    yield f"  auth_servers: {json.dumps([str(server) for server in config.auth_servers])}"
    yield f"  auth_token: {json.dumps(str(token_file))}"
    yield f"  ca_pin: {json.dumps(list(config.ca_pins))}"
    yield "auth_service:"
    yield "  enabled: no"
    yield "proxy_service:"
    yield "  enabled: no"
    yield "ssh_service:"
    yield "  enabled: yes"
    labels = config.node.labels
    if labels.static:
        yield f"  labels: {json.dumps(dict(labels.static))}"
    if labels.dynamic:
        yield "  commands:"
    for label in labels.dynamic:
        yield f"    - name: {json.dumps(label.name)}"
        yield f"      command: {json.dumps(list(label.command))}"
        yield f"      period: {label.period}"
