"""`tracing_service`: where spans of requests go (`teleport.spans`)."""

# `key` makes a dataclass field

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from teleport.daemon.config import forms
from teleport.daemon.config.proxy_section import KeyPair
from teleport.daemon.config.values import TracingConfig
from teleport.daemon.needed_ports import is_local
from teleport.resources.yaml_document import Node, Problems
from teleport.resources.yaml_readers import ListOf, boolean, integer, key, matching, one_or_many

PATH: Final = "/v1/traces"  # of OTLP over HTTP, where the URL names none


def _exporter(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.fragment:
        raise ValueError
    if parts.port == 0 or not value.isprintable() or " " in value:  # `port` raises for what is no number
        raise ValueError
    return urlunsplit(parts._replace(path=PATH)) if parts.path in ("", "/") else value


@dataclass(frozen=True, slots=True)
class TracingSection:
    """`tracing_service` as it stands in the file."""

    enabled: bool = key(boolean, False, "send spans of requests to a collector")
    exporter_url: str = key(
        matching("https://host:4318 or http://host:4318, with a path or without, no user and no password", _exporter),
        "",
        f"the collector, by OTLP over HTTP; without a path {PATH}",
        default_text="required with enabled",
    )
    sampling_rate_per_million: int = key(
        integer(0, 1_000_000), 0, "of a million traces that begin here, so many are kept; those of tsh --trace always"
    )
    ca_certs: tuple[Path, ...] = key(
        one_or_many(forms.readable_file), (), "whom to believe as collector", default_text="the system's authorities"
    )
    https_keypairs: tuple[KeyPair, ...] = key(
        ListOf(forms.section(KeyPair)), (), "what proves this host to the collector"
    )

    def settings(self) -> TracingConfig | None:
        """What the daemon runs with; None: no span is made."""
        if not self.enabled:
            return None
        pairs = tuple((pair.cert_file, pair.key_file) for pair in self.https_keypairs)
        return TracingConfig(self.exporter_url, self.sampling_rate_per_million, self.ca_certs, pairs)


def check_tracing(section: TracingSection, node: Node, problems: Problems) -> None:
    if not section.enabled:
        return
    url = node.get("exporter_url")
    if url is None:
        node.problem(problems, "exporter_url: https://collector.example.com:4318", found="enabled, and no exporter_url")
        return
    parts = urlsplit(section.exporter_url)
    if parts.scheme == "http":
        for name in ("ca_certs", "https_keypairs"):
            child = node.get(name)
            if child is not None and child.items():
                child.problem(problems, "an https:// exporter_url beside it", found="files for TLS, and http://")
        if not is_local(parts.hostname or ""):
            url.notice(problems, "sends which requests there were, unencrypted and to whoever answers there: use https")
    if not section.sampling_rate_per_million:
        node.notice(problems, "begins no trace by itself: sampling_rate_per_million is 0")
