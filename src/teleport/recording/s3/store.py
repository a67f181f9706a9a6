"""Recordings wherever they lie: here while they wait to be brought to S3, and there afterwards.

What hosts upload is taken in here as ever (`recording.storage`). A recording is read here as long as its file is; then
it is fetched, and believed only if it has the bytes that were noted. A note is written before the file here goes, and
files are looked at before notes, so that in between none is missed.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import BinaryIO

from teleport.errors import AlreadyExists, LimitExceeded, NotFound, TeleportError
from teleport.recording.directory import Suffix, stored_name
from teleport.recording.format import BrokenPlace, BrokenRecording, RecordingHeader, canonical_name
from teleport.recording.index import index_head
from teleport.recording.s3 import journal
from teleport.recording.s3.bucket import PIECE, Bucket, Refused
from teleport.recording.s3.fetched import ABSENT, Fetches, difference
from teleport.recording.s3.notes import Notes, ObjectNote
from teleport.recording.storage import (
    FileRecordingStore,
    HostSink,
    Stays,
    StoredRecording,
    UploadState,
    stored_recording,
)
from teleport.recording.verify import SignatureCheck, VerifiedRecording, verify_recording


class S3RecordingStore(FileRecordingStore):
    """As the store of files, for all callers."""

    def __init__(
        self,
        path: Path,
        bucket: Bucket,
        notes: Notes,
        *,
        check_signature: SignatureCheck | None = None,
        require_signature: bool = False,
    ) -> None:
        super().__init__(path, check_signature=check_signature, require_signature=require_signature)
        self._bucket = bucket
        self._notes = notes
        self._fetches = Fetches(bucket, self.directory)

    def sink_for(self, host_id: str) -> HostSink:
        return _Sink(self, super().sink_for(host_id), self._notes, host_id)

    def url(self, name: str) -> str:
        return self._bucket.settings.url(name)

    @property
    def lost(self) -> str:
        return (
            "it arrived, and is neither here nor noted as brought to S3: another auth server may have it still, or, "
            f"after a restore, it lies in {self._bucket.settings.where} without a note"
        )

    async def exists(self, name: str) -> bool:
        return await super().exists(name) or await self._noted(name) is not None

    async def name_of(self, name: str) -> str:
        lies = await super().name_of(name)
        if await super().exists(lies):
            return lies
        found = await self._noted(name)
        return found[0] if found is not None else lies

    async def _noted(self, name: str) -> tuple[str, ObjectNote] | None:
        """Under which name there is a note, and the note."""
        sid, dot, maker = canonical_name(name).partition(".")
        if (note := await self._notes.get(name)) is not None:
            return name, note
        if dot and (note := await self._notes.get(sid)) is not None and note.header.made_by == maker:
            return sid, note
        return None

    async def _brought(self, name: str, absent: NotFound) -> tuple[str, ObjectNote]:
        """As `_noted`, of what is `absent` here; raises that when it is nowhere."""
        found = await self._noted(name)
        if found is None:
            raise absent
        return found

    async def header(self, name: str) -> RecordingHeader:
        try:
            return await super().header(name)
        except NotFound as absent:
            return (await self._brought(name, absent))[1].header

    async def open(self, name: str) -> BinaryIO:
        """Raises also `BrokenRecording` when what lies in S3 is not what was brought there."""
        try:
            return await super().open(name)
        except NotFound as absent:
            found = await self._brought(name, absent)
        file = await self._fetched(*found)
        if isinstance(file, BrokenPlace):
            raise BrokenRecording(file, name)
        return file

    async def _fetched(self, name: str, note: ObjectNote) -> BinaryIO | BrokenPlace:
        try:
            return await self._fetches.open(name, note)
        except Refused as error:
            raise self._bucket.explain("read", error) from None
        except OSError as error:
            raise LimitExceeded(
                f"recording {name} cannot be fetched from S3: {error.strerror}",
                hint=f"make room on the disk of {self.directory.path}",
            ) from None

    async def end(self) -> None:
        """Nothing is fetched any more."""
        await self._fetches.close()

    async def verify(self, name: str) -> VerifiedRecording | BrokenPlace:
        try:
            return await super().verify(name)
        except NotFound as absent:
            found = await self._brought(name, absent)
        file = await self._fetched(*found)
        if isinstance(file, BrokenPlace):
            return file
        with file:
            return await asyncio.to_thread(
                verify_recording,
                file,
                sid=name.partition(".")[0],
                check_signature=self._check_signature,
                require_signature=self._require_signature,
            )

    async def searchable(self, name: str) -> bool:
        def here() -> bool:
            try:
                return index_head(self.directory, name) is not None
            except (TeleportError, OSError):
                return False

        return await super().exists(name) or await asyncio.to_thread(here)

    async def stored_at(self, name: str) -> datetime | None:
        try:
            return await super().stored_at(name)
        except NotFound as absent:
            return (await self._brought(name, absent))[1].stored

    async def date(self, name: str, stored: datetime) -> None:
        await self._notes.date(name, stored)

    async def noted_hash(self, name: str) -> str:
        if await super().exists(name):
            return ""
        found = await self._noted(name)
        return found[1].head if found is not None else ""

    async def difference(self, name: str) -> BrokenPlace | None:
        note = await self._notes.get(name)
        if note is None:  # else it lies there also while the file here has not gone yet
            if await super().exists(name):
                return None
            raise NotFound(f"there is no recording {name}", hint="tctl recordings ls")
        try:
            wrong = await difference(self._bucket, name, note.size, note.sha256)
        except Refused as error:
            raise self._bucket.explain("read", error) from None
        return BrokenPlace(None, 0, wrong, absent=wrong.endswith(ABSENT)) if wrong else None

    @asynccontextmanager
    async def removing(self, name: str) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """Nobody brings the file here to S3 meanwhile. What has the recording's name there is read where only that can
        tell whose it is."""
        with ExitStack() as stack:
            file: BinaryIO | None = None
            with suppress(NotFound):
                opened = await asyncio.to_thread(self._directory.open, stored_name(name, Suffix.DONE), write=True)
                file = stack.enter_context(os.fdopen(opened, "rb"))
            try:
                if file is not None:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Stays(f"recording {name} is being brought to S3", hint="it is tried again") from None
            with self._stays(name, "read"):
                there = await self._is_there(name, file)
            yield partial(self._remove, name, there=there)

    async def remove(self, name: str) -> None:
        async with self.removing(name) as remove:
            await remove()

    async def _remove(self, name: str, *, there: bool) -> None:
        """First there, with all versions, then what is here, the note at last: whoever is stopped in between finds it
        again by the note, or by the file here, and goes on."""
        if there:
            with self._stays(name, "remove"):
                await self._bucket.remove(self._bucket.settings.key(name))
        await asyncio.to_thread(self._forget, name)
        await self._notes.remove(name)

    @contextmanager
    def _stays(self, name: str, doing: str) -> Iterator[None]:
        """What the bucket refuses of one recording concerns no other."""
        try:
            yield
        except Refused as error:
            why = self._bucket.explain(doing, error)
            raise Stays(f"recording {name} is not removed: {why.message}", hint=why.hint) from why

    async def _is_there(self, name: str, file: BinaryIO | None) -> bool:
        """Whether the bucket has something of it to remove; `file` is what is here. Of an upload that was begun nothing
        is left."""
        if file is not None and (known := await asyncio.to_thread(journal.read, self._directory, name)):
            with suppress(Refused):  # the bucket's own rule ends it else
                await self._bucket.abandon(known.head.key, known.head.upload)
        return file is None or await self._notes.get(name) is not None or await self._is_ours(name, file)

    async def _is_ours(self, name: str, file: BinaryIO) -> bool:
        """Whether what has its name there are the bytes of the file here, of which no note was written yet."""
        size, sha256 = await asyncio.to_thread(_summed, file)
        return not await difference(self._bucket, name, size, sha256)

    def _forget(self, name: str) -> None:
        # the note by which the index is believed comes last, as it leads here (`tidy`)
        for suffix in (Suffix.DONE, Suffix.PARTS, Suffix.INDEX, Suffix.AWAY):
            self._directory.remove(stored_name(name, suffix))

    async def tidy(self) -> None:
        here = await asyncio.to_thread(self._directory.names, Suffix.AWAY)
        known = await self._notes.every() if here else {}
        for name in here:
            if name not in known and not await super().exists(name):
                await asyncio.to_thread(self._forget, name)

    async def all(self) -> list[StoredRecording]:
        here = await super().all()
        found = {one.name: one for one in _listed(await self._notes.every())} | {one.name: one for one in here}
        return sorted(found.values(), key=lambda one: (one.started, one.name), reverse=True)

    async def names(self) -> list[str]:
        here = await super().names()
        return sorted({*here, *(await self._notes.every())})

    async def some(self, names: Iterable[str]) -> list[StoredRecording]:
        wanted = sorted(set(names))
        found = {one.name: one for one in await super().some(wanted)}
        for name in wanted:
            if name not in found and (note := await self._notes.get(canonical_name(name))) is not None:
                found[name] = stored_recording(name, note.header, note.size)
        return [found[name] for name in wanted if name in found]

    async def recordings(self, *, after: str = "", limit: int = 100) -> list[StoredRecording]:
        every = sorted(await self.all(), key=lambda one: one.name)
        return [one for one in every if one.name > after][:limit]


def _summed(file: BinaryIO) -> tuple[int, str]:
    """Its size, and its SHA-256."""
    found = hashlib.sha256()
    file.seek(0)
    while piece := file.read(PIECE):
        found.update(piece)
    return file.tell(), found.hexdigest()


def _listed(notes: Mapping[str, ObjectNote]) -> list[StoredRecording]:
    return [stored_recording(name, note.header, note.size) for name, note in notes.items()]


class _Sink(HostSink):
    """What a host has brought to any auth server is not taken in again."""

    def __init__(self, store: S3RecordingStore, here: HostSink, notes: Notes, host_id: str) -> None:
        super().__init__(store, host_id)
        self._here = here
        self._notes = notes

    async def _there(self, sid: str) -> tuple[str, ObjectNote] | None:
        for name in (f"{canonical_name(sid)}.{self._host_id}", sid):
            note = await self._notes.get(name)
            if note is not None and note.header.made_by == self._host_id:
                return name, note
        return None

    async def begin(self, sid: str) -> UploadState:
        found = await self._there(sid)
        return UploadState(found[1].size, found[1].head) if found is not None else await self._here.begin(sid)

    async def append(self, sid: str, offset: int, data: bytes) -> int:
        found = await self._there(sid)
        return found[1].size if found is not None else await self._here.append(sid, offset, data)

    async def keep(self, sid: str, sha256: str, *, first_is_told: bool = False, records_others: bool = True) -> str:
        found = await self._there(sid)
        if found is None:
            return await self._here.keep(sid, sha256, first_is_told=first_is_told, records_others=records_others)
        if found[1].head != sha256:
            raise AlreadyExists(f"session {sid} has another recording of this host", hint="tctl recordings ls")
        return found[0]
