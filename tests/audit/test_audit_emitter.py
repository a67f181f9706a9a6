"""Emitting: durable before it returns, many with one sync, failing loudly."""

from __future__ import annotations

import asyncio
import itertools
import os
import resource
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from teleport.audit import spool
from teleport.audit.chain import Linked
from teleport.audit.emitter import Emitter
from teleport.audit.events import Exec, UserDelete
from teleport.errors import AlreadyExists, BadRequest, TeleportError

if TYPE_CHECKING:
    from tests.audit.conftest import AuditLog, ManualClock


async def test_an_emitted_event_is_on_disk(audit_log: AuditLog) -> None:
    """When emit returns, the line is in the spool."""
    emitter = audit_log.emitter("node-a")
    await emitter.emit(emitter.new(Exec, command="ls"))
    (line,) = spool.undelivered(emitter.directory)
    assert b'"command":"ls"' in line
    assert Linked.parse(line).intact


async def test_two_hundred_at_once_need_few_syncs(audit_log: AuditLog) -> None:
    """Group commit: what gathers while the disk is busy is written together."""
    emitter = audit_log.emitter("node-a")
    await asyncio.gather(*(emitter.emit(emitter.new(Exec, command=str(n))) for n in range(200)))
    assert emitter.durable_seq == 200
    assert emitter.syncs <= 10
    lines = [Linked.parse(line) for line in spool.undelivered(emitter.directory)]
    assert [line.seq for line in lines] == list(range(1, 201))
    assert all(two.prev == one.computed for one, two in itertools.pairwise(lines))


async def test_a_full_disk_fails_the_operation_and_leaves_no_half_line(audit_log: AuditLog) -> None:
    """The writer is told, the spool stays whole, and later events go on where the chain stood."""
    emitter = audit_log.emitter("node-a")
    await emitter.emit(emitter.new(Exec, command="before"))
    (segment,) = spool.segments(spool.epoch_directory(emitter.directory, 1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    former = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (segment.stat().st_size + 100, hard))
    try:
        with pytest.raises(TeleportError, match="cannot be written") as caught:
            await emitter.emit(emitter.new(Exec, command="too much"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, former)
    assert "free space" in caught.value.hint
    await emitter.emit(emitter.new(Exec, command="after"))
    lines = [Linked.parse(line) for line in spool.undelivered(emitter.directory)]
    assert [line.seq for line in lines] == [1, 2]
    assert b"after" in lines[1].body


async def test_one_bad_event_does_not_spoil_the_others(audit_log: AuditLog) -> None:
    """It alone fails, also when written together with good ones."""
    emitter = audit_log.emitter("node-a")
    wrong: dict[str, object] = {"command": 5}
    events = [emitter.new(Exec, command="a"), emitter.new(Exec, **wrong), emitter.new(Exec, command="b")]
    results = await asyncio.gather(*(emitter.emit(event) for event in events), return_exceptions=True)
    assert results[0] is None
    assert isinstance(results[1], BadRequest)
    assert results[2] is None
    assert emitter.durable_seq == 2


async def test_a_new_epoch_follows_the_former_one(audit_log: AuditLog) -> None:
    """Its first event carries the last hash of the run before, torn lines aside."""
    first = audit_log.emitter("node-a", 1)
    await first.emit(first.new(Exec, command="a"))
    first.close()
    (segment,) = spool.segments(spool.epoch_directory(first.directory, 1))
    with segment.open("ab") as file:
        file.write(b'{"event":"exec","torn')
    second = audit_log.emitter("node-a", 5)
    await second.emit(second.new(Exec, command="b"))
    whole = [Linked.parse(line) for line in spool.undelivered(first.directory)]
    assert (whole[1].key.epoch, whole[1].seq, whole[1].prev) == (5, 1, whole[0].computed)


async def test_an_epoch_is_used_once(audit_log: AuditLog) -> None:
    """Two runs with one number would be two histories."""
    emitter = audit_log.emitter("node-a", 3)
    with pytest.raises(AlreadyExists):
        audit_log.emitter("node-a", 3)
    await emitter.emit(emitter.new(Exec))
    emitter.close()
    with pytest.raises(AlreadyExists):
        audit_log.emitter("node-a", 3)


@pytest.mark.parametrize(("host", "epoch"), [("", 1), ("../x", 1), ("a b", 1), ("a\n", 1), ("ok", 0), ("ok", -1)])
def test_a_bad_name_is_refused(tmp_path: Path, clock: ManualClock, host: str, epoch: int) -> None:
    """It goes into hashes and folders."""
    with pytest.raises(BadRequest):
        Emitter.open(tmp_path / "spool", host, epoch, clock)


async def test_a_closed_emitter_refuses(audit_log: AuditLog) -> None:
    """Never silent."""
    emitter = audit_log.emitter("node-a")
    emitter.close()
    with pytest.raises(TeleportError, match="closed"):
        await emitter.emit(UserDelete(time=audit_log.clock.now(), uid="u"))


async def test_the_spool_is_private_and_a_link_is_not_followed(audit_log: AuditLog) -> None:
    """It holds what users typed; nobody else may read it or lead it elsewhere."""
    emitter = audit_log.emitter("node-a")
    await emitter.emit(emitter.new(Exec))
    epoch_dir = spool.epoch_directory(emitter.directory, 1)
    (segment,) = spool.segments(epoch_dir)
    assert segment.stat().st_mode & 0o777 == 0o600
    assert epoch_dir.stat().st_mode & 0o777 == 0o700
    other = audit_log.emitter("node-b")
    target = audit_log.root / "target"
    target.write_bytes(b"")
    os.symlink(target, spool.epoch_directory(other.directory, 1) / "000000000001.log")
    with pytest.raises(TeleportError):
        await other.emit(other.new(Exec))
    assert target.read_bytes() == b""
