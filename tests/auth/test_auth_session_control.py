"""Connections counted over the whole cluster."""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta
from pathlib import Path

import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.errors import AccessDenied, BadRequest, LimitExceeded
from teleport.identity import SystemRole
from teleport.store.records import CONNECTION_PLACES
from teleport.testing.auth import Credentials, RunningAuth, running_auth
from teleport.testing.clock import FakeClock


def place(user: str = "ann", most: int = 2) -> m.ConnectionPlace:
    return m.ConnectionPlace(id=str(uuid.uuid4()), user=user, most=most)


async def hold(auth: RunningAuth, who: Credentials, one: m.ConnectionPlace) -> float:
    request = m.HoldConnectionRequest(id=one.id, user=one.user, most=one.most)
    return float((await auth.call(who, routes.HOLD_CONNECTION, request)).seconds)


async def renew(auth: RunningAuth, who: Credentials, *places: m.ConnectionPlace) -> list[str]:
    request = m.RenewConnectionsRequest(places=list(places))
    return list((await auth.call(who, routes.RENEW_CONNECTIONS, request)).lost)


async def test_places_are_counted_over_all_nodes_until_they_are_let_go(tmp_path: Path) -> None:
    """The smallest limit that is asked with counts; each user apart; only the holder lets go."""
    async with running_auth(tmp_path) as auth:
        one, two = await auth.host(SystemRole.NODE), await auth.host(SystemRole.NODE)
        first, second, third = place(), place(), place()
        assert await hold(auth, one, first) == 120, "session_control_timeout"
        await hold(auth, two, second)
        await hold(auth, one, first)  # asked again, as after an answer that was lost
        with pytest.raises(LimitExceeded, match="ann has 2 connections"):
            await hold(auth, one, third)
        await hold(auth, one, place(user="bob"))
        with pytest.raises(LimitExceeded):
            await hold(auth, two, m.ConnectionPlace(id=first.id, user="ann", most=9))
        await auth.call(one, routes.RELEASE_CONNECTIONS, m.ReleaseConnectionsRequest(places=[second]))
        with pytest.raises(LimitExceeded):
            await hold(auth, one, third)
        await auth.call(two, routes.RELEASE_CONNECTIONS, m.ReleaseConnectionsRequest(places=[second]))
        await hold(auth, one, third)


async def test_what_is_not_renewed_lapses(tmp_path: Path) -> None:
    """A node that died, or is cut off, blocks nobody for longer than `session_control_timeout`."""
    async with running_auth(tmp_path) as auth:
        clock = auth.clock
        assert isinstance(clock, FakeClock)
        node = await auth.host(SystemRole.NODE)
        kept, dropped, late = place(), place(), place()
        await hold(auth, node, kept)
        await hold(auth, node, dropped)
        clock.advance(timedelta(seconds=61).total_seconds())
        assert await renew(auth, node, kept) == []
        clock.advance(61)
        await hold(auth, node, late)
        assert await renew(auth, node, kept, dropped) == [dropped.id], "somebody else has it"
        await auth.call(node, routes.RELEASE_CONNECTIONS, m.ReleaseConnectionsRequest(places=[late]))
        assert await renew(auth, node, kept, dropped) == [], "there is room again"
        both = m.ReleaseConnectionsRequest(places=[kept, dropped])
        await auth.call(node, routes.RELEASE_CONNECTIONS, both)
        assert await auth.backend.get(CONNECTION_PLACES + "ann") is None


async def test_of_many_at_once_as_many_as_may_come_in(tmp_path: Path) -> None:
    """The count is one write for each, whoever asks at the same time."""
    async with running_auth(tmp_path) as auth:
        nodes = [await auth.host(SystemRole.NODE) for _ in range(4)]
        asked = [hold(auth, nodes[number % 4], place(most=3)) for number in range(12)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
    assert sum(not isinstance(answer, BaseException) for answer in answers) == 3
    assert all(isinstance(answer, LimitExceeded) for answer in answers if isinstance(answer, BaseException))


async def test_only_hosts_count_and_only_what_can_be_meant(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        node = await auth.host(SystemRole.NODE)
        with pytest.raises(AccessDenied):
            await hold(auth, await auth.user("ann", ["editor"]), place())
        for wrong in (
            m.ConnectionPlace(id="../x", user="ann", most=1),
            m.ConnectionPlace(id=str(uuid.uuid4()), user="", most=1),
            m.ConnectionPlace(id=str(uuid.uuid4()), user="ann", most=0),
        ):
            with pytest.raises(BadRequest):
                await hold(auth, node, wrong)
