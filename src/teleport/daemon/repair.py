"""`teleport repair` with the storage of this host: opened while no daemon runs, closed before one may."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from teleport.auth.cluster.repair import Findings, Repair
from teleport.auth.state import ClusterState, stored_cluster_name
from teleport.backend.moving import refuse_unfinished
from teleport.backend.sqlite import SqliteBackend
from teleport.backend.sqlite_file import FILE_NAME, refuse_migration
from teleport.clock import Clock
from teleport.daemon.config.values import SNAPSHOTS, Config
from teleport.daemon.host import hold_while_down
from teleport.errors import BadRequest, NotFound

__all__ = ["Findings", "Repair", "repairing"]


@asynccontextmanager
async def repairing(config: Config, clock: Clock, actor: Mapping[str, str]) -> AsyncIterator[Repair]:
    """The storage of the auth service of this host, to be repaired. Raises `TeleportError`."""
    if config.auth is not None and (shared := config.storage.shared):
        raise BadRequest(
            f"a storage in {shared} cannot be repaired by this version: other auth servers may be using it",
            hint=f"restore {SNAPSHOTS[shared]} that was made before",
        )
    lock = hold_while_down(config.data_dir)
    try:
        path = config.storage.path
        if config.auth is None or not (path / FILE_NAME).exists():
            raise NotFound(
                f"there is no storage of an auth service at {path}", hint="repair works on the host of the auth service"
            )
        refuse_migration(path)
        backend = SqliteBackend(path, clock)
        await backend.open()
        try:
            await refuse_unfinished(backend)
            cluster = await stored_cluster_name(backend)
            if cluster is None:
                raise NotFound(f"the storage at {path} holds no cluster yet", hint="teleport start makes one")
            state = ClusterState(backend, clock, cluster, on_events=lambda: None)
            host_id = (config.data_dir / "host_uuid").read_text().strip()
            yield Repair(state, host_id, actor)
        finally:
            await backend.close()
    finally:
        os.close(lock)
