"""The engine over PostgreSQL where real servers go away, forget, refuse, fall silent and are asked twice."""

from __future__ import annotations

import asyncio
import logging
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from secrets import token_hex

import pytest
from tests.backend.postgresql_engines import engine, settings, sql

from teleport.backend import Absent, Deleted, Event, Exists, PutOp, Snapshot, WatchCompacted
from teleport.backend.follow import follow
from teleport.backend.interface import MAX_VALUE, MAX_WRITES, DeleteOp
from teleport.backend.postgresql import schema as schemas
from teleport.backend.postgresql.changes import POLL
from teleport.backend.postgresql.engine import PostgresqlBackend
from teleport.backend.postgresql.schema import LEAP
from teleport.backend.postgresql.servers import Servers
from teleport.backend.postgresql.settings import parse
from teleport.clock import SystemClock
from teleport.errors import (
    AlreadyExists,
    CompareFailed,
    ConnectionProblem,
    NotFound,
    TeleportError,
)
from teleport.testing import postgresql
from teleport.testing.cut_relay import CutRelay
from teleport.testing.postgresql import PostgresqlServer

PATIENCE = 60.0  # seconds

pytestmark = pytest.mark.skipif(postgresql.programs() is None, reason=postgresql.MISSING)


@pytest.fixture(scope="module")
def shared() -> Iterator[PostgresqlServer]:
    """One server, which no test may stop."""
    with PostgresqlServer() as server:
        yield server


async def write_many(backend: PostgresqlBackend, count: int) -> None:
    for number in range(count):
        await backend.create(f"k/{number:04}", b"")


async def see_many(backend: PostgresqlBackend, count: int) -> list[str]:
    """The keys of `count` changes, as one watch tells them."""
    seen: list[str] = []
    async with aclosing(backend.watch(["k/"], start=0)) as batches:
        async for batch in batches:
            seen += [event.key for event in batch]
            if len(seen) >= count:
                return seen
    raise AssertionError


# Transactions


async def test_a_transaction_of_a_thousand_writes_has_one_revision(shared: PostgresqlServer) -> None:
    async with engine(shared) as backend:
        keys = [f"k/{number:04}" for number in range(MAX_WRITES)]
        revision = await backend.commit([PutOp(key, b"x") for key in keys], conditions=[Absent(key) for key in keys])
        items = await backend.range("k/")
        assert [item.key for item in items] == keys
        assert {item.revision for item in items} == {revision}
        assert await backend.commit([DeleteOp(key, missing_ok=True) for key in keys]) == revision + 1
        assert await backend.range() == []
        async with aclosing(backend.watch(["k/"], start=0)) as batches:
            assert [event.key for event in await anext(batches)] == keys


async def test_a_transaction_larger_than_one_statement_is_whole(shared: PostgresqlServer) -> None:
    async with engine(shared) as backend, engine(shared, backend._settings.schema) as other:
        keys = [f"k/{number:02}" for number in range(20)]
        revision = await backend.commit([PutOp(key, key[-1:].encode() * MAX_VALUE) for key in keys])
        assert [(len(item.value), item.revision) for item in await other.range("k/")] == [(MAX_VALUE, revision)] * 20
        async with asyncio.timeout(PATIENCE), aclosing(other.watch(["k/"], start=0)) as batches:
            assert [event.key for event in await anext(batches)] == keys


async def test_writes_that_are_committed_together_are_decided_one_after_the_other(shared: PostgresqlServer) -> None:
    async with engine(shared) as backend:
        first = await backend.put("k", b"0")
        told = await asyncio.gather(
            backend.compare_and_swap("k", first, b"1"),
            backend.compare_and_swap("k", first, b"2"),
            backend.delete("k"),
            backend.delete("k"),
            backend.create("k", b"3"),
            backend.create("k", b"4"),
            return_exceptions=True,
        )
        assert [type(one) for one in told] == [int, CompareFailed, type(None), NotFound, int, AlreadyExists]
        item = await backend.get("k")
        assert item is not None
        assert item.value == b"3"
        async with aclosing(backend.watch([""], start=first)) as batches:
            events = await anext(batches)
        assert [(type(event) is Deleted, event.revision - first) for event in events] == [
            (False, 1),
            (True, 2),
            (False, 3),
        ]


