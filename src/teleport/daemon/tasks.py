"""The daemon's long tasks: started in order, stopped in the reverse order, none forgotten.

A later task may rely on an earlier one: events are still delivered while sessions end. The first task that ends by
itself ends the daemon, because every one of them is needed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from teleport.errors import TeleportError

log = logging.getLogger(__name__)

STOP_TIMEOUT = 10.0  # seconds that one task has for its clean-up


class Tasks:
    """An ordered set of tasks with one owner."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []
        self._raised: asyncio.Task[None] | None = None

    def start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self._tasks.append(asyncio.create_task(work, name=name))

    async def start_ready(self, work: Coroutine[Any, Any, None], name: str, ready: asyncio.Event) -> None:
        """Starts a task and returns when it set `ready`; raises what it failed with."""
        self.start(work, name)
        task = self._tasks[-1]
        waiting = asyncio.create_task(ready.wait(), name=f"{name} ready")
        try:
            await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if task.done():
            self._raise(task)

    async def wait(self, stop: asyncio.Event) -> None:
        """Returns when `stop` is set; raises what a task failed with."""
        waiting = asyncio.create_task(stop.wait(), name="stop")
        try:
            await asyncio.wait([waiting, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        for task in self._tasks:
            if task.done():
                self._raise(task)

    def _raise(self, task: asyncio.Task[None]) -> None:
        self._raised = task  # told by whoever gets the error; not told again when all are stopped
        error = None if task.cancelled() else task.exception()
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, TeleportError):
            raise error
        log.error("the task %s ended", task.get_name(), exc_info=error)
        reason = "it ended by itself" if error is None else repr(error)
        raise TeleportError(f"the service {task.get_name()} failed: {reason}", hint="the log names the reason")

    async def stop(self) -> None:
        """Ends all of them, the newest first, each before the one that it relies on."""
        for task in reversed(self._tasks):
            if task is self._raised:
                continue
            task.cancel()
            done, _ = await asyncio.wait([task], timeout=STOP_TIMEOUT)
            if not done:
                log.error("the task %s does not end", task.get_name())
            elif not task.cancelled() and task.exception() is not None:
                log.error("the task %s failed while it ended", task.get_name(), exc_info=task.exception())
        self._tasks.clear()
