"""After a restore chains go on behind what was lost: taken, put on record, and told from gaps that somebody made."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from teleport.audit.chain import ChainKey, ChainState, Linked
from teleport.audit.emitter import Emitter
from teleport.audit.events import AuditGap, BackupRestore, Exec
from teleport.audit.intake import Intake
from teleport.audit.restored import Lost, Restored
from teleport.audit.verify import Report, verify_store
from teleport.errors import CompareFailed

if TYPE_CHECKING:
    from tests.audit.conftest import AuditLog

AUTH = "auth-1"
NODE = "node-a"


@dataclass
class Gaps:
    """What a restore left to do, in memory."""

    restored: Restored | None
    told: list[Lost] = field(default_factory=list)

    async def load_restored(self) -> Restored | None:
        return self.restored

    async def tell_gap(self, lost: Lost) -> None:
        self.told.append(lost)


async def run(emitter: Emitter, count: int) -> None:
    for number in range(count):
        await emitter.emit(emitter.new(Exec, command=f"run {number}", server_id=emitter.key.emitter))


async def put_back(log: AuditLog, folder: Path) -> tuple[Emitter, Gaps]:
    """A log that had three events of a node when it was copied, took three more, and was replaced by the copy."""
    await log.intake.start()
    emitter = log.emitter(NODE)
    shipper = log.shipper(emitter)
    await run(emitter, 3)
    await shipper.deliver_all()
    shutil.copytree(log.store / AUTH, folder / "copy")
    heads = dict(log.records.kept_heads)
    await run(emitter, 3)
    await shipper.deliver_all()
    log.clock.forward(hours=1)
    for path in (folder / "copy").iterdir():
        shutil.copy(path, log.store / AUTH)
    log.records.kept_heads, log.records.position = heads, ""
    gaps = Gaps(Restored(log.clock.now(), {key: head.seq for key, head in heads.items()}))
    log.sink._forget_file()
    log.intake = Intake(log.sink, log.records, log.clock, cluster="c1", gaps=gaps)
    await log.intake.start()
    log.clock.forward(seconds=1)
    return emitter, gaps


async def tell(log: AuditLog, gaps: Gaps, *, restored: bool = True) -> None:
    """What the outbox does: auth's own events reach the log."""
    auth = log.emitter(AUTH, 2)
    assert gaps.restored is not None
    if restored:
        await auth.emit(BackupRestore(time=gaps.restored.when, uid="restore"))
    for lost in gaps.told:
        gap = auth.new(
            AuditGap, host_id=lost.key.emitter, chain_epoch=lost.key.epoch, first=lost.first, last=lost.last,
            follows=lost.follows,
        )  # fmt: skip
        await auth.emit(gap)
    await log.shipper(auth).deliver_all()


def check(log: AuditLog) -> Report:
    return verify_store(log.store, known_heads=log.records.kept_heads)


async def test_a_chain_that_the_backup_knew_goes_on_and_the_gap_is_on_record(
    audit_log: AuditLog, tmp_path: Path
) -> None:
    emitter, gaps = await put_back(audit_log, tmp_path)
    await run(emitter, 2)
    key = ChainKey(NODE, 1)
    lines = [line for line in _spool(audit_log) if Linked.parse(line).seq >= 7]
    assert len(lines) == 2
    ack = await audit_log.intake.intake(NODE, 1, lines, allowed_emitter=NODE)
    assert (ack.next_seq, ack.may_skip) == (9, True)
    follows = Linked.parse(lines[0]).prev
    assert gaps.told == [Lost(key, 4, 6, follows)]
    assert not check(audit_log).ok, "as long as it is not on record"
    await tell(audit_log, gaps)
    assert check(audit_log).ok, check(audit_log).problems


async def test_a_host_delivers_what_it_still_has_and_goes_on(audit_log: AuditLog, tmp_path: Path) -> None:
    """Nothing that is somewhere is given up: here the spool still has all of it, and no gap is left."""
    emitter, gaps = await put_back(audit_log, tmp_path)
    await run(emitter, 2)
    await audit_log.shipper(emitter).deliver_all()
    assert audit_log.intake.head(ChainKey(NODE, 1)).seq == 8
    assert gaps.told == []
    assert check(audit_log).ok


