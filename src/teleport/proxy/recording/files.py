"""What an SFTP session does to files on a host: seen as it passes, recorded, and put on record in order."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from teleport.audit.events import Sftp
from teleport.proxy.recording.facts import SessionEvents
from teleport.proxy.recording.needs import Recording
from teleport.recording.format import FileDetail
from teleport.wire.sftp import Malformed
from teleport.wire.sftp_watch import FileAction, SftpWatch

if TYPE_CHECKING:
    from teleport.proxy.recording.connection import RecordedConnection

log = logging.getLogger(__name__)

MOST_UNTOLD: Final = 500  # things that wait to be put on record
_BATCH: Final = 200  # that are made durable together


class Files:
    """Watches one session. What is not understood does not pass, and ends it."""

    def __init__(
        self,
        connection: RecordedConnection,
        events: SessionEvents,
        recording: Recording | None,
        end: Callable[[str], None],
        flow: Callable[[], None],
    ) -> None:
        """`flow` is called when `behind` may have changed."""
        self._connection = connection
        self._events = events
        self._recording = recording
        self._end = end
        self._flow = flow
        self._watch = SftpWatch()
        self._waiting: deque[FileAction] = deque()
        self._telling: asyncio.Task[None] | None = None
        self._over = False
        self._failure: Exception | None = None  # why things cannot be put on record
        self.noted = 0  # things that were done, as far as the recording has them
        self.kept = 0  # of them, how many outlive this process

    def client_sends(self, data: bytes) -> bool:
        """Whether these bytes may go on to the host."""
        try:
            if not self._over:
                self._watch.client_sends(data)
        except Malformed as error:
            self._refuse(error)
        return not self._over

    def server_sends(self, data: bytes) -> bool:
        """Whether these bytes may go on to the client."""
        try:
            if not self._over:
                self._done(self._watch.server_sends(data))
        except Malformed as error:
            self._refuse(error)
        return not self._over

    def _refuse(self, error: Malformed) -> None:
        self._over = True
        self._connection.denied("subsystem sftp", f"what passes is not SFTP: {error}")
        self._end("what came is not SFTP")

    @property
    def behind(self) -> bool:
        """Whether so much waits to be put on record that the host has to wait, too."""
        return len(self._waiting) > MOST_UNTOLD

    def _done(self, actions: list[FileAction]) -> None:
        for one in actions:
            if self._recording is not None and not self._recording.failed.done():
                self._recording.file(
                    FileDetail(
                        action=one.action,
                        path=one.path,
                        target=one.target,
                        size=one.size,
                        sha256=one.sha256,
                        error=one.error,
                    )
                )
                self.noted += 1
        if self._connection.facts.told_here:  # a node tells of it itself
            self._waiting.extend(actions)
        if self._waiting and self._telling is None and self._failure is None:
            self._telling = asyncio.ensure_future(self._tell())

    async def _tell(self) -> None:
        try:
            while self._waiting:
                now = self._connection.tools.clock.now()
                batch = [self._waiting[number] for number in range(min(len(self._waiting), _BATCH))]
                await self._events.emit_all([(Sftp, now, _fields(one)) for one in batch])
                for _ in batch:
                    self._waiting.popleft()
                self._flow()
        except Exception as error:
            log.exception("what was done to files cannot be put on record")
            self._failure = error
            self._end("the audit log cannot be written")
        finally:
            self._telling = None

    @property
    def untold(self) -> bool:
        """Whether something that was done is not on record yet."""
        return bool(self._waiting)

    async def told(self) -> None:
        """Returns when all that was done is on record; raises what prevents it."""
        while self._telling is not None:
            await asyncio.shield(self._telling)
        if self._failure is not None:
            raise self._failure

    async def ended(self) -> None:
        """The session is over: what was left open is told of, too. Returns when all is on record, or cannot be."""
        self._done(self._watch.ended())
        if self._telling is not None:
            await self._telling


def _fields(one: FileAction) -> dict[str, Any]:
    return {
        "action": one.action,
        "path": one.path,
        "target": one.target,
        "direction": one.direction,
        "size": one.size,
        "sha256": one.sha256,
        "hash_reason": one.hash_reason,
        "error": one.error,
    }
