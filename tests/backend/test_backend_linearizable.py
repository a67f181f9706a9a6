"""Several processes over one storage, as one: what callers saw can have happened in one order (threats, T58).

The checker is shown to fail first: on histories that are wrong, and on storages with a planted fault.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from teleport.backend import Backend
from teleport.backend.dynamodb.engine import DynamoBackend
from teleport.backend.etcd.engine import EtcdBackend
from teleport.backend.etcd.settings import EtcdSettings
from teleport.backend.memory import MemoryBackend
from teleport.backend.postgresql.engine import PostgresqlBackend
from teleport.backend.postgresql.settings import parse
from teleport.clock import SystemClock
from teleport.errors import AlreadyExists, CompareFailed, ConnectionProblem, TeleportError
from teleport.testing import dynamodb, etcd, postgresql
from teleport.testing.cut_relay import CutRelay
from teleport.testing.linearizable import Call, Done, broken_keys, linearizable

KEYS = ("a", "b", "c")
PATIENCE = 90.0  # seconds

READ, PUT, CREATE, SWAP = Call.READ, Call.PUT, Call.CREATE, Call.SWAP


@pytest.mark.parametrize(
    ("calls", "possible"),
    [
        pytest.param([], True, id="nothing"),
        pytest.param([Done(PUT, "k", 0, 1, "x"), Done(READ, "k", 2, 3, found="x")], True, id="read-what-was-written"),
        pytest.param([Done(PUT, "k", 0, 1, "x"), Done(READ, "k", 2, 3)], False, id="lost-write"),
        pytest.param([Done(PUT, "k", 0, 9, "x"), Done(READ, "k", 2, 3)], True, id="read-beside-a-write"),
        pytest.param(
            [Done(PUT, "k", 0, 9, "x"), Done(READ, "k", 1, 2, found="x"), Done(READ, "k", 3, 4)],
            False,
            id="new-then-old",
        ),
        pytest.param([Done(PUT, "k", 0, value="x"), Done(READ, "k", 2, 3)], True, id="unknown-never-happened"),
        pytest.param(
            [Done(PUT, "k", 0, value="x"), Done(READ, "k", 2, 3), Done(READ, "k", 4, 5, found="x")],
            True,
            id="unknown-happened-late",
        ),
        pytest.param(
            [Done(PUT, "k", 0, value="x"), Done(READ, "k", 2, 3, found="x"), Done(READ, "k", 4, 5)],
            False,
            id="unknown-happened-and-was-gone",
        ),
        pytest.param([Done(CREATE, "k", 0, 5, "x"), Done(CREATE, "k", 1, 4, "y")], False, id="two-created-it"),
        pytest.param(
            [Done(CREATE, "k", 0, 5, "x"), Done(CREATE, "k", 1, 4, "y", done=False)], True, id="one-created-it"
        ),
        pytest.param(
            [
                Done(PUT, "k", 0, 1, "x"),
                Done(SWAP, "k", 2, 5, "y", "x"),
                Done(SWAP, "k", 3, 6, "z", "x"),
            ],
            False,
            id="two-swapped-the-same",
        ),
        pytest.param(
            [Done(PUT, "k", 0, 1, "x"), Done(SWAP, "k", 2, 5, "y", "x", done=False)], False, id="refused-without-cause"
        ),
        pytest.param(
            [Done(PUT, "k", 0, 1, "x"), Done(SWAP, "k", 2, value="y", found="x"), Done(READ, "k", 4, 5, found="x")],
            True,
            id="swap-in-the-dark",
        ),
    ],
)
def test_the_checker_knows_what_can_have_happened(calls: Sequence[Done], possible: bool) -> None:
    assert linearizable(calls) is possible
    assert broken_keys(calls) == ([] if possible else ["k"])


class Caller:
    """One of those who use the storage at once; what it saw goes into `history`."""

    def __init__(self, backend: Backend, name: str, history: list[Done], seed: int) -> None:
        self._backend = backend
        self._name = name
        self._history = history
        self._random = random.Random(seed)
        self._count = 0

    async def run(self, rounds: int) -> None:
        for _ in range(rounds):
            key = self._random.choice(KEYS)
            await self._random.choice((self._read, self._read, self._put, self._create, self._swap))(key)

    async def _read(self, key: str) -> tuple[str | None, int]:
        began = _now()
        try:
            item = await self._backend.get(key)
        except ConnectionProblem:
            return None, 0
        found = None if item is None else item.value.decode()
        self._history.append(Done(READ, key, began, _now(), found=found))
        return found, 0 if item is None else item.revision

    async def _put(self, key: str) -> None:
        value = self._value()
        await self._write(Done(PUT, key, _now(), value=value), self._backend.put(key, value.encode()))

    async def _create(self, key: str) -> None:
        value = self._value()
        await self._write(Done(CREATE, key, _now(), value=value), self._backend.create(key, value.encode()))

    async def _swap(self, key: str) -> None:
        found, revision = await self._read(key)
        if found is not None:
            value = self._value()
            swap = self._backend.compare_and_swap(key, revision, value.encode())
            await self._write(Done(SWAP, key, _now(), value=value, found=found), swap)

    async def _write(self, about: Done, call: Awaitable[int]) -> None:
        try:
            await call
        except (AlreadyExists, CompareFailed):
            self._history.append(replace(about, ended=_now(), done=False))
        except TeleportError:
            self._history.append(about)
        else:
            self._history.append(replace(about, ended=_now()))

    def _value(self) -> str:
        self._count += 1
        return f"{self._name}{self._count}"


def _now() -> float:
    return asyncio.get_running_loop().time()


async def play(backends: Sequence[Backend], *, callers: int = 6, rounds: int = 25) -> list[Done]:
    """What callers of all of `backends` saw."""
    history: list[Done] = []
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        for number in range(callers):
            backend = backends[number % len(backends)]
            group.create_task(Caller(backend, chr(97 + number), history, number).run(rounds))
    return history


class Forgetful(MemoryBackend):
    """Says now and then that it wrote what it did not."""

    writes = 0

    async def put(self, key: str, value: bytes, **more: object) -> int:
        self.writes += 1
        await asyncio.sleep(0)
        return await self.revision() if self.writes % 2 == 0 else await super().put(key, value)


class Stale(MemoryBackend):
    """Shows each caller now and then what was there before."""

    reads = 0

    def __init__(self) -> None:
        super().__init__(SystemClock(), sweep_every=None)
        self._old: dict[str, object] = {}

    async def get(self, key: str):  # type: ignore[no-untyped-def]
        self.reads += 1
        await asyncio.sleep(0)
        item = await super().get(key)
        old, self._old[key] = self._old.get(key, item), item
        return old if self.reads % 3 == 0 else item


class Unguarded(MemoryBackend):
    """Compares and swaps in two steps."""

    async def compare_and_swap(self, key: str, revision: int, value: bytes, **more: object) -> int:
        item = await super().get(key)
        if item is None or item.revision != revision:
            raise CompareFailed("changed")
        await asyncio.sleep(0)
        return await super().put(key, value)


@pytest.mark.parametrize(
    "make",
    [lambda: Forgetful(SystemClock(), sweep_every=None), Stale, lambda: Unguarded(SystemClock(), sweep_every=None)],
    ids=["forgetful", "stale", "unguarded"],
)
async def test_a_planted_fault_is_found(make: Callable[[], MemoryBackend]) -> None:
    async with make() as backend:
        assert broken_keys(await play([backend], rounds=30))


async def test_a_storage_without_fault_passes() -> None:
    async with MemoryBackend(SystemClock(), sweep_every=None) as backend:
        assert broken_keys(await play([backend], rounds=60)) == []


@pytest.mark.skipif(etcd.program() is None, reason=etcd.MISSING)
async def test_two_processes_over_etcd_and_a_restart(tmp_path: Path) -> None:
    with etcd.EtcdCluster(tmp_path) as cluster:
        settings = EtcdSettings(cluster.urls, insecure=True)
        one, other = (EtcdBackend(settings, SystemClock(), sweep_every=None) for _ in range(2))
        async with one, other, asyncio.TaskGroup() as group:
            playing = group.create_task(play([one, other]))
            await one.put("begun", b"")
            await asyncio.to_thread(cluster.members[0].restart)
        assert broken_keys(playing.result()) == []


@pytest.mark.skipif(postgresql.programs() is None, reason=postgresql.MISSING)
async def test_two_processes_over_postgresql_while_all_breaks() -> None:
    """The way of one is cut, answers to its commits are lost, all connections are killed, and the server restarts."""
    with postgresql.PostgresqlServer() as server:
        async with (
            CutRelay(server.port) as relay,
            PostgresqlBackend(parse(server.url()), SystemClock(), sweep_every=None) as one,
            PostgresqlBackend(parse(server.url(port=relay.port)), SystemClock(), sweep_every=None, within=0.5) as other,
            asyncio.TaskGroup() as group,
        ):
            playing = group.create_task(play([one, other], rounds=40))
            for passed in (True, False, True):
                relay.cut_at(b"COMMIT", passed=passed)
                while not relay.cut_at_word.is_set():
                    with suppress(ConnectionProblem):  # where it takes longer than a call may
                        await other.put("to be cut", b"")
            relay.cut()
            with pytest.raises(ConnectionProblem):
                await other.put("cut off", b"")
            relay.mend()
            await asyncio.to_thread(
                server.sql,
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'teleport'",
            )
            await asyncio.to_thread(server.restart)
        history = playing.result()
        assert broken_keys(history) == []
        assert len(history) > 200


@pytest.mark.skipif(dynamodb.program() is None, reason=dynamodb.MISSING)
async def test_two_processes_over_dynamodb_while_all_breaks() -> None:
    """The way of one is cut and answers to its writes are lost, while the log is written out and trimmed."""
    with dynamodb.DynamoServer() as server:
        settings = server.settings()
        async with (
            CutRelay(server.port) as relay,
            DynamoBackend(settings, SystemClock(), sweep_every=None, log_keep=10) as one,
            DynamoBackend(
                replace(settings, endpoint=server.endpoint(relay.port)), SystemClock(), sweep_every=None, within=0.5
            ) as other,
            asyncio.TaskGroup() as group,
        ):
            playing = group.create_task(play([one, other], rounds=40))
            for passed in (True, False, True, False):
                relay.cut_at(b"TransactWriteItems", passed=passed)
                while not relay.cut_at_word.is_set():
                    with suppress(ConnectionProblem):  # where it takes longer than a call may
                        await other.put("to be cut", b"")
                await one.revision()
                await one.sweep()
            relay.cut()
            with pytest.raises(ConnectionProblem):
                await other.put("cut off", b"")
            relay.mend()
            await one.sweep()
        history = playing.result()
        assert broken_keys(history) == []
        assert len(history) > 150
