"""`tctl certs` with real daemons and clients: what is listed, and the end of one certificate everywhere at once."""

from __future__ import annotations

import subprocess
import time
from typing import Any

import pytest
from tests.cluster.cluster_shells import open_shell

from teleport.resources.values import HostPort
from teleport.testing.cluster import LOOPBACK, NODE, Cluster, Person, wait_until

ROLE = """kind: role
version: v4
metadata: {{name: certified}}
spec: {{allow: {{logins: [{login}], node_labels: {{'*': '*'}}}}}}
"""


@pytest.fixture(scope="module")
def cora(cluster: Cluster, login: str) -> Person:
    cluster.tctl("create", "-f", "-", stdin=ROLE.format(login=login)).ok()
    person = cluster.add_person("cora", roles=["certified"], logins=[])
    person.log_in()
    return person


def listed(cluster: Cluster, *arguments: str) -> list[dict[str, Any]]:
    found = cluster.tctl("certs", "ls", *arguments, "--format=json").json()
    assert isinstance(found, list)
    return found


def test_what_is_live_is_listed_with_its_use(cluster: Cluster, cora: Person, login: str) -> None:
    (certificate,) = cora.home.rglob("*-cert.pub")
    shown = subprocess.run(["ssh-keygen", "-Lf", str(certificate)], capture_output=True, text=True, check=True).stdout
    (mine,) = [one for one in listed(cluster, "--user=cora") if f"Serial: {one['serial']}\n" in shown]
    assert (mine["factor"], mine["logins"], mine["stopped"]) == ("password+otp", [login], "")
    assert HostPort.parse(mine["addr"]).host == LOOPBACK
    text = cluster.tctl("certs", "ls", "--user=cora").ok().stdout
    assert mine["serial"] in text
    hosts = listed(cluster, "--host=all")
    assert {role for one in hosts for role in one["system_roles"]} >= {"Auth", "Proxy", "Node"}
    assert cluster.tctl("certs", "ls", "--user=cora", "--host=all").status == 2
    assert cluster.tctl("certs", "revoke", "zero").status == 2
    assert cora.tsh("ls").ok()


def test_a_revoked_certificate_ends_open_sessions_and_is_refused_everywhere(
    cluster: Cluster, cora: Person, login: str
) -> None:
    """T09: at the node, at the proxy and at the auth API, SSH and TLS."""
    (mine,) = [one for one in listed(cluster, "--user=cora") if not one["renewed_from"]]  # that of the login
    with open_shell(cora, login) as shell, open_shell(cora, login) as second:
        begun = time.monotonic()
        done = cluster.tctl("certs", "revoke", hex(int(mine["serial"])), "--message=laptop stolen").ok()
        assert f"certificate {mine['serial']} of the user 'cora' has ended by lock " in done.stdout
        locks = [line.split()[-1] for line in done.stdout.splitlines()]  # of what it was renewed to, as well
        said = shell.ends()
        second.ends()
        print(f"both sessions had ended {time.monotonic() - begun:.2f} s after the command began")
        assert "Access is locked." in said
        assert "stolen" not in said
    again = cora.ssh(f"{login}@{NODE}.{cluster.name}", "true")
    assert (again.status, "Access is locked." in again.stderr) == (255, True), "the proxy refuses"
    direct = cora.ssh(
        "-o", "ProxyCommand=none", "-o", f"Port={cluster.node_port}", "-o", f"HostName={LOOPBACK}",
        "-o", "StrictHostKeyChecking=no", f"{login}@{NODE}.{cluster.name}", "true",
    )  # fmt: skip
    assert (direct.status, "Access is locked." in direct.stderr) == (255, True), direct
    asked = cora.tsh("ls")
    assert asked.status != 0
    record = wait_until(
        "the end is on record",
        lambda: [
            one
            for one in cluster.events("--type=client.disconnect")
            if any(f"lock {lock} on serial: " in one["reason"] for lock in locks)
        ],
    )
    assert record[0]["reason"].endswith(": laptop stolen")
    assert all(one["stopped"].endswith(": laptop stolen") for one in listed(cluster, "--user=cora"))
    assert cluster.wait_event("cert.revoked", serial=mine["serial"])["subject"] == "cora"
    for lock in locks:
        cluster.tctl("rm", f"lock/{lock}").ok()
    wait_until("access is back", lambda: cora.ssh(f"{login}@{NODE}.{cluster.name}", "true").status == 0)


def test_a_new_login_is_not_touched_by_the_end_of_an_older_certificate(
    cluster: Cluster, cora: Person, login: str
) -> None:
    old = {one["serial"] for one in listed(cluster, "--user=cora")}
    cora.tsh("logout").ok()
    cora.log_in()
    locks = [cluster.tctl("lock", f"--serial={serial}", "--format=json").json()[0]["name"] for serial in old]
    assert cora.ssh(f"{login}@{NODE}.{cluster.name}", "true").status == 0
    for lock in locks:
        cluster.tctl("rm", f"lock/{lock}").ok()


def test_a_lock_on_a_serial_number_that_nobody_has_says_so(cluster: Cluster) -> None:
    done = cluster.tctl("certs", "revoke", "12345").ok()
    assert "no live certificate with the serial number 12345 is known" in done.stderr
    cluster.tctl("rm", f"lock/{done.stdout.split()[-1]}").ok()
