"""Chunks: frames packed, compressed where that pays, and linked by SHA-256.

Layout, all numbers big-endian (`docs/recording-format.md`):

    header: magic 8 | version 2 | length 4 | JSON | SHA-256 of all before
    chunk:  stored length 4 | raw length 4 | sequence 8 | flags 1 | frames 4 | first time 8 | CRC-32 4
            | previous hash 32 | payload | SHA-256 of all this chunk before

The first chunk's previous hash is the header's, so a chunk belongs to one recording and to one place in it.

A chunk may be written unsealed, its two hash fields zero, and sealed later in place: on processors without SHA
instructions SHA-256 runs at 0.2 GB/s, which bulk transfers cannot wait for. That gives nothing away: until the end is
signed, whoever can write the file could recompute every hash. Meanwhile the CRC-32 tells a whole chunk from one that a
power cut tore. Tearing loses whole sectors, so every 61st byte of the payload is enough for it (eight of each sector,
for a twentieth of the cost). A finished recording is sealed throughout.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntFlag

import msgspec
import zstandard

from teleport.recording.format.frames import (
    MAX_HEADER_JSON,
    EndRecord,
    Frame,
    FrameKind,
    PackedFrames,
    RecordingHeader,
    Signature,
    Totals,
    encode_end,
    end_body,
    pack_frames,
    plain_header,
)

MAGIC = b"\x89TREC\r\n\x1a"  # like PNG's: a transfer as text or through seven bits is noticed at once
VERSION = 1
HASH_SIZE = 32
CHUNK_FIELDS = struct.Struct(">IIQBIQ")
CHUNK_HEAD = struct.Struct(">IIQBIQI32s")
CHUNK_HEAD_SIZE = CHUNK_HEAD.size
UNSEALED = bytes(HASH_SIZE)
BLOCK = 4096  # a file that is being written ends with fewer zero bytes than this, where a write filled up its block
FILE_HEAD = struct.Struct(">8sHI")

_LEVEL = 1  # 1.2 GB/s; higher levels cost more of the host's processor than they save of its disk
_STRIDE = 61
_SAMPLE = 16 * 1024
_WORTH = 0.95  # below this ratio compressing pays
_SAMPLED = 8  # of so many full chunks in a row that do not compress, one is sampled


class ChunkFlags(IntFlag):
    """How a chunk's payload is stored. A set bit that is not named here makes a reader refuse the chunk."""

    RAW = 0
    ZSTD = 1
    END = 2


SignFunction = Callable[[bytes], Signature]
"""Signs the message it is handed (`signed_message`). Whatever it raises makes ending the recording fail."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk as read: where it lies in the file, and its frames still packed."""

    sequence: int
    offset: int  # of its first byte in the file
    size: int  # bytes in the file, hash included
    flags: ChunkFlags
    frame_count: int
    first_time: int  # microseconds since the start
    previous: bytes
    digest: bytes
    raw: bytes  # the packed frames, uncompressed


def encode_header(header: RecordingHeader) -> bytes:
    """The beginning of a file; its last 32 bytes are the hash that the first chunk links to."""
    body = msgspec.json.encode(plain_header(header))
    if len(body) > MAX_HEADER_JSON:
        raise ValueError(f"the header of recording {header.sid} has {len(body)} bytes, above the limit")
    data = FILE_HEAD.pack(MAGIC, VERSION, len(body)) + body
    return data + hashlib.sha256(data).digest()


def signed_message(previous: bytes, body: bytes) -> bytes:
    """What the end's signature covers: the chain up to the end, and the end record. `previous` stands for the
    header and every chunk, so the signature cannot be moved to another recording."""
    return b"teleport recording v1\n" + previous + hashlib.sha256(body).digest()


def _cut(pieces: Sequence[bytes], begin: int) -> bytes:
    """A sample of the bytes from `begin` on."""
    found: list[bytes] = []
    missing = _SAMPLE
    for piece in pieces:
        if begin < len(piece) and missing:
            found.append(piece[begin : begin + missing])
            missing -= len(found[-1])
        begin = max(begin - len(piece), 0)
    return b"".join(found)


