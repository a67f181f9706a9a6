"""Recordings for the tests of this folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from teleport.recording.format import (
    ChunkEncoder,
    Frame,
    FrameKind,
    RecordingHeader,
    Signature,
    encode_header,
)

SID = "0b6f1a52-8f0e-4d0c-9d53-5d7a3c1e2f40"
OTHER_SID = "7a1de3f0-55aa-4b7e-8a10-0c2f9be0d111"
HOST = "c1a5e5d2-1111-4222-8333-444455556666"
OTHER_HOST = "d2b6f6e3-1111-4222-8333-444455556666"
KEY = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"a host key for tests").digest())


def header(sid: str = SID, **changes: object) -> RecordingHeader:
    fields: dict[str, object] = {
        "sid": sid,
        "started": datetime(2026, 1, 2, 3, 4, 5, 678901, UTC),
        "user": "ann",
        "login": "root",
        "node_id": HOST,
        "node_name": "db1",
        "cluster": "example",
        "interactive": True,
        "terminal": "xterm-256color",
        "width": 80,
        "height": 24,
        "client": "192.0.2.7:51234",
    }
    return RecordingHeader(**{**fields, **changes})  # type: ignore[arg-type]  # values are what the names say


def sign(message: bytes) -> Signature:
    return Signature(
        algorithm="ed25519", key_id="host", certificate=KEY.public_key().public_bytes_raw(), value=KEY.sign(message)
    )


def check_signature(signature: Signature, message: bytes, _: RecordingHeader) -> None:
    assert signature.certificate == KEY.public_key().public_bytes_raw()
    Ed25519PublicKey.from_public_bytes(signature.certificate).verify(signature.value, message)


def chunk_list(count: int, sid: str = SID, seed: str = "") -> list[bytes]:
    """A recording's parts: header, `count` data chunks of two frames each, end."""
    parts = [encode_header(header(sid))]
    encoder = ChunkEncoder(parts[0][-32:])
    for number in range(count):
        text = f"{seed} line {number}\r\n".encode() * 3
        frames = [
            Frame(number * 1000, FrameKind.OUTPUT, text),
            Frame(number * 1000 + 5, FrameKind.STDERR, bytes([number % 256, 0xFF])),
        ]
        parts.append(b"".join(encoder.encode(frames)))
    parts.append(b"".join(encoder.end("session ended", time=count * 1000, sign=sign)[0]))
    return parts


def recording(frames: Sequence[Frame], **changes: object) -> bytes:
    """The bytes of a whole recording of `frames`."""
    head = encode_header(header(**changes))  # type: ignore[arg-type]
    encoder = ChunkEncoder(head[-32:])
    data = head + b"".join(encoder.encode(frames))
    return data + b"".join(encoder.end("session ended", sign=sign)[0])


def write_recording(folder: Path, sid: str = SID, count: int = 5) -> bytes:
    """Puts a finished recording into a spool and returns its bytes."""
    folder.mkdir(mode=0o700, exist_ok=True)
    data = b"".join(chunk_list(count, sid))
    (folder / f"{sid}.rec").write_bytes(data)
    return data
