"""The daemon's tasks: order of stopping, the first that ends by itself, and errands."""

from __future__ import annotations

import asyncio

import pytest

from teleport.daemon import tasks as tasks_module
from teleport.daemon.tasks import Tasks
from teleport.errors import ConnectionProblem, TeleportError


async def until_cancelled(name: str, ended: list[str], ready: asyncio.Event | None = None) -> None:
    if ready is not None:
        ready.set()
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0)  # cleaning up takes a turn of the loop
        ended.append(name)


async def failing(error: Exception) -> None:
    raise error


async def test_tasks_stop_in_the_reverse_order_each_before_the_one_it_relies_on() -> None:
    tasks, ended = Tasks(), list[str]()
    for name in ("delivery", "cache", "node"):
        ready = asyncio.Event()
        await tasks.start_ready(until_cancelled(name, ended, ready), name, ready)
    await tasks.stop()
    assert ended == ["node", "cache", "delivery"]


async def test_waiting_ends_when_it_is_told_to() -> None:
    tasks, stop = Tasks(), asyncio.Event()
    tasks.start(until_cancelled("a", []), "a")
    stop.set()
    await tasks.wait(stop)
    await tasks.stop()


async def test_a_task_that_fails_ends_the_daemon_with_its_own_words(caplog: pytest.LogCaptureFixture) -> None:
    """Told once, by whoever gets the error, and without the place in our code."""
    tasks = Tasks()
    tasks.start(until_cancelled("a", []), "a")
    tasks.start(failing(ConnectionProblem("the launcher ended")), "launcher")
    with pytest.raises(ConnectionProblem, match="the launcher ended"):
        await tasks.wait(asyncio.Event())
    await tasks.stop()
    assert caplog.text == ""


async def test_a_failure_that_nobody_foresaw_is_logged_and_named(caplog: pytest.LogCaptureFixture) -> None:
    tasks = Tasks()
    tasks.start(failing(RuntimeError("boom")), "proxy ssh")
    with pytest.raises(TeleportError, match=r"the service proxy ssh failed: RuntimeError\('boom'\)"):
        await tasks.wait(asyncio.Event())
    assert "the task proxy ssh ended" in caplog.text


async def test_a_task_that_just_ends_is_a_failure_too() -> None:
    async def over() -> None:
        return

    tasks = Tasks()
    tasks.start(over(), "auth")
    with pytest.raises(TeleportError, match="the service auth failed: it ended by itself"):
        await tasks.wait(asyncio.Event())


async def test_the_reason_is_found_in_nested_groups() -> None:
    tasks = Tasks()
    inner = ExceptionGroup("inner", [ConnectionProblem("no auth server answers")])
    tasks.start(failing(ExceptionGroup("outer", [inner])), "node")
    with pytest.raises(ConnectionProblem, match="no auth server answers"):
        await tasks.wait(asyncio.Event())


async def test_a_service_that_fails_before_it_is_ready_fails_the_start() -> None:
    tasks = Tasks()
    with pytest.raises(ConnectionProblem):
        await tasks.start_ready(failing(ConnectionProblem("no")), "web", asyncio.Event())


async def test_one_failure_while_stopping_does_not_keep_the_others(caplog: pytest.LogCaptureFixture) -> None:
    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise RuntimeError("cleaning up failed")

    tasks, ended = Tasks(), list[str]()
    tasks.start(until_cancelled("a", ended), "a")
    tasks.start(stubborn(), "b")
    await asyncio.sleep(0)
    await tasks.stop()
    assert ended == ["a"]
    assert "the task b failed while it ended" in caplog.text


async def test_a_task_that_does_not_end_is_named_and_left(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks_module, "STOP_TIMEOUT", 0.05)
    release = asyncio.Event()

    async def deaf() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    tasks, ended = Tasks(), list[str]()
    tasks.start(until_cancelled("a", ended), "a")
    tasks.start(deaf(), "deaf")
    await asyncio.sleep(0)
    await tasks.stop()
    assert ended == ["a"]
    assert "the task deaf does not end" in caplog.text
    release.set()
