"""Two people in one session, with real daemons, OpenSSH and tsh: one only watches; the recording says who typed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from teleport.recording.format.parties import PartyNote, TypedNote, decode_note
from teleport.testing.cluster import NODE, Cluster, Person, wait_until
from teleport.testing.processes import BIN, run
from teleport.testing.terminal import Terminal

ROLE = """kind: role
version: v4
metadata: {{name: watchers}}
spec:
  allow:
    logins: [{login}]
    node_labels: {{'*': '*'}}
    join_sessions: [{{roles: [access], kinds: [ssh], modes: [observer]}}]
"""
FOUR_EYES = """kind: role
version: v4
metadata: {{name: four-eyes}}
spec:
  allow:
    logins: [{login}]
    node_labels: {{'*': '*'}}
    require_session_join:
      - {{filter: 'contains(user.spec.roles, "moderators")', kinds: [ssh], modes: [moderator], on_leave: pause}}
---
kind: role
version: v4
metadata: {{name: moderators}}
spec:
  allow:
    logins: [{login}]
    node_labels: {{'*': '*'}}
    join_sessions: [{{roles: [four-eyes], kinds: [ssh], modes: [moderator]}}]
"""
COUNTED = """kind: role
version: v4
metadata: {{name: counted}}
spec:
  options: {{max_connections: 1}}
  allow: {{logins: [{login}], node_labels: {{'*': '*'}}}}
"""


@pytest.fixture(scope="module")
def watcher(cluster: Cluster, login: str) -> Person:
    cluster.tctl("create", "-f", "-", stdin=ROLE.format(login=login)).ok()
    person = cluster.add_person("walter", roles=["watchers"], logins=[])
    person.log_in()
    return person


@pytest.fixture(scope="module")
def stranger(cluster: Cluster, login: str) -> Person:
    person = cluster.add_person("stan", logins=[login])
    person.log_in()
    return person


@pytest.fixture
def shared(cluster: Cluster, alice: Person, login: str) -> Iterator[tuple[Terminal, str]]:
    """A shell of alice's, by plain ssh, and its id as she sees it."""
    words = alice.ssh_arguments("-tt", f"{login}@{NODE}.{cluster.name}", "stty -echo; exec sh")
    with Terminal(words, alice.environment, alice.home) as terminal:
        terminal.type("echo id:$SSH_SESSION_ID:\n")
        yield terminal, terminal.expect("id:([0-9a-f-]{36}):")[1].decode()


def refusals(cluster: Cluster, sid: str) -> set[str]:
    """Who was refused to join this session."""
    found = cluster.events("--type=session.request_denied")
    return {event["user"] for event in found if event["request"] == "join" and sid in event["reason"]}


def names_in(cluster: Cluster, sid: str) -> list[str]:
    """Who is in the session, as the administrator sees it."""
    found = cluster.tctl("sessions", "ls", "--format=json").ok().json()
    return [party["user"] for one in found if one["sid"] == sid for party in one["parties"]]


def listed(person: Person, sid: str) -> list[dict[str, object]]:
    found = person.tsh("sessions", "ls", "--format=json").ok().json()
    return [one for one in found if one["sid"] == sid]


