"""Sessions and the accounts of their host, by a real daemon: PAM, the records of logins, `teleport status` (T53)."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.cluster.cluster_accounts import UnixAccount

from teleport.testing.cluster import BIN, NODE, Cluster, Person, Ran, plain_environment, run, wait_until
from teleport.testing.loopback import free_port

USER = """kind: user
version: v2
metadata: {{name: paula}}
spec: {{roles: [paula], traits: {{team: [core, red], empty: []}}}}
"""
ROLE = """kind: role
version: v4
metadata: {{name: paula}}
spec: {{allow: {{logins: [{login}, root], node_labels: {{'*': '*'}}}}}}
"""


@dataclass(frozen=True)
class Host:
    cluster: Cluster
    person: Person
    login: str
    service: Path
    log: Path

    @property
    def target(self) -> str:
        return f"{self.login}@{NODE}.{self.cluster.name}"


def allow(host: Host, account: str = "required pam_permit.so") -> None:
    host.service.write_text(
        f"account {account}\n"
        f"session required pam_exec.so {host.log.parent}/tell\n"
        "session optional pam_echo.so greetings\n"
    )


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, unix_account: UnixAccount) -> Iterator[Host]:
    if not Path("/etc/pam.d").is_dir():
        pytest.skip("this host has no PAM (/etc/pam.d)")
    service = Path(f"/etc/pam.d/tp-{uuid.uuid4().hex[:8]}")
    folder = tmp_path_factory.mktemp("accounts")
    script, log = folder / "tell", folder / "told"
    script.write_text(f'#!/bin/sh\necho "$PAM_TYPE $PAM_USER $TELEPORT_USERNAME [$TEAM] [$EMPTY] [$FIXED]" >>{log}\n')
    script.chmod(0o755)
    cluster = Cluster(folder / "cluster")
    cluster.config["ssh_service"]["pam"] = {
        "enabled": True,
        "service_name": service.name,
        "environment": {"TEAM": "t-{{external.team}}", "EMPTY": "{{external.empty}}", "FIXED": "as it is"},
    }
    cluster.write()
    try:
        made = Host(cluster, Person(cluster, "paula", folder / "home"), unix_account.name, service, log)
        allow(made)
        with cluster:
            cluster.tctl("create", "-f", "-", stdin=ROLE.format(login=unix_account.name)).ok()
            person = cluster.add_person("paula", roles=["paula"], logins=[])
            cluster.tctl("create", "-f", "-", stdin=USER.format()).ok()
            person.log_in()
            yield Host(cluster, person, unix_account.name, service, log)
    finally:
        service.unlink(missing_ok=True)


def test_a_session_goes_through_the_stacks_with_the_users_traits(host: Host) -> None:
    allow(host)
    ran = host.person.ssh(host.target, "echo $TEAM; echo $TELEPORT_ROLES; id -un").ok()
    assert ran.stdout.splitlines() == ["t-core t-red", "paula", host.login]
    rest = f"{host.login} paula [t-core t-red] [] [as it is]"
    wait_until("PAM's session is closed", lambda: len(host.log.read_text().splitlines()) == 2)
    assert host.log.read_text().splitlines() == [f"open_session {rest}", f"close_session {rest}"]


def test_a_refusal_of_pam_is_told_and_on_record(host: Host) -> None:
    allow(host, "required pam_deny.so")
    mark = f"m{uuid.uuid4().hex[:8]}"
    ran = host.person.ssh(host.target, f"touch /tmp/{mark}")
    assert ran.status != 0
    assert "PAM refuses the login (account)" in ran.stderr
    assert not Path(f"/tmp/{mark}").exists()
    end = wait_until(
        "the end is on record",
        lambda: next((e for e in host.cluster.events("--type=session.end") if mark in str(e["initial_command"])), None),
    )
    assert end["reason"].startswith("not started: PAM refuses the login (account)")


@pytest.mark.parametrize("account", ["required pam_permit.so", "required pam_deny.so"], ids=["allowed", "refused"])
def test_a_forward_without_a_session_goes_through_the_stacks(host: Host, account: str) -> None:
    """Threat T53: who may not log in by PAM reaches nothing either; what was opened is closed."""
    allow(host, account)
    host.log.unlink(missing_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as threads:
        server.settimeout(20)
        ran = threads.submit(host.person.ssh, "-W", f"127.0.0.1:{server.getsockname()[1]}", host.target)
        if "deny" in account:
            assert ran.result().status != 0
            server.settimeout(0)
            with pytest.raises(BlockingIOError):
                server.accept()
            assert not host.log.exists()
            return
        with server.accept()[0] as peer:
            peer.sendall(b"by the forward")
        assert ran.result().stdout == "by the forward"
    rest = f"{host.login} paula [t-core t-red] [] [as it is]"
    wait_until("PAM's session is closed", lambda: len(host.log.read_text().splitlines()) == 2)
    assert host.log.read_text().splitlines() == [f"open_session {rest}", f"close_session {rest}"]


@contextmanager
def held(person: Person, folder: Path, *arguments: str) -> Iterator[None]:
    """A connection of plain `ssh -N`, from when it is let in; ended at the end."""
    control = folder / "c"
    command = person.ssh_arguments("-N", "-M", "-S", control, "-o", "ControlPersist=no", *arguments)
    process = subprocess.Popen(command, env=person.environment, stdin=subprocess.DEVNULL)
    try:
        wait_until("ssh is let in", lambda: control.exists() and process.poll() is None)
        yield
        assert process.poll() is None
    finally:
        process.terminate()
        process.wait(20)


def meet(local: int, server: socket.socket) -> None:
    """A connection to a forwarded port arrives at `server`, and ends."""
    with socket.create_connection(("127.0.0.1", local), 20) as near, server.accept()[0] as far:
        far.sendall(b"there")
        assert near.recv(16) == b"there"


def test_forwards_alone_keep_one_session_of_pam_while_the_connection_lives(host: Host, tmp_path: Path) -> None:
    """`ssh -N`: opened with what is first asked of the host, closed with the connection. An agent is lent to sessions:
    without one, `-A` asks for nothing."""
    allow(host)
    host.log.unlink(missing_ok=True)
    local = free_port()
    rest = f"{host.login} paula [t-core t-red] [] [as it is]"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as agent:
        server.settimeout(20)
        agent.bind(str(tmp_path / "agent"))
        lent = ("-o", f"ForwardAgent={tmp_path}/agent")
        with held(host.person, tmp_path, *lent, host.target):
            pass
        way = f"{local}:127.0.0.1:{server.getsockname()[1]}"
        with held(host.person, tmp_path, *lent, "-L", way, host.target):
            assert not host.log.exists(), "nor of the connection before"
            for _ in range(2):
                meet(local, server)
                assert host.log.read_text().splitlines() == [f"open_session {rest}"]
    wait_until("PAM's session is closed", lambda: len(host.log.read_text().splitlines()) == 2)
    assert host.log.read_text().splitlines() == [f"open_session {rest}", f"close_session {rest}"]


def test_a_shell_is_greeted_and_its_login_is_on_the_hosts_records(host: Host) -> None:
    allow(host)
    host.person.ssh("-tt", host.target, "true").ok()  # a login before, where the host keeps lastlog
    kept = Path("/var/log/lastlog").exists() and Path("/var/log/wtmp").exists() and shutil.which("last")
    said = host.person.ssh("-tt", host.target, stdin="exit\n").stdout
    assert "greetings" in said
    if not kept:
        pytest.skip("this host keeps no wtmp and lastlog, or has no `last`: the greeting alone was looked at")
    assert "Last login: " in said
    last = run("last", "-f", "/var/log/wtmp", host.login, environment=plain_environment(host.cluster.folder))
    assert len([line for line in last.stdout.splitlines() if line.startswith(host.login[:8])]) == 2


def test_teleport_status_names_the_session_that_it_runs_in(host: Host) -> None:
    """As root, who can read the program wherever it is installed."""
    allow(host)
    target = f"root@{NODE}.{host.cluster.name}"
    text = host.person.ssh(target, f"{BIN / 'teleport'} status; {BIN / 'teleport'} status --format=json").ok().stdout
    shown, _, rest = text.partition("{")
    facts = json.loads("{" + rest)
    (start,) = [e for e in host.cluster.events("--type=session.start") if "status" in str(e["initial_command"])]
    assert facts["session_id"] == start["sid"]
    assert (facts["user"], facts["cluster"], facts["login"]) == ("paula", host.cluster.name, "root")
    for word in ("paula", host.cluster.name, start["sid"]):
        assert word in shown


def test_a_node_without_the_stacks_does_not_start_and_says_so(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    cluster.config["ssh_service"]["pam"] = {"enabled": True, "service_name": "tp-there-is-none"}
    cluster.write()
    done = run(BIN / "teleport", "start", "--config", cluster.config_path, environment=plain_environment(tmp_path))
    assert done.status == 1
    wanted = (
        "there is no file of that name in /etc/pam.d" if os.geteuid() == 0 else "only root may open sessions of PAM"
    )
    assert wanted in done.stderr
    assert "Traceback" not in done.stderr


MAKES = """kind: role
version: v4
metadata: {{name: makes}}
spec:
  options: {{create_host_user: {makes}}}
  allow: {{logins: ['{login}'], host_groups: [{groups}], node_labels: {{'*': '*'}}}}
