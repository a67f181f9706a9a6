"""How many connections a user has in the whole cluster (`max_connections` of roles), counted by places with an end.

A node that lets somebody in whose roles have a limit asks for a place first, renews it while the connection lasts, and
lets go of it afterwards. A place that is not renewed lapses after `session_control_timeout`: a node that is gone, or
cut off, blocks nobody for longer. Nodes end connections whose places they could not renew, so the limit holds always:
it fails closed, as in the reference (`resources.md` 11).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Final

import msgspec

from teleport import counted
from teleport.api import messages as m
from teleport.auth.caller import Caller
from teleport.auth.state import ClusterState
from teleport.backend.interface import Absent, Condition, DeleteOp, Exists, PutOp, Write
from teleport.errors import AccessDenied, BadRequest, CompareFailed, LimitExceeded
from teleport.identity import HostIdentity
from teleport.recording.format import canonical_uuid
from teleport.store.records import CONNECTION_PLACES, HeldPlace, HeldPlaces

TRIES: Final = 64  # at a record that many nodes write
MOST: Final = 5000  # places in one call


_Change = Callable[[list[HeldPlace], datetime], tuple[list[HeldPlace], list[str]]]
"""Makes of the places held now those that are held then, and the ids of those that are lost."""


class SessionControl:
    """The handlers of the routes about places."""

    def __init__(self, state: ClusterState) -> None:
        self._state = state

    async def hold(self, caller: Caller, request: m.HoldConnectionRequest) -> m.ConnectionHeld:
        """A place, or `LimitExceeded`."""
        if await self._hold(_host(caller), request.user, [request]):
            counted.TOO_MANY_SESSIONS.add()
            raise LimitExceeded(
                f"{request.user} has {request.most} connections, as many as the roles allow",
                hint="end one of them, then connect again",
            )
        return m.ConnectionHeld(seconds=await self._seconds())

    async def renew(self, caller: Caller, request: m.RenewConnectionsRequest) -> m.RenewedConnections:
        """Places that lapsed are held again where there is room."""
        lost: list[str] = []
        for user, places in _by_user(request.places).items():
            lost += await self._hold(_host(caller), user, places)
        return m.RenewedConnections(seconds=await self._seconds(), lost=lost)

    async def release(self, caller: Caller, request: m.ReleaseConnectionsRequest) -> m.Done:
        """Lets go of places of the calling host."""
        host = _host(caller)
        for user, places in _by_user(request.places).items():
            ids = {(host, place.id) for place in places}
            await self._change(user, partial(_without, ids))
        return m.Done()

    async def _seconds(self) -> float:
        return (await self._state.networking()).spec.session_control_timeout.timedelta.total_seconds()

    async def _hold(self, host: str, user: str, places: Sequence[m.ConnectionPlace]) -> list[str]:
        """Holds places of one user; the ids of those for which there is no room."""
        for place in places:
            canonical_uuid(place.id, "place")
            if place.most < 1 or not user or len(user) > 256:
                raise BadRequest("a place is one of a number of connections of a user")
        lifetime = (await self._state.networking()).spec.session_control_timeout.timedelta

        def change(held: list[HeldPlace], now: datetime) -> tuple[list[HeldPlace], list[str]]:
            lost = []
            for place in places:
                others = [one for one in held if one.id != place.id]
                has = any(one.id == place.id and one.host_id == host for one in held)
                taken = len(others) != len(held) and not has  # by another host
                if taken or (not has and len(others) >= place.most):
                    lost.append(place.id)
                    continue
                held = [*others, HeldPlace(id=place.id, host_id=host, expires=now + lifetime)]
            return held, lost

        return await self._change(user, change)

    async def _change(self, user: str, change: _Change) -> list[str]:
        key = CONNECTION_PLACES + user
        for _ in range(TRIES):
            now = self._state.clock.now()
            item = await self._state.backend.get(key)
            stored = msgspec.json.decode(item.value, type=HeldPlaces).places if item is not None else []
            held, lost = change([one for one in stored if one.expires > now], now)
            if held == stored:
                return lost
            condition: Condition = Absent(key) if item is None else Exists(key, item.revision)
            write: Write = DeleteOp(key, missing_ok=True)
            if held:
                write = PutOp(key, HeldPlaces(places=held).encode(), max(one.expires for one in held))
            with suppress(CompareFailed):
                await self._state.commit([write], conditions=[condition], events=[])
                return lost
        raise CompareFailed(f"the connections of {user} are being counted by many at once", hint="connect again")


def _without(ids: set[tuple[str, str]], held: list[HeldPlace], now: datetime) -> tuple[list[HeldPlace], list[str]]:
    return [one for one in held if (one.host_id, one.id) not in ids], []


def _by_user(places: Sequence[m.ConnectionPlace]) -> dict[str, list[m.ConnectionPlace]]:
    if len(places) > MOST:
        raise BadRequest(f"one call is about {MOST} places at most")
    found: dict[str, list[m.ConnectionPlace]] = defaultdict(list)
    for place in places:
        found[place.user].append(place)
    return found


def _host(caller: Caller) -> str:
    if not isinstance(caller.identity, HostIdentity):
        raise AccessDenied("only hosts count connections")
    return caller.identity.host_id
