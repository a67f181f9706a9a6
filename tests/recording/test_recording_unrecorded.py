"""Notes of sessions that run and are not recorded here."""

from __future__ import annotations

import errno
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest

from teleport.recording import unrecorded, upload_folders
from teleport.recording.directory import RecordingDirectory
from teleport.recording.format import RecordingHeader


def header() -> RecordingHeader:
    started = datetime(2026, 11, 28, 12, tzinfo=UTC)
    return RecordingHeader(sid=str(uuid.uuid4()), started=started, user="ann", login="root", node_id=str(uuid.uuid4()))


def test_a_note_says_what_began_until_it_is_forgotten(tmp_path: Path) -> None:
    first, second = header(), header()
    directory = RecordingDirectory(tmp_path)
    for one in (first, second):
        unrecorded.note(directory, one)
    with pytest.raises(FileExistsError):
        unrecorded.note(directory, first)
    directory.close()
    assert {one.sid: one for one in unrecorded.noted(tmp_path)} == {first.sid: first, second.sid: second}
    unrecorded.forget(tmp_path, first.sid)
    unrecorded.forget(tmp_path, first.sid)
    assert list(unrecorded.noted(tmp_path)) == [second]


def test_a_note_that_was_never_whole_is_of_nothing_that_began(tmp_path: Path) -> None:
    sid = str(uuid.uuid4())
    (tmp_path / f"{sid}.open").write_bytes(b'{"sid":')
    assert list(unrecorded.noted(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []


def test_notes_stay_where_they_are_until_they_are_told(tmp_path: Path) -> None:
    """Taking recordings over moves no note into the folder of a process that lives: nobody would tell of it."""
    former, lock = upload_folders.begin(tmp_path, 1)
    directory = RecordingDirectory(former)
    noted = header()
    unrecorded.note(directory, noted)
    directory.close()
    own, own_lock = upload_folders.begin(tmp_path, 2)
    upload_folders.AbandonedFolder(former, lock).close()
    for left in ([noted], []):
        [folder] = upload_folders.abandoned(tmp_path, 2)
        assert list(unrecorded.noted(folder.path)) == left[:1] or left == []
        if not left:
            unrecorded.forget(folder.path, noted.sid)
        assert upload_folders.take_over(folder, own) == []
        folder.close()
    assert not former.exists()
    assert list(unrecorded.noted(own)) == []
    upload_folders.AbandonedFolder(own, own_lock).close()


def test_a_folder_that_was_closed_takes_no_note_and_says_so_as_a_disk_would(tmp_path: Path) -> None:
    """As while a daemon ends: the session is refused with words, and no error of ours."""
    directory = RecordingDirectory(tmp_path)
    directory.close()
    with pytest.raises(OSError, match="descriptor") as refused:
        unrecorded.note(directory, header())
    assert refused.value.errno == errno.EBADF
    with pytest.raises(OSError, match="closed"):
        directory.sync()
