"""What a stored recording showed, as text beside it, so that it can be searched without being played again.

`<name>.idx` lies in the folder of the recordings, 0600 like them: a JSON line about what it was made of, then one zstd
frame of lines `time TAB kind TAB text`. It is no evidence and never uploaded or backed up: when it is absent, of
another recording or another version, it is made anew. A recording that was broken later is searched up to the break.
Where a session has the recordings of several hosts, `sid` below is the name of one of them (`format.canonical_name`).
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from typing import BinaryIO, Final

import msgspec
import zstandard

from teleport.errors import NotFound, TeleportError
from teleport.recording.directory import RecordingDirectory, Suffix, stored_name
from teleport.recording.format import HASH_SIZE, BrokenRecording, Frame, FrameKind
from teleport.recording.player import RecordingReader
from teleport.recording.screen import shown_lines

VERSION: Final = 1
MAX_TEXT: Final = 64 * 1024 * 1024  # bytes of lines of one recording
BASE_SECONDS: Final = 10.0  # of processor time for any recording
SECONDS_PER_MIB: Final = 4.0  # ... and for each MiB that was seen of it; eight times what slow ones need
MAX_SECONDS: Final = 300.0  # ... and at most
MAX_HITS: Final = 5  # lines that are shown of one recording
MAX_COUNT: Final = 1000  # ... and counted
MAX_CONTEXT: Final = 200  # characters of a line around what was found
_HEAD_LINE: Final = 4096
_BLOCK: Final = 256 * 1024
_MAX_LINE: Final = 64 * 1024
_PIECE: Final = 4096  # bytes of output between two looks at the time
_MIB: Final = 1024 * 1024
_ROOM: Final = "made searchable"
_ROOM_EVERY: Final = 1024 * 1024  # bytes of text after which the room on the disk is looked at again


class Cut(StrEnum):
    """Why an index holds less than the session showed."""

    NOT = ""
    TIME = "time"  # it would have cost too much
    SIZE = "size"  # it is too long
    BROKEN = "broken"  # the recording breaks off


class IndexHead(msgspec.Struct, frozen=True, kw_only=True):
    """The first line."""

    version: int
    head: str  # hex of the recording's last hash
    whole: bool = True  # false: what the session showed after `until` is not in it
    until: int = 0  # microseconds; of the last line
    cut: Cut = Cut.NOT


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """A line that holds what was searched for."""

    time: int  # microseconds since the session's start
    kind: str  # screen, exec, file, forward, note, ...
    text: str  # the line, or the part of it around the find


class Hits(msgspec.Struct, frozen=True, kw_only=True):
    """What one recording has of it."""

    first: list[Hit]
    count: int  # lines that hold it, up to MAX_COUNT
    whole: bool  # whether all of what the session showed was searched
    until: int = 0  # microseconds; what was searched ends there
    cut: Cut = Cut.NOT


def build_index(
    directory: RecordingDirectory,
    sid: str,
    *,
    clock: Callable[[], float] = time.process_time,
    max_text: int = MAX_TEXT,
    max_seconds: float = MAX_SECONDS,
    base_seconds: float = BASE_SECONDS,
    seconds_per_mib: float = SECONDS_PER_MIB,
) -> None:
    """Makes the index of a stored recording, in place of one that is there.

    `base_seconds` and `seconds_per_mib` (of what was seen so far) bound the time on `clock`, `max_seconds` in any case;
    the index ends where it is over. Raises `NotFound`, `BrokenRecording` when
    not even the header can be read, `LimitExceeded` where what is free on the disk is kept for events, `OSError`."""
    name, scratch = stored_name(sid, Suffix.INDEX), stored_name(sid, Suffix.INDEX_NEW)
    with os.fdopen(directory.open(stored_name(sid, Suffix.DONE)), "rb") as file:
        head = _last_hash(file)
        file.seek(0)
        reader = RecordingReader(file, name=sid)
        directory.check_room(sid, _ROOM)
        work = _Work(clock, base_seconds, seconds_per_mib, max_seconds)
        with os.fdopen(_alone(directory, scratch), "wb") as out:
            try:
                _write(out, reader, head, work, max_text, directory)
            except BaseException:
                directory.remove(scratch)  # it may be the disk that is full
                raise
            directory.replace(scratch, name)


def _write(
    out: BinaryIO, reader: RecordingReader, head: str, work: _Work, max_text: int, directory: RecordingDirectory
) -> None:
    out.write(bytes(_HEAD_LINE))  # its place; what belongs there is known at the end
    until = size = 0
    with zstandard.ZstdCompressor(level=3).stream_writer(out, closefd=False) as packed:
        for line in shown_lines(reader.header, work.within(reader.frames())):
            written = f"{line.time}\t{line.kind}\t{line.text[:_MAX_LINE]}\n".encode(errors="replace")
            if size // _ROOM_EVERY != (size + len(written)) // _ROOM_EVERY:
                directory.check_room(reader.header.sid, _ROOM)
            size += len(written)
            if size > max_text:
                work.cut = Cut.SIZE
                break
            packed.write(written)
            until = max(until, line.time)
    first = msgspec.json.encode(IndexHead(version=VERSION, head=head, whole=not work.cut, until=until, cut=work.cut))
    out.seek(0)
    out.write(first.ljust(_HEAD_LINE - 1) + b"\n")
    out.flush()


def _alone(directory: RecordingDirectory, name: str) -> int:
    """An empty file of that name, that nobody else writes: after a restart two processes may make indexes for a while.

    The lock lives as long as the descriptor, and the file has its final name before that is closed.
    """
    while True:
        try:
            descriptor = directory.create(name)
        except FileExistsError:
            try:
                descriptor = directory.open(name, write=True)
            except NotFound:  # it is gone again, or no file
                directory.remove(name)
                continue
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if directory.same_file(name, descriptor):
            os.ftruncate(descriptor, 0)
            return descriptor
        os.close(descriptor)


class _Work:
    """Frames, until the time for them is over or the recording breaks off; then it is `cut`.

    What a session prints may cost much for few bytes, and a frame may be large: the time counts by the bytes that were
    seen, and output is handed on in small pieces.
    """

    def __init__(self, clock: Callable[[], float], base: float, per_mib: float, most: float) -> None:
        self.cut = Cut.NOT
        self._clock = clock
        self._began = clock()
        self._base, self._per_mib, self._most = base, per_mib, most
        self._seen = 0

    def within(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        try:
            for frame in frames:
                for piece in _pieces(frame):
                    if self._clock() - self._began > min(self._base + self._per_mib * self._seen / _MIB, self._most):
                        self.cut = Cut.TIME
                        return
                    self._seen += len(piece.payload)
                    yield piece
        except BrokenRecording:
            self.cut = Cut.BROKEN


def _pieces(frame: Frame) -> Iterator[Frame]:
    if frame.kind not in (FrameKind.OUTPUT, FrameKind.STDERR) or len(frame.payload) <= _PIECE:
        yield frame
        return
    for at in range(0, len(frame.payload), _PIECE):
        yield frame._replace(payload=frame.payload[at : at + _PIECE])


def remove_orphans(directory: RecordingDirectory) -> None:
    """Removes indexes of recordings that are there no more: who deletes a recording deletes what it showed."""
    for suffix in (Suffix.INDEX, Suffix.INDEX_NEW):
        # first the indexes: the note of one that was brought to S3 is there before the recording goes
        for sid in set(directory.names(suffix)) - set(directory.names(Suffix.DONE)) - set(directory.names(Suffix.AWAY)):
            directory.remove(stored_name(sid, suffix))


def index_head(directory: RecordingDirectory, sid: str) -> IndexHead | None:
    """What is there; None when the index has to be made."""
    try:
        with os.fdopen(directory.open(stored_name(sid, Suffix.INDEX)), "rb") as file:
            return _head(directory, sid, file)
    except NotFound:
        return None


def search_index(directory: RecordingDirectory, sid: str, text: str) -> Hits | None:
    """The lines that hold `text`, whatever the case; None when the index has to be made first."""
    wanted = text.casefold()
    try:
        file = os.fdopen(directory.open(stored_name(sid, Suffix.INDEX)), "rb")
    except NotFound:
        return None
    with file:
        head = _head(directory, sid, file)
        if head is None:
            return None
        first: list[Hit] = []
        count = 0
        try:
            for block in _blocks(file):
                if wanted not in block.casefold():
                    continue
                for line in block.split("\n"):
                    found = _hit(line, wanted)
                    if found is None:
                        continue
                    count += 1
                    if len(first) < MAX_HITS:
                        first.append(found)
                if count >= MAX_COUNT:
                    break
        except (zstandard.ZstdError, ValueError):
            return None
        return Hits(
            first=sorted(first, key=lambda hit: hit.time),
            count=min(count, MAX_COUNT),
            whole=head.whole,
            until=head.until,
            cut=head.cut,
        )


def _hit(line: str, wanted: str) -> Hit | None:
    when, _, rest = line.partition("\t")
    kind, _, shown = rest.partition("\t")
    folded = shown.casefold()
    at = folded.find(wanted)
    if at < 0:
        return None
    if len(shown) > MAX_CONTEXT:
        # folding may change the length, so the place is only about right where it does
        start = max(0, min(at - (MAX_CONTEXT - len(wanted)) // 2, len(shown) - MAX_CONTEXT))
        shown = f"{'…' if start else ''}{shown[start : start + MAX_CONTEXT]}…"
    return Hit(time=int(when), kind=kind, text=shown)


def _head(directory: RecordingDirectory, sid: str, file: BinaryIO) -> IndexHead | None:
    try:
        found = msgspec.json.decode(file.read(_HEAD_LINE), type=IndexHead)
    except msgspec.MsgspecError:
        return None
    if found.version != VERSION:
        return None
    return found if _head_of(directory, sid) == found.head else None


def _head_of(directory: RecordingDirectory, sid: str) -> str:
    """The last hash of the recording, which is here or was brought to S3. Raises `NotFound`."""
    try:
        with os.fdopen(directory.open(stored_name(sid, Suffix.DONE)), "rb") as recording:
            return _last_hash(recording)
    except NotFound:
        with os.fdopen(directory.open(stored_name(sid, Suffix.AWAY)), "rb") as note:
            return note.read(2 * HASH_SIZE).decode("ascii", "replace")


def _last_hash(file: BinaryIO) -> str:
    size = os.fstat(file.fileno()).st_size
    file.seek(max(0, size - HASH_SIZE))
    return file.read(HASH_SIZE).hex()


def _blocks(file: BinaryIO) -> Iterator[str]:
    """The lines, many at a time, in pieces of bounded size."""
    rest = ""
    total = 0
    with zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(file, closefd=False) as unpacked:
        decoder = _Decoder()
        while piece := unpacked.read(_BLOCK):
            total += len(piece)
            text = rest + decoder.text(piece)
            block, newline, rest = text.rpartition("\n")
            if newline:
                yield block
            if len(rest) > 2 * _MAX_LINE or total > 2 * MAX_TEXT:
                raise ValueError("the index is not one that was made here")
    if rest:
        yield rest


class _Decoder:
    def __init__(self) -> None:
        import codecs

        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def text(self, data: bytes) -> str:
        return self._decoder.decode(data)


def missing_indexes(directory: RecordingDirectory) -> list[str]:
    """The sessions whose index has to be made."""
    return [sid for sid in directory.names(Suffix.DONE) if not _is_there(directory, sid)]


def _is_there(directory: RecordingDirectory, sid: str) -> bool:
    try:
        return index_head(directory, sid) is not None
    except (TeleportError, OSError):
        return False
