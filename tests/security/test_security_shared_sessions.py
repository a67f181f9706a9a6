"""Joining other people's sessions, and one's own: what it must not open (threats T27, T35, T44, T47)."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest
from tests.node.test_node_joining import begun, cast

from teleport.audit.events import Event, SessionRequestDenied, event_name
from teleport.authz.decision import ClusterDefaults
from teleport.errors import AccessDenied
from teleport.launcher import LauncherEnd
from teleport.node.tracking import tracked
from teleport.resources.lock import Lock, LockSpec, LockTarget
from teleport.resources.metadata import Metadata
from teleport.sharing.company import MOST_OF_ONE
from teleport.ssh.surface import TerminalRequest, TerminalSize
from teleport.testing.lab_certificates import Authorities
from teleport.testing.people import ended
from teleport.testing.running import wait_until
from teleport.wire import vouch

HOSTILE = r"printf '\033]52;c;QUJD\007\033[6n\033]0;title\007\033[31mred\n'"
DRIVING = (b"]52;", b"[6n", b"title")


async def test_ids_are_no_credentials(launcher_end: LauncherEnd) -> None:
    """Threat T47: without a rule nobody gets into another's session, and is told no more than of an id nobody has."""
    async with cast(launcher_end) as (lab, those):
        alice, sid = await begun(those)
        told = []
        for wanted in (sid, str(uuid4())):
            mallory = await those.joined("mallory", sid=wanted)
            assert await ended(mallory) == 255
            told.append(bytes(mallory.shown))
        assert told[0] == told[1]
        assert b"no session with this id here that you may join" in told[0]
        own = await those.joined("alice", sid=str(uuid4()))
        assert await ended(own) == 255, "an id is never chosen by a client"
        denied = await lab.events.wait_for("session.request_denied", 3)
        assert len(lab.events.named("session.start")) == 1
        assert b"mallory" not in alice.shown
    first = denied[0]
    assert isinstance(first, SessionRequestDenied)
    assert (first.user, first.request) == ("mallory", "join")
    assert sid in first.reason
    assert not lab.events.named("session.join")


async def test_a_mode_needs_its_own_right(launcher_end: LauncherEnd) -> None:
    """Who may watch may neither type nor moderate; nobody moderates himself; nonsense is no mode."""
    async with cast(launcher_end) as (lab, those):
        _, sid = await begun(those)
        for name, roles, mode in (
            ("bob", ("watch",), "peer"),
            ("bob", ("watch",), "moderator"),
            ("alice", (), "moderator"),
        ):
            refused = await those.joined(name, *roles, sid=sid, mode=mode)
            assert await ended(refused) == 255
            assert b"You may not join this session as" in refused.shown
        assert not lab.events.named("session.join")