async def test_a_second_gap_in_the_same_chain_is_refused(audit_log: AuditLog, tmp_path: Path) -> None:
    """A chain goes on once: after that it is whole, or somebody tampered with it."""
    emitter, _ = await put_back(audit_log, tmp_path)
    await run(emitter, 5)
    lines = {Linked.parse(line).seq: line for line in _spool(audit_log)}
    await audit_log.intake.intake(NODE, 1, [lines[7]], allowed_emitter=NODE)
    with pytest.raises(CompareFailed, match="expects event 8"):
        await audit_log.intake.intake(NODE, 1, [lines[9]], allowed_emitter=NODE)


async def test_a_chain_that_began_after_the_restore_has_no_gap(audit_log: AuditLog, tmp_path: Path) -> None:
    await put_back(audit_log, tmp_path)
    later = audit_log.emitter("node-b")
    await run(later, 3)
    lines = _spool(audit_log, "node-b")
    with pytest.raises(CompareFailed, match="expects event 1"):
        await audit_log.intake.intake("node-b", 1, lines[1:], allowed_emitter="node-b")


async def test_without_a_restore_a_gap_is_a_gap(audit_log: AuditLog, tmp_path: Path) -> None:
    emitter, gaps = await put_back(audit_log, tmp_path)
    gaps.restored = None
    await audit_log.intake._load()
    await run(emitter, 1)
    with pytest.raises(CompareFailed, match="expects event 4"):
        await audit_log.intake.intake(NODE, 1, _spool(audit_log)[-1:], allowed_emitter=NODE)


async def test_a_new_epoch_that_follows_a_lost_event_is_told_of(audit_log: AuditLog, tmp_path: Path) -> None:
    _, gaps = await put_back(audit_log, tmp_path)
    lost = Linked.parse(_spool(audit_log)[5]).computed
    line, _ = ChainState(ChainKey(NODE, 2), 0, lost).append(
        Exec(time=audit_log.clock.now(), uid="first", cluster_name="c1", server_id=NODE)
    )
    await audit_log.intake.intake(NODE, 2, [line], allowed_emitter=NODE)
    assert gaps.told == [Lost(ChainKey(NODE, 2), 0, 0, lost)]
    assert [str(problem) for problem in check(audit_log).problems] != []
    await tell(audit_log, gaps)
    assert check(audit_log).ok, check(audit_log).problems


async def test_a_gap_that_was_not_lost_is_still_found(audit_log: AuditLog, tmp_path: Path) -> None:
    """The record of one gap excuses no other."""
    emitter, gaps = await put_back(audit_log, tmp_path)
    await run(emitter, 4)
    lines = {Linked.parse(line).seq: line for line in _spool(audit_log)}
    await audit_log.intake.intake(NODE, 1, [lines[number] for number in (7, 8, 9, 10)], allowed_emitter=NODE)
    await tell(audit_log, gaps)
    assert check(audit_log).ok
    (path,) = (audit_log.store / AUTH).glob("*.log")
    kept = [
        line for line in path.read_bytes().splitlines(keepends=True) if b"run 1" not in line or b'"seq":8' not in line
    ]
    path.write_bytes(b"".join(kept))
    (problem,) = check(audit_log).problems
    assert "events 8 to 8 of its chain" in str(problem)


async def test_a_line_that_nobody_vouches_for_excuses_nothing(audit_log: AuditLog, tmp_path: Path) -> None:
    """Who can write the store cannot take events out and say that a restore lost them."""
    emitter, gaps = await put_back(audit_log, tmp_path)
    await run(emitter, 2)
    await audit_log.shipper(emitter).deliver_all()
    await tell(audit_log, gaps, restored=False)
    (path,) = (audit_log.store / AUTH).glob("*.log")
    lines = path.read_bytes().splitlines(keepends=True)
    follows = Linked.parse(lines[4].rstrip()).computed
    forged, _ = ChainState(ChainKey("gone", 1)).append(
        AuditGap(time=audit_log.clock.now(), uid="f", host_id=NODE, chain_epoch=1, first=5, last=5, follows=follows)
    )
    path.write_bytes(b"".join([*lines[:4], *lines[5:], forged + b"\n"]))
    assert any("events 5 to 5 of its chain" in str(problem) for problem in check(audit_log).problems)


def _spool(log: AuditLog, host: str = NODE) -> list[bytes]:
    """Every line that the host has on its disk."""
    files = sorted(path for path in (log.root / "spool" / host).rglob("*") if path.is_file() and path.stem.isdecimal())
    return [line for path in files for line in path.read_bytes().splitlines()]
