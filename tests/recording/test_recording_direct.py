"""Runs of bytes written past the system's cache: the same bytes in the file, at every moment."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from teleport.recording.direct import DirectWriter
from teleport.recording.format import BLOCK

MIB = 1024 * 1024


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    found = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield found
    os.close(found)


def content(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def need_direct(written: int | None) -> int:
    if written is None:
        pytest.skip("the file system of the temporary folder has no direct writes (open with O_DIRECT is refused)")
    return written


@pytest.mark.parametrize("seed", range(6))
def test_runs_of_any_size_follow_each_other(descriptor: int, seed: int) -> None:
    """Also after writes through the cache in between, and with pieces larger than the writer's memory."""
    chance = random.Random(seed)
    expected = b"header"
    os.pwrite(descriptor, expected, 0)
    writer = DirectWriter(descriptor)
    for _ in range(12):
        sizes = [chance.choice((1, 50, BLOCK - 1, BLOCK, 140_000, 2 * MIB + 7)) for _ in range(chance.randint(1, 5))]
        pieces = [chance.randbytes(size) for size in sizes]
        written = need_direct(writer.write(pieces, len(expected)))
        expected += b"".join(pieces)
        assert written == sum(sizes)
        found = content(descriptor)
        assert found[: len(expected)] == expected
        assert found[len(expected) :] == bytes(-len(expected) % BLOCK)
        if chance.random() < 0.4:
            typed = chance.randbytes(chance.choice((3, 5000)))
            os.pwrite(descriptor, typed, len(expected))
            expected += typed
    writer.close()


def test_a_file_that_takes_no_direct_writes_is_left_alone() -> None:
    descriptor = os.open("/dev/null", os.O_RDWR)
    writer = DirectWriter(descriptor)
    assert writer.write([b"x"], 0) is None
    assert writer.write([b"x"], 0) is None
    os.close(descriptor)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP])
def test_a_device_with_larger_blocks_is_not_asked_again(
    descriptor: int, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = DirectWriter(descriptor)
    need_direct(writer.write([b"x" * BLOCK], 0))

    def refuse(*_: object) -> int:
        raise OSError(code, "no")

    monkeypatch.setattr(os, "pwrite", refuse)
    assert writer.write([b"y" * BLOCK], BLOCK) is None
    monkeypatch.undo()
    assert writer.write([b"y" * BLOCK], BLOCK) is None


def test_a_full_disk_is_an_error_and_the_next_run_is_right_again(
    descriptor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = DirectWriter(descriptor)
    need_direct(writer.write([b"a" * 5000], 0))

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space"):
        writer.write([b"b" * 5000], 5000)
    monkeypatch.undo()
    os.ftruncate(descriptor, 5000)
    assert writer.write([b"c" * 5000], 5000) == 5000
    assert content(descriptor) == b"a" * 5000 + b"c" * 5000 + bytes(-10_000 % BLOCK)
    writer.close()


def test_a_write_that_ends_within_a_block_is_an_error(descriptor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = DirectWriter(descriptor)
    need_direct(writer.write([b"a"], 0))
    monkeypatch.setattr(os, "pwrite", lambda *_: 100)
    with pytest.raises(OSError, match="within a block"):
        writer.write([b"b" * BLOCK], 1)
    monkeypatch.undo()
    writer.close()
