"""An object, fetched into a file without a name: it is believed as a whole or not at all.

The file lies in the folder of recordings, where nobody else gets at it; the kernel removes it when it is closed,
however the process ends.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from contextlib import aclosing
from functools import partial
from typing import BinaryIO, Final

from teleport.aws.answers import Kind
from teleport.recording.directory import RecordingDirectory
from teleport.recording.format import BrokenPlace
from teleport.recording.s3.bucket import Bucket, Refused
from teleport.recording.s3.notes import ObjectNote

ABSENT: Final = " is not there"  # how `difference` ends when there is nothing at all
AT_ONCE: Final = 4  # objects that are fetched
KEEP: Final = 120.0  # seconds for which one is kept whose reader did not wait for it: perhaps he asks again


async def difference(bucket: Bucket, name: str, size: int, sha256: str, into: BinaryIO | None = None) -> str:
    """How the object of a recording differs from what it should be; empty when it does not. It is written `into` a
    file. Raises `Refused` when it cannot be read, and `OSError`."""
    url = bucket.settings.url(name)
    found, seen = hashlib.sha256(), 0
    try:
        async with aclosing(bucket.read(bucket.settings.key(name))) as pieces:
            async for piece in pieces:
                seen += len(piece)
                if seen > size:
                    return f"{url} is longer than the {size} bytes that were brought there"
                found.update(piece)
                if into is not None:
                    await asyncio.to_thread(into.write, piece)
    except Refused as error:
        if error.kind is Kind.ABSENT:
            return f"{url}{ABSENT}"
        raise
    if seen < size:
        return f"{url} has {seen} of the {size} bytes that were brought there"
    if found.hexdigest() != sha256:
        return f"{url} has other bytes than were brought there"
    return ""


async def fetch(bucket: Bucket, directory: RecordingDirectory, name: str, note: ObjectNote) -> BinaryIO | BrokenPlace:
    """The recording, whole, at its beginning; the caller closes it. Raises `Refused`, `OSError`, and `LimitExceeded`
    when there is no room."""
    directory.check_room(note.header.sid, "fetched", more=note.size)
    flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
    file = os.fdopen(os.open(".", flags, 0o600, dir_fd=directory.descriptor), "w+b")
    try:
        wrong = await difference(bucket, name, note.size, note.sha256, file)
        if wrong:
            file.close()
            return BrokenPlace(None, 0, wrong, absent=wrong.endswith(ABSENT))
        await asyncio.to_thread(file.flush)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


class Fetches:
    """Fetches that are under way. One goes on when its reader has lost patience, and who asks again then has it."""

    def __init__(self, bucket: Bucket, directory: RecordingDirectory, *, keep: float = KEEP) -> None:
        self._bucket = bucket
        self._directory = directory
        self._keep = keep
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._running: dict[str, _Fetch] = {}

    async def open(self, name: str, note: ObjectNote) -> BinaryIO | BrokenPlace:
        """As `fetch`."""
        one = self._running.get(name)
        if one is None:
            task = asyncio.create_task(self._fetch(name, note), name=f"fetch of recording {name}")
            one = self._running[name] = _Fetch(task)
            task.add_done_callback(partial(self._fetched, name, one))
        one.waiting += 1
        try:
            found = await asyncio.shield(one.task)
            if isinstance(found, BrokenPlace):
                return found
            # a description of its own: others may read the same file
            opened = os.fdopen(os.open(f"/proc/self/fd/{found.fileno()}", os.O_RDONLY | os.O_CLOEXEC), "rb")
            one.taken = True
            return opened
        finally:
            one.waiting -= 1
            if one.taken and not one.waiting:
                self._drop(name, one)

    async def close(self) -> None:
        for one in self._running.values():
            one.task.cancel()
        await asyncio.gather(*(one.task for one in self._running.values()), return_exceptions=True)
        for name, one in list(self._running.items()):
            self._drop(name, one)

    async def _fetch(self, name: str, note: ObjectNote) -> BinaryIO | BrokenPlace:
        async with self._slots:
            return await fetch(self._bucket, self._directory, name, note)

    def _fetched(self, name: str, one: _Fetch, _: object) -> None:
        if one.file is None:
            self._drop(name, one)
            return
        one.timer = asyncio.get_running_loop().call_later(self._keep, self._drop, name, one)
        kept = [(name, one) for name, one in self._running.items() if one.timer is not None and not one.waiting]
        for oldest in kept[:-AT_ONCE]:
            self._drop(*oldest)

    def _drop(self, name: str, one: _Fetch) -> None:
        if self._running.get(name) is one:
            del self._running[name]
        if one.timer is not None:
            one.timer.cancel()
        if one.file is not None:
            one.file.close()


class _Fetch:
    def __init__(self, task: asyncio.Task[BinaryIO | BrokenPlace]) -> None:
        self.task = task
        self.waiting = 0
        self.taken = False
        self.timer: asyncio.TimerHandle | None = None

    @property
    def file(self) -> BinaryIO | None:
        """What was fetched, if that is whole."""
        if not self.task.done() or self.task.cancelled() or self.task.exception() is not None:
            return None
        found = self.task.result()
        return None if isinstance(found, BrokenPlace) else found
