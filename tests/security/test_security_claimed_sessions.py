"""A hostile host of the cluster knows the id of a session on another host, whose spool is late, and comes first.

Nothing that it says of the session prevents, replaces or hides what the true host says later (threats T41, T43); that
two hosts claim one id is on record, with both. Each test speaks to auth as hosts do, with certificates of the cluster.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from pathlib import Path

import pytest
from tests.security.test_security_recordings import RecordingHost, _read, _reviewer, _rule

from teleport.api import messages as m
from teleport.api import routes
from teleport.audit.events import SessionEnd, SessionStart
from teleport.client.joining import find_session
from teleport.errors import AccessDenied, BadRequest, NotFound
from teleport.identity import SystemRole
from teleport.testing.auth import RunningAuth, running_auth


async def _pair(auth: RunningAuth) -> tuple[RecordingHost, RecordingHost, str]:
    """A hostile host, a true one, and the id of a session of the true one."""
    return await RecordingHost.join(auth), await RecordingHost.join(auth), str(uuid.uuid4())


async def _conflict(auth: RunningAuth, sid: str, *hosts: RecordingHost) -> list[str]:
    """What was claimed in the conflicts about a session that are on record, each of which names all `hosts`."""
    found = await auth.events("session.conflict", where=lambda event: event["sid"] == sid)
    assert {event["code"] for event in found} == {"T9340W"}
    for event in found:
        assert {event["server_id"], *event["others"]} == {host.host_id for host in hosts}
    return [event["claim"] for event in found]


async def test_an_end_that_a_stranger_tells_first_leaves_the_session_its_own(tmp_path: Path) -> None:
    """Both ends are on record, the true one as the one that counts for its host, and only a second one of the same host
    is a supplement."""
    async with running_auth(tmp_path, sqlite=True) as auth:
        hostile, true, sid = await _pair(auth)
        await hostile.tell(SessionEnd, sid, user="mallory")
        await hostile.tell(SessionEnd, sid, user="mallory", server_id="")
        for cls in (SessionStart, SessionEnd, SessionEnd):
            await true.tell(cls, sid, user="joe")
        ends = await auth.events("session.end", wait_for=4)
        marked = [(event["emitter"], event.get("supplement", False)) for event in ends]
        assert sorted(marked) == sorted((host.host_id, late) for host in (hostile, true) for late in (False, True))
        assert await _conflict(auth, sid, hostile, true) == ["session.start"]
        report = await auth.call(await auth.admin(), routes.VERIFY_EVENTS, m.Empty())
        assert (report.ok, report.problems) == (True, [])


async def test_a_start_that_a_stranger_tells_first_hides_no_running_session(tmp_path: Path) -> None:
    """It is listed on its own host, as its own host says; and the other one on its host, as on record."""
    async with running_auth(tmp_path, sqlite=True) as auth:
        hostile, true, sid = await _pair(auth)
        admin = await auth.admin()

        async def running() -> dict[str, tuple[str, str]]:
            found = await auth.call(admin, routes.RUNNING_SESSIONS, m.Empty())
            return {one.host_id: (one.sid, one.user) for one in found.sessions}

        await hostile.tell(SessionStart, sid, user="mallory", interactive=True)
        await hostile.track(sid, user="mallory")
        await true.track(sid, user="joe")
        assert await _conflict(auth, sid, hostile, true) == ["running"]
        await true.tell(SessionStart, sid, user="joe", interactive=True)
        both = {hostile.host_id: (sid, "mallory"), true.host_id: (sid, "joe")}
        assert await running() == both
        await true.track(sid, user="joe")
        assert await running() == both
        for name, told in ((sid, "2 hosts claim"), (f"{sid}.{true.host_id}", "this session of joe")):
            with auth.client(admin) as client, pytest.raises((BadRequest, AccessDenied), match=told):
                await asyncio.to_thread(find_session, client, name)
        await hostile.track()
        await hostile.tell(SessionEnd, sid, user="mallory")
        assert await running() == {true.host_id: (sid, "joe")}, "an end is of the session on the host that tells it"
        assert await _conflict(auth, sid, hostile, true) == ["running"], "told once"


@pytest.mark.parametrize("first", [SessionStart, SessionEnd])
async def test_nothing_that_a_stranger_tells_hides_a_session_whose_start_is_late(
    tmp_path: Path, first: type[SessionStart] | type[SessionEnd]
) -> None:
    """Both are listed, and nobody who joins by the id alone is led to the stranger, also when the true one is over."""
    async with running_auth(tmp_path, sqlite=True) as auth:
        hostile, true, sid = await _pair(auth)
        admin = await auth.admin()

        async def running() -> set[str]:
            return {one.host_id for one in (await auth.call(admin, routes.RUNNING_SESSIONS, m.Empty())).sessions}

        async def join(name: str) -> str:
            with auth.client(admin) as client, pytest.raises((BadRequest, AccessDenied)) as refused:
                await asyncio.to_thread(find_session, client, name)
            return str(refused.value)

        await true.track(sid, user="joe")
        await hostile.tell(first, sid, user="mallory", interactive=True)
        await hostile.track(sid, user="mallory")
        assert await running() == {hostile.host_id, true.host_id}
        assert "2 hosts claim" in await join(sid)
        assert "this session of joe" in await join(f"{sid}.{true.host_id}")
        await true.tell(SessionStart, sid, user="joe", interactive=True)
        await true.tell(SessionEnd, sid, user="joe")
        await true.track()
        assert await running() == {hostile.host_id}
        assert "which another host claims" in await join(sid)
        assert "this session of mallory" in await join(f"{sid}.{hostile.host_id}")
        await _conflict(auth, sid, hostile, true)


async def test_a_recording_that_a_stranger_brings_first_is_not_played_for_the_true_one(tmp_path: Path) -> None:
    """The true one is taken. Each is there under its host's name, lists show both, and neither is what the id means,
    also when the stranger has told of a start and the true host's has not come."""
    async with running_auth(tmp_path, sqlite=True) as auth:
        hostile, true, sid = await _pair(auth)
        admin = await auth.admin()
        await hostile.upload(sid, "joe", text=b"forged\n")
        forged = await _read(auth, admin, sid)
        await true.upload(sid, "joe", text=b"what happened\n")
        assert await _conflict(auth, sid, hostile, true) == ["recording"]
        with pytest.raises(BadRequest, match="2 hosts have brought"):
            await _read(auth, admin, sid)
        for host in (hostile, true):
            await host.tell(SessionStart, sid, user="joe")
            with pytest.raises(BadRequest, match="2 hosts have brought") as asked:
                await _read(auth, admin, sid)
            assert f"{sid}.{true.host_id}" in str(asked.value.hint)
        assert await _read(auth, admin, f"{sid}.{true.host_id}") != forged
        assert await _read(auth, admin, f"{sid}.{hostile.host_id}") == forged
        for newest_first in (True, False):
            page = await auth.call(admin, routes.LIST_RECORDINGS, m.ListRecordingsRequest(newest_first=newest_first))
            assert {one.node: (one.sid, one.name) for one in page.items} == {
                hostile.host_id: (sid, sid), true.host_id: (sid, f"{sid}.{true.host_id}"),
            }  # fmt: skip
        read = await auth.events("session_recording.access", wait_for=3)
        assert Counter(event["made_by"] for event in read) == {hostile.host_id: 2, true.host_id: 1}
        uploads = await auth.events("session.upload", wait_for=2)
        assert {event["server_id"] for event in uploads} == {hostile.host_id, true.host_id}
        verdicts = await auth.call(admin, routes.VERIFY_RECORDINGS, m.VerifyRecordingsRequest(sid=sid))
        assert [(one.ok, one.signed_by) for one in verdicts.items] == [(True, hostile.host_id), (True, true.host_id)]
        report = await auth.call(admin, routes.VERIFY_EVENTS, m.Empty())
        assert (report.ok, report.recordings) == (True, 2)
        found = await auth.call(admin, routes.SEARCH_RECORDINGS, m.SearchRecordingsRequest(text="what happened"))
        assert [(one.sid, one.name) for one in found.items] == [(sid, f"{sid}.{true.host_id}")]


