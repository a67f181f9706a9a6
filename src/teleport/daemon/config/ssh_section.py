"""`ssh_service`: the SSH server of a host (`config.md` 5)."""

# ruff: noqa: RUF009  # `key` makes a dataclass field

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from teleport.daemon.config import forms, ports
from teleport.resources.lexer import BadSyntax
from teleport.resources.template import Matcher, is_template, parse_template
from teleport.resources.values import CommandLabel, HostPort
from teleport.resources.yaml_document import Node, Problems
from teleport.resources.yaml_readers import boolean, integer, key, matching, one_of, text_map


def _power_of_two(value: str) -> int:
    pages = int(value) if value.isascii() and value.isdigit() and len(value) < 10 else 0
    if pages <= 0 or pages & (pages - 1):
        raise ValueError
    return pages


def _file_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", value):
        raise ValueError
    return value


_service: Final = matching("the name of a file, without a path", _file_name)
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_pages: Final = matching("a number of pages that is a power of 2", _power_of_two)


@dataclass(frozen=True, slots=True)
class Pam:
    """`ssh_service.pam`."""

    enabled: bool = key(boolean, False, "open a PAM session for each SSH session")
    service_name: str = key(_service, "sshd", "file under /etc/pam.d")
    use_pam_auth: bool = key(boolean, False, "run the auth stack too")
    environment: Mapping[str, str] = key(
        text_map, forms.NOTHING, "variables for PAM; values may use {{external.trait}}"
    )


@dataclass(frozen=True, slots=True)
class EnhancedRecording:
    """`ssh_service.enhanced_recording`: what the kernel sees of a session."""

    enabled: bool = key(boolean, False, "put on record what the kernel sees of sessions: commands, files, connections")
    command_buffer_size: int = key(_pages, 8, "buffer for commands, pages for each processor")
    disk_buffer_size: int = key(_pages, 128, "buffer for opened files, pages for each processor")
    network_buffer_size: int = key(_pages, 8, "buffer for connections, pages for each processor")
    cgroup_path: Path = key(forms.path, Path("/cgroup2"), "accepted, without use: processes are told apart by descent")


@dataclass(frozen=True, slots=True)
class RestrictedSession:
    """`ssh_service.restricted_session`: network restriction by the kernel."""

    enabled: bool = key(boolean, False, "restrict the network of sessions")
    events_buffer_size: int = key(integer(1), 32768, "buffer for events, bytes")


@dataclass(frozen=True, slots=True)
class SshSection:
    """`ssh_service` as it stands in the file."""

    enabled: bool = key(boolean, True, "run the SSH service")
    listen_addr: HostPort = key(
        forms.listen_address(ports.SSH), HostPort(forms.ANY_HOST, ports.SSH), "listener for SSH connections"
    )
    public_addr: tuple[HostPort, ...] = key(
        forms.public_addresses(ports.SSH), (), "further names in the host's certificate"
    )
    labels: Mapping[str, str] = key(forms.labels, forms.NOTHING, "labels of this host")
    commands: tuple[CommandLabel, ...] = key(forms.commands, (), "labels whose values commands find out")
    permit_user_env: bool = key(boolean, False, "read ~/.tsh/environment for sessions")
    port_forwarding: bool = key(boolean, True, "forward ports and sockets where roles allow it")
    recording_quota_mib: int = key(
        integer(0, 1 << 30),
        0,
        "MiB that recordings may use before auth has taken them; above that no session starts. 0: up to the room that "
        "is kept for audit events",
    )
    namespace: str = key(one_of(("default",)), "default", "legacy")
    pam: Pam = key(forms.section(Pam), Pam, "PAM")
    enhanced_recording: EnhancedRecording = key(
        forms.section(EnhancedRecording), EnhancedRecording, "recording by the kernel"
    )
    restricted_session: RestrictedSession = key(
        forms.section(RestrictedSession), RestrictedSession, "network restriction by the kernel"
    )


def check_ssh(section: SshSection, node: Node, problems: Problems) -> None:
    forms.check_labels(node, problems)
    pam = node.get("pam")
    variables = pam.get("environment") if pam is not None else None
    for name, value in variables.entries() if variables is not None else ():
        if not _VARIABLE.fullmatch(name):
            value.problem(problems, "a name of letters, digits and _", found=repr(name))
        elif is_template(value.value):
            try:
                if isinstance(parse_template(value.value), Matcher):
                    raise BadSyntax("a match has no value")
            except BadSyntax as error:
                value.problem(problems, f"text, or a template such as {{{{external.email}}}}: {error}")
