"""Recordings: a rule about a session is asked of that session, and one upload never takes another's place."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.audit.chain import ChainKey, ChainState
from teleport.audit.events import ServerEvent, new_event
from teleport.daemon.remote import RemoteRecordings
from teleport.errors import AccessDenied, AlreadyExists, BadRequest
from teleport.identity import SystemRole
from teleport.pki.keys import generate_ed25519, generate_p256
from teleport.pki.sshformat import parse_certificate_line
from teleport.recording.format import RecordingHeader, SignFunction
from teleport.recording.trust import signer
from teleport.recording.writer import RecordingSpool
from teleport.testing.auth import Credentials, RunningAuth, running_auth


@dataclass
class RecordingHost:
    """A host that joined the cluster, with all its certificate lets it tell auth: events, running sessions, recordings.

    `join` makes one. What it says may be true or not.
    """

    auth: RunningAuth
    caller: Credentials
    sign: SignFunction
    chain: ChainState
    started: datetime | None = None  # when its recordings say that they began; None: when they are made

    @classmethod
    async def join(cls, auth: RunningAuth, role: SystemRole = SystemRole.NODE) -> RecordingHost:
        ssh, tls, host_id = generate_ed25519(), generate_p256(), str(uuid.uuid4())
        found = await auth.service.local_host(
            host_id, "node", role, [], ssh.public.line(), tls.public.spki_pem().decode()
        )
        certificate = parse_certificate_line(found.ssh_cert)
        caller = auth.keep(tls, found.tls_cert, host_id)
        return cls(auth, caller, signer(lambda: (ssh, certificate)), ChainState(ChainKey(host_id, 1)))

    @property
    def host_id(self) -> str:
        return self.caller.host_id

    async def tell(self, cls: type[ServerEvent], sid: str, *, uid: str = "", **fields: Any) -> None:
        """Delivers one event of itself; `uid` is what it calls the event."""
        said = {"sid": sid, "server_id": self.host_id, **fields}
        event = new_event(cls, self.auth.clock.now(), uid or str(uuid.uuid4()), **said)
        line, self.chain = self.chain.append(event)
        await self.auth.call(
            self.caller, routes.INTAKE, m.IntakeRequest(emitter=self.host_id, epoch=1, lines=[line.decode()])
        )

    async def track(self, *sids: str, user: str = "joe") -> None:
        """Tells of sessions that run there, and of no others."""
        now = self.auth.clock.now()
        sessions = [
            m.TrackedSession(sid=sid, user=user, login="root", roles=[], started=now, state="running", parties=[])
            for sid in sids
        ]
        await self.auth.call(self.caller, routes.TRACK_SESSIONS, m.TrackSessionsRequest(epoch="1", sessions=sessions))

    async def upload(self, sid: str, user: str, *, text: bytes = b"whoami\n", node_id: str = "") -> None:
        """Makes and signs a recording, and brings it: of itself, or as a proxy of the node `node_id`."""
        folder = self.auth.directory / self.host_id / uuid.uuid4().hex
        spool = RecordingSpool(folder, clock=self.auth.clock, sign=self.sign)
        recorder = await spool.start(
            RecordingHeader(
                sid=sid,
                started=self.started or self.auth.clock.now(),
                user=user,
                login="root",
                node_id=node_id or self.host_id,
                node_name="node",
                cluster=self.auth.service.state.cluster,
                command="",
                interactive=False,
                recorder=self.host_id if node_id else "",
            )
        )
        recorder.record_output(text)
        summary = await recorder.close("ended")
        await spool.close()
        client = self.auth.async_client(self.caller)
        try:
            sink = RemoteRecordings(client)
            await sink.append(sid, 0, next(folder.glob("*.rec")).read_bytes())
            await sink.complete(sid, summary.sha256)
            assert (await sink.begin(sid)).complete == summary.sha256
        finally:
            await client.close()


async def _recorded(auth: RunningAuth, user: str, *, sid: str = "", text: bytes = b"whoami\n") -> str:
    """A recording of a session of `user`, made, signed and uploaded by a node of its own; returns its id."""
    host = await RecordingHost.join(auth)
    sid = sid or str(uuid.uuid4())
    await host.upload(sid, user, text=text)
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
    """It is kept beside it, each under its host's name; nothing is played of which nobody knows whose it is."""
    async with running_auth(tmp_path, sqlite=True) as auth:
        sid, admin = str(uuid.uuid4()), await auth.admin()
        one, two = await RecordingHost.join(auth), await RecordingHost.join(auth)
        await one.upload(sid, "joe", text=b"first\n")
        before = await _read(auth, admin, sid)
        await two.upload(sid, "joe", text=b"second\n")
        assert await _read(auth, admin, f"{sid}.{one.host_id}") == before
        assert await _read(auth, admin, f"{sid}.{two.host_id}") != before
        with pytest.raises(BadRequest, match="2 hosts"):
            await _read(auth, admin, sid)
        with pytest.raises(AlreadyExists):
            await two.upload(sid, "joe", text=b"third\n")
