"""Which running sessions auth knows of, and whom it tells (threats T27, T34, T47)."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.audit.events import SessionEnd, SessionStart, encode_event, new_event
from teleport.auth.caller import Caller
from teleport.auth.sessions.claims import Claims
from teleport.auth.sessions.opened import OPEN, OpenSession, SessionTracker
from teleport.auth.sessions.trackers import EPOCHS, MOST, SessionTrackers
from teleport.backend.interface import DeleteOp, PutOp
from teleport.errors import AccessDenied, BadRequest, LimitExceeded
from teleport.identity import HostIdentity, SystemRole
from teleport.resources.codec import to_json
from teleport.resources.joining import JoinMode, JoinPolicy
from teleport.resources.metadata import Metadata
from teleport.resources.role import Conditions, Role, RoleSpec, Rule
from teleport.resources.server import Server, ServerSpec
from teleport.testing.auth import Credentials, RunningAuth, running_auth
from teleport.testing.clock import FakeClock

START = datetime(2026, 11, 28, tzinfo=UTC)
LOGINS = {"logins": ["root"]}


def told(user: str = "alice", **changes: object) -> m.TrackedSession:
    one = m.TrackedSession(
        sid=str(uuid.uuid4()),
        user=user,
        login="root",
        roles=["access"],
        started=START,
        state="running",
        parties=[m.SessionPartyInfo(user=user, mode="peer")],
    )
    return msgspec.structs.replace(one, **changes)


async def tell(auth: RunningAuth, node: Credentials, *sessions: m.TrackedSession, epoch: str = "1") -> None:
    await auth.call(node, routes.TRACK_SESSIONS, m.TrackSessionsRequest(epoch=epoch, sessions=list(sessions)))


async def seen(auth: RunningAuth, who: Credentials) -> dict[str, list[str]]:
    """The sessions that somebody sees, and how they may be joined."""
    found = await auth.call(who, routes.RUNNING_SESSIONS, m.Empty())
    return {one.sid: one.modes for one in found.sessions}


async def role(auth: RunningAuth, name: str, **conditions: object) -> None:
    made = Role(metadata=Metadata(name=name), spec=RoleSpec(allow=Conditions(**conditions)))  # type: ignore[arg-type]
    request = m.StoreRequest(item=m.Document(to_json(made)))
    await auth.call(await auth.admin(), routes.STORE["role"], request)


async def node_named(auth: RunningAuth, name: str) -> Credentials:
    node = await auth.host(SystemRole.NODE)
    server = Server(
        kind="node",
        metadata=Metadata(name=node.host_id, labels={"env": "prod"}),
        spec=ServerSpec(addr="192.0.2.1:22", hostname=name, epoch="1"),
    )
    await auth.call(node, routes.HEARTBEAT, m.HeartbeatRequest(item=m.Document(to_json(server))))
    return node


async def test_each_sees_what_they_may_join_or_list(tmp_path: Path) -> None:
    """Own sessions, those that join_sessions opens on hosts that one may enter, those that a rule shows; else none."""
    policy = JoinPolicy(roles=("access",), kinds=("ssh",), modes=(JoinMode.OBSERVER,))
    async with running_auth(tmp_path) as auth:
        node = await node_named(auth, "web-1")
        await role(auth, "watch", join_sessions=(policy,))
        where = 'contains(session.participants, "carol")'
        await role(auth, "carols", rules=(Rule(resources=("session",), verbs=("list",), where=where),))
        alice = await auth.user("alice", ["access"], traits=LOGINS)
        carol_there = [m.SessionPartyInfo(user="alice", mode="peer"), m.SessionPartyInfo(user="carol", mode="observer")]
        one, two = told(), told(parties=carol_there)
        await tell(auth, node, one, two)
        assert await seen(auth, alice) == {sid.sid: ["observer", "peer"] for sid in (one, two)}
        nobody = {
            "stranger": await auth.user("mallory", ["access"], traits=LOGINS),
            "with a join role and no login there": await auth.user("eve", ["watch"], traits=LOGINS),
        }
        for who in nobody.values():
            assert await seen(auth, who) == {}
        watcher = await auth.user("bob", ["access", "watch"], traits=LOGINS)
        assert await seen(auth, watcher) == {one.sid: ["observer"], two.sid: ["observer"]}
        elsewhere = await auth.user("dan", ["access", "watch"], traits={"logins": ["guest"]})
        assert await seen(auth, elsewhere) == {}, "the session's login is not theirs"
        by_rule = await auth.user("ruth", ["carols"])
        assert await seen(auth, by_rule) == {two.sid: []}
        auditor = await auth.user("audrey", ["auditor"])
        assert await seen(auth, auditor) == {one.sid: [], two.sid: []}
        admin = await auth.call(await auth.admin(), routes.RUNNING_SESSIONS, m.Empty())
        assert [shown.hostname for shown in admin.sessions] == ["web-1", "web-1"], "as presence says, not the teller"
        for host in (node, await auth.host(SystemRole.PROXY)):
            with pytest.raises(AccessDenied):
                await auth.call(host, routes.RUNNING_SESSIONS, m.Empty())


async def test_one_process_replaces_what_it_told_and_what_it_does_not_repeat_is_forgotten(tmp_path: Path) -> None:
    """Keyed by host and epoch: during a restart both processes tell of their own."""
    async with running_auth(tmp_path) as auth:
        clock = auth.clock
        assert isinstance(clock, FakeClock)
        node, other = await node_named(auth, "a"), await node_named(auth, "b")
        alice = await auth.user("alice", ["access"], traits=LOGINS)
        one, two, three, four = told(), told(), told(), told()
        await tell(auth, node, one, two)
        await tell(auth, node, three, epoch="2")
        await tell(auth, other, four)
        assert set(await seen(auth, alice)) == {sid.sid for sid in (one, two, three, four)}
        await tell(auth, node, two)
        await tell(auth, other)
        assert set(await seen(auth, alice)) == {two.sid, three.sid}
        clock.advance(90)
        await tell(auth, node, two)
        clock.advance(20)
        assert set(await seen(auth, alice)) == {two.sid}


async def test_no_host_takes_the_place_of_one_on_which_a_session_began(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        alice = await auth.user("alice", ["access"], traits=LOGINS)
        nodes = [await node_named(auth, name) for name in ("a", "b")]
        for node, other in (nodes, nodes[::-1]):
            sid = str(uuid.uuid4())
            start = OpenSession(
                sid=sid, host_id=node.host_id, hostname="x", user="alice", login="root", started=START, interactive=True
            )
            await auth.service.state.backend.commit([PutOp(OPEN + sid, msgspec.json.encode(start))])
            await tell(auth, other, told("alice", sid=sid, command="of another"))
            for own in ("", "of its own"):
                if own:
                    await tell(auth, node, told(sid=sid, command=own))
                shown = (await auth.call(alice, routes.RUNNING_SESSIONS, m.Empty())).sessions
                assert {one.host_id: (one.user, one.command) for one in shown} == {
                    node.host_id: ("alice", own), other.host_id: ("alice", "of another"),
                }  # fmt: skip
            for host in nodes:
                await tell(auth, host)
            await auth.service.state.backend.commit([DeleteOp(OPEN + sid)])


async def test_each_host_that_claims_a_session_is_shown_and_the_id_alone_means_none_of_them(tmp_path: Path) -> None:
    """In whatever order, with a start of one or without, and of who is left when the other has ended."""
    async with running_auth(tmp_path) as auth:
        alice = await auth.user("alice", ["access"], traits=LOGINS)
        nodes = [await node_named(auth, name) for name in ("a", "b")]
        tracker = SessionTracker(auth.service.state.backend)

        async def shown(sid: str) -> dict[str, bool]:
            found = await auth.call(alice, routes.RUNNING_SESSIONS, m.Empty())
            return {one.host_id: one.disputed for one in found.sessions if one.sid == sid}

        for node, other in (nodes, nodes[::-1]):
            one = told()
            await tell(auth, node, one)
            assert await shown(one.sid) == {node.host_id: False}
            await tell(auth, other, one)
            assert set(await shown(one.sid)) == {node.host_id, other.host_id}
            event = {"sid": one.sid, "server_id": node.host_id, "user": "alice", "login": "root"}
            start = new_event(SessionStart, START, "u-1", interactive=True, **event)
            await tracker.append([encode_event(start)])
            assert set(await shown(one.sid)) == {node.host_id, other.host_id}
            await tracker.append([encode_event(new_event(SessionEnd, auth.clock.now(), "u-2", **event))])
            await tell(auth, node)
            assert await shown(one.sid) == {other.host_id: True}
            await tell(auth, other)


async def test_a_host_tells_of_four_processes_and_of_one_report_at_a_time(tmp_path: Path) -> None:
    """More is refused with words, whatever there is of other hosts, and taken once there is room."""
    async with running_auth(tmp_path) as auth:
        clock = auth.clock
        assert isinstance(clock, FakeClock)
        node, other = await node_named(auth, "a"), await node_named(auth, "b")
        alice = await auth.user("alice", ["access"], traits=LOGINS)
        sessions = [told() for _ in range(EPOCHS + 1)]
        for epoch, one in enumerate(sessions[:-1]):
            await tell(auth, node, one, epoch=str(epoch))
        with pytest.raises(LimitExceeded, match=rf"{EPOCHS} processes of host {node.host_id}"):
            await tell(auth, node, sessions[-1], epoch="9")
        await tell(auth, other, another := told(), epoch="9")
        await tell(auth, node, sessions[0], epoch="0")
        assert set(await seen(auth, alice)) == {one.sid for one in [*sessions[:-1], another]}
        await tell(auth, node, epoch="0")
        await tell(auth, node, sessions[-1], epoch="9")
        assert set(await seen(auth, alice)) == {one.sid for one in [*sessions[1:], another]}
        clock.advance(101)
        await tell(auth, node, sessions[0], epoch="10")
        assert set(await seen(auth, alice)) == {sessions[0].sid}


async def test_while_a_host_brings_reports_without_end_others_wait_for_none_of_them(tmp_path: Path) -> None:
    """Taken are as many at once as honest processes bring; and what they cost is not done under the lock of intake."""
    async with running_auth(tmp_path, sqlite=True) as auth:
        state = auth.service.state
        claims = Claims(state.backend, state.clock)
        trackers = SessionTrackers(state, auth.service.authorizer, claims)
        node, other = await node_named(auth, "a"), await node_named(auth, "b")
        expires = state.clock.now() + timedelta(hours=1)
        callers = {
            host: Caller(HostIdentity(host.host_id, state.cluster, SystemRole.NODE, expires), "192.0.2.1:4000")
            for host in (node, other)
        }
        sessions = [told() for _ in range(MOST)]
        request = m.TrackSessionsRequest(epoch="1", sessions=sessions)
        await claims.lock.acquire()  # as intake holds it
        try:
            async with asyncio.timeout(60):
                flood = [asyncio.create_task(trackers.track(callers[node], request)) for _ in range(30)]
                await trackers.track(callers[other], m.TrackSessionsRequest(epoch="1", sessions=[told()]))
                answers = await asyncio.gather(*flood, return_exceptions=True)
        finally:
            claims.lock.release()
        assert sum(isinstance(answer, m.Done) for answer in answers) == EPOCHS
        refused = [answer for answer in answers if isinstance(answer, LimitExceeded)]
        assert len(refused) == 30 - EPOCHS
        await trackers.track(callers[node], request)


async def test_a_session_that_waits_says_for_whom(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        node = await node_named(auth, "a")
        await tell(auth, node, told(state="waiting", missing="somebody as moderator (four eyes)"))
        alice = await auth.user("alice", ["access"], traits=LOGINS)
        (one,) = (await auth.call(alice, routes.RUNNING_SESSIONS, m.Empty())).sessions
    assert (one.state, one.missing) == ("waiting", "somebody as moderator (four eyes)")
    assert one.host_id == node.host_id


@pytest.mark.parametrize(
    "wrong",
    [
        {"sid": "../../x"},
        {"user": "x" * 600},
        {"roles": ["r"] * 600},
        {"command": "y" * 600},
        {"started": datetime(2026, 11, 28)},  # noqa: DTZ001 - which could not be put in order with others
        {"started": datetime.fromisoformat("0001-01-01T00:00:00+14:00")},
    ],
    ids=["id", "user", "roles", "command", "no zone", "no time in UTC"],
)
async def test_what_no_node_tells_is_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    async with running_auth(tmp_path) as auth:
        node = await auth.host(SystemRole.NODE)
        with pytest.raises(BadRequest):
            await tell(auth, node, msgspec.structs.replace(told(), **wrong))
        with pytest.raises(BadRequest):
            await tell(auth, node, told(), epoch="1/../2")


async def test_ending_somebodys_session_needs_the_right_to_lock(tmp_path: Path) -> None:
    """Threat T27: neither the session's own user nor who may see it ends it by its id."""
    from teleport.resources.lock import Lock, LockSpec, LockTarget

    async with running_auth(tmp_path) as auth:
        node = await node_named(auth, "a")
        one = told()
        await tell(auth, node, one)
        lock = Lock(metadata=Metadata(name="l"), spec=LockSpec(target=LockTarget(session=one.sid)))
        request = m.StoreRequest(item=m.Document(to_json(lock)))
        for name, roles in (("mallory", ["access"]), ("audrey", ["auditor"])):
            with pytest.raises(AccessDenied):
                await auth.call(await auth.user(name, roles), routes.STORE["lock"], request)
        await auth.call(await auth.user("edith", ["editor"]), routes.STORE["lock"], request)
        created = await auth.events("lock.created")
        denied = await auth.events("api.denied", wait_for=2)
    assert created[0]["target"] == {"session": one.sid}
    assert {event["route"] for event in denied} == {"store_lock"}
