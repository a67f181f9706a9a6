"""Is a recording whole and unaltered? Answers with what it is, or with the first place where it is broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from teleport.errors import TeleportError
from teleport.recording.format import (
    BrokenPlace,
    BrokenRecording,
    EndRecord,
    RecordingHeader,
    RecordingParser,
    Signature,
    signed_message,
)

_PIECE = 1024 * 1024

SignatureCheck = Callable[[Signature, bytes, RecordingHeader], None]
"""Checks that the signature covers the message and that its key may vouch for this recording (the host of
`header.node_id`, certified by the cluster). Raises `TeleportError` or `cryptography`'s `InvalidSignature` if not."""


@dataclass(frozen=True, slots=True)
class VerifiedRecording:
    """A recording whose every byte is covered by its chain, and whose end and totals agree with its frames."""

    header: RecordingHeader
    end: EndRecord
    sha256: str  # hex, the chain's head
    size: int
    chunks: int
    signature: Signature | None  # None: nobody vouches for it
    signature_checked: bool


def verify_recording(
    file: BinaryIO,
    *,
    sid: str | None = None,
    check_signature: SignatureCheck | None = None,
    require_signature: bool = False,
) -> VerifiedRecording | BrokenPlace:
    """Reads `file` to its end. `sid`: the session it must be the recording of.

    Never raises for what the file holds; errors of reading it pass through. An unsigned recording is only accepted
    when no signature is required; without `check_signature` a signature is returned unchecked.
    """
    parser = RecordingParser(sid or "")
    chunks, head = 0, b""
    try:
        while piece := file.read(_PIECE):
            for chunk in parser.feed(piece):
                parser.frames(chunk)
                chunks += 1
                head = chunk.digest
                last = chunk
        end = parser.check_totals()
    except BrokenRecording as error:
        return error.place
    header = parser.header
    assert header is not None, "an end is never read before a header"
    if sid is not None and header.sid != sid:
        return BrokenPlace(None, 0, f"it is the recording of session {header.sid}, not of {sid}")
    checked = False
    if end.signature is None:
        if require_signature:
            return BrokenPlace(last.sequence, last.offset, "nobody signed the end")
    elif check_signature is not None:
        try:
            check_signature(end.signature, signed_message(last.previous, end.body), header)
        except Exception as error:  # whatever a check raises, it means no
            problem = str(error) if isinstance(error, TeleportError) else "it does not match"
            return BrokenPlace(last.sequence, last.offset, f"the signature is wrong: {problem}")
        checked = True
    return VerifiedRecording(header, end.record, head.hex(), parser.whole, chunks, end.signature, checked)
