"""Sending finished recordings to a sink, until it has them.

A spool file is deleted only after the sink verified and kept the whole recording. Everything before that may be
interrupted at any point, by either side, and is taken up where the sink's count says. Failures are retried with
growing pauses for as long as the process lives; files left over are found again at the next start. A file that is
itself broken is set aside as `<sid>.rec.broken` and reported, or it would be tried for ever.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

from teleport.errors import NotFound, TeleportError
from teleport.recording.directory import RecordingDirectory, Suffix, file_name
from teleport.recording.format import BrokenPlace
from teleport.recording.storage import RecordingSink
from teleport.recording.verify import verify_recording

PIECE = 1024 * 1024


class UploadOutcome(StrEnum):
    """What became of one try."""

    UPLOADED = "uploaded"
    RETRY = "retry"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class UploadReport:
    """Told to the owner after each try that ended something: to emit an event, count, or log."""

    sid: str
    outcome: UploadOutcome
    sha256: str = ""
    size: int = 0
    error: str = ""
    retry_after: float = 0.0  # seconds


class Uploader:
    """Sends all `<sid>.rec` of a spool. `run` it in a task of your own; `notify` it of each recording that ended."""

    def __init__(
        self,
        path: Path,
        sink: RecordingSink,
        *,
        report: Callable[[UploadReport], None] = lambda _: None,
        jitter: Callable[[], float] = lambda: 1.0,
        parallel: int = 2,
        first_pause: float = 1.0,
        longest_pause: float = 60.0,
        scan_every: float = 300.0,
    ) -> None:
        """`jitter` gives a factor for each pause (about 0.5 to 1.0, random, so that a fleet does not knock at once)."""
        self._directory = RecordingDirectory(path)
        self._sink = sink
        self._report = report
        self._jitter = jitter
        self._parallel = parallel
        self._first_pause = first_pause
        self._longest_pause = longest_pause
        self._scan_every = scan_every
        self._held: set[str] = set()
        self._tries: dict[str, int] = {}
        self._due: dict[str, float] = {}  # when to try again, loop time
        self._wake = asyncio.Event()

    def hold(self, sid: str) -> None:
        """Leaves the recording of `sid` alone until `notify`: its session's end is not on record yet."""
        self._held.add(sid)

    def notify(self, sid: str) -> None:
        """The recording of `sid` has been finished, and so has everything else about its session."""
        self._held.discard(sid)
        self._due[sid] = 0.0
        self._wake.set()

    async def run(self) -> None:
        """Uploads what is there and what comes, until cancelled."""
        loop = asyncio.get_running_loop()
        next_scan = 0.0
        while True:
            self._wake.clear()
            if loop.time() >= next_scan:
                for sid in await self._finished():
                    self._due.setdefault(sid, 0.0)
                next_scan = loop.time() + self._scan_every
            await self._upload_due(loop.time())
            wait = min([next_scan, *self._due.values()]) - loop.time()
            if wait > 0:
                try:
                    async with asyncio.timeout(wait):
                        await self._wake.wait()
                except TimeoutError:
                    continue

    async def upload_all(self) -> bool:
        """One try for every finished recording, now; True when none is left. For a service that stops, and tests."""
        for sid in await self._finished():
            self._due[sid] = 0.0
        await self._upload_due(0.0)
        return not await self._finished()

    async def _finished(self) -> list[str]:
        return [sid for sid in await asyncio.to_thread(self._directory.ids, Suffix.DONE) if sid not in self._held]

    def close(self) -> None:
        self._directory.close()

    async def _upload_due(self, now: float) -> None:
        due = iter(sorted((sid for sid, when in self._due.items() if when <= now), key=self._due.__getitem__))

        async def worker() -> None:
            for sid in due:
                await self._try(sid)

        async with asyncio.TaskGroup() as group:
            for number in range(self._parallel):
                group.create_task(worker(), name=f"upload-{number}")

    async def _try(self, sid: str) -> None:
        try:
            report = await self._upload(sid)
        except (TeleportError, OSError) as error:
            tries = self._tries[sid] = self._tries.get(sid, 0) + 1
            place = await asyncio.to_thread(self._check, sid) if tries == 1 else None
            if place is not None:
                report = UploadReport(sid, UploadOutcome.BROKEN, error=str(place))
            else:
                pause = min(self._first_pause * 2.0 ** min(tries - 1, 30), self._longest_pause) * self._jitter()
                report = UploadReport(sid, UploadOutcome.RETRY, error=str(error), retry_after=pause)
        if report.outcome is UploadOutcome.RETRY:
            self._due[sid] = asyncio.get_running_loop().time() + report.retry_after
        else:
            self._due.pop(sid, None)
            self._tries.pop(sid, None)
        self._report(report)

    async def _upload(self, sid: str) -> UploadReport:
        name = file_name(sid, Suffix.DONE)
        try:
            descriptor = self._directory.open(name)
        except NotFound:
            return UploadReport(sid, UploadOutcome.UPLOADED)  # by another process of this host, meanwhile
        with os.fdopen(descriptor, "rb") as file:
            try:
                # an old and a new process share this folder during a restart: one of them sends
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise TeleportError(f"recording {sid} is being uploaded by another process") from error
            size = os.fstat(file.fileno()).st_size
            sha256 = (await asyncio.to_thread(os.pread, file.fileno(), 32, max(size - 32, 0))).hex()
            state = await self._sink.begin(sid)
            if not state.complete:
                await self._send(sid, file, state.offset, size)
            await self._sink.complete(sid, sha256)  # also when it is complete: the hashes must agree
            await asyncio.to_thread(self._directory.remove, name)
        return UploadReport(sid, UploadOutcome.UPLOADED, sha256, size)

    async def _send(self, sid: str, file: BinaryIO, offset: int, size: int) -> None:
        stuck = 0
        while offset < size:
            data = await asyncio.to_thread(os.pread, file.fileno(), PIECE, offset)
            if not data:
                raise TeleportError(f"recording {sid} became shorter while it was uploaded")
            there = await self._sink.append(sid, offset, data)
            stuck = stuck + 1 if there <= offset else 0
            if stuck > 3 or there < 0:
                raise TeleportError(f"the store does not take recording {sid} at {offset} (it has {there} bytes)")
            offset = there

    def _check(self, sid: str) -> BrokenPlace | None:
        """Whether the fault is the file's. A broken one is set aside, where nothing tries it again."""
        name = file_name(sid, Suffix.DONE)
        try:
            with os.fdopen(self._directory.open(name), "rb") as file:
                found = verify_recording(file, sid=sid)
            if not isinstance(found, BrokenPlace):
                return None
            self._directory.replace(name, file_name(sid, Suffix.BROKEN))
        except (TeleportError, OSError):
            return None
        return found
