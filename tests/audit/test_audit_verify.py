"""Tampering with a store: the verifier names the place (threats T43)."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from teleport.audit.chain import ChainKey, Linked, mark_supplement
from teleport.audit.chain.link import seal
from teleport.audit.chain.verify import Fault
from teleport.audit.events import Exec, SessionEnd, SessionStart, SessionUpload, UserDelete
from teleport.audit.verify import Report, verify_file, verify_store
from teleport.errors import NotFound

if TYPE_CHECKING:
    from tests.audit.conftest import AuditLog

AUTH = "auth-1"


async def fill(log: AuditLog, rounds: int = 4) -> None:
    """Two nodes and auth; a checkpoint after each round; an hour between rounds."""
    await log.intake.start()
    emitters = [log.emitter("node-a"), log.emitter("node-b"), log.emitter(AUTH)]
    shippers = [log.shipper(emitter) for emitter in emitters]
    checkpointer = log.checkpointer(emitters[2])
    for number in range(rounds):
        for emitter, shipper in zip(emitters[:2], shippers[:2], strict=True):
            host = emitter.key.emitter
            for step in range(3):
                await emitter.emit(emitter.new(Exec, command=f"run {number}.{step}", server_id=host))
            await shipper.deliver_all()
        await emitters[2].emit(emitters[2].new(UserDelete, name=f"user{number}"))
        await shippers[2].deliver_all()
        await checkpointer.step()
        await shippers[2].deliver_all()
        log.clock.forward(hours=1)


def check(log: AuditLog, *, known: bool = True) -> Report:
    heads = log.records.kept_heads if known else None
    return verify_store(log.store, verify=log.verify, known_heads=heads)


def day_file(log: AuditLog) -> Path:
    (path,) = (log.store / AUTH).glob("*.log")
    return path


def rewrite(log: AuditLog, lines: list[bytes]) -> None:
    day_file(log).write_bytes(b"".join(line + b"\n" for line in lines))


def find(lines: list[bytes], host: str, seq: int) -> int:
    for at, line in enumerate(lines):
        linked = Linked.parse(line)
        if linked.key.emitter == host and linked.seq == seq:
            return at
    raise AssertionError(f"no event {seq} of {host}")


async def test_an_untouched_store_is_proved_whole(audit_log: AuditLog) -> None:
    """All events, chains and checkpoints, signatures included."""
    await fill(audit_log)
    report = check(audit_log)
    assert report.ok, [str(problem) for problem in report.problems]
    assert (report.events, report.emitters, report.chains, report.checkpoints) == (32, 3, 3, 4)


def drop(lines: list[bytes]) -> list[bytes]:
    at = find(lines, "node-a", 5)
    return lines[:at] + lines[at + 1 :]


def drop_first(lines: list[bytes]) -> list[bytes]:
    at = find(lines, "node-a", 1)
    return lines[:at] + lines[at + 1 :]


def duplicate(lines: list[bytes]) -> list[bytes]:
    at = find(lines, "node-a", 5)
    return lines[: at + 1] + lines[at:]


def duplicate_later(lines: list[bytes]) -> list[bytes]:
    return [*lines, lines[find(lines, "node-a", 5)]]


def reorder(lines: list[bytes]) -> list[bytes]:
    at, to = find(lines, "node-a", 5), find(lines, "node-a", 6)
    lines[at], lines[to] = lines[to], lines[at]
    return lines


def alter_text(lines: list[bytes]) -> list[bytes]:
    at = find(lines, "node-a", 5)
    lines[at] = lines[at].replace(b"run 1.1", b"run 9.9")
    return lines


def alter_and_seal(lines: list[bytes]) -> list[bytes]:
    """Whoever can write the file can also compute a fitting hash."""
    at = find(lines, "node-a", 5)
    lines[at], _ = seal(Linked.parse(lines[at]).body.replace(b"run 1.1", b"run 9.9"))
    return lines


def rewrite_history(lines: list[bytes]) -> list[bytes]:
    """All later events of the chain linked anew too; only the checkpoints tell."""
    at = find(lines, "node-a", 5)
    lines[at], prev = seal(Linked.parse(lines[at]).body.replace(b"run 1.1", b"run 9.9"))
    for seq in range(6, 13):
        at = find(lines, "node-a", seq)
        body = re.sub(rb'"prev":"[0-9a-f]*"', b'"prev":"%s"' % prev.encode(), Linked.parse(lines[at]).body)
        lines[at], prev = seal(body)
    return lines


def swap_between_emitters(lines: list[bytes]) -> list[bytes]:
    at, to = find(lines, "node-a", 5), find(lines, "node-b", 8)
    lines[at], lines[to] = lines[to], lines[at]
    return lines


def claim_for_another(lines: list[bytes]) -> list[bytes]:
    at = find(lines, "node-a", 5)
    lines[at], _ = seal(Linked.parse(lines[at]).body.replace(b'"emitter":"node-a"', b'"emitter":"node-b"'))
    return lines


def truncate_one_chain(lines: list[bytes]) -> list[bytes]:
    """The newest events of one node go, everything else stays."""
    keep = find(lines, "node-a", 10)
    return [line for at, line in enumerate(lines) if at < keep or Linked.parse(line).key.emitter != "node-a"]


def drop_a_chain(lines: list[bytes]) -> list[bytes]:
    return [line for line in lines if Linked.parse(line).key.emitter != "node-a"]


def delete_newest_hour(lines: list[bytes]) -> list[bytes]:
    return [line for line in lines if b'"time":"2021-05-01T13' not in line]


def rewind(lines: list[bytes]) -> list[bytes]:
    """An older copy of the file put back."""
    return lines[:12]


def mark(lines: list[bytes]) -> list[bytes]:
    at = find(lines, "node-a", 5)
    lines[at] = mark_supplement(lines[at])
    return lines


def tear(lines: list[bytes]) -> list[bytes]:
    at = find(lines, "node-a", 5)
    lines[at] = lines[at][:-30]
    return lines


TAMPERING: dict[str, tuple[Callable[[list[bytes]], list[bytes]], Fault, str, int]] = {
    "drop": (drop, Fault.MISSING, "node-a", 6),
    "drop the first": (drop_first, Fault.MISSING, "node-a", 2),
    "duplicate": (duplicate, Fault.REPEATED, "node-a", 5),
    "duplicate later": (duplicate_later, Fault.REPEATED, "node-a", 5),
    "reorder": (reorder, Fault.REORDERED, "node-a", 6),
    "alter": (alter_text, Fault.ALTERED, "node-a", 5),
    "alter and seal": (alter_and_seal, Fault.ALTERED, "node-a", 6),
    "rewrite history": (rewrite_history, Fault.CHECKPOINT, "node-a", 6),
    "swap between emitters": (swap_between_emitters, Fault.REORDERED, "node-b", 8),
    "claim for another": (claim_for_another, Fault.REPEATED, "node-b", 5),
    "truncate one chain": (truncate_one_chain, Fault.TRUNCATED, "node-a", 9),
    "drop a chain": (drop_a_chain, Fault.TRUNCATED, "node-a", 1),
    "delete the newest hour": (delete_newest_hour, Fault.TRUNCATED, "node-a", 9),
    "rewind": (rewind, Fault.TRUNCATED, "node-a", 6),
    "false remark": (mark, Fault.SUPPLEMENT, "node-a", 5),
}


@pytest.mark.parametrize("name", TAMPERING)
async def test_tampering_is_named_with_its_place(audit_log: AuditLog, name: str) -> None:
    """What, which chain, which event, which line of which file."""
    tamper, fault, host, seq = TAMPERING[name]
    await fill(audit_log)
    lines = tamper(audit_log.lines())
    rewrite(audit_log, lines)
    problems = check(audit_log).problems
    hit = [p for p in problems if p.fault is fault and p.place.key == ChainKey(host, 1) and p.place.seq == seq]
    assert hit, [str(problem) for problem in problems]
    place = hit[0].place
    if place.line:
        assert place.file == f"{AUTH}/2021-05-01.00:00:00.log"
        named = Linked.parse(lines[place.line - 1])
        assert (named.key.emitter, named.seq) == (host, seq)
    if name not in ("swap between emitters", "claim for another", "rewrite history"):
        assert problems[0] is hit[0], [str(problem) for problem in problems]


async def test_a_torn_line_is_named(audit_log: AuditLog) -> None:
    """By file and line, for its event cannot be read."""
    await fill(audit_log)
    lines = audit_log.lines()
    at = find(lines, "node-a", 5)
    rewrite(audit_log, tear(lines))
    first = check(audit_log).first
    assert first is not None
    assert (first.fault, first.place.line) == (Fault.UNREADABLE, at + 1)


async def test_a_bit_flipped_anywhere_names_its_line(audit_log: AuditLog) -> None:
    """100 random bits of the file, newlines included."""
    await fill(audit_log)
    content = day_file(audit_log).read_bytes()
    rng = random.Random(7)
    for _ in range(100):
        at = rng.randrange(len(content) * 8)
        broken = bytearray(content)
        broken[at // 8] ^= 1 << at % 8
        day_file(audit_log).write_bytes(bytes(broken))
        first = check(audit_log).first
        assert first is not None, at
        assert first.place.line in (content.count(b"\n", 0, at // 8) + 1,), (at, str(first))


async def test_the_newest_hour_gone_shows_by_auths_database_only(audit_log: AuditLog) -> None:
    """With every checkpoint about it gone too, the file alone is consistent: so auth's heads are asked."""
    await fill(audit_log)
    rewrite(audit_log, delete_newest_hour(audit_log.lines()))
    assert check(audit_log, known=False).ok
    first = check(audit_log).first
    assert first is not None
    assert "auth's database" in first.text


