"""Receivers of copies of audit events (`auth_service.ship_events`) and of the daemon's log (`teleport.log.ship`)."""

# ruff: noqa: RUF009  # `key` makes a dataclass field

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from teleport.copies.settings import CopySettings, HttpsCopy, SyslogCopy, TlsFiles
from teleport.daemon.config import forms
from teleport.daemon.config.values import ShippedLog
from teleport.resources.values import HostPort
from teleport.resources.yaml_document import Node, Problems
from teleport.resources.yaml_readers import ListOf, integer, key, matching

SYSLOG_PORT: Final = 6514  # RFC 5425
_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,62}[a-z0-9])?")
_TAKEN: Final = re.compile(r"stdout|postgresql-.*|dynamodb-.*")
_TYPE: Final = re.compile(r"[a-z0-9_]+(?:\.[a-z0-9_]+)*(?:\.?\*)?")


def _name(value: str) -> str:
    if not _NAME.fullmatch(value) or _TAKEN.fullmatch(value):
        raise ValueError
    return value


def _receiver(value: str) -> str:
    parts = urlsplit(value)
    syslog, web = parts.scheme == "syslog+tls", parts.scheme == "https"
    if not (syslog or web) or not parts.hostname or "@" in parts.netloc or parts.fragment or not value.isprintable():
        raise ValueError
    if parts.port == 0 or (syslog and (parts.path.strip("/") or parts.query)):  # `port` raises for what is no number
        raise ValueError
    return value


event_type: Final = matching("the name of an event, or a group such as session.*", forms.fullmatch(_TYPE))


@dataclass(frozen=True, slots=True)
class _Receiver:
    """TLS is always spoken and the receiver's name always checked."""

    name: str = key(
        matching("a name of lower-case letters, digits, - and _, at most 64", _name),
        "",
        "what it is called in logs and metrics; what it has got, or lacks, is kept under it",
        required=True,
    )
    url: str = key(
        matching("syslog+tls://host:6514 or https://host/path, without user and password", _receiver),
        "",
        "where they go",
        required=True,
    )
    ca_file: Path | None = key(forms.path, None, "whom to believe", default_text="the system's authorities")
    cert_file: Path | None = key(forms.path, None, "client certificate")
    key_file: Path | None = key(forms.path, None, "key of the client certificate")
    token_file: Path | None = key(forms.path, None, "file with the token that https receivers ask for (Bearer)")

    def of_types(self, types: tuple[str, ...]) -> SyslogCopy | HttpsCopy:
        """All of it together."""
        tls = TlsFiles(self.ca_file, self.cert_file, self.key_file)
        parts = urlsplit(self.url)
        if parts.scheme == "https":
            return HttpsCopy(self.name, self.url, tls, self.token_file, types)
        return SyslogCopy(self.name, HostPort(parts.hostname or "", parts.port or SYSLOG_PORT), tls, types)


@dataclass(frozen=True, slots=True)
class Receiver(_Receiver):
    """`ship_events`: a receiver."""

    event_types: tuple[str, ...] = key(ListOf(event_type), (), "only these events", default_text="all")

    def settings(self) -> CopySettings:
        """All of it together."""
        return self.of_types(self.event_types)


@dataclass(frozen=True, slots=True)
class LogReceiver(_Receiver):
    """`log.ship`: a receiver."""

    spool_mib: int = key(
        integer(1, 65_536), 64, "how much waits on disk for it at most, in MiB; beyond it the oldest lines are dropped"
    )

    def settings(self) -> ShippedLog:
        """All of it together."""
        return ShippedLog(self.of_types(()), self.spool_mib << 20)


def check_receiver(section: _Receiver, node: Node, problems: Problems) -> None:
    for here, missing in (("cert_file", "key_file"), ("key_file", "cert_file")):
        child = node.get(here)
        if child is not None and node.get(missing) is None:
            child.problem(problems, "cert_file and key_file together", found=f"no {missing} beside it")
    token = node.get("token_file")
    if token is not None and not section.url.startswith("https:"):
        token.problem(problems, "with https:// only: syslog knows cert_file and key_file", found="a token for syslog")


def check_receivers(node: Node, problems: Problems) -> None:
    """Each name once: how far a receiver got is kept under it."""
    seen: set[str] = set()
    for child in node.items():
        named = child.get("name")
        if named is not None and named.value in seen:
            named.problem(problems, "each name once", found=f"{named.value} a second time")
        seen.add(named.value if named is not None else "")


_one: Final = forms.section(Receiver, check_receiver)
receivers: Final = ListOf(_one)
_log_one: Final = forms.section(LogReceiver, check_receiver)
log_receivers: Final = ListOf(_log_one)
