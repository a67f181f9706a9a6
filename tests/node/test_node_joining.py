"""Several people in one session: who sees, who types, who may not, and what is on record of it (threats T27, T47)."""

from __future__ import annotations

import asyncio
import getpass
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from teleport.audit.events import SessionEnd, SessionJoin
from teleport.authz.decision import ClusterDefaults
from teleport.launcher import LauncherEnd
from teleport.launcher.client import Launcher
from teleport.recording.format.parties import PartyNote, TypedNote, decode_note
from teleport.recording.sanitise import sanitise_for_terminal
from teleport.resources.joining import JoinMode, JoinPolicy
from teleport.resources.lock import Lock, LockSpec, LockTarget
from teleport.resources.metadata import Metadata
from teleport.resources.role import Conditions, Role, RoleSpec
from teleport.ssh.client import SshClient
from teleport.ssh.client_session import RemoteSession
from teleport.ssh.surface import TerminalRequest, TerminalSize
from teleport.testing.people import People, Terminal, ended, people
from teleport.testing.running import wait_until
from teleport.testing.ssh_lab import Lab, running_lab

ME = getpass.getuser()
EVERY = (JoinMode.OBSERVER, JoinMode.PEER, JoinMode.MODERATOR)


def role(name: str, *policies: JoinPolicy) -> Role:
    return Role(metadata=Metadata(name=name), spec=RoleSpec(allow=Conditions(join_sessions=policies)))


WATCH = role("watch", JoinPolicy(roles=("access",), kinds=("ssh",), modes=(JoinMode.OBSERVER,)))
PAIR = role("pair", JoinPolicy(roles=("access",), kinds=("ssh",), modes=EVERY))


@asynccontextmanager
async def cast(launcher_end: LauncherEnd) -> AsyncIterator[tuple[Lab, People]]:
    async with running_lab(Launcher(launcher_end)) as lab:
        lab.rules.more = {"watch": WATCH, "pair": PAIR}
        async with people(lab, ME) as those:
            yield lab, those


SHELL = "stty -echo; echo ready; exec sh"


async def begun(those: People, name: str = "alice") -> tuple[Terminal, str]:
    """A session that waits for lines."""
    terminal = await those.terminal(name, command=SHELL)
    await terminal.sees("ready")
    return terminal, await those.sid()


async def test_one_types_and_one_watches(launcher_end: LauncherEnd) -> None:
    """Done-when 3: what the observer types goes nowhere, which it is told once; events and recording say who was
    there, and who typed when."""
    async with cast(launcher_end) as (lab, those):
        alice, sid = await begun(those)
        alice.type("echo be''fore\n")
        await alice.sees("before")
        bob = await those.joined("bob", "watch", sid=sid)
        await bob.sees("before")  # the last output
        await alice.sees("bob has joined this session as observer.")
        bob.type("echo fr''om bob\n")
        bob.type("echo fr''om bob\n")
        await bob.sees("You are here as observer: what you type is not passed on.")
        alice.type("echo hel''lo\n")
        await bob.sees("hello")
        assert bob.shown.count(b"is not passed on") == 1
        bob.type("\x03")
        assert await ended(bob) == 0
        await alice.sees("bob has left this session.")
        alice.type("exit 3\n")
        assert await ended(alice) == 3
        (end,) = await lab.events.wait_for("session.end")
    assert b"from bob" not in alice.shown
    (join,), (left,) = lab.events.named("session.join"), lab.events.named("session.leave")
    assert isinstance(join, SessionJoin)
    assert (join.user, join.sid, join.mode, join.granted_by) == ("bob", sid, "observer", "watch")
    assert join.code == "T2001I"
    assert getattr(left, "user", "") == "bob"
    assert isinstance(end, SessionEnd)
    assert end.participants == ["alice", "bob"]
    assert end.reason == ""
    (recording,) = lab.recordings.all
    notes = [decode_note(note.encode()) for note in recording.notes]
    parties = [(note.party, note.action, note.user, note.mode) for note in notes if isinstance(note, PartyNote)]
    assert parties == [(1, "there", "alice", "peer"), (2, "joined", "bob", "observer"), (2, "left", "bob", "observer")]
    typed = [note for note in notes if isinstance(note, TypedNote)]
    assert {note.party for note in typed} == {1}
    assert typed[0].offset == len("echo be''fore\n")
    assert sum(note.size for note in typed) == len("echo hel''lo\nexit 3\n")


