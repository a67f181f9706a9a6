"""The daemon as process 1 of a container: replaced by HUP under open sessions, and the container goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.cluster_sessions import Newcomers, Sessions

from teleport.testing.cluster import BIN, NODE, Cluster, DaemonProcess, Person, descendants, run, wait_until

# Processes of its own, as a container has; files and network are this machine's.
CONTAINER = f'#!/bin/sh\nexec unshare --pid --fork --kill-child --mount-proc {BIN}/teleport "$@"\n'


class Contained(DaemonProcess):
    """A daemon whose first process is process 1 of a PID namespace."""

    @property
    def first(self) -> int:
        return descendants(self.pid)[0]

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.first, number)

    def stop(self, seconds: float = 20.0) -> None:
        """TERM to process 1, as whoever runs containers stops one."""
        self.signal(signal.SIGTERM)
        assert self.ended(seconds) == 0, self.log()
        assert "Traceback" not in self.log(), self.log()


class InContainer(Cluster):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        program = folder / "contained"
        program.write_text(CONTAINER)
        program.chmod(0o755)
        self.contained = self.daemon = Contained(
            folder,
            ["--config", self.config_path, "--pid-file", folder / "teleport.pid"],
            diag_port=self.diag_port,
            program=program,
        )

    def serving(self) -> str:
        """The pid of the process that serves, as it is inside."""
        file = self.folder / "teleport.pid"
        return wait_until("a process serves", lambda: file.read_text().strip() if file.exists() else None)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InContainer]:
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes a PID namespace")
    if (probe := run("unshare", "--pid", "--fork", "true", environment=os.environ)).status:
        pytest.skip(f"no PID namespace can be made here: {probe.stderr.strip()}")
    with InContainer(tmp_path_factory.mktemp("contained") / "cluster") as cluster:
        yield cluster


def zombies(pid: int) -> list[int]:
    """Processes below one that nobody has reaped."""

    def is_one(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except FileNotFoundError:
            return False

    return [one for one in descendants(pid) if is_one(one)]


def test_a_configuration_that_is_wrong_leaves_the_one_that_serves(cluster: InContainer) -> None:
    """And HUP goes to it again, once it is mended."""
    first, good = cluster.serving(), cluster.config_path.read_text()
    cluster.config_path.write_text(good.replace("ssh_service:", "ssh_servise:"))
    cluster.contained.signal(signal.SIGHUP)
    wait_until("the log says why", lambda: "ssh_servise" in cluster.daemon.log(), 40)
    assert cluster.serving() == first
    cluster.config_path.write_text(good)
    cluster.contained.signal(signal.SIGHUP)
    wait_until("another one serves", lambda: cluster.serving() != first, 40)
    cluster.tctl("status").ok()


def test_a_start_that_fails_ends_the_container_with_its_status(cluster: InContainer) -> None:
    """With the words and the status of a start elsewhere."""
    program = [str(cluster.folder / "contained"), "start", "--config", str(cluster.config_path)]
    refused = run(*program, environment=cluster.contained.environment)
    assert refused.status == 4
    assert "another daemon uses data_dir" in refused.stderr


def check_nothing_leaks(cluster: InContainer, erin: Person, login: str) -> None:
    """A session has its own three descriptors, and neither the pipe to process 1 nor anything else of the daemon."""
    seen = erin.ssh(f"{login}@{NODE}.{cluster.name}", "ls /proc/self/fd").ok().stdout.split()
    assert set(seen) <= {"0", "1", "2", "3"}, seen  # the last one is the folder that it lists


def test_hup_replaces_the_daemon_and_the_container_goes_on(cluster: InContainer, login: str) -> None:
    """Twice while the first one still has its session: each HUP goes to the newest. Nobody is cut off or refused."""
    erin = cluster.add_person("erin", logins=[login])
    erin.log_in()
    served = [cluster.serving()]
    assert served != ["1"]
    check_nothing_leaks(cluster, erin, login)
    with Sessions(cluster, erin, login).open(2) as sessions:
        coming = Newcomers(erin, login, 12, at_once=2)
        for _ in range(2):
            cluster.contained.signal(signal.SIGHUP)
            wait_until("another one serves", lambda: cluster.serving() not in served, 40)
            served.append(cluster.serving())
        coming.join()
        assert coming.failures == []
        sessions.go_on()
        sessions.end()
    wait_until("the older ones have ended", lambda: cluster.daemon.log().count("the last client has left") >= 2, 60)
    check_nothing_leaks(cluster, erin, login)
    wait_until("all are reaped", lambda: zombies(cluster.contained.first) == [])
    with Sessions(cluster, erin, login).open(1) as leaving:
        cluster.contained.signal(signal.SIGQUIT)
        wait_until("it leaves", lambda: "still running: " in cluster.daemon.log().rpartition("last client")[2], 30)
        leaving.go_on()
        leaving.stop()
    assert cluster.contained.ended(60) == 0
    cluster.daemon.start()
    cluster.tctl("audit", "verify").ok()
