"""Joining a session in a pod at the proxy that leads there: who may, what they see, and what ends their part in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from tests.kube.test_kube_exec_session import ended, stream

from teleport.audit.events import SessionJoin, SessionLeave, SessionRequestDenied
from teleport.authz.decision import ClusterDefaults
from teleport.clock import Clock
from teleport.errors import AccessDenied
from teleport.kube.live import LiveSession
from teleport.recording.format.parties import PartyNote, decode_note
from teleport.resources.lock import Lock, LockSpec, LockTarget
from teleport.resources.metadata import Metadata
from teleport.resources.parse import parse_resources
from teleport.resources.role import Role
from teleport.ssh.surface import TerminalSize
from teleport.testing.clock import FakeClock
from teleport.testing.kube_guests import Guests
from teleport.testing.kube_lab import Lab, kube_lab

ROLES = """
kind: role
version: v5
metadata: {name: watch}
spec:
  allow:
    kubernetes_labels: {'*': '*'}
    kubernetes_groups: [developers]
    join_sessions: [{roles: [dev], kinds: [k8s], modes: [observer]}]
---
kind: role
version: v5
metadata: {name: help}
spec:
  allow:
    kubernetes_labels: {'*': '*'}
    kubernetes_groups: [developers]
    join_sessions: [{roles: [dev], kinds: ['*'], modes: [peer, moderator]}]
---
kind: role
version: v5
metadata: {name: hosts}
spec:
  allow:
    kubernetes_labels: {'*': '*'}
    kubernetes_groups: [developers]
    join_sessions: [{roles: ['*'], kinds: [ssh], modes: [peer]}]
---
kind: role
version: v5
metadata: {name: reader}
spec:
  allow:
    kubernetes_labels: {'*': '*'}
    kubernetes_groups: [developers]
    kubernetes_resources: [{kind: pods, namespace: '*', verbs: [get, list]}]
    join_sessions: [{roles: ['*'], kinds: [k8s], modes: [peer]}]
---
kind: role
version: v5
metadata: {name: elsewhere}
spec:
  allow:
    kubernetes_labels: {env: prod}
    kubernetes_groups: [developers]
    join_sessions: [{roles: ['*'], kinds: [k8s], modes: [peer]}]
---
kind: role
version: v5
metadata: {name: no-pods}
spec: {allow: {join_sessions: [{roles: ['*'], kinds: ['*'], modes: [peer]}]}}
---
kind: role
version: v5
metadata: {name: two-users}
spec:
  allow:
    kubernetes_labels: {'*': '*'}
    kubernetes_users: [one, two]
    join_sessions: [{roles: ['*'], kinds: [k8s], modes: [observer]}]
---
kind: role
version: v5
metadata: {name: watched}
spec:
  allow:
    kubernetes_labels: {'*': '*'}
    kubernetes_groups: [developers]
    join_sessions: [{roles: ['*'], kinds: [k8s], modes: [peer, observer]}]
    require_session_join: [{filter: 'contains(user.spec.roles, "auditor")', kinds: [k8s], modes: [peer]}]
---
kind: role
version: v5
metadata: {name: factor}
spec:
  options: {require_session_mfa: true}
  allow:
    kubernetes_labels: {'*': '*'}
    kubernetes_groups: [developers]
    join_sessions: [{roles: ['*'], kinds: [k8s], modes: [peer]}]
---
kind: role
version: v5
metadata: {name: brief}
spec:
  options: {client_idle_timeout: 1s, max_connections: 1}
  allow:
    kubernetes_labels: {'*': '*'}
    kubernetes_groups: [developers]
    join_sessions: [{roles: ['*'], kinds: [k8s], modes: [observer]}]
