"""`tctl lock` with real daemons and real ssh: open sessions end at once, new ones are refused, lifting restores."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from tests.cluster.cluster_shells import open_shell

from teleport.testing.cluster import NODE, Cluster, Person, wait_until

ROLE = """kind: role
version: v4
metadata: {{name: lockable}}
spec: {{allow: {{logins: [{login}], node_labels: {{'*': '*'}}}}}}
"""


@pytest.fixture(scope="module")
def lotte(cluster: Cluster, login: str) -> Person:
    """Reaches every host by a role of her own."""
    cluster.tctl("create", "-f", "-", stdin=ROLE.format(login=login)).ok()
    person = cluster.add_person("lotte", roles=["lockable"], logins=[])
    person.log_in()
    return person


def host_id(cluster: Cluster) -> str:
    (node,) = [one for one in cluster.tctl("nodes", "ls", "--format=json").json() if one["spec"]["hostname"] == NODE]
    return str(node["metadata"]["name"])


@pytest.mark.parametrize("what", ["user", "role", "login", "node", "node by its id"])
def test_a_lock_ends_open_sessions_and_refuses_new_ones(cluster: Cluster, lotte: Person, login: str, what: str) -> None:
    kind = what.split()[0]
    name = {"user": "lotte", "role": "lockable", "login": login, "node": NODE, "node by its id": host_id(cluster)}[what]
    with open_shell(lotte, login) as shell:
        made = cluster.tctl("lock", f"--{kind}={name}", "--message=stolen laptop", "--format=json").json()
        try:
            begun = time.monotonic()
            said = shell.ends()
            print(f"{what}: the session ended {time.monotonic() - begun:.2f} s after the lock")
            assert "Access is locked." in said
            assert "stolen" not in said, "why there is a lock is for the record"
            again = lotte.ssh(f"{login}@{NODE}.{cluster.name}", "true")
            assert (again.status, "Access is locked." in again.stderr) == (255, True)
        finally:
            cluster.tctl("rm", f"lock/{made[0]['name']}").ok()
    wait_until("the lock is lifted", lambda: lotte.ssh(f"{login}@{NODE}.{cluster.name}", "true").status == 0)
    ended = wait_until(
        "the end is on record",
        lambda: [
            one
            for one in cluster.events("--type=client.disconnect")
            if made[0]["name"] in one["reason"] and one["user"] == "lotte"
        ],
    )
    assert ended[0]["reason"].endswith(": stolen laptop")


def test_a_lock_for_a_while_lifts_itself(cluster: Cluster, lotte: Person, login: str) -> None:
    made = cluster.tctl("lock", "--user=lotte", "--ttl=3s", "--format=json").json()
    assert lotte.ssh(f"{login}@{NODE}.{cluster.name}", "true").status in (0, 255)
    wait_until("the lock is over", lambda: lotte.ssh(f"{login}@{NODE}.{cluster.name}", "true").status == 0)
    cluster.tctl("rm", f"lock/{made[0]['name']}")


def test_what_a_lock_says_and_how_it_is_listed(cluster: Cluster) -> None:
    end = (datetime.now(UTC) + timedelta(days=2)).replace(microsecond=0)
    done = cluster.tctl("lock", "--user=nobody-there", f"--expires={end.isoformat()}").ok()
    name = done.stdout.split()[1]
    assert done.stdout == f"lock {name} stops user: nobody-there until {end:%Y-%m-%d %H:%M:%S} UTC\n"
    assert f"there is no user 'nobody-there': the lock stops nobody now. A mistake? tctl rm lock/{name}" in done.stderr
    (listed,) = [one for one in cluster.tctl("get", "locks", "--format=json").json() if one["metadata"]["name"] == name]
    assert listed["spec"] == {"target": {"user": "nobody-there"}, "expires": f"{end:%Y-%m-%dT%H:%M:%SZ}"}
    cluster.tctl("rm", f"lock/{name}").ok()


def test_somebody_who_may_not_is_refused(cluster: Cluster, lotte: Person) -> None:
    identity = lotte.home / "identity.pem"
    cluster.tctl("auth", "sign", "--user=lotte", "--format=file", f"--out={identity}").ok()
    for command in (["lock", "--user=alice"], ["users", "unlock", "alice"]):
        done = cluster.tctl(*command, f"--identity={identity}")
        assert done.status == 5, done
    assert not [
        one for one in cluster.tctl("get", "locks", "--format=json").json() if one["spec"]["target"].get("user")
    ]


def test_who_may_lock_needs_no_right_to_look(cluster: Cluster, login: str) -> None:
    """Whether anything has the name is only asked afterwards."""
    role = (
        ROLE.format(login=login)
        .replace("lockable", "jailer")
        .replace("spec: {allow: {", "spec: {allow: {rules: [{resources: [lock], verbs: [create]}], ")
    )
    cluster.tctl("create", "-f", "-", stdin=role).ok()
    person = cluster.add_person("jana", roles=["jailer"], logins=[])
    identity = person.home / "identity.pem"
    cluster.tctl("auth", "sign", "--user=jana", "--format=file", f"--out={identity}").ok()
    done = cluster.tctl("lock", "--user=nobody-there", "--ttl=1h", f"--identity={identity}").ok()
    assert "warning" not in done.stderr
    cluster.tctl("rm", f"lock/{done.stdout.split()[1]}").ok()


def test_users_unlock_ends_a_lockout(cluster: Cluster, login: str) -> None:
    """Five wrong passwords, then the right one is refused; unlocked, it is taken."""
    person = cluster.add_person("ulli", logins=[login])
    where = (f"--proxy={cluster.web_address}", "--user=ulli", f"--ca-pin={cluster.ca_pin()}")
    for _ in range(5):
        assert person.tsh("login", *where, stdin="certainly not this one\n000000\n").status == 5
    cluster.wait_event("user.locked", user="ulli")
    done = cluster.tctl("users", "unlock", "ulli").ok()
    assert done.stdout == "user 'ulli' is no longer locked out\n"
    person.log_in()
    told = cluster.wait_event("user.unlocked", name="ulli")
    assert (told["code"], told["was_locked"]) == ("T9036I", True)
    again = cluster.tctl("users", "unlock", "ulli").ok()
    assert "was not locked out" in again.stdout
    lock = cluster.tctl("lock", "--user=ulli", "--format=json").json()[0]["name"]
    assert f"tctl rm lock/{lock}" in cluster.tctl("users", "unlock", "ulli").ok().stderr
    cluster.tctl("rm", f"lock/{lock}").ok()
    assert cluster.tctl("users", "unlock", "nobody-there").status == 3