def test_two_people_share_a_session_and_one_only_watches(
    cluster: Cluster, shared: tuple[Terminal, str], alice: Person, watcher: Person, stranger: Person, tmp_path: Path
) -> None:
    """Done-when 3."""
    terminal, sid = shared
    terminal.type("echo ear''lier\n")
    terminal.expect("earlier")
    wait_until("auth knows of the session", lambda: bool(listed(watcher, sid)))
    (one,) = listed(watcher, sid)
    assert (one["user"], one["modes"], one["state"]) == ("alice", ["observer"], "running")
    assert listed(alice, sid)[0]["modes"] == ["observer", "peer"]
    assert listed(stranger, sid) == []
    assert sid in watcher.tsh("sessions", "ls").ok().stdout

    refused = stranger.tsh("join", sid)
    assert refused.status == 255
    assert "there is no session with this id that you may join" in refused.stderr
    typing = watcher.tsh("join", sid, "--mode=peer")
    assert typing.status == 255
    assert "You may not join this session as peer." in typing.stderr + typing.stdout

    with Terminal([str(BIN / "tsh"), "join", sid], watcher.environment, watcher.home) as watching:
        watching.expect("earlier")
        terminal.expect("walter has joined this session as observer")
        watching.type("echo no''thing\n")
        watching.expect("what you type is not passed on")
        terminal.type("echo se''en; stty size\n")
        watching.expect("seen.*30 100")
        wait_until("both are listed", lambda: names_in(cluster, sid) == ["alice", "walter"])
        terminal.type("exit 3\n")
        assert terminal.ended() == 3
        assert watching.ended() == 3
    assert b"nothing" not in terminal.shown

    join = cluster.wait_event("session.join", sid=sid)
    assert (join["user"], join["mode"], join["code"]) == ("walter", "observer", "T2001I")
    end = cluster.wait_event("session.end", sid=sid)
    assert end["participants"] == ["alice", "walter"]
    cluster.wait_event("session.upload", sid=sid)
    for command in (cluster.tctl, alice.tsh):
        found = json.loads(command("recordings", "ls", "--format=json").ok().stdout)
        assert [one["participants"] for one in found if one["sid"] == sid] == [["alice", "walter"]]
    text = cluster.tctl("recordings", "download", sid, "--format=json").ok().stdout
    lines = [json.loads(line) for line in text.splitlines()]
    told = [line for line in lines if line["kind"] == "note" and "detail" in line]
    decoded = [(line["time"], decode_note(json.dumps(line["detail"], separators=(",", ":")).encode())) for line in told]
    notes = [(when, note) for when, note in decoded if note is not None]
    parties = [(note.party, note.action, note.user) for _, note in notes if isinstance(note, PartyNote)]
    assert parties[:2] == [(1, "there", "alice"), (2, "joined", "walter")]
    typed = [(when, note) for when, note in notes if isinstance(note, TypedNote)]
    assert {note.party for _, note in typed} == {1}
    assert sum(note.size for _, note in typed) == len("echo se''en; stty size\nexit 3\n")
    seen = next(line["time"] for line in lines if line["kind"] == "output" and "seen" in line["data"])
    assert any(abs(when - seen) < 5_000_000 for when, _ in typed), "and when"


def test_plain_ssh_joins_too_and_only_as_rules_allow(
    cluster: Cluster, shared: tuple[Terminal, str], alice: Person, stranger: Person, watcher: Person, login: str
) -> None:
    """`SetEnv TELEPORT_SESSION`: the node decides, also for whoever never asked auth (threat T47)."""
    terminal, sid = shared

    def joining(person: Person, **variables: str) -> list[str]:
        given = " ".join(f"{name}={value}" for name, value in {"TELEPORT_SESSION": sid, **variables}.items())
        return person.ssh_arguments("-tt", "-o", f"SetEnv={given}", f"{login}@{NODE}.{cluster.name}")

    for person, variables in ((stranger, {}), (watcher, {"TELEPORT_JOIN_MODE": "moderator"})):
        done = subprocess.run(
            joining(person, **variables),
            env=person.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=30,
        )
        assert done.returncode == 255
        assert b"may not join" in done.stdout + done.stderr or b"no session with this id" in done.stdout + done.stderr
    wait_until("the refusals are on record", lambda: refusals(cluster, sid) == {"stan", "walter"})
    with Terminal(joining(alice), alice.environment, alice.home, columns=70, rows=20) as second:
        terminal.expect("alice has joined this session as peer")
        second.type("stty size\n")
        terminal.expect("20 70")
    terminal.expect("alice has left this session")