async def test_peers_share_the_input_and_the_size(launcher_end: LauncherEnd) -> None:
    """Both type; the terminal follows the latest window of those who may; offsets name the typer of each byte."""
    async with cast(launcher_end) as (lab, those):
        alice, sid = await begun(those)
        bob = await those.joined("bob", "pair", sid=sid, mode="peer", size=TerminalSize(100, 40))
        watcher = await those.joined("carol", "watch", sid=sid, size=TerminalSize(20, 10))
        await watcher.sees("ready")
        bob.type("stty size; echo b''ob\n")
        await alice.sees("40 100")
        alice.session.resize(TerminalSize(90, 30))
        watcher.session.resize(TerminalSize(21, 11))
        await lab.events.wait_for("resize", 2)
        alice.type("stty size; echo a''lice\n")
        await bob.sees("30 90")
        await bob.sees("alice")
        alice.type("exit\n")
        assert await ended(bob) == 0
        await lab.events.wait_for("session.end")
    (recording,) = lab.recordings.all
    assert recording.sizes == [(100, 40), (90, 30)]
    notes = [decode_note(note.encode()) for note in recording.notes]
    typed = [(note.party, note.offset, note.size) for note in notes if isinstance(note, TypedNote)]
    first = len("stty size; echo b''ob\n")
    assert typed[0] == (2, 0, first)
    assert all(party == 1 for party, _, _ in typed[1:])
    assert typed[-1][1] + typed[-1][2] == first + len("stty size; echo a''lice\nexit\n")


async def test_sessions_without_a_terminal_are_not_joined(launcher_end: LauncherEnd) -> None:
    """Their bytes are a program's."""
    async with cast(launcher_end) as (lab, those):
        running = await those.terminal("alice", command="echo ready; sleep 60", size=None)
        await running.sees("ready")
        refused = await those.joined("alice", sid=await those.sid())
        assert await ended(refused) == 255
        assert not lab.events.named("session.join")


async def test_joining_is_on_record_before_anything_is_seen(launcher_end: LauncherEnd) -> None:
    """Audit that cannot be written closes this door."""
    async with cast(launcher_end) as (lab, those):
        alice, sid = await begun(those)
        lab.events.failing = True
        bob = await those.joined("bob", "watch", sid=sid)
        assert await ended(bob) == 255
        assert b"ready" not in bob.shown
        assert b"cannot write its audit log" in bob.shown
        lab.events.failing = False
        assert alice.session is not None


async def test_a_right_that_is_taken_away_ends_the_part(launcher_end: LauncherEnd) -> None:
    """The decision is asked again when rules change; the session goes on for the others."""
    async with cast(launcher_end) as (lab, those):
        alice, sid = await begun(those)
        bob = await those.joined("bob", "watch", sid=sid)
        await bob.sees("ready")
        lab.node.reconsider()
        lab.rules.more = {}
        lab.node.reconsider()
        assert await ended(bob) == 255
        assert b"You may not be in this session any more." in bob.shown
        alice.type("echo st''ill\n")
        await alice.sees("still")
        assert b"still" not in bob.shown


async def test_the_session_ends_with_its_users_permit(launcher_end: LauncherEnd) -> None:
    """A peer may keep it alive when its user's connection is gone, but not when the user is locked (T09)."""
    async with cast(launcher_end) as (lab, those):
        alice, sid = await begun(those)
        bob = await those.joined("bob", "pair", sid=sid, mode="peer")
        await bob.sees("ready")
        await alice.leave()
        await bob.sees("alice has left this session.")
        bob.type("echo st''ill\n")
        await bob.sees("still")
        assert lab.node.connections == 2, "alice's counts on: the session runs under her permit"
        target = LockTarget(user="alice")
        lab.rules.locked = [Lock(metadata=Metadata(name="l"), spec=LockSpec(target=target))]
        lab.node.reconsider()
        await ended(bob)
        (end,) = await lab.events.wait_for("session.end")
        await wait_until(lambda: lab.node.connections <= 1)
    assert getattr(end, "reason", "") == "Access is locked."


async def test_a_joined_party_is_idle_by_itself(launcher_end: LauncherEnd) -> None:
    """`client_idle_timeout` for each connection: a peer who does nothing goes, with the message; who watches is not
    idle while somebody types, and nor is who began it."""
    async with cast(launcher_end) as (lab, those):
        lab.rules.cluster = ClusterDefaults(
            client_idle_timeout=timedelta(seconds=4), client_idle_timeout_message="You were away."
        )
        alice, sid = await begun(those)
        bob = await those.joined("bob", "pair", sid=sid, mode="peer")
        carol = await those.joined("carol", "watch", sid=sid)
        await carol.sees("ready")
        idle = asyncio.ensure_future(lab.events.wait_for("client.disconnect"))
        count = 0
        while not idle.done():
            count += 1
            alice.type(f"echo b''eat{count}\n")
            await carol.sees(f"beat{count}")
            await asyncio.wait({idle}, timeout=0.3)
        assert await ended(bob) == 255
        assert b"You were away." in bob.shown
        alice.type("echo a''live\n")
        await carol.sees("alive")
        (gone,) = lab.events.named("client.disconnect")
    assert getattr(gone, "user", "") == "bob"


