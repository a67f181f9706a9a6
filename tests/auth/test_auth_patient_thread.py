"""Calls that may never come back hold one thread, and nobody for long."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from teleport.auth.authorities.patient_thread import PatientThread, Unanswered


@pytest.fixture
def made() -> Iterator[list[PatientThread]]:
    threads: list[PatientThread] = []
    yield threads
    for thread in threads:
        thread.stop()


def test_calls_are_made_in_turn_by_one_thread(made: list[PatientThread]) -> None:
    made.append(PatientThread("test", 30.0))
    found = [made[0].call(threading.get_ident) for _ in range(3)]
    assert len(set(found)) == 1
    assert found[0] != threading.get_ident()


def test_what_a_call_raises_is_raised(made: list[PatientThread]) -> None:
    made.append(PatientThread("test", 30.0))

    def wrong() -> None:
        raise TimeoutError("of its own")

    with pytest.raises(TimeoutError, match="of its own"):
        made[0].call(wrong)
    assert made[0].call(lambda: 1) == 1


def test_one_that_hangs_is_not_waited_for_and_those_behind_it_are_refused_at_once(made: list[PatientThread]) -> None:
    made.append(PatientThread("test", 0.5))
    go = threading.Event()
    later: list[int] = []
    with pytest.raises(Unanswered):
        made[0].call(lambda: go.wait(60))
    began = time.monotonic()
    for _ in range(20):
        with pytest.raises(Unanswered, match="has not answered"):
            made[0].call(lambda: later.append(1))
    assert time.monotonic() - began < 0.5 * 5, "twenty that wait would take twenty times as long"
    go.set()
    last = threading.Event()
    while not last.is_set():
        try:
            made[0].call(last.set)
        except Unanswered:
            last.wait(0.01)
    assert later == [], "what nobody waits for any more is not done"


def test_a_thread_whose_owner_is_gone_ends() -> None:
    owner = PatientThread("test", 30.0)
    thread = owner.call(threading.current_thread)
    del owner
    thread.join(10)
    assert not thread.is_alive()
