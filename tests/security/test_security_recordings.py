"""Recordings: a rule about a session is asked of that session, and one upload never takes another's place."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.daemon.remote import RemoteRecordings
from teleport.errors import AccessDenied, AlreadyExists
from teleport.identity import SystemRole
from teleport.pki.keys import generate_ed25519, generate_p256
from teleport.pki.sshformat import parse_certificate_line
from teleport.recording.format import RecordingHeader
from teleport.recording.trust import signer
from teleport.recording.writer import RecordingSpool
from teleport.testing.auth import Credentials, RunningAuth, running_auth


async def _recorded(auth: RunningAuth, user: str, *, sid: str = "", text: bytes = b"whoami\n") -> str:
    """A recording of a session of `user`, made, signed and uploaded by a node of its own; returns its id."""
    ssh, tls, host_id = generate_ed25519(), generate_p256(), str(uuid.uuid4())
    sid = sid or str(uuid.uuid4())
    found = await auth.service.local_host(
        host_id, "node", SystemRole.NODE, [], ssh.public.line(), tls.public.spki_pem().decode()
    )
    certificate = parse_certificate_line(found.ssh_cert)
    spool = RecordingSpool(auth.directory / host_id, clock=auth.clock, sign=signer(lambda: (ssh, certificate)))
    recorder = await spool.start(
        RecordingHeader(
            sid=sid,
            started=auth.clock.now(),
            user=user,
            login="root",
            node_id=host_id,
            node_name="node",
            cluster=found.cluster,
            command="",
            interactive=False,
        )
    )
    recorder.record_output(text)
    summary = await recorder.close("ended")
    await spool.close()
    client = auth.async_client(auth.keep(tls, found.tls_cert, host_id))
    try:
        sink = RemoteRecordings(client)
        await sink.append(sid, 0, next((auth.directory / host_id).glob("*.rec")).read_bytes())
        await sink.complete(sid, summary.sha256)
    finally:
        await client.close()
    return sid


async def _reviewer(auth: RunningAuth, **conditions: object) -> Credentials:
    document = {"kind": "role", "version": "v3", "metadata": {"name": "reviewer"}, "spec": conditions}
    item = m.Document(json.dumps(document).encode())
    await auth.call(await auth.admin(), routes.STORE["role"], m.StoreRequest(item=item))
    return await auth.user("rita", ["reviewer"])


async def _read(auth: RunningAuth, who: Credentials, sid: str) -> bytes:
    client = auth.async_client(who)
    try:
        return b"".join([piece async for piece in client.download(routes.READ_RECORDING, m.RecordingRequest(sid=sid))])
    finally:
        await client.close()


def _rule(where: str = "") -> dict[str, object]:
    return {"resources": ["session"], "verbs": ["list", "read"], "where": where}


@pytest.mark.parametrize(
    "conditions",
    [
        {"allow": {"rules": [_rule('!contains(session.participants, "boss")')]}},
        {"allow": {"rules": [_rule()]}, "deny": {"rules": [_rule('contains(session.participants, "boss")')]}},
    ],
    ids=["allow where not", "deny where"],
)
async def test_a_condition_about_participants_holds_for_reading_and_for_listing(
    tmp_path: Path, conditions: dict[str, object]
) -> None:
    async with running_auth(tmp_path, sqlite=True) as auth:
        boss, joe = await _recorded(auth, "boss"), await _recorded(auth, "joe")
        rita = await _reviewer(auth, **conditions)
        assert await _read(auth, rita, joe)
        with pytest.raises(AccessDenied):
            await _read(auth, rita, boss)
        page = await auth.call(rita, routes.LIST_RECORDINGS, m.ListRecordingsRequest())
        assert [one.sid for one in page.items] == [joe]


async def test_a_user_reads_own_recordings_and_does_not_learn_of_others(tmp_path: Path) -> None:
    async with running_auth(tmp_path, sqlite=True) as auth:
        boss, joe = await _recorded(auth, "boss"), await _recorded(auth, "joe")
        user = await auth.user("joe", ["access"])
        assert await _read(auth, user, joe)
        refusals = set()
        for sid in (boss, str(uuid.uuid4()), "../x"):
            with pytest.raises(AccessDenied) as refused:
                await _read(auth, user, sid)
            refusals.add(str(refused.value))
        assert len(refusals) == 1


async def test_an_upload_under_the_id_of_a_stored_session_does_not_replace_it(tmp_path: Path) -> None:
    async with running_auth(tmp_path, sqlite=True) as auth:
        sid = await _recorded(auth, "joe", text=b"first\n")
        before = await _read(auth, await auth.admin(), sid)
        with pytest.raises((AccessDenied, AlreadyExists)):
            await _recorded(auth, "joe", sid=sid, text=b"second\n")
        assert await _read(auth, await auth.admin(), sid) == before
