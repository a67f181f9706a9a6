"""Legal hold: what must not be pruned, whatever its age. Only the administrator on an auth host comes here.

A hold is written, and the pruner rewrites a file, while holding the lock of the store: what was answered with "held" is
not pruned any more.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import msgspec

from teleport.api import messages as m
from teleport.api import routes
from teleport.audit.events import HoldCreated, HoldDeleted
from teleport.audit.retention import Hold
from teleport.auth.authorizer import require_administrator
from teleport.auth.caller import Caller
from teleport.auth.state import ClusterState
from teleport.backend.interface import DeleteOp, Exists, PutOp
from teleport.errors import BadRequest, LimitExceeded, NotFound

HOLDS: Final = "audit/holds/"
MOST: Final = 1000
MOST_REASON: Final = 1000  # characters
_MOST_NAME: Final = 256


class Holds:
    """The handlers, and what the pruner asks."""

    def __init__(self, state: ClusterState, exclusive: AbstractAsyncContextManager[object]) -> None:
        """`exclusive`: the store's lock."""
        self._state = state
        self._exclusive = exclusive

    def handlers(self) -> Mapping[str, Any]:
        return {
            routes.ADD_HOLD.name: self.add,
            routes.LIST_HOLDS.name: self.ls,
            routes.REMOVE_HOLD.name: self.rm,
        }

    async def all(self) -> Sequence[Hold]:
        """In order of their ids."""
        return [msgspec.json.decode(item.value, type=Hold) for item in await self._state.backend.range(HOLDS)]

    async def add(self, caller: Caller, request: m.AddHoldRequest) -> m.HoldInfo:
        """Returns once nothing that it names can be pruned any more."""
        require_administrator(caller, "hold events")
        reason = request.reason.strip()
        if not reason or len(reason) > MOST_REASON:
            raise BadRequest(f"a hold has a reason of 1 to {MOST_REASON} characters", hint="--reason=TEXT")
        if not (request.user or request.session or request.start or request.end):
            raise BadRequest("a hold of nothing", hint="name a user, a session or a span of time")
        if max(len(request.user), len(request.session)) > _MOST_NAME:
            raise BadRequest(f"a name has at most {_MOST_NAME} characters", hint="name a user or a session")
        if request.start is not None and request.end is not None and request.start >= request.end:
            raise BadRequest("the span of the hold ends before it begins", hint="give --from before --to")
        hold = Hold(
            id=str(uuid.uuid4()),
            reason=reason,
            created=self._state.clock.now(),
            creator=caller.name,
            user=request.user,
            session=request.session,
            start=request.start,
            end=request.end,
        )
        async with self._exclusive:
            if len(await self._state.backend.range(HOLDS, limit=MOST)) >= MOST:
                raise LimitExceeded(f"there are {MOST} holds", hint="remove those that are not needed: tctl hold rm")
            event = self._state.event(HoldCreated, caller, **_told(hold))
            await self._state.commit([PutOp(HOLDS + hold.id, msgspec.json.encode(hold))], events=[event])
        return _info(hold)

    async def ls(self, caller: Caller, request: m.Empty) -> m.HoldList:
        require_administrator(caller, "see what is held")
        return m.HoldList(holds=[_info(hold) for hold in await self.all()])

    async def rm(self, caller: Caller, request: m.RemoveHoldRequest) -> m.Done:
        require_administrator(caller, "let go what is held")
        reason = request.reason.strip()
        if not reason or len(reason) > MOST_REASON:
            raise BadRequest(f"a hold is removed for a reason of 1 to {MOST_REASON} characters", hint="--reason=TEXT")
        item = await self._state.backend.get(HOLDS + request.id) if request.id else None
        if item is None:
            raise NotFound(f"there is no hold {request.id[:64]!r}", hint="tctl hold ls")
        hold = msgspec.json.decode(item.value, type=Hold)
        event = self._state.event(HoldDeleted, caller, **{**_told(hold), "reason": reason})
        await self._state.commit([DeleteOp(item.key)], events=[event], conditions=[Exists(item.key, item.revision)])
        return m.Done()


def _told(hold: Hold) -> dict[str, Any]:
    span = {"held_from": hold.start, "held_to": hold.end}
    return {
        "hold": hold.id,
        "held_user": hold.user,
        "held_session": hold.session,
        "reason": hold.reason,
        **{name: moment for name, moment in span.items() if moment is not None},
    }


def _info(hold: Hold) -> m.HoldInfo:
    return m.HoldInfo(
        id=hold.id,
        reason=hold.reason,
        created=hold.created,
        creator=hold.creator,
        user=hold.user,
        session=hold.session,
        start=hold.start,
        end=hold.end,
    )
