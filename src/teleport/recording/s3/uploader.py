"""Brings finished recordings to S3, and takes away here what is proved to be there.

For each recording, in this order: the file is verified against the hash under which its arrival was told; it is made an
object, never in place of another; the object is read back whole; a note of it goes into the cluster's storage; what it
showed is made searchable; the file here goes. A process that ends anywhere in between begins with this recording anew,
with the parts that the service has taken already, so nothing is ever only under way.

A few are brought at a time, in no order, so that a large one holds up no other; each has one part in memory. What
cannot be done now is tried again, later and later. Trouble with the bucket stops all, trouble with one recording only
that one; both are told in the log and by `problem`.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import logging
import os
import random
from collections.abc import Awaitable, Callable, Set
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import BinaryIO, Final

from teleport.aws.answers import Kind
from teleport.errors import NotFound, TeleportError
from teleport.recording.directory import RecordingDirectory, Suffix, stored_name, write_all
from teleport.recording.format import BrokenPlace
from teleport.recording.s3 import journal
from teleport.recording.s3.bucket import Bucket, Part, Refused
from teleport.recording.s3.fetched import ABSENT, difference
from teleport.recording.s3.notes import Notes, ObjectNote
from teleport.recording.verify import verify_recording

log = logging.getLogger(__name__)

AT_ONCE: Final = 4  # recordings that are brought
PART: Final = 8 * 1024 * 1024  # bytes; a recording has 64 GiB at most, and an object 10,000 parts
PAUSE: Final = 1.0  # seconds until something is tried again, at first; doubling
PAUSE_MOST: Final = 300.0
LOOK: Final = 60.0  # seconds after which the folder is looked at although nothing was said to have arrived
_PIECE: Final = 1024 * 1024

Searchable = Callable[[str], Awaitable[bool]]


class Stuck(Exception):
    """Why one recording cannot be brought there as it is."""


@dataclass(frozen=True, slots=True)
class _Found:
    size: int
    sha256: str
    note: ObjectNote


@dataclass(frozen=True, slots=True)
class _Turn:
    at: float  # when it is tried again
    pause: float
    why: str  # it is stuck; empty: it only has to wait


class Uploader:
    """One per auth server; `run` works until it is cancelled."""

    def __init__(
        self,
        bucket: Bucket,
        directory: RecordingDirectory,
        notes: Notes,
        searchable: Searchable,
        *,
        part_size: int = PART,
        pause: float = PAUSE,
    ) -> None:
        """`searchable` makes an index of a recording, and says whether none is to be waited for any more."""
        self._bucket = bucket
        self._directory = directory
        self._notes = notes
        self._searchable = searchable
        self._part_size = part_size
        self._first_pause = pause
        self._wake = asyncio.Event()
        self._trouble = ""  # with the bucket
        self._met_over: set[str] = set()  # the recordings with which there was trouble
        self._later: dict[str, _Turn] = {}  # recordings that were tried
        self._proved: set[str] = set()  # noted, and not searchable yet

    @property
    def problem(self) -> str:
        """Why recordings stay here that should not; empty when none does."""
        if self._trouble:
            return self._trouble
        stuck = [(name, turn.why) for name, turn in self._later.items() if turn.why]
        if not stuck:
            return ""
        name, why = stuck[0]
        more = f", and {len(stuck) - 1} more" if len(stuck) > 1 else ""
        return f"recording {name} is not brought to S3: {why}{more}"

    def look(self) -> None:
        """A recording has arrived."""
        self._wake.set()

    async def run(self) -> None:
        pause = self._first_pause
        loop = asyncio.get_running_loop()
        with suppress(Refused):
            await self._bucket.open()  # what it needs is loaded while this release is surely there
        while True:
            self._wake.clear()
            if await self.once():
                pause = self._first_pause
                wait = min([LOOK, *(max(0.0, turn.at - loop.time()) for turn in self._later.values())])
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._wake.wait()
            else:  # what arrives meanwhile does not make a service come back
                await asyncio.sleep(pause * random.uniform(0.7, 1.0))  # noqa: S311 - no secret
                pause = min(2 * pause, PAUSE_MOST)

    async def once(self) -> bool:
        """Tries each recording that is here and has its turn, and those that come while others are under way; false
        when there is trouble with all of them."""
        tried: set[str] = set()
        under_way: set[asyncio.Task[bool]] = set()
        waiting = await self._turns(tried)
        stops = False
        async with asyncio.TaskGroup() as tasks:
            while True:
                while waiting and len(under_way) < AT_ONCE and not stops:
                    name = waiting.pop(0)
                    tried.add(name)
                    under_way.add(tasks.create_task(self._try(name), name=f"recording {name} to S3"))
                if not under_way:
                    break
                arrival = tasks.create_task(self._wake.wait(), name="arrival of recordings")
                done, _ = await asyncio.wait({arrival, *under_way}, return_when=asyncio.FIRST_COMPLETED)
                arrival.cancel()
                stops |= not all(task.result() for task in done & under_way)
                under_way -= done
                if arrival in done:
                    self._wake.clear()
                    waiting = await self._turns(tried)
        if tried and not stops:
            self._well()
        return not stops

    async def _turns(self, tried: Set[str]) -> list[str]:
        """The recordings that are to be tried now, and were not."""
        names = await asyncio.to_thread(self._directory.names, Suffix.DONE)
        for name in self._later.keys() - set(names):
            del self._later[name]
        self._proved &= set(names)
        self._met_over &= set(names)
        now = asyncio.get_running_loop().time()
        due = [one for one in names if one not in tried and not (one in self._later and self._later[one].at > now)]
        # those over which trouble was met last come last: if they are the trouble, they hold up no other
        return sorted(due, key=lambda one: one in self._met_over)

    async def _try(self, name: str) -> bool:
        """Brings one, or says why not; false when there is trouble with all."""
        try:
            if await self._bring(name):
                self._later.pop(name, None)
            else:
                self._put_off(name, "")
            self._met_over.discard(name)
        except Stuck as error:
            self._put_off(name, str(error))
        except Refused as error:
            if error.kind is Kind.REFUSED:
                self._put_off(name, f"it is refused: {error.details}")
                return True
            self._met_over.add(name)
            self._tell_trouble(str(self._bucket.explain("write", error)))
            return False
        except OSError as error:
            self._put_off(name, f"the disk of {self._directory.path}: {error.strerror}")
        except TeleportError as error:  # the cluster's storage
            self._met_over.add(name)
            self._tell_trouble(f"recordings cannot be brought to S3: {error}")
            return False
        return True

    def _put_off(self, name: str, why: str) -> None:
        before = self._later.get(name)
        pause = min(2 * before.pause, PAUSE_MOST) if before is not None else self._first_pause
        if why and (before is None or before.why != why):
            log.error("recording %s is not brought to S3 and stays here: %s", name, why)
        self._later[name] = _Turn(asyncio.get_running_loop().time() + pause, pause, why)

    def _well(self) -> None:
        if self._trouble:
            log.info("recordings are brought to S3 again bucket=%s", self._bucket.settings.where)
            self._trouble = ""

    def _tell_trouble(self, why: str) -> None:
        if why != self._trouble:
            log.error("%s; they stay here until it is mended", why)
        self._trouble = why

    async def _bring(self, name: str) -> bool:
        """Whether nothing is left to be done with it now. Raises `Stuck`, `Refused`, `TeleportError`, `OSError`."""
        told = await self._notes.told(name)
        if not told:
            return True  # whoever uploaded it has not been answered, and comes again
        try:
            descriptor = await asyncio.to_thread(self._directory.open, stored_name(name, Suffix.DONE), write=True)
        except NotFound:
            return True
        with os.fdopen(descriptor, "rb") as file:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False  # another process of this auth server is about to end, and has it in hand
            if not self._directory.exists(stored_name(name, Suffix.DONE)):
                return True
            if name not in self._proved:
                await self._prove(name, await asyncio.to_thread(_examine, file, name, told), file)
                self._proved.add(name)
            if not await self._searchable(name):
                return False
            await asyncio.to_thread(self._drop, name, told)
            self._proved.discard(name)
        return True

    async def _prove(self, name: str, found: _Found, file: BinaryIO) -> None:
        """Afterwards it is there, and noted."""
        settings = self._bucket.settings
        there = await self._notes.get(name)
        if there is not None and not found.note.same(there):
            raise Stuck("another recording of this name was brought there before")
        wrong = await difference(self._bucket, name, found.size, found.sha256)
        if wrong.endswith(ABSENT):
            try:
                if found.size <= self._part_size:
                    await self._bucket.put(settings.key(name), await asyncio.to_thread(file.read))
                else:
                    await self._in_parts(name, found, file)
            except Refused as error:
                if error.kind is Kind.ABSENT:  # of a bucket or an upload that went meanwhile
                    raise Refused(Kind.AGAIN, error.details) from None
                if error.kind is not Kind.EXISTS:  # else the answer to an earlier attempt was lost
                    raise
            wrong = await difference(self._bucket, name, found.size, found.sha256)
        if wrong:
            raise Stuck(f"{wrong}; move that object away, then it is brought there anew")
        if there is None and not await self._notes.write(name, found.note):
            raise Stuck("another recording of this name was brought there meanwhile")
        log.info("recording is in S3 url=%s size=%d", settings.url(name), found.size)

    async def _in_parts(self, name: str, found: _Found, file: BinaryIO) -> None:
        settings, size = self._bucket.settings, self._part_size
        upload, parts = await self._taken_up(name, found)
        for number in range(1, -(-found.size // size) + 1):
            if number in parts:
                continue
            data = await asyncio.to_thread(os.pread, file.fileno(), size, (number - 1) * size)
            parts[number] = await self._bucket.part(settings.key(name), upload, number, data)
            await asyncio.to_thread(journal.add, self._directory, name, parts[number])
        await self._bucket.finish(settings.key(name), upload, [parts[number] for number in sorted(parts)])

    async def _taken_up(self, name: str, found: _Found) -> tuple[str, dict[int, Part]]:
        """An upload and the parts that the service has of it: the one of the journal, if it is of these bytes and the
        service knows it still, else a new one."""
        settings = self._bucket.settings
        key = settings.key(name)
        known = await asyncio.to_thread(journal.read, self._directory, name)
        if known is not None:
            head = known.head
            same = (settings.bucket, key, found.size, found.sha256, self._part_size)
            if (head.bucket, head.key, head.size, head.sha256, head.part_size) == same:
                try:
                    there = {(one.number, one.etag, one.size) for one in await self._bucket.parts(key, head.upload)}
                except Refused as error:
                    if error.kind is not Kind.ABSENT:
                        raise
                else:
                    kept = {n: one for n, one in known.parts.items() if (n, one.etag, one.size) in there}
                    log.info("upload goes on recording=%s parts=%d", name, len(kept))
                    return head.upload, kept
        upload = await self._bucket.begin(key)
        made = journal.Head(settings.bucket, key, found.size, found.sha256, self._part_size, upload)
        try:
            await asyncio.to_thread(journal.begin, self._directory, name, made)
        except OSError:
            with suppress(Refused):
                await self._bucket.abandon(key, upload)
            raise
        return upload, {}

    def _drop(self, name: str, head: str) -> None:
        """Takes away what is there now. First the note by which its index is believed."""
        away = stored_name(name, Suffix.AWAY)
        self._directory.remove(away)
        descriptor = self._directory.create(away)
        try:
            write_all(descriptor, [f"{head}\n".encode()], 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._directory.sync()
        self._directory.remove(stored_name(name, Suffix.DONE))
        self._directory.remove(stored_name(name, Suffix.PARTS))


def _examine(file: BinaryIO, name: str, told: str) -> _Found:
    """What is here, read anew from the disk. Raises `Stuck` when that is not what arrived."""
    verified = verify_recording(file, sid=name.partition(".")[0])
    if isinstance(verified, BrokenPlace):
        raise Stuck(f"it is broken here: {verified}")
    if verified.sha256 != told:
        raise Stuck(f"it is another one than the one that arrived, whose last hash is {told}")
    file.seek(0)
    found = hashlib.sha256()
    size = 0
    while piece := file.read(_PIECE):
        found.update(piece)
        size += len(piece)
    file.seek(0)
    note = ObjectNote(
        size=size,
        sha256=found.hexdigest(),
        head=verified.sha256,
        header=verified.header,
        stored=datetime.fromtimestamp(
            os.fstat(file.fileno()).st_mtime, UTC
        ),  # as `FileRecordingStore.stored_at` has it
    )
    return _Found(size, note.sha256, note)
