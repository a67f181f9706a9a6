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
from tests.web import chromium

from teleport.auth.factors import passwords
from teleport.client.hardware_keys import KeyQuestion
from teleport.testing.authenticator import SoftwareKeys
from teleport.testing.cluster import BIN, LOOPBACK, NODE, PASSWORD, PUBLIC, Cluster, Person, Ran, at
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
    without = ann.tsh(*add)
    assert (without.status, "no security key at this machine" in without.stderr) == (3, True), "nothing was asked"
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
        terminal.expect("Code that the new device shows")  # then all of the secret was shown
        secret = re.search(rb"Secret: (\w+)", terminal.shown)
        assert secret is not None
        period = int(time.time()) // passwords.TOTP_PERIOD
        terminal.type(passwords.totp_code(secret[1].decode(), period) + "\n")
        assert terminal.ended() == 0
    return passwords.totp_code(secret[1].decode(), period + 1)


def _device(person: Person, name: str) -> dict[str, str]:
    found = devices(person)[name]
    return {"mfa_device_name": name, "mfa_device_uuid": found["id"], "mfa_device_type": found["type"]}


def test_a_key_opens_a_session_and_approves_plain_ssh_at_a_link(cluster: Cluster, tmp_path: Path, login: str) -> None:
    """Sessions that need a factor of their own: tsh asks the key, ssh shows a link for the browser."""
    set_factor(cluster, "off")
    options = "{require_session_mfa: yes, mfa_lease_ttl: 10m}"
    role = f"spec: {{options: {options}, allow: {{logins: [{login}], node_labels: {{'*': '*'}}}}}}"
    cluster.tctl("create", "-f", stdin=f"kind: role\nversion: v4\nmetadata: {{name: careful}}\n{role}\n").ok()
    kim = cluster.add_person("kim", roles=["careful"], logins=[])
    kim.log_in()
    set_factor(cluster, "optional")
    key = tmp_path / "key"
    kim.tsh_with_key(key, "mfa", "add", "--type=webauthn", "--name=key", stdin=f"{PASSWORD}\n").ok()
    set_factor(cluster, "webauthn")

    ran = kim.tsh_with_key(key, "ssh", f"{login}@{NODE}", "echo in").ok()
    assert (ran.stdout, "Touch your security key" in ran.stderr) == ("in\n", True)
    proved = cluster.wait_event("session.mfa", user="kim", purpose="session")
    assert proved["mfa_device"] == _device(kim, "key")

    words = list(kim.ssh_arguments(f"{login}@{NODE}.{cluster.name}", "echo in:$((40+2))"))
    place = words.index("BatchMode=yes")
    del words[place - 1 : place + 1]
    with Terminal(words, kim.environment, columns=300) as terminal:
        link = terminal.expect(r"approve with your security key at (https://\S+)")[1].decode()
        terminal.expect("Enter once approved: ")
        where = f"/webapi/mfa/lease/{link.rpartition('/')[2]}"
        status, shown = kim.web("GET", where)
        assert (status, shown["user"], shown["client_addr"]) == (200, "kim", LOOPBACK)
        assert kim.web("POST", where, _signed(key, cluster, shown))[0] == 200
        terminal.type("\n")
        terminal.expect("in:42")
        assert terminal.ended() == 0
    assert kim.ssh(f"{login}@{NODE}.{cluster.name}", "echo in").ok().stdout == "in\n"  # with BatchMode
    (lease,) = cluster.tctl("mfa", "leases", "ls", "--format=json").json()
    assert lease["spec"]["device"] == _device(kim, "key")["mfa_device_uuid"]


def _signed(key: Path, cluster: Cluster, shown: dict[str, Any]) -> dict[str, Any]:
    """What the page sends once the key was touched."""
    options = shown["webauthn_challenge"]["publicKey"]
    question = KeyQuestion(
        options["challenge"], options["rpId"], tuple(one["id"] for one in options["allowCredentials"])
    )
    answer = SoftwareKeys(key).sign(question, f"https://{cluster.web_address}", lambda _: None)
    response = {
        "clientDataJSON": answer.client_data,
        "authenticatorData": answer.authenticator_data,
        "signature": answer.signature,
        "userHandle": answer.user_handle,
    }
    signed = {"id": answer.credential_id, "response": response}
    return {"challenge_id": shown["challenge_id"], "webauthn_challenge_response": signed}