class ChunkEncoder:
    """Turns frames into the chunks that follow a header. Holds the chain's head, the count and the totals."""

    __slots__ = ("_end_time", "_frames", "_input", "_output", "_plain", "_stderr", "head", "sequence")

    def __init__(self, head: bytes, *, sequence: int = 0, totals: Totals | None = None, end_time: int = 0) -> None:
        """`head` is the hash to link to: the header's, or (recovery) the last whole chunk's, with its totals."""
        totals = totals or Totals()
        self.head = head
        self.sequence = sequence
        self._output, self._stderr, self._input = totals.output, totals.stderr, totals.input
        self._frames = totals.frames
        self._end_time = end_time
        self._plain = 0  # full chunks in a row that did not compress

    @property
    def totals(self) -> Totals:
        return Totals(output=self._output, stderr=self._stderr, input=self._input, frames=self._frames)

    @property
    def end_time(self) -> int:
        """Microseconds since the start of the latest frame."""
        return self._end_time

    def encode(self, frames: Sequence[Frame], *, seal: bool = True) -> list[bytes]:
        """The chunks holding `frames`, as the pieces of bytes to write one after another.

        Large pieces are not copied again. The encoder has moved on when this returns. After chunks that were not
        sealed, set `head` to the sealed hash of the last one before going on sealed.
        """
        out: list[bytes] = []
        for packed in pack_frames(frames, self._end_time):
            flags, payload = self._shrink(packed)
            out += self._link(flags, packed, payload, seal=seal)
            self._end_time = packed.last
            self._frames += packed.frames
        for frame in frames:
            self.count_bytes(frame)
        return out

    def checkpoint(self) -> tuple[bytes, int, Totals, int]:
        """The state to `restore` when what `encode` returned could not be written."""
        return self.head, self.sequence, self.totals, self._end_time

    def restore(self, state: tuple[bytes, int, Totals, int]) -> None:
        """Back to `checkpoint`."""
        self.head, self.sequence, totals, self._end_time = state
        self._output, self._stderr, self._input = totals.output, totals.stderr, totals.input
        self._frames = totals.frames

    def count_bytes(self, frame: Frame) -> None:
        """Adds the frame's bytes to its stream's total."""
        kind = frame.kind
        if kind is FrameKind.OUTPUT:
            self._output += len(frame.payload)
        elif kind is FrameKind.STDERR:
            self._stderr += len(frame.payload)
        elif kind is FrameKind.INPUT:
            self._input += len(frame.payload)

    def skip(self, chunk: Chunk, frames: Sequence[Frame]) -> None:
        """Moves past a data chunk that is already in the file (recovery goes on after the last one). The head is
        only right then if the chunk was sealed."""
        self.head, self.sequence = chunk.digest, chunk.sequence + 1
        self._frames += len(frames)
        for frame in frames:
            self.count_bytes(frame)
        if frames:
            self._end_time = frames[-1].time

    def end(
        self,
        reason: str,
        *,
        time: int = 0,
        sign: SignFunction | None = None,
        lost: int = 0,
        cut: int = 0,
        recovered: bool = False,
    ) -> tuple[list[bytes], EndRecord]:
        """The end chunk and what it says. `time`: microseconds since the start, at least the last frame's.

        `sign` is called once; what it raises passes through, and then the encoder has not moved.
        """
        record = EndRecord(
            reason=reason,
            totals=self.totals,
            time=max(time, self._end_time),
            chunks=self.sequence,
            chain=self.head.hex(),
            lost=lost,
            cut=cut,
            recovered=recovered,
        )
        signature = sign(signed_message(self.head, end_body(record))) if sign is not None else None
        frame = Frame(record.time, FrameKind.END, encode_end(record, signature))
        (packed,) = pack_frames([frame], self._end_time)
        self._end_time = packed.last
        return self._link(ChunkFlags.END, packed, packed.pieces), record

    def _shrink(self, packed: PackedFrames) -> tuple[ChunkFlags, list[bytes]]:
        """The payload as stored. A sample decides first, and not of every chunk: bytes that do not compress (archives,
        encrypted transfers) must cost next to nothing."""
        full = packed.size > 4 * _SAMPLE
        if full and self._plain % _SAMPLED:
            self._plain += 1
            return ChunkFlags.RAW, packed.pieces
        compressor = zstandard.ZstdCompressor(level=_LEVEL)
        if full:
            sample = _cut(packed.pieces, 0) + _cut(packed.pieces, packed.size // 2)
            if len(compressor.compress(sample)) > _WORTH * len(sample):
                self._plain += 1
                return ChunkFlags.RAW, packed.pieces
        self._plain = 0
        stored = compressor.compress(b"".join(packed.pieces))
        if len(stored) > _WORTH * packed.size:
            return ChunkFlags.RAW, packed.pieces
        return ChunkFlags.ZSTD, [stored]

    def _link(
        self, flags: ChunkFlags, packed: PackedFrames, payload: Sequence[bytes], *, seal: bool = True
    ) -> list[bytes]:
        stored = sum(map(len, payload))
        fields = CHUNK_FIELDS.pack(stored, packed.size, self.sequence, flags, packed.frames, packed.first)
        checked = fields + chunk_check(fields, payload).to_bytes(4, "big")
        self.sequence += 1
        if not seal:
            return [checked + UNSEALED, *payload, UNSEALED]
        head = checked + self.head
        self.head = chunk_digest(head, payload)
        return [head, *payload, self.head]


def chunk_check(fields: bytes, payload: Sequence[bytes]) -> int:
    """The CRC-32 of a chunk: of its fields, and of every 61st byte of its payload as stored, from the first on."""
    begin, found = 0, zlib.crc32(fields)
    for piece in payload:
        found = zlib.crc32(piece[begin::_STRIDE], found)
        begin = (begin - len(piece)) % _STRIDE
    return found


def chunk_digest(head: bytes, payload: Sequence[bytes]) -> bytes:
    """The hash that seals a chunk: of its head, with the previous hash in place, and its payload as stored."""
    digest = hashlib.sha256(head)
    for piece in payload:
        digest.update(piece)
    return digest.digest()
