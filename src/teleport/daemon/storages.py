"""The engine that a configuration names, for whatever opens the storage of a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from teleport.backend.dynamodb.load import dynamodb_backend
from teleport.backend.engine import SWEEP_EVERY
from teleport.backend.etcd.load import etcd_backend
from teleport.backend.postgresql.load import postgresql_backend
from teleport.backend.sqlite import SqliteBackend
from teleport.backend.sqlite_file import refuse_migration
from teleport.clock import Clock
from teleport.daemon.config.values import StorageConfig

if TYPE_CHECKING:
    from teleport.backend.dynamodb.engine import DynamoBackend
    from teleport.backend.etcd.engine import EtcdBackend
    from teleport.backend.postgresql.engine import PostgresqlBackend


def engine_of(
    storage: StorageConfig, clock: Clock, *, beside: bool, sweep_every: float | None = SWEEP_EVERY
) -> SqliteBackend | EtcdBackend | PostgresqlBackend | DynamoBackend:
    """Not open yet. `beside`: its schema is not to be changed; what is older is refused with `TeleportError`."""
    if storage.etcd is not None:
        return etcd_backend()(storage.etcd, clock, may_migrate=not beside, sweep_every=sweep_every)
    if storage.postgresql is not None:
        return postgresql_backend()(storage.postgresql, clock, may_migrate=not beside, sweep_every=sweep_every)
    if storage.dynamodb is not None:
        return dynamodb_backend()(storage.dynamodb, clock, sweep_every=sweep_every)
    if beside:
        refuse_migration(storage.path)
    return SqliteBackend(storage.path, clock, sweep_every=sweep_every)
