"""Pruning: what is old goes, the rest verifies, what is held stays, and nobody else can take anything out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from datetime import timedelta
from pathlib import Path

import pytest
from tests.audit.conftest import AUTH, AuditLog, ManualClock

from teleport.audit.chain import ChainKey, ChainState
from teleport.audit.chain.pruned import PREFIX, Pruned, digest_of_marks, rewritten
from teleport.audit.cursor import Cursor, StorePlace
from teleport.audit.events import AuditPrune, Exec, SessionStart
from teleport.audit.restored import Restored
from teleport.audit.retention import Hold, Retention
from teleport.audit.search import Query, Searcher
from teleport.audit.sinks import day_files
from teleport.audit.verify import Report, verify_file, verify_store
from teleport.auth.retention.pruner import Pruner, Said
from teleport.errors import AccessDenied, BadRequest, TeleportError

DAY = timedelta(days=1)


class Rig:
    """A log of some days with events of two hosts, signed, and a pruner over it."""

    def __init__(self, root: Path, retention: Retention) -> None:
        self.log = AuditLog(root, ManualClock())
        self.own = self.log.emitter(AUTH)
        self.checkpointer = self.log.checkpointer(self.own)
        self.hosts = [self.log.emitter(host) for host in ("node-a", "node-b")]
        self.holds: list[Hold] = []
        self.copied: dict[str, Cursor] = {}
        self.said: list[Said] = []
        self.before_lock = self._nothing
        self.restored: Restored | None = None
        self._retention = retention
        self.pruner = self._made()

    def again(self) -> Rig:
        """With the pruner of another process."""
        self.before_lock = self._nothing
        self.pruner = self._made()
        return self

    def _made(self) -> Pruner:
        return Pruner(
            self.log.store,
            self._retention,
            clock=self.log.clock,
            lease=lambda: nullcontext(),
            exclusive=self._locked(),
            holds=self._held,
            durable=self._durable,
            copied=self._copied,
            prove=self.proof,
            say=self._say,
            restored=self._restored,
        )

    async def _nothing(self) -> None:
        pass

    async def _restored(self) -> Restored | None:
        return self.restored

    def _locked(self) -> Locked:
        return Locked(self)

    async def _held(self) -> Sequence[Hold]:
        return self.holds

    async def _durable(self) -> dict[str, str]:
        return {AUTH: self.log.records.position}

    async def _copied(self) -> dict[str, Cursor]:
        return self.copied

    async def proof(self) -> Report:
        return verify_store(
            self.log.store,
            verify=self.log.verify,
            known_heads=self.log.records.kept_heads,
            recordings=lambda name: None,
        )

    async def _say(self, said: Said) -> None:
        self.said.append(said)
        await self.own.emit(self.own.new(AuditPrune, **said.fields))
        await self.deliver()

    async def deliver(self) -> None:
        for emitter in (*self.hosts, self.own):
            await self.log.shipper(emitter).deliver_all()

    async def sign(self) -> None:
        await self.checkpointer.step()
        await self.deliver()

    async def days(self, count: int) -> None:
        """Each with events of a held user to be, of others, and of a session."""
        for _ in range(count):
            for host in self.hosts:
                await host.emit(host.new(SessionStart, user="eve", sid="s-1", login="root"))
                for user in ("eve", "ann"):
                    await host.emit(host.new(Exec, user=user, login="root", command="secret word"))
                await host.emit(host.new(Exec, sid="s-1", login="root", command="in the session"))
            await self.deliver()
            await self.sign()
            self.log.clock.forward(days=1)

    async def prune(self) -> None:
        """All rounds until nothing waits."""
        while await self.pruner.step():
            await self.sign()

    def texts(self) -> list[bytes]:
        return [path.read_bytes() for path in day_files(self.log.sink.store)]


class Locked(nullcontext[None]):
    """The store's lock; what happens just before it is taken can be chosen."""

    def __init__(self, rig: Rig) -> None:
        super().__init__()
        self._rig = rig

    async def __aenter__(self) -> None:
        await self._rig.before_lock()


