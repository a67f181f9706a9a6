"""Removes recordings whose time has come, in the two steps of `pruner`: said in an event, done once a signed checkpoint
has seen it, under the store's lock and with the holds of that moment.

How old a recording is, is told by when auth stored it, not by what its host wrote into it. Of one that lies in S3 since
before that was noted, auth's own event of its upload tells it; where that is gone, its time begins anew.

What the bucket has is read whole before it is said that it goes, and again before it goes: what was altered there is
evidence, and stays. So does what is not there, unless a removal of just that had begun, what cannot be read, and what
the bucket does not let go; the round goes on with the others, and it is tried again. Within a week after a restore
nothing is removed (`restored`).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Final, Protocol

import msgspec

from teleport.audit.events import RecordingPrune
from teleport.audit.retention import Hold, Retention
from teleport.audit.verify import Basis, Report
from teleport.auth.evidence.removed import RemovedRecording, RemovedRecordings
from teleport.auth.retention.restored import FindRestored, check_rest
from teleport.auth.retention.rounds import Rounds
from teleport.auth.sessions.participants import of_recording, participants, people_of_each
from teleport.auth.state import ClusterState
from teleport.errors import ConnectionProblem, NotFound, TeleportError
from teleport.recording.storage import FileRecordingStore, Stays, StoredRecording

MOST_AWAY: Final = 3  # recordings in a row for which the service does not answer, until the round ends

log = logging.getLogger(__name__)


class Prove(Protocol):
    """`Evidence.proof`, for which no recording is fetched."""

    async def __call__(self, *, fetch: bool, arrivals: Collection[str]) -> Report: ...


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
        prove: Prove,
        restored: FindRestored,
    ) -> None:
        """`retention`: by sort of session (`SessionKind`), and `default`."""
        self._state = state
        self._recordings = recordings
        self._retention = retention
        self._lease = lease
        self._exclusive = exclusive
        self._holds = holds
        self._prove = prove
        self._restored = restored
        self._stayed: set[str] = set()  # in the round before: they come last, and hold up nobody
        self._told: dict[str, bool] = {}  # what was said last and waits for a checkpoint
        self._removed = RemovedRecordings(state.backend)
        self._settled = False

    async def step(self) -> bool:
        await self._recordings.tidy()  # each auth server has its own folder beside S3
        if self._retention.shortest is None:
            return False
        async with self._lease():
            pass
        await check_rest(self._restored, self._state.clock.now())
        kept = {one.name: one for one in await self._recordings.all()}
        unknown: set[str] = set()
        due = await self._due(list(kept.values()), unknown)
        if not due and not unknown and self._settled:
            return False
        report = await self._prove(fetch=False, arrivals=unknown)
        if not report.ok:
            raise TeleportError(f"the audit log does not verify: {report.first}", hint="tctl audit verify")
        self._settled, basis, waits = True, report.basis, False
        for name in unknown:
            await self._recordings.date(name, basis.arrivals.get(name, self._state.clock.now()))
        said = {name: event.gone for name, event in basis.recordings.items()}
        stay: dict[str, Stays] = {}
        away = 0
        names = due | {name for name, gone in said.items() if gone and name in kept}
        for name in sorted(names, key=lambda one: (one in self._stayed, one)):
            try:
                if name in due and said.get(name):
                    waits |= not await self._remove(kept[name], basis)
                elif name not in due or self._told.get(name) or await self._is_whole(name):
                    waits = True
                    await self._tell(kept[name], basis, gone=name in due)
                away = 0
            except Stays as error:
                stay[name] = error
                away = away + 1 if isinstance(error.__cause__, ConnectionProblem) else 0
                if away == MOST_AWAY:
                    break
        self._stayed = set(stay)
        if stay:
            first = min(stay)
            count = "a recording stays" if len(stay) == 1 else f"{len(stay)} recordings stay"
            raise TeleportError(f"{count} beyond its time: {stay[first].message}", hint=stay[first].hint)
        return waits

    async def _is_whole(self, name: str) -> bool:
        """Whether what lies elsewhere is what was brought there; what lies here was proved with the log. False when it
        is gone. Raises `Stays` when it was altered, is not there or cannot be read."""
        try:
            found = await self._recordings.difference(name)
        except NotFound:
            return False
        except TeleportError as error:
            raise Stays(f"recording {name} cannot be read: {error.message}", hint=error.hint) from error
        if found is None or (found.absent and await self._removed.began(name, self._recordings.url(name))):
            return True
        raise Stays(f"recording {name} is not what was stored: {found}", hint=f"tctl recordings verify {name}")

    async def _due(self, found: Sequence[StoredRecording], unknown: set[str] | None = None) -> set[str]:
        """Those whose time has come and that nothing holds. The names of those of which nobody knows how old they are
        go into `unknown`."""
        now, old = self._state.clock.now(), dict[str, tuple[StoredRecording, datetime]]()
        for one in found:
            kept = self._retention.of(str(one.kind))
            if kept is None:
                continue
            try:
                stored = await self._recordings.stored_at(one.name)
            except NotFound:
                continue
            if stored is None:
                if unknown is not None:
                    unknown.add(one.name)
            elif now - stored >= kept:
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
        if not gone:
            await self._removed.take_back(one.name)
        stored = await self._recordings.stored_at(one.name)
        event = self._state.event(
            RecordingPrune,
            sid=one.sid,
            recording=one.name,
            user=one.user,
            gone=gone,
            number=number,
            rule=self._rule(one),
            stored=msgspec.UNSET if stored is None else stored,
        )
        await self._state.tell(event)
        self._told[one.name] = gone

    async def _remove(self, one: StoredRecording, basis: Basis) -> bool:
        """Whether it is gone; when a hold came in between, that is put on record. Nothing of it is read while holding
        the lock, for which everything that is to be on record waits."""
        if not await self._is_whole(one.name):
            return True
        async with self._recordings.removing(one.name) as remove, self._exclusive:
            due = one.name in await self._due([one])
            if due:
                await self._removed.write(one, await self._note(one))
                await remove()
        self._told.pop(one.name, None)
        if due:
            log.info("the recording %s was removed: its time has come", one.name)
        else:
            await self._tell(one, basis, gone=False)
        return due

    async def _note(self, one: StoredRecording) -> RemovedRecording:
        return RemovedRecording(
            sid=one.sid,
            user=one.user,
            login=one.login,
            node_id=one.node_id,
            made_by=one.made_by,
            removed=self._state.clock.now(),
            rule=self._rule(one),
            stored=await self._recordings.stored_at(one.name),
            url=self._recordings.url(one.name),
        )

    def _rule(self, one: StoredRecording) -> str:
        """As the configuration has it."""
        kept = self._retention.of(str(one.kind))
        hours = "for ever" if kept is None else f"{kept / timedelta(hours=1):g}h"
        return f"{self._retention.rule(str(one.kind))}: {hours}"
