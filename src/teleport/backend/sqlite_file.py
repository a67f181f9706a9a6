"""The database file: where it lies, who may read it, its schema and migrations, and what SQLite's errors mean.

Rules: the directory is 0700 and the file 0600 before anything is in it (SQLite gives its `-wal` and `-shm` files the
same mode). A commit that returned has been synced to disk (`synchronous=FULL`). A file of a newer schema, of another
program, or a damaged one is refused and left as it is. Deleted values are overwritten (`secure_delete`), since
they may be keys; the log of changes keeps them until it is trimmed.

Formats: times are microseconds since 1970 in UTC. `application_id` marks the file as ours.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from teleport.errors import TeleportError

FILE_NAME = "sqlite.db"
APPLICATION_ID = 0x54454C45
BUSY_TIMEOUT = 10.0  # seconds that a write waits for another process's transaction
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# Each entry takes the schema from its index to the next version. Entries are never changed, only added.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE item (key TEXT PRIMARY KEY NOT NULL, value BLOB NOT NULL, revision INTEGER NOT NULL,"
        " expires INTEGER)",
        "CREATE INDEX item_expires ON item (expires) WHERE expires IS NOT NULL",
        # One row for each changed key, in order; value is NULL when the key was deleted.
        "CREATE TABLE log (seq INTEGER PRIMARY KEY, revision INTEGER NOT NULL, key TEXT NOT NULL, value BLOB,"
        " expires INTEGER, at INTEGER NOT NULL)",
        "CREATE INDEX log_revision ON log (revision)",
        # `revision`: of the last change. `compacted`: the log has everything after this revision.
        "CREATE TABLE state (name TEXT PRIMARY KEY NOT NULL, number INTEGER NOT NULL) WITHOUT ROWID",
        "INSERT INTO state (name, number) VALUES ('revision', 0), ('compacted', 0)",
    ),
)


def micros(when: datetime) -> int:
    """`when` as stored."""
    return (when - EPOCH) // timedelta(microseconds=1)


def from_micros(number: int | None) -> datetime | None:
    """A stored time, or None for none."""
    return None if number is None else EPOCH + timedelta(microseconds=number)


@contextmanager
def explained(path: Path, doing: str) -> Iterator[None]:
    """Turns SQLite's errors into ours: what failed, on which file, why, and what to do."""
    try:
        yield
    except sqlite3.Error as error:
        raise explain(path, doing, error) from error


def explain(path: Path, doing: str, error: sqlite3.Error) -> TeleportError:
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return TeleportError(
            f"cannot {doing} the storage {path}: the file is damaged ({error})",
            hint=f"stop the service, keep a copy of {path.parent} and restore it from a backup",
        )
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return TeleportError(
            f"cannot {doing} the storage {path}: another process kept it locked for {BUSY_TIMEOUT:.0f} s",
            hint=f"see which process holds it: fuser -v {path}",
        )
    if name == "SQLITE_FULL":
        return TeleportError(
            f"cannot {doing} the storage {path}: the disk is full", hint=f"free space: df -h {path.parent}"
        )
    return TeleportError(
        f"cannot {doing} the storage {path}: {error}", hint=f"check the owner and the disk: ls -l {path.parent}"
    )


def prepare(directory: Path) -> Path:
    """Make the directory and an empty file with their modes, tightening those of our own; the file's path.

    A directory that holds other things is left as it is (somebody may have named `/var/lib` or `/tmp`), and refused
    when others can write to it, since they could replace the file.
    """
    path = directory / FILE_NAME
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists() or not any(directory.iterdir()):
            directory.chmod(0o700)
        elif directory.stat().st_mode & 0o022:
            raise TeleportError(
                f"cannot open the storage {path}: other users can write to its directory",
                hint="name a directory of its own as the storage path in the configuration",
            )
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise TeleportError(
            f"cannot open the storage {path}: {error.strerror}",
            hint=f"check the owner and mode: ls -ld {directory}",
        ) from error
    return path


