"""What a client waits for when its session ends."""

from __future__ import annotations

import asyncio
import getpass
from pathlib import Path
from typing import Any

import pytest

from teleport.audit.events import Event, SessionEnd
from teleport.errors import TeleportError
from teleport.launcher import LauncherEnd
from teleport.launcher.client import Launcher
from teleport.recording.format import RecordingHeader
from teleport.testing.memory import MemoryRecording, MemoryRecordings
from teleport.testing.running import run_client
from teleport.testing.ssh_lab import running_lab

ME = getpass.getuser()


class LongRecording(MemoryRecording):
    """One whose closing takes until `may_close`."""

    may_close: asyncio.Event
    steps: list[str]

    @property
    def slow_to_close(self) -> bool:
        return True

    async def sync(self) -> None:
        self.steps.append("on disk")

    async def close(self, reason: str) -> MemoryRecording:
        await self.may_close.wait()
        self.steps.append("closed")
        return await super().close(reason)


class LongRecordings(MemoryRecordings):
    def __init__(self) -> None:
        super().__init__()
        self.may_close = asyncio.Event()
        self.steps: list[str] = []

    async def start(self, header: RecordingHeader) -> Any:
        recording = LongRecording(header)
        recording.may_close, recording.steps = self.may_close, self.steps
        return recording


async def test_nobody_waits_for_a_long_recording_to_be_sealed(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """The client waits until the bytes are on disk; the end goes on record when the recording has its hash."""
    recordings = LongRecordings()
    async with running_lab(Launcher(launcher_end), recordings=recordings) as lab:
        config = lab.client_config(tmp_path, lab.authorities.user([ME]), ME)
        ran = await run_client("ssh", "-F", str(config), "direct", "exit 5")
        assert ran.status == 5
        assert recordings.steps == ["on disk"]
        assert lab.events.named("session.end") == []
        recordings.may_close.set()
        (end,) = await lab.events.wait_for("session.end")
        assert recordings.steps == ["on disk", "closed"]
        assert getattr(end, "recording_hash", "") == "00" * 32


@pytest.mark.parametrize("recorded", [True, False], ids=["on record", "record fails"])
async def test_a_recording_may_leave_once_the_end_of_its_session_is_on_record(
    launcher_end: LauncherEnd, tmp_path: Path, recorded: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A process killed in between leaves the recording, from which the next one knows of the end."""
    async with running_lab(Launcher(launcher_end)) as lab:
        known: list[list[str]] = []
        emit = lab.events.emit

        async def last_of(event: Event) -> None:
            if isinstance(event, SessionEnd):
                known.append(list(lab.recordings.on_record_of))
                if not recorded:
                    raise TeleportError("the disk is full")
            await emit(event)

        lab.events.emit = last_of  # type: ignore[method-assign]
        config = lab.client_config(tmp_path, lab.authorities.user([ME]), ME)
        assert (await run_client("ssh", "-F", str(config), "direct", "exit 5")).status == 5
        assert known == [[]], "before the event nothing may leave"
        assert lab.recordings.on_record_of == ([lab.recordings.all[0].header.sid] if recorded else [])
    assert recorded or "session end cannot be put on record" in caplog.text
