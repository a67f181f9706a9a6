"""What a hostile host tells of its own sessions does nothing to auth, to others, or to what is long over.

Threats T41, T43. Each test speaks to auth as hosts do, with certificates of the cluster.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
from tests.security.test_security_recordings import RecordingHost, _read

from teleport.audit.events import SessionEnd, SessionJoin, SessionStart
from teleport.errors import AccessDenied, BadRequest
from teleport.identity import SystemRole
from teleport.testing.auth import running_auth
from teleport.testing.clock import FakeClock


@pytest.mark.parametrize("sid", ["s" * 967, "{sid}/x", "../{sid}", "s\u00e9"])
async def test_an_id_that_is_none_is_refused(tmp_path: Path, sid: str) -> None:
    """Keys of the storage are made of them. The chain of who wrote it ends there, and nobody else's."""
    async with running_auth(tmp_path) as auth:
        hostile, host = await RecordingHost.join(auth), await RecordingHost.join(auth)
        with pytest.raises(BadRequest, match="its sid is no id"):
            await hostile.tell(SessionStart, sid.format(sid=uuid.uuid4()), user="eve")
        await host.tell(SessionStart, str(uuid.uuid4()), user="joe")
        (event,) = await auth.events("session.start")
        assert event["user"] == "joe"


async def test_names_without_end_stop_no_event_of_auth(tmp_path: Path) -> None:
    """The end of a session that auth writes for a lost host fits, whatever the host said of who joined."""
    async with running_auth(tmp_path, sqlite=True) as auth:
        host = await RecordingHost.join(auth)
        sid = str(uuid.uuid4())
        await host.tell(SessionStart, sid, user="a")
        for number in range(33):
            await host.tell(SessionJoin, sid, user=f"{number:02}" + "\U0001f600" * 8000)
        lost = auth.service._lost_hosts
        await lost.step()
        assert isinstance(auth.clock, FakeClock)
        auth.clock.advance(700)
        assert await lost.step() == 1
        (end,) = await auth.events("session.end")
        assert (end["sid"], end["reason"]) == (sid, "node lost")
        await auth.user("later", ["access"])
        await auth.events("user.create", where=lambda event: event["name"] == "later")


async def test_a_second_end_lets_nobody_into_an_old_recording(tmp_path: Path) -> None:
    async with running_auth(tmp_path, sqlite=True) as auth:
        host = await RecordingHost.join(auth)
        sid = str(uuid.uuid4())
        await host.tell(SessionStart, sid, user="boss")
        await host.tell(SessionEnd, sid, user="boss", participants=["boss"])
        await host.upload(sid, "boss", text=b"SECRET")
        mallory = await auth.user("mallory", ["access"])
        await host.tell(SessionEnd, sid, user="boss", participants=["boss", "mallory"])
        with pytest.raises(AccessDenied):
            await _read(auth, mallory, sid)


@pytest.mark.parametrize("role", [SystemRole.NODE, SystemRole.PROXY])
@pytest.mark.parametrize(
    "way", ["start, join", "start, join, end", "start of mallory, end", "end with the uid of the first"]
)
async def test_nothing_told_after_the_end_lets_anybody_into_the_recording(
    tmp_path: Path, role: SystemRole, way: str
) -> None:
    """Of a node by itself, of a host with a plain sshd by the proxy that recorded it."""
    async with running_auth(tmp_path, sqlite=True) as auth:
        host = await RecordingHost.join(auth, role)
        plain, sid = str(uuid.uuid4()), str(uuid.uuid4())
        where = {"server_id": plain} if role is SystemRole.PROXY else {}
        first = str(uuid.uuid4())
        await host.tell(SessionStart, sid, user="boss", **where)
        await host.tell(SessionEnd, sid, uid=first, user="boss", participants=["boss"], **where)
        await host.upload(sid, "boss", text=b"SECRET", **({"node_id": plain} if where else {}))
        mallory = await auth.user("mallory", ["access"])
        if way.startswith("start"):
            await host.tell(SessionStart, sid, user="mallory" if "of mallory" in way else "boss", **where)
            await host.tell(SessionJoin, sid, user="bob" if "of mallory" in way else "mallory", **where)
        if "end" in way:
            guests = ["boss", "mallory"]
            uid = first if "uid" in way else ""
            await host.tell(SessionEnd, sid, uid=uid, user="boss", participants=guests, **where)
        with pytest.raises(AccessDenied):
            await _read(auth, mallory, sid)


@pytest.mark.parametrize("first", [True, False])
async def test_a_proxy_lets_nobody_into_what_another_one_recorded(tmp_path: Path, first: bool) -> None:
    """Whether its word comes before that of the one who recorded, or after it."""
    async with running_auth(tmp_path, sqlite=True) as auth:
        true = await RecordingHost.join(auth, SystemRole.PROXY)
        hostile = await RecordingHost.join(auth, SystemRole.PROXY)
        plain, sid = str(uuid.uuid4()), str(uuid.uuid4())
        guests: dict[str, Any] = {"participants": ["boss", "mallory"], "server_id": plain}
        if first:
            await hostile.tell(SessionEnd, sid, user="boss", **guests)
        await true.tell(SessionStart, sid, user="boss", server_id=plain)
        await true.tell(SessionEnd, sid, user="boss", server_id=plain, participants=["boss", "bob"])
        await true.upload(sid, "boss", text=b"SECRET", node_id=plain)
        if not first:
            await hostile.tell(SessionEnd, sid, user="boss", **guests)
        with pytest.raises(AccessDenied):
            await _read(auth, await auth.user("mallory", ["access"]), sid)
