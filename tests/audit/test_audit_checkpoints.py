"""Checkpoints: signed, linked, over all heads; never forked, never silent when signing fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
import pytest

from teleport.audit import checkpoints as checkpointing
from teleport.audit.chain import ChainKey, CheckpointRef, CheckpointState, Head, Signer, next_checkpoints, reference
from teleport.audit.chain.checkpoint import MAX_HEADS, root_of, signature_holds
from teleport.audit.checkpoints import SavedCheckpoint
from teleport.audit.events import REGISTRY, AuditCheckpoint, Event, Exec, UserDelete, encode_event
from teleport.audit.verify import verify_store
from teleport.errors import TeleportError

if TYPE_CHECKING:
    from tests.audit.conftest import AuditLog

AUTH = "auth-1"


def checkpoints(log: AuditLog) -> list[AuditCheckpoint]:
    return [event for event in map(REGISTRY.decode, log.lines()) if isinstance(event, AuditCheckpoint)]


async def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        await asyncio.sleep(0.002)


async def test_a_checkpoint_follows_what_moved_and_an_idle_log_is_left_alone(audit_log: AuditLog) -> None:
    """Its own event does not count as movement, or an idle cluster would sign for ever."""
    await audit_log.intake.start()
    emitter = audit_log.emitter(AUTH)
    shipper, checkpointer = audit_log.shipper(emitter), audit_log.checkpointer(emitter)
    await emitter.emit(emitter.new(UserDelete, name="a"))
    await shipper.deliver_all()
    for _ in range(4):
        await checkpointer.step()
        await shipper.deliver_all()
    assert [event.number for event in checkpoints(audit_log)] == [1]
    await emitter.emit(emitter.new(UserDelete, name="b"))
    await shipper.deliver_all()
    for _ in range(3):
        await checkpointer.step()
        await shipper.deliver_all()
    one, two = checkpoints(audit_log)
    assert two.previous == reference(one).hash
    assert signature_holds(two, audit_log.verify)
    assert verify_store(audit_log.store, verify=audit_log.verify, known_heads=audit_log.records.kept_heads).ok


async def test_emitters_put_the_last_checkpoint_into_their_next_event(audit_log: AuditLog) -> None:
    """So a host's chain witnesses auth's log."""
    await audit_log.intake.start()
    node, auth = audit_log.emitter("node-a"), audit_log.emitter(AUTH)
    shipper = audit_log.shipper(node)
    await node.emit(node.new(Exec, command="a"))
    await shipper.deliver_all()
    await audit_log.checkpointer(auth).step()
    await audit_log.shipper(auth).deliver_all()
    for command in ("b", "c"):
        await node.emit(node.new(Exec, command=command))
        await shipper.deliver_all()
    last = REGISTRY.decode(audit_log.lines()[-1])
    assert CheckpointRef.parse(last.checkpoint) == reference(checkpoints(audit_log)[0])


async def test_another_holder_of_the_lease_goes_on_with_the_same_links(audit_log: AuditLog) -> None:
    """It states all heads anew, and two holders in turn never give one number twice."""
    await audit_log.intake.start()
    emitter = audit_log.emitter(AUTH)
    shipper = audit_log.shipper(emitter)
    holders = [audit_log.checkpointer(emitter), audit_log.checkpointer(emitter)]
    for number in range(4):
        await emitter.emit(emitter.new(UserDelete, name=str(number)))
        await shipper.deliver_all()
        await holders[number % 2].step()
        await shipper.deliver_all()
    found = checkpoints(audit_log)
    assert [event.number for event in found] == [1, 2, 3, 4]
    assert [event.base for event in found] == [True, True, True, True]
    assert verify_store(audit_log.store, verify=audit_log.verify).ok


@pytest.mark.parametrize("written", [False, True], ids=["before the event", "after the event"])
async def test_a_crash_while_writing_a_checkpoint_makes_no_fork(audit_log: AuditLog, written: bool) -> None:
    """The saved statement is written again, never another one with its number."""
    await audit_log.intake.start()
    emitter = audit_log.emitter(AUTH)
    shipper = audit_log.shipper(emitter)
    await emitter.emit(emitter.new(UserDelete, name="a"))
    await shipper.deliver_all()
    state = CheckpointState()
    ((event, _),) = next_checkpoints(
        state,
        audit_log.intake.heads(),
        Signer("key-1", audit_log.key.sign),
        cluster="c1",
        now=audit_log.clock.now(),
        uid=lambda: "u",
    )
    audit_log.records.saved = SavedCheckpoint(encode_event(event), False)
    if written:
        await emitter.emit(event)
    await audit_log.checkpointer(emitter).step()
    await emitter.emit(emitter.new(UserDelete, name="b"))
    await shipper.deliver_all()
    await audit_log.checkpointer(emitter).step()
    await shipper.deliver_all()
    numbers = [event.number for event in checkpoints(audit_log)]
    assert sorted(set(numbers)) == list(range(1, max(numbers) + 1))
    report = verify_store(audit_log.store, verify=audit_log.verify, known_heads=audit_log.records.kept_heads)
    assert report.ok, [str(problem) for problem in report.problems]


async def test_signing_that_fails_is_loud_and_writes_nothing(
    audit_log: AuditLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """T43: in the log and in `problem`; the next interval tries again."""
    monkeypatch.setattr(checkpointing, "INTERVAL", 0.005)
    await audit_log.intake.start()
    emitter = audit_log.emitter(AUTH)
    await emitter.emit(emitter.new(UserDelete, name="a"))
    await audit_log.shipper(emitter).deliver_all()
    checkpointer = audit_log.checkpointer(emitter)
    good = checkpointer._signer

    def fail(message: bytes) -> bytes:
        raise TeleportError("the key is gone")

    checkpointer._signer = replace(good, sign=fail)
    task = asyncio.create_task(checkpointer.run())
    await until(lambda: bool(checkpointer.problem))
    assert checkpointer.problem == "the key is gone"
    assert "not being signed" in caplog.text
    assert emitter.durable_seq == 1
    checkpointer._signer = good
    await until(lambda: emitter.durable_seq == 2)
    task.cancel()
    await asyncio.wait([task])
    assert emitter.durable_seq == 2


def test_many_heads_make_several_checkpoints_each_with_the_root_of_all_so_far(audit_log: AuditLog) -> None:
    """A line stays below the largest event, also with many hosts."""
    heads = {ChainKey(f"{n:036d}", 2**62): Head(2**53, "a" * 64) for n in range(600)}
    made = list(
        next_checkpoints(
            CheckpointState(),
            heads,
            Signer("key-1", audit_log.key.sign),
            cluster="c" * 200,
            now=audit_log.clock.now(),
            uid=lambda: "u" * 36,
        )
    )
    assert [len(event.heads) for event, _ in made] == [MAX_HEADS, MAX_HEADS, 600 - 2 * MAX_HEADS]
    assert [event.base for event, _ in made] == [True, False, False]
    for event, state in made:
        decoded: Event = REGISTRY.decode(encode_event(event))
        assert isinstance(decoded, AuditCheckpoint)
        assert signature_holds(decoded, audit_log.verify)
        assert state.heads is not None
        assert decoded.root == root_of(state.heads)
    assert made[-1][0].root == root_of(heads)


async def test_any_change_to_a_checkpoint_breaks_its_signature(audit_log: AuditLog) -> None:
    """Every field is under it."""
    heads = {ChainKey("node-a", 1): Head(3, "a" * 64)}
    ((event, _),) = next_checkpoints(
        CheckpointState(),
        heads,
        Signer("key-1", audit_log.key.sign),
        cluster="c1",
        now=audit_log.clock.now(),
        uid=lambda: "u",
    )
    assert signature_holds(event, audit_log.verify)
    audit_log.clock.forward(seconds=1)
    changes: list[dict[str, object]] = [
        {"number": 2},
        {"base": False},
        {"previous": "b" * 64},
        {"root": "b" * 64},
        {"cluster_name": "c2"},
        {"heads": []},
        {"time": audit_log.clock.now()},
        {"key_id": "other"},
        {"signature": ""},
        {"signature": "!!"},
    ]
    for change in changes:
        assert not signature_holds(msgspec.structs.replace(event, **change), audit_log.verify), change