def connect(path: Path, *, writing: bool, waits: bool = True) -> sqlite3.Connection:
    """A connection for use in the calling thread, in autocommit mode: transactions are begun by name. One that does
    not wait for locks raises `sqlite3.OperationalError` instead."""
    timeout = BUSY_TIMEOUT if waits else 0.0
    connection = sqlite3.connect(path, isolation_level=None, timeout=timeout, cached_statements=64)
    try:
        if writing:
            check_version(connection, path)  # before anything is changed: refuses what is not ours
            _use_wal(connection)
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA secure_delete=ON")
        else:
            connection.execute("PRAGMA query_only=ON")
    except BaseException:
        connection.close()
        raise
    return connection


def migrate(
    connection: sqlite3.Connection,
    path: Path,
    now: datetime,
    migrations: Sequence[Sequence[str]] = MIGRATIONS,
) -> None:
    """Bring the schema to this version: all of it or nothing. What is newer or not ours is refused, unchanged.

    Before an older schema is changed the whole file is copied beside itself (`sqlite.db.schema-1`): the way back.
    """
    version = check_version(connection, path, len(migrations))
    if version == len(migrations):
        return
    if version:
        _keep_copy(connection, path, version)
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = check_version(connection, path, len(migrations))  # again: another process may have been first
        if version == 0:
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            connection.execute("CREATE TABLE migration (version INTEGER PRIMARY KEY, applied INTEGER NOT NULL)")
        for number in range(version, len(migrations)):
            for statement in migrations[number]:
                connection.execute(statement)
            connection.execute("INSERT INTO migration (version, applied) VALUES (?, ?)", (number + 1, micros(now)))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def refuse_migration(directory: Path, known: int = len(MIGRATIONS)) -> None:
    """For a process that shares the storage with one that is running: raises `TeleportError` when this version would
    change the schema under it."""
    path = directory / FILE_NAME
    if not path.exists():
        return
    with explained(path, "open"):
        connection = connect(path, writing=False)
        try:
            version = check_version(connection, path, known)
        finally:
            connection.close()
    if 0 < version < known:
        raise TeleportError(
            f"this version changes the schema of the storage {path} from {version} to {known}, which the "
            "process that is running could not read any more",
            hint="stop the daemon, then start this version",
        )


def kept_copy(path: Path, version: int) -> Path:
    """Where an upgrade keeps the storage as it was under schema `version`."""
    return path.with_name(f"{path.name}.schema-{version}")


def _keep_copy(connection: sqlite3.Connection, path: Path, version: int) -> None:
    """A whole copy of the storage, durable and private before it has its name; an older one of the name is replaced."""
    draft = path.with_name(f"{path.name}.schema-{version}.{os.getpid()}.new")
    draft.unlink(missing_ok=True)
    try:
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        connection.execute("VACUUM INTO ?", (str(draft),))
        for name in (draft, path.parent):
            if name == path.parent:
                draft.replace(kept_copy(path, version))
            descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    except OSError as error:
        raise TeleportError(
            f"cannot upgrade the storage {path}: the copy of what it was cannot be kept: {error.strerror}",
            hint=f"make room for a second copy of the file: df -h {path.parent}",
        ) from error
    finally:
        draft.unlink(missing_ok=True)


def check_version(connection: sqlite3.Connection, path: Path, known: int = len(MIGRATIONS)) -> int:
    """The schema version of the file, 0 for an empty one; what is not ours or newer than `known` is refused."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if not tables:
        return 0
    (marked,) = connection.execute("PRAGMA application_id").fetchone()
    if marked != APPLICATION_ID or "migration" not in tables:
        raise TeleportError(
            f"cannot open the storage {path}: it is a database of another program",
            hint="name another directory as the storage path in the configuration",
        )
    (version,) = connection.execute("SELECT max(version) FROM migration").fetchone()
    if version is None or version > known:
        copy = kept_copy(path, known)
        back = (
            f"or go back: stop the service and put {copy} in the place of {path}, without {path.name}-wal and "
            f"{path.name}-shm; what was changed since the upgrade is lost"
            if copy.exists()
            else "or restore the backup made before the upgrade"
        )
        raise TeleportError(
            f"cannot open the storage {path}: its schema is version {version}, this program knows up to "
            f"{known}, so a newer version of Teleport wrote it",
            hint=f"start that newer version, {back}",
        )
    return int(version)


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to WAL. Two processes that do so at once get "locked" without the busy timeout: try again."""
    deadline = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").fetchone()
            return
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() > deadline:
                raise
            time.sleep(0.005)