async def test_a_strangers_recording_is_not_played_where_another_host_told_of_the_start(tmp_path: Path) -> None:
    """Also while the true one has not come, and when the stranger's is removed before it comes."""
    async with running_auth(tmp_path, sqlite=True) as auth:
        hostile, true, sid = await _pair(auth)
        admin = await auth.admin()
        await true.tell(SessionStart, sid, user="joe")
        await hostile.upload(sid, "joe", text=b"forged\n")
        with pytest.raises(BadRequest, match="another host") as refused:
            await _read(auth, admin, sid)
        assert f"{sid}.{hostile.host_id}" in str(refused.value.hint)
        with pytest.raises(NotFound):
            await _read(auth, admin, f"{sid}.{true.host_id}")
        (file,) = [path for path in auth.directory.rglob(f"{sid}.rec") if path.parent.name == "records"]
        file.unlink()
        await true.upload(sid, "joe", text=b"what happened\n")
        verdicts = await auth.call(admin, routes.VERIFY_RECORDINGS, m.VerifyRecordingsRequest(sid=sid))
        assert {one.sid: one.ok for one in verdicts.items} == {sid: False, f"{sid}.{true.host_id}": True}
        assert await _read(auth, admin, f"{sid}.{true.host_id}")


async def test_who_may_read_none_of_the_recordings_of_an_id_does_not_learn_that_there_are_several(
    tmp_path: Path,
) -> None:
    """Threat T34: the answer is that to any other id; and conditions hold for each recording by itself."""
    async with running_auth(tmp_path, sqlite=True) as auth:
        hostile, true, sid = await _pair(auth)
        await hostile.upload(sid, "joe", text=b"forged\n")
        await true.upload(sid, "boss", text=b"secret\n")
        eve = await auth.user("eve", ["access"])
        refusals = set()
        for asked in (sid, f"{sid}.{true.host_id}", f"{sid}.{uuid.uuid4()}", str(uuid.uuid4()), "../x", f"{sid}.x"):
            with pytest.raises(AccessDenied) as refused:
                await _read(auth, eve, asked)
            refusals.add(str(refused.value))
        assert len(refusals) == 1
        rita = await _reviewer(auth, allow={"rules": [_rule('!contains(session.participants, "boss")')]})
        with pytest.raises(BadRequest) as told:
            await _read(auth, rita, sid)
        assert true.host_id not in f"{told.value} {told.value.hint}"
        assert await _read(auth, rita, f"{sid}.{hostile.host_id}")
        with pytest.raises(AccessDenied):
            await _read(auth, rita, f"{sid}.{true.host_id}")


