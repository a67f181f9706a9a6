"""A host that keeps its plain sshd: set up by the printed script, reached through the proxy, recorded there."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.cluster_shells import ANY_HOST
from tests.cluster.cluster_streams import TwoStreams, allocated_port, streams_of
from tests.cluster.test_cluster_evidence import session_of

from teleport.recording.format import BrokenRecording, RecordingParser
from teleport.testing.cluster import (
    LOOPBACK,
    PUBLIC,
    Cluster,
    Person,
    at,
    free_port,
    listening,
    loopback_socket,
    plain_environment,
    run,
    wait_until,
)

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
WEB = "web1"
DISPLAYS = (
    "127.0.0.1"  # OpenSSH takes what follows the first colon of DISPLAY for its number: no IPv6 address can be there
)
RECORDING = """kind: session_recording_config
version: v2
metadata: {{name: session-recording-config}}
spec: {{mode: node, proxy_checks_host_keys: {checks}}}
"""

pytestmark = [
    pytest.mark.skipif(not Path(SSHD).exists(), reason="there is no sshd here (package openssh-server)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a plain sshd changes to its users' accounts"),
]


@pytest.fixture(scope="module", autouse=True)
def no_host_stays(cluster: Cluster) -> Iterator[None]:
    """Registered hosts do not withdraw by themselves."""
    yield
    for name in cluster.tctl("nodes", "ls", "--format=json").ok().json():
        if name.get("sub_kind") == "openssh":
            cluster.tctl("nodes", "rm", name["metadata"]["name"]).ok()


@dataclass
class Sshd:
    """A plain sshd on a port of its own, with a configuration of its own."""

    folder: Path
    port: int
    host_id: str = ""
    process: subprocess.Popen[bytes] | None = None

    @property
    def config(self) -> Path:
        return self.folder / "sshd_config"

    @property
    def public_key(self) -> Path:
        return self.folder / "ssh_host_ed25519_key.pub"

    def log(self) -> str:
        return (self.folder / "sshd.log").read_text()

    def start(self) -> None:
        Path("/run/sshd").mkdir(exist_ok=True)
        with (self.folder / "sshd.log").open("ab") as log:
            self.process = subprocess.Popen(
                [SSHD, "-D", "-e", "-f", str(self.config)], stderr=log, stdin=subprocess.DEVNULL
            )
        wait_until("sshd answers", self._answers)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        try:
            socket.create_connection((LOOPBACK, self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
            self.process = None


def make_sshd(folder: Path) -> Sshd:
    made = Sshd(folder, free_port())
    run(
        "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", made.public_key.with_suffix(""), environment=os.environ
    ).ok()
    made.config.write_text(
        f"Port {made.port}\nListenAddress {LOOPBACK}\nHostKey {made.public_key.with_suffix('')}\n"
        f"PidFile {folder}/sshd.pid\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\n"
        "PermitRootLogin yes\nStrictModes no\nSubsystem sftp internal-sftp\nLogLevel VERBOSE\n"
        f"X11Forwarding yes\nXAuthLocation {folder}/xauth\n"
    )
    (folder / "xauth").write_text(f'#!/bin/sh\nexec xauth -f {folder}/Xauthority "$@"\n')
    (folder / "xauth").chmod(0o755)
    return made


def set_up(cluster: Cluster, sshd: Sshd, name: str = WEB, *options: str) -> str:
    """As an administrator does: prints the script on the auth server, runs it on the host. Gives the host's UUID."""
    printed = cluster.tctl(
        "nodes", "add", "--type=openssh", f"--hostname={name}", f"--addr={at(sshd.port)}", "--host-key=-",
        "--labels=env=plain", *options, stdin=sshd.public_key.read_text(),
    ).ok()  # fmt: skip
    script = sshd.folder / "setup.sh"
    script.write_bytes(printed.out)
    environment = {"PATH": os.environ["PATH"], "SSHD_CONFIG": str(sshd.config), "SSHD": SSHD, "SSHD_RELOAD": "true"}
    run("sh", script, cluster.ca_pin(), environment=environment).ok()
    words = printed.stderr.split()
    return words[words.index("as") + 1].rstrip(".")


