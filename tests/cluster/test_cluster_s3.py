"""Recordings in S3, from end to end: sessions are played and found as ever, and no outage or kill loses one."""

from __future__ import annotations

import asyncio
import getpass
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.cluster_auth_servers import NODE_NAME, AuthPair

from teleport.recording.s3.bucket import Bucket
from teleport.recording.s3.settings import S3Settings
from teleport.testing import etcd, s3
from teleport.testing.cluster import LOOPBACK, NODE, Cluster, Host, Person, at, wait_until

ME = getpass.getuser()
BUCKET = "tests"


@pytest.fixture(scope="module")
def server(s3_server: s3.S3Server) -> s3.S3Server:
    call(s3_server.settings(BUCKET, "none"), "create_bucket")
    return s3_server


def call(settings: S3Settings, operation: str, **parameters: Any) -> Any:
    """What somebody else does to the bucket."""

    async def ask() -> Any:
        bucket = Bucket(settings)
        try:
            return await s3.call(bucket, operation, **parameters)
        finally:
            await bucket.close()

    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3.LOGIN.items():
            patch.setenv(name, value)
        return asyncio.run(ask())


def recorded(cluster: Cluster, person: Person, node: str, word: str) -> str:
    """The id of a session that printed `word`, once it arrived."""
    said = person.tsh("ssh", "-t", f"{ME}@{node}", f"echo the word is {word}").ok().stdout
    assert word in said
    sid = str(cluster.wait_event("session.end", user=person.name)["sid"])
    cluster.wait_event("session.upload", sid=sid)
    return sid


def away(host: Host, sid: str) -> bool:
    folder = host.data_dir / "log" / "records"
    return (folder / f"{sid}.away").exists() and not (folder / f"{sid}.rec").exists()


def ready(host: Host) -> str:
    """What `/readyz` says; its status must keep an auth server that serves in service."""
    try:
        with urllib.request.urlopen(f"http://{at(host.diag_port, LOOPBACK)}/readyz", timeout=10) as answer:
            return str(json.load(answer)["status"])
    except urllib.error.HTTPError as error:
        with error:
            return str(json.load(error)["status"])


