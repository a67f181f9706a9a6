"""Reading a recording piece by piece, believing nothing.

`RecordingParser` is fed bytes and returns chunks whose length, order, link and hash were checked. The first thing
that is wrong raises `BrokenRecording` with the place: chunk number, byte offset in the file, what. Everything
returned before it is whole. A file that simply stops (a killed writer) is not an error until `finish` is asked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import zstandard

from teleport.errors import BadRequest
from teleport.recording.format.chunks import (
    BLOCK,
    CHUNK_FIELDS,
    CHUNK_HEAD,
    CHUNK_HEAD_SIZE,
    FILE_HEAD,
    HASH_SIZE,
    MAGIC,
    VERSION,
    Chunk,
    ChunkFlags,
    chunk_check,
    chunk_digest,
)
from teleport.recording.format.frames import (
    MAX_FRAMES_PER_CHUNK,
    MAX_HEADER_JSON,
    MAX_RAW_CHUNK,
    MAX_TIME,
    EndRecord,
    Frame,
    FrameKind,
    RecordingHeader,
    Signature,
    Totals,
    canonical_uuid,
    decode_end,
    decode_size,
    split_frames,
)

_KNOWN_FLAGS = ChunkFlags.ZSTD | ChunkFlags.END


@dataclass(frozen=True, slots=True)
class BrokenPlace:
    """The first thing in a recording that is not as it was written."""

    chunk: int | None  # None: the file header; the end chunk has a number as well
    offset: int  # bytes from the start of the file to the broken header or chunk
    what: str
    unfinished: bool = False  # nothing is wrong but that the file stops here
    absent: bool = False  # it was brought elsewhere, and there is nothing of it there

    def __str__(self) -> str:
        where = "the header" if self.chunk is None else f"chunk {self.chunk}"
        return f"{where} at byte {self.offset}: {self.what}"


class BrokenRecording(BadRequest):
    """A recording is damaged, was altered, or is not one. `place` says where."""

    def __init__(self, place: BrokenPlace, name: str = "") -> None:
        super().__init__(
            f"recording {name or 'file'} is broken: {place}",
            hint="what lies before this place is whole; `tctl audit verify` shows the session's events",
        )
        self.place = place


@dataclass(frozen=True, slots=True)
class End:
    """The end chunk's content."""

    record: EndRecord
    signature: Signature | None
    body: bytes  # the record's bytes, which the signature covers


