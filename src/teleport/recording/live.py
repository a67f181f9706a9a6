"""Recordings that are sent while they are made (the modes `node-sync` and `proxy-sync`).

What was recorded is sealed every second, and what is sealed never changes again: it goes to the sink, at the place
where the sink is. When the session has ended, `upload.Uploader` sends the rest and completes it, as always. A session
begins only when the sink answers, and its recording fails, which ends it, when nothing could be sent for `PATIENCE`
although there was something to send: then no more can be lost with this host than what was made in that time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

from teleport.errors import BadRequest, TeleportError
from teleport.recording.storage import RecordingSink

log = logging.getLogger(__name__)

PATIENCE: Final = 30.0  # seconds
EVERY: Final = 1.0  # seconds
ANSWER_SECONDS: Final = 10.0  # for each piece
BEGIN_SECONDS: Final = 5.0
PIECE: Final = 1024 * 1024  # bytes


class Source(Protocol):
    """A recording that is being made (`writer.Recorder`)."""

    sid: str

    @property
    def over(self) -> bool:
        """Whether it has ended: the rest is the uploader's."""
        ...

    async def sealed(self) -> int:
        """Bytes of the file that never change again, with all that was recorded before this call; raises
        `TeleportError` when the recording failed or has ended."""
        ...

    async def read(self, offset: int, size: int) -> bytes:
        """A part of them."""
        ...

    def stopped(self, error: TeleportError) -> None:
        """The session may not go on."""
        ...


class LiveStreams:
    """Sends the recordings of one service. `close` when it ends."""

    def __init__(
        self,
        sink: RecordingSink,
        *,
        patience: float = PATIENCE,
        every: float = EVERY,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """Times are seconds; `clock` is the loop's."""
        self._sink = sink
        self._patience = patience
        self._every = every
        self._clock = clock or asyncio.get_running_loop().time
        self._tasks: set[asyncio.Task[None]] = set()

    async def check(self, sid: str) -> None:
        """Raises `TeleportError` when the sink does not answer now: nothing may begin then."""
        try:
            async with asyncio.timeout(BEGIN_SECONDS):
                await self._sink.begin(sid)
        except (TimeoutError, OSError) as error:
            raise TeleportError(
                "auth does not take recordings now, and the cluster has them sent while they are made",
                hint="try again; session_recording says when recordings are sent",
            ) from error

    def follow(self, source: Source) -> None:
        """Sends `source` from its beginning until it is over."""
        task = asyncio.create_task(self._follow(source), name=f"live recording {source.sid}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _follow(self, source: Source) -> None:
        sent, good = 0, self._clock()
        while not source.over:
            try:
                size = await source.sealed()
                if sent >= size:
                    good = self._clock()
                while sent < size:
                    sent = await self._send(source, sent, size)
                    good = self._clock()
            except BadRequest as error:  # the sink does not take it, however often it is asked
                self._give_up(source, error)
                return
            except (TeleportError, TimeoutError, OSError) as error:
                if source.over:
                    return
                if self._clock() - good >= self._patience:
                    self._give_up(source, error)
                    return
                log.debug("recording of session %s is not sent: %s", source.sid, error)
            await asyncio.sleep(self._every)

    async def _send(self, source: Source, sent: int, size: int) -> int:
        """Sends the next piece; where the sink is then."""
        data = await source.read(sent, min(PIECE, size - sent))
        if not data:
            raise TeleportError(f"the recording of session {source.sid} cannot be read back")
        async with asyncio.timeout(ANSWER_SECONDS):
            there = await self._sink.append(source.sid, sent, data)
        if not 0 <= there <= size:
            raise BadRequest(f"the store has {there} bytes of recording {source.sid}, of which {size} were made")
        return there

    def _give_up(self, source: Source, error: Exception) -> None:
        log.error("recording of session %s cannot be sent, so it ends: %s", source.sid, error)
        source.stopped(
            TeleportError(
                f"the recording of session {source.sid} could not be sent for {self._patience:g} s: {error}",
                hint="look at the auth service, and at the network between",
            )
        )

    async def close(self) -> None:
        """Sends no more."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