async def test_what_the_database_cannot_hold_fails_alone(shared: PostgresqlServer) -> None:
    """Of writes that are committed together; what it was is not told."""
    beyond = datetime.max.replace(tzinfo=timezone(-timedelta(hours=12)))
    async with engine(shared) as backend, asyncio.timeout(PATIENCE):
        told = await asyncio.gather(
            backend.put("a", b""),
            backend.put("b", b"private-value", expires=beyond),
            backend.put("c", b""),
            return_exceptions=True,
        )
        assert isinstance(told[1], TeleportError)
        assert "private" not in str(told[1])
        assert [item.key for item in await backend.range()] == ["a", "c"]
        assert sorted(one for one in told if isinstance(one, int)) == [1, 2]
        last = datetime.max.replace(tzinfo=UTC)
        await backend.put("d", b"", expires=last)
        item = await backend.get("d")
        assert item is not None
        assert item.expires == last


async def test_two_processes_see_each_other_and_share_what_expires(shared: PostgresqlServer) -> None:
    async with engine(shared) as one, engine(shared, one._settings.schema) as other:
        async with asyncio.timeout(PATIENCE), aclosing(other.watch(["k/"], start=0)) as batches:
            first = await one.create("k/1", b"of one")
            assert [event.revision for event in await anext(batches)] == [first]
        with pytest.raises(AlreadyExists):
            await other.create("k/1", b"")
        await other.compare_and_swap("k/1", first, b"of other")
        with pytest.raises(CompareFailed):
            await one.compare_and_swap("k/1", first, b"")
        await one.put("lease", b"", expires=SystemClock().now() - timedelta(seconds=1))
        swept = await asyncio.gather(one.sweep(), other.sweep())
        assert sum(swept) == 1
        assert await sql(shared, f"SELECT count(*) FROM {one._settings.schema}.item") == "1"


async def test_a_change_whose_notice_was_lost_is_found(shared: PostgresqlServer) -> None:
    """The table has all changes; a notice only says when to look."""
    async with engine(shared) as backend, asyncio.timeout(POLL + PATIENCE):
        await backend.put("k/1", b"")
        async with aclosing(backend.watch(["k/"], start=1)) as batches:
            waiting = asyncio.ensure_future(anext(batches))
            schema = backend._settings.schema
            await sql(
                shared,
                f"BEGIN; UPDATE {schema}.meta SET revision = 2;"
                f"INSERT INTO {schema}.change (revision, part, key, value) VALUES (2, 0, 'k/2', ''); COMMIT",
            )
            assert [event.key for event in await waiting] == ["k/2"]


# Servers and networks that go away


@pytest.mark.parametrize("passed", [True, False], ids=["the answer was lost", "it never arrived"])
async def test_a_commit_without_an_answer_is_done_once(shared: PostgresqlServer, passed: bool) -> None:
    async with CutRelay(shared.port) as relay, engine(shared, port=relay.port) as backend, asyncio.timeout(PATIENCE):
        await backend.put("k/0", b"")
        relay.cut_at(b"COMMIT", passed=passed)
        first = await backend.create("k/1", b"")
        assert relay.cut_at_word.is_set()
        assert first == 2
        relay.cut_at(b"COMMIT", passed=passed)
        told = await asyncio.gather(
            backend.create("k/1", b""), backend.compare_and_swap("k/1", first, b"two"), return_exceptions=True
        )
        assert relay.cut_at_word.is_set()
        assert isinstance(told[0], AlreadyExists)
        assert told[1] == 3
        relay.cut_at(b"COMMIT", passed=passed)
        await backend.delete("k/1")
        assert relay.cut_at_word.is_set()
        with pytest.raises(CompareFailed):
            await backend.commit([PutOp("a", b"")], conditions=[Exists("k/1")])
        assert [item.key for item in await backend.range()] == ["k/0"]
        assert await backend.revision() == 4
        seen: list[Event] = []
        async with aclosing(backend.watch(["k/"], start=0)) as batches:
            while len(seen) < 4:  # changes that were learned of apart may come in batches of their own
                seen += await anext(batches)
        assert [(event.key, event.revision) for event in seen] == [("k/0", 1), ("k/1", 2), ("k/1", 3), ("k/1", 4)]


