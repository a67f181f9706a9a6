"""Removes recordings whose time has come, in the two steps of `pruner`: said in an event, done once a signed checkpoint
has seen it, under the store's lock and with the holds of that moment.

How old a recording is, is told by when auth stored it, not by what its host wrote into it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime

from teleport.audit.events import RecordingPrune
from teleport.audit.retention import Hold, Retention
from teleport.audit.verify import Basis, Report
from teleport.auth.retention.rounds import Rounds
from teleport.auth.sessions.participants import of_recording, participants, people_of_each
from teleport.auth.state import ClusterState
from teleport.errors import NotFound, TeleportError
from teleport.recording.storage import FileRecordingStore, StoredRecording

log = logging.getLogger(__name__)


class RecordingPruner(Rounds):
    """The task."""

    what = "recordings are"

    def __init__(
        self,
        state: ClusterState,
        recordings: FileRecordingStore,
        retention: Retention,
        *,
        lease: Callable[[], AbstractAsyncContextManager[object]],
        exclusive: AbstractAsyncContextManager[object],
        holds: Callable[[], Awaitable[Sequence[Hold]]],
        prove: Callable[[], Awaitable[Report]],
    ) -> None:
        """`retention`: by sort of session (`SessionKind`), and `default`."""
        self._state = state
        self._recordings = recordings
        self._retention = retention
        self._lease = lease
        self._exclusive = exclusive
        self._holds = holds
        self._prove = prove
        self._told: dict[str, bool] = {}  # what was said last and waits for a checkpoint
        self._settled = False

    async def step(self) -> bool:
        if self._retention.shortest is None:
            return False
        async with self._lease():
            pass
        kept = {one.name: one for one in await self._recordings.all()}
        due = await self._due(list(kept.values()))
        if not due and self._settled:
            return False
        report = await self._prove()
        if not report.ok:
            raise TeleportError(f"the audit log does not verify: {report.first}", hint="tctl audit verify")
        self._settled, basis, waits = True, report.basis, False
        said = {name: event.gone for name, event in basis.recordings.items()}
        for name in sorted(due | {name for name, gone in said.items() if gone and name in kept}):
            if name in due and said.get(name):
                waits |= not await self._remove(kept[name], basis)
            else:
                waits = True
                await self._tell(kept[name], basis, gone=name in due)
        return waits

    async def _due(self, found: Sequence[StoredRecording]) -> set[str]:
        """Those whose time has come and that nothing holds."""
        now, old = self._state.clock.now(), dict[str, tuple[StoredRecording, datetime]]()
        for one in found:
            kept = self._retention.of(str(one.kind))
            try:
                stored = await self._recordings.stored_at(one.name)
            except NotFound:
                continue
            if kept is not None and now - stored >= kept:
                old[one.name] = one, stored
        holds = await self._holds()
        people = await people_of_each(self._state.backend, [one.sid for one, _ in old.values()]) if holds else {}
        due = set()
        for name, (one, stored) in old.items():
            texts = {one.login, *participants(one, of_recording(people, one))}
            if not any(hold.holds_recording(texts, one.sid, one.started, stored) for hold in holds):
                due.add(name)
        return due

    async def _tell(self, one: StoredRecording, basis: Basis, *, gone: bool) -> None:
        if self._told.get(one.name) == gone:
            return
        number = basis.recording_numbers.get(one.name, 0) + 1
        event = self._state.event(
            RecordingPrune, sid=one.sid, recording=one.name, user=one.user, gone=gone, number=number
        )
        await self._state.tell(event)
        self._told[one.name] = gone

    async def _remove(self, one: StoredRecording, basis: Basis) -> bool:
        """Whether it is gone; when a hold came in between, that is put on record."""
        async with self._exclusive:
            due = one.name in await self._due([one])
            if due:
                await self._recordings.remove(one.name)
        self._told.pop(one.name, None)
        if due:
            log.info("the recording %s was removed: its time has come", one.name)
        else:
            await self._tell(one, basis, gone=False)
        return due