@pytest.fixture(scope="module")
def sshd(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    made = make_sshd(tmp_path_factory.mktemp("sshd"))
    made.host_id = set_up(cluster, made)
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def host_id(sshd: Sshd) -> str:
    return sshd.host_id


def forward_event(cluster: Cluster, name: str, **fields: object) -> dict[str, Any]:
    """The latest such event about a forward."""

    def found() -> dict[str, Any] | None:
        events = cluster.events(f"--type={name}")
        return next((one for one in events if all(one.get(key) == value for key, value in fields.items())), None)

    return wait_until(f"{name} with {fields}", found)


def recording_of(cluster: Cluster, sid: str) -> str:
    def shown() -> str:
        done = cluster.tctl("recordings", "download", sid, "--format=text")
        return done.stdout if done.status == 0 else ""

    return wait_until(f"the recording of {sid}", shown)


def on_disk(cluster: Cluster) -> bytes:
    """What the proxy's recordings that are being made hold by now."""
    found = b""
    for path in (cluster.data_dir / "log" / "upload-proxy").glob("*/*.rec*"):
        with contextlib.suppress(BrokenRecording):
            parser = RecordingParser(unsealed=True)
            for chunk in parser.feed(path.read_bytes()):
                found += b"".join(frame.payload for frame in parser.frames(chunk))
    return found


def test_it_is_listed_like_any_other(cluster: Cluster, alice: Person, sshd: Sshd, host_id: str) -> None:
    listed = cluster.tctl("nodes", "ls").ok().stdout
    assert f"{at(sshd.port)} (openssh)" in listed
    assert host_id in listed
    assert "env=plain" in listed
    shown = alice.tsh("ls").ok().stdout
    assert WEB in shown
    [found] = [one for one in cluster.tctl("get", f"node/{host_id}", "--format=json").json() if one]
    assert found["sub_kind"] == "openssh"


@pytest.mark.parametrize("client", ["tsh", "ssh"])
def test_a_command_runs_there_and_is_on_record(
    cluster: Cluster, alice: Person, sshd: Sshd, host_id: str, login: str, client: str
) -> None:
    word = f"seen-{client}-{time.time_ns()}"
    command = f"cat; echo {word}; echo to-stderr >&2; exit 7"
    if client == "tsh":
        done = alice.tsh("ssh", f"{login}@{WEB}", command, stdin=b"in\x00\xff\n")
    else:
        done = alice.ssh(f"{login}@{WEB}.{cluster.name}", command, stdin=b"in\x00\xff\n")
    assert (done.status, done.out) == (7, b"in\x00\xff\n" + f"{word}\n".encode()), done.stderr
    assert b"to-stderr" in done.err
    start = cluster.wait_event("session.start", server_id=host_id, initial_command=[command])
    assert (start["user"], start["login"], start["server_hostname"]) == ("alice", login, WEB)
    assert start["session_recording"] == "proxy"
    end = cluster.wait_event("session.end", sid=start["sid"])
    assert end["recording_hash"]
    assert end["server_id"] == host_id
    ran = cluster.wait_event("exec", sid=start["sid"])
    assert (ran["exitCode"], ran["code"]) == ("7", "T3002E")
    assert word in recording_of(cluster, start["sid"])
    cluster.wait_event("session.upload", sid=start["sid"])
    cluster.wait_event("openssh.cert", server_id=host_id, user="alice", login=login, code="T9241I")
    assert 'Accepted certificate ID "alice"' in sshd.log()


def test_every_byte_of_both_streams_is_in_the_recording(
    cluster: Cluster, alice: Person, sshd: Sshd, login: str, tmp_path: Path
) -> None:
    """Threat T39, at the proxy."""
    streams = TwoStreams(tmp_path, 4 * 1024 * 1024)
    command = streams.command
    done = alice.ssh(f"{login}@{WEB}.{cluster.name}", command, seconds=60).ok()
    streams.check(done)
    sid = cluster.wait_event("session.upload", user="alice", sid=session_of(cluster, command))["sid"]
    recorded = tmp_path / "recording.json"
    cluster.tctl("recordings", "download", sid, "--format=json", f"--out={recorded}").ok()
    assert streams_of(recorded) == [done.out, done.err]


def test_a_terminal_is_there_and_its_size_is_on_record(
    cluster: Cluster, alice: Person, sshd: Sshd, host_id: str, login: str
) -> None:
    done = alice.ssh("-tt", f"{login}@{WEB}.{cluster.name}", "tty; stty size; echo done-$TERM")
    assert done.status == 0, done.stderr
    assert "/dev/pts/" in done.stdout
    start = cluster.wait_event("session.start", server_id=host_id, interactive=True)
    assert cluster.wait_event("session.end", sid=start["sid"])["interactive"] is True


def test_a_file_comes_through_sftp(
    cluster: Cluster, alice: Person, sshd: Sshd, host_id: str, login: str, tmp_path: Path
) -> None:
    source, there, back = tmp_path / "a", sshd.folder / "b", tmp_path / "c"
    source.write_bytes(os.urandom(300_000))
    options = ["-F", str(alice.ssh_config), "-o", "BatchMode=yes"]
    for one, other in (
        (source, f"{login}@{WEB}.{cluster.name}:{there}"),
        (f"{login}@{WEB}.{cluster.name}:{there}", back),
    ):
        run("scp", "-s", *options, one, other, environment=alice.environment).ok()
    assert back.read_bytes() == source.read_bytes() == there.read_bytes()
    told = cluster.wait_event("subsystem", server_id=host_id)
    assert told["name"] == "sftp"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    for action, direction in (("write", "upload"), ("read", "download")):
        moved = cluster.wait_event("sftp", server_id=host_id, action=action, direction=direction)
        assert (moved["path"], moved["size"], moved["sha256"]) == (str(there), 300_000, digest)


def test_what_is_not_offered_is_refused_and_on_record(
    cluster: Cluster, alice: Person, sshd: Sshd, host_id: str, login: str
) -> None:
    target = f"{login}@{WEB}.{cluster.name}"
    assert alice.ssh("-W", "169.254.169.254:80", target).status != 0
    denied = cluster.wait_event("port", server_id=host_id, addr="169.254.169.254:80")
    assert (denied["code"], denied["success"]) == ("T3003E", False)
    for port in (3025, sshd.port):  # of the cluster, and the host's own sshd, past which nothing is recorded
        assert alice.ssh("-W", f"localhost:{port}", target).status != 0
        assert cluster.wait_event("port", server_id=host_id, addr=f"localhost:{port}")["success"] is False
    assert alice.ssh("-R", "*:0:localhost:1", "-o", "ExitOnForwardFailure=yes", target, "true").status == 255
    assert forward_event(cluster, "port", server_id=host_id, kind="tcpip-forward", success=False)["addr"] == "*:0"
    assert alice.ssh("-s", target, "netconf").status == 255
    cluster.wait_event("session.request_denied", server_id=host_id, request="subsystem netconf")


def test_a_forward_leads_where_it_may(cluster: Cluster, alice: Person, sshd: Sshd, host_id: str, login: str) -> None:
    """Both directions, in full, and each ends by itself."""
    server = listening()
    port = server.getsockname()[1]
    data = os.urandom(2_000_000)

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            got = b""
            while piece := connection.recv(65536):
                got += piece
            connection.sendall(hashlib.sha256(got).digest() + data)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        done = alice.ssh("-W", at(port, PUBLIC), f"{login}@{WEB}.{cluster.name}", stdin=data).ok()
    finally:
        server.close()
        thread.join(10)
    assert done.out == hashlib.sha256(data).digest() + data
    told = cluster.wait_event("port", server_id=host_id, addr=at(port, PUBLIC))
    assert (told["code"], told["user"]) == ("T3003I", "alice")
    over = cluster.wait_event("port.closed", server_id=host_id, addr=at(port, PUBLIC))
    assert (over["rx"], over["tx"], over["connection"]) == (len(data), len(data) + 32, told["connection"])


def test_the_host_listens_for_the_client(
    cluster: Cluster, alice: Person, sshd: Sshd, host_id: str, login: str, tmp_path: Path
) -> None:
    """`-R`, of ports and of Unix sockets: what comes there reaches the client, and is counted."""
    data, there = os.urandom(1_000_000), tmp_path / "there"
    with listening() as server:
        here = at(server.getsockname()[1], PUBLIC)

        def serve() -> None:
            for _ in range(2):
                connection, _ = server.accept()
                with connection:
                    connection.sendall(data)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        client = subprocess.Popen(
            alice.ssh_arguments(
                "-N", "-R", f"0:{here}", "-R", f"{there}:{here}", "-o", "ExitOnForwardFailure=yes",
                f"{login}@{WEB}.{cluster.name}",
            ),
            env=alice.environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            port_there = allocated_port(client)
            wait_until("the socket is there", there.exists)
            for made, where in (
                (loopback_socket(), (LOOPBACK, port_there)),
                (socket.socket(socket.AF_UNIX), str(there)),
            ):
                with made as coming:
                    coming.connect(where)
                    got = b""
                    while piece := coming.recv(65536):
                        got += piece
                assert got == data
        finally:
            client.terminate()
            client.communicate()
            thread.join(10)
    for kind, addr in (("tcpip-forward", f"*:{port_there}"), ("streamlocal-forward@openssh.com", str(there))):
        told = forward_event(cluster, "port", server_id=host_id, kind=kind, success=True)
        assert told["addr"].rpartition(":")[2] == addr.rpartition(":")[2]
        over = forward_event(cluster, "port.closed", server_id=host_id, kind=kind, connection=told["connection"])
        assert (over["tx"], over["rx"]) == (0, len(data))
        one = forward_event(cluster, "port.closed", server_id=host_id, kind=_COMES[kind])
        assert one["rx"] == len(data)


_COMES = {
    "tcpip-forward": "forwarded-tcpip",
    "streamlocal-forward@openssh.com": "forwarded-streamlocal@openssh.com",
}


def test_a_forward_leads_to_a_socket_there(
    cluster: Cluster, alice: Person, sshd: Sshd, host_id: str, login: str, tmp_path: Path
) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(there))
        server.listen()
        client = subprocess.Popen(
            alice.ssh_arguments("-N", "-L", f"{here}:{there}", f"{login}@{WEB}.{cluster.name}"),
            env=alice.environment, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            wait_until("ssh listens", here.exists)
            with socket.socket(socket.AF_UNIX) as coming:
                coming.connect(str(here))
                coming.sendall(b"question")
                taken, _ = server.accept()
                with taken:
                    assert taken.recv(100) == b"question"
                    taken.sendall(b"answer")
                assert coming.recv(100) == b"answer"
        finally:
            client.terminate()
            client.communicate()
    told = forward_event(cluster, "port", server_id=host_id, kind="direct-streamlocal@openssh.com", addr=str(there))
    over = cluster.wait_event("port.closed", server_id=host_id, addr=str(there), connection=told["connection"])
    assert (over["rx"], over["tx"]) == (8, 6)


LENDS = """kind: role
version: v4
metadata: {{name: lends}}
spec:
  options: {{forward_agent: true, permit_x11_forwarding: true}}
  allow: {{logins: [{login}], node_labels: {{'*': '*'}}}}
"""
NAMED = """kind: role
version: v4
metadata: {{name: named}}
spec:
  allow:
    logins: [{login}]
    node_labels: {{'*': '*'}}
    forward_to: ['unix:/run/some/*']
    listen_on: ['unix:/run/some/*']
"""


@pytest.fixture(scope="module")
def lou(cluster: Cluster, login: str) -> Person:
    cluster.tctl("create", "-f", "-", stdin=LENDS.format(login=login)).ok()
    person = cluster.add_person("lender", roles=["lends"], logins=[])
    person.log_in()
    return person


@pytest.fixture(scope="module")
def ned(cluster: Cluster, login: str) -> Person:
    cluster.tctl("create", "-f", "-", stdin=NAMED.format(login=login)).ok()
    person = cluster.add_person("ned", roles=["named"], logins=[])
    person.log_in()
    return person


DRAWS = """python3 -c '
import os, socket, struct, subprocess
host, number = os.environ["DISPLAY"].split(":")
listed = subprocess.run(["xauth", "-f", os.environ["SHOWN"], "list"], capture_output=True, text=True).stdout
cookie = bytes.fromhex(listed.split()[-1])
at = socket.create_connection((host, 6000 + int(number.partition(".")[0])))
name = b"MIT-MAGIC-COOKIE-1"
at.sendall(struct.pack("<BxHHHHxx", 0x6C, 11, 0, len(name), len(cookie)) + name + bytes(-len(name) % 4) + cookie)
print(at.recv(100))
'"""


@pytest.mark.skipif(shutil.which("xauth") is None, reason="there is no xauth here, which sshd and ssh use for X11")
def test_a_display_is_lent_to_whom_roles_allow_it(
    cluster: Cluster, alice: Person, lou: Person, sshd: Sshd, host_id: str, login: str
) -> None:
    """A program at the host shows the cookie that sshd has from the client, whose `ssh` puts the true one there."""
    with socket.socket() as screen:
        for number in range(200, 300):
            with contextlib.suppress(OSError):
                screen.bind((DISPLAYS, 6000 + number))
                break
        screen.listen()
        shown: list[bytes] = []

        def serve() -> None:
            connection, _ = screen.accept()
            with connection:
                shown.append(connection.recv(100))
                connection.sendall(b"a screen")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        where = f"{login}@{WEB}.{cluster.name}"
        command = DRAWS.replace('os.environ["SHOWN"]', f'"{sshd.folder}/Xauthority"')
        display = {"DISPLAY": f"{DISPLAYS}:{number}"}
        try:
            done = run(*lou.ssh_arguments("-Y", where, command), environment={**lou.environment, **display})
            assert done.stdout.strip() == "b'a screen'", done.stderr
            asked = alice.ssh_arguments("-Y", where, "echo [$DISPLAY]")
            assert run(*asked, environment={**alice.environment, **display}).stdout.strip() == "[]"
        finally:
            if not shown:
                socket.create_connection((DISPLAYS, 6000 + number)).close()
            thread.join(10)
    assert b"MIT-MAGIC-COOKIE-1" in shown[0]
    lent = cluster.wait_event("x11-forward", server_id=host_id, user="lender")
    over = forward_event(cluster, "port.closed", server_id=host_id, user="lender", kind="x11")
    assert (over["connection"], over["rx"]) == (lent["connection"], len(b"a screen"))
    denied = cluster.wait_event("x11-forward", server_id=host_id, user="alice", success=False)
    assert "permit_x11_forwarding" in denied["error"]


def test_an_agent_is_lent_to_whom_roles_allow_it(
    cluster: Cluster, ned: Person, lou: Person, sshd: Sshd, host_id: str, login: str, tmp_path: Path
) -> None:
    """The real `ssh-agent`; without the roles there is none."""
    key, path = tmp_path / "key", tmp_path / "agent"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key, environment=os.environ).ok()
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until("the agent is there", path.exists)
        run("ssh-add", "-q", key, environment={**os.environ, "SSH_AUTH_SOCK": str(path)}).ok()
        where = f"{login}@{WEB}.{cluster.name}"
        offered = ("-o", f"IdentityAgent={path}", "-o", f"ForwardAgent={path}", where)
        listed = lou.ssh(*offered, "ssh-add -L").ok().stdout
        assert key.with_suffix(".pub").read_text().split()[1] in listed
        refused = ned.ssh(*offered, "echo [$SSH_AUTH_SOCK]")
        assert refused.stdout.strip() == "[]"
    finally:
        agent.terminate()
        agent.wait(10)
    lent = cluster.wait_event("agent.forward", server_id=host_id, user="lender")
    assert lent["success"] is True
    told = forward_event(cluster, "port", server_id=host_id, user="lender", kind="auth-agent@openssh.com")
    over = forward_event(cluster, "port.closed", server_id=host_id, user="lender", kind="auth-agent@openssh.com")
    assert over["connection"] == told["connection"] == lent["connection"]
    assert over["tx"] > 0
    assert over["rx"] > 0
    denied = cluster.wait_event("agent.forward", server_id=host_id, user="ned", success=False)
    assert "forward_agent" in denied["error"]


def test_sockets_that_roles_name_are_refused_where_links_are_not_seen(
    cluster: Cluster, ned: Person, sshd: Sshd, host_id: str, login: str, tmp_path: Path
) -> None:
    """Whoever can make a link could lead a path that is allowed to a socket that is not."""
    done = ned.ssh(
        "-R", "/run/some/socket:localhost:1", "-o", "ExitOnForwardFailure=yes", f"{login}@{WEB}.{cluster.name}", "true"
    )
    assert done.status == 255
    denied = cluster.wait_event("port", server_id=host_id, user="ned", addr="/run/some/socket")
    assert "where links of this host lead is not seen" in denied["error"]


MOVES = """kind: role
version: v4
metadata: {{name: moves}}
spec:
  options: {{exec: transfer, file_transfer: {{upload: no, download_paths: ['/srv/**']}}}}
  allow: {{logins: [{login}], node_labels: {{'*': '*'}}}}
"""


def test_rules_of_transfers_are_not_got_around_there(
    cluster: Cluster, sshd: Sshd, host_id: str, login: str, tmp_path: Path
) -> None:
    """Neither by sftp, which a plain sshd does not hold to them, nor by a command."""
    cluster.tctl("create", "-f", "-", stdin=MOVES.format(login=login)).ok()
    moe = cluster.add_person("moe", roles=["moves"], logins=[])
    moe.log_in()
    where = f"{login}@{WEB}.{cluster.name}"
    done = run("sftp", "-F", moe.ssh_config, "-b", "-", where, environment=moe.environment, stdin="get /etc/hostname\n")
    assert done.status != 0
    told = cluster.wait_event("session.request_denied", server_id=host_id, user="moe", request="subsystem sftp")
    assert "a plain sshd does not hold to" in told["reason"]
    assert moe.ssh(where, "cat /etc/hostname").status == 255
    assert not [event for event in cluster.events("--type=session.start") if event["user"] == "moe"]


def test_who_may_not_go_there_does_not(cluster: Cluster, sshd: Sshd, host_id: str, login: str) -> None:
    eve = cluster.add_person("eve", logins=["nobody-here"])
    eve.log_in()
    refused = eve.ssh(f"{login}@{WEB}.{cluster.name}", "id")
    assert refused.status == 255
    assert "does not hold the login" in refused.stderr
    cluster.wait_event("auth", server_id=host_id, user="eve")
    known = eve.ssh(f"nobody-here@{WEB}.{cluster.name}", "id")
    assert known.status == 255
    assert "does not let the cluster's proxies in as nobody-here" in known.stderr


TERMS = """kind: role
version: v4
metadata: {{name: {name}}}
spec:
  options: {{max_connections: {most}}}
  allow:
    logins: [{login}]
    node_labels: {{'*': '*'}}
    require_session_join: [{need}]
"""


def test_who_needs_others_in_their_sessions_gets_none_there(cluster: Cluster, sshd: Sshd, login: str) -> None:
    """Nobody can join at a plain sshd, so that would be a way around (threat T48); `access explain` says so."""
    need = "{kinds: [ssh], modes: [moderator]}"
    cluster.tctl("create", "-f", "-", stdin=TERMS.format(name="four-eyed", most=0, login=login, need=need)).ok()
    fay = cluster.add_person("fay", roles=["four-eyed"], logins=[])
    fay.log_in()
    for words in (("id",), ("-tt", "id")):
        refused = fay.ssh(*words[:-1], f"{login}@{WEB}.{cluster.name}", words[-1])
        assert refused.status == 255
        assert "on this host nobody can be" in refused.stderr
    explained = cluster.tctl("access", "explain", "fay", f"{login}@{WEB}")
    assert explained.status == 5
    assert "requires somebody as moderator" in explained.stdout
    assert not [event for event in cluster.events("--type=session.start") if event["user"] == "fay"]


def test_connections_there_are_counted_like_others(cluster: Cluster, sshd: Sshd, login: str) -> None:
    """`max_connections` is for the whole cluster, whoever speaks for the host."""
    cluster.tctl("create", "-f", "-", stdin=TERMS.format(name="single", most=1, login=login, need="")).ok()
    sue = cluster.add_person("sue", roles=["single"], logins=[])
    sue.log_in()
    where = f"{login}@{WEB}.{cluster.name}"
    with subprocess.Popen(
        sue.ssh_arguments(where, "echo in; exec cat"),
        env=sue.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"in\n"
        second = sue.ssh(where, "true")
        assert second.status == 255
        assert "Your roles allow 1 connections at the same time." in second.stderr
        first.communicate(b"", timeout=30)
    wait_until("the first is over", lambda: sue.ssh(where, "true").status == 0)
    assert cluster.wait_event("session.rejected", user="sue")["reason"] == "max_connections"


def test_a_users_key_and_certificate_open_nothing_there(
    cluster: Cluster, alice: Person, sshd: Sshd, login: str, tmp_path: Path
) -> None:
    key = tmp_path / "alice"
    cluster.tctl("auth", "sign", "--user=alice", "--format=openssh", f"--out={key}").ok()
    done = run(
        "ssh", *ANY_HOST, "-o", "IdentitiesOnly=yes", "-i", key, "-p", str(sshd.port), f"{login}@{LOOPBACK}", "id",
        environment=plain_environment(tmp_path),
    )  # fmt: skip
    assert done.status == 255
    assert "Permission denied" in done.stderr
    assert "uid=" not in done.stdout


def test_a_stolen_proxy_disk_opens_nothing_there(
    cluster: Cluster, sshd: Sshd, host_id: str, login: str, tmp_path: Path
) -> None:
    """Every key on it, with every certificate; and what it may ask auth for by them."""
    stolen = tmp_path / "stolen"
    shutil.copytree(cluster.data_dir / "proc", stolen)
    keys = [path for path in (stolen / "proxy").iterdir() if b"PRIVATE KEY" in path.read_bytes()]
    assert keys
    for key in keys:
        key.chmod(0o600)
        for certificate in ("", *map(str, (stolen / "proxy").glob("*cert*"))):
            given = ["-o", f"CertificateFile={certificate}"] if certificate else []
            done = run(
                "ssh", *ANY_HOST, "-o", "IdentitiesOnly=yes", "-i", key, *given, "-p", str(sshd.port),
                f"{login}@{LOOPBACK}", "id", environment=plain_environment(tmp_path),
            )  # fmt: skip
            assert done.status == 255, (key, certificate)
            assert "uid=" not in done.stdout


def test_a_lock_ends_the_session_at_once(
    cluster: Cluster, alice: Person, sshd: Sshd, host_id: str, login: str, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        alice.ssh_arguments(f"{login}@{WEB}.{cluster.name}", "echo begun; sleep 300"),
        env=alice.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"begun\n"
        cluster.tctl("lock", f"--node={host_id}", "--message=stop-it", "--ttl=1m").ok()
        began = time.monotonic()
        assert process.wait(20) == 255
        assert time.monotonic() - began < 10  # promised: two seconds
        assert b"This session was ended: Access is locked" in process.stderr.read()
        refused = alice.ssh(f"{login}@{WEB}.{cluster.name}", "id")
        assert refused.status == 255
    finally:
        process.kill()
        process.communicate()
        for lock in cluster.tctl("get", "locks", "--format=json").json():
            cluster.tctl("rm", f"lock/{lock['metadata']['name']}").ok()
    end = cluster.wait_event("session.end", server_id=host_id, initial_command=["echo begun; sleep 300"])
    assert "lock" in end["reason"].lower()


def test_an_sshd_that_dies_ends_the_session(cluster: Cluster, alice: Person, sshd: Sshd, login: str) -> None:
    began = time.monotonic()
    done = alice.ssh(f"{login}@{WEB}.{cluster.name}", "kill -KILL $PPID; sleep 60")
    assert done.status == 255
    assert time.monotonic() - began < 25
    end = cluster.wait_event("session.end", initial_command=["kill -KILL $PPID; sleep 60"])
    assert "connection" in end["reason"].lower()


def test_a_host_that_is_another_is_not_entered(cluster: Cluster, alice: Person, login: str, tmp_path: Path) -> None:
    """Its sshd shows a key that was never certified: somebody else answers at the address."""
    for name in ("good", "other"):
        (tmp_path / name).mkdir()
    good, other = make_sshd(tmp_path / "good"), make_sshd(tmp_path / "other")
    set_up(cluster, good, "web2")
    other.config.write_text(other.config.read_text().replace(f"Port {other.port}", f"Port {good.port}"))
    other.port = good.port
    other.start()
    try:
        done = alice.ssh(f"{login}@web2.{cluster.name}", "id")
        assert done.status == 255
        assert "uid=" not in done.stdout
        assert "cannot be entered" in done.stderr
        assert "Accepted" not in other.log()
    finally:
        other.stop()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, Sshd]]:
    """A cluster that tests may change and kill, with a host."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "sshd").mkdir()
    made = make_sshd(folder / "sshd")
    with Cluster(folder / "cluster") as cluster:
        made.host_id = set_up(cluster, made)
        made.start()
        yield cluster, made
        made.stop()


@pytest.fixture(scope="module")
def bob(own: tuple[Cluster, Sshd], login: str) -> Person:
    person = own[0].add_person("bob", logins=[login])
    person.log_in()
    return person


def test_whether_hosts_prove_themselves_is_a_setting(own: tuple[Cluster, Sshd], bob: Person, login: str) -> None:
    cluster, sshd = own
    text = sshd.config.read_text()
    sshd.stop()
    sshd.config.write_text("".join(line for line in text.splitlines(True) if "HostCertificate" not in line))
    sshd.start()
    try:
        target = f"{login}@{WEB}.{cluster.name}"
        assert "cannot be entered" in bob.ssh(target, "id").stderr
        cluster.tctl("create", "-f", "-", stdin=RECORDING.format(checks="no")).ok()
        wait_until("it is entered", lambda: bob.ssh(target, "id").status == 0)
        cluster.tctl("create", "-f", "-", stdin=RECORDING.format(checks="yes")).ok()
        wait_until("it is not entered any more", lambda: bob.ssh(target, "id").status == 255)
    finally:
        sshd.stop()
        sshd.config.write_text(text)
        sshd.start()


def test_a_proxy_that_is_killed_loses_no_recording(own: tuple[Cluster, Sshd], bob: Person, login: str) -> None:
    cluster, sshd = own
    process = subprocess.Popen(
        bob.ssh_arguments(f"{login}@{WEB}.{cluster.name}", "echo before-the-kill; sleep 300"),
        env=bob.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"before-the-kill\n"
        wait_until("the output is on disk", lambda: b"before-the-kill" in on_disk(cluster))
        cluster.daemon.kill()
        process.wait(20)
        cluster.daemon.start()
        end = cluster.wait_event("session.end", server_id=sshd.host_id, reason="node lost")
        assert "before-the-kill" in recording_of(cluster, end["sid"])
        assert len([one for one in cluster.events("--type=session.end") if one["sid"] == end["sid"]]) == 1
        cluster.tctl("audit", "verify").ok()
    finally:
        process.kill()
        process.communicate()
