"""Each process of a host records in a folder of its own; only what nobody holds is taken over."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from teleport.errors import AlreadyExists
from teleport.recording.upload_folders import abandoned, begin, holds_any, take_over

SIDS = [f"00000000-0000-4000-8000-00000000000{number}" for number in range(4)]


def test_a_living_process_keeps_its_folder_and_a_dead_one_is_taken_over(tmp_path: Path) -> None:
    (old, old_lock), (own, own_lock) = begin(tmp_path, 7), begin(tmp_path, 8)
    (old / f"{SIDS[0]}.rec").touch()
    (old / f"{SIDS[1]}.rec.part").touch()
    (old / f"{SIDS[2]}.rec.new").touch()
    (old / "notes.txt").touch()
    assert abandoned(tmp_path, 8) == []
    with pytest.raises(AlreadyExists):
        begin(tmp_path, 7)
    os.close(old_lock)
    (folder,) = abandoned(tmp_path, 8)
    assert folder.path == old
    assert abandoned(tmp_path, 8) == [], "two take it over at once"
    assert take_over(folder, own) == [SIDS[0]]
    folder.close()
    assert (own / f"{SIDS[0]}.rec").exists()
    assert (old / f"{SIDS[1]}.rec.part").exists(), "what could not be ended stays for another try"
    assert (old / f"{SIDS[2]}.rec.new").exists(), "what has not begun is recovery's to remove"
    (old / f"{SIDS[1]}.rec.part").unlink()
    (old / f"{SIDS[2]}.rec.new").unlink()
    (old / "notes.txt").unlink()
    (folder,) = abandoned(tmp_path, 8)
    take_over(folder, own)
    folder.close()
    assert not old.exists()
    assert holds_any(own)
    os.close(own_lock)


def test_a_parent_takes_over_from_its_child_and_from_versions_without_folders(tmp_path: Path) -> None:
    (own, own_lock), (child, child_lock) = begin(tmp_path, 7), begin(tmp_path, 8)
    (child / f"{SIDS[2]}.rec").touch()
    (tmp_path / f"{SIDS[3]}.rec").touch()
    (tmp_path / f"{9:020d}").mkdir()  # another child, before it has its lock
    os.close(child_lock)
    for folder in abandoned(tmp_path, 7):
        take_over(folder, own)
        folder.close()
    assert sorted(path.name for path in own.glob("*.rec")) == [f"{SIDS[2]}.rec", f"{SIDS[3]}.rec"]
    assert not child.exists()
    assert (tmp_path / f"{9:020d}").exists()
    os.close(own_lock)