def metrics(host: Host) -> dict[str, float]:
    """What `/metrics` shows, by name and labels."""
    with urllib.request.urlopen(f"http://{at(host.diag_port, LOOPBACK)}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, _, value in (one.rpartition(" ") for one in lines if not one.startswith("#"))}


@pytest.fixture(scope="module")
def cluster(server: s3.S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("s3"), authentication={"type": "local", "second_factor": "off"})
    made.config["teleport"]["storage"] = {"audit_sessions_uri": server.uri(BUCKET, "one")}
    made.write()
    made.daemon.environment |= s3.LOGIN
    with made:
        yield made


def test_a_session_is_played_found_and_proved_out_of_s3(cluster: Cluster, server: s3.S3Server, tmp_path: Path) -> None:
    person = cluster.add_person("ines", logins=[ME])
    person.log_in()
    sid = recorded(cluster, person, NODE, "marzipan")
    wait_until("it is in S3", lambda: away(cluster, sid), 120.0)
    settings = server.settings(BUCKET, "one")
    assert cluster.wait_event("session.upload", sid=sid)["url"] == settings.url(sid)
    assert sid in person.tsh("recordings", "ls").ok().stdout
    out = tmp_path / "shown.txt"
    person.tsh("recordings", "export", sid, "--format=text", f"--out={out}").ok()
    assert "the word is marzipan" in out.read_text()
    assert sid in person.tsh("recordings", "search", "marzipan").ok().stdout
    assert cluster.tctl("recordings", "verify", sid).ok().stdout == "1 of 1 recordings are whole\n"
    assert cluster.tctl("audit", "verify").ok()
    stranger = cluster.add_person("ivo", logins=[ME])
    stranger.log_in()
    assert stranger.tsh("recordings", "export", sid, f"--out={tmp_path / 'no'}").status in (3, 5)

    key = settings.key(sid)
    call(settings, "put_object", Key=key, Body=b"another")
    refused = person.tsh("recordings", "export", sid, "--format=text", f"--out={tmp_path / 'altered.txt'}")
    assert refused.status != 0
    assert f"s3://{BUCKET}/one/{sid}.rec has 7 of the" in refused.stderr
    told = cluster.tctl("recordings", "verify", sid)
    assert told.status != 0
    assert "has 7 of the" in told.stdout + told.stderr
    log = cluster.daemon.log
    assert s3.LOGIN["AWS_SECRET_ACCESS_KEY"] not in (log() if callable(log) else log)


def test_an_outage_and_a_kill_lose_nothing(cluster: Cluster, server: s3.S3Server, tmp_path: Path) -> None:
    person = cluster.add_person("imke", logins=[ME])
    person.log_in()
    server.kill()
    try:
        sid = recorded(cluster, person, NODE, "nougat")
        wait_until("it is told", lambda: "recordings: cannot write" in ready(cluster), 120.0)
        assert cluster.daemon.ready(), "a balancer must not drop all auth servers over it"
        shown = metrics(cluster)
        assert shown["teleport_recordings_s3_failing"] == 1
        assert shown['teleport_component_state{component="recordings"}'] == 2
        assert shown["teleport_ready"] == 1
        wait_until("what waits is counted", lambda: metrics(cluster)['teleport_recordings_waiting{to="s3"}'] >= 1, 60.0)
        assert metrics(cluster)['teleport_recordings_waiting_oldest_seconds{to="s3"}'] > 0
        assert sum(n for name, n in shown.items() if name.startswith("teleport_s3_failed_requests_total")) > 0
        out = tmp_path / "here.txt"
        person.tsh("recordings", "export", sid, "--format=text", f"--out={out}").ok()
        assert "the word is nougat" in out.read_text()
        cluster.daemon.kill()
    finally:
        server.start()
    cluster.daemon.start()
    wait_until("it is in S3", lambda: away(cluster, sid), 120.0)
    wait_until("all is well", lambda: ready(cluster) == "ok", 60.0)
    wait_until("nothing waits", lambda: metrics(cluster)['teleport_recordings_waiting{to="s3"}'] == 0, 120.0)
    assert metrics(cluster)["s3_requests_seconds_count"] > 0
    out = tmp_path / "there.txt"
    person.tsh("recordings", "export", sid, "--format=text", f"--out={out}").ok()
    assert "the word is nougat" in out.read_text()


@pytest.mark.skipif(etcd.program() is None, reason=etcd.MISSING)
def test_each_auth_server_plays_what_the_other_brought_there(
    server: s3.S3Server, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    folder = tmp_path_factory.mktemp("s3-pair")
    (folder / "etcd").mkdir()
    with etcd.EtcdCluster(folder / "etcd", members=1) as servers:
        pair = AuthPair(folder, servers, authentication={"type": "local", "second_factor": "off"})
        for host in (pair, pair.other):
            host.config["teleport"]["storage"]["audit_sessions_uri"] = server.uri(BUCKET, "pair")
            host.write()
            host.daemon.environment |= s3.LOGIN
        with pair.served():
            person = pair.add_person("ilja", logins=[ME])
            person.log_in()
            sid = recorded(pair, person, f"{NODE_NAME}.{pair.name}", "praline")
            wait_until("it is in S3", lambda: away(pair, sid) or away(pair.other, sid), 120.0)
            for host in (pair, pair.other):
                assert host.tctl("recordings", "verify", sid).ok().stdout == "1 of 1 recordings are whole\n"
                assert sid in host.tctl("recordings", "ls").ok().stdout
            found = [host.tctl("recordings", "search", "praline").ok() for host in (pair, pair.other)]
            assert sorted("another auth server" in one.stderr for one in found) == [False, True]
            assert sorted(sid in one.stdout for one in found) == [False, True]
