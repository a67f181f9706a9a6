"""Terminals that come back to their session: who is told of it, who takes whose place, and who does not come back."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from uuid import uuid4

from tests.node.test_node_joining import cast

from teleport.launcher import LauncherEnd
from teleport.sharing.company import MOST_OF_ONE
from teleport.ssh.client_session import RemoteExit
from teleport.testing.people import People, Terminal
from teleport.testing.running import wait_until
from teleport.wire.returning import ELSEWHERE, TERMINAL_VARIABLE

SHELL = "stty -echo; echo ready; exec sh"


async def begun(those: People, window: str, **more: str) -> Terminal:
    environment = {TERMINAL_VARIABLE: window, "TELEPORT_DETACH": "1m", **more}
    terminal = await those.terminal("alice", command=SHELL, environment=environment)
    await terminal.sees("ready")
    return terminal


async def back(those: People, sid: str, window: str, user: str = "alice", *roles: str, **more: str) -> Terminal:
    environment: Mapping[str, str] = {"TELEPORT_SESSION": sid, TERMINAL_VARIABLE: window, **more}
    return await those.terminal(user, *roles, environment=environment)


async def ended(terminal: Terminal) -> RemoteExit:
    async with asyncio.timeout(10):
        return await terminal.session.wait()


async def test_only_who_asks_is_told_of_the_session(launcher_end: LauncherEnd) -> None:
    """Clients of other makes get no request that they do not know."""
    async with cast(launcher_end) as (_, those):
        plain = await those.terminal("alice", command=SHELL, environment={"TELEPORT_DETACH": "1m"})
        await plain.sees("tsh join")
        assert plain.session.told is None
        named = await begun(those, str(uuid4()))
        told = named.session.told
        assert told is not None
        assert (told.sid, told.waits, told.mode) == (await those.sid(2), 60, "peer")
        assert b"tsh join" not in named.shown
        without = await those.terminal(
            "alice", command="echo ready", environment={TERMINAL_VARIABLE: str(uuid4())}, size=None
        )
        await without.sees("ready")
        assert without.session.told is None, "nobody comes back to what has no terminal"
        bad = await those.terminal("alice", command="echo ready", environment={TERMINAL_VARIABLE: "nonsense"})
        await bad.sees("ready")
        assert bad.session.told is None


async def test_a_terminal_takes_its_own_place(launcher_end: LauncherEnd) -> None:
    """And nobody else's: neither that of another terminal of the same user, nor of a user who claims the same name."""
    async with cast(launcher_end) as (lab, those):
        window = str(uuid4())
        first = await begun(those, window)
        sid = await those.sid()
        another = await back(those, sid, str(uuid4()))
        await another.sees("ready")
        claims = await back(those, sid, window, "carol", "pair", TELEPORT_JOIN_MODE="peer")
        await claims.sees("ready")
        assert len(next(iter(lab.node.tools.registry)).company.parties) == 3
        again = await back(those, sid, window)
        await again.sees("ready")
        assert (await ended(first)).message == ELSEWHERE
        await wait_until(lambda: len(next(iter(lab.node.tools.registry)).company.parties) == 3)
        again.type("echo st''ill\n")
        await claims.sees("still")
        await another.sees("still")
        assert claims.shown.count(b"alice has") == 0, "to others it was there all the time"


async def test_a_full_session_takes_back_who_was_in_it(launcher_end: LauncherEnd) -> None:
    """The place that it takes is its own; a ninth terminal of one user is one too many as ever."""
    async with cast(launcher_end) as (lab, those):
        windows = [str(uuid4()) for _ in range(MOST_OF_ONE)]
        first = await begun(those, windows[0])
        sid = await those.sid()
        for window in windows[1:]:
            await (await back(those, sid, window)).sees("ready")
        ninth = await back(those, sid, str(uuid4()))
        assert (await ended(ninth)).status == 255
        again = await back(those, sid, windows[0])
        await again.sees("ready")
        assert (await ended(first)).message == ELSEWHERE
        (session,) = lab.node.tools.registry
        assert len(session.company.parties) == MOST_OF_ONE


async def test_who_says_that_it_is_done_does_not_come_back(launcher_end: LauncherEnd) -> None:
    """End-of-file and the channel's close end the session, a lost connection does not."""
    async with cast(launcher_end) as (lab, those):
        lost = await begun(those, str(uuid4()))
        lost.client.abort()
        await lab.events.wait_for("session.leave")
        assert len(lab.node.tools.registry) == 1
        done = await begun(those, str(uuid4()))
        done.session.write_eof()
        done.session.close()
        (end,) = await lab.events.wait_for("session.end")
        told = done.session.told
        assert told is not None
        assert getattr(end, "sid", "") == told.sid
        assert len(lab.node.tools.registry) == 1
