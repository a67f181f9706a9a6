"""The recording format, version 1: bytes in, values out, and back (`docs/recording-format.md`).

A recording is a header and hash-linked chunks of frames; the last chunk ends it and can be signed. Pure: no clock,
no file, no randomness; times, keys and bytes are handed in.

Formats only grow: header and end records gain fields with defaults; a frame kind, a chunk flag or a version that a
reader does not know is refused, never skipped. `tests/vectors/recording/` keeps a file of each version.
"""

from teleport.recording.format.chunks import (
    CHUNK_HEAD,
    CHUNK_HEAD_SIZE,
    HASH_SIZE,
    MAGIC,
    UNSEALED,
    VERSION,
    Chunk,
    ChunkEncoder,
    ChunkFlags,
    SignFunction,
    chunk_digest,
    encode_header,
    signed_message,
)
from teleport.recording.format.frames import (
    BYTE_KINDS,
    MAX_FRAME_PAYLOAD,
    RAW_CHUNK_TARGET,
    EndRecord,
    ExecDetail,
    FileDetail,
    ForwardDetail,
    Frame,
    FrameKind,
    RecordingHeader,
    Signature,
    Totals,
    canonical_uuid,
    decode_end,
    decode_size,
    encode_detail,
    encode_size,
    plain_text,
)
from teleport.recording.format.parser import BrokenPlace, BrokenRecording, End, RecordingParser

__all__ = [
    "BYTE_KINDS",
    "CHUNK_HEAD",
    "CHUNK_HEAD_SIZE",
    "HASH_SIZE",
    "MAGIC",
    "MAX_FRAME_PAYLOAD",
    "RAW_CHUNK_TARGET",
    "UNSEALED",
    "VERSION",
    "BrokenPlace",
    "BrokenRecording",
    "Chunk",
    "ChunkEncoder",
    "ChunkFlags",
    "End",
    "EndRecord",
    "ExecDetail",
    "FileDetail",
    "ForwardDetail",
    "Frame",
    "FrameKind",
    "RecordingHeader",
    "RecordingParser",
    "SignFunction",
    "Signature",
    "Totals",
    "canonical_uuid",
    "chunk_digest",
    "decode_end",
    "decode_size",
    "encode_detail",
    "encode_header",
    "encode_size",
    "plain_text",
    "signed_message",
]
