"""The recordings that a service of this host makes: where they begin, how they leave, and what a killed run left."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from teleport import counted
from teleport.api.client import AuthClient
from teleport.audit.emitter import Emitter
from teleport.audit.events import RecordingGap, SessionEnd, new_event
from teleport.clock import Clock
from teleport.daemon.host import Host
from teleport.daemon.node_spool import NodeSpool, spool_full
from teleport.daemon.remote import RemoteRecordings
from teleport.errors import TeleportError
from teleport.recording import unrecorded, upload_folders
from teleport.recording.directory import Suffix, file_name
from teleport.recording.format import RecordingHeader, SignFunction
from teleport.recording.live import LiveStreams
from teleport.recording.people import people_in
from teleport.recording.recovery import RecoveredRecording, RecoveryReport, recover
from teleport.recording.upload import Uploader, UploadOutcome, UploadReport

log = logging.getLogger(__name__)

RECOVER_EVERY = 30.0  # seconds
AGAIN = 5.0  # seconds after which ends that could not be kept are tried again, twice as long each time they cannot
UNKEPT = "the recording failed"
SETTLE, SETTLE_LOOK = 60.0, 0.1  # seconds


class Recorded:
    """One service's recordings. `recover` before its first session, `close` after the last."""

    def __init__(
        self,
        folder: str,
        host: Host,
        nodename: str,
        client: AuthClient,
        emitter: Emitter,
        clock: Clock,
        *,
        sign: SignFunction,
        quota: int,
        mode: Callable[[], str],
    ) -> None:
        """`folder` below the log directory; `quota` in bytes, 0 is none; `mode` is what ends of sessions say, and says
        whether recordings are sent while they are made."""
        self._host = host
        self._nodename = nodename
        self._emitter = emitter
        self._clock = clock
        self.mode = mode
        self._sign = sign
        self._uploads = _private(host.log_dir / folder)
        self._upload_dir, self._upload_lock = upload_folders.begin(self._uploads, host.epoch)
        self.look = asyncio.Event()
        self._untold: dict[str, tuple[RecoveredRecording, list[str]]] = {}  # ended, and not on record: with its people
        self._told_lost: set[str] = set()  # recordings that could not be ended, as far as told
        sink = RemoteRecordings(client)
        self.spool = NodeSpool(
            self._upload_dir,
            clock=clock,
            sign=sign,
            quota=quota,
            full=spool_full(emitter, clock, host.host_id, nodename),
            live=LiveStreams(sink),
            sync=lambda: mode().endswith("-sync"),
        )
        self.uploader = Uploader(
            self._upload_dir,
            sink,
            report=_report,
            jitter=lambda: random.uniform(0.5, 1.0),  # noqa: S311 - spreads retries, guards nothing
        )
        self.spool.look = self.look.set
        self.spool.begun, self.spool.ended = self.uploader.hold, self.uploader.notify

    async def recover(self) -> None:
        """Ends what daemons that are gone left, tells of it, and hands it to the uploader. Before the first session.

        What another living process of this host records is left alone (`upload_folders`).
        """
        for folder in await asyncio.to_thread(upload_folders.abandoned, self._uploads, self._host.epoch):
            try:
                await self._end_unrecorded(folder.path)
                report = await asyncio.to_thread(recover, folder.path, sign=self._sign)
                await self._tell(report)
                for sid in await asyncio.to_thread(upload_folders.take_over, folder, self._upload_dir):
                    self.uploader.notify(sid)
            finally:
                folder.close()

    async def recover_again(self) -> None:
        """As `recover`, when `look` is set and every now and then: the other process of a restart may have died.

        Ends that this process could not keep (the disk was full) are tried again, too. Until cancelled.
        """
        again = AGAIN
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(again if self.spool.without_end else RECOVER_EVERY):
                    await self.look.wait()
            self.look.clear()
            try:
                await self.recover()
            except (TeleportError, OSError) as error:
                log.error("recordings that an earlier process left could not be looked at: %s", error)
            try:
                await self._end_own()
            except (TeleportError, OSError) as error:
                log.error("ends of sessions cannot be kept now: %s", error)
            again = min(2 * again, RECOVER_EVERY) if self.spool.without_end else AGAIN

    async def _end_own(self) -> None:
        """Ends what this process began and could not end. What was read once is not read again: the disk may be full
        for long, and recordings are large."""
        without = set(self.spool.without_end)
        if not without and not self._untold:
            return
        for header in await asyncio.to_thread(lambda: list(unrecorded.noted(self._upload_dir))):
            if header.sid in without:
                await self._emitter.emit(self._end(header, [header.user], UNKEPT, self._clock.now(), ""))
                self.spool.on_record(header.sid)
        # what waits here to be uploaded has its end; what could not be ended this time is tried again
        unread = without - self._untold.keys()
        found = await asyncio.to_thread(recover, self._upload_dir, sign=self._sign, reason=UNKEPT, finished_of=unread)
        for one in (*found.recovered, *found.finished):
            people = [one.header.user]
            if not one.header.told_by_node:
                people = await asyncio.to_thread(people_in, one.summary.path, one.header)
            self._untold[one.header.sid] = one, people
        await self._tell(RecoveryReport(unreadable=found.unreadable))
        for sid, (one, people) in list(self._untold.items()):
            if not one.header.told_by_node:
                await self._emitter.emit(self._end_of(one, people, UNKEPT))
            self.spool.on_record(sid)
            del self._untold[sid]
        gone = await asyncio.to_thread(lambda: {sid for sid in without if not self._lies_here(sid)})
        self.spool.without_end -= gone

    def _lies_here(self, sid: str) -> bool:
        """Whether something of a session still waits for its end."""
        waiting = (Suffix.PART, Suffix.DONE, Suffix.OPEN)
        return any((self._upload_dir / file_name(sid, suffix)).exists() for suffix in waiting)

    async def _end_unrecorded(self, folder: Path) -> None:
        """Sessions that a process which is gone did not record, and of which it told no end."""
        for header in await asyncio.to_thread(lambda: list(unrecorded.noted(folder))):
            await self._emitter.emit(self._end(header, [header.user], "node lost", self._clock.now(), ""))
            unrecorded.forget(folder, header.sid)

    async def _tell(self, report: RecoveryReport) -> None:
        """Ends of those who had none, and of those who perhaps had one on record."""
        for recovered in report.recovered:
            if not recovered.header.told_by_node:
                people = await asyncio.to_thread(people_in, recovered.summary.path, recovered.header)
                await self._emitter.emit(self._end_of(recovered, people, "node lost"))
        for finished in report.finished:
            if finished.header.told_by_node:
                continue
            # Perhaps its end event was never written; auth keeps the first one and marks a second as supplement.
            people = await asyncio.to_thread(people_in, finished.summary.path, finished.header)
            await self._emitter.emit(self._end_of(finished, people, "daemon restarted"))
        for unreadable in (*report.unreadable, *report.failed):
            if unreadable.sid in self._told_lost:
                continue
            self._told_lost.add(unreadable.sid)
            log.error("the recording of session %s could not be saved: %s", unreadable.sid, unreadable.why)
            await self._emitter.emit(
                new_event(
                    RecordingGap,
                    self._clock.now(),
                    str(uuid.uuid4()),
                    cluster_name=self._emitter.cluster,
                    sid=unreadable.sid,
                    server_id=self._host.host_id,
                    server_hostname=self._nodename,
                    reason=unreadable.why,
                )
            )

    def _end_of(self, recovered: RecoveredRecording, people: list[str], reason: str) -> SessionEnd:
        header, summary = recovered.header, recovered.summary
        stop = header.started + timedelta(seconds=summary.duration)
        return self._end(header, people, reason, stop, summary.sha256)

    def _end(self, header: RecordingHeader, people: list[str], reason: str, stop: datetime, digest: str) -> SessionEnd:
        return new_event(
            SessionEnd,
            self._clock.now(),
            str(uuid.uuid4()),
            cluster_name=self._emitter.cluster,
            user=header.user,
            login=header.login,
            sid=header.sid,
            server_id=header.node_id if header.recorder else self._host.host_id,
            server_hostname=header.node_name if header.recorder else self._nodename,
            namespace="default",
            proto="kube" if header.kube_cluster else "ssh",
            interactive=header.interactive,
            participants=people,
            session_start=header.started,
            session_stop=stop,
            session_recording=self.mode(),
            initial_command=[header.command] if header.command else [],
            reason=reason,
            recording_hash=digest,
            **header.pod_fields,
        )

    async def settle(self) -> None:
        """Waits until auth has every recording; what is left after `SETTLE` is for the next process."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE):
                while await asyncio.to_thread(upload_folders.holds_any, self._upload_dir):  # noqa: ASYNC110 - files tell nobody
                    await asyncio.sleep(SETTLE_LOOK)

    def close(self) -> None:
        """Lets the folder of recordings go; whoever lives on takes what is left in it."""
        os.close(self._upload_lock)


def _private(path: Path) -> Path:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def _report(report: UploadReport) -> None:
    counted.RECORDING_UPLOADS.add(report.outcome.value)
    if report.outcome is UploadOutcome.UPLOADED:
        log.info("recording of session %s uploaded", report.sid)
    else:
        log.warning("recording of session %s: %s: %s", report.sid, report.outcome, report.error)
