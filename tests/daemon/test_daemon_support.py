"""Scrubbing, and the last look before a bundle is written; tests/cluster/test_cluster_support_bundle.py makes one."""

from __future__ import annotations

import base64
import json
import os
import re
import stat
import tarfile
import time
from pathlib import Path

import pytest
from tests.daemon.test_daemon_doctor import AUTH, patient

from teleport.daemon.config.describe import describe_keys
from teleport.daemon.doctor.examination import Report
from teleport.daemon.doctor.patient import Finding, Patient
from teleport.daemon.support import bundle, collect, facts
from teleport.daemon.support.scrub import HIDDEN, scrubbed, scrubbed_values
from teleport.errors import AlreadyExists, NotFound, TeleportError
from teleport.pki.keys import generate_ed25519, generate_p256

SECRETS = {
    "join token": "token={}",
    "beside another": "error: token={}",
    "hex": "found {} there",
    "json": '{{"password": "{}"}}',
    "header": "Authorization: Bearer {}",
    "basic": "proxy-authorization: basic {}",
    "url": "postgresql://teleport:{}@db.example.com/t",
    "query": "GET https://p.example.com/webapi/x?access={}",
    "invitation": "https://p.example.com:3080/web/invite/{}",
    "reset": "https://p.example.com:3080/web/reset/{}",
    "yaml": "conn_string: {}",
    "quoted": "passphrase='{} and more'",
    "cookie": "set-cookie: session={}",
}


@pytest.mark.parametrize("form", SECRETS.values(), ids=SECRETS)
def test_what_looks_like_a_secret_is_hidden(form: str) -> None:
    """Whether it is random or somebody's word."""
    for secret in (os.urandom(16).hex(), base64.b64encode(os.urandom(32)).decode(), "JBSWY3DPEHPK3PXPJBSWY3DP"):
        assert secret not in scrubbed(form.format(secret)), form
    if form != SECRETS["hex"]:
        assert "hunter2hunter2" not in scrubbed(form.format("hunter2hunter2")), form


def test_keys_are_hidden_whole_and_in_part() -> None:
    for pem in (
        generate_p256().pkcs8_pem().reveal().decode(),
        generate_ed25519().openssh_pem().reveal().decode(),
        generate_ed25519().openssh_pem().reveal().decode().partition("\n")[2],  # of which the log has the rest
    ):
        text = scrubbed(f"before\n{pem}\nafter", [])
        for line in pem.splitlines():
            assert len(line) < 20 or line.startswith("-----") or line not in text
    assert scrubbed("a\n-----BEGIN PRIVATE KEY-----\nshort\n") == f"a\n{HIDDEN}"


