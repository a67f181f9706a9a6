"""The storage of an auth server: whether it is there, whole, of this cluster, and has room."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, urlsplit

from teleport.backend.sqlite_file import FILE_NAME, check_version
from teleport.daemon.doctor.clock import unreached
from teleport.daemon.doctor.patient import Finding, Patient, Said, Unseen, quoted
from teleport.daemon.host import UNFINISHED
from teleport.errors import TeleportError
from teleport.resources.cluster import ClusterName
from teleport.resources.codec import from_json
from teleport.store import records

CHECK = "backend"
LARGEST = 512 << 20  # bytes of a storage that is read whole
ROOM = 512 << 20  # bytes; recordings end before the last of it is used
_ETCD = 2379


def looked(patient: Patient) -> Said:
    config = patient.config
    yield from _of_room(config.data_dir)
    if os.path.exists(config.data_dir / UNFINISHED):  # also where this user may not look
        folder = quoted(config.data_dir)
        yield Finding(
            CHECK,
            f"a restore into {config.data_dir} did not come to its end: the daemon does not start. After the command: "
            "tctl backup restore FILE",
            f"mv {folder} {quoted(f'{config.data_dir}.unfinished')} && install -d -m 0700 {folder}",
        )
        return
    if config.auth is None:
        return
    if config.storage.etcd is not None:
        yield from _of_module("grpc", "etcd")
        yield from _of_servers("etcd", [_etcd(peer) for peer in config.storage.etcd.peers])
    elif config.storage.postgresql is not None:
        yield from _of_module("asyncpg", "postgresql")
        servers = [(one.host, one.port) for one in config.storage.postgresql.servers if not one.host.startswith("/")]
        yield from _of_servers("postgresql", servers)
    else:
        yield from _of_file(patient, config.storage.path / FILE_NAME)


def _of_room(folder: Path) -> Said:
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return
    if usage.free < ROOM:
        yield Finding(
            CHECK,
            f"{folder} has room for {usage.free >> 20} MiB more",
            "journalctl --vacuum-size=200M   # and what else fills that disk: du -xh --max-depth=2 / | sort -h | tail",
        )


def _etcd(peer: str) -> tuple[str, int]:
    parts = urlsplit(peer)
    return parts.hostname or "", parts.port or _ETCD


def _of_module(module: str, extra: str) -> Said:
    if importlib.util.find_spec(module) is None:
        yield Finding(
            CHECK, f"what storage in {extra} needs is not installed", f"pip install 'teleport-access[{extra}]'"
        )


def _of_servers(unit: str, servers: list[tuple[str, int]]) -> Said:
    for host, port in servers:
        why = unreached(host, port)
        if why is not None and why.errno != 0:
            said = why.strerror or str(why)
            yield Finding(
                CHECK, f"the storage at {host}:{port} is not reached: {said}", f"systemctl start {unit}   # at {host}"
            )


def _of_file(patient: Patient, path: Path) -> Said:
    """The embedded database, read without a trace: one whose writer was killed is left to the next start."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return  # the first start makes it
    except OSError as error:
        yield Unseen(CHECK, f"{path}: {error.strerror}", patient.again, blind=True)
        return
    if not os.access(path, os.R_OK):
        yield Unseen(CHECK, f"{path}: this user may not read it", patient.again, blind=True)
        return
    left = path.with_name(f"{path.name}-wal")
    if not patient.pids and left.exists() and left.stat().st_size:
        yield Unseen(CHECK, f"{path}: its daemon was killed; the next start completes it", "teleport start")
        return
    if not size:
        return
    mode = "mode=ro" if patient.pids or left.exists() else "immutable=1"
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?{mode}", uri=True, timeout=5.0)) as connection:
            connection.execute("PRAGMA query_only=ON")
            version = check_version(connection, path)
            if size <= LARGEST:
                (said,) = connection.execute("PRAGMA quick_check(1)").fetchone()
                if said != "ok":
                    raise sqlite3.DatabaseError("it is damaged")
            if version:
                yield from _of_cluster(patient, connection)
    except sqlite3.OperationalError as error:  # held by somebody, or its folder is closed: no word on what is in it
        yield Unseen(CHECK, f"{path}: {error}", patient.again, blind=True)
    except sqlite3.DatabaseError as error:
        yield Finding(
            CHECK,
            f"the storage {path} cannot be used: {error}. The command restores a backup, while the daemon is stopped",
            f"mv {quoted(path.parent)} {quoted(f'{path.parent}.damaged')} && tctl backup restore FILE --key-file=KEY",
        )
    except TeleportError as error:
        yield Finding(CHECK, error.message, f"teleport version   # {error.hint}")


def _of_cluster(patient: Patient, connection: sqlite3.Connection) -> Said:
    """Whether the storage is of the cluster that the configuration names."""
    row = connection.execute("SELECT value FROM item WHERE key = ?", (records.CLUSTER + "cluster-name",)).fetchone()
    found = from_json(row[0]) if row is not None else None
    named = patient.config.auth.cluster_name if patient.config.auth is not None else ""
    if isinstance(found, ClusterName) and found.spec.cluster_name != named:
        stored = found.spec.cluster_name
        written = f"cluster_name: {named}"
        yield Finding(
            CHECK,
            f"the storage is of the cluster {stored}, and the configuration names {named}; a cluster keeps its name",
            patient.replace(written, f"cluster_name: {stored}")
            if written in patient.text
            else patient.edit("cluster_name" if "cluster_name" in patient.text else "auth_service"),
        )
