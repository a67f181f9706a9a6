"""A leaf whose proxy ends and records sessions: users of the root come through it as those of the leaf do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.cluster_streams import TwoStreams, streams_of
from tests.cluster.cluster_trust import LEAF, ROOT, Trusting
from tests.cluster.test_cluster_agentless import SSHD, WEB, make_sshd, set_up

from teleport.testing.cluster import NODE, Cluster, Person, wait_until

ASKING = """kind: role
version: v4
metadata: {name: asking}
spec: {options: {require_session_mfa: true}, allow: {logins: [LOGIN], node_labels: {'*': '*'}}}
"""
GUESTS = """kind: role
version: v4
metadata: {{name: guests}}
spec: {{allow: {{logins: [{login}], node_labels: {{'*': '*'}}}}}}
"""
ANN = f"remote-ann-{ROOT}"


@pytest.fixture(scope="module", params=["proxy", "proxy-sync"])
def both(tmp_path_factory: pytest.TempPathFactory, login: str, request: pytest.FixtureRequest) -> Iterator[Trusting]:
    folder = tmp_path_factory.mktemp("recorded")
    with (
        Cluster(folder / "root", name=ROOT) as root,
        Cluster(folder / "leaf", name=LEAF, session_recording=request.param) as leaf,
    ):
        found = Trusting(root, leaf)
        root.tctl("create", "-", stdin=GUESTS.format(login=login)).ok()
        leaf.tctl("create", "-", stdin=ASKING.replace("LOGIN", login)).ok()
        found.trust({"access": ["access"], "guests": ["asking"]})
        yield found


@pytest.fixture(scope="module")
def ann(both: Trusting, login: str) -> Person:
    person = both.root.add_person("ann", logins=[login])
    person.log_in()
    both.wait_online(person)
    return person


def mode_of(both: Trusting) -> str:
    return str(both.leaf.tctl("get", "recconfig", "--format=json").ok().json()[0]["spec"]["mode"])


@pytest.mark.parametrize("client", ["ssh", "tsh"])
def test_the_leafs_proxy_records_users_of_the_root(
    both: Trusting, ann: Person, login: str, tmp_path: Path, client: str
) -> None:
    streams = TwoStreams(tmp_path, 256 * 1024)
    if client == "ssh":
        done = ann.ssh(f"{login}@{NODE}.{LEAF}", streams.command, seconds=60).ok()
    else:
        done = ann.tsh("ssh", f"{login}@{NODE}.{LEAF}", streams.command, seconds=60).ok()
    streams.check(done)
    start = both.leaf.wait_event("session.start", initial_command=[streams.command])
    assert (start["session_recording"], start["user"], start["login"]) == (mode_of(both), ANN, login)
    both.leaf.wait_event("session.upload", sid=start["sid"])
    recorded = tmp_path / "recording.json"
    both.leaf.tctl("recordings", "download", start["sid"], "--format=json", f"--out={recorded}").ok()
    assert streams_of(recorded) == [done.out, done.err]
    assert both.root.events("--type=session.start") == [], "what happened in the leaf stays there"
    both.leaf.tctl("audit", "verify").ok()


def test_files_and_status_come_through(both: Trusting, ann: Person, login: str, tmp_path: Path) -> None:
    (tmp_path / "sent").write_bytes(b"some bytes")
    ann.tsh("scp", tmp_path / "sent", f"{login}@{NODE}.{LEAF}:{tmp_path}/there").ok()
    assert (tmp_path / "there").read_bytes() == b"some bytes"
    assert both.leaf.wait_event("sftp", action="write")["user"] == ANN
    assert ann.ssh(f"{login}@{NODE}.{LEAF}", "exit 9").status == 9


def test_a_second_factor_at_the_leaf_is_refused_with_words(both: Trusting, login: str) -> None:
    """They have no device there, and what they prove at the root is for hosts of the root."""
    gus = both.root.add_person("gus", roles=["guests"], logins=[login])
    gus.log_in()
    for refused in (
        gus.tsh("ssh", f"{login}@{NODE}.{LEAF}", "true"),
        gus.ssh(f"{login}@{NODE}.{LEAF}", "true"),
    ):
        assert refused.status == 255
        assert f"users of the cluster {ROOT} cannot give one here" in refused.stderr
        assert "to map your role to one without require_session_mfa" in refused.stderr
    assert both.leaf.wait_event("session.request_denied", user=f"remote-gus-{ROOT}")["reason"].count("asking")


@pytest.mark.skipif(not Path(SSHD).exists() or os.geteuid() != 0, reason="needs sshd, and root to change accounts")
def test_a_host_with_a_plain_sshd_is_reached_from_the_root(
    both: Trusting, ann: Person, login: str, tmp_path: Path
) -> None:
    sshd = make_sshd(tmp_path)
    set_up(both.leaf, sshd)
    sshd.start()
    try:
        wait_until(
            "ann sees the host", lambda: WEB in ann.tsh("ls", "--cluster", LEAF, "--format=names").stdout.split()
        )
        assert ann.tsh("ssh", f"{login}@{WEB}.{LEAF}", "echo plain").ok().stdout == "plain\n"
        assert ann.ssh(f"{login}@{WEB}.{LEAF}", "echo $0").status == 0
        start = both.leaf.wait_event("session.start", initial_command=["echo plain"])
        assert (start["user"], start["server_hostname"]) == (ANN, WEB)
        both.leaf.wait_event("session.upload", sid=start["sid"])
    finally:
        sshd.stop()
