"""A backup becomes the data of an auth server again: on an empty `data_dir`, here or elsewhere, at whatever address.

The backup was proved whole before the first file is written (`backup.check`); it is read a second time and laid out.
The restored server is a new host with a UUID of its own. The one that made the backup is expelled: whoever has its
disk has nothing. What the restore itself did is told by the first events that the server writes.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from teleport.audit.appendlog import make_directory, sync_directory
from teleport.audit.events import REGISTRY, BackupRestore, Event, SessionEnd, SessionStart, new_event
from teleport.audit.events.base import Actor
from teleport.audit.outbox import outbox_write
from teleport.audit.sinks import FILE_MODE, day_files
from teleport.auth.sessions.opened import OpenSession, end_of, opened
from teleport.backend.interface import MAX_WRITES, PutOp
from teleport.backend.sqlite import SqliteBackend
from teleport.backup.archive import (
    AUDIT_NAME,
    MANIFEST,
    RECORDING_NAME,
    STATE,
    Manifest,
    read_items,
    read_manifest,
    read_members,
)
from teleport.backup.check import lay
from teleport.backup.settle import RESTORED, LogEnd, Settled, head_seqs, outbox_uids, settle
from teleport.clock import Clock
from teleport.daemon.config.values import SNAPSHOTS, Config
from teleport.daemon.host import UNFINISHED
from teleport.errors import AlreadyExists, BadRequest, TeleportError

REASON: Final = "restored from a backup"


@dataclass(frozen=True, slots=True)
class Places:
    """Where an auth server keeps what a backup holds."""

    data_dir: Path
    storage: Path
    events: Path
    recordings: Path

    @classmethod
    def of(cls, config: Config) -> Places:
        storage = config.storage
        if shared := storage.shared:
            raise BadRequest(
                f"a backup cannot be restored into {shared} by this version",
                hint=f"restore it with storage of type dir, or restore {SNAPSHOTS[shared]}",
            )
        return cls(config.data_dir, storage.path, storage.events_path, storage.recordings_path)

    def check_empty(self) -> None:
        """Raises `AlreadyExists` when something is there: a restore replaces nothing."""
        for path in dict.fromkeys((self.data_dir, self.storage, self.events, self.recordings)):
            try:
                full = any(path.iterdir())
            except FileNotFoundError:
                continue
            except OSError as error:
                raise TeleportError(
                    f"{path} cannot be looked at: {error.strerror}", hint="run as the user who runs the daemon"
                ) from None
            if full:
                raise AlreadyExists(
                    f"{path} is not empty: a restore replaces nothing",
                    hint="move it away, or name another data_dir in the configuration",
                )


@dataclass(slots=True)
class Restored:
    """What was done."""

    manifest: Manifest
    items: int = 0
    events: int = 0
    recordings: int = 0
    ended: int = 0  # sessions
    left_out: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)


def restore(stream: BinaryIO, places: Places, clock: Clock, actor: Actor) -> Restored:
    """Lays out the archive in `stream`. Raises `Broken`, `AlreadyExists` or `TeleportError`; what is left of a restore
    that failed does not start."""
    places.check_empty()
    try:
        return _restore(stream, places, clock, actor)
    except OSError as error:
        raise TeleportError(
            f"the backup could not be laid out: {error.strerror} ({error.filename})",
            hint=f"make room, remove what is in {places.data_dir}, and try again",
        ) from None


def _restore(stream: BinaryIO, places: Places, clock: Clock, actor: Actor) -> Restored:
    places.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    places.data_dir.chmod(0o700)
    mark = places.data_dir / UNFINISHED
    mark.touch(mode=0o600)
    sync_directory(places.data_dir)
    manifest: Manifest | None = None
    items, recordings = [], 0
    for member in read_members(stream):
        if member.name == MANIFEST:
            manifest = read_manifest(member)
        elif member.name == STATE:
            items = list(read_items(member))
        elif log := AUDIT_NAME.fullmatch(member.name):
            make_directory(places.events, 0o750)
            make_directory(places.events / log.group(1), 0o750)
            lay(member, places.events / log.group(1) / log.group(2), FILE_MODE)
        elif recording := RECORDING_NAME.fullmatch(member.name):
            make_directory(places.recordings, 0o700)
            lay(member, places.recordings / f"{recording.group(1)}.rec", 0o600)
            recordings += 1
    assert manifest is not None, "read_members begins with it"
    log_end = LogEnd(outbox_uids(items))
    _each_line(places.events, log_end.look)
    now = clock.now()
    settled = settle(manifest, items, log_end, now)
    events = [*_ends(settled, log_end, manifest, now), _told(manifest, now, actor)]
    note = msgspec.json.encode({"time": now, "backup": manifest.created})
    writes = [PutOp(item.key, item.value, item.expires) for item in settled.items]
    writes += [PutOp(RESTORED, note), *(PutOp(*outbox_write(event)) for event in events)]
    writes += [PutOp(f"{RESTORED}/{chain}", str(seq).encode()) for chain, seq in head_seqs(settled)]
    asyncio.run(_store(places.storage, clock, writes))
    for path in (places.recordings, *(entry for entry in _folders(places.events))):
        if path.is_dir():
            sync_directory(path)
    mark.unlink()
    sync_directory(places.data_dir)
    return Restored(
        manifest,
        items=len(settled.items),
        events=log_end.lines,
        recordings=recordings,
        ended=len(events) - 1,
        left_out=settled.left_out,
        unknown=settled.unknown,
    )


def _folders(events: Path) -> list[Path]:
    """The folders of the log, each with that of one auth server."""
    return sorted(entry for entry in events.iterdir() if entry.is_dir()) if events.is_dir() else []


def _each_line(events: Path, look: Callable[[bytes], None]) -> None:
    for store in _folders(events):
        for path in day_files(store):
            with path.open("rb") as file:
                for line in file:
                    look(line.rstrip(b"\n"))


async def _store(path: Path, clock: Clock, writes: list[PutOp]) -> None:
    backend = SqliteBackend(path, clock)
    await backend.open()
    try:
        for at in range(0, len(writes), MAX_WRITES):
            await backend.commit(writes[at : at + MAX_WRITES])
    finally:
        await backend.close()


# what is told


def _ends(settled: Settled, log: LogEnd, manifest: Manifest, now: datetime) -> list[Event]:
    """The ends of sessions that nobody will tell of: as far as the backup goes, they are open. A host that still holds
    such an end delivers it, and it is kept beside this one."""
    stored = [msgspec.json.decode(each, type=OpenSession) for each in settled.open_sessions]
    sessions = {f"{one.sid}/{one.host_id}": one for one in stored}
    for key, body in log.begun.items():
        event = REGISTRY.decode(body)
        if isinstance(event, SessionStart):
            sessions.setdefault(key, opened(event))
    found: list[SessionEnd] = [end_of(session, manifest.cluster, now, REASON) for session in sessions.values()]
    return list(found)


def _told(manifest: Manifest, now: datetime, actor: Actor) -> BackupRestore:
    return new_event(
        BackupRestore,
        now,
        str(uuid.uuid4()),
        cluster_name=manifest.cluster,
        user="tctl backup restore",
        actor=actor,
        backup_created=manifest.created,
        backup_host=manifest.host_id,
        revision=manifest.revision,
        audit=manifest.audit,
        recordings=manifest.recordings,
    )
