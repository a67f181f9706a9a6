"""kill -9 while files move, ways are open and a proxy records, on disks that are full or slow (threats T41, T46).

What a client was told is done is on record exactly once; with `proxy-sync` nothing that anybody saw is missing from its
recording. The checker is shown to fail first, on what the very same run left behind.
"""

from __future__ import annotations

import copy
import random
from pathlib import Path

import pytest
from tests.cluster.survival_kills import Survived, survive
from tests.cluster.survival_workload import survivor

from teleport.testing.survival import problems

__all__ = ["survivor"]


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory, survivor: str) -> Survived:
    """A few kills of each sort, with a disk that is full, slow and as it should be."""
    folder = tmp_path_factory.mktemp("files")
    victims = ["proxy", "node", "proxy"]
    return survive(
        folder, survivor, kills=3, apart=True, seed=2, mode="proxy-sync", plain=True, troubled=True, victims=victims
    )


def test_nothing_that_a_client_was_told_or_saw_is_lost_to_kills_of_who_records(short: Survived) -> None:
    ledger, evidence = short
    assert problems(ledger, evidence) == []
    kinds = {(move.kind, move.action) for move in ledger.moves if move.told}
    assert {("sftp", action) for action in ("write", "read", "rename", "remove")} <= kinds
    assert {("scp", "write"), ("scp", "read")} <= kinds
    assert any(forward.told for forward in ledger.forwards)
    assert [session for session in ledger.sessions if session.seen and session.acknowledged == float("inf")]


def test_the_checker_finds_each_operation_that_is_lost_doubled_or_another(short: Survived) -> None:
    ledger, evidence = short
    for kind, action in (("sftp", "write"), ("sftp", "rename"), ("scp", "read")):
        move = next(one for one in ledger.moves if (one.kind, one.action, one.told) == (kind, action, True))
        name = "operation" if kind == "scp" else "action"
        [event] = [
            one
            for one in evidence.events
            if (one["event"], one.get(name), one.get("path")) == (kind, action, move.path)
        ]
        planted = copy.copy(evidence)
        planted.events = [one for one in evidence.events if one is not event]
        assert f"lost event: {kind} {action} of {move.path}, which a client was told of" in problems(ledger, planted)
        planted.events = [*evidence.events, event]
        assert any(line.startswith("doubled event") for line in problems(ledger, planted))
        if move.sha256:
            planted.events = [one if one is not event else {**one, "sha256": "0" * 64} for one in evidence.events]
            assert [line[:11] for line in problems(ledger, planted)] == ["wrong event"]


def test_the_checker_finds_a_way_that_is_not_on_record(short: Survived) -> None:
    ledger, evidence = short
    address = next(forward.address for forward in ledger.forwards if forward.told)
    planted = copy.copy(evidence)
    planted.events = [one for one in evidence.events if one.get("addr") != address]
    assert f"lost event: the forward to {address}, through which bytes came back" in problems(ledger, planted)


def test_the_checker_finds_a_second_end_and_a_chunk_that_is_gone(short: Survived) -> None:
    ledger, evidence = short
    end = next(one for one in evidence.events if one["event"] == "session.end")
    planted = copy.copy(evidence)
    planted.events = [*evidence.events, {**end, "seq": 0}]
    assert any(line.endswith("has 2 ends") for line in problems(ledger, planted))
    cut = next(one for one in ledger.sessions if len(one.seen.splitlines()) > 1 and not one.finished)
    [sid] = [
        one["sid"]
        for one in evidence.events
        if one["event"] == "session.start" and cut.tag in " ".join(one.get("initial_command", ()))
    ]
    kept = evidence.recordings[sid]
    assert isinstance(kept, bytes)
    # the last line that the client saw whole, and all behind it: what was acknowledged last is gone
    last = cut.seen.splitlines(keepends=True)[-2]
    planted.events = evidence.events
    planted.recordings = {**evidence.recordings, sid: kept[: kept.index(last)]}
    assert [line[:11] for line in problems(ledger, planted)] == ["lost output"]


@pytest.mark.long
@pytest.mark.parametrize("mode", ["node-sync", "proxy", "proxy-sync"])
def test_kills_while_files_move_on_disks_that_are_full_or_slow(tmp_path: Path, survivor: str, mode: str) -> None:
    seed = random.randrange(2**32)
    ledger, evidence = survive(
        tmp_path, survivor, kills=40, apart=True, seed=seed, mode=mode, plain=True, troubled=True
    )
    assert problems(ledger, evidence) == []
