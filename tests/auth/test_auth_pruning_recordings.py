"""Recordings whose time has come go, behind a checkpoint; what is held stays, and what somebody took is missed."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from tests.security.test_security_recordings import RecordingHost

from teleport.api import messages as m
from teleport.api import routes
from teleport.audit import checkpoints
from teleport.audit.retention import Hold, Retention
from teleport.auth.evidence.removed import REMOVED
from teleport.auth.evidence.store import RESTORED, EvidenceStore
from teleport.auth.retention.recordings import RecordingPruner
from teleport.errors import NotFound, TeleportError
from teleport.recording.storage import FileRecordingStore
from teleport.testing.auth import RunningAuth, running_auth

DAY = timedelta(days=1)


class Rig:
    """An auth server with recordings, and a pruner whose lock can be watched."""

    def __init__(self, auth: RunningAuth, *rules: tuple[str, timedelta | None]) -> None:
        self.auth, self.service = auth, auth.service
        self.holds: list[Hold] = []
        self.held_at_the_lock: list[Hold] = []
        self.pruner = RecordingPruner(
            self.service.state,
            self.service.evidence.recordings,
            Retention(rules),
            lease=lambda: nullcontext(),
            exclusive=Locked(self),
            holds=self._holds,
            prove=self.service.evidence.api.proof,
            restored=EvidenceStore(self.service.state.backend, self.service.state.clock).load_restored,
        )

    async def _holds(self) -> Sequence[Hold]:
        return self.holds

    async def record(self, host: RecordingHost, user: str, *, days: int) -> str:
        """The session's id; auth stored it so many days ago."""
        sid = str(uuid.uuid4())
        await host.upload(sid, user)
        stored = (self.service.state.clock.now() - days * DAY).timestamp()
        os.utime(self.file(sid), (stored, stored))
        return sid

    def file(self, sid: str) -> Path:
        return self.service.evidence.recordings.directory.path / f"{sid}.rec"

    async def prune(self) -> None:
        """Until nothing waits; checkpoints come meanwhile."""
        for _ in range(1000):
            if not await self.pruner.step():
                return
        raise AssertionError("it does not come to an end")

    async def faults(self) -> list[str]:
        return [str(problem) for problem in (await self.service.evidence.api.proof()).problems]

    async def missing(self) -> None:
        """Returns once the proof misses a recording: the event of its upload may be on its way yet."""
        async with asyncio.timeout(60):
            while not any("is missing" in fault for fault in await self.faults()):
                continue


class Locked(nullcontext[None]):
    """A lock before which a hold may come."""

    def __init__(self, rig: Rig) -> None:
        super().__init__()
        self._rig = rig

    async def __aenter__(self) -> None:
        self._rig.holds += self._rig.held_at_the_lock


@asynccontextmanager
async def opened(
    directory: Path, monkeypatch: pytest.MonkeyPatch, *rules: tuple[str, timedelta | None]
) -> AsyncIterator[tuple[Rig, RecordingHost]]:
    monkeypatch.setattr(checkpoints, "INTERVAL", 0.02)
    async with running_auth(directory) as auth:
        yield Rig(auth, *rules), await RecordingHost.join(auth)


def hold(**named: object) -> Hold:
    return Hold(id="h", reason="case", created=datetime.now(UTC), creator="admin", **named)  # type: ignore[arg-type]


async def test_old_recordings_go_and_the_log_still_verifies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the event that says so; what auth stored a moment ago stays, whatever its host says of its age."""
    async with opened(tmp_path, monkeypatch, ("default", 3 * DAY)) as (rig, host):
        old, new = await rig.record(host, "eve", days=4), await rig.record(host, "eve", days=2)
        assert await rig.pruner.step(), "it is said first"
        assert rig.file(old).exists()
        await rig.prune()
        assert (rig.file(old).exists(), rig.file(new).exists()) == (False, True)
        assert await rig.faults() == []
        (event,) = await rig.auth.events("session_recording.prune")
        assert (event["sid"], event["user"], event["gone"], event["number"]) == (old, "eve", True, 1)
        rig.file(new).unlink()
        await rig.missing()


@pytest.mark.parametrize("by", ["user", "session", "span"])
async def test_a_held_recording_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    async with opened(tmp_path, monkeypatch, ("default", 3 * DAY)) as (rig, host):
        held, now = await rig.record(host, "eve", days=4), rig.service.state.clock.now()
        host.started = now - 9 * DAY
        other = await rig.record(host, "ann", days=9)
        rig.holds = [
            {
                "user": hold(user="eve"),
                "session": hold(session=held),
                "span": hold(start=now - 5 * DAY, end=now + 9000 * DAY),
            }[by]
        ]
        await rig.prune()
        assert (rig.file(held).exists(), rig.file(other).exists()) == (True, False)
        assert await rig.faults() == []


async def test_a_hold_at_the_last_moment_holds_and_excuses_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was said and signed that the recording goes. It stays, that is on record, and who removes it is found."""
    async with opened(tmp_path, monkeypatch, ("default", 3 * DAY)) as (rig, host):
        sid = await rig.record(host, "eve", days=4)
        rig.held_at_the_lock = [hold(user="eve")]
        await rig.prune()
        assert rig.file(sid).exists()
        async with asyncio.timeout(60):
            while (await rig.service.evidence.api.proof()).basis.recordings[sid].gone:
                continue  # no checkpoint has seen it yet
        said = {event["number"]: event["gone"] for event in await rig.auth.events("session_recording.prune")}
        assert said == {1: True, 2: False}
        rig.file(sid).unlink()
        await rig.missing()


