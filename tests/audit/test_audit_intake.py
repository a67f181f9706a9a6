"""Delivery and intake: in order, once, nothing forged."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from teleport.audit import shipper as shipping
from teleport.audit import spool
from teleport.audit.chain import ChainKey, ChainState, Head, Linked
from teleport.audit.chain.link import mark_received, mark_supplement, seal
from teleport.audit.emitter import Emitter
from teleport.audit.events import AuditCheckpoint, Event, Exec, SessionEnd, UserCreate, UserLogin
from teleport.audit.intake import Intake
from teleport.audit.sinks import FileSink, MultiSink
from teleport.audit.verify import verify_store
from teleport.errors import AccessDenied, BadRequest, CompareFailed, ConnectionProblem, TeleportError

if TYPE_CHECKING:
    from tests.audit.conftest import AuditLog


def chain(log: AuditLog, count: int, host: str = "node-a", **fields: Any) -> list[bytes]:
    state, lines = ChainState(ChainKey(host, 1)), []
    for number in range(count):
        event = Exec(time=log.clock.now(), uid=f"{host}-{number}", cluster_name="c1", command=str(number), **fields)
        line, state = state.append(event)
        lines.append(line)
    return lines


async def take(log: AuditLog, lines: list[bytes], host: str = "node-a", epoch: int = 1) -> int:
    return (await log.intake.intake(host, epoch, lines, allowed_emitter=host)).next_seq


async def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        await asyncio.sleep(0.005)


async def test_delivering_again_changes_nothing(audit_log: AuditLog) -> None:
    """Whole, in part and overlapping."""
    lines = chain(audit_log, 6)
    await audit_log.intake.start()
    assert await take(audit_log, []) == 1
    assert await take(audit_log, lines[:4]) == 5
    assert await take(audit_log, lines[:4]) == 5
    assert await take(audit_log, lines[1:3]) == 5
    assert await take(audit_log, lines[2:]) == 7
    assert await take(audit_log, lines) == 7
    assert audit_log.delivered() == lines


async def test_a_gap_is_refused_and_the_expected_event_named(audit_log: AuditLog) -> None:
    """Nothing of that batch is kept."""
    lines = chain(audit_log, 6)
    await audit_log.intake.start()
    await take(audit_log, lines[:2])
    with pytest.raises(CompareFailed, match="expects event 3"):
        await take(audit_log, lines[3:])
    with pytest.raises(CompareFailed, match="expects event 4"):
        await take(audit_log, [lines[2], lines[4]])
    assert audit_log.delivered() == lines[:2]


async def test_another_history_is_refused(audit_log: AuditLog) -> None:
    """The same place in the chain cannot hold two events, nor a later event follow another one."""
    await audit_log.intake.start()
    await take(audit_log, chain(audit_log, 2))
    other = chain(audit_log, 3, login="x")
    with pytest.raises(CompareFailed, match="two histories"):
        await take(audit_log, other[1:])
    with pytest.raises(CompareFailed, match="does not follow"):
        await take(audit_log, other[2:])


async def test_a_host_speaks_for_itself_only(audit_log: AuditLog) -> None:
    """Neither another emitter's name in the call nor in the line nor another server in an event."""
    await audit_log.intake.start()
    with pytest.raises(AccessDenied):
        await audit_log.intake.intake("node-b", 1, chain(audit_log, 1, "node-b"), allowed_emitter="node-a")
    with pytest.raises(AccessDenied):
        await take(audit_log, chain(audit_log, 1, "node-b"))
    with pytest.raises(AccessDenied, match="another server"):
        await take(audit_log, chain(audit_log, 1, server_id="node-b"))
    assert await take(audit_log, chain(audit_log, 1, server_id="node-a")) == 2


@pytest.mark.parametrize("cls", [UserLogin, UserCreate, AuditCheckpoint])
async def test_events_of_auth_are_refused_from_hosts(audit_log: AuditLog, cls: type[Event]) -> None:
    """A stolen host must not write that somebody logged in, or sign the log."""
    await audit_log.intake.start()
    line, _ = ChainState(ChainKey("node-a", 1)).append(cls(time=audit_log.clock.now(), uid="u"))
    with pytest.raises(AccessDenied, match="event of auth"):
        await take(audit_log, [line])
    await audit_log.intake.intake("node-a", 1, [line], allowed_emitter="node-a", own=True)


