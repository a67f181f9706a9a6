"""The sessions of browsers. A login makes one; the proxy that a browser shows its cookie takes it up.

What is kept takes nothing up: the hash of the proof, and a private key that is sealed with what only the browser's
secret gives (`pki.web_secret`). Certificates are for an hour and made anew by the rules of `authz.renewal`: with the
roles as they are now, while nothing is locked, never beyond the session's end. A session that has ended has no record;
whoever asks for one reads one sentence, whatever the reason.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

import msgspec

from teleport.api import messages as m
from teleport.audit.events import Event, WebSessionCreate, WebSessionEnd
from teleport.auth.authorities.certify import UserGrant
from teleport.auth.authorizer import Authorizer
from teleport.auth.caller import Caller
from teleport.auth.people.devices import Devices
from teleport.auth.people.logins import Entry, Logins, Made
from teleport.auth.state import ClusterState
from teleport.authz.decision import AccessDenial
from teleport.authz.renewal import LEAST_LEFT, evaluate_renewal
from teleport.authz.roles import RoleSet
from teleport.authz.web_session import why_ended
from teleport.backend.interface import Condition, DeleteOp, Exists, PutOp, Write
from teleport.clock import rfc3339
from teleport.errors import AccessDenied, BadRequest, CompareFailed, LimitExceeded
from teleport.identity import UserIdentity
from teleport.pki.keys import PublicKey
from teleport.resources.names import address_of
from teleport.resources.user import User
from teleport.store import records
from teleport.store.issued import IssuedCert, issued_key
from teleport.store.records import UserSecret, WebSessionMark, WebSessionRecord

CERT_LIFE: Final = timedelta(hours=1)
MOST: Final = 32  # sessions of one user: the one that was used longest ago gives way
MAX_SEALED: Final = 4096  # characters
MAX_PROOF: Final = 64  # characters
MAX_USER_AGENT: Final = 256  # characters
_TRIES: Final = 5


class WebSessions:
    """The handlers of what proxies ask about sessions, and of what their users ask about their own."""

    def __init__(self, state: ClusterState, authorizer: Authorizer, logins: Logins, devices: Devices) -> None:
        self._state = state
        self._authorizer = authorizer
        self._logins = logins
        self._devices = devices

    # what proxies ask

    async def begin(self, caller: Caller, request: m.BeginWebSessionRequest) -> m.WebSession:
        """A session for whoever proved the password, and the second factor where one is due. Raises the one
        `AccessDenied` of logins for everything that is not right."""
        asked = m.NewWebSession(
            public_key=request.public_key,
            sealed_key=request.sealed_key,
            proof=request.proof,
            user_agent=request.user_agent,
        )
        beginning = _Beginning(self, _checked(asked), request.client_addr)
        login = m.LoginRequest(
            user=request.user,
            password=request.password,
            otp_token=request.otp_token,
            factor=request.factor,
            public_key=request.public_key,
            ttl=0,
            client_addr=request.client_addr,
            user_agent=request.user_agent,
        )
        admitted = self._logins.admitted_by_passkey if request.passwordless else self._logins.admitted
        return await beginning.reply(await admitted(login, beginning))

    async def first(self, user: str, secret: UserSecret, asked: m.NewWebSession, client_addr: str) -> First | None:
        """A session for whoever sets password and second factor by a link, to be written with these; None when the user
        may not log in now."""
        beginning = _Beginning(self, _checked(asked), client_addr)
        login = m.LoginRequest(
            user=user,
            password="",
            otp_token="",
            public_key=asked.public_key,
            ttl=0,
            client_addr=client_addr,
            user_agent=asked.user_agent,
        )
        found = await self._logins.first_entry(login, secret, beginning)
        return First(*found, beginning) if found is not None else None

    async def told(self, first: First) -> m.WebSession:
        """What the proxy gets, once it is written."""
        return await first.beginning.reply(await self._logins.certs_of(first.entry))

    async def use(self, caller: Caller, request: m.UseWebSessionRequest) -> m.WebSession:
        """Notes that the session is used, and makes certificates for it. Raises `AccessDenied` when it has ended or was
        never begun."""
        for _ in range(_TRIES):
            record, revision = await self._find(request)
            now, idle = self._state.clock.now(), await self.idle_timeout()
            if idle and record.used + idle <= now:
                await self._end(request.id, record, "idle", request.client_addr)
                raise _over()
            identity = self._identity(record)
            present = await self._state.present(identity)
            locks = await self._authorizer.locks()
            over = why_ended(identity, present, locks, now, record.expires)
            if over or present is None:
                await self._end(request.id, record, over, request.client_addr)
                raise _over()
            try:
                if request.certs:
                    return await self._renewed(request, record, revision, present)
                used = msgspec.structs.replace(record, used=now)
                await self._state.commit(
                    self._writes(request.id, used), conditions=[self._unchanged(request.id, revision)], events=[]
                )
                return await self._reply(request.id, used)
            except CompareFailed:
                continue  # it was used at another proxy at this moment, or ended
        raise LimitExceeded("this session is used from too many places at this moment", hint="try again")

    async def _renewed(
        self, request: m.UseWebSessionRequest, record: WebSessionRecord, revision: int, present: UserIdentity
    ) -> m.WebSession:
        now = self._state.clock.now()
        former = await self._state.record(issued_key("user", record.serial), IssuedCert)  # read before the locks are
        decision = evaluate_renewal(
            present,
            cluster=self._state.cluster,
            now=now,
            client_address=address_of(request.client_addr),
            locks=await self._authorizer.locks(),
        )
        if isinstance(decision, AccessDenial):  # from another address than it is bound to; locks were looked at
            raise AccessDenied(decision.public, hint="log in again")
        found = await self._state.find(records.USERS, record.user, User)
        if found is None:
            raise _over()
        user, user_revision = found
        grant = await self._authorizer.grants.renewed(user, present, decision, now, client_ip="")
        if grant.ttl < LEAST_LEFT:
            raise _over()
        grant = await self.shortened(grant)
        key, certifier = PublicKey.parse(record.public_key), await self._state.certifier()
        certs = await asyncio.to_thread(certifier.user_certs, grant, record.public_key, now)
        used = msgspec.structs.replace(record, used=now, serial=certs.serial)
        told = self._state.certified(
            None,
            grant,
            key,
            certs,
            addr=request.client_addr,
            factor=record.factor,
            renewed_from=record.serial,
        )
        await self._state.commit(
            self._writes(request.id, used),
            conditions=[
                self._unchanged(request.id, revision),
                Exists(records.USERS + user.name, user_revision),
                *([Exists(former[0].key, former[1])] if former is not None else ()),  # what ends it writes this record
            ],
            events=[told],
        )
        return await self._reply(request.id, used, certs)

    async def end(self, caller: Caller, request: m.EndWebSessionRequest) -> m.Done:
        """Ends a session; one that is over already stays so. Raises `AccessDenied` without its proof."""
        try:
            record, _ = await self._find(request)
        except AccessDenied:
            return m.Done()  # whether it is there is nobody's business who has no proof
        idle = await self.idle_timeout()
        if request.idle and not (idle and record.used + idle <= self._state.clock.now()):
            return m.Done()  # somebody uses it at another proxy
        await self._end(request.id, record, "idle" if request.idle else "logout", request.client_addr)
        return m.Done()

    # what users ask about their own

    async def own(self, caller: Caller, request: m.Empty) -> m.OwnWebSessions:
        """Where the caller is logged in."""
        user = await self._devices.own_name(caller)
        found = await sessions_of(self._state, user)
        return m.OwnWebSessions(
            sessions=[
                m.OwnWebSession(
                    id=made,
                    created=one.created,
                    expires=one.expires,
                    used=one.used,
                    addr=one.addr,
                    user_agent=one.user_agent,
                    factor=one.factor,
                )
                for made, one in sorted(found.items(), key=lambda pair: pair[1].used, reverse=True)
            ]
        )

    async def end_own(self, caller: Caller, request: m.EndOwnWebSessionsRequest) -> m.EndedWebSessions:
        """Ends sessions of the caller's own."""
        user = await self._devices.own_name(caller)
        found = await sessions_of(self._state, user)
        chosen = {
            made: one for made, one in found.items() if (made == request.id if request.id else made != request.keep)
        }
        writes, events = ending(self._state, chosen, "ended elsewhere", caller.address)
        if writes:
            await self._state.commit(writes, events=events)
        return m.EndedWebSessions(ended=len(chosen))

    # parts

    async def idle_timeout(self) -> timedelta:
        """How long nobody uses a session before it ends; zero: for ever."""
        return (await self._state.networking()).spec.web_idle_timeout.timedelta

    async def shortened(self, grant: UserGrant) -> UserGrant:
        """For an hour; but where connections end with the certificate, until the session's end: a terminal is not to
        close in the midst of it."""
        roles = RoleSet.build(grant.roles, await self._state.roles(grant.roles), grant.traits)
        preference = await self._state.preference()
        if roles.options.disconnect_expired_cert or preference.spec.disconnect_expired_cert:
            return grant
        return replace(grant, ttl=min(grant.ttl, CERT_LIFE))

    async def crowded_out(self, user: str, addr: str) -> tuple[list[Write], list[Event]]:
        """What ends those of a user's sessions that give way to one more."""
        found = sorted((await sessions_of(self._state, user)).items(), key=lambda pair: pair[1].used, reverse=True)
        return ending(self._state, dict(found[MOST - 1 :]), "too many", addr)

    async def _find(self, request: m.WebSessionRequest) -> tuple[WebSessionRecord, int]:
        found = await self._state.record(records.WEB_SESSION_SECRETS + request.id, WebSessionRecord)
        shown = hash_of(request.proof)
        if found is None or not hmac.compare_digest(shown, found[0].proof_hash):
            raise _over()
        return found

    def _identity(self, record: WebSessionRecord) -> UserIdentity:
        """What the session's certificate says, as far as it decides. It begins at a whole second, the next one at the
        latest, as that of the login did."""
        return UserIdentity(
            name=record.user,
            cluster=self._state.cluster,
            roles=tuple(record.roles),
            logins=(),
            expires=record.expires,
            traits={},
            route_to_cluster=self._state.cluster,
            source_ip=record.source_ip,
            serial=record.serial,
            issued=record.created.replace(microsecond=0) + timedelta(seconds=bool(record.created.microsecond)),
        )

    def _writes(self, made: str, record: WebSessionRecord) -> list[Write]:
        return [PutOp(records.WEB_SESSION_SECRETS + made, record.encode(), record.expires)]

    def _unchanged(self, made: str, revision: int) -> Condition:
        return Exists(records.WEB_SESSION_SECRETS + made, revision)

    async def _end(self, made: str, record: WebSessionRecord, reason: str, addr: str) -> None:
        writes, events = ending(self._state, {made: record}, reason, addr)
        await self._state.commit(writes, events=events)

    async def _reply(self, made: str, record: WebSessionRecord, certs: m.UserCerts | None = None) -> m.WebSession:
        return m.WebSession(
            id=made,
            user=record.user,
            created=record.created,
            expires=record.expires,
            factor=record.factor,
            idle_timeout=(await self.idle_timeout()).total_seconds(),
            public_key=record.public_key if certs is not None else "",
            sealed_key=record.sealed_key if certs is not None else "",
            certs=certs,
        )


