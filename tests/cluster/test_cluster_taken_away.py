"""What open sessions rest on is taken away: they end within seconds, say why, are on record, and come back with it.

Locks are in test_cluster_locks.py and test_cluster_certs.py; here are users, roles and labels (threats T09, T31).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cluster.cluster_shells import open_shell

from teleport.testing.cluster import NODE, Cluster, Host, Person, wait_until

ROLE = """kind: role
version: v4
metadata: {{name: taken}}
spec: {{allow: {{logins: [{login}], node_labels: {{{labels}}}}}}}
"""
ALL = "'*': '*'"
MINUTE = 100.0  # seconds until the command of a label has run again


def write_role(cluster: Cluster, login: str, labels: str = ALL) -> None:
    cluster.tctl("create", "-f", "-", stdin=ROLE.format(login=login, labels=labels)).ok()


@pytest.fixture(scope="module")
def tess(cluster: Cluster, login: str) -> Person:
    write_role(cluster, login)
    cluster.tctl("create", "-f", "-", stdin=ROLE.format(login="nobody", labels=ALL).replace("taken", "bare")).ok()
    person = cluster.add_person("tess", roles=["taken", "bare"], logins=[])
    person.log_in()
    return person


Act = Callable[[Cluster, str], object]
TAKEN: dict[str, tuple[Act, Act, str, str]] = {
    # what is done, what undoes it, what the user reads, what is on record
    "the role's login": (
        lambda cluster, login: write_role(cluster, "somebody-else"),
        write_role,
        "Your roles do not allow the login",
        "role 'taken' does not give the login",
    ),
    "the role's labels": (
        lambda cluster, login: write_role(cluster, login, "env: [elsewhere]"),
        write_role,
        "Your roles do not allow the login",
        "role 'taken'",
    ),
    "the role": (
        lambda cluster, login: cluster.tctl("users", "update", "tess", "--set-roles=bare").ok(),
        lambda cluster, login: cluster.tctl("users", "update", "tess", "--set-roles=taken,bare").ok(),
        "Your roles do not allow the login",
        "role 'bare' does not give the login",
    ),
}


@pytest.mark.parametrize("what", TAKEN)
def test_what_is_taken_away_ends_open_sessions_and_comes_back(
    cluster: Cluster, tess: Person, login: str, what: str
) -> None:
    take, give_back, told, recorded = TAKEN[what]
    target = f"{login}@{NODE}.{cluster.name}"
    with open_shell(tess, login) as shell:
        try:
            take(cluster, login)
            begun = time.monotonic()
            said = shell.ends()
            print(f"{what}: the session ended {time.monotonic() - begun:.2f} s after it was taken")
            assert told in said
            assert tess.ssh(target, "true").status == 255
        finally:
            give_back(cluster, login)
    wait_until("access is back", lambda: tess.ssh(target, "true").status == 0)
    wait_until(
        "the end is on record",
        lambda: [
            one
            for one in cluster.events("--type=client.disconnect")
            if one["user"] == "tess" and recorded in one["reason"]
        ],
    )


def test_a_deleted_user_is_out_and_one_of_the_same_name_does_not_inherit(
    cluster: Cluster, tess: Person, login: str
) -> None:
    person = cluster.add_person("gone", roles=["taken"], logins=[])
    person.log_in()
    with open_shell(person, login) as shell:
        cluster.tctl("users", "rm", "gone").ok()
        assert "Your user does not exist any more." in shell.ends()
    assert person.ssh(f"{login}@{NODE}.{cluster.name}", "true").status == 255
    cluster.tctl("users", "add", "gone", "--roles=taken").ok()
    assert person.ssh(f"{login}@{NODE}.{cluster.name}", "true").status == 255
    ended = wait_until(
        "the end is on record",
        lambda: [one for one in cluster.events("--type=client.disconnect") if one["user"] == "gone"],
    )
    assert "was removed or has expired" in ended[0]["reason"]
    cluster.tctl("users", "rm", "gone").ok()


@pytest.mark.long
def test_a_label_of_the_host_that_changes_ends_what_rested_on_it(cluster: Cluster, login: str, tmp_path: Path) -> None:
    """A dynamic label: its command, which runs every minute, says something else."""
    stage = tmp_path / "stage"
    stage.write_text("test\n")
    made = cluster.tctl("nodes", "add", "--roles=node", "--format=json").json()[0]
    (tmp_path / "token").write_text(made)
    config = cluster.node_config("shifty", auth_token=str(tmp_path / "token"), ca_pin=cluster.ca_pin())
    config["ssh_service"]["commands"] = [{"name": "stage", "command": ["/bin/cat", str(stage)], "period": "1m"}]
    role = ROLE.format(login=login, labels="stage: [test]").replace("taken", "staged")
    cluster.tctl("create", "-f", "-", stdin=role).ok()
    person = cluster.add_person("stan", roles=["staged"], logins=[])
    person.log_in()
    with Host(tmp_path / "shifty", config):
        wait_until("the host is seen", lambda: person.ssh(f"{login}@shifty.{cluster.name}", "true").status == 0)
        with open_shell(person, login, host="shifty") as shell:
            stage.write_text("production\n")
            wait_until("the session ends", lambda: shell.client.poll() is not None, MINUTE)
            assert "Your roles do not allow the login" in shell.ends()
        stage.write_text("test\n")
        target = f"{login}@shifty.{cluster.name}"
        wait_until("it is back", lambda: person.ssh(target, "true").status == 0, MINUTE)