async def test_deleted_checkpoints_show_by_the_events_that_knew_them(audit_log: AuditLog) -> None:
    """Emitters put the last checkpoint into their next event."""
    await fill(audit_log)
    lines = audit_log.lines()
    kept = [line for line in lines if Linked.parse(line).key.emitter != AUTH]
    rewrite(audit_log, kept)
    problems = check(audit_log, known=False).problems
    assert problems
    assert {problem.fault for problem in problems} == {Fault.CHECKPOINT}
    assert problems[0].place.key == ChainKey("node-a", 1)


async def test_a_checkpoint_signed_by_another_key_is_refused(audit_log: AuditLog) -> None:
    """Whoever rewrites all of the log cannot sign it."""
    await fill(audit_log)
    assert verify_store(audit_log.store).ok
    report = verify_store(audit_log.store, verify=lambda key, message, signature: False)
    assert [problem.fault for problem in report.problems][:4] == [Fault.CHECKPOINT] * 4
    assert report.first is not None
    assert "signature" in report.first.text


async def test_an_export_is_proved_from_where_it_begins(audit_log: AuditLog, tmp_path: Path) -> None:
    """A stretch of the log, in one file; a hole in it is still named."""
    await fill(audit_log)
    lines = audit_log.lines()[10:]
    export = tmp_path / "export.jsonl"
    export.write_bytes(b"\n".join(lines))
    report = verify_file(export, verify=audit_log.verify)
    assert report.ok, [str(problem) for problem in report.problems]
    assert report.events == len(lines)
    del lines[find(lines, "node-b", 8)]
    export.write_bytes(b"\n".join(lines))
    first = verify_file(export, verify=audit_log.verify).first
    assert first is not None
    assert (first.fault, first.place.key, first.place.seq) == (Fault.MISSING, ChainKey("node-b", 1), 9)


