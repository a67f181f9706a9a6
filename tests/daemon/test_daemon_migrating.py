"""Moving the state between storages: all of it, proved, or a target that nobody starts on; the source only read."""

from __future__ import annotations

import fcntl
from datetime import timedelta
from pathlib import Path

import pytest

from teleport.auth.state import stored_cluster_name
from teleport.backend.interface import PutOp
from teleport.backend.memory import MemoryBackend
from teleport.backend.moving import MARK, content_of, move, refuse_unfinished
from teleport.backend.sqlite import SqliteBackend
from teleport.backend.sqlite_file import FILE_NAME
from teleport.clock import SystemClock
from teleport.daemon.config.effective import StartFlags, effective_config
from teleport.daemon.config.file import load_config
from teleport.daemon.config.values import Config
from teleport.daemon.migrating import migrate
from teleport.errors import AlreadyExists, BadRequest, CompareFailed, NotFound, TeleportError
from teleport.testing.auth import running_auth
from teleport.testing.clock import FakeClock

CLOCK = SystemClock()


async def filled(clock: FakeClock, count: int = 1200) -> MemoryBackend:
    backend = MemoryBackend(clock)
    await backend.open()
    for at in range(0, count, 100):
        later = clock.now() + timedelta(hours=1)
        await backend.commit(
            [PutOp(f"users/{n:05}", b"v" * 2000, later if n % 2 else None) for n in range(at, at + 100)]
        )
    await backend.put("auth_servers/other", b"x")
    await backend.put("audit/lease", b"x")
    return backend


async def test_all_is_moved_with_its_expiry_except_leases() -> None:
    clock = FakeClock()
    source = await filled(clock)
    seen: list[int] = []
    async with MemoryBackend(clock) as target:
        moved = await move(source, target, clock, b"one", seen.append)
        assert (len(moved.items), seen[-1]) == (1200, 1200)
        found = (await target.snapshot([""])).items
        assert [item.key for item in found] == [f"users/{n:05}" for n in range(1200)]
        assert [item.expires for item in found[:2]] == [None, clock.now() + timedelta(hours=1)]
        assert (await content_of(target)).sha256 == (await content_of(source)).sha256 == moved.sha256
        await refuse_unfinished(target)
        with pytest.raises(AlreadyExists, match="not empty"):
            await move(source, target, clock, b"two")
    await source.close()


class Breaking(MemoryBackend):
    """Fails at the third write while `breaks`."""

    breaks = True
    writes = 0

    async def _write(self, decision):  # type: ignore[no-untyped-def]
        self.writes += 1
        if self.breaks and self.writes == 3:
            raise TeleportError("the disk is full", hint="-")
        return await super()._write(decision)


async def test_a_broken_one_is_refused_at_start_and_run_again() -> None:
    clock = FakeClock()
    source = await filled(clock)
    before = await source.snapshot([""])
    async with Breaking(clock) as target:
        with pytest.raises(TeleportError, match="disk is full"):
            await move(source, target, clock, b"one")
        assert len((await target.snapshot([""])).items) > 1
        with pytest.raises(TeleportError, match="did not come to its end"):
            await refuse_unfinished(target)
        target.breaks = False
        await target.put("users/left", b"of the broken one")
        await move(source, target, clock, b"two")
        await refuse_unfinished(target)
        assert await target.get("users/left") is None
    assert await source.snapshot([""]) == before
    await source.close()


class Changing(MemoryBackend):
    """Whose third snapshot finds another value: somebody writes meanwhile."""

    async def snapshot(self, prefixes):  # type: ignore[no-untyped-def]
        found = await super().snapshot(prefixes)
        await self.put("tokens/secret", f"{found.revision}".encode())
        return found


async def test_a_source_that_changes_meanwhile_is_found_out_without_naming_secrets() -> None:
    clock = FakeClock()
    async with Changing(clock) as source, MemoryBackend(clock) as target:
        await source.put("users/a", b"1")
        with pytest.raises(CompareFailed, match="not what the source holds now") as caught:
            await move(source, target, clock, b"one")
        assert "secret" not in str(caught.value)
        assert await target.get(MARK) is not None


async def test_of_two_at_once_one_fails() -> None:
    clock = FakeClock()
    source = await filled(clock)
    async with MemoryBackend(clock) as target:

        async def second() -> None:
            await target.put(MARK, b"two")

        class Taken(MemoryBackend):
            async def snapshot(self, prefixes):  # type: ignore[no-untyped-def]
                await second()
                return await source.snapshot(prefixes)

        async with Taken(clock) as other:
            with pytest.raises(CompareFailed, match="another migration"):
                await move(other, target, clock, b"one")
        assert [item.key for item in (await target.snapshot([""])).items] == [MARK]
    await source.close()


def config(folder: Path, storage: str, data: str = "data", auth: str = "yes") -> Config:
    text = (
        f"teleport:\n  nodename: a\n  data_dir: {folder / data}\n"
        f"  storage: {{type: dir, path: {folder / storage}}}\nauth_service: {{enabled: {auth}}}\n"
    )
    return effective_config(load_config(text, "teleport.yaml"), StartFlags(), "box")


async def stopped(folder: Path) -> None:
    """A cluster whose daemon has ended."""
    async with running_auth(folder / "auth", sqlite=True, clock=CLOCK):
        pass
    (folder / "data").mkdir(mode=0o700)
    (folder / "data" / "daemon.lock").touch(0o600)
    (folder / "auth" / "backend").rename(folder / "old")


async def test_from_one_directory_to_another(tmp_path: Path) -> None:
    await stopped(tmp_path)
    old, new = config(tmp_path, "old"), config(tmp_path, "new")
    looked = await migrate(old, new, CLOCK, dry_run=True)
    assert not (tmp_path / "new").exists()
    done = await migrate(old, new, CLOCK)
    assert done.content.sha256 == looked.content.sha256
    async with SqliteBackend(tmp_path / "new", CLOCK) as backend:
        assert await stored_cluster_name(backend) == done.cluster
    with pytest.raises(AlreadyExists, match="not empty"):
        await migrate(old, new, CLOCK)


async def test_what_is_refused(tmp_path: Path) -> None:
    await stopped(tmp_path)
    old, new = config(tmp_path, "old"), config(tmp_path, "new")
    with pytest.raises(BadRequest, match="same storage"):
        await migrate(old, old, CLOCK)
    with pytest.raises(BadRequest, match="without the auth service"):
        await migrate(old, config(tmp_path, "new", auth="no"), CLOCK)
    with pytest.raises(NotFound, match="no storage"):
        await migrate(config(tmp_path, "nothing"), new, CLOCK)
    with (tmp_path / "data" / "daemon.lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(AlreadyExists, match="a daemon uses"):
            await migrate(old, new, CLOCK)
    async with SqliteBackend(tmp_path / "old", CLOCK) as backend:
        await backend.put("auth_servers/elsewhere", b"{}", expires=CLOCK.now() + timedelta(minutes=9))
    with pytest.raises(AlreadyExists, match="elsewhere"):
        await migrate(old, new, CLOCK)
    (tmp_path / "data" / "host_uuid").write_text("elsewhere\n")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / FILE_NAME).write_bytes(b"no database at all" * 100)
    with pytest.raises(TeleportError, match="damaged"):
        await migrate(config(tmp_path, "broken"), new, CLOCK)
    assert not (tmp_path / "new").exists()
    async with SqliteBackend(tmp_path / "old", CLOCK) as backend:
        await backend.put(MARK, b"x")
    with pytest.raises(TeleportError, match="did not come to its end"):
        await migrate(old, new, CLOCK)
