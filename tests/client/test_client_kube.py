"""The certificate for a Kubernetes cluster that tsh keeps, and what kubectl is told of it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from teleport.client import keystore, kube, profile
from teleport.client.home import Home
from teleport.client.keystore import KeyFiles
from teleport.client.profile import Profile
from teleport.client.webapi import Ping
from teleport.errors import AccessDenied, NotFound
from teleport.pki.secret import Secret

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
PROFILE = Profile("proxy", "proxy:3080", "proxy:3023", "alice", "example.com", "example.com")
FILES = KeyFiles("proxy", "alice")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    found = Home(tmp_path / "home")
    profile.save(found, PROFILE)
    found.write(b"KEY", *FILES.key)
    return found


def keep(home: Home, name: str = "prod", *, key: bytes = b"KEY", left: timedelta = timedelta(hours=1)) -> None:
    """As an earlier call kept it."""
    text = f"# key {kube._key_id(key)}\n# expires {(NOW + left).isoformat()}\nCERTIFICATE\n"
    home.write(text.encode(), *kube._place(FILES, PROFILE.root_cluster, name))


@pytest.mark.parametrize("name", ["prod", "arn:aws:eks:eu-1:1:cluster/prod", "..", "a b", "é"])
def test_what_is_kept_is_given_again(home: Home, name: str) -> None:
    """Nobody is asked, whatever the cluster is called; kubectl is told the end a minute early."""
    keep(home, name)
    held = kube.credentials(home, PROFILE, name, NOW)
    assert (held.certificate, held.key, held.expires) == ("CERTIFICATE\n", b"KEY", NOW + timedelta(hours=1))
    said = json.loads(kube.exec_credential(held))["status"]
    assert said == {
        "expirationTimestamp": "2030-01-01T12:59:00Z",
        "clientCertificateData": "CERTIFICATE\n",
        "clientKeyData": "KEY",
    }


@pytest.mark.parametrize(
    ("key", "left"),
    [(b"KEY", timedelta(seconds=60)), (b"KEY", timedelta(hours=-1)), (b"FORMER", timedelta(hours=1))],
    ids=["ends within a minute", "has ended", "of a former login"],
)
def test_what_does_not_serve_any_more_is_asked_for_anew(home: Home, key: bytes, left: timedelta) -> None:
    """Here by a login that is no more, so that it is refused."""
    keep(home, key=key, left=left)
    with pytest.raises(AccessDenied, match=r"has no certificate for example.com"):
        kube.credentials(home, PROFILE, "prod", NOW)


def keep_for_a_minute(home: Home, left: timedelta) -> None:
    """As a call for which a second factor was given kept it."""
    text = f"# key {kube._key_id(b'KEY')}\n# expires {(NOW + left).isoformat()}\n# for one session\nCERTIFICATE\n"
    home.write(text.encode(), *kube._place(FILES, PROFILE.root_cluster, "prod"))


@pytest.mark.parametrize("left", [60, 11])
def test_what_a_factor_was_given_for_serves_nearly_to_its_end(home: Home, left: int) -> None:
    """The minute that others are kept from is all that it has; kubectl is told its end ten seconds early."""
    keep_for_a_minute(home, timedelta(seconds=left))
    held = kube.credentials(home, PROFILE, "prod", NOW)
    assert (held.certificate, held.one_session) == ("CERTIFICATE\n", True)
    said = json.loads(kube.exec_credential(held))["status"]
    assert said["expirationTimestamp"] == (NOW + timedelta(seconds=left - 10)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert said["clientCertificateData"] == "CERTIFICATE\n"


@pytest.mark.parametrize("left", [10, 0, -3600])
def test_what_a_factor_was_given_for_is_not_shown_past_its_end(home: Home, left: int) -> None:
    keep_for_a_minute(home, timedelta(seconds=left))
    with pytest.raises(AccessDenied, match=r"has no certificate for example.com"):
        kube.credentials(home, PROFILE, "prod", NOW)


@pytest.mark.parametrize("text", [b"", b"CERTIFICATE", b"# key x\n# expires y\nC", b"\xff\xff\n\n"])
def test_damaged_files_count_as_none(home: Home, text: bytes) -> None:
    home.write(text, *kube._place(FILES, PROFILE.root_cluster, "prod"))
    with pytest.raises(AccessDenied):
        kube.credentials(home, PROFILE, "prod", NOW)


def test_nobody_is_logged_in(tmp_path: Path) -> None:
    with pytest.raises(AccessDenied, match="is not logged in"):
        kube.credentials(Home(tmp_path / "home"), PROFILE, "prod", NOW)


def test_logging_out_and_in_leaves_none(home: Home) -> None:
    """Certificates go with the key that they are of; whom kubectl believes goes with the login."""
    keep(home)
    keystore.write_keys(home, FILES, key_pem=Secret(b"NEW"), public_line="x", ssh="s", tls="t", cluster="example.com")
    assert home.read(*kube._place(FILES, PROFILE.root_cluster, "prod")) is None
    keep(home, key=b"NEW")
    home.write(b"# cluster example.com\n", *FILES.authorities)
    assert keystore.write_kube_authorities(home, FILES, "example.com").name == "alice-kube-cas.pem"
    keystore.remove_keys(home, FILES)
    assert home.names("keys") == []


def test_where_the_proxy_serves_kubernetes(home: Home) -> None:
    """As it is announced, else on its host at the port that it listens on; a proxy of old says nothing."""
    ping = Ping("example.com", "off", "", "", "0.1.0")
    assert kube.kube_address(ping, "proxy", 3080) == ""
    assert kube.kube_address(replace(ping, kube_public_addr="k.example.com"), "proxy", 3080) == "k.example.com:3026"
    assert kube.kube_address(replace(ping, kube_listen_addr="0.0.0.0:4026"), "proxy", 3080) == "proxy:4026"
    assert kube.kube_address(replace(ping, kube_listen_addr="odd"), "proxy", 3080) == ""
    one_port = replace(ping, tls_routing=True, kube_enabled=True)
    assert kube.kube_address(one_port, "proxy", 3080) == "proxy:3080"
    assert kube.kube_address(replace(one_port, kube_listen_addr="0.0.0.0:3026"), "proxy", 3080) == "proxy:3026"
    assert kube.where(PROFILE, "proxy:3080") == kube.Where("proxy:3080", kube.KUBE_NAME)
    assert kube.where(PROFILE, "proxy:3026") == kube.Where("proxy:3026")
    with pytest.raises(NotFound, match="serves no Kubernetes clients"):
        kube.where(PROFILE, "")
