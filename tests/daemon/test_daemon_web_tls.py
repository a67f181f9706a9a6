"""What the web listener shows: files before ACME before what was made here, which is kept while it is whole."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from teleport.clock import Clock
from teleport.daemon.config.values import AcmeConfig
from teleport.daemon.host import Host
from teleport.daemon.web_tls import WebTLS
from teleport.pki.web_chain import WebPair, read_pair
from teleport.testing.auth import present_clock
from teleport.testing.public_authority import Issued, PublicAuthority

AUTHORITY = PublicAuthority()


@dataclass(frozen=True)
class Files:
    cert_file: Path
    key_file: Path


def made(folder: Path, *files: Files, hosts: tuple[str, ...] = ("a.test",), clock: Clock | None = None) -> WebTLS:
    host = Host(folder, "8b6a0c2e-3e4a-4a55-9a54-1a2b3c4d5e6f", 1, -1)
    return WebTLS(files, host, hosts, clock or present_clock(), cast(Any, None), by_acme=True)


def pair(issued: Issued) -> WebPair:
    return read_pair(issued.chain, issued.key, chain_name="c", key_name="k")


def test_what_was_made_here_is_kept_until_it_fits_no_more_or_is_broken(tmp_path: Path) -> None:
    clock = present_clock()
    (first,) = made(tmp_path, clock=clock).certificates.pairs
    assert first.self_signed
    assert stat.S_IMODE((tmp_path / "webproxy_key.pem").stat().st_mode) == 0o600
    assert made(tmp_path, clock=clock).certificates.pairs == (first,)
    (other,) = made(tmp_path, hosts=("b.test",), clock=clock).certificates.pairs
    assert other.fits("b.test")
    assert other.digest != first.digest
    for broken in (AUTHORITY.issue("x.test").key, b"", b"half a key"):
        (tmp_path / "webproxy_key.pem").write_bytes(broken)
        (anew,) = made(tmp_path, hosts=("b.test",), clock=clock).certificates.pairs
        assert anew.fits("b.test")
        assert anew.digest != other.digest
        assert made(tmp_path, hosts=("b.test",), clock=clock).certificates.pairs == (anew,)
    clock.advance(826 * 86400)
    (last,) = made(tmp_path, hosts=("b.test",), clock=clock).certificates.pairs
    assert last.digest != anew.digest


def test_files_go_before_what_acme_gives_and_both_before_what_was_made_here(tmp_path: Path) -> None:
    issued = AUTHORITY.issue("a.test", "*.apps.test")
    chain, key = issued.write(tmp_path)
    chain.write_bytes(issued.chain + issued.root)
    shown = made(tmp_path, Files(chain, key))
    settings = AcmeConfig("https://d.test/", "", ("a.test", "x.apps.test", "b.test"))
    assert shown.uncovered(settings).names == ("b.test",)
    got = pair(AUTHORITY.issue("b.test"))
    shown.got({"b.test": got})
    assert [one.names[0] for one in shown.certificates.pairs] == ["a.test", "b.test"]
    assert sorted(shown.ends()) == ["a.test", "b.test"]
    assert not (tmp_path / "webproxy_key.pem").exists(), "none is made where one is given"
    alone = made(tmp_path)
    assert alone.certificates.pairs[0].self_signed
    alone.got({"b.test": got})
    assert alone.certificates.pairs == (got,)


def test_a_port_without_acme_answers_no_directory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert made(tmp_path).endings() == {}
    assert "until the first one by ACME is there" in caplog.text
