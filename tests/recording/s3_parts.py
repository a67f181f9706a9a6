"""Auth servers' recordings over a real S3 server, as the tests of this folder need them."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from secrets import token_bytes
from typing import Any

from tests.recording.recording_samples import HOST, SID, check_signature, recording

from teleport.auth.evidence.objects import OBJECTS, StoredNotes
from teleport.auth.evidence.recorded import UPLOADS
from teleport.aws.answers import Kind
from teleport.backend.interface import Backend, PutOp
from teleport.backend.memory import MemoryBackend
from teleport.clock import SystemClock
from teleport.recording.format import Frame, FrameKind
from teleport.recording.s3.bucket import Bucket, Refused
from teleport.recording.s3.settings import S3Settings
from teleport.recording.s3.store import S3RecordingStore
from teleport.recording.s3.uploader import Uploader
from teleport.testing import s3

PART = 5 * 1024 * 1024


def large(size: int, sid: str = SID) -> bytes:
    """A recording of about so many bytes, which cannot be packed."""
    piece = 256 * 1024
    frames = [Frame(at, FrameKind.OUTPUT, token_bytes(piece)) for at in range(0, size // piece)]
    return recording(frames, sid=sid)


@dataclasses.dataclass
class Side:
    """One auth server's part in it."""

    folder: Path
    bucket: Bucket
    store: S3RecordingStore
    uploader: Uploader
    backend: Backend

    async def take(self, data: bytes, sid: str = SID, host: str = HOST, *, told: bool = True) -> str:
        """As if a host had uploaded it; the name under which it is kept."""
        sink = self.store.sink_for(host)
        for at in range(0, len(data), 4 * 1024 * 1024):
            await sink.append(sid, at, data[at : at + 4 * 1024 * 1024])
        name = await sink.keep(sid, data[-32:].hex())
        if told:
            await self.backend.commit([PutOp(UPLOADS + name, data[-32:].hex().encode())])
        return name

    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())

    async def noted(self) -> bool:
        return bool(await self.backend.range(OBJECTS))

    async def object(self, name: str = SID) -> bytes:
        return b"".join([piece async for piece in self.bucket.read(self.bucket.settings.key(name))])

    async def call(self, operation: str, **parameters: Any) -> Any:
        """Of the client itself: what somebody else does to the bucket."""
        return await s3.call(self.bucket, operation, **parameters)

    async def replace(self, data: bytes, name: str = SID) -> None:
        """As somebody who may write to the bucket does."""
        await self.call("put_object", Key=self.bucket.settings.key(name), Body=data)


class Sides:
    """Auth servers, and their common storage."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.backend = MemoryBackend(SystemClock(), sweep_every=None)
        self._is_open = False

    @asynccontextmanager
    async def side(
        self,
        settings: S3Settings,
        name: str = "auth",
        *,
        made: bool = True,
        bucket: Callable[[S3Settings], Bucket] = Bucket,
        searchable: Sequence[bool] = (),
    ) -> AsyncIterator[Side]:
        """`made`: the bucket is made if it is not there. `searchable`: what is answered at first of an index."""
        answers = list(searchable)

        async def index(_: str) -> bool:
            return answers.pop(0) if answers else True

        if not self._is_open:
            await self.backend.open()
            self._is_open = True
        async with AsyncExitStack() as stack:
            opened, folder, notes = bucket(settings), self._path / name, StoredNotes(self.backend)
            stack.push_async_callback(opened.close)
            store = S3RecordingStore(folder, opened, notes, check_signature=check_signature, require_signature=True)
            stack.callback(store.close)
            stack.push_async_callback(store.end)
            uploader = Uploader(opened, store.directory, notes, index, part_size=PART, pause=0.01)
            side = Side(folder, opened, store, uploader, self.backend)
            if made:
                await s3.make(opened)
            yield side


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Killed(BaseException):
    """The process ends here."""


class KilledAt(Bucket):
    """A bucket at whose call of a name, the `count`-th, this process is gone: before it is sent, or once it was
    answered."""

    def __init__(self, settings: S3Settings, call: str, count: int, *, after: bool) -> None:
        super().__init__(settings)
        self._at, self._left, self._after = call, count, after
        self.calls: list[str] = []

    async def _call(self, operation: str, **parameters: Any) -> Any:
        self.calls.append(operation)
        if operation == self._at:
            self._left -= 1
            if self._left == 0:
                if self._after:
                    try:
                        await super()._call(operation, **parameters)
                    except Refused:
                        raise Killed from None
                raise Killed
        return await super()._call(operation, **parameters)


class FailsOver(Bucket):
    """A bucket that fails over one recording."""

    def __init__(self, settings: S3Settings, sid: str) -> None:
        super().__init__(settings)
        self._sid = sid

    async def _call(self, operation: str, **parameters: Any) -> Any:
        if self._sid in parameters.get("Key", ""):
            raise Refused(Kind.AGAIN, "as told")
        return await super()._call(operation, **parameters)


class Gated(Bucket):
    """A bucket that counts what is sent to it at a time, and takes nothing of one recording until that is `opened`."""

    def __init__(self, settings: S3Settings, shut: str) -> None:
        super().__init__(settings)
        self._shut = shut
        self.opened = asyncio.Event()
        self.most = self.most_bytes = self._now = self._bytes = 0

    async def _call(self, operation: str, **parameters: Any) -> Any:
        if operation not in ("put_object", "upload_part"):
            return await super()._call(operation, **parameters)
        size = len(parameters["Body"])
        self._now, self._bytes = self._now + 1, self._bytes + size
        self.most, self.most_bytes = max(self.most, self._now), max(self.most_bytes, self._bytes)
        try:
            if self._shut in parameters["Key"]:
                await self.opened.wait()
            return await super()._call(operation, **parameters)
        finally:
            self._now, self._bytes = self._now - 1, self._bytes - size


class Watched(Bucket):
    """A bucket that remembers what it was asked."""

    def __init__(self, settings: S3Settings) -> None:
        super().__init__(settings)
        self.given: list[tuple[str, dict[str, Any]]] = []

    async def _call(self, operation: str, **parameters: Any) -> Any:
        self.given.append((operation, parameters))
        return await super()._call(operation, **parameters)


class Slow(Bucket):
    """A bucket whose objects are read while it `flows`."""

    def __init__(self, settings: S3Settings) -> None:
        super().__init__(settings)
        self.flows = asyncio.Event()
        self.flows.set()
        self.reads = 0

    async def read(self, key: str) -> AsyncGenerator[bytes, None]:
        self.reads += 1
        await self.flows.wait()
        async with aclosing(super().read(key)) as pieces:
            async for piece in pieces:
                yield piece
