"""Sealing chunks in place: filling in the hashes of chunks that were written in a hurry.

Safe to interrupt at any point: only the two hash fields of a chunk change, which its CRC-32 does not cover, so it can
always be done again.
"""

from __future__ import annotations

import os

from teleport.recording.directory import write_all
from teleport.recording.format import CHUNK_HEAD, CHUNK_HEAD_SIZE, HASH_SIZE, UNSEALED, chunk_digest


def seal(descriptor: int, head: bytes, start: int, until: int) -> tuple[bytes, int, int | None]:
    """Seals the chunks from offset `start`, whose previous hash is `head`, until one begins at or after `until`.

    The caller knows that whole chunks lie there. Returns the last chunk's hash, the offset behind it, and the offset
    of the first chunk that had been sealed with another hash before (None: there is none). `OSError` of the disk.
    """
    altered: int | None = None
    while start < until:
        fields = os.pread(descriptor, CHUNK_HEAD_SIZE, start)
        stored = int.from_bytes(fields[:4], "big")
        payload = os.pread(descriptor, stored + HASH_SIZE, start + CHUNK_HEAD_SIZE)
        if len(fields) != CHUNK_HEAD_SIZE or len(payload) != stored + HASH_SIZE:
            raise OSError(0, "the file became shorter while it was sealed")
        old_link, old_digest = fields[-HASH_SIZE:], payload[stored:]
        linked = fields[: CHUNK_HEAD.size - HASH_SIZE] + head
        digest = chunk_digest(linked, [payload[:stored]])
        if old_link != head or old_digest != digest:
            if altered is None and (old_link, old_digest) != (UNSEALED, UNSEALED):
                altered = start
            end = start + CHUNK_HEAD_SIZE
            write_all(descriptor, [head], end - HASH_SIZE)
            write_all(descriptor, [digest], end + stored)
        head = digest
        start += CHUNK_HEAD_SIZE + stored + HASH_SIZE
    return head, start, altered
