"""Second factors end to end: authenticator apps and security keys, with `tsh mfa` and `tsh login`."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from teleport.auth import passwords
from teleport.testing.cluster import PASSWORD, Cluster, Person, Ran
from teleport.testing.terminal import Terminal


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("factors")) as made:
        yield made


def set_factor(cluster: Cluster, word: str) -> None:
    document: dict[str, Any] = {
        "kind": "cluster_auth_preference",
        "version": "v2",
        "metadata": {"name": "cluster-auth-preference"},
        "spec": {"second_factor": word},
    }
    cluster.tctl("create", "-f", stdin=json.dumps(document)).ok()


def log_in(person: Person, key: Path, answer: str) -> Ran:
    cluster = person.cluster
    where = [f"--proxy={cluster.web_address}", f"--user={person.name}", f"--ca-pin={cluster.ca_pin()}", "--ttl=60"]
    return person.tsh_with_key(key, "login", *where, stdin=f"{PASSWORD}\n{answer}\n")


def devices(person: Person) -> dict[str, dict[str, str]]:
    return {one["name"]: one for one in person.tsh("mfa", "ls", "--format=json").ok().json()}


def test_a_security_key_is_added_logs_in_is_locked_and_removed(cluster: Cluster, tmp_path: Path) -> None:
    set_factor(cluster, "off")
    ann = cluster.add_person("ann")
    ann.log_in()
    set_factor(cluster, "optional")
    key, other = tmp_path / "key", tmp_path / "other"
    add = ("mfa", "add", "--type=webauthn", "--name=my key")
    refused = ann.tsh_with_key(key, *add, stdin="not the password\n")
    assert (refused.status, "password is wrong" in refused.stderr, devices(ann)) == (5, True, {})
    added = ann.tsh_with_key(key, *add, stdin=f"{PASSWORD}\n").ok()
    assert "Touch your security key" in added.stderr
    log_in(ann, key, "").ok()
    event = cluster.wait_event("user.login", user="ann", mfa_device=_device(ann, "my key"))
    assert event["user_agent"].startswith("tsh/")
    assert log_in(ann, other, "").status == 5, "who has a device has to prove it"

    set_factor(cluster, "on")
    code = _app_added(ann, key)
    log_in(ann, other, code).ok()
    table = ann.tsh("mfa", "ls", "-v").ok().stdout
    assert table.split()[:2] == ["Name", "ID"]
    assert {name: one["type"] for name, one in devices(ann).items()} == {"my key": "webauthn", "phone": "totp"}

    set_factor(cluster, "webauthn")
    wrong = log_in(ann, other, "")
    assert (wrong.status, "registered" in wrong.stderr) == (3, True)
    log_in(ann, key, "").ok()
    assert "last device" in ann.tsh_with_key(key, "mfa", "rm", "my key").stderr
    ann.tsh_with_key(key, "mfa", "rm", "phone").ok()
    assert list(devices(ann)) == ["my key"]
    removed = cluster.wait_event("mfa.delete", user="ann")
    assert (removed["code"], removed["mfa_device"]["mfa_device_name"]) == ("T1007I", "phone")

    cluster.tctl("lock", f"--mfa-device={devices(ann)['my key']['id']}", "--message=lost").ok()
    locked = log_in(ann, key, "")
    assert (locked.status, "wrong" in locked.stderr) == (5, True)

    cluster.tctl("users", "reset", "ann").ok()
    assert devices(ann) == {}


def _app_added(person: Person, key: Path) -> str:
    """Adds an authenticator app at a terminal, proving the key; the code that it shows next."""
    program = [sys.executable, "-m", "teleport.testing.authenticator", str(key), "mfa", "add", "--name=phone"]
    with Terminal([*program, "--type=totp"], person.environment) as terminal:
        terminal.expect("your security key")
        terminal.type("\n")
        terminal.expect(r"Secret: \w+")
        secret = re.search(rb"Secret: (\w+)", terminal.shown)
        assert secret is not None
        terminal.expect("Code that the new device shows")
        period = int(time.time()) // passwords.TOTP_PERIOD
        terminal.type(passwords.totp_code(secret[1].decode(), period) + "\n")
        assert terminal.ended() == 0
    return passwords.totp_code(secret[1].decode(), period + 1)


def _device(person: Person, name: str) -> dict[str, str]:
    found = devices(person)[name]
    return {"mfa_device_name": name, "mfa_device_uuid": found["id"], "mfa_device_type": found["type"]}


def test_the_proxy_is_reached_by_its_name_for_a_key(cluster: Cluster, tmp_path: Path) -> None:
    """A proxy that asks for the key of another site gets none: it could pass the answer on."""
    set_factor(cluster, "webauthn")
    document = {
        "kind": "cluster_auth_preference",
        "version": "v2",
        "metadata": {"name": "cluster-auth-preference"},
        "spec": {"second_factor": "webauthn", "webauthn": {"rp_id": "bank.example"}},
    }
    cluster.tctl("create", "-f", stdin=json.dumps(document)).ok()
    carl = Person(cluster, "carl", tmp_path / "carl")
    refused = log_in(carl, tmp_path / "key", "")
    assert (refused.status, "bank.example" in refused.stderr) == (2, True)