"""
NOBODY = "00000000-0000-4000-8000-000000000000"
NO_SUCH = "There is no session with this id here that you may join. Next: tsh sessions ls shows those there are."


@dataclass
class Shared:
    """A terminal of alice's in a pod, which echoes what is typed (`cat`)."""

    lab: Lab
    guests: Guests
    socket: aiohttp.ClientWebSocketResponse
    session: LiveSession
    shown: bytes = b""

    @property
    def sid(self) -> str:
        return self.session.about.sid

    async def types(self, text: bytes) -> None:
        await self.socket.send_bytes(b"\x00" + text)

    async def sees(self, text: bytes) -> None:
        async with asyncio.timeout(10):
            while text not in self.shown:
                self.shown += (await self.socket.receive_bytes())[1:]

    def reconsider(self) -> None:
        """As the daemon does when something changes."""
        assert self.lab.server is not None
        self.lab.server.reconsider()
        self.guests.service.reconsider()

    async def refusal(self, sid: str, role: str, mode: str = "", user: str = "bob") -> str:
        """What somebody reads who may not join."""
        async with self.guests.guest(sid, user, role, mode) as guest:
            await guest.over()
            return guest.shown.decode().strip()


@asynccontextmanager
async def shared(folder: Path, *, call: str = "exec", clock: Clock | None = None) -> AsyncIterator[Shared]:
    async with kube_lab(folder) as lab:
        guests = Guests(lab, clock)
        lab.roles |= {role.name: role for role in parse_resources(ROLES, "roles.yaml") if isinstance(role, Role)}
        words = ("sh", "-c", "stty -echo raw; echo ready; exec cat")
        async with stream(lab, *words, more="&tty=true", call=call) as found:
            session = await guests.running()
            assert session is not None
            yield Shared(lab, guests, found, session)


async def test_one_watches_and_one_types_along(tmp_path: Path) -> None:
    """The one who comes later sees what was shown; who only watches types nothing; all of it is on record."""
    async with shared(tmp_path) as run:
        await run.types(b"first ")
        await run.sees(b"first")
        async with run.guests.guest(run.sid) as bob:
            await bob.sees(b"ready")
            await bob.sees(b"first ")
            await run.sees(b"bob has joined this session as observer.")
            bob.types(b"smuggled")
            await bob.sees(b"what you type is not passed on")
            async with run.guests.guest(run.sid, "carol", "help", "peer") as carol:
                await carol.sees(b"first ")
                await run.sees(b"carol has joined this session as peer.")
                carol.types(b"by carol ")
                for one in (bob, carol):
                    await one.sees(b"by carol ")
                await run.sees(b"by carol ")
                await run.types(b"by alice ")
                await carol.sees(b"by alice ")
                assert carol.session is not None
                carol.session.resize(TerminalSize(61, 17))
                await run.lab.events.wait_for("resize", 2)
                carol.types(b"\x03")  # of a peer it is a key as any other
            await run.sees(b"carol has left this session.")
            bob.types(b"\x03")
            assert await bob.over() == 0
        await run.socket.close()
        end, recording = await ended(run.lab)
    assert end.participants == ["alice", "bob", "carol"]
    assert b"smuggled" not in recording.stdout
    assert b"by carol by alice " in recording.stdout
    assert b"has joined" not in recording.stdout
    assert recording.sizes[-1] == (61, 17)
    notes = [decode_note(text.encode()) for text in recording.notes]
    assert [(one.action, one.user) for one in notes if isinstance(one, PartyNote)][:3] == [
        ("there", "alice"),
        ("joined", "bob"),
        ("joined", "carol"),
    ]
    joins = run.lab.events.named("session.join")
    first = joins[0]
    assert isinstance(first, SessionJoin)
    assert (first.user, first.mode, first.granted_by, first.proto) == ("bob", "observer", "watch", "kube")
    assert (first.sid, first.kubernetes_pod_name, first.kubernetes_cluster) == (run.sid, "web", "one")
    (left, _) = await run.lab.events.wait_for("session.leave", 2)
    assert isinstance(left, SessionLeave)
    assert (left.user, left.mode) == ("carol", "peer")


async def test_attached_terminals_are_joined_too(tmp_path: Path) -> None:
    async with shared(tmp_path, call="attach") as run:
        await run.types(b"hello")
        async with run.guests.guest(run.sid) as bob:
            await bob.sees(b"hello")


