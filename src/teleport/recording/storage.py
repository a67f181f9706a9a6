"""Finished recordings on the auth service, in files: `<folder>/<sid>.rec`.

Hosts are not trusted here. A host uploads into a part of its own (`<sid>.<host id>.upload`), so it cannot disturb the
upload of another; a part becomes a recording only when its header names this session and this host, its chain and
totals hold, and its hash is the one that was announced. A stored recording is never replaced, and stands in nobody's
way: where `<sid>.rec` is of another host, who perhaps only claims the session, a host's own is `<sid>.<host id>.rec`
beside it. What stands before `.rec` is the recording's *name*; `SID.HOST` finds that host's wherever it lies.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol

from teleport.errors import AccessDenied, AlreadyExists, BadRequest, LimitExceeded, NotFound, TeleportError
from teleport.recording.directory import RecordingDirectory, Suffix, file_name, stored_name, write_all
from teleport.recording.format import (
    BrokenPlace,
    BrokenRecording,
    RecordingHeader,
    RecordingParser,
    canonical_name,
    canonical_uuid,
)
from teleport.recording.player import RecordingReader
from teleport.recording.verify import SignatureCheck, VerifiedRecording, verify_recording

MAX_PIECE = 4 * 1024 * 1024
_HEAD = 128 * 1024  # the header is within this much


@dataclass(frozen=True, slots=True)
class UploadState:
    """What a sink has of a recording."""

    offset: int  # bytes it holds, from the first on
    complete: str = ""  # hex hash of the stored recording; empty while it is not complete


class Stays(TeleportError):
    """One recording cannot be removed now."""


class RecordingSink(Protocol):
    """Where finished recordings go. Every call may be repeated."""

    async def begin(self, sid: str) -> UploadState:
        """What is there already of this host's recording."""
        ...

    async def append(self, sid: str, offset: int, data: bytes) -> int:
        """Adds `data`, which belongs at `offset`, and returns how many bytes are there then. When `offset` is not
        the present length nothing is added, and the length says where to go on."""
        ...

    async def complete(self, sid: str, sha256: str) -> None:
        """Verifies and keeps it. When this returns the recording is safe there. `BrokenRecording` when it does not
        verify: then the sink has dropped what it had."""
        ...


class SessionKind(StrEnum):
    """Sorts of sessions, by which lists of recordings are restricted."""

    SHELL = "shell"  # with a terminal
    EXEC = "exec"  # a command without one
    TRANSFER = "transfer"  # sftp, scp, rsync


_TRANSFERS = frozenset({"sftp", "internal-sftp", "sftp-server", "scp", "rsync"})


@dataclass(frozen=True, slots=True)
class StoredRecording:
    """One line of a list of recordings."""

    name: str  # by which it is opened: the session's id, or that and its maker's where another host's was first
    sid: str
    made_by: str  # UUID of the host that made it: the node, or a proxy
    size: int
    started: datetime
    user: str
    login: str
    node_id: str
    node_name: str
    command: str
    interactive: bool

    @property
    def kind(self) -> SessionKind:
        """What sort of session it was."""
        if self.interactive:
            return SessionKind.SHELL
        program = self.command.split(maxsplit=1)[0].rpartition("/")[2] if self.command.strip() else ""
        return SessionKind.TRANSFER if program in _TRANSFERS else SessionKind.EXEC


def stored_recording(name: str, header: RecordingHeader, size: int) -> StoredRecording:
    """The line of a recording, out of what it says of itself."""
    return StoredRecording(
        name=name,
        sid=header.sid,
        made_by=header.made_by,
        size=size,
        started=header.started,
        user=header.user,
        login=header.login,
        node_id=header.node_id,
        node_name=header.place,
        command=header.command,
        interactive=header.interactive,
    )


