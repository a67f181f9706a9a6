"""`tctl access diff` before a role is changed names exactly the sessions that end after it."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from tests.cluster.cluster_shells import OpenShell, open_shell

from teleport.testing.cluster import NODE, Cluster, Person, wait_until

ROLE = """kind: role
version: v4
metadata: {{name: {name}}}
spec: {{allow: {{logins: [{login}], node_labels: {{{labels}}}}}}}
"""
ALL = "'*': '*'"


def written(name: str, login: str, labels: str = ALL) -> str:
    return ROLE.format(name=name, login=login, labels=labels)


@pytest.fixture(scope="module")
def people(cluster: Cluster, login: str) -> dict[str, Person]:
    """Each with other roles, all of which let them in."""
    cluster.tctl("create", "-f", "-", stdin=written("diff-a", login) + "---\n" + written("diff-b", login)).ok()
    found = {}
    for name, roles in (("dana", ["diff-a"]), ("dora", ["diff-a", "diff-b"]), ("dirk", ["diff-b"])):
        found[name] = cluster.add_person(name, roles=roles, logins=[])
        found[name].log_in()
    return found


def told(cluster: Cluster, text: str) -> dict[str, Any]:
    found = cluster.tctl("access", "diff", "-", "--format=json", stdin=text).json()
    assert isinstance(found, dict)
    return found


def sessions(cluster: Cluster, count: int) -> None:
    """Waits until auth has heard of the begin of so many sessions of these users."""
    wait_until("auth knows the sessions", lambda: told(cluster, written("diff-a", "x"))["open_sessions"] >= count)


def test_the_diff_names_exactly_the_sessions_that_end(cluster: Cluster, people: dict[str, Person], login: str) -> None:
    change = written("diff-a", login, "env: [elsewhere]")
    with contextlib.ExitStack() as stack:
        shells: dict[str, list[OpenShell]] = {
            name: [stack.enter_context(open_shell(person, login)) for _ in range(2 if name == "dana" else 1)]
            for name, person in people.items()
        }
        sessions(cluster, 3)
        before = told(cluster, change)
        assert before["users"] == ["dana", "dora"]
        assert [(one["user"], one["login"], one["hostname"]) for one in before["ending"]] == [("dana", login, NODE)] * 2
        assert [(one["user"], one["gained"], one["hostname"]) for one in before["changes"]] == [("dana", False, NODE)]
        assert "'diff-a'" in before["ending"][0]["reasons"][0]
        done = cluster.tctl("create", "-f", "-", stdin=change).ok()
        assert (
            "role 'diff-a' has been updated; it touches 2 users and 3 open sessions, of which 2 now end" in done.stdout
        )
        for shell in shells["dana"]:
            assert "do not allow" in shell.ends()
        ended = {event["sid"] for event in cluster.events("--type=session.end") if event["user"] == "dana"}
        wait_until(
            "the ends are on record",
            lambda: (
                {one["sid"] for one in before["ending"]}
                <= {event["sid"] for event in cluster.events("--type=session.end")} | ended
            ),
        )
        for name in ("dora", "dirk"):
            for shell in shells[name]:
                assert shell.client.poll() is None, f"{name} was not named"
        text = cluster.tctl("access", "diff", "-", stdin=written("diff-a", login)).ok().stdout
        assert "gains" in text
        assert "No open session would end." in text
    cluster.tctl("create", "-f", "-", stdin=written("diff-a", login)).ok()


def test_nothing_is_changed_by_asking_and_only_roles_are_compared(cluster: Cluster, people: dict[str, Person]) -> None:
    before = cluster.tctl("get", "roles/diff-b").ok().stdout
    assert told(cluster, written("diff-b", "nobody-else"))["changes"]
    assert cluster.tctl("get", "roles/diff-b").ok().stdout == before
    lock = "kind: lock\nversion: v2\nmetadata: {name: x}\nspec: {target: {user: x}}\n"
    assert cluster.tctl("access", "diff", "-", stdin=lock).status == 2


def test_who_may_not_read_users_is_refused(cluster: Cluster, people: dict[str, Person], login: str) -> None:
    identity = people["dirk"].home / "identity.pem"
    cluster.tctl("auth", "sign", "--user=dirk", "--format=file", f"--out={identity}").ok()
    done = cluster.tctl("access", "diff", "-", f"--identity={identity}", stdin=written("diff-b", login))
    assert done.status == 5