@pytest.mark.parametrize(
    "text",
    [
        "node ready host=713f9fa7-56f8-4f27-8b20-5dd0ce536c94 sid=b7b5cdb9-63ba-4d64-a1b4-9c1a4a7b7b21",
        "/var/lib/teleport/log/713f9fa7-56f8-4f27-8b20-5dd0ce536c94/2026-03-01.00:00:00.log",
        "2026-03-01T12:00:00.123456Z INFO connection from 192.0.2.7:50000 to [2001:db8::1]:3022 refused",
        "teleport/daemon/assembly.py:133 _start > teleport/transport/listeners.py:12 begin",
        "a-host-with-a-very-long-name.of.a.domain.example.com",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert scrubbed(text) == text


def test_what_strangers_wrote_into_the_log_takes_no_longer_than_other_text() -> None:
    """Each in far less than the minutes that a search over and over would take."""
    began = time.process_time()
    for text in (
        "w" * 400_000,
        "-----BEGIN A-----" * 20_000,
        "http://" * 50_000,
        "token" * 80_000,
        "token=" * 60_000,
        "a:" * 100_000,
        "a://b" * 60_000,
    ):
        scrubbed(text)
    assert time.process_time() - began < 10


@pytest.mark.parametrize("word", ["http://", "https://a", "http://a.b/c/", "x/http://"])
def test_a_line_of_many_urls_is_scrubbed_about_as_quickly_as_one_of_words(word: str) -> None:
    """A thread that scrubs a line of the log keeps all others waiting. Compared with a harmless line of that size."""

    def taken(text: str) -> float:
        times = []
        for _ in range(3):
            began = time.thread_time()
            scrubbed(text)
            times.append(time.thread_time() - began)
        return min(times)

    size = 64 * 1024
    harmless = ("harmless words " * size)[:size]
    assert taken((word * size)[:size]) < 15 * taken(harmless)


@pytest.mark.parametrize(
    "url",
    ["http://a/b?{}", "see=https://a/#{}", "proxy/http://a?{}", "http://http://a&{}", "https://" + "a" * 3000 + "?{}"],
)
def test_what_follows_the_path_of_a_url_is_hidden_wherever_it_begins(url: str) -> None:
    assert scrubbed(f"at {url.format('sesame')} end") == f"at {url.format(HIDDEN)} end"


def test_known_secrets_are_hidden_wherever_they_stand() -> None:
    assert scrubbed("the word sesame, unsesamed", ["sesame", "ab"]) == f"the word {HIDDEN}, un{HIDDEN}d"
    nested = {"a": ["sesame", 1, {"sesame": "x sesame"}], "b": True}
    assert scrubbed_values(nested, ["sesame"]) == {"a": [HIDDEN, 1, {"sesame": f"x {HIDDEN}"}], "b": True}


def test_a_secret_that_is_there_after_all_keeps_the_bundle_from_being_written() -> None:
    with pytest.raises(TeleportError, match=r"would be in log\.txt"):
        bundle.check({"log.txt": b"x Sesame1 y"}, ["Sesame1"])
    bundle.check({"configuration.json": b'{"node": 1}'}, ["node"])  # a word that is one of our own


def test_a_part_that_cannot_be_had_is_named_with_the_reason(tmp_path: Path) -> None:
    def fails(patient: Patient) -> str:
        raise NotFound("no Sesame1 here", hint="x")

    files = bundle.collected(patient(tmp_path, AUTH), {"a.txt": lambda _: "text", "b.txt": fails}, ["Sesame1"])
    manifest = json.loads(files["manifest.json"])
    assert manifest["files"] == {"a.txt": 4}
    assert manifest["missing"] == {"b.txt": f"no {HIDDEN} here"}


def test_the_archive_is_its_owners_alone_and_overwrites_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.tar.gz"
    bundle.write(path, {"a.txt": b"text"}, 1000.0)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with tarfile.open(path) as archive:
        assert archive.getnames() == ["teleport-support/a.txt"]
    with pytest.raises(AlreadyExists):
        bundle.write(path, {}, 1000.0)
    (tmp_path / "link").symlink_to(tmp_path / "other")
    with pytest.raises(AlreadyExists):
        bundle.write(tmp_path / "link", {}, 1000.0)


def test_a_value_in_the_wrong_place_of_the_configuration_is_not_told() -> None:
    finding = Finding("config", 'teleport.yaml:3: ssh_service.enabled: found "Sesame1", allowed: yes', "vi")
    told = collect.findings(Report((finding,), (), ("config",)))
    assert told["findings"][0]["what"] == "teleport.yaml:3: ssh_service.enabled"


def test_no_secret_key_of_the_configuration_is_among_the_facts(tmp_path: Path) -> None:
    """Whatever is given for them; and each is among what is looked for."""
    secret_keys = [key.path for key in describe_keys() if "secret" in key.path or "password" in key.path]
    assert secret_keys, "there are some"
    text = """  auth_token: Sesame1-token
  storage: {type: postgresql, conn_string: 'postgresql://u:Sesame2-word@127.0.0.1/t?sslmode=disable', insecure: true}
auth_service: {tokens: ['node:Sesame3-static']}
ssh_service:
  labels: {a: Sesame4-label}
  commands: [{name: x, command: [/bin/echo, Sesame5-command], period: 1m0s}]
  pam: {enabled: yes, service_name: sshd, environment: {KEY: Sesame6-pam}}
tracing_service:
  enabled: yes
  exporter_url: https://c.example.com/in?key=Sesame7-query
"""
    mine = patient(tmp_path, text)
    told = json.dumps(facts.settings(mine.config), default=str)
    assert "Sesame" not in told
    assert "https://c.example.com" in told
    assert {"Sesame1-token", "Sesame2-word", "Sesame3-static", "Sesame6-pam", "Sesame7-query"} <= set(
        facts.secrets(mine.config)
    )


def test_the_page_lists_what_is_in_a_bundle() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "troubleshooting.md").read_text()
    table = page.partition("## teleport support-bundle")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert set(re.findall(r"`([^`]+)`", " ".join(rows))) == {*collect.PARTS, bundle.MANIFEST, "doctor.json", "log.txt"}
