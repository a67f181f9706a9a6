"""Which sessions are open, read from the events themselves, and what becomes of them when their host is lost.

A session is open from its `session.start` to its `session.end`. When a host has not been seen for as long as presence
lives, nobody else will tell of the end of its sessions: auth writes it, with the reason. Should the host come back,
its own `session.end` is kept as a supplement (decision 10).

Everything is kept by session and by who tells of it (`claims`): that another host tells of the same id changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Final

import msgspec

from teleport.audit.events import REGISTRY, Event, SessionEnd, SessionJoin, SessionStart, new_event
from teleport.audit.outbox import PREFIX as OUTBOX
from teleport.auth.certificates.last_use import Uses
from teleport.auth.hosts.announcing import PRESENCE
from teleport.auth.sessions.claims import Claim, Claims, claimants
from teleport.auth.sessions.participants import MOST_NAME, is_closed, put_closed, put_people, told_by
from teleport.auth.state import ClusterState
from teleport.backend.interface import Backend, DeleteOp, PutOp, Write
from teleport.backend.parts import in_parts
from teleport.clock import Clock
from teleport.errors import BadRequest, LimitExceeded, TeleportError
from teleport.store import records
from teleport.store.issued import IssuedCert, issued_key

log = logging.getLogger(__name__)

OPEN: Final = "audit/open-sessions/"  # SID/TELLER; versions before kept SID alone
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
    proto: str = "ssh"
    pod: tuple[str, str, str, str] | None = None  # of one in a pod: Kubernetes cluster, namespace, pod, container

    @property
    def told_by(self) -> str:
        """UUID of the host whose daemon tells of the session's end."""
        return self.recorder or self.host_id


async def open_sessions(state: ClusterState) -> list[OpenSession]:
    """Those of which auth has heard the begin and not the end."""
    return [msgspec.json.decode(item.value, type=OpenSession) for item in await state.backend.range(OPEN)]


async def _open_of(backend: Backend, sid: str) -> tuple[dict[str, OpenSession], bool]:
    """The open sessions of one id, by who tells of each; and whether one is kept as versions before did."""
    former = await backend.get(OPEN + sid)
    items = [*([former] if former is not None else []), *await backend.range(f"{OPEN}{sid}/")]
    sessions = [msgspec.json.decode(item.value, type=OpenSession) for item in items]
    return {session.told_by: session for session in sessions}, former is not None


async def hosts_of(backend: Backend, sid: str) -> frozenset[str]:
    """The hosts that told of the session's start; those that told anything of it where none did."""
    known = await _hosts(backend, sid)
    return frozenset({host for host, began in known.items() if began} or known)


async def all_hosts_of(backend: Backend, sid: str) -> frozenset[str]:
    """The hosts that told anything of the session."""
    return frozenset(await _hosts(backend, sid))


async def _hosts(backend: Backend, sid: str) -> dict[str, bool]:
    """As `claimants`, with those that a version before kept as open only."""
    opened_there, _ = await _open_of(backend, sid)
    return await claimants(backend, sid) | {session.host_id: True for session in opened_there.values()}


class SessionTracker:
    """A sink beside the store: notes starts and ends (`audit.sinks.Sink`). Lines may come twice, in order."""

    def __init__(
        self, backend: Backend, uses: Uses | None = None, claims: Claims | None = None, *, auth: str = ""
    ) -> None:
        """`uses` hears which certificates sessions were begun with, `claims` who tells of which; `auth` is the UUID of
        this auth server, which may tell of all."""
        self._backend = backend
        self._uses = uses or Uses(backend)
        self._claims = claims or Claims(backend)
        self._auth = auth

    async def append(self, lines: Sequence[bytes]) -> None:
        heard = [line for line in lines if any(name in line for name in _HEARD)]
        if heard:
            async with self._claims.lock:
                await self._append(heard)

    async def _append(self, lines: Sequence[bytes]) -> None:
        batch = _Batch(self._backend, self._claims, self._auth)
        for line in lines:
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
            # in parts, as lines may come twice; what is told of a conflict first, as it is told of once
            told = [write for key, write in batch.writes.items() if key.startswith(OUTBOX)]
            writes = [*told, *(write for key, write in batch.writes.items() if not key.startswith(OUTBOX))]
            for part in in_parts([write] for write in writes):
                await self._commit(part)
            if told:
                self._claims.on_event()

    async def _commit(self, writes: Sequence[Write]) -> None:
        """Also when one of them can never be stored: what a host says must not stop the events of others."""
        try:
            await self._backend.commit(writes)
        except (BadRequest, LimitExceeded) as error:
            if len(writes) == 1:
                log.error("what events say of a session is not kept (%s): %s", writes[0].key[:80], error)
                return
            for write in writes:
                await self._commit([write])

    async def _certificate(self, serial: str) -> IssuedCert | None:
        item = await self._backend.get(issued_key("user", serial)) if serial else None
        return None if item is None else msgspec.json.decode(item.value, type=IssuedCert)


