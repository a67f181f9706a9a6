"""What must not work, tried with real clients (threats T28, T29, T42, T53)."""

from __future__ import annotations

import grp
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.cluster.cluster_accounts import UnixAccount
from tests.cluster.cluster_shells import ANY_HOST

from teleport.api import messages as m
from teleport.api import routes
from teleport.api.sync_client import SyncAuthClient, direct
from teleport.errors import BadRequest, NotFound, TeleportError
from teleport.pki.x509cert import auth_server_name
from teleport.testing.cluster import LOOPBACK, NODE, PUBLIC, Cluster, Person, Ran, at, run, wait_until
from teleport.transport.tls import cluster_client_context

# T28: the proxy's own SSH port


def at_proxy(cluster: Cluster, person: Person, login: str, *arguments: str) -> Ran:
    """`ssh` to the proxy itself, with a good certificate."""
    options = ["-o", f"HostKeyAlias={PUBLIC}", "-p", str(cluster.proxy_ssh_port), "-l", login]
    return person.ssh(*options, *arguments, seconds=20)


def denied(cluster: Cluster, word: str) -> None:
    """Waits until a refusal that names `word` is on record."""

    def found() -> bool:
        events = cluster.events("--type=session.request_denied", "--user=alice")
        return any(word in event["request"] and event["code"] == "T9032W" for event in events)

    wait_until(f"a refusal of {word} on record", found)