async def test_an_expired_certificate_ends_a_joined_party(launcher_end: LauncherEnd) -> None:
    """`disconnect_expired_cert`, also for who only watches."""
    async with cast(launcher_end) as (lab, those):
        alice, sid = await begun(those)
        bob = await those.joined("bob", "watch", sid=sid)
        await bob.sees("ready")
        lab.rules.cluster = ClusterDefaults(disconnect_expired_cert=True)
        lab.node.reconsider()
        (theirs,) = [one for one in lab.node._connections if one.facts.user and one.facts.user.name == "bob"]
        soon = datetime.now(UTC) + timedelta(seconds=0.2)
        theirs.obey(replace(theirs.permit, disconnect_expired_cert=soon))
        assert await ended(bob) == 255
        assert b"the certificate has expired" in bob.shown
        alice.type("echo a''live\n")
        await alice.sees("alive")


async def test_a_detached_session_waits_for_its_user(launcher_end: LauncherEnd) -> None:
    """Only when the client asked for it; who comes back sees the last output and goes on."""
    async with cast(launcher_end) as (lab, those):
        alice = await those.terminal("alice", command=SHELL, environment={"TELEPORT_DETACH": "5m"})
        await alice.sees("ready")
        sid = await those.sid()
        await alice.leave()
        await lab.events.wait_for("session.leave")
        back = await those.joined("alice", sid=sid)
        await back.sees("ready")
        back.type("echo ag''ain; exit 4\n")
        await back.sees("again")
        assert await ended(back) == 4
        (end,) = await lab.events.wait_for("session.end")
        await wait_until(lambda: lab.node.connections == 1)
    assert getattr(end, "participants", None) == ["alice"]


async def test_a_detached_session_ends_with_the_certificate(launcher_end: LauncherEnd) -> None:
    """`disconnect_expired_cert` also where nobody is connected."""
    async with cast(launcher_end) as (lab, those):
        alice = await those.terminal("alice", command=SHELL, environment={"TELEPORT_DETACH": "1h"})
        await alice.sees("lives on for 3600 s without you. To come back: tsh join ")
        await alice.leave()
        await lab.events.wait_for("session.leave")
        (theirs,) = lab.node._connections
        soon = datetime.now(UTC) + timedelta(seconds=0.2)
        theirs.obey(replace(theirs.permit, disconnect_expired_cert=soon))
        (end,) = await lab.events.wait_for("session.end")
        await lab.events.wait_for("client.disconnect")
        await wait_until(lambda: lab.node.connections == 0)
    assert getattr(end, "reason", "") == "the certificate has expired"


async def test_idle_time_bounds_how_long_a_session_waits(launcher_end: LauncherEnd) -> None:
    """Who asks for a day gets no more than the idle time of the roles."""
    async with cast(launcher_end) as (lab, those):
        lab.rules.cluster = ClusterDefaults(client_idle_timeout=timedelta(seconds=2))
        alice = await those.terminal("alice", command=SHELL, environment={"TELEPORT_DETACH": "24h"})
        await alice.sees("lives on for 2 s without you.")


async def test_a_detached_session_does_not_wait_for_ever(launcher_end: LauncherEnd) -> None:
    """`linger` is bounded; a lock ends it before."""
    async with cast(launcher_end) as (lab, those):
        for linger in ("1s", "1h"):
            alice = await those.terminal("alice", command=SHELL, environment={"TELEPORT_DETACH": linger})
            await alice.sees("ready")
            await alice.leave()
        target = LockTarget(user="alice")
        await lab.events.wait_for("session.leave", 2)
        first = (await lab.events.wait_for("session.end"))[0]
        lab.rules.locked = [Lock(metadata=Metadata(name="l"), spec=LockSpec(target=target))]
        lab.node.reconsider()
        second = (await lab.events.wait_for("session.end", 2))[1]
        await wait_until(lambda: lab.node.connections == 0)
    assert getattr(first, "reason", "") == "nobody came back"
    assert getattr(second, "reason", "") == "Access is locked."


