"""One thread for calls that may never come back: whoever waits for it waits so long and no longer.

A call into a library cannot be ended from outside. Made in a pool's threads, a few that hang would hold up everything
else that needs the pool, and the process could not end, because a pool waits for its threads.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from typing import Any, TypeVar

T = TypeVar("T")


class Unanswered(Exception):
    """The call has not come back, or one before it has not."""


class _Turns:
    """What the thread has of its owner, so that it keeps nobody alive."""

    def __init__(self) -> None:
        self.calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        self.since: float | None = None  # when the call that is made now began, by the monotonic clock

    def run(self) -> None:
        while (call := self.calls.get()) is not None:
            work, answer = call
            if not answer.set_running_or_notify_cancel():
                continue
            self.since = time.monotonic()
            try:
                found = work()
            except BaseException as error:
                self.since = None
                answer.set_exception(error)
            else:
                self.since = None
                answer.set_result(found)
            del call, work, answer


class PatientThread:
    """Makes calls one after the other. A daemon thread: a process ends without it. It ends with its owner."""

    def __init__(self, name: str, patience: float) -> None:
        """`patience`: seconds for one call."""
        self._patience = patience
        self._turns = _Turns()
        threading.Thread(target=self._turns.run, name=name, daemon=True).start()
        self._ends = weakref.finalize(self, self._turns.calls.put, None)
        self._ends.atexit = False

    def call(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises. Raises `Unanswered` when it takes too long, and at once while an earlier call
        has taken too long already; then it is not made, unless it had begun."""
        left, answer = self._asked(work)
        try:
            found: T = answer.result(left)
        except NotYet:
            if answer.done():  # the call itself raised that
                raise
            answer.cancel()
            raise self._unanswered() from None
        return found

    async def answered(self, work: Callable[[], T]) -> T:
        """As `call`, for who asks in an event loop: no other thread waits."""
        left, answer = self._asked(work)
        waiting = asyncio.wrap_future(answer)
        try:
            await asyncio.wait({waiting}, timeout=left)
            if not waiting.done():
                raise self._unanswered()
            found: T = waiting.result()
        finally:
            waiting.cancel()  # and with it the call, unless it has begun
        return found

    def _asked(self, work: Callable[[], Any]) -> tuple[float, Future[Any]]:
        """For how many seconds the answer may be waited for, and where it will be. Raises `Unanswered`."""
        since = self._turns.since
        left = self._patience if since is None else self._patience - (time.monotonic() - since)
        if left <= 0:
            raise self._unanswered()
        answer: Future[Any] = Future()
        self._turns.calls.put((work, answer))
        return left, answer

    def _unanswered(self) -> Unanswered:
        return Unanswered(f"it has not answered for {self._patience:g} s")

    def stop(self) -> None:
        """Ends the thread once the calls before have come back; there are no further ones."""
        self._ends()