async def test_nothing_goes_while_the_log_does_not_verify_and_nothing_without_a_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, monkeypatch, ("transfer", 3 * DAY)) as (rig, host):
        sid = await rig.record(host, "eve", days=400)
        await rig.prune()
        assert rig.file(sid).exists()
    async with opened(tmp_path / "other", monkeypatch, ("default", 3 * DAY)) as (rig, host):
        sid, gone = await rig.record(host, "eve", days=4), await rig.record(host, "eve", days=1)
        rig.file(gone).unlink()
        await rig.missing()
        with pytest.raises(TeleportError, match="does not verify"):
            await rig.pruner.step()
        assert rig.file(sid).exists()


@pytest.mark.parametrize("days", [-30, 9000])
async def test_no_time_that_a_host_writes_lets_a_recording_escape_a_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    """When auth stored it is in the hold's time. The host says that it began so many days ago."""
    async with opened(tmp_path, monkeypatch, ("default", 3 * DAY)) as (rig, host):
        host.started = rig.service.state.clock.now() - days * DAY
        sid = await rig.record(host, "eve", days=5)
        stored = rig.service.state.clock.now() - 5 * DAY
        for span in ({"end": stored + DAY}, {"start": stored - DAY}, {"start": stored - DAY, "end": stored + DAY}):
            rig.holds = [hold(**span)]
            await rig.prune()
            assert rig.file(sid).exists(), span
        assert not await rig.auth.events("session_recording.prune", wait_for=0)


async def test_nothing_goes_within_a_week_after_a_restore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Holds that were placed after the backup was made are not in the state."""
    async with opened(tmp_path, monkeypatch, ("default", 3 * DAY)) as (rig, host):
        sid = await rig.record(host, "eve", days=400)
        backend, now = rig.service.state.backend, rig.service.state.clock.now()
        await backend.put(RESTORED, msgspec.json.encode({"time": now - 6 * DAY, "backup": now - 30 * DAY}))
        with pytest.raises(TeleportError, match=r"restored from a backup .* nothing is removed before") as told:
            await rig.pruner.step()
        assert "tctl hold add" in (told.value.hint or "")
        assert rig.file(sid).exists()
        assert not await rig.auth.events("session_recording.prune", wait_for=0)
        await backend.put(RESTORED, msgspec.json.encode({"time": now - 8 * DAY, "backup": now - 30 * DAY}))
        await rig.prune()
        assert not rig.file(sid).exists()


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("after", [False, True])
async def test_a_process_that_ends_over_a_file_is_followed_and_who_asks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    """What is told of one that is gone was written before it went; while it is there that counts for nothing."""

    class Store(FileRecordingStore):
        async def remove(self, name: str) -> None:
            if after:
                await super().remove(name)
            raise Killed

    async with opened(tmp_path, monkeypatch, ("default", 3 * DAY)) as (rig, host):
        sid = await rig.record(host, "eve", days=4)
        store = Store(rig.service.evidence.recordings.directory.path)
        kept, rig.pruner._recordings = rig.pruner._recordings, store
        try:
            with pytest.raises(Killed):
                await rig.prune()
        finally:
            store.close()
        assert bool(await rig.service.state.backend.range(REMOVED)) is True
        if not after:
            assert await read(rig, sid)
        rig.pruner._recordings = kept
        await rig.prune()
        assert await rig.faults() == []
        with pytest.raises(NotFound, match=f"session {sid} was removed on .* keeps default: 72h"):
            await read(rig, sid)


async def read(rig: Rig, sid: str) -> bytes:
    client = rig.auth.async_client(await rig.auth.admin())
    try:
        return b"".join([piece async for piece in client.download(routes.READ_RECORDING, m.RecordingRequest(sid=sid))])
    finally:
        await client.close()