async def test_an_event_has_the_hosts_time_and_auths_time_of_receipt(audit_log: AuditLog) -> None:
    """The host's clock is the host's word; what waited in a spool shows by how long."""
    await audit_log.intake.start()
    lines = chain(audit_log, 2)
    audit_log.clock.forward(hours=3, microseconds=5)
    await take(audit_log, lines[:1])
    audit_log.clock.forward(minutes=1)
    await take(audit_log, lines)  # the first one again: it keeps its first receipt
    stored = [json.loads(line) for line in audit_log.lines()]
    assert [event["time"] for event in stored] == ["2021-05-01T10:00:00Z"] * 2
    assert [event["received"] for event in stored] == ["2021-05-01T13:00:00.000005Z", "2021-05-01T13:01:00.000005Z"]
    assert audit_log.delivered() == lines


async def test_altered_lines_and_lines_that_are_no_events_are_refused(audit_log: AuditLog) -> None:
    """Altered, spaced, doubled keys, wrong types, another cluster, a remark of auth's, too long."""
    await audit_log.intake.start()
    (line,) = chain(audit_log, 1)
    body = Linked.parse(line).body
    cases = [
        line.replace(b'"command":"0"', b'"command":"1"'),
        seal(body.replace(b'"login":""', b'"login": ""'))[0],
        seal(body.replace(b'"login":""', b'"login":"","login":"root"'))[0],
        seal(body.replace(b'"login":""', b'"login":5'))[0],
        seal(body.replace(b'"seq":1', b'"seq":-1'))[0],
        seal(body.replace(b'"login":""', b'"login":"\x1b"'))[0],
        seal(body.replace(b'"login":""', b'"login":"%s"' % (b"x" * 70_000)))[0],
        mark_supplement(line),
        mark_received(line, audit_log.clock.now()),
        seal(body[:-1] + b',"received":"2021-05-01T10:00:00Z"}')[0],
        seal(body[:-1] + b',"receipt":"0123456789abcdef"}')[0],
        seal(body.replace(b'"event":"exec"', b'"event":"a.later_event"')[:-1] + b',"received":"2021-05-01T10:00:00Z"}')[
            0
        ],
        seal(body.replace(b'"event":"exec"', b'"event":"session.end"')[:-1] + b',"supplement":true}')[0],
        b"",
        b"{}",
        line + b"\n" + line,
    ]
    for case in cases:
        with pytest.raises(BadRequest):
            await take(audit_log, [case])
    with pytest.raises(AccessDenied):
        await take(audit_log, [seal(body.replace(b'"cluster_name":"c1"', b'"cluster_name":"c2"'))[0]])
    assert audit_log.delivered() == []
    assert await take(audit_log, [line]) == 2


