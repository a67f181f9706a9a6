"""Clocks that are off, with real daemons, real ssh and libfaketime: everybody reads that it is the clock."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.cluster_packages import install

from teleport.testing.cluster import BIN, NODE, Cluster, Host, Person, wait_until

PLACES = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/lib*/faketime/libfaketimeMT.so.1")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One of its own: its log gets events of times to come."""
    with Cluster(tmp_path_factory.mktemp("timely")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def alice(cluster: Cluster, login: str) -> Person:
    person = cluster.add_person("alice", logins=[login])
    person.log_in()
    return person


@pytest.fixture(scope="module")
def library() -> str:
    """libfaketime, installed by apt where that is possible."""

    def found() -> str:
        return next((str(path) for place in PLACES for path in Path("/").glob(place[1:])), "")

    if not found() and (why := install("faketime", "libfaketime")):
        pytest.skip(why)
    return found()


def shifted(library: str, by: str) -> dict[str, str]:
    return {"LD_PRELOAD": library, "FAKETIME": by, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def run_at(person: Person, library: str, by: str, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**person.environment, **shifted(library, by)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("by", ["-10m", pytest.param("-2d", marks=pytest.mark.long)])
def test_a_client_whose_clock_is_slow_reads_so(
    cluster: Cluster, alice: Person, login: str, library: str, by: str
) -> None:
    """tsh names the clock and by how much; ssh says that certificates are not valid yet."""
    done = run_at(alice, library, by, str(BIN / "tsh"), "ssh", f"{login}@{NODE}", "true")
    assert done.returncode == 255
    assert re.search(
        r"not valid before .* UTC, and the clock here says .* UTC: this clock or the cluster's is off by", done.stderr
    )
    assert "hint: check the clock of this machine (timedatectl)" in done.stderr
    plain = run_at(alice, library, by, *alice.ssh_arguments(f"{login}@{NODE}.{cluster.name}", "true"))
    assert (plain.returncode, "not yet valid" in plain.stderr) == (255, True)


@pytest.mark.parametrize("by", ["+10m", pytest.param("+2d", marks=pytest.mark.long)])
def test_a_client_whose_clock_is_fast_is_judged_by_the_cluster_s(
    cluster: Cluster, alice: Person, login: str, library: str, by: str
) -> None:
    """ssh looks at the host's certificate only; tsh also at its own, and says until when that is valid."""
    plain = run_at(alice, library, by, *alice.ssh_arguments(f"{login}@{NODE}.{cluster.name}", "true"))
    assert plain.returncode == 0, plain.stderr
    done = run_at(alice, library, by, str(BIN / "tsh"), "ssh", f"{login}@{NODE}", "true")
    if by == "+10m":
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 255
        assert re.search(r"your login expired at .* UTC", done.stderr)


@pytest.fixture(scope="module")
def odd(cluster: Cluster, alice: Person, tmp_path_factory: pytest.TempPathFactory, library: str) -> Iterator[Host]:
    """A host that has joined with a good clock, and is stopped."""
    folder = tmp_path_factory.mktemp("clocks")
    token = folder / "token"
    cluster.tctl("tokens", "add", "--type=node", f"--out={token}").ok()
    host = Host(folder / "odd", cluster.node_config("odd", auth_token=str(token), ca_pin=cluster.ca_pin()))
    with host:
        wait_until("odd in tsh ls", lambda: "odd" in alice.tsh("ls", "--format=names").ok().stdout.split())
        host.daemon.stop()
        yield host


def begun(host: Host, library: str, by: str) -> int:
    """Starts the host at another time; how long its log was before."""
    before = len(host.daemon.log())
    host.daemon.environment.update(shifted(library, by))
    host.daemon.begin()
    return before


@pytest.mark.parametrize(("by", "why"), [("-2h", "is not valid yet"), ("+100d", "has expired")])
def test_a_host_that_believes_no_certificate_by_its_clock_says_what_its_clock_says(
    odd: Host, library: str, by: str, why: str
) -> None:
    before = begun(odd, library, by)
    try:
        said = rf"its certificate {why} by the clock of this host, which says \d{{4}}-\d\d-\d\d .* UTC: if"
        wait_until("the log names the clock", lambda: re.search(said, odd.daemon.log()[before:]))
    finally:
        odd.daemon.stop()
    assert "Traceback" not in odd.daemon.log()[before:]


@pytest.mark.parametrize("by", [pytest.param("+2h", marks=pytest.mark.long), "+90s"])
def test_a_host_whose_clock_is_off_lets_nobody_in_and_says_why(
    cluster: Cluster, alice: Person, login: str, odd: Host, library: str, by: str
) -> None:
    """Its certificates are good still, but what the proxy says of clients is of another time: closed, and understood
    by ssh and tsh without a log."""
    begun(odd, library, by)
    told = "The clocks of the proxy ("
    try:
        wait_until("odd in tsh ls", lambda: "odd" in alice.tsh("ls", "--format=names").ok().stdout.split())
        plain = alice.ssh(f"{login}@odd.{cluster.name}", "true")
        assert (plain.status, told in plain.stderr) == (255, True), plain
        assert "timedatectl" in plain.stderr
        done = alice.tsh("ssh", f"{login}@odd", "true")
        assert (done.status, told in done.stderr) == (255, True), done
        denied = wait_until(
            "it is on record",
            lambda: [one for one in cluster.events("--type=auth") if "the vouch is of" in one["error"]],
        )
        assert denied[0]["server_hostname"] == "odd"
    finally:
        odd.daemon.stop()
