"""Calls that may never come back hold one thread, and nobody for long."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

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


async def test_who_asks_in_a_loop_holds_no_thread_of_the_pool(made: list[PatientThread]) -> None:
    """A pool of one thread is free all the while, and the loop goes on."""
    made.append(PatientThread("test", 0.5))
    loop, go = asyncio.get_running_loop(), threading.Event()
    loop.set_default_executor(ThreadPoolExecutor(1))
    asked = asyncio.ensure_future(made[0].answered(lambda: go.wait(60)))
    try:
        async with asyncio.timeout(30):
            await asyncio.sleep(0)  # it asks
            assert await asyncio.to_thread(lambda: "free") == "free"
            assert not asked.done()
            with pytest.raises(Unanswered, match=r"has not answered for 0\.5 s"):
                await asked
            with pytest.raises(Unanswered):
                await made[0].answered(lambda: 1)
    finally:
        go.set()


async def test_who_asks_in_a_loop_gets_what_the_call_returns_or_raises(made: list[PatientThread]) -> None:
    made.append(PatientThread("test", 30.0))

    def wrong() -> None:
        raise TimeoutError("of its own")

    with pytest.raises(TimeoutError, match="of its own"):
        await made[0].answered(wrong)
    assert await made[0].answered(threading.get_ident) != threading.get_ident()


async def test_who_asked_in_a_loop_and_went_has_nothing_done(made: list[PatientThread]) -> None:
    made.append(PatientThread("test", 30.0))
    began, go, later = threading.Event(), threading.Event(), list[int]()

    def long() -> None:
        began.set()
        assert go.wait(60)

    first = asyncio.ensure_future(made[0].answered(long))
    second = asyncio.ensure_future(made[0].answered(lambda: later.append(1)))
    try:
        assert await asyncio.to_thread(began.wait, 30)
        for asked in (first, second):
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
    finally:
        go.set()
    assert await made[0].answered(lambda: 2) == 2
    assert later == []


def test_a_thread_whose_owner_is_gone_ends() -> None:
    owner = PatientThread("test", 30.0)
    thread = owner.call(threading.current_thread)
    del owner
    thread.join(10)
    assert not thread.is_alive()
