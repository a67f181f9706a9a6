"""`tracing_service` of the file: what is taken, what is refused, and which port it needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from teleport.daemon.config.effective import StartFlags, effective_config
from teleport.daemon.config.file import InvalidConfig, load_config
from teleport.daemon.config.values import Config, TracingConfig
from teleport.daemon.needed_ports import Direction, Surroundings, needed

REST = "auth_service: {enabled: no}\nproxy_service: {enabled: no}\n"


def config(text: str) -> Config:
    return effective_config(load_config(f"tracing_service: {{{text}}}\n{REST}", "teleport.yaml"), StartFlags(), "host")


def outbound(found: Config) -> set[tuple[str, int, str]]:
    return {
        (one.host, one.port, one.key)
        for one in needed(found, Surroundings())
        if one.direction is Direction.OUT and one.key
    }


def test_without_it_nothing_is_traced() -> None:
    assert effective_config(load_config(REST, "teleport.yaml"), StartFlags(), "host").tracing is None
    off = config("exporter_url: 'https://collector.example.com:4318', sampling_rate_per_million: 5")
    assert off.tracing is None
    assert not any("collector" in host for host, _, _ in outbound(off))


@pytest.mark.parametrize(
    ("url", "expected", "host", "port"),
    [
        ("https://c.example.com:4318", "https://c.example.com:4318/v1/traces", "c.example.com", 4318),
        ("https://c.example.com/", "https://c.example.com/v1/traces", "c.example.com", 443),
        ("https://c.example.com/otlp/v1/traces?x=y", "https://c.example.com/otlp/v1/traces?x=y", "c.example.com", 443),
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces", "127.0.0.1", 4318),
        ("http://[::1]", "http://[::1]/v1/traces", "::1", 80),
    ],
)
def test_where_spans_go(url: str, expected: str, host: str, port: int) -> None:
    found = config(f"enabled: yes, exporter_url: '{url}', sampling_rate_per_million: 1000000")
    assert found.tracing == TracingConfig(expected, 1_000_000)
    assert (host, port, "tracing_service.exporter_url") in outbound(found)
    assert not found.warnings


def test_tls_files_are_named(tmp_path: Path) -> None:
    for name in ("ca", "cert", "key"):
        (tmp_path / name).write_text("there")
    found = config(
        f"enabled: yes, exporter_url: 'https://c.example.com', sampling_rate_per_million: 1, "
        f"ca_certs: [{tmp_path}/ca], https_keypairs: [{{cert_file: {tmp_path}/cert, key_file: {tmp_path}/key}}]"
    )
    assert found.tracing is not None
    assert found.tracing.ca_files == (tmp_path / "ca",)
    assert found.tracing.keypairs == ((tmp_path / "cert", tmp_path / "key"),)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("enabled: yes", "exporter_url"),
        ("enabled: yes, exporter_url: 'grpc://c.example.com:4317'", "https://host:4318"),
        ("enabled: yes, exporter_url: 'https://u:p@c.example.com'", "no user and no password"),
        ("enabled: yes, exporter_url: 'https://c.example.com:0'", "https://host:4318"),
        ("enabled: yes, exporter_url: 'https:///v1/traces'", "https://host:4318"),
        ("enabled: yes, exporter_url: 'https://c.example.com', sampling_rate_per_million: 1000001", "1000000"),
        ("enabled: yes, exporter_url: 'https://c.example.com', ca_certs: [/there/is/none]", "/there/is/none"),
        ("enabled: yes, exporter_url: 'http://127.0.0.1', ca_certs: [/dev/null]", "files for TLS"),
        ("enabled: yes, exporter: 'https://c.example.com'", "exporter"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, said: str) -> None:
    with pytest.raises(InvalidConfig, match="tracing_service") as refused:
        config(text)
    assert said in str(refused.value)


def test_what_may_surprise_is_said() -> None:
    found = config("enabled: yes, exporter_url: 'http://c.example.com:4318'")
    assert any("unencrypted" in one for one in found.warnings)
    assert any("begins no trace" in one for one in found.warnings)
