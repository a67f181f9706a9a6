"""What the SQLite engine promises beyond the contract: several processes, crashes, file modes, refusals."""
# ruff: noqa: ASYNC240  (the small files of a test)

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sqlite3
import stat
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from teleport.backend import Deleted, Event, Exists, Put, PutOp, WatchCompacted
from teleport.backend.sqlite import FEW, IN_A_ROW, SqliteBackend
from teleport.backend.sqlite_file import FILE_NAME, MIGRATIONS
from teleport.clock import SystemClock
from teleport.errors import CompareFailed, NotFound, TeleportError
from teleport.testing.clock import FakeClock

PATIENCE = 20.0  # seconds until a test that waits gives up

WRITER = """
import asyncio, sys
from pathlib import Path
from teleport.backend import PutOp
from teleport.backend.sqlite import SqliteBackend
from teleport.clock import SystemClock

async def write(backend, worker):
    for number in range(1_000_000):
        key = f"{sys.argv[2]}/{worker}/{number}"
        await backend.commit([PutOp(key, key.encode() * 20), PutOp("event/" + key, b"")])
        sys.stdout.write(key + "\\n")
        sys.stdout.flush()

async def main():
    async with SqliteBackend(Path(sys.argv[1]), SystemClock()) as backend:
        await asyncio.gather(*(write(backend, worker) for worker in range(8)))

asyncio.run(main())
"""

COUNTER = """
import asyncio, sys
from pathlib import Path
from teleport.backend.sqlite import SqliteBackend
from teleport.clock import SystemClock
from teleport.errors import CompareFailed

async def main():
    async with SqliteBackend(Path(sys.argv[1]), SystemClock()) as backend:
        for number in range(int(sys.argv[2])):
            while True:
                item = await backend.get("counter")
                try:
                    await backend.compare_and_swap("counter", item.revision, b"%d" % (int(item.value) + 1))
                    break
                except CompareFailed:
                    continue
        await backend.put("lease", b"", expires=SystemClock().now())
        await backend.delete("doomed")

asyncio.run(main())
"""