@asynccontextmanager
async def opened(root: Path, *rules: tuple[str, timedelta | None]) -> AsyncIterator[Rig]:
    rig = Rig(root, Retention(rules))
    try:
        yield rig
    finally:
        rig.log.close()


def hold(**named: object) -> Hold:
    return Hold(id="h", reason="case 7", created=ManualClock().now(), creator="admin", **named)  # type: ignore[arg-type]


async def test_nothing_goes_within_a_week_after_a_restore(tmp_path: Path) -> None:
    """Holds that were placed after the backup was made are not in the state."""
    async with opened(tmp_path, ("default", 3 * DAY)) as rig:
        await rig.days(6)
        before = rig.texts()
        rig.restored = Restored(rig.log.clock.now() - 6 * DAY)
        with pytest.raises(TeleportError, match=r"restored from a backup .* nothing is removed before"):
            await rig.pruner.step()
        assert (rig.texts(), rig.said) == (before, [])
        rig.restored = Restored(rig.log.clock.now() - 8 * DAY)
        await rig.prune()
        assert rig.texts() != before


async def test_what_is_old_goes_and_the_rest_verifies(tmp_path: Path) -> None:
    """By type and day; marks of whole stretches are left, checkpoints stay, searches find what is there."""
    async with opened(tmp_path, ("default", 2 * DAY), ("session.*", None)) as rig:
        await rig.days(5)
        searcher = Searcher(rig.log.store)
        assert len((await searcher.search(Query(types=("exec",)))).lines) == 30
        await rig.prune()
        texts = rig.texts()
        old, new = texts[:3], texts[3:5]
        assert all(b"secret word" not in text and b"session.start" in text for text in old)
        assert all(b"audit.checkpoint" in text for text in old)
        assert all(b"secret word" in text and PREFIX not in text for text in new)
        report = await rig.proof()
        assert report.ok, report.first
        assert report.pruned == 6 * 3 == sum(said.events for said in rig.said)
        assert len((await searcher.search(Query(types=("exec",)))).lines) == 12
        rig.log.clock.forward(days=1)
        await rig.days(1)
        await rig.prune()
        assert (await rig.proof()).ok
        assert verify_store(rig.log.store, verify=rig.log.verify).ok, "without auth's database"


async def test_marks_of_one_stretch_are_one_line_also_when_it_grows(tmp_path: Path) -> None:
    async with opened(tmp_path, ("default", 2 * DAY)) as rig:
        await rig.days(4)
        rig.holds = [hold(user="ann")]
        await rig.prune()
        first = rig.texts()[0]
        assert first.count(PREFIX) == 4, "before and behind the one that is held, of two hosts"
        assert first.count(b'"user":"ann"') == 2
        rig.holds = []
        await rig.prune()
        first = rig.texts()[0]
        assert first.count(PREFIX) == 2
        assert (await rig.proof()).ok


@pytest.mark.parametrize(
    "held",
    [
        hold(user="eve"),
        hold(session="s-1"),
        hold(start=ManualClock().now() - timedelta(hours=1), end=ManualClock().now() + timedelta(hours=1)),
        hold(user="eve", start=ManualClock().now() - timedelta(hours=1)),
    ],
    ids=["user", "session", "span", "user and span"],
)
async def test_what_is_held_is_not_pruned(tmp_path: Path, held: Hold) -> None:
    """A held user's sessions are held whole, also events that do not name the user."""
    async with opened(tmp_path, ("default", 2 * DAY)) as rig:
        await rig.days(4)
        rig.holds = [held]
        await rig.prune()
        first = rig.texts()[0]
        assert first.count(b"in the session") == 2
        assert first.count(b"session.start") == 2
        assert (b'"user":"ann"' in first) == (held.user == held.session == "")
        assert (await rig.proof()).ok


async def test_a_hold_that_comes_at_the_last_moment_holds(tmp_path: Path) -> None:
    """The pruning was said and signed already: what is held by the time that the lock is taken stays, and it is said
    anew without it."""
    async with opened(tmp_path, ("default", 2 * DAY)) as rig:
        await rig.days(4)
        assert await rig.pruner.step()
        await rig.sign()

        async def held() -> None:
            rig.holds = [hold(user="eve")]

        rig.before_lock = held
        await rig.prune()
        assert [text.count(b'"user":"eve"') for text in rig.texts()[:4]] == [4] * 4
        assert b'"user":"ann"' not in rig.texts()[0]
        assert (await rig.proof()).ok


