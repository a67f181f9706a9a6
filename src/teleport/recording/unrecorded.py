"""Sessions that this host tells of and does not record: a note of each, so that none stays without an end.

A recording says by itself which session a killed process cut off. Where nothing is recorded, or a proxy does it, a
small file `<sid>.open` beside the recordings (`upload_folders`) says so: what `RecordingHeader` holds, as JSON. It is
on disk before the start is on record and goes once the end is. Everything blocks: callers use threads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from teleport.errors import NotFound
from teleport.recording.directory import RecordingDirectory, Suffix, file_name, write_all
from teleport.recording.format import RecordingHeader


def note(directory: RecordingDirectory, header: RecordingHeader) -> None:
    """The session is about to begin; returns when that is on disk. Raises `OSError`."""
    name = file_name(header.sid, Suffix.OPEN)
    descriptor = directory.create(name)
    try:
        write_all(descriptor, [msgspec.json.encode(header)], 0)
        os.fdatasync(descriptor)
    except OSError:
        directory.remove(name)
        raise
    finally:
        os.close(descriptor)
    directory.sync()


def forget(path: Path, sid: str) -> None:
    """The session's end is on record. Not synced: told twice, auth keeps the first end."""
    (path / file_name(sid, Suffix.OPEN)).unlink(missing_ok=True)


def noted(path: Path) -> Iterator[RecordingHeader]:
    """The sessions of which the notes in a folder say that they did not end. Notes that were never whole are removed:
    nothing of their sessions had begun."""
    directory = RecordingDirectory(path)
    try:
        for sid in directory.ids(Suffix.OPEN):
            name = file_name(sid, Suffix.OPEN)
            try:
                with os.fdopen(directory.open(name), "rb") as file:
                    data = file.read()
            except NotFound:
                continue  # not a file, or its session has just ended
            try:
                header = msgspec.json.decode(data, type=RecordingHeader)
            except msgspec.DecodeError:
                directory.remove(name)
                continue
            yield header
    finally:
        directory.close()