class _Batch:
    """What lines of events change. A session is its teller's: what another host tells of its id is kept beside it.

    Hosts tell of themselves only (`audit.intake`), auth of all.
    """

    def __init__(self, backend: Backend, claims: Claims, auth: str) -> None:
        self.writes: dict[str, Write] = {}
        self._backend = backend
        self._claims = claims
        self._auth = auth
        self._open: dict[str, dict[str, OpenSession]] = {}
        self._former: set[str] = set()  # sessions kept as versions before did
        self._hosts: dict[str, dict[str, bool]] = {}
        self._people: dict[tuple[str, str, str], list[str]] = {}
        self._closed: dict[tuple[str, str, str], bool] = {}

    async def _known(self, sid: str) -> dict[str, OpenSession]:
        if sid not in self._open:
            self._open[sid], former = await _open_of(self._backend, sid)
            if former:
                self._former.add(sid)
        return self._open[sid]

    async def _of(self, event: _Told) -> list[OpenSession]:
        """The open sessions that an event is about."""
        known = await self._known(event.sid)
        host, own = _host(event), known.get(_teller(event))
        if own is not None and own.host_id == host:
            return [own]
        return [one for one in known.values() if one.host_id == host] if event.emitter == self._auth else []

    def _write(self, write: Write) -> None:
        self.writes[write.key] = write

    def _keep(self, session: OpenSession) -> None:
        self._open[session.sid][session.told_by] = session
        self._rekey(session.sid)
        self._write(PutOp(f"{OPEN}{session.sid}/{session.told_by}", msgspec.json.encode(session)))

    def _rekey(self, sid: str) -> None:
        """What a version before kept under the id alone is kept by teller from now on."""
        if sid in self._former:
            self._former.remove(sid)
            self._write(DeleteOp(OPEN + sid, missing_ok=True))
            for told_by, one in self._open[sid].items():
                self._write(PutOp(f"{OPEN}{sid}/{told_by}", msgspec.json.encode(one)))

    async def _claim(self, event: _Told, what: Claim, makers: Collection[str] = ()) -> None:
        if event.sid not in self._hosts:
            self._hosts[event.sid] = await claimants(self._backend, event.sid)
        known = self._hosts[event.sid]
        for write in self._claims.noted(event.sid, _host(event), what, known, told_by=_teller(event), makers=makers):
            self._write(write)

    async def _took_part(self, sid: str, host: str, teller: str, people: Sequence[str]) -> None:
        """Adds to those who took part, until the end; where nobody but one did, nothing has to be kept."""
        told = (sid, host, teller)
        if await self._is_closed(told):
            return
        if told not in self._people:
            known = await told_by(self._backend, sid, host, teller)
            self._people[told] = known.people if known is not None else []
        there = list(dict.fromkeys(one[:MOST_NAME] for one in [*self._people[told], *people] if one))
        if len(there) > 1 and there != self._people[told]:
            self._people[told] = there
            self._write(put_people(sid, host, there, teller))

    async def _is_closed(self, told: tuple[str, str, str]) -> bool:
        if told not in self._closed:
            self._closed[told] = await is_closed(self._backend, *told)
        return self._closed[told]

    def _close(self, sid: str, host: str, teller: str) -> None:
        """Behind what was written of who took part: a line that comes again after a crash finds either both or none."""
        self._closed[sid, host, teller] = True
        self._write(put_closed(sid, host, teller, self._claims.now()))

    async def started(self, event: SessionStart, session: OpenSession) -> None:
        known = await self._known(event.sid)
        own = known.get(session.told_by)
        if own is not None and own.host_id != session.host_id:
            log.warning("host %s tells of the start of session %s on two hosts", session.told_by, event.sid)
            return
        others = () if own is not None else [one.told_by for one in known.values() if one.host_id == session.host_id]
        self._keep(session)
        await self._claim(event, Claim.START, others)

    async def joined(self, event: SessionJoin) -> None:
        user = event.user[:MOST_NAME]
        for known in await self._of(event):
            if user != known.user and user not in known.joined and len(known.joined) < _MOST:
                known = msgspec.structs.replace(known, joined=[*known.joined, user])
                self._keep(known)
                await self._took_part(known.sid, known.host_id, known.told_by, [known.user, *known.joined])

    async def ended(self, event: SessionEnd) -> None:
        """Also of a session whose start auth does not know, or knows no more: then what the end says is kept.

        Of what its teller says after that nothing is, be it a second end or a join after a second start: it would let
        people into a recording that has long been closed to them."""
        teller = _host(event) if event.emitter == self._auth else _teller(event)
        tellers = {teller}
        for known in await self._of(event):
            self._rekey(event.sid)
            del self._open[event.sid][known.told_by]
            self._write(DeleteOp(f"{OPEN}{event.sid}/{known.told_by}", missing_ok=True))
            await self._took_part(known.sid, known.host_id, known.told_by, [known.user, *known.joined])
            tellers.add(known.told_by)
        if not event.supplement:
            await self._took_part(event.sid, _host(event), teller, [event.user, *event.participants])
        for one in sorted(tellers):
            self._close(event.sid, _host(event), one)
        await self._claim(event, Claim.END)