@pytest.mark.parametrize("time", ["2021-05-01T10:00:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
@pytest.mark.parametrize("name", ["exec", "of.a.newer.version"])
async def test_a_time_that_cannot_be_compared_is_refused(audit_log: AuditLog, time: str, name: str) -> None:
    """One such event would be in the way of every search and of every count."""
    await audit_log.intake.start()
    (line,) = chain(audit_log, 1)
    fields = json.loads(line)
    del fields["hash"]
    body = json.dumps(fields | {"time": time, "event": name}, separators=(",", ":"), ensure_ascii=False).encode()
    with pytest.raises(BadRequest, match="time"):
        await take(audit_log, [seal(body)[0]])


async def test_a_newer_hosts_event_is_kept(audit_log: AuditLog) -> None:
    """Unknown events and fields are taken in as they are; forging another server is refused there too."""
    await audit_log.intake.start()
    body = Linked.parse(chain(audit_log, 1)[0]).body
    newer = body.replace(b'"event":"exec"', b'"event":"moon.rise"').replace(b'"login":""', b'"later":[1,{"a":null}]')
    with pytest.raises(AccessDenied):
        await take(audit_log, [seal(newer.replace(b'"server_id":""', b'"server_id":"node-b"'))[0]])
    assert await take(audit_log, [seal(newer)[0]]) == 2


async def test_a_session_has_one_end_and_later_ones_are_marked(audit_log: AuditLog) -> None:
    """Also when the supplement is delivered twice."""
    await audit_log.intake.start()
    now = audit_log.clock.now()
    one, _ = ChainState(ChainKey("auth-1", 1)).append(SessionEnd(time=now, uid="e1", sid="s", server_id="node-a"))
    two, _ = ChainState(ChainKey("node-a", 1)).append(SessionEnd(time=now, uid="e2", sid="s", server_id="node-a"))
    await audit_log.intake.intake("auth-1", 1, [one], allowed_emitter="auth-1", own=True)
    await take(audit_log, [two])
    await take(audit_log, [two])
    lines = audit_log.lines()
    assert [b'"supplement":true' in line for line in lines] == [False, True]
    assert Linked.parse(lines[1]).intact


async def test_a_crash_between_store_and_heads_is_repaired(audit_log: AuditLog) -> None:
    """What reached the store is not taken in twice, and a torn line is taken in again."""
    lines = chain(audit_log, 5)
    await audit_log.intake.start()
    await take(audit_log, lines[:2])
    before = dict(audit_log.records.kept_heads), audit_log.records.position
    await take(audit_log, lines[2:4])
    audit_log.sink.close()
    audit_log.records.kept_heads, audit_log.records.position = before
    (path,) = audit_log.sink.store.glob("*.log")
    with path.open("ab") as file:
        file.write(lines[4][:40])
    sink = FileSink(audit_log.store, "auth-1", audit_log.clock)
    again = Intake(sink, audit_log.records, audit_log.clock, cluster="c1")
    await again.start()
    assert again.head(ChainKey("node-a", 1)) == Head(4, Linked.parse(lines[3]).computed)
    assert (await again.intake("node-a", 1, lines, allowed_emitter="node-a")).next_seq == 6
    sink.close()
    assert audit_log.delivered() == lines
    assert audit_log.records.kept_heads[ChainKey("node-a", 1)].seq == 5


async def test_a_caller_that_hangs_up_leaves_nothing_half_done(audit_log: AuditLog) -> None:
    """The batch is finished, so its redelivery is known."""
    lines = chain(audit_log, 3)
    await audit_log.intake.start()
    call = asyncio.create_task(take(audit_log, lines))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await audit_log.intake.close()
    assert await take(audit_log, lines) == 4
    assert audit_log.delivered() == lines


class Broken:
    """A sink that fails until mended."""

    def __init__(self, *, broken: bool = True) -> None:
        self.broken = broken
        self.lines: set[bytes] = set()

    async def append(self, lines: Sequence[bytes]) -> None:
        if self.broken:
            raise TeleportError("full")
        self.lines |= set(lines)


async def test_nothing_is_acknowledged_that_a_sink_did_not_take(audit_log: AuditLog) -> None:
    """Every sink must have it; the store holds it once."""
    copy, broken = Broken(broken=False), Broken()
    sink = MultiSink(audit_log.sink, [copy, broken])
    intake = Intake(audit_log.sink, audit_log.records, audit_log.clock, cluster="c1", sink=sink)
    lines = chain(audit_log, 2)
    with pytest.raises(TeleportError, match="full"):
        await intake.intake("node-a", 1, lines, allowed_emitter="node-a")
    broken.broken = False
    assert (await intake.intake("node-a", 1, lines, allowed_emitter="node-a")).next_seq == 3
    assert audit_log.delivered() == lines
    assert copy.lines == set(audit_log.lines())


# --- the shipper


async def test_events_wait_while_auth_is_away_and_emitting_goes_on(
    audit_log: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then all arrive, in order, and delivered segments go."""
    monkeypatch.setattr(spool, "SEGMENT_SIZE", 2000)
    monkeypatch.setattr(shipping, "BATCH_LINES", 7)
    monkeypatch.setattr(shipping, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(shipping, "LONGEST_PAUSE", 0.02)
    await audit_log.intake.start()
    emitter = audit_log.emitter("node-a")
    delivery = audit_log.delivery("node-a")
    delivery.away = ConnectionProblem("auth is away")
    shipper = shipping.Shipper(emitter, delivery)
    task = asyncio.create_task(shipper.run())
    for number in range(30):
        await emitter.emit(emitter.new(Exec, command=str(number)))
    await until(lambda: shipper.problem == "auth is away")
    epoch_dir = spool.epoch_directory(emitter.directory, 1)
    assert len(spool.segments(epoch_dir)) > 5
    delivery.away = None
    await until(lambda: audit_log.intake.head(ChainKey("node-a", 1)).seq == 30)
    await until(lambda: len(spool.segments(epoch_dir)) == 1 and not shipper.problem)
    await emitter.emit(emitter.new(Exec, command="more"))
    await until(lambda: audit_log.intake.head(ChainKey("node-a", 1)).seq == 31)
    task.cancel()
    await asyncio.wait([task])
    assert max(delivery.calls) <= 7
    assert verify_store(audit_log.store).ok


async def test_lost_answers_do_not_double_events(audit_log: AuditLog) -> None:
    """The host delivers again what auth has already."""
    await audit_log.intake.start()
    emitter = audit_log.emitter("node-a")
    delivery = audit_log.delivery("node-a")
    delivery.lose_answers = 1
    shipper = shipping.Shipper(emitter, delivery)
    await emitter.emit(emitter.new(Exec, command="a"))
    with pytest.raises(ConnectionError):
        await shipper.deliver_all()
    await emitter.emit(emitter.new(Exec, command="b"))
    await shipper.deliver_all()
    assert len(audit_log.lines()) == 2
    assert verify_store(audit_log.store).ok


@pytest.mark.parametrize("step", ["recover_epoch", "remember_last", "drop_delivered"])
async def test_a_delivery_that_is_cut_off_leaves_nothing_half_done_for_the_last_one(
    audit_log: AuditLog, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A daemon that ends cancels its delivery, and delivers once more what is left."""
    await audit_log.intake.start()
    former = audit_log.emitter("node-a", 1)
    await former.emit(former.new(Exec, command="former"))
    former.close()
    emitter = audit_log.emitter("node-a", 2)
    await emitter.emit(emitter.new(Exec, command="now"))
    shipper = audit_log.shipper(emitter)
    begun, go_on, real = threading.Event(), threading.Event(), getattr(spool, step)
    running: list[str] = []

    def slow(*given: Any) -> None:
        assert not running, "two at once"
        running.append(step)
        begun.set()
        go_on.wait(10)
        real(*given)
        running.clear()

    monkeypatch.setattr(spool, step, slow)
    delivering = asyncio.create_task(shipper.deliver_all())
    await asyncio.to_thread(begun.wait, 10)
    delivering.cancel()
    await asyncio.sleep(0)
    assert not delivering.done(), "it lets go of the spool while its thread works on it"
    go_on.set()
    await asyncio.wait([delivering])
    await shipper.deliver_all()
    assert spool.epochs(emitter.directory) == [2]
    assert len(audit_log.lines()) == 2
    assert verify_store(audit_log.store).ok
    assert (emitter.directory / "last").read_text().startswith("1 1 ")


async def test_a_former_run_is_delivered_first_and_its_spool_goes(audit_log: AuditLog) -> None:
    """Its torn last line is cut: nobody was told that it is durable. The next epoch still follows it."""
    await audit_log.intake.start()
    former = audit_log.emitter("node-a", 1)
    await former.emit(former.new(Exec, command="former"))
    former.close()
    (segment,) = spool.segments(spool.epoch_directory(former.directory, 1))
    with segment.open("ab") as file:
        file.write(b'{"event":"exec","torn')
    emitter = audit_log.emitter("node-a", 2)
    await emitter.emit(emitter.new(Exec, command="now"))
    await audit_log.shipper(emitter).deliver_all()
    emitter.close()
    assert spool.epochs(emitter.directory) == [2]
    third = audit_log.emitter("node-a", 3)
    await third.emit(third.new(Exec, command="later"))
    await audit_log.shipper(third).deliver_all()
    third.close()
    fourth = audit_log.emitter("node-a", 4)
    await fourth.emit(fourth.new(Exec, command="last"))
    await audit_log.shipper(fourth).deliver_all()
    assert [Linked.parse(line).key.epoch for line in audit_log.lines()] == [1, 2, 3, 4]
    assert all(Linked.parse(line).prev for line in audit_log.lines()[1:])
    assert verify_store(audit_log.store).ok


async def test_a_process_that_still_lives_beside_us_keeps_its_spool(audit_log: AuditLog) -> None:
    """During a restart two processes of one host run: each delivers its own."""
    await audit_log.intake.start()
    old, new = audit_log.emitter("node-a", 1), audit_log.emitter("node-a", 2)
    await old.emit(old.new(Exec, command="old"))
    await new.emit(new.new(Exec, command="new"))
    await audit_log.shipper(new).deliver_all()
    assert [Linked.parse(line).key.epoch for line in audit_log.lines()] == [2]
    assert spool.epochs(old.directory) == [1, 2]
    await audit_log.shipper(old).deliver_all()
    assert verify_store(audit_log.store).ok


async def test_a_former_run_that_cannot_be_delivered_is_named_and_holds_nothing_up(audit_log: AuditLog) -> None:
    """Damage on disk: the file stays for people to look at."""
    await audit_log.intake.start()
    former = audit_log.emitter("node-a", 1)
    await former.emit(former.new(Exec, command="former"))
    former.close()
    (segment,) = spool.segments(spool.epoch_directory(former.directory, 1))
    segment.write_bytes(segment.read_bytes().replace(b"former", b"farmer"))
    emitter = audit_log.emitter("node-a", 2)
    await emitter.emit(emitter.new(Exec, command="now"))
    shipper = audit_log.shipper(emitter)
    task = asyncio.create_task(shipper.run())
    await until(lambda: bool(audit_log.lines()) and bool(shipper.problem))
    task.cancel()
    await asyncio.wait([task])
    assert "altered" in shipper.problem
    assert segment.exists()


CHILD = textwrap.dedent(
    """
    import asyncio, sys
    from pathlib import Path
    from teleport.audit.emitter import Emitter
    from teleport.audit.events import Exec
    from teleport.clock import SystemClock

    async def main():
        emitter = Emitter.open(Path(sys.argv[1]), "node-a", int(sys.argv[2]), SystemClock(), cluster="c1")
        async def one(worker):
            number = 0
            while True:
                event = emitter.new(Exec, command=f"{worker}.{number}")
                await emitter.emit(event)
                sys.stdout.write(event.uid + "\\n")
                sys.stdout.flush()
                number += 1
        await asyncio.gather(*(one(worker) for worker in range(8)))

    asyncio.run(main())
    """
)


def emit_and_kill(directory: Any, epoch: int, lines: int) -> list[str]:
    """Starts an emitting process and kills it after it has acknowledged so many; the uids it acknowledged."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(directory), str(epoch)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    seen: list[str] = []
    try:
        for line in child.stdout:
            seen.append(line.strip())
            if len(seen) == lines:
                os.kill(child.pid, signal.SIGKILL)
        return [uid for uid in seen if len(uid) == 36]
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


async def kill_rounds(log: AuditLog, rounds: int) -> None:
    """Emit, kill, deliver, with some rounds that nobody delivers in between."""
    await log.intake.start()
    directory = log.root / "spool" / "node-a"
    acknowledged: list[str] = []
    for number in range(1, rounds + 1):
        epoch = number * 2
        acknowledged += await asyncio.to_thread(emit_and_kill, directory, epoch, 20 + 37 * (number % 7))
        if number % 2 or number == rounds:
            emitter = Emitter.open(directory, "node-a", epoch + 1, log.clock, cluster="c1")
            await emitter.emit(emitter.new(Exec, command="alive"))
            await log.shipper(emitter).deliver_all()
            emitter.close()
    stored = [Linked.parse(line).uid for line in log.lines()]
    assert len(stored) == len(set(stored))
    assert acknowledged
    assert set(acknowledged) <= set(stored)
    report = verify_store(log.store, known_heads=log.records.kept_heads)
    assert report.ok, [str(problem) for problem in report.problems]


async def test_what_a_killed_process_acknowledged_arrives_exactly_once(audit_log: AuditLog) -> None:
    """kill -9 while eight tasks emit; three rounds."""
    await kill_rounds(audit_log, 3)


@pytest.mark.long
async def test_what_killed_processes_acknowledged_arrives_exactly_once_many_times(audit_log: AuditLog) -> None:
    """The same, thirty rounds."""
    await kill_rounds(audit_log, 30)
