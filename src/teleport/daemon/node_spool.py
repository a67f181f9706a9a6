"""Where a node's recordings begin and end: none begins above the quota, and the uploader learns of each that ended."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

from teleport.audit.emitter import Emitter
from teleport.audit.events import RecordingSpoolFull, new_event
from teleport.clock import Clock
from teleport.errors import LimitExceeded, TeleportError
from teleport.recording import unrecorded
from teleport.recording.format import RecordingHeader, SignFunction
from teleport.recording.live import LiveStreams
from teleport.recording.quota import check_quota
from teleport.recording.writer import Recorder, RecordingSpool

log = logging.getLogger(__name__)


class NodeSpool(RecordingSpool):
    """The recordings that this process makes, in `path`."""

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock,
        sign: SignFunction,
        quota: int,
        full: Callable[[LimitExceeded], Awaitable[None]],
        live: LiveStreams | None = None,
        sync: Callable[[], bool] = lambda: False,
    ) -> None:
        """`quota` in bytes is for all recordings beside `path`, too, those of other processes of this host; 0 is none.

        `full` is called once each time when the quota begins to refuse. `sync` says whether a recording that begins
        now is sent while it is made, by `live`.
        """
        super().__init__(path, clock=clock, sign=sign)
        self._live = live
        self._sync = sync
        self.begun: Callable[[str], None] = lambda sid: None
        self.ended: Callable[[str], None] = lambda sid: None
        self._root = path.parent
        self._quota = quota
        self._full = full
        self._is_full = False
        self._noted: set[str] = set()  # sessions that are not recorded here
        self.without_end: set[str] = set()  # sessions that are over and have no end yet
        self.look: Callable[[], None] = lambda: None  # called when there is another one

    async def start(self, header: RecordingHeader) -> Recorder:
        """As in `RecordingSpool`; raises `LimitExceeded` above the quota."""
        if self._quota:
            await self._check()
        live = self._live if self._sync() else None
        if live is not None:
            await live.check(header.sid)
        recorder = await super().start(header)
        self.begun(header.sid)
        if live is not None:
            live.follow(recorder)
        return recorder

    async def close(self, reason: str = "service stopped") -> None:
        if self._live is not None:
            await self._live.close()
        await super().close(reason)

    async def _check(self) -> None:
        try:
            await asyncio.to_thread(check_quota, self._root, self._quota)
        except LimitExceeded as error:
            if not self._is_full:
                self._is_full = True
                log.warning("no session starts: %s; %s", error.message, error.hint)
                try:
                    await self._full(error)
                except Exception:
                    log.exception("that the quota of recordings is used up cannot be put on record")
            raise
        if self._is_full:
            self._is_full = False
            log.info("sessions start again: recordings use less than their quota")

    async def unrecorded(self, header: RecordingHeader) -> None:
        """A session that is not recorded here is about to begin: should this process be killed, the next one tells its
        end. Raises `TeleportError` when that cannot be kept."""
        try:
            await asyncio.to_thread(unrecorded.note, self.directory, header)
        except OSError as error:
            raise TeleportError(
                f"the session {header.sid} cannot be noted in {self.directory.path}: {error.strerror}",
                hint=f"make room on the disk of {self.directory.path} (df {self.directory.path})",
            ) from error
        self._noted.add(header.sid)

    def unended(self, sid: str) -> None:
        """The session is over, and its recording could not be closed or its end not be put on record."""
        self.without_end.add(sid)
        self.look()

    def on_record(self, sid: str) -> None:
        """The end of the session is on record: whoever sends its recording may do so."""
        self.without_end.discard(sid)
        if sid in self._noted:
            self._noted.discard(sid)
            unrecorded.forget(self.directory.path, sid)
        else:
            self.ended(sid)


def spool_full(
    emitter: Emitter, clock: Clock, host_id: str, hostname: str
) -> Callable[[LimitExceeded], Awaitable[None]]:
    """Puts on record that the quota refuses sessions."""

    async def tell(error: LimitExceeded) -> None:
        await emitter.emit(
            new_event(
                RecordingSpoolFull,
                clock.now(),
                str(uuid.uuid4()),
                cluster_name=emitter.cluster,
                server_id=host_id,
                server_hostname=hostname,
                reason=error.message,
            )
        )

    return tell