async def test_what_a_hold_took_back_excuses_nobody(tmp_path: Path) -> None:
    """The pruning is on record and signed, then a hold stops it: who can write the store does it by hand, and that is
    found; also when auth was killed before it could take it back."""
    for killed in (False, True):
        async with opened(tmp_path / str(killed), ("default", 2 * DAY)) as rig:
            await rig.days(4)
            assert await rig.pruner.step()
            await rig.sign()
            path = day_files(rig.log.sink.store)[0]
            kept = path.read_bytes()

            async def held(rig: Rig = rig, killed: bool = killed) -> None:
                rig.holds = [hold(start=rig.log.clock.now() - 100 * DAY)]
                if killed:
                    raise KeyboardInterrupt

            rig.before_lock = held
            if killed:
                with pytest.raises(KeyboardInterrupt):
                    await rig.pruner.step()
                rig = rig.again()
            await rig.prune()
            assert path.read_bytes() == kept
            assert (await rig.proof()).ok
            lines = kept.splitlines()
            pruned = rewritten(lines, lambda linked, line: linked.event != "audit.checkpoint")
            assert pruned.digest in [said.digest for said in rig.said], "as auth would have"
            path.write_bytes(b"\n".join(pruned.lines) + b"\n")
            assert {problem.fault.value for problem in (await rig.proof()).problems} >= {"pruned"}


async def test_nothing_goes_before_a_checkpoint_has_seen_what_was_said(tmp_path: Path) -> None:
    async with opened(tmp_path, ("default", 2 * DAY)) as rig:
        await rig.days(4)
        before = rig.texts()
        for _ in range(3):
            assert await rig.pruner.step()
            assert [new[: len(old)] for new, old in zip(rig.texts(), before, strict=False)] == before
        assert len(rig.said) == len({said.file for said in rig.said}), "said once"
        await rig.sign()
        await rig.pruner.step()
        assert rig.texts()[0] != before[0]


async def test_a_log_that_does_not_verify_is_not_pruned(tmp_path: Path) -> None:
    """It is evidence."""
    async with opened(tmp_path, ("default", 2 * DAY)) as rig:
        await rig.days(4)
        path = day_files(rig.log.sink.store)[1]
        path.write_bytes(path.read_bytes().replace(b"secret word", b"nothing    ", 1))
        with pytest.raises(TeleportError, match="does not verify"):
            await rig.pruner.step()
        assert rig.said == []


async def test_what_a_copy_does_not_have_and_the_newest_file_stay(tmp_path: Path) -> None:
    async with opened(tmp_path, ("default", 2 * DAY)) as rig:
        await rig.days(4)
        names = [path.name for path in day_files(rig.log.sink.store)]
        rig.copied = {"siem": Cursor().after(AUTH, StorePlace(names[1], 0, ""))}
        await rig.prune()
        assert [PREFIX in text for text in rig.texts()][:2] == [True, False]
        rig.copied = {}
        rig.log.clock.forward(days=100)
        await rig.prune()
        assert PREFIX in rig.texts()[1]
        assert PREFIX not in rig.texts()[-1]
        assert (await rig.proof()).ok


def mark(line: bytes) -> bytes:
    from teleport.audit.chain import Linked

    return Pruned.of(Linked.parse(line)).line()


