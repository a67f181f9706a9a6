"""Logging in: password and second factor, then certificates. Every failure reads the same and costs the same.

What happens on a failure for a user that does not exist is what happens for one that does: the hash is computed, the
codes are compared, an event is written. Five failures lock the user for a while (`lockout`). A passkey alone logs in,
too: it says who it is, and has checked that itself.
A used code is refused, also in parallel: accepting one is a compare-and-swap (threats T22, T36).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

import msgspec
from msgspec import UNSET

from teleport.api import messages as m
from teleport.audit.events import Event, UserLogin
from teleport.auth.authorities.certify import UserGrant
from teleport.auth.caller import Caller
from teleport.auth.factors import passwords
from teleport.auth.factors.checking import LIFE, LOGIN, Checked, Factors, event_device, moved_on
from teleport.auth.factors.lockout import locked_at, logged_in, place_of
from teleport.auth.factors.passkeys import Passkeys
from teleport.auth.grants import Grants
from teleport.auth.state import ClusterState
from teleport.authz.locks import Locked, describe, find_lock
from teleport.authz.second_factor import FactorKind, factor_rule, takes_passkeys
from teleport.backend.interface import Exists, PutOp, Write
from teleport.errors import AccessDenied, CompareFailed
from teleport.pki.keys import PublicKey
from teleport.resources.lock import Lock
from teleport.resources.names import address_of
from teleport.resources.user import User
from teleport.store import records
from teleport.store.records import FactorDevice, UserSecret

MAX_USER_AGENT: Final = 256  # characters of what a program says of itself
PARALLEL_HASHES: Final = 4  # argon2 takes 19 MiB and a core; more at once only slow one another
NO_SECRET: Final = UserSecret()
LOCAL: Final = "local"  # methods, as events name them
PASSWORDLESS: Final = "passwordless"


class Granter(Protocol):
    """Decides what a user's certificates may say."""

    @property
    def grants(self) -> Grants: ...

    async def told_of_clusters(self, certs: m.UserCerts, user: User, grant: UserGrant) -> m.UserCerts: ...

    async def locks(self) -> Sequence[Lock]: ...


@dataclass(frozen=True, slots=True)
class Made:
    """What goes into the transaction of a login besides."""

    writes: Sequence[Write] = ()
    events: Sequence[Event] = ()


class Along(Protocol):
    """What a login makes besides certificates."""

    async def granted(self, grant: UserGrant) -> UserGrant:
        """The grant, perhaps for less."""
        ...

    async def made(self, grant: UserGrant, certs: m.UserCerts, factor: str, now: datetime) -> Made:
        """What is written with the certificates."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """What lets somebody in: certificates, and what is written with them."""

    user: User
    grant: UserGrant
    certs: m.UserCerts
    secret: UserSecret  # as it is from then on
    writes: Sequence[Write]
    events: Sequence[Event]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What checking found; `reason` is for the audit log only."""

    reason: str
    user: User | None = None
    secret: UserSecret = NO_SECRET
    revision: int = 0
    checked: Checked | None = None
    factor_due: bool = False
    user_revision: int = 0
    method: str = LOCAL


def refused() -> AccessDenied:
    """The one answer to every failed login."""
    return AccessDenied(
        "the user name, the password or the code is wrong",
        hint="after several failures a user is locked for 20 minutes; an administrator can end that: tctl users unlock",
    )


