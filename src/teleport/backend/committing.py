"""Writes that wait while others are committed go into the next transaction together: what engines share that have one
transaction at a time.

Each write stays its own: it is decided after those before it, fails alone and has its own revision. Nobody is answered,
refused ones included, before the transaction is committed: a refusal may rest on a write of the same one.

A transaction that fails is made again, as long as its writes may wait. One that was sent and not answered is kept
(`Sent`) until the engine has found out whether it happened.
"""

from __future__ import annotations

import asyncio
import logging
import random
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from typing import Final

from teleport.backend.decide import Decision
from teleport.backend.interface import BackendClosed
from teleport.errors import ConnectionProblem

GROUP: Final = 256  # writes in one transaction at most
PAUSE: Final = 0.05  # seconds until it is made again at first, doubling
PAUSE_MOST: Final = 1.0
SLOW: Final = 1.0  # seconds; a transaction that takes longer is told in the log

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One write that waits."""

    decision: Decision
    future: asyncio.Future[int]
    until: float  # of the loop's clock


@dataclass(slots=True)
class Sent:
    """A transaction that was sent and not answered yet."""

    number: int
    jobs: list[Job]
    outcomes: list[int | Exception]


@dataclass(frozen=True, slots=True)
class Failed:
    """What became of an attempt."""

    error: Exception  # what callers are told
    again: bool  # whether to try again
    one_of_them: bool  # whether one of the writes is to blame, and the others would pass without it


class Committing(ABC):
    """The one task of an open storage that writes. `run` it."""

    def __init__(self, where: str, *, within: float, group_bytes: int) -> None:
        """`within`: seconds that a write may wait. `group_bytes`: of values, unless one write has more."""
        self._where = where
        self._within = within
        self._group_bytes = group_bytes
        self._jobs: deque[Job] = deque()
        self._more = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._sent: Sent | None = None
        self._closing = False

    async def submit(self, decision: Decision) -> int:
        """Decide and write in the next transaction; the revision after it, once it is committed."""
        if self._closing:
            raise BackendClosed("the storage is not open")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[int] = loop.create_future()
        self._jobs.append(Job(decision, future, loop.time() + self._within))
        self._idle.clear()
        self._more.set()
        return await future

    async def close(self) -> None:
        """Commit what was submitted. End the task that runs afterwards."""
        self._closing = True
        await self._idle.wait()

    async def run(self) -> None:
        """Write what is submitted, until cancelled."""
        while True:
            await self._more.wait()
            jobs = self._take()
            if jobs:
                await self._write(jobs)
            if not self._jobs:
                self._more.clear()
                self._idle.set()

    @abstractmethod
    async def _transact(self, jobs: list[Job]) -> None:
        """Decide and commit; `answer` each. Takes out of `jobs` what an earlier attempt turns out to have done."""

    @abstractmethod
    def _failed(self, error: Exception) -> Failed:
        """What an error of `_transact` means; a next attempt begins afresh."""

    def _take(self) -> list[Job]:
        jobs: list[Job] = []
        size = 0
        while (
            self._jobs and len(jobs) < GROUP and (not jobs or size + self._jobs[0].decision.size <= self._group_bytes)
        ):
            job = self._jobs.popleft()
            if not job.future.done():  # its caller may have been cancelled
                jobs.append(job)
                size += job.decision.size
        return jobs

    async def _write(self, jobs: list[Job]) -> None:
        """Each of `jobs` is answered when this returns."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        pause = PAUSE
        while jobs:
            try:
                await self._transact(jobs)
                break
            except Exception as error:
                failed = self._failed(error)
            if failed.one_of_them and len(jobs) > 1 and self._sent is None:  # whichever it is: the others do not suffer
                for job in jobs:
                    await self._write([job])
                return
            jobs = self._give_up(jobs, failed.error, loop.time() if failed.again else None)
            if jobs:
                log.info("a transaction is made again writes=%d error=%s", len(jobs), failed.error)
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - tries apart, guards nothing
                pause = min(2 * pause, PAUSE_MOST)
        if (took := loop.time() - began) > SLOW:
            log.warning("slow transaction storage=%s seconds=%.1f", self._where, took)

    def _give_up(self, jobs: list[Job], failure: Exception, now: float | None) -> list[Job]:
        """Tell those that may not wait any longer (None: nobody may); the others."""
        sent = self._sent.jobs if self._sent is not None else ()
        kept = [job for job in jobs if now is not None and now < job.until and not job.future.done()]
        for job in jobs:
            if job not in kept:
                answer(job, _unknown(failure) if job in sent else failure)
        if self._sent is not None and not any(job in kept for job in sent):
            self._sent = None  # nobody asks any more
        return kept


def answer_all(sent: Sent) -> None:
    for job, outcome in zip(sent.jobs, sent.outcomes, strict=True):
        answer(job, outcome)


def answer(job: Job, outcome: int | Exception) -> None:
    if job.future.done():  # its caller may have been cancelled
        return
    if isinstance(outcome, Exception):
        job.future.set_exception(outcome)
    else:
        job.future.set_result(outcome)


def _unknown(failure: Exception) -> Exception:
    """For a write that was committed or was not: nobody could be asked."""
    return ConnectionProblem(
        f"it is not known whether this was written: {failure}",
        hint=getattr(failure, "hint", "") or "see what is stored, then do it again if it is not there",
    )
