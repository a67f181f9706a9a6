"""kill -9 of the daemon in the middle of a session: what was recorded is kept, what ran is gone (threat T41)."""

from __future__ import annotations

import os
import random
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.cluster_accounts import UnixAccount

from teleport.testing.cluster import NODE, Cluster, Host, Person, processes_with, wait_until

ACKNOWLEDGED = 1.0  # seconds: what is older than this is on disk
SLACK = 0.5  # seconds that a busy machine may be late

# Prints a number and the time, again and again.
TICKER = "import itertools, time; any(print(n, time.time(), flush=True) or time.sleep(0.01) for n in itertools.count())"


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("mortal")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def login(request: pytest.FixtureRequest, login: str) -> str:
    """An account with an empty home, where no login shell reads or starts what hangs; without root, our own."""
    if os.geteuid() != 0:
        return login
    account: UnixAccount = request.getfixturevalue("unix_account")
    return account.name


@pytest.fixture(scope="module")
def erin(mortal: Cluster, login: str) -> Person:
    person = mortal.add_person("erin", logins=[login])
    person.log_in()
    return person


def check_killed(
    mortal: Cluster,
    erin: Person,
    login: str,
    moment: float,
    *,
    terminal: bool,
    host: Host | None = None,
    name: str = NODE,
) -> None:
    """Kills the daemon that runs the session, the cluster's own or another host's, `moment` seconds after the session's
    first output."""
    host = host or mortal
    marker = f"marker-{uuid.uuid4()}"
    ticker = f"python3 -c '{TICKER}' {marker}"
    # one process in the background, out of the session's process group and terminal
    command = f"setsid {ticker} >/dev/null 2>&1 & exec {ticker}"
    arguments = erin.ssh_arguments(*(["-tt"] if terminal else []), f"{login}@{name}.{mortal.name}", command)
    output = mortal.folder / f"{marker}.out"
    with output.open("wb") as file:
        client = subprocess.Popen(
            arguments, env=erin.environment, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.DEVNULL
        )
    try:
        wait_until("the session's first output", lambda: output.stat().st_size > 0)
        time.sleep(moment)
        killed = time.time()
        host.daemon.kill()
        wait_until("the session's processes are gone", lambda: running(marker, client.pid) == [])
    finally:
        client.kill()
        client.wait()
        host.daemon.start()

    sid = str(mortal.wait_event("session.start", initial_command=[command])["sid"])
    end = mortal.wait_event("session.end", sid=sid)
    assert end["reason"]
    mortal.wait_event("session.upload", sid=sid)
    ends = [event for event in mortal.events("--type=session.end") if event["sid"] == sid]
    assert len(ends) == 1
    played = erin.tsh("play", sid, "--format=text").ok().stdout
    check_recorded(played, until=killed - ACKNOWLEDGED - SLACK)
    proved = mortal.tctl("audit", "verify")
    assert proved.status == 0, proved.stdout
    erin.tsh("ssh", f"{login}@{name}", "true").ok()


def running(marker: str, client: int) -> list[int]:
    """Processes with the marker that are not of the client's side."""
    return [pid for pid in processes_with(marker) if pid != client and not is_client(pid)]


def is_client(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ssh\0")
    except OSError:
        return False


def check_recorded(played: str, *, until: float) -> None:
    """The recording begins with the first line, skips none, and has every line up to a time."""
    lines = [line.split() for line in played.splitlines() if line]
    whole = [(int(line[0]), float(line[1])) for line in lines if len(line) == 2 and "." in line[1]]
    assert [number for number, _ in whole] == list(range(len(whole)))
    # the line after the last whole one would have come a moment later
    last = whole[-1][1] if whole else 0.0
    assert last >= until or until < (whole[0][1] if whole else float("inf")), (last, until)


@pytest.mark.parametrize(
    ("moment", "terminal"),
    [
        pytest.param(0.0, False, id="at once"),
        pytest.param(0.7, True, id="at a terminal"),
        pytest.param(2.2, False, id="later", marks=pytest.mark.long),
    ],
)
def test_what_was_acknowledged_plays_and_ends_once_and_nothing_runs_on(
    mortal: Cluster, erin: Person, login: str, moment: float, terminal: bool
) -> None:
    check_killed(mortal, erin, login, moment, terminal=terminal)


def test_a_host_that_is_killed_while_auth_lives_keeps_its_sessions_evidence(
    mortal: Cluster, erin: Person, login: str, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    mortal.tctl("tokens", "add", "--type=node", f"--out={token}").ok()
    config = mortal.node_config("bravo", auth_token=str(token), ca_pin=mortal.ca_pin())
    with Host(tmp_path / "bravo", config) as host:
        wait_until("bravo is listed", lambda: "bravo" in erin.tsh("ls", "--format=names").ok().stdout.split())
        check_killed(mortal, erin, login, 1.3, terminal=False, host=host, name="bravo")


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10))
def test_at_any_moment(mortal: Cluster, erin: Person, login: str, seed: int) -> None:
    dice = random.Random(seed)
    check_killed(mortal, erin, login, dice.uniform(0, 3), terminal=dice.random() < 0.5)