async def test_a_store_can_be_proved_while_it_grows(audit_log: AuditLog) -> None:
    """A line that is being written is no damage; if it had been kept before, auth's heads tell."""
    await fill(audit_log)
    content = day_file(audit_log).read_bytes()
    day_file(audit_log).write_bytes(content + b'{"event":"exec","half')
    assert check(audit_log).ok
    day_file(audit_log).write_bytes(content[:-20])
    first = check(audit_log).first
    assert first is not None
    assert (first.fault, first.place.key) == (Fault.TRUNCATED, ChainKey(AUTH, 1))


async def test_recordings_are_compared_with_what_the_events_say(audit_log: AuditLog) -> None:
    """A swapped or deleted recording is named by the event of its upload."""
    await audit_log.intake.start()
    emitter = audit_log.emitter(AUTH)
    await emitter.emit(emitter.new(SessionStart, sid="s1"))
    await emitter.emit(emitter.new(SessionUpload, sid="s1", recording_hash="aa"))
    await audit_log.shipper(emitter).deliver_all()
    assert verify_store(audit_log.store, recordings=lambda sid: "aa").recordings == 1
    for kept, text in (("bb", "not the one"), (None, "missing")):
        first = verify_store(audit_log.store, recordings=lambda sid, kept=kept: kept).first  # type: ignore[misc]
        assert first is not None
        assert (first.fault, first.place.seq) == (Fault.RECORDING, 2)
        assert text in first.text


async def test_a_second_end_of_a_session_must_be_marked(audit_log: AuditLog) -> None:
    """The mark cannot be taken off unnoticed."""
    await audit_log.intake.start()
    auth, node = audit_log.emitter(AUTH), audit_log.emitter("node-a")
    await auth.emit(auth.new(SessionEnd, sid="s1", server_id="node-a", reason="node lost"))
    await audit_log.shipper(auth).deliver_all()
    await node.emit(node.new(SessionEnd, sid="s1", server_id="node-a"))
    await audit_log.shipper(node).deliver_all()
    assert audit_log.lines()[1].endswith(b',"supplement":true}')
    assert check(audit_log).ok
    rewrite(audit_log, [line.replace(b',"supplement":true}', b"}") for line in audit_log.lines()])
    first = check(audit_log).first
    assert first is not None
    assert (first.fault, first.place.line) == (Fault.SUPPLEMENT, 2)


async def test_a_supplement_may_stand_before_the_end_that_counts(audit_log: AuditLog) -> None:
    """Several auth servers write to folders of their own, and one that is killed may have claimed an end that it takes
    in after another one: which counts is told by the mark, not by what is read first. The mark still cannot go."""
    await audit_log.intake.start()
    auth, node = audit_log.emitter(AUTH), audit_log.emitter("node-a")
    await auth.emit(auth.new(SessionEnd, sid="s1", server_id="node-a", reason="node lost"))
    await audit_log.shipper(auth).deliver_all()
    await node.emit(node.new(SessionEnd, sid="s1", server_id="node-a"))
    await audit_log.shipper(node).deliver_all()
    exchanged = audit_log.lines()[::-1]
    assert exchanged[0].endswith(b',"supplement":true}')
    rewrite(audit_log, exchanged)
    assert check(audit_log).ok
    rewrite(audit_log, [line.replace(b',"supplement":true}', b"}") for line in exchanged])
    first = check(audit_log).first
    assert first is not None
    assert (first.fault, first.place.line) == (Fault.SUPPLEMENT, 2)


def test_nothing_to_verify_is_said(tmp_path: Path) -> None:
    """An empty answer must not look like a proof."""
    with pytest.raises(NotFound):
        verify_store(tmp_path / "none")
    with pytest.raises(NotFound):
        verify_file(tmp_path / "none")
