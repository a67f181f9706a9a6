"""What a check of a backup believes, and what it tells of."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.audit.events.base import Actor
from teleport.backend.interface import PutOp
from teleport.backup.age import Broken
from teleport.backup.check import check
from teleport.daemon.restoring import Places, restore
from teleport.store import records
from teleport.testing.auth import CLUSTER, RunningAuth, running_auth


async def made(auth: RunningAuth) -> io.BytesIO:
    client = auth.async_client(await auth.admin())
    try:
        return io.BytesIO(b"".join([piece async for piece in client.download(routes.CREATE_BACKUP, m.BackupRequest())]))
    finally:
        await client.close()


async def test_what_is_stored_of_another_cluster_and_cannot_be_read_is_told_and_restored(tmp_path: Path) -> None:
    """As the cluster itself does, which counts it for nothing: the rest of the backup is as good as it was."""
    others = [
        f"{records.TRUSTED_CLUSTERS}root",
        f"{records.REMOTE_CLUSTERS}leaf",
        f"{records.AUTHORITIES}host/leaf",
    ]
    async with running_auth(tmp_path / "old", sqlite=True) as auth:
        await auth.backend.commit([PutOp(key, b"{}") for key in others])
        data = await made(auth)
        (tmp_path / "check").mkdir()
        checked = check(data, tmp_path / "check")
        assert len(checked.problems) == len(others)
        for key, problem in zip(sorted(others), sorted(checked.problems), strict=True):
            assert f"stored of another cluster, {key}, cannot be read" in problem
        data.seek(0)
        new = tmp_path / "new"
        places = Places(new, new / "backend", new / "log", new / "log" / "records")
        done = await auth.in_thread(lambda: restore(data, places, auth.clock, Actor()))
        assert done.items


@pytest.mark.parametrize("key", [f"{records.AUTHORITIES}other/{CLUSTER}", f"{records.ROLES}spoiled"])
async def test_of_the_cluster_itself_everything_can_be_read_or_the_backup_is_broken(tmp_path: Path, key: str) -> None:
    async with running_auth(tmp_path / "old", sqlite=True) as auth:
        await auth.backend.commit([PutOp(key, b"{}")])
        data = await made(auth)
    (tmp_path / "check").mkdir()
    with pytest.raises(Broken, match=key):
        check(data, tmp_path / "check")