@dataclass(slots=True)
class _Beginning:
    """What a login in a browser makes besides (`logins.Along`)."""

    sessions: WebSessions
    asked: m.NewWebSession
    client_addr: str
    id: str = ""
    record: WebSessionRecord | None = None
    expires: timedelta = timedelta(0)

    async def granted(self, grant: UserGrant) -> UserGrant:
        """The session lasts for as long as a certificate of tsh would; its own certificates are shorter."""
        self.expires = grant.ttl
        return await self.sessions.shortened(grant)

    async def made(self, grant: UserGrant, certs: m.UserCerts, factor: str, now: datetime) -> Made:
        state = self.sessions._state
        self.id = secrets.token_urlsafe(18)
        begun = max(now, grant.since or now)
        self.record = WebSessionRecord(
            user=grant.user,
            proof_hash=hash_of(self.asked.proof),
            public_key=PublicKey.parse(self.asked.public_key).line(""),
            sealed_key=self.asked.sealed_key,
            created=begun,
            expires=begun + self.expires,
            used=now,
            serial=certs.serial,
            roles=list(grant.roles),
            source_ip=grant.source_ip,
            factor=factor,
            addr=self.client_addr,
            user_agent=self.asked.user_agent[:MAX_USER_AGENT],
        )
        mark = WebSessionMark(user=grant.user, expires=self.record.expires)
        crowded, told = await self.sessions.crowded_out(grant.user, self.client_addr)
        event = state.event(
            WebSessionCreate,
            user=grant.user,
            web_session=self.id,
            addr=self.record.addr,
            user_agent=self.record.user_agent,
            valid_until=rfc3339(self.record.expires),
        )
        writes: list[Write] = [
            PutOp(records.WEB_SESSIONS + self.id, mark.encode(), mark.expires),
            *self.sessions._writes(self.id, self.record),
            *crowded,
        ]
        return Made(writes, [event, *told])

    async def reply(self, certs: m.UserCerts) -> m.WebSession:
        assert self.record is not None, "a login that succeeded has made it"
        return await self.sessions._reply(self.id, self.record, certs)


