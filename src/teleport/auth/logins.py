"""Logging in: password, then code, then certificates. Every failure reads the same and costs the same.

What happens on a failure for a user that does not exist is what happens for one that does: the hash is computed, the
codes are compared, an event is written. Five failures within 30 minutes lock the user for 20; a success clears them.
A used code is refused, also in parallel: accepting one is a compare-and-swap (threats T22, T36).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

import msgspec

from teleport.api import messages as m
from teleport.audit.events import Event, UserLocked, UserLogin
from teleport.auth import passwords
from teleport.auth.certify import UserGrant
from teleport.auth.server import Caller
from teleport.auth.state import ClusterState
from teleport.authz.locks import Locked, describe, find_lock
from teleport.backend.interface import Absent, Condition, Exists, PutOp
from teleport.clock import rfc3339
from teleport.errors import AccessDenied, CompareFailed
from teleport.pki.keys import PublicKey
from teleport.resources.cluster import SecondFactor
from teleport.resources.lock import Lock
from teleport.resources.user import User
from teleport.store import records
from teleport.store.records import UserSecret

log = logging.getLogger(__name__)

MAX_FAILURES: Final = 5
REMEMBERED: Final = timedelta(minutes=30)
LOCK_TIME: Final = timedelta(minutes=20)
PARALLEL_HASHES: Final = 4  # argon2 takes 19 MiB and a core; more at once only slow one another
NO_SECRET: Final = UserSecret()
NO_TOTP: Final = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"  # compared with when there is no secret


class Granter(Protocol):
    """Decides what a user's certificates may say."""

    async def grant(self, user: User, ttl: float, *, route_to_cluster: str) -> UserGrant: ...

    async def locks(self) -> Sequence[Lock]: ...


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What checking found; `reason` is for the audit log only."""

    reason: str
    user: User | None = None
    secret: UserSecret = NO_SECRET
    revision: int = 0
    period: int = 0
    wants_code: bool = True


def refused() -> AccessDenied:
    """The one answer to every failed login."""
    return AccessDenied(
        "the user name, the password or the code is wrong",
        hint="after several failures a user is locked for 20 minutes; an administrator can end that: tctl users unlock",
    )


class Logins:
    """Checks what people prove, and has certificates signed."""

    def __init__(self, state: ClusterState, granter: Granter) -> None:
        self._state = state
        self._granter = granter
        self._hashing = asyncio.Semaphore(PARALLEL_HASHES)

    async def hashed(self, work: Callable[[], bool | None]) -> bool:
        """Runs password work on a thread; the loop goes on serving."""
        async with self._hashing:
            return bool(await asyncio.to_thread(work))

    async def login(self, caller: Caller, request: m.LoginRequest) -> m.UserCerts:
        """Certificates for `request.public_key`; raises the one `AccessDenied` for everything that is not right."""
        PublicKey.parse(request.public_key)
        outcome = await self._check(request)
        if outcome.reason or outcome.user is None:
            await self._failed(request, outcome)
            raise refused()
        grant = await self._granter.grant(
            outcome.user,
            request.ttl,
            route_to_cluster=request.route_to_cluster or self._state.cluster,
        )
        now = self._state.clock.now()
        certifier = await self._state.certifier()
        certs = await asyncio.to_thread(certifier.user_certs, grant, request.public_key, now)
        secret = msgspec.structs.replace(
            outcome.secret, totp_last_period=outcome.period, failures=[], locked_until=None
        )
        try:
            await self._state.commit(
                [PutOp(records.USER_SECRETS + request.user, secret.encode())],
                conditions=[
                    Exists(records.USER_SECRETS + request.user, outcome.revision),
                    Exists(records.USERS + request.user),
                ],
                events=[
                    self._event(request, ""),
                    self._state.certified(
                        None,
                        grant,
                        PublicKey.parse(request.public_key),
                        certs,
                        addr=request.client_addr,
                        factor="password+otp" if outcome.wants_code else "password",
                    ),
                ],
            )
        except CompareFailed:
            await self._failed(request, _Outcome("the code was used at the same moment, or the user changed"))
            raise refused() from None
        return certs

    async def _check(self, request: m.LoginRequest) -> _Outcome:
        now = self._state.clock.now()
        # What is read, and in which order, is the same whether there is such a user or not.
        name = request.user if _may_be_name(request.user) else "-"
        user = await self._state.user(name)
        found = await self._state.record(records.USER_SECRETS + name, UserSecret)
        secret, revision = found if found is not None else (UserSecret(), 0)
        preference = await self._state.preference()
        roles = user.roles if user is not None else ()
        lock = find_lock(await self._granter.locks(), Locked(user=name, roles=roles), now)
        wants_code = preference.spec.second_factor is not SecondFactor.OFF
        stored = secret.password_hash
        right = await self.hashed(
            (lambda: passwords.verify_password(stored, request.password))
            if stored
            else (lambda: passwords.verify_nothing(request.password))
        )
        right = right and bool(stored)
        period = passwords.totp_period(
            secret.totp_secret or NO_TOTP, request.otp_token, now, after=secret.totp_last_period
        )
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
        elif secret.locked(now):
            reason = "the user is locked after too many failures"
        elif not right:
            reason = "wrong password"
        elif wants_code and (not secret.totp_secret or period is None):
            reason = "wrong code, or one that was used before"
        return _Outcome(reason, user, secret, revision, period or secret.totp_last_period, wants_code)

    async def _failed(self, request: m.LoginRequest, outcome: _Outcome) -> None:
        """Counts the failure, locks when there are too many, and writes the event, in one transaction."""
        for _ in range(20):
            now = self._state.clock.now()
            events: list[Event] = [self._event(request, outcome.reason)]
            # A user without a record costs a write all the same: the time taken must not tell who exists.
            key, conditions = records.NOBODY, list[Condition]()
            record = UserSecret()
            if outcome.user is not None:
                key = records.USER_SECRETS + request.user
            found = await self._state.record(key, UserSecret)
            if outcome.user is not None:
                current, revision = found if found is not None else (UserSecret(), 0)
                conditions = [Exists(key, revision) if found is not None else Absent(key)]
                record = count_failure(current, now)
                if record.locked(now) and not current.locked(now):
                    assert record.locked_until is not None
                    events.append(
                        self._state.event(
                            UserLocked, user=request.user, until=rfc3339(record.locked_until), attempts=MAX_FAILURES
                        )
                    )
            try:
                await self._state.commit([PutOp(key, record.encode())], conditions=conditions, events=events)
                return
            except CompareFailed:
                continue
        log.error("login: a failure of a user could not be counted: too many at once")

    def _event(self, request: m.LoginRequest, reason: str) -> UserLogin:
        return self._state.event(
            UserLogin, user=request.user, method="local", success=not reason, error=reason, addr=request.client_addr
        )


def _may_be_name(name: str) -> bool:
    from teleport.resources.names import check_name

    return not check_name(name)


def count_failure(secret: UserSecret, now: datetime) -> UserSecret:
    """The record after one more failure at `now`. A failure while locked does not lengthen the lock."""
    if secret.locked(now):
        return secret
    failures: Sequence[datetime] = [*(when for when in secret.failures if now - when < REMEMBERED), now]
    if len(failures) >= MAX_FAILURES:
        return msgspec.structs.replace(secret, failures=[], locked_until=now + LOCK_TIME)
    return msgspec.structs.replace(secret, failures=list(failures), locked_until=None)
