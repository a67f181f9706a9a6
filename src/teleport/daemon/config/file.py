"""teleport.yaml from text to values: strict, all mistakes at once.

Precedence of where the text comes from (`config.md` 1): base64 from the command line or from TELEPORT_CONFIG, then an
explicitly named file, then the default file if there is one.
"""

# ruff: noqa: RUF009  # `key` makes a dataclass field

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from teleport.daemon.config import forms
from teleport.daemon.config.auth_section import AuthSection, check_auth
from teleport.daemon.config.not_built import NOT_BUILT, NotBuilt, check_built
from teleport.daemon.config.proxy_section import ProxySection, check_proxy
from teleport.daemon.config.resource_sections import (
    AppSection,
    DbSection,
    KubernetesSection,
    check_app,
    check_db,
    check_kubernetes,
)
from teleport.daemon.config.ssh_section import SshSection, check_ssh
from teleport.daemon.config.teleport_section import TeleportSection, check_teleport
from teleport.daemon.config.tracing_section import TracingSection, check_tracing
from teleport.errors import NotFound, TeleportError
from teleport.resources.yaml_document import (
    MAX_BYTES,
    InvalidDocument,
    Node,
    Problem,
    Problems,
    load_documents,
)
from teleport.resources.yaml_readers import key, one_of

DEFAULT_PATH: Final = Path("/etc/teleport.yaml")
ENVIRONMENT_VARIABLE: Final = "TELEPORT_CONFIG"


@dataclass(frozen=True, slots=True)
class Document:
    """The top level of teleport.yaml."""

    teleport: TeleportSection = key(
        forms.section(TeleportSection, check_teleport), TeleportSection, "what concerns the whole daemon"
    )
    auth_service: AuthSection = key(forms.section(AuthSection, check_auth), AuthSection, "the cluster's authority")
    ssh_service: SshSection = key(forms.section(SshSection, check_ssh), SshSection, "the SSH server of this host")
    proxy_service: ProxySection = key(forms.section(ProxySection, check_proxy), ProxySection, "the cluster's door")
    kubernetes_service: KubernetesSection = key(
        forms.section(KubernetesSection, check_kubernetes), KubernetesSection, "Kubernetes clusters"
    )
    app_service: AppSection = key(forms.section(AppSection, check_app), AppSection, "web applications")
    db_service: DbSection = key(forms.section(DbSection, check_db), DbSection, "databases")
    tracing_service: TracingSection = key(
        forms.section(TracingSection, check_tracing), TracingSection, "where traces of requests go"
    )
    version: str = key(one_of(("v1", "v2")), "v1", "version of this file's form")


@dataclass(frozen=True, slots=True)
class FileConfig:
    """A configuration file as it was read. `present` holds the dotted path of every key that was written in it."""

    source: str
    document: Document
    present: frozenset[str]
    warnings: tuple[str, ...]  # each with source, line and path


class InvalidConfig(InvalidDocument):
    """A configuration that nothing may be started with. The message holds every mistake on a line of its own."""

    exit_code = 1


def load_config(text: str | bytes, source: str, *, not_built: tuple[NotBuilt, ...] = NOT_BUILT) -> FileConfig:
    """The configuration in `text`; `source` names it in messages. An empty text is a file without sections.

    Raises `InvalidConfig` with every mistake.
    """
    problems = Problems()
    document: Document | None = Document()
    present: frozenset[str] = frozenset()
    try:
        nodes = load_documents(text, source, problems=problems)
        if nodes:
            document = forms.section(Document)(nodes[0], problems)
            present = frozenset(_paths(nodes[0]))
            check_built(nodes[0], problems, not_built)
        for node in nodes[1:]:
            problems.add(Problem(source, node.line, "", "a second document", "one document"))
    except InvalidDocument:
        pass  # its mistakes stand in `problems`
    if problems or document is None:
        raise InvalidConfig(problems, hint=f"correct these lines, then check them: teleport configure --test={source}")
    return FileConfig(source, document, present, tuple(str(notice) for notice in problems.notices))


def _paths(node: Node) -> list[str]:
    found = []
    for _, child in node.entries():
        if not child.is_null:
            found.append(child.path)
            found += _paths(child)
    return found


def read_config(
    path: Path | None, config_string: str = "", environment: Mapping[str, str] | None = None
) -> FileConfig | None:
    """The configuration that applies: None when there is none and built-in defaults hold.

    `path` is what was asked for explicitly, None for the default place. Raises `InvalidConfig`, `NotFound` for an
    explicit path without a file, `TeleportError` when it cannot be read.
    """
    if config_string:
        return load_config(_from_base64(config_string, "--config-string"), "--config-string")
    if encoded := (environment or {}).get(ENVIRONMENT_VARIABLE, ""):
        return load_config(_from_base64(encoded, ENVIRONMENT_VARIABLE), ENVIRONMENT_VARIABLE)
    place = DEFAULT_PATH if path is None else path
    try:
        with place.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        if path is None:
            return None
        raise NotFound(
            f"there is no configuration file {place}",
            hint=f"write one: teleport configure -o file://{place.absolute()}",
        ) from None
    except OSError as error:
        raise TeleportError(
            f"the configuration file {place} cannot be read: {error.strerror}",
            hint="run as a user who may read it, or name another one with --config",
        ) from None
    return load_config(content, str(place))


def _from_base64(encoded: str, source: str) -> bytes:
    try:
        return base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError):
        problems = Problems()
        problems.add(Problem(source, 1, "", "text that is not base64", "the file's text in base64"))
        raise InvalidConfig(problems, hint="encode it: base64 -w0 teleport.yaml") from None
