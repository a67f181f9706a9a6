"""kill -9 of the older process of a restart, or of both: whoever is left serves on, and nothing on record is lost.

That the newer one may be killed is in `test_cluster_restart`.
"""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.cluster_restarting import Restarting
from tests.cluster.cluster_sessions import Sessions

from teleport.testing.cluster import NODE, Person, alive, descendants, wait_until


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("orphaned")


@pytest.fixture
def cluster(folder: Path) -> Iterator[Restarting]:
    """The same cluster for all tests here, in a daemon of its own for each."""
    with Restarting(folder / "cluster") as cluster:
        yield cluster


@pytest.fixture
def otto(cluster: Restarting, login: str) -> Person:
    person = cluster.add_person(f"otto{uuid.uuid4().hex[:8]}", logins=[login])
    person.log_in()
    return person


def check_recovered(cluster: Restarting, person: Person, sid: str) -> None:
    """The recording of a killed process: ended, uploaded, and its beginning can be played."""
    # the second: by the next process, since the one that ended the recording was killed, too, before it told of it
    assert cluster.wait_event("session.end", 60, sid=sid)["reason"] in ("node lost", "daemon restarted")
    cluster.wait_event("session.upload", sid=sid)
    assert "begin" in person.tsh("play", sid, "--format=text").ok().stdout


def check_serves(cluster: Restarting, person: Person, login: str, pid: int) -> None:
    """This process takes connections, writes to the embedded database, and signs the log again."""
    assert cluster.serving() == pid
    assert person.ssh(f"{login}@{NODE}.{cluster.name}", "echo here").ok().stdout == "here\n"
    assert NODE in cluster.tctl("nodes", "ls").ok().stdout
    cluster.add_person(f"new{uuid.uuid4().hex[:8]}", logins=[login])
    cluster.tctl("audit", "verify").ok()


def test_a_parent_killed_after_usr2_leaves_the_host_to_the_child(cluster: Restarting, otto: Person, login: str) -> None:
    with Sessions(cluster, otto, login).open(1) as sessions:
        (lost,) = sessions.wait_recorded().sids()
        cluster.signal(signal.SIGUSR2)
        successor = cluster.wait_successor()
        below = [pid for pid in descendants(cluster.daemon.pid) if pid not in (successor, *descendants(successor))]
        cluster.kill_parent()
        cluster.wait_log("the process that started this one has ended")
        wait_until("what the parent ran is gone", lambda: not any(map(alive, below)))
        check_recovered(cluster, otto, lost)
        check_serves(cluster, otto, login, successor)
    # it is the only one now: it can be replaced, and the next one follows it
    os.kill(successor, signal.SIGHUP)
    wait_until("the pid file follows", lambda: cluster.serving() != successor, 40)
    wait_until("the replaced one is gone", lambda: not alive(successor))
    check_serves(cluster, otto, login, cluster.serving())


@pytest.mark.long
def test_a_parent_killed_while_it_leaves_loses_its_own_sessions_only(
    cluster: Restarting, otto: Person, login: str
) -> None:
    with Sessions(cluster, otto, login).open(1) as of_parent:
        (lost,) = of_parent.wait_recorded().sids()
        cluster.signal(signal.SIGHUP)
        successor = cluster.wait_successor()
        cluster.wait_log("still running: ")
        with Sessions(cluster, otto, login).open(2) as of_child:
            cluster.kill_parent()
            check_recovered(cluster, otto, lost)
            of_child.go_on()
            check_serves(cluster, otto, login, successor)
            of_child.end()


@pytest.mark.long
def test_a_parent_killed_while_its_child_starts_is_followed_by_it(
    cluster: Restarting, otto: Person, login: str
) -> None:
    with Sessions(cluster, otto, login).open(1) as sessions:
        (lost,) = sessions.wait_recorded().sids()
        former = cluster.daemon.pid
        known = descendants(former)
        cluster.signal(signal.SIGHUP)
        (child,) = wait_until(
            "a child is started", lambda: [pid for pid in _children(former) if pid not in known] or None
        )
        cluster.kill_parent()
        wait_until("the pid file is the child's", lambda: cluster.serving() == child, 40)
        check_recovered(cluster, otto, lost)
        check_serves(cluster, otto, login, child)


@pytest.mark.long
def test_both_killed_are_followed_by_the_next_start(cluster: Restarting, otto: Person, login: str) -> None:
    with Sessions(cluster, otto, login).open(1) as of_parent:
        cluster.signal(signal.SIGHUP)
        successor = cluster.wait_successor()
        cluster.wait_log("still running: ")
        with Sessions(cluster, otto, login).open(1) as of_child:
            lost = [*of_parent.wait_recorded().sids(), *of_child.wait_recorded().sids()]
            below = [successor, *descendants(successor), *descendants(cluster.daemon.pid)]
            cluster.kill_parent()
            os.kill(successor, signal.SIGKILL)
            wait_until("nothing is left of them", lambda: not any(map(alive, below)))
            cluster.start_again()
            for sid in lost:
                check_recovered(cluster, otto, sid)
            check_serves(cluster, otto, login, cluster.daemon.pid)


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
