"""Sessions that somebody has to be in: nothing happens before, and nothing slips through after (threats T40, T48)."""

from __future__ import annotations

import asyncio
import getpass
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from teleport.audit.events import SessionEnd, SessionHeld
from teleport.launcher import LauncherEnd
from teleport.launcher.client import Launcher
from teleport.resources.joining import JoinMode, JoinPolicy, OnLeave, RequiredJoin
from teleport.resources.metadata import Metadata
from teleport.resources.role import Conditions, Role, RoleSpec
from teleport.testing.people import People, Terminal, ended, people
from teleport.testing.running import run_client, wait_until
from teleport.testing.ssh_lab import Lab, running_lab

ME = getpass.getuser()
FILTER = 'contains(user.spec.roles, "moderator")'
JOINS = JoinPolicy(roles=("access",), kinds=("ssh",), modes=tuple(JoinMode))


def require(lab: Lab, count: int = 1, action: OnLeave = OnLeave.PAUSE) -> None:
    """Everybody's sessions need so many moderators from now on."""
    need = RequiredJoin(name="four eyes", kinds=("ssh",), filter=FILTER, count=count, on_leave=action)
    allow = msgspec.structs.replace(lab.rules.role.allow, require_session_join=(need,))
    spec = msgspec.structs.replace(lab.rules.role.spec, allow=allow)
    lab.rules.role = msgspec.structs.replace(lab.rules.role, spec=spec)


@asynccontextmanager
async def cast(launcher_end: LauncherEnd) -> AsyncIterator[tuple[Lab, People]]:
    async with running_lab(Launcher(launcher_end)) as lab:
        for name in ("moderator", "watcher"):
            spec = RoleSpec(allow=Conditions(join_sessions=(JOINS,)))
            lab.rules.more[name] = Role(metadata=Metadata(name=name), spec=spec)
        async with people(lab, ME) as those:
            yield lab, those


async def waiting(those: People, command: str) -> tuple[Terminal, str]:
    alice = await those.terminal("alice", command=command)
    await alice.sees("This session waits: it begins once")
    return alice, await those.sid()


async def held(lab: Lab, count: int) -> list[tuple[bool, bool]]:
    found = await lab.events.wait_for("session.held", count)
    return [(event.held, event.started) for event in found if isinstance(event, SessionHeld)]