@pytest.mark.parametrize("role", ["dev", "hosts", "reader", "elsewhere", "no-pods"])
async def test_a_stranger_learns_nothing(tmp_path: Path, role: str) -> None:
    """Nobody's rule, a rule for sessions on hosts, no right to exec there, none to the cluster, none to pods at all:
    the same sentence as for an id that nobody has; the record says why."""
    async with shared(tmp_path) as run:
        assert await run.refusal(run.sid, role) == NO_SUCH
        assert await run.refusal(NOBODY, role) == NO_SUCH
        events = await run.lab.events.wait_for("session.request_denied", 2)
        assert all(isinstance(event, SessionRequestDenied) and event.user == "bob" for event in events)
        assert run.lab.events.named("session.join") == []


async def test_what_may_be_told(tmp_path: Path) -> None:
    """Whoever may join in another mode hears in which; whoever needs a second factor, or others, hears that."""
    async with shared(tmp_path) as run:
        assert "You may not join this session as peer" in await run.refusal(run.sid, "watch", "peer")
        assert "You may not join this session as peer" in await run.refusal(run.sid, "watched", "peer")
        assert "second factor" in await run.refusal(run.sid, "factor")
        assert await run.refusal(NOBODY, "factor") == NO_SUCH
        async with run.guests.guest(run.sid, "bob", "two-users") as bob:
            await bob.sees(b"ready")


async def test_ones_own_session(tmp_path: Path) -> None:
    """Needs no rule, and nobody moderates it; another cluster's user of the same name is somebody else."""
    async with shared(tmp_path) as run:
        async with run.guests.guest(run.sid, "alice", "dev") as again:
            await again.sees(b"ready")
            again.types(b"x")
            await again.sees(b"x")
        assert "may not join this session as moderator" in await run.refusal(run.sid, "help", "moderator", "alice")


async def test_a_moderator_ends_it(tmp_path: Path) -> None:
    async with shared(tmp_path) as run, run.guests.guest(run.sid, "bob", "help", "moderator") as bob:
        await bob.sees(b"ready")
        bob.types(b"t")
        await bob.sees(b"This session was ended: bob ended it as moderator.")
        end, _ = await ended(run.lab)
        assert end.reason == "bob ended it as moderator"


@pytest.mark.parametrize("change", ["lock", "role", "user", "mode", "place"])
async def test_who_may_not_be_there_any_more_leaves(tmp_path: Path, change: str) -> None:
    """At once, and the session goes on."""
    async with shared(tmp_path) as run, run.guests.guest(run.sid) as bob:
        await bob.sees(b"ready")
        match change:
            case "lock":
                lock = LockSpec(target=LockTarget(user="bob"))
                run.lab.locks.append(Lock(metadata=Metadata(name="l"), spec=lock))
            case "role":
                del run.lab.roles["watch"]
            case "user":
                run.lab.gone.add("bob")
            case "mode":
                run.lab.roles["watch"] = run.lab.roles["hosts"]
            case "place":
                run.lab.clusters.pop("one")
                run.lab.roles["watch"] = run.lab.roles["no-pods"]
        run.reconsider()
        assert await bob.over() == 255
        await run.types(b"still here")
        await run.sees(b"bob has left this session.")
        await run.sees(b"still here")
        assert b"still here" not in bob.shown


async def test_a_part_ends_with_its_certificate(tmp_path: Path) -> None:
    nearly = FakeClock(datetime.now(UTC) + timedelta(seconds=55))
    async with (
        shared(tmp_path, clock=nearly) as run,
        run.guests.guest(run.sid, ttl=timedelta(minutes=1)) as bob,
    ):
        await bob.sees(b"ready")
        await bob.sees(b"the certificate has expired")
        assert await bob.over() == 255
        await run.sees(b"bob has left this session.")


