"""Settings of the cluster, changed with tctl while it runs: each takes effect at once, also on what is open.

`FIELDS` is the whole list: a field of a setting is tried here on a running cluster, or there is a warning that says
that it has no effect yet. A new field without a row fails.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from teleport.resources.cluster import (
    SINGLETONS,
    LockingMode,
    Singleton,
)
from teleport.resources.codec import resource_warnings
from teleport.resources.kinds import Kind
from teleport.testing.cluster import BIN, LOOPBACK, NODE, PASSWORD, PUBLIC, Cluster, Host, Person, Ran, wait_until
from teleport.testing.terminal import Terminal

ME = getpass.getuser()

# what is tried (the name of a test), or values whose use is warned of
FIELDS: dict[str, str | tuple[object, ...]] = {
    "cluster_auth_preference.type": ("github", "oidc", "saml"),
    "cluster_auth_preference.connector_name": ("corp",),
    "cluster_auth_preference.second_factor": "test_who_may_log_in_and_with_what",
    "cluster_auth_preference.u2f": "test_hardware_keys_are_for_the_domain_that_is_named",
    "cluster_auth_preference.webauthn": "test_hardware_keys_are_for_the_domain_that_is_named",
    "cluster_auth_preference.require_session_mfa": "test_each_session_needs_a_second_factor",
    "cluster_auth_preference.disconnect_expired_cert": "test_an_expired_certificate_ends_what_it_opened",
    "cluster_auth_preference.passwordless": "tests/web/test_web_passkeys.py",
    "cluster_auth_preference.allow_local_auth": "test_who_may_log_in_and_with_what",
    "cluster_auth_preference.message_of_the_day": "test_the_message_of_the_day_is_shown_before_a_login",
    "cluster_auth_preference.locking_mode": "tests/security/test_security_strict_locks.py",  # takes minutes of a clock
    "cluster_networking_config.client_idle_timeout": "test_an_idle_session_ends_with_the_message",
    "cluster_networking_config.client_idle_timeout_message": "test_an_idle_session_ends_with_the_message",
    "cluster_networking_config.web_idle_timeout": "tests/web/test_web_sessions.py",
    "cluster_networking_config.keep_alive_interval": "test_a_client_that_does_not_answer_is_cut",
    "cluster_networking_config.keep_alive_count_max": "test_a_client_that_does_not_answer_is_cut",
    "cluster_networking_config.session_control_timeout": "tests/auth/test_auth_session_control.py",
    "cluster_networking_config.routing_strategy": "test_of_two_hosts_with_one_name_the_newer_is_meant",
    "cluster_networking_config.tunnel_strategy": "tests/cluster/test_cluster_many_proxies.py",
    "cluster_networking_config.proxy_listener_mode": "test_the_web_port_serves_everything_for_as_long_as_that_is_set",
    "session_recording_config.mode": "test_recording_is_turned_off_and_on",
    "session_recording_config.proxy_checks_host_keys": "tests/cluster/test_cluster_agentless.py",
    "cluster_audit_config.type": "test_the_file_alone_decides_where_the_log_goes",
    "cluster_audit_config.region": "test_the_file_alone_decides_where_the_log_goes",
    "cluster_audit_config.audit_events_uri": "test_the_file_alone_decides_where_the_log_goes",
    "cluster_audit_config.audit_sessions_uri": "test_the_file_alone_decides_where_the_log_goes",
}
# of fields that are tried, the values that do not work (yet)
PARTLY: dict[str, tuple[object, ...]] = {
    "cluster_auth_preference.allow_local_auth": (False,),
    "cluster_auth_preference.require_session_mfa": (True,),
}


def fields() -> dict[str, type[Singleton]]:
    found = {}
    for kind, type_ in SINGLETONS.items():
        for field in msgspec.structs.fields(type(type_().spec)):
            found[f"{kind}.{field.name}"] = type_
    return found


def test_every_field_of_a_setting_works_or_is_warned_of() -> None:
    assert set(FIELDS) == set(fields())
    for path, type_ in fields().items():
        row, name = FIELDS[path], path.partition(".")[2]
        if isinstance(row, str) and "/" in row:
            strict = msgspec.structs.replace(type_().spec, **{name: LockingMode.STRICT})
            there = (Path(__file__).parents[2] / row).exists()
            assert there or resource_warnings(type_(spec=strict)), f"{path}: there is no {row}"  # type: ignore[arg-type]
        elif isinstance(row, str):
            assert callable(globals().get(row)), f"{path}: there is no test {row}"
        for value in PARTLY.get(path, ()) if isinstance(row, str) else row:
            spec = msgspec.structs.replace(type_().spec, **{name: value})
            warned = {warning.path for warning in resource_warnings(type_(spec=spec))}  # type: ignore[arg-type]
            assert warned == {f"spec.{name}"}, f"{path}: {value} has no effect, and nothing says so"
        assert not resource_warnings(type_()), "the defaults need no warning"


NAMES = {
    "cap": Kind.CLUSTER_AUTH_PREFERENCE,
    "netconfig": Kind.CLUSTER_NETWORKING_CONFIG,
    "recconfig": Kind.SESSION_RECORDING_CONFIG,
}


@contextlib.contextmanager
def setting(cluster: Cluster, short: str, **spec: Any) -> Iterator[None]:
    """These values while the context lasts."""
    kind = NAMES[short]
    metadata = {"name": str(kind).replace("_", "-")}
    document = {"kind": str(kind), "version": "v2", "metadata": metadata, "spec": spec}
    cluster.tctl("create", "-f", stdin=json.dumps(document)).ok()
    try:
        yield
    finally:
        cluster.tctl("rm", short).ok()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster whose settings these tests may change."""
    with Cluster(tmp_path_factory.mktemp("settings")) as made:
        yield made


