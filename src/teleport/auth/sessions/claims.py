"""Which hosts claim a session's id, kept beyond the session's end; and the record of it when two claim the same.

Ids of sessions are known to more than the session's own host, and a host's spool may be late: whoever comes first
proves nothing. So what a host tells of a session is kept under the session *and* that host, beside what another one
tells of the same id: nobody is refused, and nobody's word stands in the place of another's. That it happened is told
once for each host that came to an id that others had claimed.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from teleport.audit.events import SessionConflict, new_event
from teleport.audit.outbox import outbox_write
from teleport.backend.interface import Absent, Backend, Condition, ConditionFailed, PutOp, Write
from teleport.clock import Clock, SystemClock

log = logging.getLogger(__name__)

HOSTS: Final = "audit/session-hosts/"  # SID/HOST; versions before kept SID alone, with the host as its value
HOSTS_KEPT: Final = timedelta(days=400)  # as long as ends are told apart
_STARTED: Final = b"started"
_TOLD: Final = b"told"
_NAMED: Final = 100  # of the hosts that claim one session: an event, and a line of the log, is no place for thousands
_MOST: Final = 100  # running sessions told of at once; the rest has its turn when they are told of again
_AT_ONCE: Final = 200  # sessions in one read, so that others have their turn


class Claim(StrEnum):
    """What a host told of a session; as events say it."""

    START = "session.start"
    END = "session.end"
    RECORDING = "recording"
    TRACKER = "running"


async def claimants(backend: Backend, sid: str) -> dict[str, bool]:
    """The hosts that told of a session, and whether each told of its start."""
    former = await backend.get(HOSTS + sid)
    found = {former.value.decode(): True} if former is not None else {}
    for item in await backend.range(f"{HOSTS}{sid}/"):
        host = item.key.rpartition("/")[2]
        found[host] = found.get(host, False) or item.value == _STARTED
    return found


async def claimants_of(backend: Backend, sids: Collection[str]) -> dict[str, dict[str, bool]]:
    """As `claimants`, of each of many sessions (UUIDs) of which anybody told."""
    found: dict[str, dict[str, bool]] = {}
    wanted = sorted(set(sids))
    for at in range(0, len(wanted), _AT_ONCE):
        for item in (await backend.snapshot([HOSTS + sid for sid in wanted[at : at + _AT_ONCE]])).items:
            sid, _, host = item.key.removeprefix(HOSTS).partition("/")
            known = found.setdefault(sid, {})
            began = not host or item.value == _STARTED
            host = host or item.value.decode()
            known[host] = known.get(host, False) or began
    return found


class Claims:
    """Notes claims. Whoever asks for writes holds `lock` until they are committed."""

    def __init__(self, backend: Backend, clock: Clock | None = None) -> None:
        self.on_event: Callable[[], None] = lambda: None  # told when an event waits in the outbox
        self.cluster = ""  # that events name
        self.lock = asyncio.Lock()
        self._backend = backend
        self._clock = clock or SystemClock()

    def now(self) -> datetime:
        """By auth's clock."""
        return self._clock.now()

    async def note(
        self, sid: str, host: str, what: Claim, *, told_by: str = "", makers: Collection[str] = ()
    ) -> list[Write]:
        """What has to be written because `told_by` (empty: the host itself) told `what` of a session of `host`;
        `makers` are others who claim to tell of it."""
        known = await claimants(self._backend, sid)
        return self.noted(sid, host, what, known, told_by=told_by, makers=makers)

    def noted(
        self,
        sid: str,
        host: str,
        what: Claim,
        known: dict[str, bool],
        *,
        told_by: str = "",
        makers: Collection[str] = (),
    ) -> list[Write]:
        """As `note`, of what is known of the session, which is changed as it will be."""
        new, began = host not in known, what is Claim.START
        others = sorted(({*known} - {host}) | {*makers})
        writes: list[Write] = []
        if new or what is Claim.END or (began and not known[host]):
            known[host] = known.get(host, False) or began
            value = _STARTED if known[host] else _TOLD
            writes.append(PutOp(f"{HOSTS}{sid}/{host}", value, self._clock.now() + HOSTS_KEPT))
        if others and (new or makers):
            named = others[:_NAMED]
            log.warning("host %s tells of session %s (%s), which %s claims", host, sid, what, " and ".join(named))
            event = new_event(
                SessionConflict,
                self._clock.now(),
                str(uuid.uuid4()),
                cluster_name=self.cluster,
                sid=sid,
                server_id=host,
                claim=str(what),
                told_by=told_by or host,
                others=named,
                others_left_out=len(others) - len(named),
            )
            writes.append(PutOp(*outbox_write(event)))
        return writes

    async def note_running(self, host: str, sids: Collection[str]) -> None:
        """Tells of running sessions of a host which others claim, once for each. Of others nothing is kept: they are
        told of again all the time. What many sessions cost is read before `lock` is taken: intake waits for that."""
        claimed = await claimants_of(self._backend, sids)
        disputed = [sid for sid, known in claimed.items() if host not in known][:_MOST]
        if not disputed:
            return
        async with self.lock:
            claimed = await claimants_of(self._backend, disputed)
            writes: list[Write] = []
            conditions: list[Condition] = []
            for sid, known in claimed.items():
                if host not in known:
                    writes += self.noted(sid, host, Claim.TRACKER, known)
                    conditions.append(Absent(f"{HOSTS}{sid}/{host}"))
            try:
                if writes:
                    await self._backend.commit(writes, conditions=conditions)
            except ConditionFailed as error:
                log.debug("another process tells of it: %s", error)
        self.on_event()