@pytest.mark.parametrize("tampering", ["alone", "beside", "wider", "forged", "other file", "mark gone"])
async def test_a_claim_that_something_was_pruned_is_proved(tmp_path: Path, tampering: str) -> None:
    """Who can write the store takes an event out and leaves a mark as auth would: named as such."""
    async with opened(tmp_path, ("default", 2 * DAY)) as rig:
        await rig.days(5)
        if tampering != "alone":
            await rig.prune()
        assert (await rig.proof()).ok
        path = day_files(rig.log.sink.store)[4 if tampering in ("alone", "other file") else 0]
        lines = path.read_bytes().splitlines()
        victim = next(i for i, line in enumerate(lines) if b"audit.checkpoint" in line or b"secret word" in line)
        match tampering:
            case "wider":
                at = next(i for i, line in enumerate(lines) if line.startswith(PREFIX))
                old = Pruned.parse(lines[at])
                lines[at] = Pruned(old.emitter, old.epoch, old.first, old.last + 1, old.prev, "0" * 64).line()
            case "mark gone":
                lines = [line for line in lines if not line.startswith(PREFIX)]
            case "forged":
                lines[victim] = mark(lines[victim])
                digest = digest_of_marks(line for line in lines if line.startswith(PREFIX))
                newest = day_files(rig.log.sink.store)[-1]
                state = ChainState(ChainKey(AUTH, 1), 10_000, "0" * 64)
                event = rig.own.new(AuditPrune, store=AUTH, file=path.name, pruned=99, digest=digest, number=99)
                newest.write_bytes(newest.read_bytes() + state.append(event)[0] + b"\n")
            case _:
                lines[victim] = mark(lines[victim])
        path.write_bytes(b"\n".join(lines) + b"\n")
        report = await rig.proof()
        assert not report.ok
        kinds = {problem.fault.value for problem in report.problems}
        assert kinds & {"pruned", "missing", "checkpoint"}, report.problems
        if tampering in ("alone", "beside", "other file"):
            assert "pruned" in kinds
        if tampering != "mark gone":  # before its beginning nothing is missing from an export
            assert not verify_file(path, verify=rig.log.verify).ok


async def test_no_host_can_say_that_something_is_pruned_nor_bring_a_mark(tmp_path: Path) -> None:
    """With a node's certificate: refused at intake. The time that a host states decides nothing."""
    async with opened(tmp_path, ("default", 2 * DAY)) as rig:
        await rig.days(1)
        state = ChainState(ChainKey("node-c", 1))
        event = rig.own.new(AuditPrune, store=AUTH, file="2021-05-01.00:00:00.log", pruned=1, digest="0" * 64)
        with pytest.raises(AccessDenied, match=r"audit\.prune is an event of auth"):
            await rig.log.intake.intake("node-c", 1, [state.append(event)[0]], allowed_emitter="node-c")
        forged = Pruned("node-c", 1, 1, 5, "", "0" * 64).line()
        with pytest.raises(BadRequest):
            await rig.log.intake.intake("node-c", 1, [forged], allowed_emitter="node-c")
        past = Exec(time=rig.log.clock.now() - 900 * DAY, uid="u", command="long ago", cluster_name="c1")
        await rig.log.intake.intake("node-c", 1, [state.append(past)[0]], allowed_emitter="node-c")
        rig.log.clock.forward(days=1)
        await rig.days(1)
        await rig.prune()
        assert b"long ago" in b"".join(rig.texts())


async def test_an_epoch_that_follows_a_pruned_one_still_verifies(tmp_path: Path) -> None:
    """The first event of a later run names the last of the former, which is gone."""
    async with opened(tmp_path, ("default", 2 * DAY)) as rig:
        await rig.days(1)
        rig.hosts[0].close()
        rig.hosts[0] = rig.log.emitter("node-a", 2)
        await rig.days(4)
        await rig.prune()
        assert PREFIX in rig.texts()[1]
        report = await rig.proof()
        assert report.ok, report.first


def test_the_most_exact_rule_decides_and_what_proves_the_log_is_kept() -> None:
    rules = Retention((("default", DAY), ("session.*", 2 * DAY), ("session.end", None), ("*", 5 * DAY)))
    asked = ("session.end", "session.start", "exec", "audit.checkpoint", "audit.prune", "hold.deleted")
    assert [rules.of(name) for name in asked] == [None, 2 * DAY, 5 * DAY, None, None, None]
    ends = Retention((("session.start", 5 * DAY), ("session.end", 2 * DAY)))
    assert ends.of("session.end") == 5 * DAY, "a start alone would look like a session that goes on"
    assert Retention().of("exec") is None
    assert Retention().shortest is None