async def test_nothing_starts_before_somebody_is_there(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """Neither the program nor what was typed meanwhile; the wait is in the recording and on record."""
    mark = tmp_path / "mark"
    async with cast(launcher_end) as (lab, those):
        require(lab)
        alice, sid = await waiting(those, f"touch {mark}; stty -echo; echo ready; exec sh")
        alice.type(f"touch {mark}\n")
        await alice.sees("what you type is dropped")
        watcher = await those.joined("walter", "watcher", sid=sid, mode="moderator")
        await watcher.sees("This session begins once")
        observer = await those.joined("mona", "moderator", sid=sid, mode="observer")
        await observer.sees("This session begins once")
        await asyncio.sleep(0)
        assert not mark.exists(), "neither the wrong role nor the wrong mode counts"
        assert [sid.state.value for sid in lab.node.tools.registry] == ["waiting"]
        mona = await those.joined("mona", "moderator", sid=sid, mode="moderator")
        await alice.sees("ready")
        await mona.sees("ready")
        assert mark.exists()
        mark.unlink()
        alice.type("echo d''one; exit\n")
        await mona.sees("done")
        await ended(alice)
        assert not mark.exists(), "what was typed before it began"
        assert await held(lab, 2) == [(True, False), (False, False)]
        names = [type(event).__name__ for event in lab.events.all if getattr(event, "sid", "") == sid]
    assert names.index("SessionHeld") > names.index("SessionStart")


async def test_nothing_starts_once_the_recording_has_failed(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """A disk that fills while a session waits for people: it does not begin when they come."""
    from teleport.errors import TeleportError

    mark = tmp_path / "mark"
    async with cast(launcher_end) as (lab, those):
        require(lab)
        alice, sid = await waiting(those, f"touch {mark}")
        lab.recordings.all[0].failed.set_result(TeleportError("the disk is full"))
        await ended(alice)
        mona = await those.joined("mona", "moderator", sid=sid, mode="moderator")
        assert await ended(mona) == 255
        (end,) = await lab.events.wait_for("session.end")
    assert getattr(end, "reason", "") == "not started: the recording failed"
    assert not mark.exists()


async def test_the_user_can_give_up_waiting(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """By Ctrl-C, or by going: then no program is ever started."""
    mark = tmp_path / "mark"
    async with cast(launcher_end) as (lab, those):
        require(lab)
        alice, _ = await waiting(those, f"touch {mark}")
        alice.type("\x03")
        await ended(alice)
        again, sid = await waiting(those, f"touch {mark}")
        peer = await those.joined("alice", sid=sid)
        await peer.sees("begins once")
        await again.leave()
        await ended(peer)
        ends = await lab.events.wait_for("session.end", 2)
    assert [getattr(end, "reason", "") for end in ends] == [
        "not started: its user did not wait",
        "not started: the client disconnected",
    ]
    assert not mark.exists()


@pytest.mark.parametrize("how", ["leaves", "drops", "loses the right"])
async def test_it_stands_still_at_once_when_the_moderator_is_gone(launcher_end: LauncherEnd, how: str) -> None:
    """What the user types meanwhile is dropped, not kept; output waits, and comes when somebody is there again."""
    async with cast(launcher_end) as (lab, those):
        require(lab)
        alice, sid = await waiting(those, "stty -echo; echo ready; exec sh")
        mona = await those.joined("mona", "moderator", sid=sid, mode="moderator")
        await alice.sees("ready")
        alice.type("while sleep 0.02; do echo t''ick; done & echo star''ted\n")
        await mona.sees("started")
        match how:
            case "leaves":
                mona.type("\x03")
            case "drops":
                await mona.leave()
            case _:
                former = dict(lab.rules.more)
                lab.rules.more = {}
                lab.node.reconsider()
        await alice.sees("This session stands still: it goes on once")
        before = alice.shown.count(b"tick")
        recorded = len(lab.recordings.all[0].stdout)
        alice.type("echo slip''ped\n")
        alice.session.signal("KILL")
        await alice.sees("what you type is dropped")
        assert (alice.shown.count(b"tick"), len(lab.recordings.all[0].stdout)) == (before, recorded)
        if how == "loses the right":
            lab.rules.more = former
        again = await those.joined("mona", "moderator", sid=sid, mode="moderator")
        await alice.sees("This session goes on.")
        await wait_until(lambda: alice.shown.count(b"tick") > before)
        alice.type("echo li''ve\n")
        await again.sees("live")
        assert b"slipped" not in alice.shown
        assert b"slipped" not in lab.recordings.all[0].stdout
        assert await held(lab, 4) == [(True, False), (False, False), (True, True), (False, True)]


async def test_it_stands_still_when_the_moderators_network_is_gone(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """Nobody says goodbye then: who has to be there is asked every few seconds whether they are."""
    async with cast(launcher_end) as (lab, those):
        require(lab)
        alice, sid = await waiting(those, "stty -echo; echo ready; exec sh")
        user = lab.authorities.user([ME], user="mona", roles=("access", "moderator"))
        config = lab.client_config(tmp_path, user, ME)
        variables = f"SetEnv=TELEPORT_SESSION={sid} TELEPORT_JOIN_MODE=moderator"
        client = await asyncio.create_subprocess_exec(
            *("ssh", "-F", str(config), "-tt", "-o", variables, "direct"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            await alice.sees("ready")
            client.send_signal(signal.SIGSTOP)
            await alice.sees("This session stands still")
        finally:
            client.kill()
            await client.wait()


async def test_nothing_passes_a_moderator_unseen(launcher_end: LauncherEnd) -> None:
    """Who has to watch and does not take output holds the session up; an observer does not."""
    async with cast(launcher_end) as (lab, those):
        require(lab)
        alice, sid = await waiting(those, "stty -echo; echo ready; exec sh")
        mona = await those.joined("mona", "moderator", sid=sid, mode="moderator")
        observer = await those.joined("olga", "watcher", sid=sid, mode="observer")
        await mona.sees("ready")
        await observer.sees("ready")
        observer.session.pause_output()
        mona.session.pause_output()
        alice.type("yes 0123456789012345678901234567890123456789 | head -c 6000000; echo d''one\n")
        (company,) = [session.company for session in lab.node.tools.registry]
        await wait_until(lambda: any(party.busy and party.waited_for for party in company.parties))
        assert b"done" not in alice.shown
        mona.session.resume_output()
        await alice.sees("done", 30)
        await mona.sees("done", 30)
        assert mona.shown.count(b"0123456789") == alice.shown.count(b"0123456789")


async def test_by_default_it_ends_when_the_moderator_is_gone(launcher_end: LauncherEnd) -> None:
    """`on_leave: terminate`."""
    async with cast(launcher_end) as (lab, those):
        require(lab, action=OnLeave.TERMINATE)
        alice, sid = await waiting(those, "echo ready; exec sleep 60")
        mona = await those.joined("mona", "moderator", sid=sid, mode="moderator")
        await alice.sees("ready")
        await mona.leave()
        await ended(alice)
        (end,) = await lab.events.wait_for("session.end")
    assert isinstance(end, SessionEnd)
    assert "had to be there, and left" in end.reason
    assert end.participants == ["alice", "mona"]


async def test_of_two_moderators_both_are_needed(launcher_end: LauncherEnd) -> None:
    """One person twice is one person; the user does not count, whatever roles they have."""
    async with cast(launcher_end) as (lab, those):
        require(lab, count=2)
        alice, sid = await waiting(those, "echo ready; exec sleep 60")
        for name in ("mona", "mona", "alice"):
            one = await those.joined(name, "moderator", sid=sid, mode="peer" if name == "alice" else "moderator")
            await one.sees("begins once")
        assert b"ready" not in alice.shown
        mario = await those.joined("mario", "moderator", sid=sid, mode="moderator")
        await alice.sees("ready")
        await mario.leave()
        await alice.sees("This session stands still")


async def test_a_moderator_ends_it(launcher_end: LauncherEnd) -> None:
    """With `t`; an observer who types it is told that it is not passed on."""
    async with cast(launcher_end) as (lab, those):
        require(lab)
        alice, sid = await waiting(those, "echo ready; exec sleep 60")
        mona = await those.joined("mona", "moderator", sid=sid, mode="moderator")
        await alice.sees("ready")
        observer = await those.joined("olga", "watcher", sid=sid, mode="observer")
        observer.type("t")
        await observer.sees("is not passed on")
        mona.type("t")
        await ended(alice)
        (end,) = await lab.events.wait_for("session.end")
    assert getattr(end, "reason", "") == "mona ended it as moderator"


async def test_a_role_that_comes_while_something_runs_counts(launcher_end: LauncherEnd) -> None:
    """What has no terminal cannot be watched, and ends; a terminal stands still."""
    async with cast(launcher_end) as (lab, those):
        command = await those.terminal("alice", command="echo ready; exec sleep 60", size=None)
        shell = await those.terminal("bob", command="echo ready; exec cat")
        await command.sees("ready")
        await shell.sees("ready")
        require(lab)
        lab.node.reconsider()
        await ended(command)
        await shell.sees("This session stands still")
        (end,) = await lab.events.wait_for("session.end")
    assert "others have to be in sessions of its user" in getattr(end, "reason", "")


async def test_there_is_no_way_around(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """Commands without a terminal, subsystems, forwards, a second channel of the connection, and the session of
    somebody who is free to do what they want: none of it works alone."""
    mark = tmp_path / "mark"
    async with cast(launcher_end) as (lab, those):
        free = Role(metadata=Metadata(name="free"), spec=RoleSpec(allow=lab.rules.role.allow))
        lab.rules.more["free"] = free
        config = lab.client_config(tmp_path, lab.authorities.user([ME]), ME)
        ssh = ["ssh", "-F", str(config)]
        server = await asyncio.start_server(_say_hello, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        into = ["-W", f"127.0.0.1:{port}", "direct"]
        back = ["-N", "-o", "ExitOnForwardFailure=yes", "-R", f"127.0.0.1:0:127.0.0.1:{port}", "direct"]
        assert (await run_client(*ssh, *into)).stdout == b"hello", "whoever may do things alone forwards"
        require(lab)
        plain = await run_client(*ssh, "direct", f"touch {mark}")
        assert plain.status == 255
        assert "only a shell or a command in a terminal is started: ssh -t" in plain.stderr
        for arguments in (["-s", "direct", "sftp"], into, back):
            refused = await run_client(*ssh, *arguments)
            assert refused.status != 0, arguments
            assert refused.stdout == b""
        alice, _ = await waiting(those, f"touch {mark}")
        second = await alice.client.start(command=f"touch {mark}", on_output=lambda data, stderr: None)
        assert (await second.wait()).status == 255
        await those.terminal("alice", command=f"touch {mark}", environment={"TELEPORT_DETACH": "1h"})
        starts = await lab.events.wait_for("session.start", 2)
        assert len(starts) == 2
        denied = {getattr(event, "request", "") for event in await lab.events.wait_for("session.request_denied", 3)}
        server.close()
        await server.wait_closed()
    assert "exec" in denied
    assert not mark.exists()


async def _say_hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"hello")
    writer.close()
    await writer.wait_closed()


async def test_a_moderator_is_heard_while_the_program_takes_no_input(launcher_end: LauncherEnd) -> None:
    """What whoever types fills up stops them, and not those who watch over them."""
    async with cast(launcher_end) as (lab, those):
        require(lab, action=OnLeave.TERMINATE)
        alice, sid = await waiting(those, "stty raw -echo; echo ready; exec sleep 60")
        moderator = await those.joined("mo", "moderator", sid=sid, mode=JoinMode.MODERATOR)
        await alice.sees("ready")
        for _ in range(40):
            alice.session.write(b"A" * 65536)
        (session,) = lab.node.tools.registry
        await wait_until(lambda: session._streams is not None and session._streams._stopped)
        moderator.type("t")
        (end,) = await lab.events.wait_for("session.end")
        assert isinstance(end, SessionEnd)
        assert "ended it as moderator" in end.reason
