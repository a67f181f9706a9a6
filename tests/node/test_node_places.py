"""`max_connections`: a node lets in as many as auth counts, and nobody when it cannot count."""

from __future__ import annotations

import getpass
from pathlib import Path

from teleport.audit.events import AuthFailed, ClientDisconnect, SessionRejected
from teleport.launcher import LauncherEnd
from teleport.launcher.client import Launcher
from teleport.testing.people import ended, people
from teleport.testing.running import run_client, wait_until
from teleport.testing.ssh_lab import Lab, running_lab
from teleport.transport.places import LAPSED, LOST

ME = getpass.getuser()


def ssh(lab: Lab, folder: Path) -> list[str]:
    return ["ssh", "-F", str(lab.client_config(folder, lab.authorities.user([ME]), ME)), "direct"]


async def test_one_connection_too_many_is_refused_with_its_event(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """Until one of the others is over; users without a limit are not counted."""
    async with running_lab(Launcher(launcher_end)) as lab, people(lab, ME) as those:
        free = await run_client(*ssh(lab, tmp_path), "echo in")
        assert (free.stdout, lab.control.held) == (b"in\n", {})
        lab.rules.options(max_connections=2)
        first = await those.terminal("alice", command="echo ready; cat")
        await those.client("alice")
        await first.sees("ready")
        refused = await run_client(*ssh(lab, tmp_path), "echo in")
        assert refused.status == 255
        assert "Your roles allow 2 connections at the same time." in refused.stderr
        (event,) = await lab.events.wait_for("session.rejected")
        await those.client("bob")
        await first.leave()
        await wait_until(lambda: list(lab.control.held.values()).count("alice") == 1)
        assert (await run_client(*ssh(lab, tmp_path), "echo in")).stdout == b"in\n"
    assert isinstance(event, SessionRejected)
    assert (event.user, event.reason, event.max, event.code) == ("alice", "max_connections", 2, "T1006W")
    await wait_until(lambda: not lab.control.held)


async def test_who_cannot_be_counted_is_not_let_in(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """It fails closed; only for those with a limit."""
    async with running_lab(Launcher(launcher_end)) as lab:
        lab.control.away = True
        assert (await run_client(*ssh(lab, tmp_path), "echo in")).stdout == b"in\n"
        lab.rules.options(max_connections=2)
        refused = await run_client(*ssh(lab, tmp_path), "echo in")
        assert refused.status == 255
        assert "cannot be counted now" in refused.stderr
        (event,) = await lab.events.wait_for("auth")
        lab.control.away = False
    assert isinstance(event, AuthFailed)
    assert "auth cannot be reached" in event.error


async def test_a_connection_ends_when_its_place_cannot_be_kept(launcher_end: LauncherEnd) -> None:
    """`session_control_timeout` without auth, or the place given away: the limit holds always."""
    async with running_lab(Launcher(launcher_end)) as lab, people(lab, ME) as those:
        lab.rules.options(max_connections=2)
        lab.control.seconds = 1.0
        first = await those.terminal("alice", command="echo ready; cat")
        await first.sees("ready")
        await wait_until(lambda: lab.control.renewed > 0)
        lab.control.held.clear()
        await ended(first)
        assert LOST.encode() in first.shown
        second = await those.terminal("alice", command="echo ready; cat")
        await second.sees("ready")
        lab.control.away = True
        await ended(second)
        assert LAPSED.encode() in second.shown
        lab.control.away = False
        gone = await lab.events.wait_for("client.disconnect", 2)
    reasons = [event.reason for event in gone if isinstance(event, ClientDisconnect)]
    assert reasons == [LOST, LAPSED]
