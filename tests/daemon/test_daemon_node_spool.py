"""The quota of recordings at a node: told once each time it is reached, refusing also when it cannot be told."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest

from teleport.clock import SystemClock
from teleport.daemon.node_spool import NodeSpool
from teleport.errors import LimitExceeded
from teleport.recording.format import RecordingHeader, Signature

MIB = 1024 * 1024


def header() -> RecordingHeader:
    return RecordingHeader(
        sid=str(uuid.uuid4()), started=datetime.now(UTC), user="ann", login="ann", node_id=str(uuid.uuid4())
    )


def unsigned(_: bytes) -> Signature:
    raise AssertionError("nothing is signed here")


@pytest.mark.parametrize("recorded", [True, False], ids=["on record", "record fails"])
async def test_the_quota_is_told_once_and_refuses_each_time(tmp_path: Path, recorded: bool) -> None:
    told: list[str] = []

    async def full(error: LimitExceeded) -> None:
        told.append(error.message)
        if not recorded:
            raise OSError("the disk is full")

    spool = NodeSpool(tmp_path / "own", clock=SystemClock(), sign=unsigned, quota=MIB, full=full)
    other = tmp_path / "other"
    other.mkdir()
    waiting = other / f"{uuid.uuid4()}.rec"
    for times in (1, 2):
        waiting.write_bytes(b"x" * (MIB + 1))
        for _ in range(3):
            with pytest.raises(LimitExceeded):
                await spool.start(header())
        assert len(told) == times
        waiting.unlink()
        recorder = await spool.start(header())
        assert recorder.failure is None
    assert not list((tmp_path / "own").glob("*.rec"))
    spool.sign = None
    await spool.close()
