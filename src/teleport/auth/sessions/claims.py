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
from datetime import timedelta
from enum import StrEnum
from typing import Final

from teleport.audit.events import SessionConflict, new_event
from teleport.audit.outbox import outbox_write
from teleport.backend.interface import Backend, PutOp, Write
from teleport.clock import Clock, SystemClock

log = logging.getLogger(__name__)

HOSTS: Final = "audit/session-hosts/"  # SID/HOST; versions before kept SID alone, with the host as its value
HOSTS_KEPT: Final = timedelta(days=400)  # as long as ends are told apart
_STARTED: Final = b"started"
_TOLD: Final = b"told"
_MOST: Final = 200  # writes at once because of running sessions; the rest has its turn when they are told of again


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


class Claims:
    """Notes claims. Whoever asks for writes holds `lock` until they are committed."""

    def __init__(self, backend: Backend, clock: Clock | None = None) -> None:
        self.on_event: Callable[[], None] = lambda: None  # told when an event waits in the outbox
        self.cluster = ""  # that events name
        self.lock = asyncio.Lock()
        self._backend = backend
        self._clock = clock or SystemClock()

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
            log.warning("host %s tells of session %s (%s), which %s claims", host, sid, what, " and ".join(others))
            event = new_event(
                SessionConflict,
                self._clock.now(),
                str(uuid.uuid4()),
                cluster_name=self.cluster,
                sid=sid,
                server_id=host,
                claim=str(what),
                told_by=told_by or host,
                others=others,
            )
            writes.append(PutOp(*outbox_write(event)))
        return writes

    async def disputed(self, host: str, sids: Collection[str]) -> list[Write]:
        """Of running sessions that a host tells of: what has to be written because others claim them and it has not
        been told of yet. Of others nothing is kept: they are told of again all the time."""
        writes: list[Write] = []
        for sid in sids:
            if len(writes) >= _MOST:
                break
            known = await claimants(self._backend, sid)
            if known and host not in known:
                writes += self.noted(sid, host, Claim.TRACKER, known)
        return writes