class FileRecordingStore:
    """All calls work in threads and may run at the same time."""

    def __init__(
        self,
        path: Path,
        *,
        check_signature: SignatureCheck | None = None,
        require_signature: bool = False,
        max_size: int = 64 * 1024**3,
    ) -> None:
        """`max_size`: bytes of one recording. Raises `TeleportError` when the folder cannot be used."""
        self._directory = RecordingDirectory(path)
        self._check_signature = check_signature
        self._require_signature = require_signature
        self._max_size = max_size
        self._known: dict[str, StoredRecording] = {}
        self._known_lock = threading.Lock()

    def close(self) -> None:
        self._directory.close()

    def sink_for(self, host_id: str) -> HostSink:
        """The sink of one authenticated host."""
        return HostSink(self, canonical_uuid(host_id, "host id"))

    async def exists(self, name: str) -> bool:
        return await asyncio.to_thread(lambda: self._directory.exists(stored_name(self._lies(name), Suffix.DONE)))

    async def header(self, name: str) -> RecordingHeader:
        """What the stored recording says of itself. `NotFound` when there is none."""

        def read() -> RecordingHeader:
            with self._open(name) as file:
                return RecordingReader(file).header

        return await asyncio.to_thread(read)

    async def set_beside(self, sid: str, host_id: str) -> str:
        """Gives a host's recording, which lies as the session's first, its own name, and returns that."""
        own = _own_name(sid, host_id)

        def rename() -> None:
            if self._maker(sid) == host_id:
                with suppress(FileExistsError):
                    self._directory.rename(stored_name(sid, Suffix.DONE), stored_name(own, Suffix.DONE))

        await asyncio.to_thread(rename)
        return own

    def url(self, name: str) -> str:
        """Where the recording of that name lies, for events."""
        return f"file:///{name}.rec"

    @property
    def lost(self) -> str:
        """What is to be said of a recording that arrived, and that nobody finds."""
        return "it arrived here, and is here no more"

    async def searchable(self, name: str) -> bool:
        """Whether this auth server can search, or make searchable, what the recording showed."""
        return True

    async def open(self, name: str) -> BinaryIO:
        """The stored recording, for reading; the caller closes it. `NotFound` when there is none."""
        return await asyncio.to_thread(self._open, name)

    def _open(self, name: str) -> BinaryIO:
        return os.fdopen(self._directory.open(stored_name(self._lies(name), Suffix.DONE)), "rb")

    async def name_of(self, name: str) -> str:
        """Under which name a recording lies: what a host made is perhaps the session's first one."""
        return await asyncio.to_thread(self._lies, name)

    def _lies(self, name: str) -> str:
        sid, dot, maker = canonical_name(name).partition(".")
        if not dot or self._directory.exists(stored_name(name, Suffix.DONE)):
            return name
        return sid if self._maker(sid) == maker else name

    def _maker(self, sid: str) -> str:
        """Who made `<sid>.rec`; empty when that is not there, or cannot be read."""
        try:
            with os.fdopen(self._directory.open(file_name(sid, Suffix.DONE)), "rb") as file:
                return _header(file, sid).made_by
        except (NotFound, BrokenRecording):
            return ""

    async def verify(self, name: str) -> VerifiedRecording | BrokenPlace:
        """Whether the stored recording is whole, read anew from the disk. `NotFound` when there is none."""

        def verify() -> VerifiedRecording | BrokenPlace:
            with self._open(name) as file:
                return verify_recording(
                    file,
                    sid=name.partition(".")[0],
                    check_signature=self._check_signature,
                    require_signature=self._require_signature,
                )

        return await asyncio.to_thread(verify)

    @property
    def directory(self) -> RecordingDirectory:
        """Where they lie."""
        return self._directory

    async def all(self) -> list[StoredRecording]:
        """Every recording whose header can be read, newest first. Headers are read once: recordings do not change."""
        return await asyncio.to_thread(self._all)

    def _all(self) -> list[StoredRecording]:
        names = set(self._directory.names(Suffix.DONE))
        with self._known_lock:
            for name in self._known.keys() - names:
                del self._known[name]
            for name in names - self._known.keys():
                with suppress(TeleportError):
                    self._known[name] = self._summary(name)
            return sorted(self._known.values(), key=lambda one: (one.started, one.name), reverse=True)

    async def stored_at(self, name: str) -> datetime | None:
        """When it was stored whole, by this machine's clock; None where nobody noted it. Raises `NotFound`."""

        def look() -> datetime:
            with os.fdopen(self._directory.open(stored_name(name, Suffix.DONE)), "rb") as file:
                return datetime.fromtimestamp(os.fstat(file.fileno()).st_mtime, UTC)

        return await asyncio.to_thread(look)

    async def date(self, name: str, stored: datetime) -> None:
        """Notes when it was stored, where `stored_at` does not know."""

    async def difference(self, name: str) -> BrokenPlace | None:
        """How what lies elsewhere under this very name differs from what was noted of it, read anew, without room on
        the disk; None when it does not, or nothing lies there. Raises `NotFound`, and `TeleportError` when it cannot
        be read."""
        return None

    async def noted_hash(self, name: str) -> str:
        """The last hash of a recording whose bytes lie elsewhere, as it was noted; empty when they are here, or
        nowhere. It tells nothing of what is there now."""
        return ""

    async def tidy(self) -> None:
        """Removes what is left here of recordings that were removed elsewhere."""

    @asynccontextmanager
    async def removing(self, name: str) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """Does all of a removal that takes long and takes nothing away; what is handed out then removes the recording,
        within seconds, as `remove` does. Raises as that does."""
        yield partial(self.remove, name)

    async def remove(self, name: str) -> None:
        """Removes it, durably, and what was made of it for searching. May be repeated, and has to be when it raised:
        `Stays` when this recording cannot be removed now; others perhaps can."""

        def remove() -> None:
            self._directory.remove(stored_name(name, Suffix.DONE))
            self._directory.remove(stored_name(name, Suffix.INDEX))

        await asyncio.to_thread(remove)

    async def names(self) -> list[str]:
        """The names of all that are stored whole, in order."""
        return await asyncio.to_thread(self._directory.names, Suffix.DONE)

    async def some(self, names: Iterable[str]) -> list[StoredRecording]:
        """Those of `names` that are there and whose header can be read."""
        return await asyncio.to_thread(self._some, sorted(names))

    def _some(self, names: list[str]) -> list[StoredRecording]:
        found: list[StoredRecording] = []
        for name in names:
            with suppress(TeleportError):
                found.append(self._summary(canonical_name(name)))
        return found

    async def recordings(self, *, after: str = "", limit: int = 100) -> list[StoredRecording]:
        """Up to `limit` recordings with ids above `after`, by id. A file whose header is unreadable is left out."""
        return await asyncio.to_thread(self._list, after, limit)

    def _list(self, after: str, limit: int) -> list[StoredRecording]:
        found: list[StoredRecording] = []
        for name in self._directory.names(Suffix.DONE):
            if name <= after:
                continue
            if len(found) >= limit:
                break
            with suppress(TeleportError):
                found.append(self._summary(name))
        return found

    def _summary(self, name: str) -> StoredRecording:
        sid, dot, maker = name.partition(".")
        with os.fdopen(self._directory.open(stored_name(name, Suffix.DONE)), "rb") as file:
            header = _header(file, sid)
            size = os.fstat(file.fileno()).st_size
        if dot and header.made_by != maker:
            raise BrokenRecording(BrokenPlace(None, 0, "it was recorded by another host than its name says"), name)
        return stored_recording(name, header, size)

    # One host's uploads; called in threads by HostSink

    def begin(self, sid: str, host_id: str) -> UploadState:
        own = self._own(sid, host_id)
        if own:
            with self._open(own) as file:
                size = file.seek(-32, os.SEEK_END) + 32
                return UploadState(size, file.read().hex())
        try:
            descriptor = self._directory.open(_upload_name(sid, host_id))
        except NotFound:
            return UploadState(0)
        try:
            return UploadState(os.fstat(descriptor).st_size)
        finally:
            os.close(descriptor)

    def append(self, sid: str, host_id: str, offset: int, data: bytes) -> int:
        if len(data) > MAX_PIECE or offset < 0:
            raise BadRequest(
                f"a piece of {len(data)} bytes at {offset} is out of range", hint=f"send up to {MAX_PIECE}"
            )
        if self._own(sid, host_id):
            return self.begin(sid, host_id).offset
        self._directory.check_room(sid, "stored")
        name = _upload_name(sid, host_id)
        descriptor = self._open_upload(name)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            size = os.fstat(descriptor).st_size
            if offset != size:
                return size
            if size + len(data) > self._max_size:
                raise LimitExceeded(f"the recording of session {sid} is above {self._max_size} bytes")
            try:
                return size + write_all(descriptor, [data], size)
            except OSError as error:
                os.ftruncate(descriptor, size)
                raise LimitExceeded(
                    f"the recording of session {sid} cannot be stored: {error.strerror}",
                    hint=f"make room on the disk of {self._directory.path}",
                ) from error
        finally:
            os.close(descriptor)

    def _own(self, sid: str, host_id: str) -> str:
        """The name of what is stored of this host, or empty."""
        name = self._lies(_own_name(sid, host_id))
        return name if self._directory.exists(stored_name(name, Suffix.DONE)) else ""

    def complete(
        self, sid: str, host_id: str, sha256: str, *, first_is_told: bool = False, records_others: bool = True
    ) -> str:
        """The name under which it is stored. `first_is_told`: another recording was stored as `<sid>.rec` before and
        is told of, also when it is there no more. `records_others`: whether the host, a proxy, records sessions on
        other hosts; raises `AccessDenied` for such a one of a host that does not."""
        own = self._own(sid, host_id)
        if own:
            if self.begin(sid, host_id).complete == sha256:
                return own
            raise AlreadyExists(f"session {sid} has another recording of this host", hint="tctl recordings ls")
        name = _upload_name(sid, host_id)
        with os.fdopen(self._directory.open(name, write=True), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not self._directory.same_file(name, file.fileno()):
                own = self._own(sid, host_id)
                if own and self.begin(sid, host_id).complete == sha256:
                    return own  # the same call, made twice at once
                raise NotFound(f"the upload of session {sid} is gone", hint="begin it again")
            found = self._checked(file, sid, host_id, sha256)
            if isinstance(found, BrokenPlace):
                self._directory.remove(name)
                raise BrokenRecording(found, sid)
            if found.header.node_id != host_id and not records_others:
                raise AccessDenied(
                    f"the recording of session {sid} is of a session on another host, and only proxies record those",
                    hint="a host uploads what it recorded itself",
                )
            os.fsync(file.fileno())
            for kept in [*([] if first_is_told else [sid]), _own_name(sid, host_id)]:
                with suppress(FileExistsError):
                    self._directory.rename(name, stored_name(kept, Suffix.DONE))
                    return kept
            raise AlreadyExists(f"session {sid} has another recording of this host", hint="tctl recordings ls")

    def _checked(self, file: BinaryIO, sid: str, host_id: str, sha256: str) -> VerifiedRecording | BrokenPlace:
        found = verify_recording(
            file, sid=sid, check_signature=self._check_signature, require_signature=self._require_signature
        )
        if isinstance(found, BrokenPlace):
            return found
        if found.header.made_by != host_id:
            return BrokenPlace(None, 0, "it was recorded by another host")
        try:  # what is kept of the session is kept under it
            canonical_uuid(found.header.node_id, "host id")
        except BadRequest:
            return BrokenPlace(None, 0, "it names no host by its UUID")
        if found.sha256 != sha256:
            return BrokenPlace(found.chunks - 1, found.size, "its hash is not the one announced")
        return found

    def _open_upload(self, name: str) -> int:
        while True:
            with suppress(NotFound):
                return self._directory.open(name, write=True)
            try:
                return self._directory.create(name)
            except FileExistsError:
                if not self._directory.exists(name):
                    raise BadRequest(f"{name} is not a file", hint=f"look at {self._directory.path}") from None


class HostSink:
    """A `RecordingSink` for the recordings of one host."""

    def __init__(self, store: FileRecordingStore, host_id: str) -> None:
        self._store = store
        self._host_id = host_id

    async def begin(self, sid: str) -> UploadState:
        return await asyncio.to_thread(self._store.begin, sid, self._host_id)

    async def append(self, sid: str, offset: int, data: bytes) -> int:
        return await asyncio.to_thread(self._store.append, sid, self._host_id, offset, data)

    async def complete(self, sid: str, sha256: str) -> None:
        await self.keep(sid, sha256)

    async def keep(self, sid: str, sha256: str, *, first_is_told: bool = False, records_others: bool = True) -> str:
        """As `complete`; the name under which it is stored (`FileRecordingStore.complete`)."""
        return await asyncio.to_thread(
            lambda: self._store.complete(
                sid, self._host_id, sha256, first_is_told=first_is_told, records_others=records_others
            )
        )


def _own_name(sid: str, host_id: str) -> str:
    """Of the recording of a host that came to a session of which another's was stored."""
    return canonical_name(f"{sid}.{host_id}")


def _upload_name(sid: str, host_id: str) -> str:
    return f"{canonical_uuid(sid)}.{canonical_uuid(host_id, 'host id')}.upload"


def _header(file: BinaryIO, sid: str) -> RecordingHeader:
    parser = RecordingParser(sid)
    file.seek(0)
    with suppress(BrokenRecording):
        for _ in parser.feed(file.read(_HEAD)):
            break
    if parser.header is None or parser.header.sid != sid:
        raise BrokenRecording(BrokenPlace(None, 0, "its header is unreadable or another session's"), sid)
    return parser.header
