"""A restart to another release: the program is a link to a folder of one, which is turned before the signal.

The other releases are copies of this one with another version, and with what a later one might change of the hand-over.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from tests.cluster.cluster_releases import Releases
from tests.cluster.cluster_restarting import Restarting
from tests.cluster.cluster_sessions import Sessions

from teleport import __version__
from teleport.testing.cluster import NODE, Person, wait_until

HANDOVER, RESTART = "daemon/restarts/handover.py", "daemon/restarts/child.py"
LATER = {  # one that hands over more, and reads this one
    HANDOVER: [
        ("FORMAT: Final = 1", "FORMAT: Final = 2"),
        ('about = {"format"', 'about = {"later": ["key"], "format"'),
    ],
    RESTART: [
        (
            "moved: list[int] = []",
            'moved: list[int] = []; later = Handed("teleport-later", NOWHERE, handed[-1].descriptor + 1, True)',
        ),
        ("describe(handed)", "describe([*handed, later])"),
        ("actions = [", "actions = [(os.POSIX_SPAWN_DUP2, moved[-1], later.descriptor), *["),
        ("zip(moved, handed, strict=True)]", "zip(moved, handed, strict=True)]]"),
    ],
}
STRANGE = {HANDOVER: [("OLDEST: Final = 1", "OLDEST: Final = 9"), ("FORMAT: Final = 1", "FORMAT: Final = 9")]}
DEMANDING = {HANDOVER: [("FORMAT: Final = 1", "FORMAT: Final = 2"), ("NEEDS: Final = 1", "NEEDS: Final = 2")]}


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    return Releases(tmp_path_factory.mktemp("releases") / "releases")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, releases: Releases) -> Iterator[Restarting]:
    with Restarting(tmp_path_factory.mktemp("released") / "cluster", releases.program) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def rhea(cluster: Restarting, login: str) -> Person:
    person = cluster.add_person("rhea", logins=[login])
    person.log_in()
    return person


def replaced(cluster: Restarting, version: str) -> None:
    """HUP to whoever serves leads to a process of this version."""
    former = cluster.serving()
    os.kill(former, signal.SIGHUP)
    wait_until("the pid file follows", lambda: cluster.serving() != former, 40)
    os.kill(cluster.serving(), signal.SIGUSR1)
    cluster.wait_log(rf"diagnostics of pid {cluster.serving()}: version: {version};")


def refused(cluster: Restarting, reason: str) -> None:
    """HUP to whoever serves changes nothing, and the log says why and what to do."""
    serving = cluster.serving()
    os.kill(serving, signal.SIGHUP)
    cluster.wait_log(rf"the new process failed, this one \(pid {serving}\) serves on: {reason}")
    assert cluster.serving() == serving


def test_a_release_that_understands_takes_over_and_one_that_does_not_leaves_it_serving(
    cluster: Restarting, releases: Releases, rhea: Person, login: str
) -> None:
    """To a newer one; back, though it hands over more than this one knows; to a strange one; from a demanding one."""
    releases.add("7.0.0", LATER)
    releases.add("8.0.0", STRANGE)
    releases.add("9.0.0", DEMANDING)
    target = f"{login}@{NODE}.{cluster.name}"
    with Sessions(cluster, rhea, login).open(1) as sessions:
        for version in ("7.0.0", __version__):
            releases.turn(version)
            replaced(cluster, version)
            assert rhea.ssh(target, "echo here").ok().stdout == "here\n"
        releases.turn("8.0.0")
        refused(
            cluster,
            f"release 8.0.0 cannot take over from a running {__version__} .*"
            "to run 8.0.0, stop this daemon and start that release: open sessions end then",
        )
        assert rhea.ssh(target, "echo here").ok().stdout == "here\n"
        releases.turn("9.0.0")
        replaced(cluster, "9.0.0")
        releases.turn(__version__)
        refused(cluster, f"release {__version__} cannot take over from a running 9.0.0 .*to run {__version__}, stop")
        assert rhea.ssh(target, "echo here").ok().stdout == "here\n"
        sessions.go_on()
        sessions.end()
    cluster.tctl("audit", "verify").ok()
