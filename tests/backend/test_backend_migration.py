"""A storage of the first version opens today and after every later migration; a newer one names the way back."""

from __future__ import annotations

import sqlite3
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.backend.sqlite import SqliteBackend
from teleport.backend.sqlite_file import FILE_NAME, MIGRATIONS, connect, kept_copy, migrate, refuse_migration
from teleport.clock import SystemClock
from teleport.errors import TeleportError
from teleport.testing.auth import running_auth

VECTOR = Path(__file__).parent.parent / "vectors" / "backend" / "schema-1.sql"
HOST = "6e3b1a52-9a0e-4f0c-8a38-5f6c5a2f1d11"  # the auth host of the vector
NOW = datetime(2026, 12, 1, tzinfo=UTC)

# What a next version might do: a column with a default, a table filled from what is there.
NEXT = (
    *MIGRATIONS,
    (
        "ALTER TABLE item ADD COLUMN lease INTEGER NOT NULL DEFAULT 0",
        "CREATE TABLE owner (key TEXT PRIMARY KEY NOT NULL, size INTEGER NOT NULL) WITHOUT ROWID",
        "INSERT INTO owner SELECT key, length(value) FROM item",
    ),
)
FAULTY = (*NEXT[:-1], (*NEXT[-1], "INSERT INTO no_such_table VALUES (1)"))


def restore(folder: Path) -> Path:
    """The vector as a file, as the first version left it."""
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / FILE_NAME
    connection = sqlite3.connect(path)
    connection.executescript(VECTOR.read_text())
    connection.close()
    return path


def items(connection: sqlite3.Connection) -> list[tuple[str, bytes, int]]:
    return connection.execute("SELECT key, value, revision FROM item ORDER BY key").fetchall()


def versions(path: Path) -> list[int]:
    connection = sqlite3.connect(path)
    try:
        return [row[0] for row in connection.execute("SELECT version FROM migration ORDER BY version")]
    finally:
        connection.close()


async def test_a_storage_of_the_first_version_opens_and_the_cluster_in_it_works(tmp_path: Path) -> None:
    restore(tmp_path / "backend")
    async with running_auth(tmp_path, sqlite=True, host_id=HOST, epoch=2) as auth:
        admin = await auth.admin()
        users = await auth.call(admin, routes.LIST["user"], m.ListRequest())
        assert [b'"ann"' in bytes(user) for user in users.items] == [True]
        roles = await auth.call(admin, routes.LIST["role"], m.ListRequest())
        assert len(roles.items) == 3
        ann = await auth.user("ann", ["access"])  # the authority of the vector signs
        assert (await auth.call(ann, routes.WHO_AM_I, m.Empty())).name == "ann"
    async with SqliteBackend(tmp_path / "backend", SystemClock(), sweep_every=None) as backend:
        item = await backend.get("cluster/cluster-name")
        assert item is not None
        assert item.revision == 1


def test_a_later_schema_is_reached_and_everything_is_still_there(tmp_path: Path) -> None:
    """And a copy of what was there is kept, for its owner only."""
    path = restore(tmp_path)
    connection = connect(path, writing=True)
    before = items(connection)
    migrate(connection, path, NOW, NEXT)
    migrate(connection, path, NOW, NEXT)  # nothing left to do
    assert items(connection) == before
    assert connection.execute("SELECT count(*), sum(size) FROM owner").fetchone()[0] == len(before)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    assert versions(path) == list(range(1, len(NEXT) + 1))
    copy = kept_copy(path, len(MIGRATIONS))
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert versions(copy) == list(range(1, len(MIGRATIONS) + 1))
    kept = sqlite3.connect(copy)
    assert items(kept) == before
    kept.close()


def test_a_storage_that_a_running_process_shares_is_not_changed(tmp_path: Path) -> None:
    refuse_migration(tmp_path)  # there is none yet
    path = restore(tmp_path)
    refuse_migration(tmp_path)
    with pytest.raises(TeleportError, match="which the process that is running could not read"):
        refuse_migration(tmp_path, len(NEXT))
    assert versions(path) == list(range(1, len(MIGRATIONS) + 1))


def test_a_migration_that_fails_leaves_the_storage_as_it_was(tmp_path: Path) -> None:
    path = restore(tmp_path)
    connection = connect(path, writing=True)
    before = items(connection)
    with pytest.raises(sqlite3.OperationalError, match="no_such_table"):
        migrate(connection, path, NOW, FAULTY)
    assert items(connection) == before
    assert connection.execute("SELECT name FROM sqlite_schema WHERE name = 'owner'").fetchall() == []
    assert versions(path) == list(range(1, len(MIGRATIONS) + 1))
    migrate(connection, path, NOW, NEXT)  # mended, it goes through
    connection.close()


async def test_a_newer_storage_is_refused_with_the_way_back_and_the_way_back_works(tmp_path: Path) -> None:
    path = restore(tmp_path)
    connection = connect(path, writing=True)
    migrate(connection, path, NOW, NEXT)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    upgraded = path.read_bytes()
    copy = kept_copy(path, len(MIGRATIONS))
    with pytest.raises(
        TeleportError, match=f"version {len(NEXT)}, this program knows up to {len(MIGRATIONS)}"
    ) as caught:
        await SqliteBackend(tmp_path, SystemClock()).open()
    assert str(copy) in caught.value.hint
    assert "start that newer version" in caught.value.hint
    assert path.read_bytes() == upgraded
    copy.replace(path)
    async with SqliteBackend(tmp_path, SystemClock(), sweep_every=None) as backend:
        assert await backend.get("users/ann") is not None


async def test_without_a_kept_copy_the_backup_is_the_way_back(tmp_path: Path) -> None:
    path = restore(tmp_path)
    connection = connect(path, writing=True)
    migrate(connection, path, NOW, NEXT)
    connection.close()
    kept_copy(path, len(MIGRATIONS)).unlink()
    with pytest.raises(TeleportError, match="newer version") as caught:
        await SqliteBackend(tmp_path, SystemClock()).open()
    assert "restore the backup made before the upgrade" in caught.value.hint