"""


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("useradd") is None, reason="needs root and useradd")
def test_an_account_that_is_missing_is_made_by_role_and_goes_again(cluster: Cluster) -> None:
    """Threat T52, with a real daemon: made, on record, brought up to date, removed; refused without such a role."""
    login = f"tp{uuid.uuid4().hex[:8]}"
    target = f"{login}@{NODE}.{cluster.name}"

    def role(makes: str, groups: str) -> None:
        cluster.tctl("create", "-f", "-", stdin=MAKES.format(makes=makes, login=login, groups=groups)).ok()

    try:
        role("no", "games")
        person = cluster.add_person("mary", roles=["makes"], logins=[])
        person.log_in()
        ran = person.ssh(target, "true")
        assert ran.status != 0
        assert f"There is no Unix account '{login}' on this host" in ran.stderr
        role("yes", "games")
        explained = cluster.tctl("access", "explain", "mary", f"{login}@{NODE}").stdout
        assert "made, in the groups games" in explained
        said = wait_until(
            "the role has arrived", lambda: arrived(person.ssh(target, "id -un; id -Gn; pwd; touch kept"))
        )
        assert said == [login, f"{login} games", f"/home/{login}"]
        made = cluster.wait_event("host_user.create", login=login)
        assert (made["groups"], made["code"], made["error"]) == (["games"], "T9270I", "")
        assert made["sid"] in {event["sid"] for event in cluster.events("--type=session.start")}
        cluster.wait_event("host_user.delete", login=login)
        with pytest.raises(KeyError):
            pwd.getpwnam(login)
        role("yes", "")
        wait_until(
            "the groups are those of today", lambda: arrived(person.ssh(target, "id -Gn; ls")) == [login, "kept"]
        )
    finally:
        wait_until("the account is gone", lambda: gone(login))
        for path in ("users", "locks"):
            Path(f"/var/lib/teleport-host-users/{path}/{login}").unlink(missing_ok=True)
        shutil.rmtree(f"/home/{login}", ignore_errors=True)


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("useradd") is None, reason="needs root and useradd")
def test_an_account_is_made_for_a_forward_alone_and_goes_again(cluster: Cluster) -> None:
    """Threat T52: what connects for its user does so as the account that a role makes, and the account ends with it."""
    login = f"tp{uuid.uuid4().hex[:8]}"
    target = f"{login}@{NODE}.{cluster.name}"
    role = f"forwards{uuid.uuid4().hex[:6]}"
    try:
        text = MAKES.format(makes="yes", login=login, groups="games").replace("name: makes", f"name: {role}")
        cluster.tctl("create", "-f", "-", stdin=text).ok()
        person = cluster.add_person(role, roles=[role], logins=[])
        person.log_in()
        with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as threads:
            server.settimeout(20)
            ran = threads.submit(person.ssh, "-W", f"127.0.0.1:{server.getsockname()[1]}", target)
            with server.accept()[0] as peer:
                assert pwd.getpwnam(login).pw_name == login
                peer.sendall(b"by the forward")
            assert ran.result().stdout == "by the forward"
        made = cluster.wait_event("host_user.create", login=login)
        assert (made["groups"], made["error"]) == (["games"], "")
        cluster.wait_event("host_user.delete", login=login)
    finally:
        wait_until("the account is gone", lambda: gone(login))
        for path in ("users", "locks"):
            Path(f"/var/lib/teleport-host-users/{path}/{login}").unlink(missing_ok=True)
        shutil.rmtree(f"/home/{login}", ignore_errors=True)


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("useradd") is None, reason="needs root and useradd")
def test_an_account_lives_as_long_as_a_connection_that_only_forwards(cluster: Cluster, tmp_path: Path) -> None:
    """Threat T52: `ssh -N -A` makes none; the first forward does, and it stays between forwards."""
    login = f"tp{uuid.uuid4().hex[:8]}"
    role = f"keeps{uuid.uuid4().hex[:6]}"
    local = free_port()

    def told(kind: str) -> int:
        return len([event for event in cluster.events(f"--type=host_user.{kind}") if event["login"] == login])

    try:
        text = MAKES.format(makes="yes", login=login, groups="").replace("name: makes", f"name: {role}")
        cluster.tctl("create", "-f", "-", stdin=text).ok()
        person = cluster.add_person(role, roles=[role], logins=[])
        person.log_in()
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(20)
            way = f"{local}:127.0.0.1:{server.getsockname()[1]}"
            with held(person, tmp_path, "-A", "-L", way, f"{login}@{NODE}.{cluster.name}"):
                assert gone(login)
                for _ in range(2):
                    meet(local, server)
                    assert not gone(login)
                assert told("delete") == 0
        cluster.wait_event("host_user.delete", login=login)
        assert (told("create"), told("delete")) == (1, 1)
    finally:
        wait_until("the account is gone", lambda: gone(login))
        for path in ("users", "locks"):
            Path(f"/var/lib/teleport-host-users/{path}/{login}").unlink(missing_ok=True)
        shutil.rmtree(f"/home/{login}", ignore_errors=True)


def arrived(ran: Ran) -> list[str] | None:
    return ran.stdout.split("\n")[:-1] if ran.status == 0 else None


def gone(login: str) -> bool:
    try:
        pwd.getpwnam(login)
    except KeyError:
        return True
    return False
