"""A backup while the cluster runs: its state of one moment, then the log, then the recordings, as one stream.

The order keeps it consistent without holding anybody up. The state is one read transaction. Before the log is looked
at, auth waits until it holds what its own emitter had written by then; so the log has at least every event of every
change that is in the state, and what it has beyond that, a restore takes into account. A recording that the log tells
of is complete by the time recordings are listed. Encrypting is the caller's part: keys and passphrases stay with it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol

from teleport import __version__
from teleport.api import messages as m
from teleport.audit.appendlog import whole_lines
from teleport.audit.chain import ChainKey, Head
from teleport.audit.events import BackupCreate
from teleport.audit.sinks import day_files
from teleport.auth.authorizer import require_administrator
from teleport.auth.caller import Caller
from teleport.auth.evidence.removed import RemovedRecordings
from teleport.auth.state import ClusterState
from teleport.errors import NotFound, TeleportError
from teleport.pki.pin import ca_pin
from teleport.recording.format import BrokenRecording
from teleport.recording.storage import FileRecordingStore
from teleport.resources.cluster import ClusterName
from teleport.store import records

if TYPE_CHECKING:
    from teleport.backup.archive import Summed

CATCH_UP: Final = 30.0  # seconds until the log must hold what auth itself has written
LOOK: Final = 0.02


class Heads(Protocol):
    """How far the log holds a chain (`audit.intake.Intake`)."""

    def head(self, key: ChainKey) -> Head: ...


class Emits(Protocol):
    """Auth's own emitter."""

    @property
    def key(self) -> ChainKey: ...

    @property
    def durable_seq(self) -> int: ...


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    path: Path
    size: int  # bytes that count: the newest file goes on growing


class Backups:
    """The handler."""

    def __init__(
        self,
        state: ClusterState,
        heads: Heads,
        emitter: Emits,
        recordings: FileRecordingStore,
        audit_directory: Path,
        host_name: str,
    ) -> None:
        self._state = state
        self._heads = heads
        self._emitter = emitter
        self._recordings = recordings
        self._audit_directory = audit_directory
        self._host_name = host_name

    async def create(self, caller: Caller, request: m.BackupRequest) -> AsyncIterator[bytes]:
        """The archive (`backup.archive`), not encrypted; only for the administrator of an auth server."""
        from teleport.backup import archive  # a daemon that makes no backup needs none of it
        from teleport.backup.archive import Manifest, StoredItem

        require_administrator(caller, "take a backup")
        with_audit, with_recordings = not request.without_audit, not request.without_recordings
        await self._state.tell(self._state.event(BackupCreate, caller, audit=with_audit, recordings=with_recordings))
        now = self._state.clock.now()
        snapshot = await self._state.backend.snapshot([""])
        manifest = Manifest(
            version=__version__,
            cluster=self._state.cluster,
            cluster_id=await self._cluster_id(),
            created=now,
            host_id=self._emitter.key.emitter,
            host_name=self._host_name,
            revision=snapshot.revision,
            audit=with_audit,
            recordings=with_recordings,
            pins=[ca_pin(cert.encode()) for cert in (await self._state.authority("host")).trusted_tls_certs],
        )
        items = [StoredItem(key=item.key, value=item.value, expires=item.expires) for item in snapshot.items]
        members: list[Summed] = []
        for name, content in (
            (archive.MANIFEST, archive.encode_manifest(manifest)),
            (archive.STATE, await asyncio.to_thread(archive.encode_items, items)),
        ):
            data, summed = archive.whole_member(name, content, now)
            members.append(summed)
            for at in range(0, len(data), archive.PIECE):
                yield data[at : at + archive.PIECE]
        del items, snapshot
        if with_audit:
            await self._caught_up()
            for file in await asyncio.to_thread(_log_files, self._audit_directory):
                with file.path.open("rb") as log_file:
                    async with aclosing(self._member(file.name, log_file, file.size, members)) as pieces:
                        async for piece in pieces:
                            yield piece
        if with_recordings:
            for member in sorted(f"recordings/{name}.rec" for name in await self._recordings.names()):
                try:
                    opened = await self._recordings.open(member.removeprefix("recordings/").removesuffix(".rec"))
                except NotFound:
                    continue  # removed meanwhile
                except BrokenRecording as error:
                    name = member.removeprefix("recordings/").removesuffix(".rec")
                    if error.place.absent and await RemovedRecordings(self._state.backend).of(name):
                        continue  # it is being removed
                    raise
                with opened:
                    size = os.fstat(opened.fileno()).st_size
                    async with aclosing(self._member(member, opened, size, members)) as pieces:
                        async for piece in pieces:
                            yield piece
        yield archive.archive_end(members, now)

    async def _member(self, name: str, file: BinaryIO, size: int, members: list[Summed]) -> AsyncGenerator[bytes, None]:
        from teleport.backup import archive

        yield archive.member_head(name, size, self._state.clock.now())
        found, left = hashlib.sha256(), size
        while left:
            piece = await asyncio.to_thread(file.read, min(left, archive.PIECE))
            if not piece:
                raise TeleportError(f"{name} became shorter while it was being backed up", hint="try again")
            found.update(piece)
            left -= len(piece)
            yield piece
        yield archive.padding(size)
        members.append(archive.Summed(name=name, size=size, sha256=found.hexdigest()))

    async def _caught_up(self) -> None:
        """Waits until the log holds what auth has emitted by now."""
        wanted = self._emitter.durable_seq
        try:
            async with asyncio.timeout(CATCH_UP):
                while self._heads.head(self._emitter.key).seq < wanted:  # noqa: ASYNC110 - several tasks move it on
                    await asyncio.sleep(LOOK)
        except TimeoutError:
            raise TeleportError(
                "auth's own events do not reach its log, so a backup of it would not be whole",
                hint="the log of the daemon says why; --without-audit leaves the log out",
            ) from None

    async def _cluster_id(self) -> str:
        found = await self._state.find(records.CLUSTER, "cluster-name", ClusterName)
        return found[0].spec.cluster_id if found is not None else ""


def _log_files(directory: Path) -> list[_File]:
    """The files of every store there is, in order; of the newest only whole lines."""
    from teleport.backup import archive

    found = []
    stores = sorted(entry for entry in directory.iterdir() if entry.is_dir() and not entry.is_symlink())
    for store in stores:
        files = day_files(store)
        for path in files:
            name = f"audit/{store.name}/{path.name}"
            if archive.AUDIT_NAME.fullmatch(name) is None:
                continue  # nothing of ours
            size = whole_lines(path) if path is files[-1] else path.stat().st_size
            found.append(_File(name, path, size))
    return found