class Logins:
    """Checks what people prove, and has certificates signed."""

    def __init__(self, state: ClusterState, granter: Granter, factors: Factors) -> None:
        self._state = state
        self._factors = factors
        self._granter = granter
        self._hashing = asyncio.Semaphore(PARALLEL_HASHES)
        self._passkeys = Passkeys(state, factors)

    async def hashed(self, work: Callable[[], bool | None]) -> bool:
        """Runs password work on a thread; the loop goes on serving."""
        async with self._hashing:
            return bool(await asyncio.to_thread(work))

    async def challenge(self, caller: Caller, request: m.LoginChallengeRequest) -> m.FactorChallenge:
        """A challenge for the second factor of a login, whoever the user may be."""
        return await self._factors.challenge_anybody(request.user)

    async def passkey_challenge(self, caller: Caller, request: m.Empty) -> m.FactorChallenge:
        """A challenge to whichever passkey somebody has. Raises `BadRequest` where passkeys do not log in."""
        return await self._passkeys.challenge(self._state.clock.now() + LIFE)

    async def login(self, caller: Caller, request: m.LoginRequest) -> m.UserCerts:
        """Certificates for `request.public_key`; raises the one `AccessDenied` for everything that is not right."""
        return await (self.admitted_by_passkey if request.passwordless else self.admitted)(request)

    async def admitted(self, request: m.LoginRequest, along: Along | None = None) -> m.UserCerts:
        """As `login`, with what comes along in the same transaction."""
        PublicKey.parse(request.public_key)
        return await self._admit(request, await self._check(request), along)

    async def admitted_by_passkey(self, request: m.LoginRequest, along: Along | None = None) -> m.UserCerts:
        """As `admitted`, for whoever the passkey says that it is; `request` names nobody."""
        PublicKey.parse(request.public_key)
        owner = await self._passkeys.owner(request.factor)
        request = msgspec.structs.replace(request, user=owner)
        return await self._admit(request, await self._check_passkey(request), along)

    async def _admit(self, request: m.LoginRequest, outcome: _Outcome, along: Along | None) -> m.UserCerts:
        if outcome.reason or outcome.user is None:
            await self._failed(request, outcome)
            raise refused()
        checked = outcome.checked if outcome.factor_due else None
        former = checked.secret if checked is not None else outcome.secret
        device = checked.device if checked is not None else None
        entry = await self._entry(request, outcome.user, former, device, along, method=outcome.method)
        try:
            await self._state.commit(
                [
                    PutOp(records.USER_SECRETS + request.user, entry.secret.encode()),
                    *(checked.spent if checked is not None else ()),
                    *entry.writes,
                ],
                conditions=[
                    Exists(records.USER_SECRETS + request.user, outcome.revision),
                    Exists(records.USERS + request.user, outcome.user_revision),  # it names the roles of this moment
                    *(checked.conditions if checked is not None else ()),
                ],
                events=entry.events,
            )
        except CompareFailed:
            reason = "the second factor was used at the same moment, or the user changed"
            await self._failed(request, _Outcome(reason, method=outcome.method))
            raise refused() from None
        return await self.certs_of(entry)

    async def first_entry(self, request: m.LoginRequest, secret: UserSecret, along: Along) -> tuple[Entry, int] | None:
        """What lets in whoever sets password and second factor by a link, to be written in the same transaction, while
        the user's revision is still this one. None when that user may not log in: a link opens nothing that a login
        would not."""
        now = self._state.clock.now()
        held = await self._state.find(records.USERS, request.user, User)
        if held is None:
            return None
        user, revision = held
        local = (await self._state.preference()).spec.allow_local_auth
        locked = find_lock(await self._granter.locks(), Locked(user=user.name, roles=user.roles), now)
        if user.expired(now) or locked is not None or not local:
            return None
        device = secret.devices[0] if secret.devices else None
        alone = not secret.password_hash and device is not None
        how, method = ("registers a passkey", PASSWORDLESS) if alone else ("sets the password", LOCAL)
        try:
            return await self._entry(request, user, secret, device, along, f"by a link that {how}", method), revision
        except AccessDenied:
            return None

    async def certs_of(self, entry: Entry) -> m.UserCerts:
        """What the person gets, once it is written."""
        return await self._granter.told_of_clusters(entry.certs, entry.user, entry.grant)

    async def _entry(
        self,
        request: m.LoginRequest,
        user: User,
        secret: UserSecret,
        device: FactorDevice | None,
        along: Along | None,
        message: str = "",
        method: str = LOCAL,
    ) -> Entry:
        grant = await self._granter.grants.of_login(
            user,
            request.ttl,
            route_to_cluster=request.route_to_cluster or self._state.cluster,
            client_address=address_of(request.client_addr),
        )
        if along is not None:
            grant = await along.granted(grant)
        now, key = self._state.clock.now(), PublicKey.parse(request.public_key)
        certifier = await self._state.certifier()
        certs = await asyncio.to_thread(certifier.user_certs, grant, request.public_key, now)
        factor = "passkey" if method == PASSWORDLESS else proved_by(device)
        besides = await along.made(grant, certs, factor, now) if along is not None else Made()
        return Entry(
            user=user,
            grant=grant,
            certs=certs,
            secret=logged_in(secret, now, place_of(request.client_addr)),
            writes=besides.writes,
            events=[
                self._event(request, "", method, device, message),
                self._state.certified(None, grant, key, certs, addr=request.client_addr, factor=factor),
                *besides.events,
            ],
        )

    async def _check(self, request: m.LoginRequest) -> _Outcome:
        now = self._state.clock.now()
        # What is read, and in which order, is the same whether there is such a user or not.
        name = request.user if _may_be_name(request.user) else "-"
        held = await self._state.find(records.USERS, name, User)
        user, user_revision = held if held is not None else (None, 0)
        found = await self._state.record(records.USER_SECRETS + name, UserSecret)
        secret, revision = found if found is not None else (UserSecret(), 0)
        preference = await self._state.preference()
        roles = user.roles if user is not None else ()
        lock = find_lock(await self._granter.locks(), Locked(user=name, roles=roles), now)
        answer = request.factor or m.FactorResponse(totp_code=request.otp_token)
        stored = secret.password_hash
        right = await self.hashed(
            (lambda: passwords.verify_password(stored, request.password))
            if stored
            else (lambda: passwords.verify_nothing(request.password))
        )
        right = right and bool(stored)
        checked = await self._factors.check(request.user, secret, answer, LOGIN)
        due = factor_rule(preference.spec).due(device.kind for device in secret.devices)
        reason = ""
        if user is None:
            reason = "there is no such user"
        elif user.expired(now):
            reason = "the user has expired"
        elif lock is not None:
            reason = describe(lock)
        elif not preference.spec.allow_local_auth:
            reason = "local users may not log in to this cluster"
        elif not stored:
            reason = "the user has no password yet"
        elif locked_at(secret, place_of(request.client_addr), now):
            reason = "the user is locked after too many failures"
        elif not right:
            reason = "wrong password"
        elif due:
            reason = checked.reason
        return _Outcome(reason, user, secret, revision, checked, due, user_revision)

    async def _check_passkey(self, request: m.LoginRequest) -> _Outcome:
        """As `_check`: what is read, and the work, is the same whoever is meant. No password is asked."""
        now = self._state.clock.now()
        name = request.user or "-"
        held = await self._state.find(records.USERS, name, User)
        user, user_revision = held if held is not None else (None, 0)
        found = await self._state.record(records.USER_SECRETS + name, UserSecret)
        secret, revision = found if found is not None else (UserSecret(), 0)
        preference = await self._state.preference()
        locks = await self._granter.locks()
        lock = find_lock(locks, Locked(user=name, roles=user.roles if user is not None else ()), now)
        reason, device, spent, conditions = await self._passkeys.check(secret, request.factor, now)
        if lock is None and device is not None:
            lock = find_lock(locks, Locked(mfa_device=device.id), now)
        if not takes_passkeys(preference.spec):
            reason = "passkeys do not log in to this cluster"
        elif user is None:
            reason = "there is no user with this passkey"
        elif user.expired(now):
            reason = "the user has expired"
        elif lock is not None:
            reason = describe(lock)
        elif locked_at(secret, place_of(request.client_addr), now):
            reason = "the user is locked after too many failures"
        checked = Checked(reason, device, moved_on(secret, device), spent, conditions)
        return _Outcome(reason, user, secret, revision, checked, True, user_revision, PASSWORDLESS)

    async def _failed(self, request: m.LoginRequest, outcome: _Outcome) -> None:
        """Counts the failure and writes the event, in one transaction; the challenge that was answered is used up."""
        await self._factors.failed(
            request.user,
            known=outcome.user is not None,
            events=[self._event(request, outcome.reason, outcome.method)],
            spent=outcome.checked.spent if outcome.checked is not None else (),
            place=place_of(request.client_addr),
        )

    def _event(
        self,
        request: m.LoginRequest,
        reason: str,
        method: str,
        device: FactorDevice | None = None,
        message: str = "",
    ) -> UserLogin:
        return self._state.event(
            UserLogin,
            user=request.user,
            method=method,
            success=not reason,
            error=reason,
            addr=request.client_addr,
            user_agent=request.user_agent[:MAX_USER_AGENT],
            message=f"answered in a browser at {request.answered_from}" if request.answered_from else message,
            mfa_device=event_device(device) if device is not None else UNSET,
        )


def proved_by(device: FactorDevice | None) -> str:
    """What was proved, as lists of certificates name it."""
    if device is None:
        return "password"
    return "password+otp" if device.kind == FactorKind.TOTP else f"password+{device.kind}"


def _may_be_name(name: str) -> bool:
    from teleport.resources.names import check_name

    return not check_name(name)