class RecordingParser:
    """Feed it a file's bytes in any pieces; it returns each chunk once, checked, in order.

    `frames(chunk)` unpacks a data chunk. After the end chunk `end` is set and any further byte is an error. Memory is
    bounded by one chunk at its limit plus the piece fed.
    """

    def __init__(self, name: str = "", *, unsealed: bool = False) -> None:
        """`name` (a session id) only appears in messages.

        `unsealed` is for files that are still being written or recovered: chunks are then checked by their CRC-32
        alone, and neither links nor hashes are looked at. Nothing read so is proven.
        """
        self._name = name
        self._unsealed = unsealed
        self._buffer = bytearray()
        self._read = 0  # bytes of the file before the buffer
        self._next = 0
        self._time = 0
        self._counts = dict.fromkeys(FrameKind, 0)
        self._frame_count = 0
        self._end_offset = 0
        self.head = b""  # the hash of the last thing read whole
        self.header_size = 0  # bytes of the file, its hash included
        self.header_hash = b""
        self.header: RecordingHeader | None = None
        self.end: End | None = None

    @property
    def whole(self) -> int:
        """Bytes of the file up to the last thing that was read whole."""
        return self._read

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """Yields the chunks that `data` completes; the header is read before the first of them.

        A generator, so that whole chunks come out before the broken one behind them raises: iterate it to its end.
        """
        self._buffer += data
        if self.header is None and not self._read_header():
            return
        while self._buffer:
            if self.end is not None:
                raise self._broken(f"{len(self._buffer)} bytes follow the end")
            chunk = self._read_chunk()
            if chunk is None:
                return
            yield chunk

    def finish(self) -> End:
        """The end of a complete recording; `BrokenRecording` when the file stopped before it."""
        if self.end is not None:
            return self.end
        if self.header is None:
            what = "the file stops inside the header"
        elif self._buffer:
            what = f"the file stops {len(self._buffer)} bytes into this chunk"
        else:
            what = "the file stops here, without an end"
        raise self._broken(what, unfinished=True)

    def frames(self, chunk: Chunk) -> list[Frame]:
        """The frames of a chunk that this parser returned; `BrokenRecording` when they are malformed.

        Must be called on each chunk as `feed` yields it: times may not go back over the whole recording, and
        `check_totals` counts what passes here.
        """
        try:
            frames = list(split_frames(chunk.raw, chunk.frame_count, chunk.first_time))
            for frame in frames:
                if frame.kind is FrameKind.END and not chunk.flags & ChunkFlags.END:
                    raise ValueError("an end frame stands in a data chunk")
                if frame.kind is FrameKind.RESIZE:
                    decode_size(frame.payload)
        except ValueError as error:
            raise BrokenRecording(BrokenPlace(chunk.sequence, chunk.offset, str(error)), self._name) from error
        for frame in frames:
            self._counts[frame.kind] += len(frame.payload)
        if not chunk.flags & ChunkFlags.END:
            self._frame_count += len(frames)
        self._time = frames[-1].time
        self._end_offset = chunk.offset
        return frames

    def check_totals(self) -> End:
        """The end, when its totals are those of all frames; `BrokenRecording` otherwise. Call it after `frames` was
        called on every chunk."""
        end = self.finish()
        counts = self._counts
        found = Totals(
            output=counts[FrameKind.OUTPUT],
            stderr=counts[FrameKind.STDERR],
            input=counts[FrameKind.INPUT],
            frames=self._frame_count,
        )
        if found != end.record.totals:
            what = f"the end counts {end.record.totals}, the frames give {found}"
            raise BrokenRecording(BrokenPlace(self._next - 1, self._end_offset, what), self._name)
        return end

    def _broken(self, what: str, *, unfinished: bool = False) -> BrokenRecording:
        number = self._next if self.header is not None else None
        return BrokenRecording(BrokenPlace(number, self._read, what, unfinished), self._name)

    def _take(self, size: int) -> bytes:
        data = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        self._read += size
        return data

    def _read_header(self) -> bool:
        buffer = self._buffer
        if not MAGIC.startswith(bytes(buffer[: len(MAGIC)])):
            raise self._broken("this is not a recording (its first bytes differ)")
        if len(buffer) < FILE_HEAD.size:
            return False
        _, version, length = FILE_HEAD.unpack_from(buffer)
        if version != VERSION:
            raise self._broken(f"format version {version} is not known here (known: {VERSION})")
        if length > MAX_HEADER_JSON:
            raise self._broken(f"the header claims {length} bytes, above the limit")
        size = FILE_HEAD.size + length
        if len(buffer) < size + HASH_SIZE:
            return False
        data = bytes(memoryview(buffer)[: size + HASH_SIZE])
        if hashlib.sha256(data[:size]).digest() != data[size:]:
            raise self._broken("the header's hash differs: it was altered")
        try:
            header = msgspec.json.decode(data[FILE_HEAD.size : size], type=RecordingHeader)
            canonical_uuid(header.sid)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, BadRequest) as error:
            raise self._broken(f"the header is malformed: {error}") from error
        self._take(size + HASH_SIZE)
        self.header, self.header_size = header, size + HASH_SIZE
        self.header_hash = self.head = data[size:]
        return True

    def _read_chunk(self) -> Chunk | None:
        buffer = self._buffer
        if len(buffer) < CHUNK_HEAD_SIZE:
            return None
        if self._unsealed and len(buffer) < BLOCK and not any(buffer):
            return None  # what the last write was filled up with
        stored, raw_size, sequence, flag_bits, count, first_time, crc, previous = CHUNK_HEAD.unpack_from(buffer)
        if flag_bits & ~int(_KNOWN_FLAGS):
            raise self._broken(f"unknown flags {flag_bits:#04x}")
        if stored > MAX_RAW_CHUNK or raw_size > MAX_RAW_CHUNK or not 0 < count <= MAX_FRAMES_PER_CHUNK:
            raise self._broken(f"claims {stored} bytes, {raw_size} unpacked, {count} frames: out of range")
        size = CHUNK_HEAD_SIZE + stored + HASH_SIZE
        if sequence != self._next:
            raise self._broken(f"number {sequence} stands where {self._next} belongs: dropped, repeated or moved")
        if previous != self.head and not self._unsealed:
            raise self._broken("is not linked to what stands before it: taken out of another place or recording")
        if len(buffer) < size:
            return None
        with memoryview(buffer) as view:
            digest = bytes(view[size - HASH_SIZE : size])
            payload = bytes(view[CHUNK_HEAD_SIZE : size - HASH_SIZE])
            if self._unsealed:
                intact = chunk_check(bytes(view[: CHUNK_FIELDS.size]), [payload]) == crc
            else:
                intact = chunk_digest(bytes(view[:CHUNK_HEAD_SIZE]), [payload]) == digest
            if not intact:
                problem = "its hash differs: it was altered"
            elif first_time < self._time or first_time > MAX_TIME:
                problem = f"its time {first_time} is out of order"
            else:
                problem = ""
        if problem:
            raise self._broken(problem)
        flags = ChunkFlags(flag_bits)
        chunk = Chunk(
            sequence,
            self._read,
            size,
            flags,
            count,
            first_time,
            previous,
            digest,
            self._unpack(flags, payload, raw_size),
        )
        if flags & ChunkFlags.END:
            self.end = self._read_end(chunk)
        del buffer[:size]
        self._read += size
        self._next += 1
        self._time = first_time
        self.head = digest
        return chunk

    def _unpack(self, flags: ChunkFlags, payload: bytes, raw_size: int) -> bytes:
        if flags & ChunkFlags.ZSTD:
            try:
                # the size inside is compared first, or a few bytes could claim gigabytes
                if zstandard.frame_content_size(payload) != raw_size:
                    raise self._broken("its unpacked size is not the one it claims")
                unpacked = zstandard.ZstdDecompressor(max_window_size=2 * MAX_RAW_CHUNK).decompress(
                    payload, max_output_size=raw_size, allow_extra_data=False
                )
            except zstandard.ZstdError as error:
                raise self._broken(f"it cannot be unpacked: {error}") from error
        else:
            unpacked = payload
        if len(unpacked) != raw_size:
            raise self._broken("its unpacked size is not the one it claims")
        return unpacked

    def _read_end(self, chunk: Chunk) -> End:
        try:
            (frame,) = split_frames(chunk.raw, chunk.frame_count, chunk.first_time)
            if frame.kind is not FrameKind.END:
                raise ValueError(f"a frame of kind {frame.kind.name.lower()} stands in the end chunk")
            record, signature, body = decode_end(frame.payload)
        except (ValueError, RecursionError, msgspec.MsgspecError) as error:
            raise self._broken(f"the end is malformed: {error}") from error
        if record.chain != chunk.previous.hex() or record.chunks != chunk.sequence:
            raise self._broken("the end belongs to another chain")
        return End(record, signature, body)
