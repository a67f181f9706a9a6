"""kill -9 of every process at random moments, under work: what was acknowledged is there (threats T41, T46).

The checker is shown to fail first, on what the very same run left behind: a lost event, a lost write, a cut recording.
"""

from __future__ import annotations

import copy
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.cluster_accounts import unix_account
from tests.cluster.survival_workload import Worked, Workload

from teleport.testing.cluster import Host, alive, descendants, wait_until
from teleport.testing.survival import Evidence, Ledger, problems, recorded_output

GONE = 15.0  # seconds until nothing of a killed daemon's sessions may be left
DELIVERED = 60.0  # seconds for what waits on disk after the last kill
PROVED_EVERY = 40  # kills


@pytest.fixture(scope="module")
def account(login: str) -> Iterator[str]:
    """Whose sessions are killed: another account's where that is possible. Killing what a person's own shell runs when
    it starts can leave that person's files locked."""
    if os.geteuid() != 0:
        yield login
        return
    with unix_account() as made:
        yield made.name


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory, account: str) -> tuple[Ledger, Evidence]:
    """A few kills of each sort, in three daemons."""
    return survive(tmp_path_factory.mktemp("survival"), account, kills=5, apart=True, seed=1)


def test_nothing_that_was_acknowledged_is_lost_to_kills(short: tuple[Ledger, Evidence]) -> None:
    ledger, evidence = short
    assert problems(ledger, evidence) == []
    assert ledger.writes
    assert ledger.logins
    assert ledger.joins
    assert [session for session in ledger.sessions if session.finished]
    assert [session for session in ledger.sessions if not session.finished and session.seen]


def test_the_checker_finds_each_lost_event(short: tuple[Ledger, Evidence]) -> None:
    ledger, evidence = short
    for kind in ("role.created", "user.login", "cert.create", "host.join", "session.start", "session.end"):
        planted = copy.copy(evidence)
        # the newest one of a thing that was acknowledged; some happened without a client that was told
        lost = [event for event in evidence.events if event["event"] == kind][-1]
        planted.events = [event for event in evidence.events if event is not lost]
        assert any(line.startswith("lost event") for line in problems(ledger, planted)), kind


def test_the_checker_finds_an_event_lost_from_the_end_of_its_chain(short: tuple[Ledger, Evidence]) -> None:
    """No gap shows it: only the ledger knows that it was acknowledged."""
    ledger, evidence = short
    role = next(iter(ledger.writes))
    planted = copy.copy(evidence)
    planted.events = [
        {**event, "name": "another", "event": "role.created.other"} if event.get("name") == role else event
        for event in evidence.events
    ]
    assert f"lost event: role.created of {role}" in problems(ledger, planted)


def test_the_checker_finds_a_lost_write_and_one_put_back(short: tuple[Ledger, Evidence]) -> None:
    ledger, evidence = short
    role = next(iter(ledger.writes))
    planted = copy.copy(evidence)
    planted.items = {key: value for key, value in evidence.items.items() if key != f"roles/{role}"}
    assert any(line.startswith(f"lost write: role {role}") for line in problems(ledger, planted))
    older = evidence.items[f"roles/{role}"].replace(ledger.writes[role].encode(), b"an older text")
    planted.items = {**evidence.items, f"roles/{role}": older}
    assert problems(ledger, planted) == [f"lost write: role {role} is not as it was acknowledged"]


def test_the_checker_finds_a_recording_that_was_cut(short: tuple[Ledger, Evidence]) -> None:
    """At the end of a finished session, in the middle of one that was cut off, and one that is gone."""
    ledger, evidence = short
    tags = {
        session.tag: session
        for session in ledger.sessions
        if session.finished or (session.seen.splitlines()[0:1] and _first_time(session.seen) < session.acknowledged)
    }
    found = set()
    for start in (event for event in evidence.events if event["event"] == "session.start"):
        sid, command = start["sid"], " ".join(start["initial_command"])
        session = next((session for tag, session in tags.items() if tag in command), None)
        whole = evidence.recordings[sid]
        if session is None or not isinstance(whole, bytes) or session.finished in found:
            continue
        found.add(session.finished)
        planted = copy.copy(evidence)
        keep = whole[:-1] if session.finished else b"".join(whole.splitlines(keepends=True)[:1])
        planted.recordings = {**evidence.recordings, sid: keep}
        assert [line[:11] for line in problems(ledger, planted)] == ["lost output"]
        planted.recordings = {name: data for name, data in evidence.recordings.items() if name != sid}
        assert [line[:14] for line in problems(ledger, planted)] == ["lost recording"]
    assert True in found


