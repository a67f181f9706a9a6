"""One thread that makes many waiting writers' items durable with one write.

While a commit is under way further items gather; the next commit takes them all. So one writer pays one fdatasync,
and two hundred at once pay about as much together.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from teleport.errors import TeleportError

T = TypeVar("T")


@dataclass(slots=True)
class _Waiting(Generic[T]):
    item: T
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[None]
    error: TeleportError | None = None


class GroupCommit(Generic[T]):
    """Hands items, in order, to `commit` in a thread of its own.

    `commit` gets a list and returns, item for item, None or the error of that item; when it raises, all fail.
    """

    def __init__(self, commit: Callable[[list[T]], list[TeleportError | None]], name: str, limit: int = 1024) -> None:
        self._commit = commit
        self._limit = limit
        self._name = name
        self._waiting: list[_Waiting[T]] = []
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def put(self, item: T) -> None:
        """Returns when `item` is durable; raises `TeleportError` when it is not.

        A caller that is cancelled no longer learns of it; the item is written all the same.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(item, loop, loop.create_future())
        with self._wake:
            if self._closing:
                raise TeleportError(f"{self._name} is closed")
            self._waiting.append(waiting)
            if len(self._waiting) == 1:
                self._wake.notify()
        await waiting.done

    def close(self) -> None:
        """Writes what waits, then ends the thread. Blocks as long as that takes."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._waiting and not self._closing:
                    self._wake.wait()
                if not self._waiting:
                    return
                batch, self._waiting = self._waiting[: self._limit], self._waiting[self._limit :]
            try:
                errors = self._commit([waiting.item for waiting in batch])
            except TeleportError as error:
                errors = [error] * len(batch)
            except Exception as error:  # whatever it was, the writers must not be left waiting or told "durable"
                errors = [TeleportError(f"{self._name} failed: {error!r}")] * len(batch)
            for waiting, problem in zip(batch, errors, strict=True):
                waiting.error = problem
            for loop in {waiting.loop for waiting in batch}:
                mine = [waiting for waiting in batch if waiting.loop is loop]
                if not loop.is_closed():
                    loop.call_soon_threadsafe(_tell, mine)


def _tell(batch: list[_Waiting[T]]) -> None:
    for waiting in batch:
        if waiting.done.done():
            continue  # cancelled meanwhile
        if waiting.error is None:
            waiting.done.set_result(None)
        else:
            waiting.done.set_exception(waiting.error)
