"""Rotations that run by themselves: their steps come in time, survive a restart, and stop when they must."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from tests.auth.test_auth_rotation import announce

from teleport.api import messages as m
from teleport.api import routes
from teleport.auth.authorities.driver import PATIENCE, patience
from teleport.auth.authorities.rotation import BY_THEMSELVES
from teleport.identity import SystemRole
from teleport.resources.authority import Rotation, RotationMode, RotationPhase
from teleport.testing.auth import RunningAuth, present_clock, running_auth

MINUTE = 60.0


async def begin(auth: RunningAuth, *types: str, grace: float = 3 * MINUTE) -> None:
    request = m.RotateRequest(types=list(types), mode="auto", grace_period=grace)
    await auth.call(await auth.admin(), routes.ROTATE, request)


async def rotation(auth: RunningAuth, kind: str = "host") -> Rotation:
    return (await auth.service.state.authority(kind)).spec.rotation


async def until(auth: RunningAuth, holds: Callable[[Rotation], bool], kind: str = "host") -> Rotation:
    """Waits until the driver, which looks anew, has brought a rotation so far."""
    async with asyncio.timeout(10):
        while not holds(await rotation(auth, kind)):
            auth.service.rotations.changed.set()
            await asyncio.sleep(0.01)
    return await rotation(auth, kind)


async def looked(auth: RunningAuth) -> None:
    """Until the driver has looked and found nothing to do."""
    await auth.service.rotation_driver.step()


async def test_the_steps_come_when_they_are_due_and_all_is_on_record(tmp_path: Path) -> None:
    clock = present_clock()
    async with running_auth(tmp_path, clock=clock) as auth:
        await begin(auth)
        for phase in (RotationPhase.UPDATE_CLIENTS, RotationPhase.UPDATE_SERVERS, RotationPhase.STANDBY):
            clock.advance(MINUTE - 1)
            before = (await rotation(auth)).phase
            await looked(auth)
            assert (await rotation(auth)).phase is before, "too early"
            clock.advance(1)
            for kind in BY_THEMSELVES:
                await until(auth, lambda found, phase=phase: found.phase is phase, kind)  # type: ignore[misc]
            await auth.follow_rotation()
        for kind in BY_THEMSELVES:
            spec = (await auth.service.state.authority(kind)).spec
            assert spec.additional_trusted_keys.empty
            assert spec.rotation.last_rotated == clock.now()
        events = await auth.events("authority.rotate", wait_for=12)
        steps = [(one["phase"], one["mode"], one["user"]) for one in events if one["authority"] == "user"]
        assert steps[1:] == [
            ("update_clients", "auto", "system"),
            ("update_servers", "auto", "system"),
            ("standby", "manual", "system"),
        ]
        assert steps[0][:2] == ("init", "auto")


async def test_after_a_restart_the_rotation_goes_on_where_it_was(tmp_path: Path) -> None:
    """Auth is away when a step is due: it is taken after the start, and the next one keeps its distance."""
    clock = present_clock()
    async with running_auth(tmp_path, clock=clock, sqlite=True) as auth:
        await begin(auth, "host")
        host_id = auth.host_id
    clock.advance(2 * MINUTE)
    async with running_auth(tmp_path, clock=clock, sqlite=True, host_id=host_id, epoch=2) as auth:
        found = await until(auth, lambda found: found.phase is RotationPhase.UPDATE_CLIENTS)
        assert found.mode is RotationMode.AUTO
        assert found.schedule.update_servers is not None
        assert (found.schedule.update_servers - clock.now()).total_seconds() == MINUTE
        await looked(auth)
        assert (await rotation(auth)).phase is RotationPhase.UPDATE_CLIENTS


async def test_a_step_waits_for_services_that_follow_a_little_late(tmp_path: Path) -> None:
    clock = present_clock()
    async with running_auth(tmp_path, clock=clock) as auth:
        node = await auth.host(SystemRole.NODE)
        await begin(auth, "host")
        await announce(auth, node, reached="host=standby")
        clock.advance(MINUTE)
        await looked(auth)
        await announce(auth, node, reached="host=standby")
        clock.advance(PATIENCE - 60)
        await looked(auth)
        assert (await rotation(auth)).phase is RotationPhase.INIT
        await announce(auth, node, reached="host=init")
        found = await until(auth, lambda found: found.phase is RotationPhase.UPDATE_CLIENTS)
        assert found.mode is RotationMode.AUTO


async def test_a_live_service_that_never_follows_stops_the_rotation_which_then_goes_by_hand(tmp_path: Path) -> None:
    """It stays in its phase, says who is missing in an event, takes no step by itself any more; a person goes on."""
    clock = present_clock()
    async with running_auth(tmp_path, clock=clock) as auth:
        node = await auth.host(SystemRole.NODE)
        await begin(auth, "host")
        clock.advance(MINUTE)
        await announce(auth, node)
        await looked(auth)
        assert (await rotation(auth)).mode is RotationMode.AUTO
        clock.advance(PATIENCE - 100)
        await announce(auth, node)
        clock.advance(100)
        found = await until(auth, lambda found: found.mode is RotationMode.MANUAL)
        assert found.phase is RotationPhase.INIT
        (event,) = await auth.events("authority.rotate_stopped")
        assert (event["code"], event["phase"], event["wanted_phase"]) == ("T9101W", "init", "update_clients")
        assert event["left_behind"] == [node.host_id]
        assert "node web1" in event["error"]
        clock.advance(10 * MINUTE)
        await looked(auth)
        assert (await rotation(auth)).phase is RotationPhase.INIT
        await announce(auth, node, reached="host=init")
        await auth.call(await auth.admin(), routes.ROTATE, m.RotateRequest(types=["host"], phase="update_clients"))


async def test_a_service_that_fell_silent_holds_nothing_up(tmp_path: Path) -> None:
    clock = present_clock()
    async with running_auth(tmp_path, clock=clock) as auth:
        node = await auth.host(SystemRole.NODE)
        await announce(auth, node)
        await begin(auth, "host", grace=12 * MINUTE)
        clock.advance(4 * MINUTE)
        await until(auth, lambda found: found.phase is RotationPhase.UPDATE_CLIENTS)


async def test_two_auth_servers_take_each_step_once(tmp_path: Path) -> None:
    """Both drivers look at the same moment: the authority moves by one step, with one event."""
    clock = present_clock()
    async with running_auth(tmp_path, clock=clock) as auth:
        await begin(auth, "host")
        clock.advance(MINUTE)
        await asyncio.gather(*(auth.service.rotation_driver.step() for _ in range(5)))
        assert (await rotation(auth)).phase is RotationPhase.UPDATE_CLIENTS
        events = await auth.events("authority.rotate", wait_for=2)
        assert [one["phase"] for one in events] == ["init", "update_clients"]


def test_patience_outlasts_what_a_silent_service_is_waited_for() -> None:
    from teleport.auth.authorities.following import Announced, _Metadata, _Spec
    from teleport.auth.hosts.unchanged import LONGEST_LOST_AFTER
    from teleport.resources.server import LOST_AFTER

    few, many = (Announced("node", _Metadata("a"), _Spec(lost_after=after)) for after in (0, LONGEST_LOST_AFTER))
    assert LOST_AFTER.total_seconds() < patience([]) == patience([few]) == PATIENCE
    assert LONGEST_LOST_AFTER < patience([few, many]) == patience([many])
