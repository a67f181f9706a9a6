"""What is known of recordings that were removed because their time had come: who asks for one is told so.

A note is written before its recording goes, so that it cannot be missing afterwards; it counts for nothing while the
recording is there. Who could not have played the recording is told what anybody is told of one that never was.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec

from teleport.auth.authorizer import Authorizer
from teleport.auth.caller import Caller
from teleport.auth.evidence.facts import facts_of
from teleport.auth.sessions.participants import people_of
from teleport.authz.decision import AccessDenial
from teleport.backend.interface import Backend, DeleteOp, PutOp
from teleport.errors import BadRequest, NotFound
from teleport.recording.format import canonical_name
from teleport.recording.storage import StoredRecording
from teleport.resources.kinds import Kind, Verb

REMOVED: Final = "audit/removed-recordings/"


class RemovedRecording(msgspec.Struct, frozen=True, kw_only=True):
    """Enough to decide who may know of it. Unknown fields are of a newer version, and no matter."""

    sid: str
    user: str
    login: str
    node_id: str
    made_by: str
    removed: datetime
    rule: str  # as in `session_recording.prune`
    stored: datetime | None = None
    url: str = ""  # where it lay; empty: an earlier version did not say

    def error(self) -> NotFound:
        """What its reader is told."""
        return NotFound(
            f"the recording of session {self.sid} was removed on {self.removed:%Y-%m-%d at %H:%M} UTC, as its time had "
            f"come: auth_service.retention.recordings keeps {self.rule}",
            hint=f"what is known of the session: tctl audit ls --session={self.sid}",
        )


class RemovedRecordings:
    """The notes."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def write(self, one: StoredRecording, note: RemovedRecording) -> None:
        await self._backend.commit([PutOp(REMOVED + one.name, msgspec.json.encode(note))])

    async def began(self, name: str, url: str) -> bool:
        """Whether the removal of what lies at `url` had begun."""
        item = await self._backend.get(REMOVED + name)
        return item is not None and msgspec.json.decode(item.value, type=RemovedRecording).url == url

    async def take_back(self, name: str) -> None:
        await self._backend.commit([DeleteOp(REMOVED + name, missing_ok=True)])

    async def names(self) -> set[str]:
        return {item.key.removeprefix(REMOVED) for item in await self._backend.range(REMOVED)}

    async def of(self, name: str) -> list[RemovedRecording]:
        """Of a recording, `SID.HOST`, or of all of a session, `SID`."""
        try:
            sid, dot, maker = canonical_name(name).partition(".")
        except BadRequest:
            return []
        items = [await self._backend.get(REMOVED + sid), *await self._backend.range(f"{REMOVED}{sid}.")]
        found = [msgspec.json.decode(item.value, type=RemovedRecording) for item in items if item is not None]
        return [one for one in found if not dot or one.made_by == maker]


class Removed:
    """Says of a recording that it was removed, to whoever might have played it."""

    def __init__(self, backend: Backend, authorizer: Authorizer) -> None:
        self._backend = backend
        self._authorizer = authorizer
        self._notes = RemovedRecordings(backend)

    async def names(self) -> set[str]:
        return await self._notes.names()

    async def tell(self, caller: Caller, name: str) -> None:
        """Raises `NotFound` that says so, unless it was not removed, or is none of the caller's concern."""
        for one in await self._notes.of(name):
            people = await people_of(self._backend, one.sid, one.node_id, one.made_by)
            decision = await self._authorizer.decide(
                caller, Verb.READ, Kind.SESSION, facts_of(one, people), reveals=True
            )
            if not isinstance(decision, AccessDenial):
                raise one.error()
