"""What recordings use on disk before auth has them: counted over all processes of a host, and nothing else."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest

from teleport.errors import LimitExceeded
from teleport.recording.quota import check_quota, used

MIB = 1024 * 1024


def recording(folder: Path, suffix: str, size: int) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{uuid.uuid4()}{suffix}"
    path.write_bytes(os.urandom(size))
    return path


def test_recordings_of_every_process_count_and_nothing_else(tmp_path: Path) -> None:
    elsewhere = recording(tmp_path.parent / f"{tmp_path.name}-elsewhere", ".rec", 4 * MIB)
    root = tmp_path / "upload"
    root.mkdir()
    assert used(root) == 0
    recording(root, ".rec", MIB)  # as versions before left them
    recording(root / f"{7:020d}", ".rec.part", MIB)
    recording(root / f"{8:020d}", ".rec.broken", MIB)
    recording(root / f"{8:020d}", ".torn", MIB)
    recording(root / f"{8:020d}", ".other", MIB)
    (root / f"{8:020d}" / f"{uuid.uuid4()}.rec").symlink_to(elsewhere)
    (root / f"{9:020d}").symlink_to(elsewhere.parent)
    assert 4 * MIB <= used(root) < 4.5 * MIB


def test_the_quota_refuses_from_its_last_byte_on_and_says_what_to_do(tmp_path: Path) -> None:
    path = recording(tmp_path, ".rec", 2 * MIB)
    check_quota(tmp_path, 0)
    check_quota(tmp_path, 4 * MIB)
    with pytest.raises(LimitExceeded, match=r"use 2\.\d MiB of the 2 that ssh_service\.recording_quota_mib") as refused:
        check_quota(tmp_path, 2 * MIB)
    assert str(tmp_path) in (refused.value.hint or "")
    path.unlink()
    check_quota(tmp_path, 2 * MIB)