@dataclass(frozen=True, slots=True)
class First:
    """A session that begins with the password of its user, who is at that revision."""

    entry: Entry
    revision: int
    beginning: _Beginning


def _checked(asked: m.NewWebSession) -> m.NewWebSession:
    if len(asked.sealed_key) > MAX_SEALED or not 32 <= len(asked.proof) <= MAX_PROOF:
        raise BadRequest("this is no session's key or proof")
    PublicKey.parse(asked.public_key)
    return asked


async def sessions_of(state: ClusterState, user: str) -> dict[str, WebSessionRecord]:
    """The sessions of a user, by id."""
    found = {}
    for item in await state.backend.range(records.WEB_SESSIONS):
        if msgspec.json.decode(item.value, type=WebSessionMark).user == user:
            made = item.key.removeprefix(records.WEB_SESSIONS)
            record = await state.record(records.WEB_SESSION_SECRETS + made, WebSessionRecord)
            if record is not None:
                found[made] = record[0]
    return found


def ending(
    state: ClusterState, sessions: dict[str, WebSessionRecord], reason: str, addr: str
) -> tuple[list[Write], list[Event]]:
    """What ends these sessions, and tells of it."""
    writes: list[Write] = []
    events: list[Event] = []
    for made, record in sessions.items():
        writes += [
            DeleteOp(records.WEB_SESSIONS + made, missing_ok=True),
            DeleteOp(records.WEB_SESSION_SECRETS + made, missing_ok=True),
        ]
        events.append(state.event(WebSessionEnd, user=record.user, web_session=made, reason=reason, addr=addr))
    return writes, events


async def ending_all(
    state: ClusterState, user: str, reason: str, addr: str, *, keep: str = ""
) -> tuple[Sequence[Write], Sequence[Event]]:
    """What ends every session of a user but `keep`."""
    found = await sessions_of(state, user)
    return ending(state, {made: one for made, one in found.items() if made != keep}, reason, addr)


def hash_of(proof: str) -> str:
    return hashlib.sha256(proof.encode("utf-8", "surrogatepass")).hexdigest()


def _over() -> AccessDenied:
    return AccessDenied("this session has ended", hint="log in again")
