"""Two clusters of real daemons: a root's users reach the leaf's hosts by every client, and nothing else leads there."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.cluster_shells import ANY_HOST, open_shell
from tests.cluster.cluster_trust import LEAF, ROOT, Trusting, trusting

from teleport.testing.cluster import BIN, LOOPBACK, NODE, PUBLIC, Person, at, run, wait_until
from teleport.testing.terminal import Terminal

VISITOR = """kind: role
version: v4
metadata: {name: visitor}
spec: {allow: {logins: [nobody], node_labels: {'*': '*'}}}
"""
UNKNOWN_THERE = """kind: role
version: v4
metadata: {{name: {name}}}
spec: {{allow: {{logins: [{login}], node_labels: {{'*': '*'}}}}}}
"""


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, login: str) -> Iterator[Trusting]:
    with trusting(tmp_path_factory.mktemp("trusted")) as found:
        for name in ("guests", "unmapped"):
            found.root.tctl("create", "-", stdin=UNKNOWN_THERE.format(name=name, login=login)).ok()
        found.leaf.tctl("create", "-", stdin=VISITOR).ok()
        found.trust({"access": ["access"], "guests": ["visitor"]})
        yield found


@pytest.fixture(scope="module")
def ann(both: Trusting, login: str) -> Person:
    """A user of the root with the same role in both clusters."""
    person = both.root.add_person("ann", logins=[login])
    person.log_in()
    both.wait_online(person)
    return person


def where(person: Person, *target: str) -> str:
    """The cluster and the name that a session finds itself in."""
    return person.tsh("ssh", *target, "echo $SSH_TELEPORT_CLUSTER_NAME $SSH_TELEPORT_USER").ok().stdout.strip()


THERE = f"{LEAF} remote-ann-{ROOT}"


def test_a_user_of_the_root_reaches_a_host_of_the_leaf_by_every_client(
    both: Trusting, ann: Person, login: str, tmp_path: Path
) -> None:
    assert both.listed(ann) == {ROOT: "online", LEAF: "online"}
    assert where(ann, "--cluster", LEAF, f"{login}@{NODE}") == THERE
    assert where(ann, f"{login}@{NODE}.{LEAF}") == THERE
    assert where(ann, f"{login}@{NODE}") == f"{ROOT} ann"
    plain = ann.ssh(f"{login}@{NODE}.{LEAF}", "echo $SSH_TELEPORT_CLUSTER_NAME").ok().stdout
    assert plain == f"{LEAF}\n", "plain ssh, by what tsh config prints"
    jump = ("-o", "ProxyCommand=none", "-J", f"{login}@{at(both.root.proxy_ssh_port, PUBLIC)}")
    assert ann.ssh(*jump[2:], f"{login}@{NODE}.{LEAF}", "echo jumped").ok().stdout == "jumped\n"
    (tmp_path / "sent").write_bytes(b"some bytes")
    ann.tsh("scp", tmp_path / "sent", f"{login}@{NODE}.{LEAF}:{tmp_path}/there").ok()
    assert (tmp_path / "there").read_bytes() == b"some bytes"

    ann.tsh("login", LEAF).ok()
    assert where(ann, f"{login}@{NODE}") == THERE
    assert json.loads(ann.tsh("clusters", "--format=json").ok().stdout)[1]["selected"] is True
    ann.tsh("login", ROOT).ok()
    assert where(ann, f"{login}@{NODE}") == f"{ROOT} ann"


def test_mapped_roles_apply_and_who_has_none_is_told_so(both: Trusting, login: str) -> None:
    guest = both.root.add_person("gus", roles=["guests"], logins=[login])
    stranger = both.root.add_person("una", roles=["unmapped"], logins=[login])
    for person in (guest, stranger):
        person.log_in()
    denied = guest.tsh("ssh", f"{login}@{NODE}.{LEAF}", "true")
    assert denied.status == 255
    assert f"No node {NODE} is registered here for you" in denied.stderr + denied.stdout
    refused = stranger.tsh("ssh", f"{login}@{NODE}.{LEAF}", "true")
    assert refused.status == 255
    assert f"None of your roles in the cluster {ROOT} (unmapped) is mapped" in refused.stderr
    plain = stranger.ssh(f"{login}@{NODE}.{LEAF}", "true")
    assert plain.status == 255
    assert "is mapped" in plain.stderr, "plain ssh says why, too"
    listed = stranger.tsh("ls", f"--cluster={LEAF}")
    assert listed.status != 0
    unknown = stranger.tsh("ssh", "--cluster=leaf.tst", f"{login}@{NODE}", "true")
    assert f"did you mean {LEAF}?" in unknown.stderr


def test_nothing_leads_from_the_leaf_to_the_root_nor_into_the_leaf_past_the_root(
    both: Trusting, ann: Person, login: str
) -> None:
    own = both.leaf.add_person("leo", logins=[login])
    own.log_in()
    assert both.listed(own) == {LEAF: "online"}
    assert own.tsh("ssh", f"--cluster={ROOT}", f"{login}@{NODE}", "true").status != 0
    assert own.ssh("-o", "ProxyCommand=none", f"{login}@{NODE}.{ROOT}", "true").status == 255
    files = ann.home / ".tsh" / "keys" / PUBLIC
    past = run(
        "ssh",
        *ANY_HOST,
        *("-i", str(files / "ann"), "-o", f"CertificateFile={files / 'ann-ssh' / f'{ROOT}-cert.pub'}"),
        *("-p", str(both.leaf.proxy_ssh_port), f"{login}@{LOOPBACK}", "-s", f"proxy:{NODE}:22"),
        environment=ann.environment,
    )
    assert past.status == 255
    assert f"Your certificate is of the cluster {ROOT}" in past.stderr


def test_hosts_sessions_and_recordings_of_the_leaf_are_listed_joined_and_played_from_the_root(
    both: Trusting, ann: Person, login: str
) -> None:
    assert NODE in ann.tsh("ls", f"--cluster={LEAF}").ok().stdout
    with Terminal([str(BIN / "tsh"), "ssh", f"{login}@{NODE}.{LEAF}"], ann.environment, ann.home) as terminal:
        terminal.type("echo vis''ible\n")
        terminal.expect("visible")

        def running() -> list[dict[str, str]]:
            return list(ann.tsh("sessions", "ls", f"--cluster={LEAF}", "--format=json").ok().json())

        wait_until("the leaf's auth knows of the session", lambda: bool(running()))
        sid = running()[0]["sid"]
        assert ann.tsh("sessions", "ls", "--format=json").ok().json() == [], "it is none of the root's"
        joining = [str(BIN / "tsh"), "join", f"--cluster={LEAF}", sid]
        with Terminal(joining, ann.environment, ann.home) as other:
            other.expect("visible")
            terminal.type("exit\n")
            assert terminal.ended() == 0
            other.ended()
    both.leaf.wait_event("session.upload", sid=sid)
    played = ann.tsh("play", f"--cluster={LEAF}", "--format=text", sid).ok().stdout
    assert "visible" in played
    assert sid in ann.tsh("recordings", "ls", f"--cluster={LEAF}").ok().stdout
    assert both.leaf.wait_event("session.start", sid=sid)["user"] == f"remote-ann-{ROOT}"
    assert not [one for one in both.root.events("--type=session.start") if one["sid"] == sid], "events stay in the leaf"


def test_a_lock_at_the_root_ends_a_session_in_the_leaf_at_once(both: Trusting, login: str) -> None:
    person = both.root.add_person("lou", logins=[login])
    person.log_in()
    with open_shell(person, login, cluster=LEAF) as shell:
        made = both.root.tctl("lock", "--user=lou", "--format=json").json()
        begun = time.monotonic()
        shell.ends()
        print(f"the session ended {time.monotonic() - begun:.2f} s after the lock")
    both.root.tctl("rm", f"lock/{made[0]['name']}").ok()