def test_a_truncated_recording_file_is_not_believed(tmp_path: Path) -> None:
    """What is read from the disk is read with its chain: a file that merely stops is no recording."""
    vector = (Path(__file__).parent.parent / "vectors" / "recording" / "version-1.rec").read_bytes()
    path = tmp_path / "cut.rec"
    path.write_bytes(vector[: len(vector) // 2])
    found = recorded_output(path)
    assert isinstance(found, str)
    assert found.startswith("broken")


@pytest.mark.long
@pytest.mark.parametrize(("apart", "kills"), [(True, 140), (False, 60)], ids=["three daemons", "all in one"])
def test_two_hundred_kills(tmp_path: Path, account: str, apart: bool, kills: int) -> None:
    ledger, evidence = survive(tmp_path, account, kills=kills, apart=apart, seed=random.randrange(2**32))
    assert problems(ledger, evidence) == []


def _first_time(seen: bytes) -> float:
    words = seen.splitlines()[0].split()
    return float(words[1]) if len(words) == 2 else float("inf")


def survive(folder: Path, login: str, *, kills: int, apart: bool, seed: int) -> tuple[Ledger, Evidence]:
    """A cluster under work of which `kills` processes are killed; what it acknowledged, and what it left on disk."""
    dice, ledger = random.Random(seed), Ledger()
    began = time.monotonic()
    with Worked(folder, login, apart=apart) as worked:
        victims = ["auth", "node", "launcher", "proxy", "all"] if apart else ["auth", "launcher"]
        with Workload(worked, ledger) as work:
            for number in range(kills):
                victim = victims[number % len(victims)] if number < len(victims) else dice.choice(victims)
                time.sleep(dice.choice((dice.uniform(0, 0.5), dice.uniform(0, 1.2), dice.uniform(0, 4.5))))
                strike(worked, work, victim)
                if number % PROVED_EVERY == PROVED_EVERY - 1:
                    prove(worked)
            time.sleep(1.0)  # the work goes on after the last one
        settle(worked, ledger)
        prove(worked)
    print(
        f"{kills} kills (seed {seed}) in {time.monotonic() - began:.0f} s: {ledger.summary()}",
        file=sys.stderr,
    )
    return ledger, Evidence.read(worked.auth.data_dir, worked.data_dirs)


def strike(worked: Worked, work: Workload, victim: str) -> None:
    """Kills, looks that nothing of a session is left, starts again and waits until all serve."""
    hosts = list(worked.hosts.values()) if victim == "all" else [worked.hosts.get(victim, worked.node)]
    cuts = victim in ("launcher", "all") or worked.node in hosts
    below = [pid for host in hosts for pid in descendants(host.daemon.pid)]
    sessions = work.processes() if cuts else []
    if cuts:
        work.node_killed.append(time.time())
    if victim == "launcher":
        os.kill(launcher_of(worked.node), signal.SIGKILL)
        assert worked.node.daemon.ended() != 0, "a daemon without its launcher goes on"
    else:
        for host in hosts:
            host.daemon.abandon()
    left = {*below, *sessions}
    wait_until(f"nothing of the killed {victim} is left", lambda: not any(map(alive, left)), GONE)
    for host in hosts:
        host.daemon.begin()
    for host in hosts:
        wait_until(f"ready again after the kill of {victim}", host.daemon.ready, 40.0)


def launcher_of(host: Host) -> int:
    """The process that the daemon forked before anything else."""
    return min(int(pid) for pid in Path(f"/proc/{host.daemon.pid}/task/{host.daemon.pid}/children").read_text().split())


def settle(worked: Worked, ledger: Ledger) -> None:
    """Waits until what lay in spools when the work ended has been taken in."""

    def delivered() -> bool:
        evidence = Evidence.read(worked.auth.data_dir, worked.data_dirs)
        return not [line for line in problems(ledger, evidence) if not line.startswith(("lost write", "lost output"))]

    try:
        wait_until("everything is delivered", delivered, DELIVERED)
    except AssertionError:
        evidence = Evidence.read(worked.auth.data_dir, worked.data_dirs)
        raise AssertionError("\n".join(problems(ledger, evidence)[:20])) from None


def prove(worked: Worked) -> None:
    proved = worked.auth.tctl("audit", "verify", seconds=120)
    assert proved.status == 0, proved.stdout + proved.stderr
