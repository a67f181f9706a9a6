"""A backup holds what every host told of a session that several claim, and a restore ends each host's."""

from __future__ import annotations

import io
import uuid
from pathlib import Path

from tests.security.test_security_recordings import RecordingHost

from teleport.api import messages as m
from teleport.api import routes
from teleport.audit.events import REGISTRY, SessionEnd, SessionStart
from teleport.audit.events.base import Actor
from teleport.auth.evidence.store import EvidenceStore
from teleport.auth.sessions.opened import hosts_of
from teleport.backend.sqlite import SqliteBackend
from teleport.backup.check import check
from teleport.daemon.restoring import REASON, Places, restore
from teleport.testing.auth import running_auth


async def test_what_several_hosts_told_of_one_session_is_backed_up_proved_and_restored(tmp_path: Path) -> None:
    """Both recordings, under their names; the open session of each gets an end of its own, ended ones keep theirs."""
    async with running_auth(tmp_path / "old", sqlite=True) as auth:
        one, two = await RecordingHost.join(auth), await RecordingHost.join(auth)
        open_sid, over = str(uuid.uuid4()), str(uuid.uuid4())
        for host in (one, two):
            await host.tell(SessionStart, open_sid, user="joe")
            await host.tell(SessionStart, over, user="joe")
            await host.tell(SessionEnd, over, user="joe")
            await host.upload(over, "joe", text=host.host_id.encode())
        await auth.events("session.upload", wait_for=2)
        client = auth.async_client(await auth.admin())
        try:
            pieces = [piece async for piece in client.download(routes.CREATE_BACKUP, m.BackupRequest())]
        finally:
            await client.close()
        data, clock = b"".join(pieces), auth.clock
    (tmp_path / "check").mkdir()
    checked = check(io.BytesIO(data), tmp_path / "check")
    assert (checked.recordings, checked.problems) == (2, [])
    new = tmp_path / "new"
    places = Places(new, new / "backend", new / "log", new / "log" / "records")
    done = await auth.in_thread(lambda: restore(io.BytesIO(data), places, clock, Actor()))
    assert (done.recordings, done.ended) == (2, 2)
    assert {path.name for path in places.recordings.glob("*.rec")} == {f"{over}.rec", f"{over}.{two.host_id}.rec"}
    backend = SqliteBackend(places.storage, clock)
    await backend.open()
    try:
        told = [REGISTRY.decode(item.value) for item in await backend.range("audit/outbox/")]
        ends = [event for event in told if isinstance(event, SessionEnd)]
        assert {(end.sid, end.server_id, end.reason) for end in ends} == {
            (open_sid, host.host_id, REASON) for host in (one, two)
        }
        assert await hosts_of(backend, open_sid) == {one.host_id, two.host_id}
        store = EvidenceStore(backend, clock)
        for host in (one, two):
            assert await store.claim_end(over, "again", host.host_id) != "again"
    finally:
        await backend.close()