async def test_what_a_proxy_records_in_the_name_of_a_host_is_told_from_what_a_stranger_brings(tmp_path: Path) -> None:
    """The proxy's is the host's own, and found by the proxy's name; both come although the stranger told all first."""
    async with running_auth(tmp_path, sqlite=True) as auth:
        hostile, true, sid = await _pair(auth)
        proxy = await RecordingHost.join(auth, SystemRole.PROXY)
        await hostile.tell(SessionStart, sid, user="joe")
        await hostile.upload(sid, "joe", text=b"forged\n")
        await true.tell(SessionStart, sid, user="joe")
        await hostile.tell(SessionEnd, sid, user="joe")
        await proxy.upload(sid, "joe", text=b"what happened\n", node_id=true.host_id)
        admin = await auth.admin()
        played = await _read(auth, admin, f"{sid}.{proxy.host_id}")
        assert played != await _read(auth, admin, f"{sid}.{hostile.host_id}")
        found = await auth.events("session.conflict", wait_for=2)
        told = {(event["told_by"], event["server_id"], tuple(event["others"])) for event in found}
        assert told == {
            (true.host_id, true.host_id, (hostile.host_id,)),
            (proxy.host_id, true.host_id, (hostile.host_id,)),
        }
        for node in (hostile, true):
            with pytest.raises(BadRequest, match=r"recorded by another|signed"):
                await node.upload(str(uuid.uuid4()), "joe", node_id=hostile.host_id)