async def test_a_server_that_restarts_costs_no_write_and_no_event() -> None:
    """Writes and a watch go on over two restarts."""
    count = 200
    with PostgresqlServer() as server:
        async with engine(server) as backend, asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            group.create_task(write_many(backend, count))
            seen: list[str] = []
            restarted = 0
            async with aclosing(backend.watch(["k/"], start=0)) as batches:
                while len(seen) < count:
                    seen += [event.key for event in await anext(batches)]
                    if len(seen) >= (restarted + 1) * 60 and restarted < 2:
                        restarted += 1
                        await asyncio.to_thread(server.restart)
            assert seen == [f"k/{number:04}" for number in range(count)]
            assert restarted == 2


async def test_connections_that_are_killed_cost_no_write_and_no_event(shared: PostgresqlServer) -> None:
    count = 120

    async def kill() -> None:
        for _ in range(6):
            await sql(
                shared,
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'teleport'",
            )

    async with engine(shared) as backend, asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        seeing = group.create_task(see_many(backend, count))
        group.create_task(write_many(backend, count))
        group.create_task(kill())
        assert await seeing == [f"k/{number:04}" for number in range(count)]
        assert [item.key for item in await backend.range("k/")] == await seeing


async def test_all_processes_are_told_every_change_once_and_in_order(shared: PostgresqlServer) -> None:
    """Three that write at once, while their connections are killed; each watches, and all are told the same."""
    name, each = f"t_{token_hex(8)}", 60

    async def write(backend: PostgresqlBackend, writer: int) -> None:
        for number in range(each):
            await backend.commit([PutOp(f"k/{writer}/{number}/{part}", b"") for part in range(3)])

    async def see(backend: PostgresqlBackend) -> list[tuple[int, str]]:
        seen: list[tuple[int, str]] = []
        async with aclosing(backend.watch(["k/"], start=0)) as batches:
            while len(seen) < 3 * 3 * each:
                seen += [(event.revision, event.key) for event in await anext(batches)]
        return seen

    async with engine(shared, name) as one, engine(shared, name) as two, engine(shared, name) as three:
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            seeing = [group.create_task(see(backend)) for backend in (one, two, three)]
            for writer, backend in enumerate((one, two, three)):
                group.create_task(write(backend, writer))
            for _ in range(3):
                await sql(
                    shared,
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'teleport'",
                )
        first = seeing[0].result()
        assert [revision for revision, _ in first] == [1 + number // 3 for number in range(3 * 3 * each)]
        assert len({key for _, key in first}) == 3 * 3 * each
        assert all(task.result() == first for task in seeing)


async def test_a_server_that_takes_no_writes_any_more_is_told() -> None:
    """As during its maintenance."""
    with PostgresqlServer() as server:
        async with engine(server, within=0.5) as backend:
            await backend.put("k", b"one")
            await sql(server, "ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
            with pytest.raises(ConnectionProblem, match=r"takes writes|read-only") as caught:
                await write_many(backend, 10_000)  # until it has read its settings
            assert "primary" in caught.value.hint


async def test_without_a_server_writes_fail_in_time_and_watches_end() -> None:
    with PostgresqlServer() as server:
        async with engine(server, within=1.0) as backend, asyncio.timeout(PATIENCE):
            revision = await backend.put("k", b"one")
            watching = asyncio.create_task(anext(backend.watch(["k"], start=revision)))
            await asyncio.to_thread(server.stop)
            with pytest.raises(ConnectionProblem, match="PostgreSQL") as caught:
                await backend.put("k", b"two")
            assert "pg_isready" in caught.value.hint
            with pytest.raises(ConnectionProblem):
                await backend.get("k")
            with pytest.raises(ConnectionProblem):
                await watching


async def test_a_network_that_falls_silent_is_noticed_and_nothing_is_lost_when_it_is_back(
    shared: PostgresqlServer,
) -> None:
    """Nobody says that the connection is broken; a second process goes on meanwhile."""
    async with (
        CutRelay(shared.port) as relay,
        engine(shared, port=relay.port, within=1.0) as one,
        engine(shared, one._settings.schema) as other,
        asyncio.timeout(PATIENCE),
    ):
        revision = await one.put("k/1", b"")
        async with aclosing(one.watch(["k/"], start=revision)) as batches:
            watching = asyncio.ensure_future(anext(batches))
            relay.hold()
            with pytest.raises(ConnectionProblem, match=r"not known whether|no answer"):
                await one.put("k/2", b"")
            await other.put("k/3", b"")  # nobody holds the lock of all writes for ever
            with pytest.raises(ConnectionProblem):
                await watching
        relay.mend()
        assert await one.put("k/4", b"") == await other.revision()
        async with aclosing(one.watch(["k/"], start=revision)) as batches:
            seen: list[str] = []
            while "k/4" not in seen:
                seen += [event.key for event in await anext(batches)]
        assert [key for key in seen if key != "k/2"] == ["k/3", "k/4"]
        assert ("k/2" in seen) == (await other.get("k/2") is not None)


async def test_a_watcher_behind_a_compaction_goes_on_with_a_new_snapshot(shared: PostgresqlServer) -> None:
    async with (
        engine(shared, log_keep=2) as one,
        CutRelay(shared.port) as relay,
        engine(shared, one._settings.schema, port=relay.port) as other,
        asyncio.timeout(PATIENCE),
    ):
        await one.put("k/0", b"")
        async with aclosing(follow(other, ["k/"], heartbeat=60)) as updates:
            first = await anext(updates)
            assert isinstance(first, Snapshot)
            waiting = asyncio.ensure_future(anext(updates))
            await one.put("k/1", b"")
            heard = await waiting
            relay.cut()  # from here on it hears nothing, while much happens
            for number in range(2, 40):
                await one.put(f"k/{number}", b"")
            await one.sweep()
            kept = int(await sql(shared, f"SELECT kept FROM {one._settings.schema}.meta"))
            assert kept > heard.revision, "the watcher is behind what is kept"
            relay.mend()
            again = await anext(updates)
            assert isinstance(again, Snapshot)
            assert {item.key for item in again.items} == {f"k/{number}" for number in range(40)}
            assert again.revision == 40


async def test_a_standby_takes_over_and_nobody_goes_on_with_what_it_does_not_have() -> None:
    """The last write is on the lost server alone; its revision is never given out again."""
    with PostgresqlServer("wal_level=replica", "max_wal_senders=4") as first, PostgresqlServer() as second:
        await asyncio.to_thread(second.kill)
        await asyncio.to_thread(_become_standby, second, first)
        both = replace(parse(first.url()), servers=(*parse(second.url()).servers, *parse(first.url()).servers))
        alone = parse(second.url())
        with pytest.raises(ConnectionProblem, match="takes writes") as caught:
            await PostgresqlBackend(alone, SystemClock(), within=0.5).open()
        assert "pg_promote" in caught.value.hint
        async with (
            PostgresqlBackend(both, SystemClock(), sweep_every=None) as backend,
            asyncio.timeout(PATIENCE),
            aclosing(follow(backend, ["k/"], heartbeat=60)) as updates,
        ):
            await backend.put("k/1", b"")
            assert isinstance(await anext(updates), Snapshot)
            where = await sql(first, "SELECT pg_current_wal_lsn()")
            while await sql(second, f"SELECT pg_last_wal_replay_lsn() >= '{where}'") != "t":
                pass
            await sql(second, "SELECT pg_wal_replay_pause()")
            await asyncio.to_thread(second.stop)
            lost = await backend.put("k/lost", b"")
            await asyncio.to_thread(first.kill)
            await asyncio.to_thread(second.start)
            await asyncio.to_thread(second.promote)
            after = await backend.put("k/2", b"")
            assert after > lost + LEAP // 2
            update = await anext(updates)
            while not (isinstance(update, Snapshot) and "k/2" in {item.key for item in update.items}):
                update = await anext(updates)
            assert "k/lost" not in {item.key for item in update.items}
            with pytest.raises(WatchCompacted):
                await anext(backend.watch(["k/"], start=lost))


def _become_standby(second: PostgresqlServer, first: PostgresqlServer) -> None:
    shutil.rmtree(second.data)
    second.base_backup(first, "-R")
    second.start()


async def test_tables_that_were_restored_begin_a_new_count(shared: PostgresqlServer) -> None:
    """What was written after the dump is gone; its revisions are not given out again."""
    name = f"t_{token_hex(8)}"
    async with engine(shared, name) as running:
        await running.put("k/1", b"")
        dumped = await asyncio.to_thread(shared.dump, name)
        lost = await running.put("k/2", b"")
        await sql(shared, f"DROP SCHEMA {name} CASCADE")
        await asyncio.to_thread(shared.restore, dumped)
        async with engine(shared, name) as backend, asyncio.timeout(PATIENCE):
            for one in (backend, running):
                assert [item.key for item in await one.range()] == ["k/1"]
                assert await one.revision() > lost + LEAP // 2
                with pytest.raises(WatchCompacted):
                    await anext(one.watch([""], start=lost))
            after = await running.put("k/3", b"")
            async with aclosing(running.watch([""], start=after - 1)) as batches:
                assert [event.key for event in await anext(batches)] == ["k/3"]


async def test_the_kernel_ends_a_connection_whose_other_end_is_gone(shared: PostgresqlServer) -> None:
    servers = Servers(settings(shared))
    session = await servers.session()
    own = session._connection._transport.get_extra_info("socket")
    assert own.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert own.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 10_000
    assert (await session.row("SHOW tcp_keepalives_idle"))[0] == "10"
    await session.close()
    await servers.close()


async def test_a_server_on_this_machine_is_reached_by_its_socket(shared: PostgresqlServer) -> None:
    text = f"postgresql://postgres@/postgres?host={shared.directory}&port={shared.port}"
    async with PostgresqlBackend(
        replace(parse(text), schema=f"t_{token_hex(8)}"), SystemClock(), sweep_every=None
    ) as backend:
        await backend.put("k", b"")
        assert await backend.get("k") is not None


async def test_who_holds_the_lock_of_all_writes_and_is_silent_loses_it(shared: PostgresqlServer) -> None:
    async with engine(shared) as backend:
        servers = Servers(backend._settings)
        stuck = await servers.session()
        assert (await stuck.row("SHOW idle_in_transaction_session_timeout"))[0] == "5s"
        await stuck.run("SET idle_in_transaction_session_timeout = '200ms'")
        await stuck.run(schemas.LOCK)
        async with asyncio.timeout(PATIENCE):
            assert await backend.put("k", b"") == 1
        await stuck.close()
        await servers.close()


# Sessions


async def test_a_write_is_on_disk_although_the_server_would_not_wait(shared: PostgresqlServer) -> None:
    name = f"t_{token_hex(8)}"
    await sql(shared, f"CREATE ROLE {name} SUPERUSER LOGIN", f"ALTER ROLE {name} SET synchronous_commit = off")
    servers = Servers(parse(shared.url(name)))
    session = await servers.session()
    assert (await session.row("SHOW synchronous_commit"))[0] == "on"
    await session.close()
    await servers.close()


async def test_values_and_passwords_stay_out_of_the_log(
    shared: PostgresqlServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = replace(settings(shared), password="hunter2hunter2")
    async with PostgresqlBackend(secret, SystemClock(), sweep_every=None) as backend:
        await backend.put("k", b"private-value")
        await sql(shared, f"DROP SCHEMA {secret.schema} CASCADE")
        with pytest.raises(TeleportError) as caught:
            await backend.put("k", b"private-value")
    said: Sequence[str] = [caplog.text, str(caught.value), caught.value.hint, repr(secret), repr(caught.value)]
    assert not any("hunter2" in text or "private-value" in text for text in said)


def test_nobody_loads_asyncpg_who_does_not_open_such_a_storage() -> None:
    """A node, and an auth server with the embedded storage, have it not in memory."""
    code = "import sys, teleport.daemon.assembly, teleport.daemon.auth_side; print('asyncpg' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"
