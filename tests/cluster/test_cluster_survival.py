"""kill -9 of every process at random moments, under work: what was acknowledged is there (threats T41, T46).

The checker is shown to fail first, on what the very same run left behind: a lost event, a lost write, a cut recording.
"""

from __future__ import annotations

import copy
import random
from pathlib import Path

import pytest
from tests.cluster.survival_kills import survive
from tests.cluster.survival_workload import survivor

from teleport.testing.survival import Evidence, Ledger, problems, recorded_output

__all__ = ["survivor"]


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory, survivor: str) -> tuple[Ledger, Evidence]:
    """A few kills of each sort, in three daemons."""
    return survive(tmp_path_factory.mktemp("survival"), survivor, kills=5, apart=True, seed=1)


def test_nothing_that_was_acknowledged_is_lost_to_kills(short: tuple[Ledger, Evidence]) -> None:
    ledger, evidence = short
    assert problems(ledger, evidence) == []
    assert ledger.writes
    assert ledger.logins
    assert ledger.joins
    assert [session for session in ledger.sessions if session.finished]
    assert [session for session in ledger.sessions if not session.finished and session.seen]
    assert [one for one in ledger.shared if one.told]


def test_the_checker_finds_each_lost_event(short: tuple[Ledger, Evidence]) -> None:
    ledger, evidence = short
    for kind in ("role.created", "user.login", "cert.create", "host.join", "session.start", "session.end"):
        planted = copy.copy(evidence)
        # the newest one of a thing that was acknowledged; some happened without a client that was told, and a second
        # end that auth wrote of the same session is no loss
        lost = [event for event in evidence.events if event["event"] == kind and not event.get("supplement")][-1]
        planted.events = [event for event in evidence.events if event is not lost]
        assert any(line.startswith("lost event") for line in problems(ledger, planted)), kind


def test_the_checker_finds_who_joined_and_is_not_on_record_once(short: tuple[Ledger, Evidence]) -> None:
    ledger, evidence = short
    sid = next(one.sid for one in ledger.shared if one.told)
    planted = copy.copy(evidence)
    [join] = [event for event in evidence.events if (event["event"], event.get("sid")) == ("session.join", sid)]
    planted.events = [event for event in evidence.events if event is not join]
    assert f"lost event: who joined the session {sid}, and saw what it printed" in problems(ledger, planted)
    planted.events = [*evidence.events, join]
    assert f"doubled event: who joined the session {sid} is on record 2 times" in problems(ledger, planted)


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
@pytest.mark.parametrize(("apart", "kills"), [(True, 50), (False, 30)], ids=["three daemons", "all in one"])
def test_many_kills(tmp_path: Path, survivor: str, apart: bool, kills: int) -> None:
    ledger, evidence = survive(tmp_path, survivor, kills=kills, apart=apart, seed=random.randrange(2**32))
    assert problems(ledger, evidence) == []


def _first_time(seen: bytes) -> float:
    words = seen.splitlines()[0].split()
    return float(words[1]) if len(words) == 2 else float("inf")
