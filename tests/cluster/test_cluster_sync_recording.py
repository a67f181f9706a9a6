"""Recordings that are sent while they are made: what auth has of a running session, and what happens without it."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from teleport.recording.format import BrokenRecording, RecordingParser
from teleport.testing.cluster import LOOPBACK, NODE, Cluster, Host, Person, plain_environment, run, wait_until


@pytest.fixture(scope="module")
def sync(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("sync"), session_recording="node-sync") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def ann(sync: Cluster, login: str) -> Person:
    person = sync.add_person("ann", logins=[login])
    person.log_in()
    return person


def at_auth(cluster: Cluster) -> bytes:
    """The output in recordings that auth has a part of."""
    found = b""
    for path in (cluster.data_dir / "log" / "records").glob("*.upload"):
        parser = RecordingParser()
        with contextlib.suppress(BrokenRecording, OSError):
            for chunk in parser.feed(path.read_bytes()):
                found += b"".join(frame.payload for frame in parser.frames(chunk))
    return found


def test_auth_has_what_a_running_session_showed(sync: Cluster, ann: Person, login: str) -> None:
    command = "echo seen-at-once; read line; echo $line"
    process = subprocess.Popen(
        ann.ssh_arguments(f"{login}@{NODE}.{sync.name}", command),
        env=ann.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        wait_until("auth has it", lambda: b"seen-at-once" in at_auth(sync), 20)
        assert process.poll() is None
        shown, said = process.communicate(b"the rest\n", 20)
        assert (shown, process.returncode) == (b"seen-at-once\nthe rest\n", 0), said
    finally:
        process.kill()
        process.communicate()
    start = sync.wait_event("session.start", initial_command=[command])
    assert start["session_recording"] == "node-sync"
    sync.wait_event("session.upload", sid=start["sid"])
    assert ann.tsh("play", start["sid"], "--format=text").ok().stdout == "seen-at-once\nthe rest\n"
    sync.tctl("audit", "verify").ok()


@pytest.mark.long
def test_without_auth_sessions_end_and_none_begins(sync: Cluster, ann: Person, login: str, tmp_path: Path) -> None:
    """At a node of its own, which is reached without the proxy."""
    config = sync.node_config("alone")
    port = int(config["ssh_service"]["listen_addr"].rpartition(":")[2])
    token = sync.tctl("nodes", "add", "--roles=node", "--format=json").json()[0]
    (tmp_path / "token").write_text(token)
    config["teleport"] |= {"auth_token": str(tmp_path / "token"), "ca_pin": sync.ca_pin()}
    key, known = tmp_path / "ann", tmp_path / "known_hosts"
    sync.tctl("auth", "sign", "--user=ann", "--format=openssh", f"--out={key}").ok()
    known.write_text("@cert-authority * " + sync.tctl("auth", "export", "--type=host").ok().stdout.split(" ", 2)[2])
    ssh = [
        *("ssh", "-F", "none", "-o", "BatchMode=yes", "-o", f"UserKnownHostsFile={known}"),
        *("-i", str(key), "-o", "IdentitiesOnly=yes", "-p", str(port), f"{login}@{LOOPBACK}"),
    ]
    with Host(tmp_path / "alone", config):
        process = subprocess.Popen(
            [*ssh, "while echo tick; do sleep 0.5; done"], env=plain_environment(tmp_path),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            wait_until("auth has it", lambda: b"tick" in at_auth(sync), 20)
            sync.daemon.kill()
            began = time.monotonic()
            refused = run(*ssh, "id", environment=plain_environment(tmp_path), seconds=30)
            assert refused.status == 255
            assert "cannot record" in refused.stderr
            _, said = process.communicate(timeout=120)
            assert 20 < time.monotonic() - began < 120
            assert b"the recording failed" in said
        finally:
            process.kill()
            process.communicate()
            sync.daemon.start()
        end = sync.wait_event("session.end", reason="the recording failed")
        wait_until("the rest came", lambda: sync.events("--type=session.upload", f"--session={end['sid']}"), 60)
