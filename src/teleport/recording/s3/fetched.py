"""An object, fetched into a file without a name: it is believed as a whole or not at all.

The file lies in the folder of recordings, where nobody else gets at it; the kernel removes it when it is closed,
however the process ends.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from contextlib import aclosing
from typing import BinaryIO

from teleport.recording.directory import RecordingDirectory
from teleport.recording.format import BrokenPlace
from teleport.recording.s3.bucket import Bucket, Refused
from teleport.recording.s3.notes import ObjectNote
from teleport.recording.s3.refusals import Kind


async def difference(bucket: Bucket, name: str, size: int, sha256: str, into: BinaryIO | None = None) -> str:
    """How the object of a recording differs from what it should be; empty when it does not. It is written `into` a
    file. Raises `Refused` when it cannot be read, and `OSError`."""
    url = bucket.settings.url(name)
    found, seen = hashlib.sha256(), 0
    try:
        async with aclosing(bucket.read(bucket.settings.key(name))) as pieces:
            async for piece in pieces:
                seen += len(piece)
                if seen > size:
                    return f"{url} is longer than the {size} bytes that were brought there"
                found.update(piece)
                if into is not None:
                    await asyncio.to_thread(into.write, piece)
    except Refused as error:
        if error.kind is Kind.ABSENT:
            return f"{url} is not there"
        raise
    if seen < size:
        return f"{url} has {seen} of the {size} bytes that were brought there"
    if found.hexdigest() != sha256:
        return f"{url} has other bytes than were brought there"
    return ""


async def fetch(bucket: Bucket, directory: RecordingDirectory, name: str, note: ObjectNote) -> BinaryIO | BrokenPlace:
    """The recording, whole, at its beginning; the caller closes it. Raises `Refused`, `OSError`, and `LimitExceeded`
    when there is no room."""
    directory.check_room(note.header.sid, "fetched", more=note.size)
    flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
    file = os.fdopen(os.open(".", flags, 0o600, dir_fd=directory.descriptor), "w+b")
    try:
        wrong = await difference(bucket, name, note.size, note.sha256, file)
        if wrong:
            file.close()
            return BrokenPlace(None, 0, wrong)
        await asyncio.to_thread(file.flush)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file