@pytest.fixture(scope="module")
def sam(own: Cluster) -> Person:
    person = own.add_person("sam", logins=[ME])
    person.log_in()
    return person


@contextlib.contextmanager
def open_session(person: Person) -> Iterator[subprocess.Popen[str]]:
    """A session that waits for input."""
    client = subprocess.Popen(
        person.ssh_arguments(f"{ME}@{NODE}.{person.cluster.name}", "echo in; exec cat"),
        env=person.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    with client:
        try:
            assert client.stdout is not None
            assert client.stdout.readline() == "in\n"
            yield client
        finally:
            client.kill()


def test_an_idle_session_ends_with_the_message(own: Cluster, sam: Person) -> None:
    """Also one that was open before the setting was there."""
    with open_session(sam) as session:
        with setting(
            own, "netconfig", client_idle_timeout="1s", client_idle_timeout_message="Time to stretch your legs."
        ):
            assert session.wait(20) == 255
        assert session.stderr is not None
        assert "This session was ended: Time to stretch your legs.\n" in session.stderr.read()
    assert own.wait_event("client.disconnect", reason="idle for more than 1 s")["user"] == "sam"
    with open_session(sam) as session:  # and back to the defaults
        out, _ = session.communicate("still here\n", timeout=20)
        assert (session.returncode, out) == (0, "still here\n")


def test_a_client_that_does_not_answer_is_cut(own: Cluster, sam: Person) -> None:
    """By proxy and node; one that was connected before the change, too. At the defaults that takes a quarter of an
    hour."""
    with open_session(sam) as session:
        with setting(own, "netconfig", keep_alive_interval="1s", keep_alive_count_max=1):
            session.send_signal(signal.SIGSTOP)
            ended = own.wait_event("session.end", 20, user="sam", reason="the client disconnected")
            session.send_signal(signal.SIGCONT)
        assert ended["initial_command"] == ["echo in; exec cat"]


def test_recording_is_turned_off_and_on(own: Cluster, sam: Person) -> None:
    with setting(own, "recconfig", mode="off"):
        sam.ssh(f"{ME}@{NODE}.{own.name}", "true; : unrecorded").ok()
    sam.ssh(f"{ME}@{NODE}.{own.name}", "true; : recorded").ok()
    modes = {}
    for command in ("unrecorded", "recorded"):
        end = own.wait_event("session.end", initial_command=[f"true; : {command}"])
        modes[command] = (end["session_recording"], bool(end["recording_hash"]))
    assert modes == {"unrecorded": ("off", False), "recorded": ("node", True)}


def test_the_message_of_the_day_is_shown_before_a_login(own: Cluster, sam: Person) -> None:
    """At a terminal it has to be confirmed; a script is asked nothing, since its stdin holds the password."""
    with setting(own, "cap", message_of_the_day="Authorised use only.\nAsk the desk.", second_factor="off"):
        done = log_in(own, sam)
        assert (done.status, "Authorised use only.\nAsk the desk.\n" in done.stderr) == (0, True)
        where = [f"--proxy={own.web_address}", "--user=sam", f"--ca-pin={own.ca_pin()}", "--ttl=60"]
        for answer, status, asked in (("no", 5, rb"was not agreed to"), ("", 0, rb"Password of sam: ")):
            with Terminal([str(BIN / "tsh"), "login", *where], sam.environment) as terminal:
                terminal.expect("Ask the desk.*Press Enter to go on")
                terminal.type(f"{answer}\n")
                terminal.expect(asked.decode())
                if status == 0:
                    terminal.type(f"{PASSWORD}\n")
                else:
                    assert b"Password" not in terminal.shown, "who turns away types nothing"
                assert terminal.ended() == status
    with setting(own, "cap", second_factor="off"):
        assert "Authorised" not in log_in(own, sam).ok().stderr


def log_in(cluster: Cluster, person: Person, code: str = "") -> Ran:
    where = [f"--proxy={cluster.web_address}", f"--user={person.name}", f"--ca-pin={cluster.ca_pin()}", "--ttl=60"]
    return person.tsh("login", *where, stdin=f"{PASSWORD}\n{code}\n")


def test_who_may_log_in_and_with_what(own: Cluster, sam: Person) -> None:
    with setting(own, "cap", second_factor="off"):
        assert log_in(own, sam).status == 0, "nobody asks for a code"
    assert log_in(own, sam).status != 0
    with setting(own, "cap", second_factor="off", allow_local_auth=False):
        assert log_in(own, sam).status != 0
        failed = own.wait_event("user.login", success=False, error="local users may not log in to this cluster")
        assert failed["user"] == "sam"


def test_hardware_keys_are_for_the_domain_that_is_named(own: Cluster, sam: Person) -> None:
    def domain() -> str:
        status, asked = sam.web("POST", "/webapi/mfa/login/begin", {"user": "sam"})
        assert status == 200, asked
        return str(asked["webauthn_challenge"]["publicKey"]["rpId"])

    with setting(own, "cap", second_factor="on"):
        assert domain() == PUBLIC, "the proxy's public address"
    with setting(own, "cap", second_factor="on", u2f={"app_id": "https://keys.example.test:3080"}):
        assert domain() == "keys.example.test"
    with setting(own, "cap", second_factor="on", webauthn={"rp_id": "example.test"}):
        assert domain() == "example.test"
    with setting(own, "cap", second_factor="on", webauthn={"disabled": True}):
        assert "webauthn_challenge" not in sam.web("POST", "/webapi/mfa/login/begin", {"user": "sam"})[1]


def test_each_session_needs_a_second_factor(own: Cluster, sam: Person) -> None:
    where = f"{ME}@{NODE}.{own.name}"
    with setting(own, "cap", require_session_mfa=True):
        refused = sam.ssh(where, "true")
        assert (refused.status, "second factor" in refused.stderr) == (255, True), refused
    sam.ssh(where, "true").ok()


def test_of_two_hosts_with_one_name_the_newer_is_meant(own: Cluster, sam: Person, tmp_path: Path) -> None:
    """The second host follows the cluster's settings, too: what is turned off there was asked for at auth."""
    token = own.tctl("tokens", "add", "--type=node", "--format=json").json()["token"]
    older, newer = (
        Host(tmp_path / age, own.node_config("twin", auth_token=token, ca_pin=own.ca_pin()))
        for age in ("older", "newer")
    )
    with older, newer:
        where = f"{ME}@twin.{own.name}"

        def both() -> bool:
            return "fits 2 nodes" in sam.ssh(where, "true").stderr

        wait_until("both hosts are known", both)
        with setting(own, "netconfig", routing_strategy="most_recent"), setting(own, "recconfig", mode="off"):
            reached = sam.ssh(where, "echo $SSH_TELEPORT_HOST_UUID").ok().stdout.strip()
        assert reached == (newer.data_dir / "host_uuid").read_text().strip()
        end = own.wait_event("session.end", server_id=reached)
        assert end["session_recording"] == "off"
        assert both(), "without the setting nobody guesses"


def test_the_web_port_serves_everything_for_as_long_as_that_is_set(own: Cluster) -> None:
    """Without a restart; a login made meanwhile goes by it, and is told to begin anew when it is over."""
    mary = own.add_person("mary", logins=[ME])

    def announced() -> bool:
        return mary.web("GET", "/webapi/find")[1]["proxy"].get("tls_routing_enabled") is True

    def speaks_ssh() -> bool:
        with socket.create_connection((LOOPBACK, own.web_port), 10) as raw:
            raw.sendall(b"SSH-2.0-somebody\r\n")
            try:
                return raw.recv(8) == b"SSH-2.0-"
            except ConnectionError:
                return False

    assert not announced()
    assert not speaks_ssh()
    with setting(own, "netconfig", proxy_listener_mode="multiplex"):
        wait_until("the proxy announces it", announced)
        assert speaks_ssh()
        mary.log_in()
        assert 'tls_routing_enabled: "true"' in next((mary.home / ".tsh").glob("*.yaml")).read_text()
        assert mary.tsh("ssh", f"{ME}@{NODE}", "echo", "one").ok().stdout == "one\n"
    wait_until("it is over", lambda: not announced())
    assert not speaks_ssh()
    refused = mary.tsh("ssh", f"{ME}@{NODE}", "true")
    assert (refused.status, "tsh login" in refused.stderr) == (255, True), refused


def test_an_expired_certificate_ends_what_it_opened() -> None:
    """A certificate lives for a minute at least: tests/security/test_security_open_connections.py tries it without
    waiting; here, that what the cluster says reaches the decision of its nodes, is for the view's test."""
    from tests.security import test_security_open_connections as there

    assert callable(there.test_a_setting_that_comes_later_ends_a_connection_whose_certificate_has_expired)


def test_the_file_alone_decides_where_the_log_goes(own: Cluster) -> None:
    (shown,) = own.tctl("get", "cluster_audit_config", "--format=json").json()
    assert shown["metadata"]["labels"] == {"teleport.dev/origin": "defaults"}
    refused = own.tctl("rm", "cluster_audit_config")
    assert (refused.status, "change teleport.storage there" in refused.stderr) == (2, True)


@pytest.mark.long  # the table of `resources.md` 8 is tried without daemons in tests/auth/test_auth_settings.py
def test_a_setting_of_the_file_cannot_be_changed_with_tctl_and_is_back_after_a_restart(tmp_path: Path) -> None:
    with Cluster(tmp_path, client_idle_timeout="30m") as filed:
        (shown,) = filed.tctl("get", "netconfig", "--format=json").json()
        assert (shown["metadata"]["labels"], shown["spec"]["client_idle_timeout"]) == (
            {"teleport.dev/origin": "config-file"},
            "30m0s",
        )
        document = {"kind": "cluster_networking_config", "version": "v2", "spec": {"keep_alive_count_max": 7}}
        text = json.dumps({**document, "metadata": {"name": "cluster-networking-config"}})
        refused = filed.tctl("create", "-f", stdin=text)
        assert (refused.status, "change auth_service there and restart it" in refused.stderr) == (2, True)
        assert filed.tctl("rm", "netconfig").status == 2
        filed.tctl("create", "-f", "--confirm", stdin=text).ok()
        assert filed.tctl("get", "netconfig", "--format=text").ok().stdout.count("dynamic") == 1
        del filed.config["auth_service"]["client_idle_timeout"]
        filed.config["auth_service"]["message_of_the_day"] = "hello"
        filed.config["teleport"]["storage"] = {"audit_events_uri": f"file://{filed.data_dir}/log"}
        filed.write()
        filed.daemon.stop()
        filed.daemon.start()
        (kept,) = filed.tctl("get", "netconfig", "--format=json").json()
        assert kept["spec"]["keep_alive_count_max"] == 7, "what somebody wrote is kept"
        (cap,) = filed.tctl("get", "cap", "--format=json").json()
        assert cap["spec"]["message_of_the_day"] == "hello"
        (audit,) = filed.tctl("get", "cluster_audit_config", "--format=json").json()
        assert audit["spec"]["audit_events_uri"] == [f"file://{filed.data_dir}/log"]
        event = filed.wait_event("auth_preference.update", updated_by="teleport start")
        assert event["changed"] == ["message_of_the_day: none -> hello"]