def test_a_session_is_ended_by_permission(
    cluster: Cluster, shared: tuple[Terminal, str], stranger: Person, watcher: Person
) -> None:
    """Threat T27: `tctl sessions rm` of who may not lock ends nothing; the administrator's does."""
    terminal, sid = shared
    for person in (stranger, watcher):
        environment = {**person.environment, "TELEPORT_CONFIG_FILE": ""}
        refused = run(BIN / "tctl", "sessions", "rm", sid, environment=environment)
        assert refused.status == 5, refused.stderr
    terminal.type("echo st''ill\n")
    terminal.expect("still")
    cluster.tctl("sessions", "rm", sid, "--message=enough").ok()
    terminal.expect("an administrator ended it")
    terminal.ended()
    assert cluster.wait_event("session.end", sid=sid)["reason"] == "an administrator ended it"
    wait_until("it is listed no more", lambda: sid not in cluster.tctl("sessions", "ls").ok().stdout)


@pytest.mark.long
def test_four_eyes(cluster: Cluster, login: str, tmp_path: Path) -> None:
    """A session that waits for its moderator, with tsh on both sides (threat T48)."""
    cluster.tctl("create", "-f", "-", stdin=FOUR_EYES.format(login=login)).ok()
    eva = cluster.add_person("eva", roles=["four-eyes"], logins=[])
    mona = cluster.add_person("mona-moderates", roles=["moderators"], logins=[])
    eva.log_in()
    mona.log_in()
    mark = tmp_path / "mark"
    alone = eva.ssh(f"{login}@{NODE}.{cluster.name}", f"touch {mark}")
    assert alone.status == 255
    words = eva.ssh_arguments("-tt", f"{login}@{NODE}.{cluster.name}", f"touch {mark}; stty -echo; echo ready; exec sh")
    with Terminal(words, eva.environment, eva.home) as terminal:
        terminal.expect("This session waits: it begins once somebody as moderator is there")

        def known() -> list[dict[str, object]]:
            found = mona.tsh("sessions", "ls", "--format=json").ok().json()
            return [one for one in found if one["user"] == "eva" and one["state"] == "waiting"]

        wait_until("auth knows of it", lambda: bool(known()))
        assert not mark.exists()
        sid = str(known()[0]["sid"])
        with Terminal([str(BIN / "tsh"), "join", sid], mona.environment, mona.home) as moderating:
            moderating.expect("ready")
            terminal.expect("ready")
            assert mark.exists()
            moderating.type("\x03")
            assert moderating.ended() == 0
        terminal.expect("This session stands still")
        terminal.type("echo slip''ped\n")
        with Terminal([str(BIN / "tsh"), "join", sid], mona.environment, mona.home) as moderating:
            terminal.expect("This session goes on")
            terminal.type("echo on''wards\n")
            moderating.expect("onwards")
            moderating.type("t")
            terminal.expect("mona-moderates ended it as moderator")
        assert b"slipped" not in terminal.shown
    held = [event["held"] for event in cluster.events("--type=session.held") if event["sid"] == sid]
    assert held[:4] == [True, False, True, False]


def test_connections_are_counted_over_the_cluster(cluster: Cluster, login: str) -> None:
    """`max_connections`: the second one is refused until the first is over."""
    cluster.tctl("create", "-f", "-", stdin=COUNTED.format(login=login)).ok()
    carl = cluster.add_person("carl", roles=["counted"], logins=[])
    carl.log_in()
    where = f"{login}@{NODE}.{cluster.name}"
    with Terminal(carl.ssh_arguments("-tt", where, "echo ready; exec cat"), carl.environment, carl.home) as first:
        first.expect("ready")
        second = carl.ssh(where, "echo in")
        assert second.status == 255
        assert "Your roles allow 1 connections at the same time." in second.stderr
    rejected = cluster.wait_event("session.rejected", user="carl")
    assert (rejected["reason"], rejected["max"]) == ("max_connections", 1)
    wait_until("the first is over", lambda: carl.ssh(where, "echo in").stdout == "in\n")


def test_what_is_printed_is_json(watcher: Person) -> None:
    """Also when nothing runs."""
    assert isinstance(json.loads(watcher.tsh("sessions", "ls", "-f", "json").ok().stdout), list)
