"""The side of a recorder that runs in worker threads: pack, hash, write, sync, finish. No asyncio here.

One `SpoolFile` belongs to one session. Its holder calls `write` and `finish` one at a time, in order; `sync` may run
beside a `write`. Large batches are written unsealed and sealed when it is calm, at the latest in `finish`: a bulk
transfer does not wait for SHA-256. A failed write is cut off again, so that the file always ends with a whole chunk
and can still be ended properly when there is room again.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from teleport.errors import AlreadyExists, TeleportError
from teleport.recording.direct import DirectWriter
from teleport.recording.directory import RecordingDirectory, Suffix, file_name, write_all
from teleport.recording.format import ChunkEncoder, EndRecord, Frame, RecordingHeader, SignFunction, encode_header
from teleport.recording.sealing import seal

CALM_BYTES = 256 * 1024  # a batch below this is sealed as it is written
DROP_BYTES = 4 * 1024 * 1024  # synced bytes that are worth taking out of the cache
SEAL_STEP = 8 * 1024 * 1024  # bytes of an earlier burst that each calm batch seals


@dataclass(frozen=True, slots=True)
class RecordingSummary:
    """A finished recording."""

    sid: str
    path: Path
    size: int  # bytes of the file
    sha256: str  # hex; the chain's head, which stands for every byte of the file
    bytes_output: int
    bytes_stderr: int
    bytes_input: int
    duration: float  # seconds
    reason: str
    lost: int = 0  # bytes that could not be recorded


def summarise(sid: str, path: Path, size: int, head: bytes, end: EndRecord) -> RecordingSummary:
    """The summary of a file that ends with `end`."""
    return RecordingSummary(
        sid=sid,
        path=path,
        size=size,
        sha256=head.hex(),
        bytes_output=end.totals.output,
        bytes_stderr=end.totals.stderr,
        bytes_input=end.totals.input,
        duration=end.time / 1_000_000,
        reason=end.reason,
        lost=end.lost,
    )


class SpoolFile:
    """A recording being written: `<sid>.rec.part`, from its header on; locked as long as this process lives."""

    def __init__(self, directory: RecordingDirectory, header: RecordingHeader) -> None:
        """Makes the file with its header, durably. `AlreadyExists` when the session has one; `TeleportError` when
        the disk does not take it: then nothing of the session may begin in strict mode."""
        self.sid = header.sid
        self._directory = directory
        self._new = file_name(header.sid, Suffix.NEW)
        self._part = file_name(header.sid, Suffix.PART)
        self._done = file_name(header.sid, Suffix.DONE)
        head = encode_header(header)
        self._encoder = ChunkEncoder(head[-32:])
        self._sealed = len(head)  # bytes of the file up to which every chunk is sealed
        self._dropped = 0  # bytes of the file that were taken out of the system's cache
        self._padded = False  # zero bytes may follow the last chunk
        self._sync_lock = threading.Lock()
        if directory.exists(self._done):
            raise AlreadyExists(f"session {header.sid} is recorded already", hint="a session id is used once")
        directory.check_room(header.sid, "begun")
        try:
            with directory.locked(alone=False):
                self._descriptor = directory.create(self._new)
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._bulk = DirectWriter(self._descriptor)
        except FileExistsError as error:
            raise self._taken() from error
        except OSError as error:
            raise self._failure("begun", error) from error
        try:
            self.size = write_all(self._descriptor, [head], 0)
            os.fdatasync(self._descriptor)
            # Only now has it the name of a recording: one without a header was damaged, not killed before it began.
            directory.rename(self._new, self._part)
        except FileExistsError as error:
            self._drop(self._new)
            raise self._taken() from error
        except OSError as error:
            self._drop(self._new, self._part)
            raise self._failure("begun", error) from error

    def _taken(self) -> AlreadyExists:
        return AlreadyExists(f"session {self.sid} is being recorded", hint="a session id is used once")

    def _drop(self, *names: str) -> None:
        for name in names:
            with suppress(OSError):
                self._directory.remove(name)
        self.abandon()

    def _failure(self, what: str, error: OSError) -> TeleportError:
        return TeleportError(
            f"the recording of session {self.sid} cannot be {what}: {error.strerror}",
            hint=f"make room on the disk of {self._directory.path} (df {self._directory.path})",
        )

    def write(self, frames: Sequence[Frame]) -> None:
        """Appends the frames as chunks. `TeleportError` when the disk refuses; then none of them is in the file."""
        self._directory.check_room(self.sid, "continued", part=2)
        encoder, before = self._encoder, self._encoder.checkpoint()
        calm = sum(len(frame.payload) for frame in frames) < CALM_BYTES
        try:
            if calm:
                self._cut_padding()
                self._seal(SEAL_STEP)
                before = encoder.checkpoint()
            seal = calm and self._sealed == self.size
            pieces = encoder.encode(frames, seal=seal)
            size = None if calm else self._bulk.write(pieces, self.size)
            self._padded = size is not None
            if size is None:
                size = write_all(self._descriptor, pieces, self.size)
        except OSError as error:
            encoder.restore(before)
            with suppress(OSError):
                os.ftruncate(self._descriptor, self.size)
            raise self._failure("continued", error) from error
        self.size += size
        if seal:
            self._sealed = self.size

    def _cut_padding(self) -> None:
        if self._padded:
            os.ftruncate(self._descriptor, self.size)
            self._padded = False

    def _seal(self, limit: int) -> None:
        """Seals up to `limit` bytes of what was written unsealed."""
        if self._sealed < self.size:
            until = min(self.size, self._sealed + limit)
            self._bulk.changed()
            self._encoder.head, self._sealed, _ = seal(self._descriptor, self._encoder.head, self._sealed, until)

    def seal_all(self) -> int:
        """Seals everything that is written, and says how much that is: bytes that never change again."""
        try:
            self._cut_padding()
            self._seal(self.size)
        except OSError as error:
            raise self._failure("sealed", error) from error
        return self._sealed

    def read(self, offset: int, size: int) -> bytes:
        """A part of the file; nothing once it has ended."""
        with self._sync_lock:
            try:
                return os.pread(self._descriptor, size, offset) if self._descriptor >= 0 else b""
            except OSError as error:
                raise self._failure("read back", error) from error

    @property
    def backlog(self) -> int:
        """Bytes that `finish` has to seal first: at 0.2 to 1.7 GB/s, by processor."""
        return self.size - self._sealed

    def sync(self) -> None:
        """What was written before this call is on disk when it returns; `TeleportError` when it is not."""
        with self._sync_lock:
            if self._descriptor < 0:
                return  # finished meanwhile, which syncs
            size = self.size
            try:
                os.fdatasync(self._descriptor)
                if size - self._dropped >= DROP_BYTES:
                    # the cache is not filled with what nobody reads, and its pages come back warm: writing costs half
                    os.posix_fadvise(self._descriptor, self._dropped, size - self._dropped, os.POSIX_FADV_DONTNEED)
                    self._dropped = size
            except OSError as error:
                raise self._failure("kept safe", error) from error

    def finish(self, reason: str, time: int, sign: SignFunction | None, lost: int) -> RecordingSummary:
        """Ends, signs, syncs and names the file. What `sign` raises passes through; then, as after a full disk, the
        part stays for recovery to end."""
        try:
            os.ftruncate(self._descriptor, self.size)
            if self._sealed < self.size:
                self._seal(self.size)
                os.fdatasync(self._descriptor)  # an end on disk means that all before it is, sealed
            pieces, end = self._encoder.end(reason, time=time, sign=sign, lost=lost)
            self.size += write_all(self._descriptor, pieces, self.size)
            os.fdatasync(self._descriptor)
            self._directory.rename(self._part, self._done)
        except OSError as error:
            raise self._failure("ended", error) from error
        finally:
            self.abandon()
        path = self._directory.path / self._done
        return summarise(self.sid, path, self.size, self._encoder.head, end)

    def discard(self) -> None:
        """Removes the file of a session that did not begin."""
        self._drop(self._part)

    def abandon(self) -> None:
        """Closes the file as it is. A part that has no end is recovery's to end."""
        with self._sync_lock:
            if self._descriptor >= 0:
                self._bulk.close()
                os.close(self._descriptor)
                self._descriptor = -1
