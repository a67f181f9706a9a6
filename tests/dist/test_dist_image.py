"""The image of packaging/Containerfile, built by podman out of what `make dist` writes, and run: as process 1, as no
account of the host, over a root that cannot be written.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripts.dist import image
from scripts.dist.locked import ROOT
from tests.cluster.cluster_sessions import Newcomers, Sessions
from tests.dist.containers import DATA, ContainedCluster, Engine, engine

from teleport.testing.cluster import NODE, descendants, wait_until

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
NAME = "localhost/teleport:test"


@pytest.fixture(scope="module")
def podman(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine(tmp_path_factory.mktemp("podman") / "engine") as made:
        if isinstance(made, str):
            pytest.skip(made)
        made.build(NAME, ROOT / "packaging" / "Containerfile", dist)
        yield made


@pytest.fixture(scope="module")
def cluster(podman: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContainedCluster]:
    with ContainedCluster(tmp_path_factory.mktemp("image") / "cluster", podman, NAME) as cluster:
        yield cluster


def test_it_has_no_base_and_runs_what_is_asked(podman: Engine) -> None:
    """The three commands, `sh`, and none of what a distribution has; and it says so in its own list."""
    for program in ("teleport", "tctl", "tsh"):
        assert podman.run("--rm", f"--entrypoint={program}", NAME, "version").ok().stdout.startswith("Teleport v")
    found = podman.run(
        "--rm", "--entrypoint=sh", NAME, "-c", "echo /bin/* /etc/*; command -v apt dpkg su passwd || true"
    )
    bins = {Path(one).name for one in found.ok().stdout.split() if one.startswith("/bin/")}
    assert bins == {*image._APPLETS, "busybox"}
    assert not re.search(r"^/.*(apt|dpkg|su|passwd)$", found.stdout.partition("\n")[2], re.MULTILINE)
    script = "import ssl; print(len(ssl.create_default_context().get_ca_certs()))"
    python = "/usr/local/lib/teleport/current/bin/python"
    assert int(podman.run("--rm", f"--entrypoint={python}", NAME, "-c", script).ok().stdout) > 50


def test_it_is_nobody_of_the_host_and_writes_to_its_volume_alone(cluster: ContainedCluster) -> None:
    contained = cluster.contained
    status = Path(f"/proc/{contained.pid}/status").read_text()
    owner = f"{image.OWNER}\t{image.OWNER}\t{image.OWNER}\t{image.OWNER}"
    assert f"Uid:\t{owner}\n" in status
    assert f"Gid:\t{owner}\n" in status
    assert "CapEff:\t0000000000000000\n" in status
    kept = contained.exec("sh", "-c", f"ls -ldn {DATA}").ok().stdout.split()
    assert (kept[0], kept[2], kept[3]) == ("drwx------", str(image.OWNER), str(image.OWNER))
    for place in ("/x", "/etc/x", "/usr/local/lib/teleport/x", "/var/lib/x"):
        assert "Read-only file system" in contained.exec("sh", "-c", f": > {place}").stderr, place


def test_the_health_of_it_is_asked_by_a_command_in_it(cluster: ContainedCluster) -> None:
    """0 where it serves, 6 where nobody answers: what an engine and a pod go by."""
    contained = cluster.contained
    assert contained.exec("teleport", "healthcheck").ok().stdout == "ok\n"
    assert contained.exec("teleport", "healthcheck", "--diag-addr=127.0.0.1:1").status == 6


def test_hup_keeps_sessions_and_nothing_is_left_of_those_that_ended(cluster: ContainedCluster, login: str) -> None:
    """The configuration is what changed; process 1 stays, and reaps."""
    contained = cluster.contained
    first, erin = contained.pid, cluster.add_person("erin", logins=[login])
    erin.log_in()
    assert contained.exec("ps").ok().stdout.splitlines()[1].split()[0] == "1"
    before = descendants(first)
    with Sessions(cluster, erin, login).open(2) as sessions:
        coming = Newcomers(erin, login, 8, at_once=2)
        contained.signal(signal.SIGHUP)
        wait_until("another one is ready", lambda: "the new process is ready" in contained.log(), 60)
        coming.join()
        assert coming.failures == []
        sessions.go_on()
        sessions.end()
    wait_until("the old one has ended", lambda: before[0] not in descendants(first), 60)
    assert contained.pid == first
    assert contained.state() == "running"
    wait_until("all are reaped", lambda: "Z" not in {_state(pid) for pid in descendants(first)})
    assert erin.ssh(f"{login}@{NODE}.{cluster.name}", "echo after").ok().stdout == "after\n"


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


def test_term_ends_it_at_once_and_its_volume_serves_the_next(cluster: ContainedCluster) -> None:
    contained, pin = cluster.contained, cluster.ca_pin()
    contained.signal(signal.SIGTERM)
    assert contained.ended() == 0
    assert "Traceback" not in contained.log()
    contained.abandon()
    contained.start()
    assert pin in cluster.tctl("status").ok().stdout
    cluster.tctl("audit", "verify").ok()
