"""Which sessions are open, read from the events themselves, and what becomes of them when their host is lost.

A session is open from its `session.start` to its `session.end`. When a host has not been seen for as long as presence
lives, nobody else will tell of the end of its sessions: auth writes it, with the reason. Should the host come back,
its own `session.end` is kept as a supplement (decision 10).
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Final

import msgspec

from teleport.audit.events import REGISTRY, Event, SessionEnd, SessionJoin, SessionStart, new_event
from teleport.auth.certificates.last_use import Uses
from teleport.auth.hosts.presence import PRESENCE
from teleport.auth.sessions.participants import ended_on, put_host, put_people
from teleport.auth.state import ClusterState
from teleport.backend.interface import Backend, DeleteOp, PutOp, Write
from teleport.clock import Clock
from teleport.errors import BadRequest, TeleportError
from teleport.store import records
from teleport.store.issued import IssuedCert, issued_key

log = logging.getLogger(__name__)

OPEN: Final = "audit/open-sessions/"
LOOK_EVERY: Final = 60.0  # seconds
_HEARD: Final = (b'"session.start"', b'"session.join"', b'"session.end"')
_MOST: Final = 100  # others in one session that are remembered


class OpenSession(msgspec.Struct, frozen=True, kw_only=True):
    """What an end written by auth says of the session."""

    sid: str
    host_id: str
    hostname: str
    user: str
    login: str
    started: datetime
    interactive: bool
    command: list[str] = []
    cert_serial: str = ""
    addr: str = ""  # the client's, host:port
    recorder: str = ""  # UUID of the proxy that tells of it, when the host has no daemon
    cert: IssuedCert | None = None  # what its certificate says, which may end before the session does
    joined: list[str] = []  # others who took part

    @property
    def told_by(self) -> str:
        """UUID of the host whose daemon tells of the session's end."""
        return self.recorder or self.host_id


async def open_sessions(state: ClusterState) -> list[OpenSession]:
    """Those of which auth has heard the begin and not the end."""
    return [msgspec.json.decode(item.value, type=OpenSession) for item in await state.backend.range(OPEN)]


async def host_of(backend: Backend, sid: str) -> str:
    """The host on which a session runs, or ran lately, as its own events say; empty when none have arrived."""
    item = await backend.get(OPEN + sid)
    if item is None:
        return await ended_on(backend, sid)
    return msgspec.json.decode(item.value, type=OpenSession).host_id


class SessionTracker:
    """A sink beside the store: notes starts and ends (`audit.sinks.Sink`). Lines may come twice, in order."""

    def __init__(self, backend: Backend, uses: Uses | None = None) -> None:
        """`uses` hears which certificates sessions were begun with."""
        self._backend = backend
        self._uses = uses or Uses(backend)

    async def append(self, lines: Sequence[bytes]) -> None:
        batch = _Batch(self._backend)
        for line in lines:
            if not any(name in line for name in _HEARD):
                continue
            try:
                event = REGISTRY.decode(line)
            except BadRequest:
                continue
            if isinstance(event, SessionStart) and event.sid:
                if event.cert_serial:
                    self._uses.note_serial("user", event.cert_serial, event.time)
                await batch.started(event, opened(event, await self._certificate(event.cert_serial)))
            elif isinstance(event, SessionJoin) and event.sid:
                await batch.joined(event)
            elif isinstance(event, SessionEnd) and event.sid:
                await batch.ended(event)
        if batch.writes:
            await self._backend.commit(list(batch.writes.values()))

    async def _certificate(self, serial: str) -> IssuedCert | None:
        item = await self._backend.get(issued_key("user", serial)) if serial else None
        return None if item is None else msgspec.json.decode(item.value, type=IssuedCert)