@pytest.mark.parametrize(
    ("arguments", "request_name"),
    [
        ([PUBLIC], "shell"),
        (["-tt", PUBLIC], "pty-req"),
        ([PUBLIC, "id"], "exec"),
        (["-s", PUBLIC, "sftp"], "subsystem sftp"),
        (["-s", PUBLIC, "proxysites"], "subsystem proxysites"),
        (["-W", "127.0.0.2:22", PUBLIC], "proxy:127.0.0.2:22"),
        (["-W", "169.254.169.254:80", PUBLIC], "proxy:169.254.169.254:80"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_the_proxy_s_port_serves_nothing_but_the_way_to_hosts(
    cluster: Cluster, alice: Person, login: str, arguments: list[str], request_name: str
) -> None:
    done = at_proxy(cluster, alice, login, *arguments)
    assert done.status not in (0, None)
    assert "uid=" not in done.stdout
    assert done.out == b""
    denied(cluster, request_name)


def test_the_proxy_s_port_listens_for_nobody(cluster: Cluster, alice: Person, login: str) -> None:
    arguments = ["-o", "ExitOnForwardFailure=yes", "-N", "-R", "0:127.0.0.1:1", PUBLIC]
    done = at_proxy(cluster, alice, login, *arguments)
    assert done.status == 255
    assert "forwarding failed" in done.stderr
    denied(cluster, "tcpip-forward")


def test_the_auth_service_is_not_reached_through_the_proxy(cluster: Cluster, alice: Person, login: str) -> None:
    """No open relay. The address leads to the host that is registered with it, and there to its own port only."""
    options = ["-o", f"HostKeyAlias={PUBLIC}", "-p", str(cluster.proxy_ssh_port), "-l", login]
    arguments = alice.ssh_arguments(*options, "-W", at(cluster.auth_port), PUBLIC)
    with subprocess.Popen(arguments, env=alice.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        try:
            # auth would say nothing before a client's hello
            assert client.stdout.read(8) == b"SSH-2.0-"
        finally:
            client.kill()


# T29: the environment

HOSTILE = {
    "LD_PRELOAD": "/tmp/evil.so",
    "LD_LIBRARY_PATH": "/tmp",
    "BASH_ENV": "/tmp/evil.sh",
    "ENV": "/tmp/evil.sh",
    "PATH": "/tmp/evil",
    "IFS": "x",
    "PYTHONPATH": "/tmp/evil",
    "SHELLOPTS": "xtrace",
    "SSH_TELEPORT_USER": "somebody-else",
    "TELEPORT_HOME": "/tmp/evil",
}


@pytest.mark.parametrize("terminal", [False, True], ids=["exec", "terminal"])
def test_no_hostile_variable_arrives(cluster: Cluster, alice: Person, login: str, terminal: bool) -> None:
    sent = " ".join(f"{name}={value}" for name, value in HOSTILE.items())
    environment = {**alice.environment, "LANG": "C\nLD_PRELOAD=/tmp/evil.so", "LC_MESSAGES": "C.UTF-8"}
    arguments = alice.ssh_arguments(
        *(["-tt"] if terminal else []),
        *("-o", f"SetEnv={sent}", "-o", "SendEnv=LANG", "-o", "SendEnv=LC_MESSAGES"),
        f"{login}@{NODE}.{cluster.name}",
        "tr '\\0' '\\n' < /proc/$$/environ; echo \"IFS=$(printf %s \"$IFS\" | od -An -c | tr -d ' ')\"",
    )
    shown = run(*arguments, environment=environment).ok().stdout.replace("\r", "")
    arrived = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    assert arrived["LC_MESSAGES"] == "C.UTF-8", "what is harmless arrives, so that this test can fail"
    assert arrived["SSH_TELEPORT_USER"] == "alice"
    for name in ("LD_PRELOAD", "LD_LIBRARY_PATH", "BASH_ENV", "ENV", "PYTHONPATH", "SHELLOPTS", "TELEPORT_HOME"):
        assert name not in arrived
    assert "/tmp/evil" not in shown
    assert "evil" not in arrived.get("LANG", "")
    assert arrived["IFS"] == r"\t\n", "the shell's own (blanks are left out here)"


# T42: the ids of recordings


@contextmanager
def admin_api(cluster: Cluster) -> Iterator[SyncAuthClient]:
    """The auth API as the administrator of its host, without tctl's own checks."""
    own = cluster.data_dir / "proc" / "admin"
    context = cluster_client_context([cluster.authority()], own / "tls.crt", own / "tls.key")
    connect = direct(LOOPBACK, cluster.auth_port, context, auth_server_name(cluster.name))
    with SyncAuthClient(connect, at(cluster.auth_port)) as client:
        yield client


HOSTILE_IDS = ["../../host_uuid", "..%2f..%2fhost_uuid", "/etc/passwd", "a\0b", "-", ".", "..", "x" * 5000, "*"]


@pytest.mark.parametrize("sid", HOSTILE_IDS, ids=lambda sid: repr(sid[:20]))
def test_a_recording_s_id_leads_nowhere_else(cluster: Cluster, alice: Person, sid: str) -> None:
    with admin_api(cluster) as client, pytest.raises(TeleportError) as refused:
        list(client.download(routes.READ_RECORDING, m.RecordingRequest(sid=sid)))
    assert isinstance(refused.value, BadRequest | NotFound)
    if "\0" in sid:
        return  # no command line can hold it
    done = cluster.tctl("recordings", "download", "--format=raw", "--", sid)
    assert done.status in (2, 3), done.stderr
    assert done.out == b""
    assert "Traceback" not in done.stderr
    played = alice.tsh("play", "--format=text", "--", sid)
    assert played.status != 0
    assert played.out == b""
    assert "Traceback" not in played.stderr


# T53: what a session's process has of the daemon


@pytest.fixture(scope="module")
def frank(cluster: Cluster, unix_account: UnixAccount) -> Person:
    """May log in as an ordinary account of this machine."""
    person = cluster.add_person("frank", logins=[unix_account.name])
    person.log_in()
    return person


LOOK = r"""
import os, json
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
# the listing itself opens one descriptor more
held = {name: os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{name}") or os.path.islink(f"/proc/self/fd/{name}")}
print(json.dumps({
    "uids": os.getresuid(), "gids": os.getresgid(), "groups": sorted(os.getgroups()), "cwd": os.getcwd(),
    "capabilities": [status[f"Cap{name}"].strip() for name in ("Inh", "Prm", "Eff", "Amb")],
    "descriptors": sorted(map(int, held)), "umask": os.umask(0o22), "blocked": status["SigBlk"].strip(),
    "ignored": status["SigIgn"].strip(), "home": os.environ["HOME"], "user": os.environ["USER"],
}))
"""


@pytest.mark.parametrize("terminal", [False, True], ids=["exec", "terminal"])
def test_a_session_is_the_account_and_nothing_of_the_daemon(
    cluster: Cluster, frank: Person, unix_account: UnixAccount, terminal: bool
) -> None:
    import json

    script = unix_account.home / "look.py"
    script.write_text(LOOK)
    script.chmod(0o644)
    name = unix_account.name
    options = ["-tt"] if terminal else []
    done = frank.ssh(*options, f"{name}@{NODE}.{cluster.name}", f"exec python3 {script}").ok()
    seen = json.loads(done.stdout)
    extra = grp.getgrnam(unix_account.group).gr_gid
    assert seen["uids"] == [unix_account.uid] * 3
    assert seen["gids"] == [unix_account.gid] * 3
    assert seen["groups"] == sorted({unix_account.gid, extra})
    assert seen["capabilities"] == ["0000000000000000"] * 4
    assert seen["descriptors"] == [0, 1, 2]
    assert seen["cwd"] == seen["home"] == str(unix_account.home)
    assert seen["user"] == name
    assert seen["blocked"] == "0000000000000000"


def test_a_session_reads_nothing_of_the_daemon_s_files(
    cluster: Cluster, frank: Person, unix_account: UnixAccount
) -> None:
    for path in (cluster.data_dir / "proc" / "admin" / "tls.key", cluster.config_path, cluster.data_dir / "backend"):
        done = frank.tsh("ssh", f"{unix_account.name}@{NODE}", f"cat {path} || ls {path}")
        assert done.status != 0
        assert done.stdout == ""
    assert os.stat(cluster.data_dir).st_mode & 0o077 == 0


def test_an_account_that_does_not_exist_is_refused_in_a_sentence(cluster: Cluster, unix_account: UnixAccount) -> None:
    person = cluster.add_person("grace", logins=["no-such-account"])
    person.log_in()
    done = person.tsh("ssh", f"no-such-account@{NODE}", "id")
    assert done.status not in (0, None)
    assert done.stdout == ""
    assert "no-such-account" in done.stderr
    assert "Traceback" not in done.stderr


# and what reaches the node's own port without the proxy


def test_the_node_s_own_port_wants_a_certificate(cluster: Cluster, alice: Person, login: str, tmp_path: Path) -> None:
    key = tmp_path / "stranger"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key, environment=alice.environment).ok()
    done = run(
        *("ssh", *ANY_HOST, "-o", "IdentitiesOnly=yes", "-i", str(key), "-p", str(cluster.node_port)),
        *(f"{login}@{LOOPBACK}", "id"),
        environment=alice.environment,
    )
    assert done.status == 255
    assert done.stdout == ""
    with socket.create_connection((LOOPBACK, cluster.node_port), 5) as raw:
        assert raw.recv(100).startswith(b"SSH-2.0-")
