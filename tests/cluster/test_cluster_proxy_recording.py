"""With `session_recording: proxy` connections end at the proxy, which records; nodes decide and tell as always."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.cluster_streams import TwoStreams, allocated_port, streams_of

from teleport.testing.cluster import (
    LOOPBACK,
    NODE,
    PUBLIC,
    Cluster,
    Person,
    at,
    listening,
    plain_environment,
    run,
    wait_until,
)


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("proxied"), session_recording="proxy") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def ann(proxied: Cluster, login: str) -> Person:
    person = proxied.add_person("ann", logins=[login])
    person.log_in()
    return person


@pytest.mark.parametrize("client", ["ssh", "tsh"])
def test_the_proxy_records_and_the_node_tells(
    proxied: Cluster, ann: Person, login: str, tmp_path: Path, client: str
) -> None:
    streams = TwoStreams(tmp_path, 1024 * 1024)
    command = streams.command
    if client == "ssh":
        done = ann.ssh(f"{login}@{NODE}.{proxied.name}", command, seconds=60).ok()
    else:
        done = ann.tsh("ssh", f"{login}@{NODE}", command, seconds=60).ok()
    streams.check(done)
    start = proxied.wait_event("session.start", initial_command=[command])
    assert (start["session_recording"], start["user"], start["login"]) == ("proxy", "ann", login)
    end = proxied.wait_event("session.end", sid=start["sid"])
    assert end["session_recording"] == "proxy"
    proxied.wait_event("session.upload", sid=start["sid"])
    recorded = tmp_path / "recording.json"
    proxied.tctl("recordings", "download", start["sid"], "--format=json", f"--out={recorded}").ok()
    assert streams_of(recorded) == [done.out, done.err]
    ends = [one for one in proxied.events("--type=session.end") if one["initial_command"] == [command]]
    assert len(ends) == 1
    assert not list((proxied.data_dir / "log" / "upload").glob("*/*.rec*"))
    assert ann.tsh("play", start["sid"], "--format=text").status == 0
    proxied.tctl("audit", "verify").ok()


def test_status_terminal_and_signals_come_through(proxied: Cluster, ann: Person, login: str) -> None:
    target = f"{login}@{NODE}.{proxied.name}"
    assert ann.ssh(target, "exit 9").status == 9
    assert ann.ssh(target, "kill -KILL $$").status == 255
    done = ann.ssh("-tt", target, "tty; stty size")
    assert "/dev/pts/" in done.stdout


def test_files_and_forwards_come_through_and_the_node_tells_of_them(
    proxied: Cluster, ann: Person, login: str, tmp_path: Path
) -> None:
    source, there = tmp_path / "a", tmp_path / "b"
    source.write_bytes(b"x" * 100_000)
    options = ["-F", str(ann.ssh_config), "-o", "BatchMode=yes"]
    target = f"{login}@{NODE}.{proxied.name}"
    run("scp", "-s", *options, source, f"{target}:{there}", environment=ann.environment).ok()
    assert there.read_bytes() == source.read_bytes()
    moved = proxied.wait_event("sftp", action="write")
    assert moved["size"] == 100_000
    with listening() as server:
        port = server.getsockname()[1]

        def serve() -> None:
            with server.accept()[0] as connection:
                connection.sendall(b"from there")

        thread = threading.Thread(target=serve)
        thread.start()
        assert ann.ssh("-W", at(port, PUBLIC), target, stdin=b"").out == b"from there"
        thread.join(10)
    assert proxied.wait_event("port", addr=at(port, PUBLIC))["user"] == "ann"
    assert len(proxied.events("--type=port")) == 1


def test_the_node_listens_for_the_client_through_the_proxy(proxied: Cluster, ann: Person, login: str) -> None:
    with listening() as server:

        def serve() -> None:
            with server.accept()[0] as connection:
                connection.sendall(b"from the client")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        client = subprocess.Popen(
            ann.ssh_arguments(
                "-N", "-R", f"0:{at(server.getsockname()[1], PUBLIC)}", f"{login}@{NODE}.{proxied.name}"
            ),
            env=ann.environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            port_there = allocated_port(client)
            with socket.create_connection((LOOPBACK, port_there)) as coming:
                got = b""
                while piece := coming.recv(100):
                    got += piece
            assert got == b"from the client"
        finally:
            client.terminate()
            client.communicate()
            thread.join(10)
    over = proxied.wait_event("port.closed", rx=len(got))
    assert over["kind"] in ("forwarded-tcpip", "tcpip-forward")
    assert over["user"] == "ann"


def test_the_node_still_decides(proxied: Cluster, ann: Person, login: str) -> None:
    refused = ann.ssh(f"nobody-here@{NODE}.{proxied.name}", "id")
    assert refused.status == 255
    assert "does not hold the login" in refused.stderr


def test_what_is_asked_without_the_proxy_is_recorded_by_the_node(
    proxied: Cluster, ann: Person, login: str, tmp_path: Path
) -> None:
    key, known = tmp_path / "ann", tmp_path / "known_hosts"
    proxied.tctl("auth", "sign", "--user=ann", "--format=openssh", f"--out={key}").ok()
    known.write_text("@cert-authority * " + proxied.tctl("auth", "export", "--type=host").ok().stdout.split(" ", 2)[2])
    run(
        *("ssh", "-F", "none", "-o", "BatchMode=yes", "-o", f"UserKnownHostsFile={known}", "-i", key),
        *("-o", "SendEnv=TELEPORT_RECORDED_AS", "-o", "IdentitiesOnly=yes", "-p", str(proxied.node_port)),
        f"{login}@{LOOPBACK}",
        "echo by-the-node",
        # who says that a proxy records, and is none, is recorded all the same
        environment={
            **plain_environment(tmp_path),
            "TELEPORT_RECORDED_AS": "0b3c6f0e-5d0b-4d1f-9d51-6f3d8a1c2b3d",
        },
    ).ok()
    start = proxied.wait_event("session.start", initial_command=["echo by-the-node"])
    assert start["sid"] != "0b3c6f0e-5d0b-4d1f-9d51-6f3d8a1c2b3d"
    assert proxied.wait_event("session.end", sid=start["sid"])["recording_hash"]
    proxied.wait_event("session.upload", sid=start["sid"])


def test_a_lock_ends_it(proxied: Cluster, ann: Person, login: str) -> None:
    process = subprocess.Popen(
        ann.ssh_arguments(f"{login}@{NODE}.{proxied.name}", "echo begun; sleep 300"),
        env=ann.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        proxied.tctl("lock", "--user=ann", "--ttl=1m").ok()
        assert process.wait(20) == 255
    finally:
        process.kill()
        process.communicate()
        for lock in proxied.tctl("get", "locks", "--format=json").json():
            proxied.tctl("rm", f"lock/{lock['metadata']['name']}").ok()
    end = proxied.wait_event("session.end", initial_command=["echo begun; sleep 300"])
    wait_until("it is recorded", lambda: proxied.events("--type=session.upload", f"--session={end['sid']}"))


def test_a_stolen_proxy_disk_opens_no_session(proxied: Cluster, login: str, tmp_path: Path) -> None:
    stolen = tmp_path / "stolen"
    shutil.copytree(proxied.data_dir / "proc", stolen)
    for key in [path for path in (stolen / "proxy").iterdir() if b"PRIVATE KEY" in path.read_bytes()]:
        key.chmod(0o600)
        for certificate in (stolen / "proxy").glob("*cert*"):
            done = run(
                *("ssh", "-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-i", key),
                *("-o", "UserKnownHostsFile=/dev/null", "-o", "IdentitiesOnly=yes"),
                *("-o", f"CertificateFile={certificate}", "-p", str(proxied.node_port)),
                f"{login}@{LOOPBACK}",
                "id",
                environment=plain_environment(tmp_path),
            )
            assert done.status == 255
            assert "uid=" not in done.stdout
