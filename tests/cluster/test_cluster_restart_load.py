"""Restarts to another release under load: every module of it is another one, and nobody notices.

Sessions print numbered lines, a large file is on its way, clients knock at every port all the time, and a connection
that did nothing yet is used for the first time when the release that serves it is not the current one any more.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.cluster.cluster_releases import Releases
from tests.cluster.cluster_restarting import Restarting
from tests.cluster.cluster_sessions import Newcomers, Sessions
from tests.cluster.restart_load import Copy, Knocks, Unused, Watched

from teleport import __version__
from teleport.testing import etcd
from teleport.testing.cluster import NODE, Person, alive, wait_until

NEXT = "99.1.2"
SHOWN = 9_000_000  # bytes of what a recording that is played shows: more than is on its way to a player at once


@dataclass(frozen=True)
class Load:
    """How much of it."""

    sessions: int
    every: float  # seconds between two lines of one
    knocks: int
    clients: int  # of OpenSSH and tsh
    mebibytes: int
    limit: int  # KiB a second; 0 for as fast as it goes
    patience: float  # seconds for the copy


SHORT = Load(sessions=10, every=0.1, knocks=100, clients=10, mebibytes=64, limit=16 << 10, patience=60.0)
FULL = Load(sessions=200, every=1.0, knocks=2000, clients=400, mebibytes=5 << 10, limit=0, patience=1800.0)
LOADS = [
    pytest.param(SHORT, id="short", marks=pytest.mark.timeout(300)),  # of which a busy machine may need most
    pytest.param(FULL, id="full", marks=[pytest.mark.long, pytest.mark.timeout(3600)]),
]


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    releases = Releases(tmp_path_factory.mktemp("changed") / "releases")
    assert releases.add_changed(NEXT) > 500
    return releases


@contextmanager
def served(folder: Path, releases: Releases, storage: str) -> Iterator[Restarting]:
    releases.turn(__version__)
    with ExitStack() as stack:
        settings = None
        if storage == "etcd":
            if etcd.program() is None:
                pytest.skip(etcd.MISSING)
            (folder / "etcd").mkdir()
            servers = stack.enter_context(etcd.EtcdCluster(folder / "etcd"))
            settings = {"type": "etcd", "peers": list(servers.urls), "insecure": True}
        authentication = {"type": "local", "second_factor": "off"}
        cluster = Restarting(folder / "cluster", releases.program, storage=settings, authentication=authentication)
        stack.enter_context(cluster)
        yield cluster


def followed(cluster: Restarting, number: int, version: str) -> int:
    """The pid of the process of this release that serves once whoever serves got this signal."""
    former = cluster.serving()
    os.kill(former, number)
    wait_until("the pid file follows", lambda: cluster.serving() != former, 120)
    os.kill(cluster.serving(), signal.SIGUSR1)
    cluster.wait_log(rf"diagnostics of pid {cluster.serving()}: version: {re.escape(version)};")
    return cluster.serving()


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("storage", ["sqlite", "etcd"])
def test_another_release_takes_over_under_load(
    tmp_path: Path, releases: Releases, login: str, storage: str, load: Load
) -> None:
    """USR2 and TERM to the child; HUP under load; USR2 back to the first release, and QUIT."""
    with served(tmp_path, releases, storage) as cluster:
        erin = cluster.add_person("erin", logins=[login])
        erin.log_in()
        target = f"{login}@{NODE}.{cluster.name}"
        first = cluster.serving()
        with Sessions(cluster, erin, login).open(load.sessions, every=load.every) as sessions:
            releases.turn(NEXT)
            given_back(cluster, sessions)
            assert erin.ssh(target, "echo parent").stdout == "parent\n"
            under_load(cluster, erin, login, load, sessions)
            assert cluster.daemon.ended(60) == 0
        assert not alive(first)
        releases.turn(__version__)
        left_to_the_child(cluster, erin, login)
        cluster.tctl("audit", "verify", seconds=300).ok()
        assert erin.ssh(target, "echo after").stdout == "after\n"


def given_back(cluster: Restarting, sessions: Sessions) -> None:
    """USR2, then TERM to the child: the parent serves alone, as before."""
    child = followed(cluster, signal.SIGUSR2, NEXT)
    os.kill(child, signal.SIGTERM)
    cluster.wait_log(f"pid {cluster.daemon.pid} serves again")
    wait_until("the pid file is the parent's", lambda: cluster.serving() == cluster.daemon.pid)
    wait_until("the child is gone", lambda: not alive(child))
    sessions.go_on()


def under_load(cluster: Restarting, erin: Person, login: str, load: Load, sessions: Sessions) -> None:
    """HUP while all of it goes on; returns when the last client of the former process has left."""
    target = f"{login}@{NODE}.{cluster.name}"
    former = cluster.serving()
    with ExitStack() as stack:
        unused = stack.enter_context(Unused(erin, target, cluster.folder))
        sid, shown = shown_much(cluster, erin, target)
        watched = stack.enter_context(Watched(erin, sid))
        played = hashlib.sha256(b"".join(shown.split())).hexdigest()
        copy = stack.enter_context(Copy(erin, target, cluster.folder, load.mebibytes, limit=load.limit))
        wait_until("the copy moves", lambda: copy.moved > 0, 60)
        with Knocks(cluster) as knocks:
            coming = Newcomers(erin, login, load.clients, at_once=2)
            wait_until("some come before", lambda: knocks.done > 20 and coming.done > 1, 120)
            before = knocks.done
            began = time.monotonic()
            followed(cluster, signal.SIGHUP, NEXT)
            cluster.wait_log("still running: ")
            took, during, moved = time.monotonic() - began, knocks.done - before, copy.moved
            assert copy.client.poll() is None, "the copy was over before the restart"
            copy.go_on()
            wait_until("all have come", lambda: knocks.done - before >= load.knocks, 600)
        assert knocks.failures == []
        unused.use()
        assert watched.go_on() == (played, played)
        coming.join()
        assert coming.failures == []
        assert coming.done == load.clients
        assert alive(former)
        copied = copy.check(load.patience)
        sessions.go_on()
        sessions.end_many()
    print(
        f"{len(sessions.clients)} sessions without a gap in {sum(sessions.lines())} lines; HUP took {took:.1f} s, in "
        f"which {during} of {knocks.done} connections were made ({dict(knocks.answered)}) and 0 refused; "
        f"0 of {coming.done} ssh and tsh failed; {load.mebibytes} MiB copied in {copied:.1f} s, {moved >> 20} of them "
        "before the restart was over, with one hash",
        file=sys.stderr,
    )


def shown_much(cluster: Restarting, erin: Person, target: str) -> tuple[str, bytes]:
    """The id of a recorded session, and what it showed."""
    tag = f"shown-{os.getpid()}"
    shown = erin.ssh(target, f"head -c {SHOWN} /dev/urandom | base64 -w 76; echo {tag}", seconds=120).ok().out
    (start,) = [one for one in cluster.events("--type=session.start") if tag in " ".join(one["initial_command"])]
    cluster.wait_event("session.upload", sid=start["sid"])
    return str(start["sid"]), shown


def left_to_the_child(cluster: Restarting, erin: Person, login: str) -> None:
    """USR2, then QUIT to the parent: it ends with its last session, and the child serves."""
    parent = cluster.serving()
    with Sessions(cluster, erin, login).open(2) as sessions:
        child = followed(cluster, signal.SIGUSR2, __version__)
        with Knocks(cluster) as knocks:
            os.kill(parent, signal.SIGQUIT)
            wait_until("some come", lambda: knocks.done > 30, 60)
            sessions.go_on()
            assert alive(parent)
            sessions.end_many()
            wait_until("the parent is gone", lambda: not alive(parent), 60)
        assert knocks.failures == []
    assert cluster.serving() == child