async def test_limits_hold_for_who_joins(tmp_path: Path) -> None:
    """Their connection counts; it is not idle while somebody types, and ends when nobody does."""
    async with shared(tmp_path) as run, run.guests.guest(run.sid, "bob", "brief") as bob:
        await bob.sees(b"ready")
        assert "Your roles allow 1 connections" in await run.refusal(run.sid, "brief")
        loop = asyncio.get_running_loop()
        until = loop.time() + 1.5
        while loop.time() < until:
            await run.types(b"k")
            run.shown = b""
            await run.sees(b"k")
        assert b"idle" not in bob.shown
        assert await bob.over() == 255
        assert b"idle for more than 1 s" in bob.shown
        await run.guests.control.wait_held(0)


async def test_a_lock_on_the_session_ends_it(tmp_path: Path) -> None:
    async with shared(tmp_path) as run, run.guests.guest(run.sid) as bob:
        await bob.sees(b"ready")
        target = LockTarget(session=run.sid)
        run.lab.locks.append(Lock(metadata=Metadata(name="l"), spec=LockSpec(target=target)))
        run.reconsider()
        await bob.sees(b"This session was ended: an administrator ended it.")
        end, _ = await ended(run.lab)
        assert end.reason == "an administrator ended it"
        await run.guests.running(0)


async def test_it_ends_with_who_began_it(tmp_path: Path) -> None:
    async with shared(tmp_path) as run, run.guests.guest(run.sid, "bob", "help", "peer") as bob:
        await bob.sees(b"ready")
        await run.socket.close()
        await bob.sees(b"who began it has left")
        assert await run.refusal(run.sid, "help") == NO_SUCH


async def test_nobody_joins_what_is_not_on_record(tmp_path: Path) -> None:
    async with shared(tmp_path) as run:
        run.lab.events.failing = True
        assert "cannot write its audit log now" in await run.refusal(run.sid, "watch")
        assert run.shown == b""


@pytest.mark.parametrize("what", ["no session", "a command"])
async def test_nothing_else_is_done_there(tmp_path: Path, what: str) -> None:
    async with shared(tmp_path) as run:
        asked = ("", None) if what == "no session" else (run.sid, "id")
        async with run.guests.guest(asked[0], command=asked[1]) as bob:
            await bob.sees(b"Sessions in pods are joined here, and nothing is started. Next: tsh join SESSION.")
            assert await bob.over() != 0


async def test_strangers_do_not_get_in(tmp_path: Path) -> None:
    """Neither who is locked, nor who shows a certificate of nobody's."""
    async with shared(tmp_path) as run:
        run.lab.locks.append(Lock(metadata=Metadata(name="l"), spec=LockSpec(target=LockTarget(user="bob"))))
        with pytest.raises(AccessDenied, match="Access is locked"):
            await run.refusal(run.sid, "watch")
        with pytest.raises(AccessDenied, match="You have no role any more"):
            await run.refusal(run.sid, "gone", user="erin")
        run.lab.gone.add("dave")
        with pytest.raises(AccessDenied, match="does not exist any more"):
            await run.refusal(run.sid, "watch", user="dave")


async def test_what_has_no_terminal_or_no_recording_is_not_joined(tmp_path: Path) -> None:
    async with kube_lab(tmp_path) as lab:
        guests = Guests(lab)
        async with stream(lab, "cat"):
            await lab.events.wait_for("session.start")
            assert list(guests.live) == []
        lab.defaults = ClusterDefaults(record_sessions=False)
        async with stream(lab, "cat", more="&tty=true") as found:
            await found.send_bytes(b"\x00a")
            await found.receive_bytes()
            assert list(guests.live) == []


async def test_what_both_type_arrives_whole(tmp_path: Path) -> None:
    """Each in frames of their own."""
    async with shared(tmp_path) as run, run.guests.guest(run.sid, "bob", "help", "peer") as bob:
        await bob.sees(b"ready")
        got = b""
        async with asyncio.timeout(20):
            for turn in range(1, 11):  # a terminal takes 4 KiB at a time
                bob.types(b"B" * 1000)
                await run.types(b"A" * 1000)
                while got.count(b"B") < turn * 1000 or got.count(b"A") < turn * 1000:
                    got += (await run.socket.receive_bytes())[1:]
        assert (got.count(b"A"), got.count(b"B")) == (10_000, 10_000)