async def test_who_does_not_keep_up_is_left_behind_and_shown_the_end(launcher_end: LauncherEnd) -> None:
    """An observer that stops reading holds nobody up; it gets the last output once it reads again."""
    async with cast(launcher_end) as (_, those):
        alice, sid = await begun(those)
        bob = await those.joined("bob", "watch", sid=sid)
        await bob.sees("ready")
        bob.session.pause_output()
        alice.type("yes 0123456789012345678901234567890123456789 | head -c 6000000; echo d''one\n")
        await alice.sees("done", 30)
        bob.session.resume_output()
        await bob.sees("done")
        assert len(bob.shown) < len(alice.shown)


@dataclass
class Guest:
    """Somebody who joined at random, and what of the session itself they were shown."""

    client: SshClient
    session: RemoteSession
    mode: JoinMode
    shown: bytearray
    stopped: bool = False  # whether they ever stopped reading


async def guest(those: People, sid: str, mode: JoinMode) -> Guest:
    client, shown = await those.client("bob", "pair"), bytearray()
    session = await client.start(
        terminal=TerminalRequest("xterm", TerminalSize(80, 24)),
        environment={"TELEPORT_SESSION": sid, "TELEPORT_JOIN_MODE": mode},
        on_output=lambda data, stderr: None if stderr else shown.extend(data),
    )
    return Guest(client, session, mode, shown)


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 30))])
async def test_whatever_people_do_every_byte_is_on_record_once(launcher_end: LauncherEnd, seed: int) -> None:
    """Threat T39 with company: at random they come in any mode, type, stop reading, read on, leave and drop off.

    The user sees exactly what is recorded; so does, cleaned, whoever watched to the end without stopping; what is noted
    of the input does not overlap; and there is one end.
    """
    chance = random.Random(seed)
    output, guests, sent = bytearray(), list[Guest](), 0
    async with cast(launcher_end) as (lab, those):
        client = await those.client("alice")
        alice = await client.start(
            command="stty raw -echo; echo ready; exec cat",
            terminal=TerminalRequest("xterm", TerminalSize(80, 24)),
            on_output=lambda data, stderr: None if stderr else output.extend(data),
        )
        await wait_until(lambda: b"ready" in output)
        sid = await those.sid()
        (running,) = lab.node.tools.registry
        streams = running._streams
        assert streams is not None

        def said(most: int) -> bytes:
            nonlocal sent
            data = bytes(chance.choices(range(32, 127), k=chance.randint(1, most)))
            sent += len(data)
            return data

        for _ in range(60):
            what = chance.choice(("type", "type", "type", "join", "join", "peer", "pause", "resume", "leave", "drop"))
            if what == "type":
                alice.write(said(9000))
            elif what == "join" and len(guests) < 6:
                guests.append(await guest(those, sid, chance.choice(EVERY)))
            elif what == "peer" and (peers := [one for one in guests if one.mode is JoinMode.PEER]):
                chance.choice(peers).session.write(said(50))
            elif guests and what in ("pause", "resume"):
                one = chance.choice(guests)
                one.stopped = True
                (one.session.pause_output if what == "pause" else one.session.resume_output)()
            elif guests and what in ("leave", "drop"):
                one = guests.pop(chance.randrange(len(guests)))
                await wait_until(lambda: streams.received == sent)  # what they typed last has arrived
                one.session.resume_output()
                if what == "leave" and one.mode is not JoinMode.PEER:
                    one.session.write(b"\x03")
                    assert (await one.session.wait()).status == 0
                await one.client.close()
        for one in guests:
            one.session.resume_output()
        await wait_until(lambda: streams.received == sent)
        recorded = lab.recordings.all[0].stdout
        await wait_until(lambda: len(output) == len(recorded) == sent + len(b"ready\n"))
        assert output == recorded
        whole = sanitise_for_terminal(bytes(recorded))
        for one in guests:
            await wait_until(partial(_shows_end, one, whole))
            if not one.stopped:
                assert bytes(one.shown) == whole
        await client.close()
        for one in guests:
            await one.client.close()
        ends = await lab.events.wait_for("session.end")
        await wait_until(lambda: lab.recordings.all[0].reason is not None)
    assert len(ends) == 1
    notes = [decode_note(note.encode()) for note in lab.recordings.all[0].notes]
    typed = [note for note in notes if isinstance(note, TypedNote)]
    assert all(before.offset + before.size <= after.offset for before, after in itertools.pairwise(typed))
    assert all(note.offset + note.size <= sent for note in typed)


def _shows_end(one: Guest, whole: bytes) -> bool:
    return one.shown.endswith(whole[-100:])
