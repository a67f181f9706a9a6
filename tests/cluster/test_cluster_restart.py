"""Signals and restarts with real daemons and real `ssh`: nobody is cut off, nobody is refused, nothing is lost.

Sessions print numbered lines through the whole restart; a missing or doubled number fails. Which of the two processes
serves is told by the pid file.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.cluster_restarting import Restarting
from tests.cluster.cluster_sessions import Newcomers, Sessions, check_counted

from teleport.testing.cluster import (
    BIN,
    LOOPBACK,
    NODE,
    Person,
    alive,
    at,
    descendants,
    loopback_socket,
    plain_environment,
    run,
    wait_until,
)


def test_the_check_of_counted_lines_finds_a_gap() -> None:
    """The checker itself: a line left out, doubled or torn off fails."""
    check_counted("0\r\n1\r\n2\r\nend\r\n")
    for wrong in ("0\n2\nend\n", "0\n1\n1\nend\n", "0\n1\n", "1\nend\n"):
        with pytest.raises(AssertionError):
            check_counted(wrong)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("restart")


@pytest.fixture
def cluster(folder: Path) -> Iterator[Restarting]:
    """The same cluster for all tests here, in a daemon of its own for each."""
    with Restarting(folder / "cluster") as cluster:
        yield cluster


@pytest.fixture
def erin(cluster: Restarting, login: str) -> Person:
    name = f"erin{uuid.uuid4().hex[:8]}"
    person = cluster.add_person(name, logins=[login])
    person.log_in()
    return person


def check_hup(cluster: Restarting, erin: Person, login: str, sessions: int, newcomers: int) -> None:
    with Sessions(cluster, erin, login).open(sessions) as open_sessions:
        former = cluster.daemon.pid
        coming = Newcomers(erin, login, newcomers, at_once=4)
        wait_until("some connect before", lambda: coming.done >= newcomers // 8, 60)
        cluster.signal(signal.SIGHUP)
        successor = cluster.wait_successor()
        during = coming.done
        coming.join()
        assert coming.failures == []
        assert coming.done == newcomers > during
        open_sessions.go_on()
        assert alive(former)
        assert "still running: " in cluster.daemon.log()
        check_stranger_refused(cluster)
        check_nothing_leaks(cluster, erin, login, successor)
        open_sessions.end()
        assert cluster.daemon.ended() == 0
        assert cluster.serving() == successor
        ends = [event["sid"] for event in cluster.events("--type=session.end", "--limit=10000")]
        assert sorted(sid for sid in ends if sid in open_sessions.sids()) == sorted(open_sessions.sids())
        assert len(open_sessions.sids()) == sessions
    check_stranger_refused(cluster)
    assert erin.ssh(f"{login}@{NODE}.{cluster.name}", "echo after").ok().stdout == "after\n"
    assert NODE in cluster.tctl("nodes", "ls").ok().stdout, "the old process withdrew what the new one announced"
    cluster.tctl("audit", "verify").ok()


def check_stranger_refused(cluster: Restarting) -> None:
    """Another `teleport start` on the data_dir, with and without a lock that it opened itself."""
    environment = plain_environment(cluster.folder)
    arguments = [str(BIN / "teleport"), "start", "--config", str(cluster.config_path)]
    refused = run(*arguments, environment=environment)
    assert refused.status != 0
    assert "another daemon uses data_dir" in refused.stderr
    with (cluster.data_dir / "daemon.lock").open() as lock:
        forged = f'[{{"type": "teleport-data-dir-lock", "addr": "127.0.0.1:0", "fd": {lock.fileno()}, "fileName": ""}}]'
        done = subprocess.run(
            arguments,
            env={**environment, "TELEPORT_OS_FILES": forged},
            pass_fds=[lock.fileno()],
            capture_output=True,
            timeout=30,
            check=False,
        )
    assert done.returncode != 0
    assert b"another daemon uses data_dir" in done.stderr


def check_nothing_leaks(cluster: Restarting, erin: Person, login: str, successor: int) -> None:
    """Neither launcher nor session of the new process has a descriptor or a variable that it was handed."""
    listeners = _listening(successor)
    assert len(listeners) >= 5  # auth, proxy twice, node, diagnostics
    for pid in descendants(successor):
        assert not _sockets(pid) & listeners
    seen = erin.ssh(f"{login}@{NODE}.{cluster.name}", "ls -l /proc/self/fd; env").ok().stdout
    assert "socket:" not in seen
    assert "daemon.lock" not in seen
    assert "TELEPORT_OS_FILES" not in seen


def _sockets(pid: int) -> set[str]:
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.add(os.readlink(entry))
        except OSError:
            continue
    return {name for name in found if name.startswith("socket:")}


def _listening(pid: int) -> set[str]:
    lines = [line for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    inodes = {f"socket:[{line.split()[9]}]" for line in lines if line.split()[3] == "0A"}
    return _sockets(pid) & inodes


@pytest.mark.timeout(300)  # half a minute on a machine at rest
def test_hup_drops_no_session_and_refuses_no_connection(cluster: Restarting, erin: Person, login: str) -> None:
    """The short form: 8 sessions, 40 connections meanwhile; recordings, events and the lock included."""
    check_hup(cluster, erin, login, sessions=8, newcomers=40)


@pytest.mark.long
def test_hup_under_fifty_sessions_and_five_hundred_connections(cluster: Restarting, erin: Person, login: str) -> None:
    check_hup(cluster, erin, login, sessions=50, newcomers=500)


def test_a_hup_while_a_new_process_starts_is_not_left_out(cluster: Restarting, erin: Person, login: str) -> None:
    """The one that starts has read the configuration already. Later ones to the process that leaves go on, too."""
    with Sessions(cluster, erin, login).open(1) as sessions:
        served = [cluster.daemon.pid]
        cluster.signal(signal.SIGHUP)
        cluster.wait_log("starting a new process")
        cluster.config_path.write_text(cluster.config_path.read_text().replace("env: test", "env: changed"))
        cluster.signal(signal.SIGHUP)
        wait_until("two more have served", lambda: ready_ones(cluster) == 2 or None, 60)
        served += [cluster.wait_successor()]
        assert "env=changed" in wait_until("it is announced", lambda: changed(cluster), 30)
        cluster.signal(signal.SIGHUP)
        wait_until("a third", lambda: ready_ones(cluster) == 3 or None, 60)
        wait_until("it serves", lambda: cluster.serving() not in served, 30)
        sessions.go_on()
        sessions.end()
    assert cluster.daemon.ended() == 0
    cluster.tctl("audit", "verify").ok()


def ready_ones(cluster: Restarting) -> int:
    """Since the daemon of this test began."""
    return cluster.daemon.log()[cluster.begun :].count("the new process is ready: pid ")


def changed(cluster: Restarting) -> str | None:
    shown = cluster.tctl("nodes", "ls").ok().stdout
    return shown if "env=changed" in shown else None


def test_usr2_then_quit_leaves_the_host_to_the_child(cluster: Restarting, erin: Person, login: str) -> None:
    """Both serve; the parent ends with its last session, the host stays listed and its log whole."""
    with Sessions(cluster, erin, login).open(2) as sessions:
        cluster.signal(signal.SIGUSR2)
        successor = cluster.wait_successor()
        for _ in range(4):
            erin.ssh(f"{login}@{NODE}.{cluster.name}", "true").ok()
        cluster.tctl("audit", "verify").ok()
        cluster.signal(signal.SIGUSR2)
        cluster.wait_log(f"no new process is started: pid {successor} is there already")
        cluster.signal(signal.SIGQUIT)
        cluster.wait_log("still running: .*node ")
        sessions.go_on()
        erin.ssh(f"{login}@{NODE}.{cluster.name}", "true").ok()
        sessions.end()
    assert cluster.daemon.ended() == 0
    assert cluster.serving() == successor
    assert NODE in cluster.tctl("nodes", "ls").ok().stdout
    cluster.tctl("audit", "verify").ok()


def test_usr2_then_term_to_the_child_gives_the_host_back_to_the_parent(
    cluster: Restarting, erin: Person, login: str
) -> None:
    with Sessions(cluster, erin, login).open(2) as sessions:
        cluster.signal(signal.SIGUSR2)
        successor = cluster.wait_successor()
        os.kill(successor, signal.SIGHUP)
        cluster.wait_log("the one that started this one still serves")
        os.kill(successor, signal.SIGTERM)
        cluster.wait_log(f"pid {cluster.daemon.pid} serves again")
        wait_until("the pid file is the parent's", lambda: cluster.serving() == cluster.daemon.pid)
        assert not alive(successor)
        sessions.go_on()
        erin.ssh(f"{login}@{NODE}.{cluster.name}", "true").ok()
        assert NODE in cluster.tctl("nodes", "ls").ok().stdout
        sessions.end()
    cluster.tctl("audit", "verify").ok()


def test_a_child_that_cannot_start_leaves_the_parent_serving(cluster: Restarting, erin: Person, login: str) -> None:
    """Broken configuration, then a taken port: the log says why, nothing else changes, and a good HUP works after."""
    good = cluster.config_path.read_text()
    with Sessions(cluster, erin, login).open(1) as sessions, loopback_socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        cluster.config_path.write_text(good.replace("ssh_service:", "ssh_servise:"))
        cluster.signal(signal.SIGHUP)
        cluster.wait_log(r"the new process failed, this one \(pid \d+\) serves on: .*ssh_servise")
        port = taken.getsockname()[1]
        cluster.config_path.write_text(good.replace(at(cluster.diag_port), at(port)))
        cluster.signal(signal.SIGUSR2)
        cluster.wait_log(f"the new process failed, this one .* serves on: .*{re.escape(at(port))}")
        assert cluster.serving() == cluster.daemon.pid
        erin.ssh(f"{login}@{NODE}.{cluster.name}", "true").ok()
        sessions.go_on()
        cluster.config_path.write_text(good)
        cluster.signal(signal.SIGHUP)
        cluster.wait_successor()
        sessions.end()
    assert cluster.daemon.ended() == 0


def test_a_child_that_dies_does_not_leave_nobody_serving(cluster: Restarting, erin: Person, login: str) -> None:
    """Killed after it was ready, while its parent leaves: the parent takes up again and saves its recording."""
    with Sessions(cluster, erin, login).open(1) as sessions:
        cluster.signal(signal.SIGHUP)
        successor = cluster.wait_successor()
        cluster.wait_log("still running: ")
        with Sessions(cluster, erin, login).open(1) as of_child:
            (lost,) = of_child.wait_recorded().sids()
            os.kill(successor, signal.SIGKILL)
            cluster.wait_log(rf"\(pid {successor}\) was ended by SIGKILL")
            cluster.wait_log(f"pid {cluster.daemon.pid} serves again")
            wait_until("the pid file is the parent's", lambda: cluster.serving() == cluster.daemon.pid)
            assert erin.ssh(f"{login}@{NODE}.{cluster.name}", "echo back").ok().stdout == "back\n"
            assert cluster.wait_event("session.end", sid=lost)["reason"] == "node lost"
            cluster.wait_event("session.upload", sid=lost)
            assert "begin" in erin.tsh("play", lost, "--format=text").ok().stdout
        sessions.go_on()
        sessions.end()
    assert NODE in cluster.tctl("nodes", "ls").ok().stdout
    cluster.tctl("audit", "verify").ok()


def test_quit_alone_waits_for_clients_and_takes_no_new_ones(cluster: Restarting, erin: Person, login: str) -> None:
    with Sessions(cluster, erin, login).open(1) as sessions:
        cluster.signal(signal.SIGQUIT)
        cluster.wait_log("still running: ")
        refused = erin.ssh(f"{login}@{NODE}.{cluster.name}", "true")
        assert refused.status != 0
        assert "refused" in refused.stderr
        wait_until("the node is not listed", lambda: NODE not in cluster.tctl("nodes", "ls").stdout)
        sessions.go_on()
        sessions.stop_file.touch()
        for _, client, out in sessions.clients:
            assert client.wait(30) == 0
            check_counted(out.read_text())
    assert cluster.daemon.ended() == 0
    assert not cluster.pid_file.exists()
    cluster.daemon.start()
    cluster.tctl("audit", "verify").ok()


def test_usr1_tells_what_the_daemon_does_and_no_secret(cluster: Restarting, erin: Person, login: str) -> None:
    cluster.signal(signal.SIGUSR1)
    cluster.wait_log("task signals: ")
    log = cluster.daemon.log()
    for part in ("diagnostics of pid", f"node {at(cluster.node_port)}", "memory: VmHWM", "tasks ", "epoch: "):
        assert part in log
    assert re.search(r"caches: proxy cache [1-9]\d* items, node cache [1-9]\d* items", log)
    assert "PRIVATE KEY" not in log
    assert erin.totp_secret
    assert erin.totp_secret not in log