async def test_who_is_locked_while_they_join_sees_nothing(
    launcher_end: LauncherEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threat T47: the lock comes while the joining is put on record; that it was undone is on record as well."""
    async with cast(launcher_end) as (lab, those):
        alice, sid = await begun(those)
        reached, written, emit = asyncio.Event(), asyncio.Event(), lab.events.emit

        async def slow(event: Event) -> None:
            if event_name(event) == "session.join":
                reached.set()
                await written.wait()
            await emit(event)

        monkeypatch.setattr(lab.events, "emit", slow)
        joining = asyncio.create_task(those.joined("bob", "pair", sid=sid, mode="peer"))
        await reached.wait()
        lab.rules.locked = [Lock(metadata=Metadata(name="l"), spec=LockSpec(target=LockTarget(user="bob")))]
        lab.node.reconsider()
        (session,) = lab.node.tools.registry
        written.set()
        bob = await joining
        bob.type("echo by-b''ob\n")
        assert await ended(bob) == 255
        assert b"This session is over for you" in bob.shown
        assert b"ready" not in bob.shown
        await lab.events.wait_for("session.leave")
        assert [party.user for party in session.company.parties] == ["alice"]
        alice.type("echo af''ter\n")
        await alice.sees("after")
        assert b"by-bob" not in alice.shown


async def test_a_namesake_of_another_cluster_is_a_stranger(launcher_end: LauncherEnd) -> None:
    """Threat T27: a certificate of another authority is not let in, whatever name it carries."""
    async with cast(launcher_end) as (lab, those):
        _, sid = await begun(those)
        own, lab.authorities = lab.authorities, Authorities("other.test")
        lab.authorities.host_key = own.host_key
        with pytest.raises(AccessDenied):
            await those.joined("alice", sid=sid)
        assert not lab.events.named("session.join")


async def test_joining_asks_for_a_second_factor_like_a_session(launcher_end: LauncherEnd) -> None:
    """Threat T35: nobody joins who would get no session of their own."""
    async with cast(launcher_end) as (lab, those):
        _, sid = await begun(those)
        client = await those.client("bob", "watch")
        lab.rules.cluster = ClusterDefaults(require_session_mfa=True)
        with pytest.raises(AccessDenied, match="second factor"):
            await client.start(environment={"TELEPORT_SESSION": sid}, on_output=lambda data, stderr: None)
        with pytest.raises(AccessDenied, match="second factor"):
            await those.joined("bob", "watch", sid=sid)
        assert not lab.events.named("session.join")


async def test_what_a_proxy_records_is_not_joined_past_it(launcher_end: LauncherEnd) -> None:
    """Who reaches the node by another way would be in a session of which nothing they do is recorded."""
    async with cast(launcher_end) as (lab, those):
        client = await those.client("alice", recorded_by=str(lab.proxy_host.host_id))
        sid, shown = str(uuid4()), bytearray()
        await client.start(
            command="echo ready; exec cat",
            terminal=TerminalRequest("xterm", TerminalSize(80, 24)),
            environment={vouch.RECORDED_AS: sid},
            on_output=lambda data, stderr: shown.extend(data),
        )
        await wait_until(lambda: b"ready" in shown)
        for name, roles in (("alice", ()), ("bob", ("pair",))):
            refused = await those.joined(name, *roles, sid=sid)
            assert await ended(refused) == 255
        assert await those.sid() == sid
        assert not lab.events.named("session.join")
        assert tracked(lab.node.tools.registry) == []


async def test_nobody_takes_every_place(launcher_end: LauncherEnd) -> None:
    """One user joins a session so many times; there is room for others."""
    async with cast(launcher_end) as (_, those):
        alice, sid = await begun(those)
        client = await those.client("bob", "watch")
        terminal = TerminalRequest("xterm", TerminalSize(80, 24))
        parts = [
            await client.start(
                terminal=terminal, environment={"TELEPORT_SESSION": sid}, on_output=lambda data, stderr: None
            )
            for _ in range(MOST_OF_ONE + 1)
        ]
        assert (await parts[-1].wait()).status == 255
        own = await those.joined("alice", sid=sid)
        await own.sees("ready")
        alice.type("exit 0\n")
        assert await ended(own) == 0


async def test_a_viewers_terminal_is_not_driven(launcher_end: LauncherEnd) -> None:
    """Threat T44 for what is watched live and for the last output: no clipboard, no questions, no titles."""
    async with cast(launcher_end) as (_, those):
        alice, sid = await begun(those)
        alice.type(f"{HOSTILE}; echo f''irst\n")
        await alice.sees("first")
        bob = await those.joined("bob", "watch", sid=sid)
        own = await those.joined("alice", sid=sid)
        await bob.sees("first")
        await own.sees("first")
        alice.type(f"{HOSTILE}; echo sec''ond\n")
        await bob.sees("second")
    assert DRIVING[0] in alice.shown
    for shown in (bob.shown, own.shown[: own.shown.index(b"first")]):
        assert not [found for found in DRIVING if found in shown]
        assert b"\x1b[31mred" in shown


async def test_a_peers_terminal_is_not_driven_once_the_user_has_left(launcher_end: LauncherEnd) -> None:
    """Who is waited for now sees the session as before: cleaned."""
    async with cast(launcher_end) as (lab, those):
        alice, sid = await begun(those)
        bob = await those.joined("bob", "pair", sid=sid, mode="peer")
        await bob.sees("ready")
        await alice.leave()
        await bob.sees("alice has left this session.")
        bob.type(f"{HOSTILE}; echo do''ne\n")
        await bob.sees("done")
        await wait_until(lambda: b"]52;" in lab.recordings.all[0].stdout)
    assert not [found for found in DRIVING if found in bob.shown]
    assert b"\x1b[31mred" in bob.shown
