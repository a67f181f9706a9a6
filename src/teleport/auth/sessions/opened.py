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


class SessionTracker:
    """A sink beside the store: notes starts and ends (`audit.sinks.Sink`). Lines may come twice, in order."""

    def __init__(self, backend: Backend, uses: Uses | None = None) -> None:
        """`uses` hears which certificates sessions were begun with."""
        self._backend = backend
        self._uses = uses or Uses(backend)

    async def append(self, lines: Sequence[bytes]) -> None:
        changed: dict[str, Write] = {}
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
                session = opened(event, await self._certificate(event.cert_serial))
                changed[event.sid] = PutOp(OPEN + event.sid, msgspec.json.encode(session))
            elif isinstance(event, SessionJoin) and event.sid:
                known = changed.get(event.sid) or await self._known(event.sid)
                if isinstance(known, PutOp):
                    changed[event.sid] = PutOp(known.key, with_another(known.value, event.user))
            elif isinstance(event, SessionEnd) and event.sid:
                changed[event.sid] = DeleteOp(OPEN + event.sid, missing_ok=True)
        if changed:
            await self._backend.commit(list(changed.values()))

    async def _known(self, sid: str) -> Write | None:
        """What is stored of an open session, to be written again."""
        item = await self._backend.get(OPEN + sid)
        return None if item is None else PutOp(OPEN + sid, item.value)

    async def _certificate(self, serial: str) -> IssuedCert | None:
        item = await self._backend.get(issued_key("user", serial)) if serial else None
        return None if item is None else msgspec.json.decode(item.value, type=IssuedCert)


def with_another(record: bytes, user: str) -> bytes:
    """The record of an open session in which one more user takes part."""
    session = msgspec.json.decode(record, type=OpenSession)
    if user != session.user and user not in session.joined and len(session.joined) < _MOST:
        session = msgspec.structs.replace(session, joined=[*session.joined, user])
    return msgspec.json.encode(session)


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
