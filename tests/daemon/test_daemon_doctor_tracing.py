"""`teleport doctor` on the collector of traces: real listeners, and none."""

from __future__ import annotations

import ssl
from pathlib import Path

from tests.daemon.test_daemon_doctor import NODE, findings, patient

from teleport.daemon.doctor import tracing
from teleport.testing.loopback import LOOPBACK, free_port
from teleport.testing.otlp_collector import Collector
from teleport.testing.public_authority import PublicAuthority


def section(url: str, more: str = "") -> str:
    return f"{NODE}tracing_service: {{enabled: yes, exporter_url: '{url}', sampling_rate_per_million: 1{more}}}\n"


def test_without_tracing_nobody_is_asked(tmp_path: Path) -> None:
    off = f"{NODE}tracing_service: {{enabled: no, exporter_url: 'http://{LOOPBACK}:{free_port()}'}}\n"
    assert not findings(tracing.looked(patient(tmp_path, NODE)))
    assert not findings(tracing.looked(patient(tmp_path, off)))


def test_one_that_is_there_is_no_finding_and_hears_no_request(tmp_path: Path) -> None:
    collector = Collector()
    with collector.up():
        assert not findings(tracing.looked(patient(tmp_path, section(collector.url))))
    assert not collector.requests


def test_one_that_is_not_there(tmp_path: Path) -> None:
    port = free_port()
    (found,) = findings(tracing.looked(patient(tmp_path, section(f"http://{LOOPBACK}:{port}/in?key=sesame"))))
    assert f"{LOOPBACK}:{port} is not reached" in found.what
    assert found.mend.startswith(f"curl -v http://{LOOPBACK}:{port} ")
    assert "sesame" not in f"{found}"


def test_a_name_that_is_not_known(tmp_path: Path) -> None:
    (found,) = findings(tracing.looked(patient(tmp_path, section("https://collector.invalid"))))
    assert found.what == "the name of the collector of traces is not known: collector.invalid"


def test_one_that_is_somebody_else(tmp_path: Path) -> None:
    authority = PublicAuthority("Collector")
    right, wrong = tmp_path / "ca.pem", tmp_path / "other.pem"
    right.write_bytes(authority.root)
    wrong.write_bytes(PublicAuthority("Other").root)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.issue(LOOPBACK).write(tmp_path, "server"))
    collector = Collector(context=context)
    with collector.up():
        assert not findings(tracing.looked(patient(tmp_path, section(collector.url, f", ca_certs: {right}"))))
        (found,) = findings(tracing.looked(patient(tmp_path, section(collector.url, f", ca_certs: {wrong}"))))
        assert "is not whom it should be" in found.what
        assert found.mend.endswith("teleport.yaml")
        wrong.write_text("no certificate")
        (found,) = findings(tracing.looked(patient(tmp_path, section(collector.url, f", ca_certs: {wrong}"))))
        assert "cannot be used" in found.what
