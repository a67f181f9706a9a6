"""The engine over PostgreSQL when the server's disk is full. A small tmpfs is the disk."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from teleport.backend import PutOp
from teleport.backend.postgresql.engine import PostgresqlBackend
from teleport.backend.postgresql.settings import parse
from teleport.clock import SystemClock
from teleport.errors import LimitExceeded
from teleport.testing import postgresql
from teleport.testing.postgresql import PostgresqlServer

PATIENCE = 60.0  # seconds

pytestmark = pytest.mark.skipif(postgresql.programs() is None, reason=postgresql.MISSING)


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A place for tables that takes 3 MiB, and may be made larger."""
    if os.geteuid() != 0:
        pytest.skip("needs root: it mounts a tmpfs as a small disk")
    path = Path(tempfile.mkdtemp(prefix="pg-disk-"))
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", path], capture_output=True)
    if done.returncode:
        path.rmdir()
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.decode(errors='replace').strip()}")
    postgresql.own(path)
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)
        path.rmdir()


def make_room(path: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", path], check=True)


async def write_large(backend: PostgresqlBackend) -> None:
    """Far more than the disk takes, two items at a time."""
    for number in range(1, 20):
        await backend.commit([PutOp(f"k/{number}/{part}", os.urandom(300_000)) for part in range(2)])


async def test_a_full_disk_of_the_server_is_told_and_nothing_is_torn(small_disk: Path) -> None:
    """Reads go on; what does not fit is refused whole, and writes go on once there is room."""
    with PostgresqlServer() as server:
        await asyncio.to_thread(
            server.sql,
            f"CREATE TABLESPACE small LOCATION '{small_disk}'",
            "CREATE ROLE u LOGIN",
            "GRANT CREATE ON TABLESPACE small TO u",
        )
        await asyncio.to_thread(
            server.sql, "ALTER ROLE u SET default_tablespace = small", "CREATE SCHEMA ours AUTHORIZATION u"
        )
        plain = replace(parse(server.url("u")), schema="ours")
        async with (
            PostgresqlBackend(plain, SystemClock(), sweep_every=None) as backend,
            asyncio.timeout(PATIENCE),
            aclosing(backend.watch(["k/"], start=0)) as batches,
        ):
            await backend.put("k/0", b"small")
            assert [event.key for event in await anext(batches)] == ["k/0"]
            with pytest.raises(LimitExceeded, match="disk is full") as caught:
                await write_large(backend)
            assert "make room" in caught.value.hint
            keys = [item.key for item in await backend.range("k/")]
            assert keys == [
                "k/0",
                *(f"k/{number}/{part}" for number in range(1, len(keys) // 2 + 1) for part in (0, 1)),
            ]
            last = await backend.revision()
            assert last == 1 + len(keys) // 2
            await asyncio.to_thread(make_room, small_disk)
            assert await backend.put("k/after", b"") == last + 1
            seen = ["k/0"]
            while seen[-1] != "k/after":
                seen += [event.key for event in await anext(batches)]
            assert seen == [*keys, "k/after"]