@asynccontextmanager
async def child(program: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A Python process that has ended when the block has."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def kill_in_mid_write(directory: Path, rounds: int) -> None:
    """Each round: a process writes and says what was acknowledged, and is killed at some point of it."""
    acknowledged: set[str] = set()
    for number in range(rounds):
        async with child(WRITER, str(directory), str(number)) as process:
            assert process.stdout is not None
            for _ in range(5 + 7 * number % 40):
                acknowledged.add((await process.stdout.readline()).decode().strip())
            process.send_signal(signal.SIGKILL)
            # What it had written to the pipe was acknowledged too; a last line may be cut off.
            rest = (await process.stdout.read()).decode()
            acknowledged |= set(rest[: rest.rfind("\n") + 1].split())
            assert await process.wait() == -signal.SIGKILL
        async with SqliteBackend(directory, SystemClock(), sweep_every=None) as backend:
            values = {item.key: item.value for item in await backend.range()}
            revision = await backend.revision()
            assert max(item.revision for item in await backend.range()) == revision
        lost = [key for key in acknowledged if values.get(key) != key.encode() * 20]
        assert not lost
        data = {key for key in values if not key.startswith("event/")}
        assert {"event/" + key for key in data} == values.keys() - data, "no transaction is in by half"
    assert len(acknowledged) > rounds


async def test_a_process_killed_in_mid_write_loses_nothing_acknowledged(tmp_path: Path) -> None:
    await kill_in_mid_write(tmp_path, 3)


@pytest.mark.long
async def test_a_process_killed_thirty_times_in_mid_write_loses_nothing_acknowledged(tmp_path: Path) -> None:
    await kill_in_mid_write(tmp_path, 30)


async def test_two_processes_write_one_file_and_each_watch_sees_both(tmp_path: Path) -> None:
    """The watch here follows both this process's own commits and the other's, in one order, none missing."""
    rounds = 40
    async with SqliteBackend(tmp_path, SystemClock(), sweep_every=None) as backend:
        await backend.put("doomed", b"")
        start = await backend.create("counter", b"0")

        async def count_up() -> None:
            done = 0
            while done < rounds:
                item = await backend.get("counter")
                assert item is not None
                try:
                    await backend.compare_and_swap("counter", item.revision, b"%d" % (int(item.value) + 1))
                    done += 1
                except CompareFailed:
                    continue

        async def watch() -> list[Event]:
            seen: list[Event] = []
            async with aclosing(backend.watch(["counter", "doomed"], start=start)) as batches:
                async for batch in batches:
                    seen += batch
                    if len(seen) == 2 * rounds + 1:
                        return seen
            raise AssertionError("the watch ended")

        async with (
            asyncio.timeout(PATIENCE),
            asyncio.TaskGroup() as group,
            child(COUNTER, str(tmp_path), str(rounds)) as process,
        ):
            watching = group.create_task(watch())
            group.create_task(count_up())
            events = await watching
            assert await process.wait() == 0
        values = [int(event.item.value) for event in events if isinstance(event, Put)]
        assert values == list(range(1, 2 * rounds + 1))
        assert [event.key for event in events if isinstance(event, Deleted)] == ["doomed"]


async def test_a_watch_waiting_sees_another_process_within_a_moment(tmp_path: Path) -> None:
    """No commit of this process wakes the watch here."""
    clock = SystemClock()
    async with (
        SqliteBackend(tmp_path, clock) as ours,
        SqliteBackend(tmp_path, clock) as theirs,
        aclosing(ours.watch(["k"], start=0)) as batches,
    ):
        waiting = asyncio.ensure_future(anext(batches))
        await ours.revision()
        written = await theirs.put("k", b"there")
        wrote = clock.monotonic()
        async with asyncio.timeout(PATIENCE):
            events = await waiting
        assert [event.revision for event in events] == [written]
        assert clock.monotonic() - wrote < 2.0


async def test_what_was_written_is_there_after_reopening(tmp_path: Path) -> None:
    clock = FakeClock()
    for number in range(3):
        async with SqliteBackend(tmp_path, clock, sweep_every=None) as backend:
            assert await backend.revision() == number
            await backend.put(f"k/{number}", b"", expires=clock.now() + timedelta(days=1))
    async with SqliteBackend(tmp_path, clock, sweep_every=None) as backend:
        assert [(item.key, item.revision) for item in await backend.range()] == [("k/0", 1), ("k/1", 2), ("k/2", 3)]
        async with aclosing(backend.watch([""], start=1)) as batches:
            assert [event.revision for event in await anext(batches)] == [2, 3], "the log outlives the process"


async def test_two_processes_may_make_the_file_at_once(tmp_path: Path) -> None:
    backends = [SqliteBackend(tmp_path, SystemClock(), sweep_every=None) for _ in range(6)]
    await asyncio.gather(*(backend.open() for backend in backends))
    try:
        await asyncio.gather(*(backend.put(f"k/{number}", b"") for number, backend in enumerate(backends)))
        assert len(await backends[0].range()) == len(backends)
    finally:
        await asyncio.gather(*(backend.close() for backend in backends))


async def test_closing_commits_what_was_submitted(tmp_path: Path) -> None:
    backend = SqliteBackend(tmp_path, SystemClock(), sweep_every=None)
    await backend.open()
    writes = [asyncio.create_task(backend.put(f"k/{number}", b"")) for number in range(20)]
    await asyncio.sleep(0)  # they are handed to the writer
    await backend.close()
    assert sorted(await asyncio.gather(*writes)) == list(range(1, 21))


async def test_a_cancelled_caller_does_not_disturb_the_others(tmp_path: Path) -> None:
    async with SqliteBackend(tmp_path, SystemClock(), sweep_every=None) as backend:
        writes = [asyncio.create_task(backend.put(f"k/{number}", b"")) for number in range(20)]
        await asyncio.sleep(0)
        for write in writes[::2]:
            write.cancel()
        results = await asyncio.gather(*writes, return_exceptions=True)
        assert all(isinstance(result, int) for result in results[1::2])
        await backend.put("after", b"")


async def test_a_slow_commit_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What tells an operator that this storage is outgrown."""

    class SlowDisk(FakeClock):
        def monotonic(self) -> float:
            self.advance(1.5)
            return super().monotonic()

    for clock, said in ((FakeClock(), 0), (SlowDisk(), 1)):
        async with SqliteBackend(tmp_path, clock, sweep_every=None) as backend:
            await backend.put("k", b"")
        assert sum("slow transaction" in record.message for record in caplog.records) == said


# The log


async def test_the_log_is_trimmed_by_age_and_by_count(tmp_path: Path) -> None:
    clock = FakeClock()
    async with SqliteBackend(
        tmp_path, clock, log_keep=1500, log_keep_for=timedelta(minutes=5), sweep_every=None
    ) as backend:

        async def oldest() -> int:
            for start in range(await backend.revision()):
                try:
                    async with aclosing(backend.watch([""], start=start)) as batches:
                        return (await anext(batches))[0].revision
                except WatchCompacted:
                    continue
            raise AssertionError("the log is empty")

        for number in range(3):
            await backend.commit([PutOp(f"{number}/{part}", b"") for part in range(700)])
        await backend.sweep()
        assert await oldest() == 2, "2100 events are more than 1500 by one transaction"
        clock.advance(200)
        await backend.put("k", b"")
        clock.advance(200)
        await backend.put("k", b"")
        await backend.sweep()
        assert await oldest() == 4, "what is older than five minutes is forgotten"
        clock.advance(1000)
        await backend.sweep()
        assert await oldest() == 5, "the newest change is kept however old"
        assert len(await backend.range()) == 2101, "items do not depend on the log"


async def test_deleted_secrets_do_not_stay_in_the_file(tmp_path: Path) -> None:
    clock = FakeClock()
    secret = b"a-private-key-that-was-rotated-away"
    async with SqliteBackend(tmp_path, clock, log_keep=1, sweep_every=None) as backend:
        await backend.put("ca", secret)
        await backend.delete("ca")
        await backend.put("other", b"")
        await backend.sweep()
    assert secret not in (tmp_path / FILE_NAME).read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME], "a clean end leaves no write-ahead log"


# The file


async def test_directory_and_files_are_for_the_owner_only(tmp_path: Path) -> None:
    directory = tmp_path / "data" / "backend"
    old = os.umask(0)
    try:
        async with SqliteBackend(directory, SystemClock(), sweep_every=None) as backend:
            await backend.put("k", b"")
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
    finally:
        os.umask(old)
    assert modes == {FILE_NAME: 0o600, FILE_NAME + "-wal": 0o600, FILE_NAME + "-shm": 0o600}
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


async def test_loose_modes_of_an_existing_storage_are_tightened(tmp_path: Path) -> None:
    async with SqliteBackend(tmp_path, SystemClock(), sweep_every=None):
        pass
    tmp_path.chmod(0o755)
    (tmp_path / FILE_NAME).chmod(0o644)
    async with SqliteBackend(tmp_path, SystemClock(), sweep_every=None):
        assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600


async def test_a_directory_of_other_things_that_others_can_write_to_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "something").write_text("else")
    tmp_path.chmod(0o777)
    with pytest.raises(TeleportError, match="other users can write") as caught:
        await SqliteBackend(tmp_path, SystemClock()).open()
    assert caught.value.hint
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o777
    assert [path.name for path in tmp_path.iterdir()] == ["something"]


async def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    async with SqliteBackend(tmp_path, SystemClock(), sweep_every=None) as backend:
        await backend.put("k", b"")
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    connection.execute("INSERT INTO migration (version, applied) VALUES (?, 0)", (len(MIGRATIONS) + 1,))
    connection.commit()
    connection.close()
    before = (tmp_path / FILE_NAME).read_bytes()
    with pytest.raises(TeleportError, match="newer version") as caught:
        await SqliteBackend(tmp_path, SystemClock()).open()
    assert "newer version" in caught.value.hint
    assert (tmp_path / FILE_NAME).read_bytes() == before


async def test_a_database_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    connection.execute("CREATE TABLE theirs (a)")
    connection.commit()
    connection.close()
    before = (tmp_path / FILE_NAME).read_bytes()
    with pytest.raises(TeleportError, match="another program"):
        await SqliteBackend(tmp_path, SystemClock()).open()
    assert (tmp_path / FILE_NAME).read_bytes() == before


async def test_a_file_that_is_no_database_is_named_as_damaged(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"not a database at all " * 100)
    with pytest.raises(TeleportError, match=r"sqlite\.db: the file is damaged") as caught:
        await SqliteBackend(tmp_path, SystemClock()).open()
    assert "backup" in caught.value.hint


async def test_damage_inside_the_file_is_named_when_it_is_met_and_other_calls_go_on(tmp_path: Path) -> None:
    async with SqliteBackend(tmp_path, SystemClock(), sweep_every=None) as backend:
        for number in range(100):
            await backend.put(f"k/{number:03}", b"v" * 1000)
    path = tmp_path / FILE_NAME
    data = bytearray(path.read_bytes())
    first = data.index(b"k/050" + b"v" * 100)
    page = first // 4096 * 4096
    data[page : page + 4096] = b"\xff" * 4096
    path.write_bytes(data)
    async with SqliteBackend(tmp_path, SystemClock(), sweep_every=None) as backend:
        with pytest.raises(TeleportError, match="damaged"):
            await backend.range("k/")
        with pytest.raises(TeleportError, match="damaged"):
            await backend.put("k/050", b"")
        await backend.put("a", b"")
        assert await backend.get("a") is not None


async def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TeleportError, match=str(tmp_path / "file" / "backend")) as caught:
        await SqliteBackend(tmp_path / "file" / "backend", SystemClock()).open()
    assert caught.value.hint


async def test_a_failure_of_the_disk_fails_the_write_and_the_engine_goes_on(tmp_path: Path) -> None:
    """The limit on the size of a file stands in for a full disk: every write of the commit is told, none is in."""
    signal_before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with SqliteBackend(tmp_path, SystemClock(), sweep_every=None) as backend:
        await backend.put("before", b"")
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (256 * 1024, hard))
            results = await asyncio.gather(
                *(backend.put(f"k/{number}", b"v" * 500_000) for number in range(3)), return_exceptions=True
            )
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, signal_before)
        assert all(isinstance(result, TeleportError) and result.hint for result in results)
        assert [item.key for item in await backend.range()] == ["before"]
        await backend.put("after", b"")
        assert await backend.revision() == 2
        with pytest.raises(NotFound):
            await backend.delete("k/0")
        await backend.commit([], conditions=[Exists("before"), Exists("after")])


async def test_what_is_a_few_rows_is_read_in_the_loop_and_the_rest_by_the_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with SqliteBackend(tmp_path / "few", SystemClock()) as backend:
        await backend.commit([PutOp(f"few/{number:02}", b"value") for number in range(FEW)])
        await backend.commit([PutOp(f"many/{number:02}", b"value") for number in range(FEW + 1)])
        by_thread = 0
        in_reader = backend._in_reader

        async def counted(call: Callable[[], object], doing: str) -> object:
            nonlocal by_thread
            by_thread += doing == "read"
            return await in_reader(call, doing)

        monkeypatch.setattr(backend, "_in_reader", counted)
        assert (item := await backend.get("few/00")) is not None
        assert item.value == b"value"
        assert await backend.get("few/none") is None
        assert len(await backend.range("few/")) == FEW
        assert len(await backend.range("many/", limit=3)) == 3
        assert by_thread == 0
        assert len(await backend.range("many/")) == FEW + 1
        assert len(await backend.range("many/", start="many/00", limit=FEW + 5)) == FEW
        assert by_thread == 1
        # and where SQLite would wait, or fails
        assert backend._quick is not None
        backend._quick.close()
        assert (await backend.get("few/01")) is not None
        assert len(await backend.range("few/")) == FEW
        assert by_thread == 3


async def test_reads_in_the_loop_let_others_have_their_turn(tmp_path: Path) -> None:
    async with SqliteBackend(tmp_path / "turns", SystemClock()) as backend:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        task = asyncio.create_task(other())
        for _ in range(10 * IN_A_ROW):
            await backend.get("none")
        task.cancel()
        assert turns >= 9
