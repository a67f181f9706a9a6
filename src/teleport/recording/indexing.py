"""Makes indexes of recordings in a process of its own: rendering a long session takes minutes of one core, and what a
hostile host recorded is read where it can harm nobody.

`python -m teleport.recording.indexing FOLDER SID...` prints each id when its index is made.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from teleport.recording.directory import RecordingDirectory
from teleport.recording.index import MAX_SECONDS, build_index, missing_indexes, remove_orphans

log = logging.getLogger(__name__)

CALM: Final = 30.0  # seconds without a new recording before indexes are made of their own accord
LOOK_AGAIN: Final = 3600.0  # seconds until indexes whose recording was deleted are looked for again
PATIENCE: Final = 10.0  # seconds for which a search waits for a recording; then it goes on without it
AT_ONCE: Final = 50  # recordings of one process
MEMORY: Final = 2 * 1024**3


class Indexer:
    """Keeps indexes made, in the background, and sooner when somebody waits for one."""

    def __init__(self, path: Path, directory: RecordingDirectory, *, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._since: dict[str, float] = {}  # when somebody began to wait for it (monotonic)
        self._progress: float | None = None  # when the working process began or finished one; None: it works not
        self._path = path.absolute()
        self._directory = directory
        self._wanted: dict[str, asyncio.Event] = {}
        self._failed: set[str] = set()
        self._wake = asyncio.Event()
        self._last = time.monotonic()

    def stored(self) -> None:
        """A recording has arrived."""
        self._last = time.monotonic()

    def failed(self, sid: str) -> bool:
        """Whether no index can be made of it."""
        return sid in self._failed

    def overdue(self, sid: str) -> bool:
        """Whether it is waited for so long, or behind one that takes so long, that nobody should go on waiting."""
        now = time.monotonic()
        stuck = self._progress is not None and now - self._progress > self._patience
        return sid in self._wanted and (stuck or now - self._since[sid] > self._patience)

    async def ensure(self, sids: Sequence[str], seconds: float) -> None:
        """Has the indexes of `sids` made, in this order, and waits until they are, at most so long, and for none that
        is overdue."""
        for sid in sids:
            if sid not in self._failed and sid not in self._wanted:
                self._wanted[sid] = asyncio.Event()
                self._since[sid] = time.monotonic()
        waiting = [self._wanted[sid] for sid in sids if sid in self._wanted and not self.overdue(sid)]
        self._wake.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for one in waiting:
                    await one.wait()

    def _made(self, sid: str) -> None:
        """Nobody waits for it any more."""
        self._since.pop(sid, None)
        if waiter := self._wanted.pop(sid, None):
            waiter.set()

    async def run(self) -> None:
        """Works until cancelled."""
        looked: float | None = None  # when nothing was left to do
        while True:
            if self._wanted:
                await self._make(list(self._wanted)[:AT_ONCE])
                continue
            left = self._last + CALM - time.monotonic()
            if left <= 0 and (looked is None or time.monotonic() - looked > LOOK_AGAIN):
                if looked is not None:
                    looked = None
                    self._failed.clear()  # a disk that was full may have room again
                found = await asyncio.to_thread(self._look)
                missing = [sid for sid in found if sid not in self._failed]
                if missing:
                    await self._make(missing[:AT_ONCE])
                else:
                    looked = time.monotonic()
                continue
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(left if left > 0 else CALM):
                    await self._wake.wait()
            if time.monotonic() - self._last < CALM:
                looked = None

    def _look(self) -> list[str]:
        remove_orphans(self._directory)
        return missing_indexes(self._directory)

    async def _make(self, sids: Sequence[str]) -> None:
        done: set[str] = set()
        self._progress = time.monotonic()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-m", __name__, str(self._path), *sids,
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
                env={"LANG": "C.UTF-8"}, cwd="/",
            )  # fmt: skip
        except OSError as error:
            log.warning("recordings cannot be made searchable: %s", error)
            await asyncio.sleep(CALM)
            self._progress = None
            return
        assert process.stdout is not None
        try:
            while line := await process.stdout.readline():
                sid = line.decode("ascii", "replace").strip()
                done.add(sid)
                self._progress = time.monotonic()
                self._made(sid)
            await process.wait()
        finally:
            self._progress = None
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.send_signal(signal.SIGKILL)
                await process.wait()
        lost = [sid for sid in sids if sid not in done]
        if lost:  # the first is the one that it ended over; the others get their turn
            self._failed.add(lost[0])
            log.warning("the recording of session %s cannot be made searchable", lost[0])
            self._made(lost[0])


def main(arguments: Sequence[str]) -> int:
    """The process that does it."""
    import resource

    os.nice(10)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    folder, *sids = arguments
    directory = RecordingDirectory(Path(folder))
    for sid in sids:
        limit = int(time.process_time() + 2 * MAX_SECONDS)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
        build_index(directory, sid)
        sys.stdout.write(f"{sid}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
