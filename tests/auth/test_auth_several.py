"""Auth servers that share a storage: they start at once, and keep records in one place."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from teleport.auth.cluster.bootstrap import MadeElsewhere, bootstrap
from teleport.auth.evidence.shared import ANEW, one_place
from teleport.auth.evidence.store import STORES, EvidenceStore
from teleport.auth.state import ClusterState
from teleport.backend.memory import MemoryBackend
from teleport.clock import SystemClock
from teleport.errors import TeleportError
from teleport.store import records


async def test_of_two_that_make_a_cluster_at_once_one_does_and_the_other_takes_it() -> None:
    async with MemoryBackend(SystemClock()) as backend:
        states = [
            ClusterState(backend, SystemClock(), name, on_events=lambda: None) for name in ("one.test", "two.test")
        ]
        said = await asyncio.gather(*(bootstrap(state, ()) for state in states), return_exceptions=True)
        assert sorted(type(one).__name__ for one in said) == ["MadeElsewhere", "bool"]
        assert isinstance(next(one for one in said if one is not True), MadeElsewhere)
        names = {item.key.rpartition("/")[2] for item in await backend.range(records.AUTHORITIES)}
        assert len(names) == 1
        later = [ClusterState(backend, SystemClock(), *names, on_events=lambda: None) for _ in range(3)]
        assert not any(await asyncio.gather(*(bootstrap(state, ()) for state in later)))


async def test_the_first_folder_is_that_of_all(tmp_path: Path) -> None:
    """Also when several start at once; another one is refused, until what was there is given up."""
    async with MemoryBackend(SystemClock()) as backend:
        events, recordings = tmp_path / "log", tmp_path / "records"
        await asyncio.gather(*(one_place(backend, events, recordings) for _ in range(4)))
        await one_place(backend, events, recordings)
        assert recordings.stat().st_mode & 0o777 == 0o700
        other = tmp_path / "other"
        for wrong, setting in (((other, recordings), "audit_events_uri"), ((events, other), "audit_sessions_uri")):
            with pytest.raises(TeleportError, match="is not the folder in which the auth servers") as caught:
                await one_place(backend, *wrong)
            assert setting in caught.value.hint
            assert f"echo {ANEW} > {other}" in caught.value.hint
        await backend.put(f"{STORES}some-host", b"2026-01-01.00:00:00.log 10")
        running = EvidenceStore(backend, SystemClock())
        assert list(await running.load_positions()) == ["some-host"]
        other.mkdir()
        (other / ".log-id").write_text(f"{ANEW}\n")
        await one_place(backend, other, recordings)
        assert await EvidenceStore(backend, SystemClock()).load_positions() == {}
        with pytest.raises(TeleportError, match="another folder by now"):
            await running.load_positions()
        with pytest.raises(TeleportError, match="is not the folder"):
            await one_place(backend, events, recordings)


async def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    async with MemoryBackend(SystemClock()) as backend:
        (tmp_path / "file").write_text("")
        with pytest.raises(TeleportError, match="cannot be used for the audit log") as caught:
            await one_place(backend, tmp_path / "file" / "log", tmp_path / "records")
        assert "audit_events_uri" in caught.value.hint
