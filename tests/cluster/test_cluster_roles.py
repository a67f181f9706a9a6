"""Roles decide at the node: the user reads one clear sentence, the audit log has the reason."""

from __future__ import annotations

import pytest

from teleport.testing.cluster import NODE, Cluster, Person, wait_until

ROLES = {
    "no-login": "{allow: {logins: [somebody-else], node_labels: {'*': '*'}}}",
    "no-label": "{allow: {logins: [LOGIN], node_labels: {env: [production]}}}",
    "by-label": "{allow: {logins: [LOGIN], node_labels: {env: ['^te.t$']}}}",
}


def document(name: str, spec: str, login: str) -> str:
    """A role as people write it."""
    return f"kind: role\nversion: v3\nmetadata: {{name: {name}}}\nspec: {spec.replace('LOGIN', login)}\n"


@pytest.fixture(scope="module")
def people(cluster: Cluster, login: str) -> dict[str, Person]:
    """Somebody for each role, logged in."""
    documents = [document(name, spec, login) for name, spec in ROLES.items()]
    cluster.tctl("create", stdin="---\n".join(documents)).ok()
    found = {}
    for name in ROLES:
        found[name] = cluster.add_person(f"u-{name}", roles=[name], logins=[login])
        found[name].log_in()
    return found


def test_a_role_with_the_login_and_the_label_lets_in(people: dict[str, Person], cluster: Cluster, login: str) -> None:
    assert people["by-label"].tsh("ssh", f"{login}@{NODE}", "echo in").ok().stdout == "in\n"
    assert people["by-label"].ssh(f"{login}@{NODE}.{cluster.name}", "echo in").ok().stdout == "in\n"


def test_a_role_without_the_login_refuses_in_a_sentence_and_on_record(
    people: dict[str, Person], cluster: Cluster, login: str
) -> None:
    person = people["no-login"]
    by_tsh = person.tsh("ssh", f"{login}@{NODE}", "echo in")
    assert (by_tsh.status, by_tsh.stdout) == (255, "")
    assert f"you may not log in as {login}" in by_tsh.stderr
    by_ssh = person.ssh(f"{login}@{NODE}.{cluster.name}", "echo in")
    assert (by_ssh.status, by_ssh.stdout) == (255, "")
    assert f"Your certificate does not hold the login '{login}'" in by_ssh.stderr
    event = cluster.wait_event("auth", user=person.name)
    assert event["code"] == "T3007W"
    assert event["login"] == login
    assert "login" in event["error"]


def test_a_role_without_the_label_refuses_in_a_sentence_and_on_record(
    people: dict[str, Person], cluster: Cluster, login: str
) -> None:
    """The host is not shown to exist."""
    person = people["no-label"]
    by_tsh = person.tsh("ssh", f"{login}@{NODE}", "echo in")
    assert (by_tsh.status, by_tsh.stdout) == (255, "")
    by_ssh = person.ssh(f"{login}@{NODE}.{cluster.name}", "echo in")
    assert (by_ssh.status, by_ssh.stdout) == (255, "")
    for told in (by_tsh.stderr, by_ssh.stderr):
        assert f"No node {NODE}" in told
        assert "tsh ls" in told
    event = cluster.wait_event("session.request_denied", user=person.name)
    assert event["code"] == "T9032W"
    assert event["login"] == login
    assert NODE in event["request"]
    assert "hidden: " in event["reason"], "the log says what the user is not told"
    assert "role" in event["reason"]


def test_a_label_that_is_taken_away_refuses_at_the_next_connection(
    people: dict[str, Person], cluster: Cluster, login: str
) -> None:
    """A role is asked again for each connection, whatever the certificate was issued for."""
    person = people["by-label"]
    person.tsh("ssh", f"{login}@{NODE}", "true").ok()
    cluster.tctl("create", "-f", stdin=document("by-label", ROLES["no-label"], login)).ok()

    def refused() -> bool:
        return person.tsh("ssh", f"{login}@{NODE}", "true").status == 255

    try:
        wait_until("the proxy and the node know", refused)
    finally:
        cluster.tctl("create", "-f", stdin=document("by-label", ROLES["by-label"], login)).ok()
    wait_until("and know again", lambda: not refused())


def test_hosts_that_no_role_reaches_are_not_listed(people: dict[str, Person]) -> None:
    assert people["by-label"].tsh("ls", "--format=names").ok().stdout.split() == [NODE]
    assert people["no-label"].tsh("ls", "--format=names").ok().stdout.split() == []


def test_a_login_that_the_role_lacks_is_refused_beside_one_that_it_has(cluster: Cluster, alice: Person) -> None:
    done = alice.tsh("ssh", f"daemon@{NODE}", "id")
    assert done.status != 0
    assert "daemon" in done.stderr