@pytest.fixture
def named(cluster: Cluster, tmp_path: Path) -> Iterator[Cluster]:
    """A cluster whose proxy has a name: browsers use no key at an address."""
    if PUBLIC == "localhost":
        yield cluster
        return
    made = Cluster(tmp_path / "named")
    made.config["proxy_service"]["public_addr"] = at(made.web_port, "localhost")
    made.write()
    with made:
        yield made


@pytest.mark.skipif(bool(chromium.missing()), reason=chromium.missing() or "-")
def test_a_key_enrolled_in_a_browser_logs_tsh_in(named: Cluster, tmp_path: Path) -> None:
    """Chromium's virtual authenticator: registered on the page of the invitation, it answers for a tsh elsewhere."""
    cluster = named
    set_factor(cluster, "webauthn")
    added = cluster.tctl("users", "add", "dora", "--roles=access", "--logins=root", "--format=json").json()
    dora = Person(cluster, "dora", tmp_path / "dora")
    with chromium.browser(tmp_path / "browser") as window:
        window.plug_in_key()
        window.go(added["url"])
        window.wait("return document.getElementById('form') !== null", "the form")
        for field in ("#password", "#again"):
            window.type(field, PASSWORD)
        window.click("#send")
        window.wait("return document.querySelector('h1')?.textContent === 'Nodes'", "the registration")

        where = [f"--proxy={cluster.web_address}", f"--ca-pin={cluster.ca_pin()}"]
        with Terminal([str(BIN / "tsh"), "login", *where, "--user=dora"], dora.environment) as terminal:
            page = terminal.expect(r"(https://\S+/web/login/\S+)")[1].decode()
            code = terminal.expect(r"type there the code ([A-Z-]+)")[1].decode()
            window.go(page.replace(cluster.web_address, at(cluster.web_port, "localhost")))
            window.wait("return document.getElementById('form')?.hidden === false", "the page")
            assert not window.shown("#code")
            window.type("#user", "dora")
            window.type("#password", "not the password")
            window.type("#check", code)
            window.click("#key")
            window.wait("return document.getElementById('problem')?.hidden === false", "a refusal")
            window.wait("return !document.getElementById('key').disabled", "another try")
            window.type("#password", PASSWORD)
            window.click("#key")
            window.wait("return document.getElementById('title')?.textContent === 'Done'", "the login")
            assert terminal.ended() == 0
        complaints = [text for text in window.complaints() if "Content Security Policy" in text]
        assert not complaints
    assert "dora" in dora.tsh("status").ok().stdout
    told = [one for one in cluster.events("--type=user.login") if one["user"] == "dora" and one["success"]]
    by_tsh = [one for one in told if "browser" in one.get("message", "")]  # the invitation signed in the browser itself
    assert [one["mfa_device"]["mfa_device_type"] for one in by_tsh] == ["webauthn"]


def test_tsh_logs_in_by_a_passkey_alone(cluster: Cluster, tmp_path: Path) -> None:
    """`tsh login --auth=passwordless` asks no name and no password; the passkey checks its owner."""
    set_factor(cluster, "on")
    finn, key, plain = cluster.add_person("finn"), tmp_path / "key", tmp_path / "plain"
    finn.log_in()
    add = ("mfa", "add", "--name=stick", "--allow-passwordless")
    assert finn.tsh(*add, "--type=totp").status == 2
    finn.tsh_with_key(key, *add, stdin=f"{finn.code()}\n").ok()
    finn.tsh_with_key(plain, "mfa", "add", "--name=plain", "--type=webauthn", stdin=f"{finn.code()}\n").ok()
    finn.tsh("logout").ok()
    where = ("login", f"--proxy={cluster.web_address}", f"--ca-pin={cluster.ca_pin()}", "--auth=passwordless")
    none = finn.tsh(*where)
    assert (none.status, "no security key at this machine" in none.stderr) == (3, True)
    no_passkey = finn.tsh_with_key(plain, *where)
    assert (no_passkey.status, "the code is wrong" in no_passkey.stderr) == (5, True), no_passkey.stderr
    other = finn.tsh_with_key(key, *where, "--user=ann")
    assert (other.status, "the passkey is that of 'finn', not of 'ann'" in other.stderr) == (5, True), other.stderr
    assert finn.tsh("status").status != 0, "nothing was stored"
    assert "finn" in finn.tsh_with_key(key, *where).ok().stdout
    event = cluster.wait_event("user.login", user="finn", method="passwordless", success=True)
    assert event["mfa_device"]["mfa_device_name"] == "stick"
    assert event["user_agent"].startswith("tsh/")
    assert NODE in finn.tsh("ls").ok().stdout
    set_factor(cluster, "otp")
    off = finn.tsh_with_key(key, *where, "--ttl=60")
    assert (off.status, "passkeys do not log in to this cluster" in off.stderr) == (2, True), off.stderr


