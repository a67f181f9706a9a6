"""What happened can be shown afterwards: events, recordings byte for byte, and a proof that nothing was changed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from tests.cluster.cluster_streams import TwoStreams, streams_of

from teleport.testing.cluster import BIN, NODE, Cluster, Person, at, plain_environment, run, wait_until


def session_of(cluster: Cluster, command: str) -> str:
    """The id of the session that ran `command`, once its recording has arrived."""
    sid = str(cluster.wait_event("exec", command=command)["sid"])
    cluster.wait_event("session.upload", sid=sid)
    return sid


def test_the_audit_log_tells_login_start_exec_and_end(cluster: Cluster, alice: Person, login: str) -> None:
    alice.tsh("ssh", f"{login}@{NODE}", "echo one; exit 3")
    end = cluster.wait_event("session.end", user="alice", initial_command=["echo one; exit 3"])
    events = cluster.events()
    logins = [event for event in events if event["event"] == "user.login" and event["user"] == "alice"]
    assert [event["code"] for event in logins] == ["T1000I"]
    assert logins[0]["success"] is True
    own = [event for event in events if event.get("sid") == end["sid"]]
    codes = {event["event"]: event["code"] for event in own}
    assert codes["session.start"] == "T2000I"
    assert codes["exec"] == "T3002E", "a status other than 0 is a failure"
    assert codes["session.end"] == "T2004I"
    assert codes["session.data"] == "T2006I"
    assert [event["event"] for event in own if event["event"] in ("session.start", "exec", "session.end")] == [
        "session.start",
        "exec",
        "session.end",
    ]
    execs = [event for event in own if event["event"] == "exec"]
    assert [(event["command"], event["exitCode"]) for event in execs] == [("echo one; exit 3", "3")]
    for event in own:
        assert event["user"] == "alice"
        assert event["cluster_name"] == cluster.name
        assert event.get("login", login) == login
    addresses = {event["addr.remote"].rpartition(":")[0] for event in own if event.get("addr.remote")}
    assert addresses == {at(0).rpartition(":")[0]}, "the client's own address, as the proxy vouched for it"


def test_the_audit_log_is_searched_by_user_type_and_time(cluster: Cluster, alice: Person) -> None:
    assert all(event["user"] == "alice" for event in cluster.events("--user=alice"))
    assert {event["event"] for event in cluster.events("--type=user.login")} == {"user.login"}
    assert cluster.events("--to=2001-01-01") == []
    text = cluster.tctl("audit", "ls").ok().stdout
    assert "user.login" in text


def test_a_session_is_played_by_who_took_part_in_it(cluster: Cluster, alice: Person, login: str) -> None:
    command = "printf 'play me \\303\\274\\n'; echo on stderr >&2"
    alice.tsh("ssh", f"{login}@{NODE}", command).ok()
    sid = session_of(cluster, command)
    shown = alice.tsh("play", sid, "--format=text").ok().stdout
    assert "play me ü" in shown
    assert "on stderr" in shown
    assert "play me ü" in alice.tsh("play", sid).ok().stdout
    cast = alice.tsh("play", sid, "--format=cast").ok().stdout.splitlines()
    assert json.loads(cast[0])["version"] == 2
    assert all(json.loads(line) for line in alice.tsh("play", sid, "--format=json").ok().stdout.splitlines())
    cluster.wait_event("session_recording.access", user="alice")


def test_a_session_of_somebody_else_is_not_shown(cluster: Cluster, alice: Person, login: str) -> None:
    bob = cluster.add_person("bob", logins=[login])
    bob.log_in()
    command = "echo only alice saw this"
    alice.tsh("ssh", f"{login}@{NODE}", command).ok()
    done = bob.tsh("play", session_of(cluster, command), "--format=text")
    assert done.status in (3, 5), done.stderr
    assert "only alice" not in done.stdout + done.stderr


def test_an_auditor_reads_and_plays_but_reaches_no_host(cluster: Cluster, alice: Person, login: str) -> None:
    auditor = cluster.add_person("carol", roles=["auditor"], logins=[login])
    auditor.log_in()
    command = "echo for the auditor"
    alice.tsh("ssh", f"{login}@{NODE}", command).ok()
    shown = auditor.tsh("play", session_of(cluster, command), "--format=text").ok()
    assert "for the auditor" in shown.stdout
    assert auditor.tsh("ssh", f"{login}@{NODE}", "true").status != 0


@pytest.mark.parametrize("client", ["ssh", "tsh"])
def test_every_byte_of_both_streams_is_in_the_recording(
    cluster: Cluster, alice: Person, login: str, tmp_path: Path, client: str
) -> None:
    """Threat T39: what the client received, what the program wrote and what was recorded are the same bytes."""
    streams = TwoStreams(tmp_path, 16 * 1024 * 1024)
    command = streams.command
    if client == "ssh":
        done = alice.ssh(f"{login}@{NODE}.{cluster.name}", command, seconds=90).ok()
    else:
        done = alice.tsh("ssh", f"{login}@{NODE}", command, seconds=90).ok()
    assert len(done.out) + len(done.err) == 16 * 1024 * 1024
    streams.check(done)
    sid = session_of(cluster, command)
    raw = tmp_path / "raw"
    cluster.tctl("recordings", "download", sid, "--format=raw", f"--out={raw}", seconds=60).ok()
    assert len(raw.read_bytes()) == 16 * 1024 * 1024
    recorded = tmp_path / "recording.json"
    cluster.tctl("recordings", "download", sid, "--format=json", f"--out={recorded}", seconds=60).ok()
    assert streams_of(recorded) == [done.out, done.err]


def test_every_session_of_one_connection_is_recorded(cluster: Cluster, alice: Person, login: str) -> None:
    """Threat T40: a second session over a connection that exists is a session like the first."""
    host = f"{login}@{NODE}.{cluster.name}"
    control = ["-o", f"ControlPath={alice.home / 'control'}"]
    alice.ssh(*control, "-o", "ControlMaster=yes", "-o", "ControlPersist=60", host, "echo first of one connection").ok()
    try:
        alice.ssh(*control, host, "echo second of one connection").ok()
        for word in ("first", "second"):
            command = f"echo {word} of one connection"
            played = alice.tsh("play", session_of(cluster, command), "--format=text").ok().stdout
            assert played == f"{word} of one connection\n"
    finally:
        alice.ssh(*control, "-O", "exit", host)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, login: str) -> Cluster:
    """A cluster that was stopped after it recorded a session and proved its evidence whole."""
    folder = tmp_path_factory.mktemp("evidence")
    with Cluster(folder) as cluster:
        dave = cluster.add_person("dave", logins=[login])
        dave.log_in()
        dave.tsh("ssh", f"{login}@{NODE}", "seq 1 20000").ok()
        session_of(cluster, "seq 1 20000")
        wait_until("a checkpoint that covers it", lambda: "audit.checkpoint" in cluster.tctl("audit", "ls").stdout, 20)
        verified = cluster.tctl("audit", "verify")
        assert verified.status == 0, verified.stdout + verified.stderr
        assert re.search(r"Recordings +1\n", verified.stdout), "recordings are proved, too"
    return cluster


def changed(evidence: Cluster, tmp_path: Path, pattern: str) -> tuple[Path, Path]:
    """A copy of the evidence, and the largest file in it that fits the pattern."""
    copy = tmp_path / "copy"
    shutil.copytree(evidence.data_dir, copy / "data")
    files = sorted((copy / "data" / "log").glob(pattern), key=lambda path: path.stat().st_size)
    assert files, [str(path) for path in (copy / "data" / "log").rglob("*")]
    return copy, files[-1]


def flip(path: Path, position: int, bit: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= bit
    path.write_bytes(data)


def verify(copy: Path, tmp_path: Path) -> tuple[int, str]:
    """`tctl audit verify` over a store that is no part of a running cluster."""
    done = run(BIN / "tctl", "audit", "verify", copy / "data" / "log", environment=plain_environment(tmp_path))
    assert "Traceback" not in done.stderr
    return done.status, done.stdout + done.stderr


def test_untouched_evidence_is_verified(stopped: Cluster, tmp_path: Path) -> None:
    copy, _ = changed(stopped, tmp_path, "*/*.log")
    status, said = verify(copy, tmp_path)
    assert status == 0, said


def test_one_flipped_bit_in_an_event_is_named_with_its_place(stopped: Cluster, tmp_path: Path) -> None:
    copy, file = changed(stopped, tmp_path, "*/*.log")
    lines = file.read_bytes().splitlines(keepends=True)
    number = len(lines) // 2
    flip(file, sum(map(len, lines[:number])) + lines[number].index(b'"time"') + 12)
    status, said = verify(copy, tmp_path)
    assert status == 1, said
    assert re.search(rf"{re.escape(file.name)}:{number + 1}\b", said), said


def test_a_line_that_was_taken_out_is_missed(stopped: Cluster, tmp_path: Path) -> None:
    copy, file = changed(stopped, tmp_path, "*/*.log")
    lines = file.read_bytes().splitlines(keepends=True)
    del lines[len(lines) // 2]
    file.write_bytes(b"".join(lines))
    status, said = verify(copy, tmp_path)
    assert status == 1, said
    assert file.name in said


def test_one_flipped_bit_in_a_recording_is_named_with_its_place(stopped: Cluster) -> None:
    """The running cluster compares what it stores with what the events say of it."""
    files = [path for path in (stopped.data_dir / "log" / "records").rglob("*") if path.is_file()]
    file = max(files, key=lambda path: path.stat().st_size)
    original = file.read_bytes()
    flip(file, len(original) // 2)
    try:
        with stopped:
            done = stopped.tctl("audit", "verify")
    finally:
        file.write_bytes(original)
    assert done.status == 1
    assert "NOT whole" in done.stdout
    assert file.name.partition(".")[0] in done.stdout


def test_an_export_is_proved_without_the_cluster(stopped: Cluster, tmp_path: Path) -> None:
    """What `tctl audit ls --format=json` prints carries its own proof; one changed letter breaks it."""
    with stopped:
        exported = stopped.tctl("audit", "ls", "--format=json").ok()
        key = json.loads(stopped.tctl("audit", "verify", "--format=json").ok().stdout)["checkpoint_key"]
    file, key_file = tmp_path / "events.json", tmp_path / "key.pem"
    file.write_bytes(exported.out)
    key_file.write_text(key)
    command = [str(BIN / "tctl"), "audit", "verify", str(file), "--key", str(key_file)]
    environment = plain_environment(tmp_path)
    run(*command, environment=environment).ok()
    lines = exported.out.splitlines(keepends=True)
    number = next(index for index, line in enumerate(lines) if b'"session.start"' in line)
    lines[number] = lines[number].replace(b'"user":"dave"', b'"user":"dove"')
    file.write_bytes(b"".join(lines))
    done = run(*command, environment=environment)
    assert done.status == 1
    assert re.search(rf"events\.json.*\b{number + 1}\b", done.stdout + done.stderr), done.stdout
