"""Ending what a killed process left: cut the torn tail, append an end, say what was saved.

Run once when the daemon starts, before its uploader. A part that a living process still writes is locked by it and is
left alone, also by an old and a new process side by side. Killed at any point itself, recovery simply does it again.

Bytes are only ever cut off behind the last whole chunk, where no acknowledged byte can be. If the cut bytes are more
than an unfinished chunk (a whole one that does not fit the chain), they are kept as `<sid>.torn` for inspection: a
disk that lost power may write such a thing, an intruder as well.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from teleport.errors import NotFound
from teleport.recording.directory import RecordingDirectory, Suffix, file_name, write_all
from teleport.recording.format import (
    BLOCK,
    BrokenPlace,
    BrokenRecording,
    Chunk,
    ChunkEncoder,
    ChunkFlags,
    EndRecord,
    RecordingHeader,
    RecordingParser,
    SignFunction,
)
from teleport.recording.sealing import seal
from teleport.recording.spool_file import RecordingSummary, summarise

NODE_LOST = "node lost"
_PIECE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class RecoveredRecording:
    """A recording that is complete on disk now: the caller emits its session.end and uploads it."""

    header: RecordingHeader
    summary: RecordingSummary
    cut: int = 0  # bytes of the torn tail that were cut off
    place: BrokenPlace | None = None  # when the tail was more than unfinished: where, and what was wrong


@dataclass(frozen=True, slots=True)
class UnreadableRecording:
    """A file of which nothing could be saved; it is set aside as `<sid>.rec.broken` (or left, when that fails)."""

    sid: str
    why: str


@dataclass(frozen=True, slots=True)
class RecoveryReport:
    """What was found in the spool."""

    recovered: tuple[RecoveredRecording, ...] = ()
    finished: tuple[RecoveredRecording, ...] = ()  # ended properly, not uploaded yet: was their session.end emitted?
    unreadable: tuple[UnreadableRecording, ...] = ()
    failed: tuple[UnreadableRecording, ...] = ()  # could not be ended now (disk, signing): tried again next time


def recover(
    path: Path,
    *,
    sign: SignFunction | None = None,
    reason: str = NODE_LOST,
    finished_of: Collection[str] | None = None,
) -> RecoveryReport:
    """Ends every unfinished recording in `path` whose writer is gone. Blocks on the disk: run it in a thread.

    Of finished recordings those of the sessions `finished_of` are read (None: all), each from its first byte to its
    last.

    Raises `TeleportError` only when the folder itself cannot be used; one bad file does not stop the others.
    """
    directory = RecordingDirectory(path)
    try:
        recovered: list[RecoveredRecording] = []
        finished: list[RecoveredRecording] = []
        unreadable: list[UnreadableRecording] = []
        failed: list[UnreadableRecording] = []
        for sid in directory.ids(Suffix.DONE):
            if finished_of is not None and sid not in finished_of:
                continue
            try:
                finished.append(_read_finished(directory, sid))
            except BrokenRecording as error:
                _set_aside(directory, sid, Suffix.DONE)
                unreadable.append(UnreadableRecording(sid, str(error)))
            except NotFound:
                continue  # another process uploaded it meanwhile
        for sid, descriptor in _abandoned(directory):
            try:
                recovered.append(_end(directory, sid, descriptor, sign, reason))
            except BrokenRecording as error:
                _set_aside(directory, sid, Suffix.PART)
                unreadable.append(UnreadableRecording(sid, str(error)))
            except Exception as error:  # a full disk, a signing key that is missing: the part stays as it is
                failed.append(UnreadableRecording(sid, str(error)))
            finally:
                os.close(descriptor)
        return RecoveryReport(tuple(recovered), tuple(finished), tuple(unreadable), tuple(failed))
    finally:
        directory.close()


def _abandoned(directory: RecordingDirectory) -> list[tuple[str, int]]:
    """The parts that nobody writes, each opened and locked. What was killed before it began is removed."""
    with directory.locked(alone=True):
        for sid, descriptor in _unlocked(directory, Suffix.NEW):
            with suppress(OSError):
                directory.remove(file_name(sid, Suffix.NEW))  # perhaps the first of two names that it has already
            os.close(descriptor)
        return list(_unlocked(directory, Suffix.PART))


def _unlocked(directory: RecordingDirectory, suffix: Suffix) -> Iterator[tuple[str, int]]:
    """The files whose writer is gone, each opened and locked."""
    for sid in directory.ids(suffix):
        name = file_name(sid, suffix)
        try:
            descriptor = directory.open(name, write=True)
        except NotFound:
            continue  # finished meanwhile, or not a file
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        if not directory.same_file(name, descriptor):
            os.close(descriptor)  # its writer ended it between our two looks
            continue
        yield sid, descriptor


def _end(
    directory: RecordingDirectory, sid: str, descriptor: int, sign: SignFunction | None, reason: str
) -> RecoveredRecording:
    parser = RecordingParser(sid, unsealed=True)
    encoder = ChunkEncoder(b"")
    last: Chunk | None = None
    broken: BrokenPlace | None = None
    size = os.fstat(descriptor).st_size
    try:
        for piece in _pieces(descriptor):
            for chunk in parser.feed(piece):
                frames = parser.frames(chunk)
                last = chunk
                if parser.end is None:
                    encoder.skip(chunk, frames)
        parser.finish()
    except BrokenRecording as error:
        if parser.header is None:
            raise
        if not error.place.unfinished:
            broken = error.place
    header = parser.header
    assert header is not None, "finish() raises without a header"
    if header.sid != sid:
        raise BrokenRecording(BrokenPlace(None, 0, f"it is the recording of session {header.sid}"), sid)
    whole = broken.offset if broken is not None else parser.whole
    cut = size - whole
    if cut < BLOCK and not any(os.pread(descriptor, cut, whole)):
        os.ftruncate(descriptor, whole)  # the last write was filled up with them
        cut = 0
    if broken is not None:
        _keep_tail(directory, sid, descriptor, whole)
    if cut:
        os.ftruncate(descriptor, whole)
    ended = parser.end if last is not None and last.flags & ChunkFlags.END else None
    data_end = last.offset if ended is not None and last is not None else whole
    encoder.head, _, altered = seal(descriptor, parser.header_hash, parser.header_size, data_end)
    if altered is not None and broken is None:
        broken = BrokenPlace(None, altered, "the chunk here had been sealed with another hash")
    if ended is not None and ended.record.chain == encoder.head.hex():
        # killed between writing the end and naming the file
        assert last is not None
        record, head = ended.record, last.digest
    else:
        os.ftruncate(descriptor, data_end)
        os.fdatasync(descriptor)
        pieces, record = encoder.end(reason, sign=sign, cut=cut, recovered=True)
        whole = data_end + write_all(descriptor, pieces, data_end)
        head = encoder.head
    os.fdatasync(descriptor)
    part, done = file_name(sid, Suffix.PART), file_name(sid, Suffix.DONE)
    if directory.same_file(done, descriptor):
        directory.remove(part)  # killed between giving the new name and taking the old one
    else:
        directory.rename(part, done)
    return RecoveredRecording(header, summarise(sid, directory.path / done, whole, head, record), cut, broken)


def _read_finished(directory: RecordingDirectory, sid: str) -> RecoveredRecording:
    with os.fdopen(directory.open(file_name(sid, Suffix.DONE)), "rb") as file:
        parser = RecordingParser(sid)
        head = b""
        while piece := file.read(_PIECE):
            for chunk in parser.feed(piece):
                head = chunk.digest
        end: EndRecord = parser.finish().record
        header = parser.header
        assert header is not None, "finish() raises without a header"
        path = directory.path / file_name(sid, Suffix.DONE)
        return RecoveredRecording(header, summarise(sid, path, parser.whole, head, end))


def _pieces(descriptor: int) -> Iterator[bytes]:
    offset = 0
    while piece := os.pread(descriptor, _PIECE, offset):
        offset += len(piece)
        yield piece


def _keep_tail(directory: RecordingDirectory, sid: str, descriptor: int, offset: int) -> None:
    """Copies what is about to be cut off to `<sid>.torn`, durably."""
    name = file_name(sid, Suffix.TORN)
    directory.remove(name)  # of an earlier try
    target = directory.create(name)
    start = offset
    try:
        while piece := os.pread(descriptor, _PIECE, offset):
            write_all(target, [piece], offset - start)
            offset += len(piece)
        os.fsync(target)
    finally:
        os.close(target)
    directory.sync()


def _set_aside(directory: RecordingDirectory, sid: str, suffix: Suffix) -> None:
    """So that it is not tried again for ever; when even that fails it is reported again next time."""
    with suppress(OSError):
        directory.replace(file_name(sid, suffix), file_name(sid, Suffix.BROKEN))