class _Batch:
    """What lines of events change. A session is its host's: what another host tells of it changes nothing.

    Hosts tell of themselves only (`audit.intake`), auth of all.
    """

    def __init__(self, backend: Backend) -> None:
        self.writes: dict[str, Write] = {}
        self._backend = backend
        self._open: dict[str, OpenSession | None] = {}

    async def _known(self, sid: str) -> OpenSession | None:
        if sid not in self._open:
            item = await self._backend.get(OPEN + sid)
            self._open[sid] = None if item is None else msgspec.json.decode(item.value, type=OpenSession)
        return self._open[sid]

    def _keep(self, session: OpenSession) -> None:
        self._open[session.sid] = session
        self._write(PutOp(OPEN + session.sid, msgspec.json.encode(session)))

    def _write(self, write: PutOp | DeleteOp) -> None:
        self.writes[write.key] = write

    async def started(self, event: SessionStart, session: OpenSession) -> None:
        known = await self._known(event.sid)
        host = known.host_id if known is not None else await ended_on(self._backend, event.sid)
        if (known is not None and not _is_of(event, known)) or (host and host != event.server_id):
            log.warning("host %s tells of the start of session %s of another", session.told_by, event.sid)
            return
        self._keep(session)

    async def joined(self, event: SessionJoin) -> None:
        known = await self._known(event.sid)
        if known is None or not _is_of(event, known):
            return
        if event.user != known.user and event.user not in known.joined and len(known.joined) < _MOST:
            known = msgspec.structs.replace(known, joined=[*known.joined, event.user])
            self._keep(known)
            self._write(put_people(known.sid, known.host_id, [known.user, *known.joined]))

    async def ended(self, event: SessionEnd) -> None:
        known = await self._known(event.sid)
        if known is None or not _is_of(event, known):
            return
        self._open[event.sid] = None
        self._write(DeleteOp(OPEN + event.sid, missing_ok=True))
        self._write(put_host(known.sid, known.host_id, event.time))
        others = [*known.joined, *event.participants]
        if any(one != known.user for one in others):
            self._write(put_people(known.sid, known.host_id, [known.user, *others]))


def _is_of(event: SessionStart | SessionJoin | SessionEnd, session: OpenSession) -> bool:
    """Whether the event is of the host on which the session runs, or written by auth about it."""
    return event.server_id == session.host_id and (bool(event.server_id) or event.emitter == session.told_by)


def opened(event: SessionStart, cert: IssuedCert | None = None) -> OpenSession:
    """What is remembered of a session until its end; `cert` is what it began with, when that is known."""
    return OpenSession(
        sid=event.sid,
        host_id=event.server_id,
        hostname=event.server_hostname,
        user=event.user,
        login=event.login,
        started=event.time,
        interactive=event.interactive,
        command=event.initial_command,
        cert_serial=event.cert_serial,
        addr=event.addr_remote,
        recorder=event.emitter if event.emitter != event.server_id else "",
        cert=cert,
    )


class _Metadata(msgspec.Struct, frozen=True):
    expires: datetime | None = None


class _Announced(msgspec.Struct, frozen=True):
    """What counts here of a node's record."""

    metadata: _Metadata = _Metadata()


def _silent(record: bytes, now: datetime) -> bool:
    """Whether the presence of this node has ended; lost nodes stay listed after that."""
    expires = msgspec.json.decode(record, type=_Announced).metadata.expires
    return expires is not None and now >= expires


class LostHosts:
    """Ends the sessions of hosts that are gone, while holding the lease."""

    def __init__(
        self,
        backend: Backend,
        clock: Clock,
        cluster: str,
        tell: Callable[[Event], Awaitable[None]],
        lease: Callable[[], AbstractAsyncContextManager[object]],
    ) -> None:
        self._backend = backend
        self._clock = clock
        self._cluster = cluster
        self._tell = tell
        self._lease = lease
        self._missing: dict[str, float] = {}  # host: since when (monotonic seconds) its presence is missing

    async def run(self) -> None:
        """Looks every minute until cancelled."""
        while True:
            try:
                async with self._lease():
                    await self.step()
            except TeleportError as error:
                log.debug("open sessions: %s", error)
            await asyncio.sleep(LOOK_EVERY)

    async def step(self) -> int:
        """Ends the sessions of every host whose presence has been missing for long; how many ended."""
        ended = 0
        now = self._clock.monotonic()
        sessions = [msgspec.json.decode(item.value, type=OpenSession) for item in await self._backend.range(OPEN)]
        hosts = {session.told_by for session in sessions}
        self._missing = {host: since for host, since in self._missing.items() if host in hosts}
        for host in hosts:
            item = await self._backend.get(records.NODES + host) or await self._backend.get(records.PROXIES + host)
            if item is not None and not _silent(item.value, self._clock.now()):
                self._missing.pop(host, None)
                continue
            since = self._missing.setdefault(host, now)
            if now - since < PRESENCE.total_seconds():
                continue
            for session in sessions:
                if session.told_by == host:
                    await self._tell(end_of(session, self._cluster, self._clock.now(), "node lost"))
                    ended += 1
        return ended


def end_of(session: OpenSession, cluster: str, now: datetime, reason: str) -> SessionEnd:
    """The end that auth writes of a session, because nobody else will."""
    return new_event(
        SessionEnd,
        now,
        str(uuid.uuid4()),
        cluster_name=cluster,
        user=session.user,
        login=session.login,
        sid=session.sid,
        server_id=session.host_id,
        server_hostname=session.hostname,
        namespace="default",
        proto="ssh",
        interactive=session.interactive,
        participants=[session.user, *session.joined],
        session_start=session.started,
        session_stop=now,
        initial_command=session.command,
        reason=reason,
    )