@pytest.mark.skipif(bool(chromium.missing()), reason=chromium.missing() or "-")
def test_a_passkey_in_a_browser_logs_tsh_in(named: Cluster, tmp_path: Path) -> None:
    """Followed with a passkey alone, the invitation sets no password; the passkey answers for a tsh elsewhere."""
    cluster = named
    set_factor(cluster, "on")
    added = cluster.tctl("users", "add", "gil", "--roles=access", "--logins=root", "--format=json").json()
    gil = Person(cluster, "gil", tmp_path / "gil")
    with chromium.browser(tmp_path / "browser") as window:
        window.plug_in_key(passkeys=True)
        window.go(added["url"])
        window.wait("return document.getElementById('form') !== null", "the form")
        window.click("input[value=passkey]")
        window.click("#send")
        window.wait("return document.querySelector('h1')?.textContent === 'Nodes'", "the registration")

        where = [f"--proxy={cluster.web_address}", f"--ca-pin={cluster.ca_pin()}", "--auth=passwordless"]
        with Terminal([str(BIN / "tsh"), "login", *where], gil.environment) as terminal:
            page = terminal.expect(r"(https://\S+/web/login/\S+)")[1].decode()
            code = terminal.expect(r"type there the code ([A-Z-]+)")[1].decode()
            window.go(page.replace(cluster.web_address, at(cluster.web_port, "localhost")))
            window.wait("return document.getElementById('passkey')?.hidden === false", "the page")
            window.type("#check", "WRONG")
            window.click("#passkey")
            window.wait("return document.getElementById('problem')?.hidden === false", "a refusal")
            window.wait("return !document.getElementById('passkey').disabled", "another try")
            window.type("#check", code)
            window.click("#passkey")
            window.wait("return document.getElementById('title')?.textContent === 'Done'", "the login")
            assert terminal.ended() == 0
        assert not [text for text in window.complaints() if "Content Security Policy" in text]
    assert "gil" in gil.tsh("status").ok().stdout
    told = [one for one in cluster.events("--type=user.login") if one["user"] == "gil" and one["success"]]
    assert [one["method"] for one in told] == ["passwordless", "passwordless"], "the invitation, and tsh"
    assert not [one for one in cluster.events("--type=user.password_change") if one["user"] == "gil"]
    refused = gil.tsh("login", *where[:2], "--user=gil", "--ttl=60", stdin=f"{PASSWORD}\n123456\n")
    assert refused.status == 5


def test_an_invitation_is_accepted_in_the_terminal_with_a_key(cluster: Cluster, tmp_path: Path) -> None:
    set_factor(cluster, "webauthn")
    added = cluster.tctl("users", "add", "emil", "--roles=access", "--format=json").json()
    emil, key = Person(cluster, "emil", tmp_path / "emil"), tmp_path / "key"
    accept = ("accept", added["url"], f"--ca-pin={cluster.ca_pin()}")
    without = emil.tsh(*accept, stdin=f"{PASSWORD}\n")
    assert (without.status, "no security key at this machine" in without.stderr) == (3, True)
    emil.tsh_with_key(key, *accept, stdin=f"{PASSWORD}\n").ok()
    log_in(emil, key, "").ok()
    assert list(devices(emil)) == ["webauthn"]


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
