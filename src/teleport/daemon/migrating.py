"""`tctl migrate`: the state of a cluster that is stopped, from one storage to another.

Both are named by configurations of auth servers. A lock on each `data_dir` keeps the daemons of this host down
meanwhile. Auth servers of other hosts are seen by what they announce in the storage; one that starts on the target is
refused by the mark, and one that starts on the source and writes there makes the comparison fail.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from teleport.auth.state import stored_cluster_name
from teleport.backend.interface import Backend
from teleport.backend.moving import LEASES, Content, check_free, content_of, move, refuse_unfinished
from teleport.backend.sqlite_file import FILE_NAME
from teleport.clock import Clock
from teleport.daemon.config.values import Config, StorageConfig
from teleport.daemon.host import hold_while_down
from teleport.daemon.storages import engine_of
from teleport.errors import AlreadyExists, BadRequest, NotFound


@dataclass(frozen=True, slots=True)
class Migrated:
    """What was done, or would be."""

    cluster: str
    source: str
    target: str
    content: Content
    anew: bool  # what a broken migration had left was, or would be, removed


async def migrate(
    source: Config,
    target: Config,
    clock: Clock,
    *,
    dry_run: bool = False,
    seen: Callable[[int], None] = lambda count: None,
) -> Migrated:
    """Raises `TeleportError`; then the source is as it was, and the target empty as before or marked as unfinished."""
    for config, which in ((source, "--from"), (target, "--to")):
        if config.auth is None:
            raise BadRequest(
                f"the configuration of {which} is of a host without the auth service",
                hint="name configurations of an auth server, before and after",
            )
    if _place(source.storage) == _place(target.storage):
        raise BadRequest(
            f"both configurations name the same storage: {described(source.storage)}",
            hint="name in --to a configuration with another teleport.storage",
        )
    if not source.storage.shared and not (source.storage.path / FILE_NAME).exists():
        raise NotFound(
            f"there is no storage of an auth service at {source.storage.path}",
            hint="name the configuration with which the auth server ran until now: --from=FILE",
        )
    own = {found for config in (source, target) if (found := _host_id(config.data_dir))}
    with _held(source.data_dir, target.data_dir):
        async with AsyncExitStack() as stack:
            origin = await stack.enter_async_context(_opened(source.storage, clock, beside=True))
            await refuse_unfinished(origin)
            cluster = await stored_cluster_name(origin)
            if cluster is None:
                raise NotFound(
                    f"there is no cluster in {described(source.storage)}",
                    hint="name the configuration with which the auth server ran until now: --from=FILE",
                )
            await _check_stopped(origin, own)
            content, anew = await content_of(origin), False
            if not dry_run or target.storage.shared or (target.storage.path / FILE_NAME).exists():
                goal = await stack.enter_async_context(_opened(target.storage, clock, beside=False))
                anew = await check_free(goal)
                if not dry_run:
                    content = await move(origin, goal, clock, secrets.token_hex(16).encode(), seen)
            return Migrated(cluster, described(source.storage), described(target.storage), content, anew)


def described(storage: StorageConfig) -> str:
    """Where it is, as people are told."""
    if storage.etcd is not None:
        return f"etcd ({', '.join(storage.etcd.peers)}, prefix {storage.etcd.prefix})"
    if storage.postgresql is not None:
        return f"PostgreSQL ({storage.postgresql.where}, schema {storage.postgresql.schema})"
    if storage.dynamodb is not None:
        return f"DynamoDB ({storage.dynamodb.where})"
    return str(storage.path / FILE_NAME)


def _place(storage: StorageConfig) -> object:
    """Equal for the same place, as far as configurations can tell; that the target must be empty tells the rest."""
    if storage.shared:
        return described(storage)
    return storage.path.resolve()


def _host_id(data_dir: Path) -> str:
    try:
        return (data_dir / "host_uuid").read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


@contextmanager
def _held(*data_dirs: Path) -> Iterator[None]:
    """No daemon of this host that ran with one of them starts meanwhile."""
    with ExitStack() as stack:
        for data_dir in dict.fromkeys(path.resolve() for path in data_dirs):
            with contextlib.suppress(NotFound):  # none ran there, as on a host that is made for a shared storage
                stack.callback(os.close, hold_while_down(data_dir, "tctl migrate"))
        yield


@asynccontextmanager
async def _opened(storage: StorageConfig, clock: Clock, *, beside: bool) -> AsyncIterator[Backend]:
    async with engine_of(storage, clock, beside=beside, sweep_every=None) as backend:
        yield backend


async def _check_stopped(backend: Backend, own: set[str]) -> None:
    """Raises `AlreadyExists` when auth servers of other hosts announce themselves; those of this one do not run."""
    announced = LEASES[0]
    others = [item.key.removeprefix(announced) for item in await backend.range(announced)]
    others = [host_id for host_id in others if host_id not in own]
    if others:
        raise AlreadyExists(
            f"auth servers of other hosts use the storage to migrate from: {', '.join(others)}",
            hint="stop each of them; one that could not say that it stopped is forgotten after 10 minutes",
        )
