"""Enhanced recording: what the kernel sees of sessions goes on record in their streams of events.

A session is watched before its first process runs; each thing that is seen becomes an event of the session, and all of
them are on record before the session's end is. What a session leaves running (`nohup`) is watched until it has ended or
the daemon does, with events after `session.end`. What cannot be watched as the roles ask is not started; what could not
be read or kept is on record as a gap (threats T46).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from datetime import datetime
from typing import Any, Final

from teleport.audit.events import (
    ServerEvent,
    SessionCommand,
    SessionDisk,
    SessionEnhancedGap,
    SessionNetwork,
)
from teleport.clock import Clock
from teleport.errors import TeleportError
from teleport.kernel.seen import Acted, Command, Connected, Kind, Opened, Seen, Unseen
from teleport.kernel.watcher import Watch, Watcher
from teleport.launcher.values import LauncherRefused, Reason
from teleport.node.facts import SessionEvents

log = logging.getLogger(__name__)

_WAITING: Final = 20_000  # events of one session that may wait for the audit log
_BATCH: Final = 500
_MOST_ARGUMENTS: Final = 1000  # of one event (`audit.events.text`)
_LOOK: Final = 5.0  # seconds between two looks whether what a session left behind is still there


class Enhanced:
    """The enhanced recording of one node; `watcher` None: there is none."""

    def __init__(
        self,
        watcher: Watcher | None,
        clock: Clock,
        in_background: Callable[[Coroutine[Any, Any, None], str], None],
    ) -> None:
        self._watcher = watcher
        self._clock = clock
        self._in_background = in_background

    def session(
        self, kinds: Iterable[str], events: SessionEvents, fail: Callable[[str], None]
    ) -> WatchedSession | None:
        """The watching of a session that is about to start; None when nothing of it is watched.

        `fail` ends the session, with a reason.
        """
        wanted = frozenset(Kind(kind) for kind in kinds)
        if self._watcher is None or not wanted:
            return None
        return WatchedSession(self._watcher, wanted, events, self._clock, self._in_background, fail)


class WatchedSession:
    """One session, from before its first process until nothing of it runs."""

    def __init__(
        self,
        watcher: Watcher,
        kinds: frozenset[Kind],
        events: SessionEvents,
        clock: Clock,
        in_background: Callable[[Coroutine[Any, Any, None], str], None],
        fail: Callable[[str], None],
    ) -> None:
        self._watcher = watcher
        self._kinds = kinds
        self._events = events
        self._clock = clock
        self._in_background = in_background
        self._fail = fail
        self._watch: Watch | None = None
        self._waiting: deque[tuple[datetime, Seen]] = deque()
        self._dropped = 0
        self._written = 0
        self._scheduled = False
        self._turn = asyncio.Lock()

    def begin(self, first: int) -> None:
        """Called with the session's first process, which waits, and from which everything of it will descend.

        `LauncherRefused` when it cannot be watched: then it does not start.
        """
        missing = sorted(self._kinds - self._watcher.kinds)
        if missing:
            raise LauncherRefused(
                Reason.FAILED,
                f"Your roles ask for enhanced recording of {', '.join(missing)}, which this node cannot give",
                hint="tell its administrator",
            )
        try:
            self._watch = self._watcher.watch(first, self._kinds, self._seen)
        except (OSError, TeleportError) as error:
            log.error("a session cannot be watched: %s", error)
            raise LauncherRefused(
                Reason.FAILED,
                "This node cannot record now what the session would do, so it is not started",
                hint="tell its administrator",
            ) from error

    def _seen(self, seen: Seen) -> None:
        if len(self._waiting) >= _WAITING:
            self._dropped += 1
            return
        self._waiting.append((self._clock.now(), seen))
        if not self._scheduled:
            self._scheduled = True
            self._in_background(self._write(), f"enhanced recording of session {self._events.sid}")

    async def _write(self) -> None:
        while self._waiting:
            await self._write_some()
        self._scheduled = False

    async def _write_some(self) -> None:
        """One batch; others have their turn between two."""
        async with self._turn:
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _BATCH))]
            if self._dropped:
                batch.append((self._clock.now(), Unseen("more was done than could be written", self._dropped)))
                self._dropped = 0
            try:
                await self._events.emit_all([_event(seen, now) for now, seen in batch])
            except Exception:
                log.exception("what was seen of session %s cannot be put on record", self._events.sid)
                self._waiting.clear()
                self._fail("what it does cannot be put on record")
            self._written += len(batch)

    async def settle(self) -> bool:
        """The first process has ended: returns when all that was seen until now is on record. False: nothing was
        watched."""
        if self._watch is None:
            return False
        self._watch.collect()
        # What comes meanwhile, of processes that are left, does not hold the session's end up.
        until = self._written + len(self._waiting) + _BATCH + 1  # a batch may be under way
        while self._waiting and self._written < until:
            await self._write_some()
        async with self._turn:
            return True

    def over(self) -> None:
        """The session's end is on record: only what it left running is still watched."""
        if self._watch is None:
            return
        self._watch.collect()
        if self._watch.alive:
            asyncio.get_running_loop().call_later(_LOOK, self.over)
        else:
            self._watch.close()
            self._watch = None


def _event(seen: Seen, now: datetime) -> tuple[type[ServerEvent], datetime, dict[str, Any]]:
    """Class, time and fields of the event for what was seen."""
    event_class, fields = _told(seen)
    return event_class, now, fields


def _told(seen: Seen) -> tuple[type[ServerEvent], dict[str, Any]]:
    match seen:
        case Command(by=by, path=path, argv=argv, cut=cut):
            cut = cut or len(argv) > _MOST_ARGUMENTS
            return SessionCommand, {**_by(by), "path": path, "argv": list(argv[:_MOST_ARGUMENTS]), "argv_cut": cut}
        case Opened(by=by, path=path, flags=flags, result=result):
            return SessionDisk, {**_by(by), "path": path, "flags": flags, "return_code": result}
        case Connected(by=by, src_addr=source, dst_addr=target, dst_port=port, version=version):
            where = {"src_addr": source, "dst_addr": target, "dst_port": port, "version": version}
            return SessionNetwork, {**_by(by), **where}
        case Unseen(reason=reason, count=count):
            return SessionEnhancedGap, {"reason": reason, "lost": count}


def _by(by: Acted) -> dict[str, Any]:
    return {"pid": by.pid, "ppid": by.ppid, "cgroup_id": by.cgroup_id, "program": by.program}