_Told = SessionStart | SessionJoin | SessionEnd


def _teller(event: _Told) -> str:
    """Who tells: the host whose chain the event is in."""
    return event.emitter or event.server_id


def _host(event: _Told) -> str:
    """Where the session ran: intake sees to it that nobody names a host for which it does not speak."""
    return event.server_id or event.emitter


def opened(event: SessionStart, cert: IssuedCert | None = None) -> OpenSession:
    """What is remembered of a session until its end; `cert` is what it began with, when that is known."""
    return OpenSession(
        sid=event.sid,
        host_id=_host(event),
        hostname=event.server_hostname,
        user=event.user,
        login=event.login,
        started=event.time,
        interactive=event.interactive,
        command=event.initial_command,
        cert_serial=event.cert_serial,
        addr=event.addr_remote,
        recorder=event.emitter if event.emitter != _host(event) else "",
        cert=cert,
        proto=event.proto or "ssh",
        pod=_pod(event),
    )


def _pod(event: SessionStart) -> tuple[str, str, str, str] | None:
    if not event.kubernetes_cluster:
        return None
    place = (event.kubernetes_pod_namespace, event.kubernetes_pod_name, event.kubernetes_container_name)
    namespace, pod, container = (value or "" for value in place)
    return event.kubernetes_cluster, namespace, pod, container


def _pod_fields(session: OpenSession) -> dict[str, object]:
    """What its end says of the pod."""
    if session.pod is None:
        return {}
    names = ("cluster", "pod_namespace", "pod_name", "container_name")
    return {
        **{f"kubernetes_{name}": value for name, value in zip(names, session.pod, strict=True)},
        "kubernetes_users": [session.login],
    }


class _Metadata(msgspec.Struct, frozen=True):
    expires: datetime | None = None


class _Announced(msgspec.Struct, frozen=True):
    """What counts here of a node's record."""

    metadata: _Metadata = _Metadata()


def _silent(record: bytes, now: datetime) -> bool:
    """Whether the presence of this node has ended; lost nodes stay listed after that."""
    expires = msgspec.json.decode(record, type=_Announced).metadata.expires
    return expires is not None and now >= expires


def _begun(session: OpenSession) -> tuple[str, str, datetime]:
    """What tells this session from all that were or will be open."""
    return session.sid, session.told_by, session.started


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
        self._ended: set[tuple[str, str, datetime]] = set()  # whose end was told and is not taken in yet

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
        self._ended &= {_begun(session) for session in sessions}
        self._missing = {host: since for host, since in self._missing.items() if host in hosts}
        for host in hosts:
            item = None
            for prefix in (records.NODES, records.PROXIES, records.KUBE_SERVICES):
                item = item or await self._backend.get(prefix + host)
            if item is not None and not _silent(item.value, self._clock.now()):
                self._missing.pop(host, None)
                continue
            since = self._missing.setdefault(host, now)
            if now - since < PRESENCE.total_seconds():
                continue
            for session in sessions:
                if session.told_by == host and _begun(session) not in self._ended:
                    await self._tell(end_of(session, self._cluster, self._clock.now(), "node lost"))
                    self._ended.add(_begun(session))
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
        proto=session.proto,
        interactive=session.interactive,
        participants=[session.user, *session.joined],
        session_start=session.started,
        session_stop=now,
        initial_command=session.command,
        reason=reason,
        **_pod_fields(session),
    )
