"""Recordings and ends of sessions that could not be kept at first."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.recording.recording_samples import sign

from teleport.api.client import AuthClient
from teleport.audit.emitter import Emitter
from teleport.audit.events import Event
from teleport.clock import SystemClock
from teleport.daemon.host import open_host
from teleport.daemon.recorded import Recorded
from teleport.errors import TeleportError
from teleport.recording.format import RecordingHeader, Signature
from teleport.testing.running import wait_until


class Full(Emitter):
    """A spool on a disk that may be full."""

    full = False
    tries = 0

    async def emit(self, event: Event) -> None:
        if self.full:
            self.tries += 1
            raise TeleportError("the disk is full")
        await super().emit(event)


class Kept:
    """A service's recordings, what is on record of its host, and a key that may be missing."""

    def __init__(self, folder: Path, client: AuthClient) -> None:
        self.no_key = False
        self.host = open_host(folder / "host")
        self._spool = folder / "spool"
        opened = Full.open(self._spool, self.host.host_id, self.host.epoch, SystemClock())
        assert isinstance(opened, Full)
        self.emitter = opened
        self.recorded = Recorded(
            "upload",
            self.host,
            "alpha",
            client,
            self.emitter,
            SystemClock(),
            sign=self._sign,
            quota=0,
            mode=lambda: "node",
        )

    def _sign(self, message: bytes) -> Signature:
        if self.no_key:
            self.no_key = False
            raise TeleportError("the key cannot be read")
        return sign(message)

    def header(self) -> RecordingHeader:
        return RecordingHeader(
            sid=str(uuid.uuid4()), started=datetime.now(UTC), user="ann", login="root", node_id=self.host.host_id
        )

    def ends(self) -> list[dict[str, Any]]:
        """The ends that are in the spool of events."""
        lines = [line for path in self._spool.rglob("*") if path.is_file() for line in path.read_bytes().splitlines()]
        events = [json.loads(line) for line in lines if line.startswith(b"{")]
        return [event for event in events if event.get("event") == "session.end"]

    def files(self) -> list[str]:
        return sorted(path.name for path in (self.host.log_dir / "upload").rglob("*-*.*"))


@asynccontextmanager
async def kept(folder: Path) -> AsyncIterator[Kept]:
    async with AuthClient([("127.0.0.1", 1)], ssl.create_default_context, "auth") as client:
        made = Kept(folder, client)
        task = asyncio.create_task(made.recorded.recover_again())
        try:
            yield made
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await made.recorded.spool.close()
            made.recorded.close()
            made.emitter.close()


async def test_a_recording_that_could_not_be_closed_is_ended_without_a_restart(tmp_path: Path) -> None:
    async with kept(tmp_path) as at:
        recorder = await at.recorded.spool.start(header := at.header())
        recorder.record_output(b"seen")
        at.no_key = True
        with pytest.raises(TeleportError, match="cannot be read"):
            await recorder.close("ended")
        assert at.files() == [f"{header.sid}.rec.part"]
        at.recorded.spool.unended(header.sid)
        await wait_until(lambda: at.files() == [f"{header.sid}.rec"])
        await wait_until(lambda: not at.recorded.spool.without_end)
        [end] = at.ends()
        assert (end["sid"], end["reason"]) == (header.sid, "the recording failed")
        assert end["recording_hash"]


async def test_an_end_that_could_not_be_put_on_record_is_told_of_that_session_alone(tmp_path: Path) -> None:
    """Others wait there to be uploaded, and some are being made."""
    async with kept(tmp_path) as at:
        told, untold, made = [await at.recorded.spool.start(at.header()) for _ in range(3)]
        await told.close("ended")
        await untold.close("ended")
        at.recorded.spool.unended(untold.sid)
        await wait_until(lambda: not at.recorded.spool.without_end)
        assert [end["sid"] for end in at.ends()] == [untold.sid]
        assert f"{made.sid}.rec.part" in at.files()
        await made.close("ended")


async def test_a_session_of_which_nothing_is_left_is_not_looked_for_for_ever(tmp_path: Path) -> None:
    async with kept(tmp_path) as at:
        at.recorded.spool.unended(str(uuid.uuid4()))
        await wait_until(lambda: not at.recorded.spool.without_end)
        assert at.ends() == []


async def test_a_session_that_is_not_recorded_has_its_end_told_too(tmp_path: Path) -> None:
    async with kept(tmp_path) as at:
        over, runs = at.header(), at.header()
        for header in (over, runs):
            await at.recorded.spool.unrecorded(header)
        at.recorded.spool.unended(over.sid)
        await wait_until(lambda: not at.recorded.spool.without_end)
        assert [end["sid"] for end in at.ends()] == [over.sid]
        assert at.files() == [f"{runs.sid}.open"]
        at.recorded.spool.on_record(runs.sid)
        assert at.files() == []


async def test_on_a_full_disk_a_finished_recording_is_read_once(tmp_path: Path) -> None:
    """What it holds is remembered until its end is on record; each try only tries to write that."""
    async with kept(tmp_path) as at:
        recorder = await at.recorded.spool.start(header := at.header())
        recorder.record_output(b"seen")
        summary = await recorder.close("ended")
        at.emitter.full = True
        at.recorded.spool.unended(header.sid)
        await wait_until(lambda: at.emitter.tries == 1)
        summary.path.write_bytes(b"what is read now is no recording")
        at.recorded.look.set()
        await wait_until(lambda: at.emitter.tries == 2)
        assert at.files() == [f"{header.sid}.rec"]
        at.emitter.full = False
        at.recorded.look.set()
        await wait_until(lambda: not at.recorded.spool.without_end)
        [end] = at.ends()
        assert (end["sid"], end["recording_hash"]) == (header.sid, summary.sha256)
