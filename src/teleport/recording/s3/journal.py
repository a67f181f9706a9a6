"""Which parts of a recording the service has taken, in a file beside it: a restart goes on where an upload stopped.

The first line says what is uploaded where, each later one is a part, written once the service has acknowledged it.
A line that is torn counts for nothing. What the journal says is compared with what the service has before it counts.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import msgspec

from teleport.errors import NotFound
from teleport.recording.directory import RecordingDirectory, Suffix, stored_name
from teleport.recording.s3.bucket import Part

_MOST = 8 * 1024 * 1024  # bytes of a journal: more than 10,000 parts have


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is uploaded where."""

    bucket: str
    key: str
    size: int
    sha256: str
    part_size: int
    upload: str


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    number: int
    etag: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Journal:
    """What was found."""

    head: Head
    parts: dict[int, Part]


def read(directory: RecordingDirectory, name: str) -> Journal | None:
    """The journal of a recording; None when there is none that can be read."""
    try:
        with os.fdopen(directory.open(stored_name(name, Suffix.PARTS)), "rb") as file:
            lines = file.read(_MOST).split(b"\n")[:-1]
    except NotFound:
        return None
    try:
        head = msgspec.json.decode(lines[0], type=Head) if lines else None
    except msgspec.MsgspecError:
        return None
    if head is None:
        return None
    parts: dict[int, Part] = {}
    for line in lines[1:]:
        try:
            found = msgspec.json.decode(line, type=_Line)
        except msgspec.MsgspecError:
            continue
        parts[found.number] = Part(found.number, found.etag, found.sha256, found.size)
    return Journal(head, parts)


def begin(directory: RecordingDirectory, name: str, head: Head) -> None:
    """A new journal instead of what was there, durably."""
    directory.remove(stored_name(name, Suffix.PARTS))
    with os.fdopen(directory.create(stored_name(name, Suffix.PARTS)), "wb") as file:
        file.write(msgspec.json.encode(head) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    directory.sync()


def add(directory: RecordingDirectory, name: str, part: Part) -> None:
    """One more part is there."""
    line = msgspec.json.encode(_Line(part.number, part.etag, part.sha256, part.size))
    with os.fdopen(directory.open(stored_name(name, Suffix.PARTS), write=True), "r+b") as file:
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + line + b"\n")  # the line before may be torn
        file.flush()
        os.fsync(file.fileno())
