"""The auth API in the shapes that caches, event delivery and recording uploads ask for."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

from teleport.api import messages as m
from teleport.api import routes
from teleport.api.client import AuthClient
from teleport.audit.shipper import IntakeAck
from teleport.backend.interface import Changes, Deleted, Event, Item, Put, Snapshot
from teleport.recording.storage import UploadState


async def watch(client: AuthClient, kinds: Sequence[str]) -> AsyncGenerator[Snapshot | Changes, None]:
    """Everything of `kinds`, then every change: what a cache is filled from."""
    async with aclosing(client.watch(m.WatchRequest(kinds=list(kinds)))) as lines:
        async for line in lines:
            items = [Item(entry.key, bytes(entry.value), entry.revision, entry.expires) for entry in line.put]
            if line.snapshot:
                yield Snapshot(items, line.revision)
            else:
                events: list[Event] = [Deleted(key, line.revision) for key in line.deleted]
                events += [Put(item) for item in items]  # last: should a key stand in both, a lock is not lost
                yield Changes(events, line.revision)


class RemoteDelivery:
    """Delivers this host's events (`audit.shipper.Delivery`)."""

    def __init__(self, client: AuthClient) -> None:
        self._client = client

    async def intake(self, emitter: str, epoch: int, lines: list[bytes]) -> IntakeAck:
        request = m.IntakeRequest(emitter=emitter, epoch=epoch, lines=[line.decode() for line in lines])
        reply = await self._client.call(routes.INTAKE, request)
        return IntakeAck(reply.next_seq, reply.head, reply.checkpoint, may_skip=reply.may_skip)


class RemoteRecordings:
    """Takes this host's recordings to auth (`recording.storage.RecordingSink`)."""

    def __init__(self, client: AuthClient) -> None:
        self._client = client

    async def begin(self, sid: str) -> UploadState:
        reply = await self._client.call(routes.RECORDING_OFFSET, m.RecordingRequest(sid=sid))
        return UploadState(reply.offset, reply.complete)

    async def append(self, sid: str, offset: int, data: bytes) -> int:
        async def body() -> AsyncIterator[bytes]:
            yield data

        request = m.AppendRecordingRequest(sid=sid, offset=offset)
        return (await self._client.upload(routes.APPEND_RECORDING, request, body())).offset

    async def complete(self, sid: str, sha256: str) -> None:
        # verifying a large recording takes auth a while
        request = m.CompleteRecordingRequest(sid=sid, sha256=sha256)
        await self._client.call(routes.COMPLETE_RECORDING, request, timeout=600)
