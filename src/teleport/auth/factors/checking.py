"""Second factors: one place that asks a user's devices and one that checks what they answer.

Logging in, per-session checks and the management of devices all come here. A challenge is made for one user and one
purpose, lives for five minutes and is taken once: its record goes in the transaction of whatever was proved. A code is
taken once, a hardware key's counter only grows; both are a compare-and-swap of the user's record (threat T36). For
somebody who does not exist, or has no hardware key, a challenge looks like any other, with credentials made from the
name (T22).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import os
import secrets
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol
from urllib.parse import urlsplit

import msgspec

from teleport.api import messages as m
from teleport.audit.events import Event, MfaDevice, UserLocked
from teleport.auth.factors import passwords
from teleport.auth.factors.lockout import LOCK_TIME, count_failure, known_place, locked_at
from teleport.auth.factors.lockout import MAX_FAILURES as MAX_FAILURES  # counted here
from teleport.auth.factors.lockout import forgiven as forgiven
from teleport.auth.state import ClusterState
from teleport.authz.locks import Locked, describe, find_lock
from teleport.authz.second_factor import FactorKind, FactorRule, domain_named, factor_rule
from teleport.backend.interface import Absent, Condition, DeleteOp, Exists, PutOp, Write
from teleport.clock import rfc3339
from teleport.errors import AccessDenied, BadRequest, CompareFailed, LimitExceeded
from teleport.pki import webauthn
from teleport.pki.webauthn import Assertion, Credential, ProofRefused, RelyingParty
from teleport.resources.cluster import AuthPreferenceSpec
from teleport.resources.lock import Lock
from teleport.resources.names import check_name
from teleport.store import records
from teleport.store.records import FactorChallengeRecord, FactorDevice, InventedCredentials, KeyDomain, UserSecret
from teleport.transport.limits import RateLimit

log = logging.getLogger(__name__)

LIFE: Final = timedelta(minutes=5)  # of a challenge (`operations.md` 11)
LOGIN: Final = "login"  # the purpose of challenges for people who hold no certificate yet
NO_TOTP: Final = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"  # compared with when there is no secret
_INVENTED_SIZES: Final = (16, 20, 32, 48, 64)  # bytes, as real keys have them
_TRIES: Final = 20
CHALLENGES: Final = 5.0  # of one user who is known in a second, after the first
CHALLENGE_BURST: Final = 100.0


class Sites(Protocol):
    """Where people reach the proxies."""

    async def web_addresses(self) -> list[str]:
        """`host:port`, those that are heard of first."""
        ...


@dataclass(frozen=True, slots=True)
class Checked:
    """What checking an answer found. `reason` is empty when it holds, and for the record only."""

    reason: str
    device: FactorDevice | None
    secret: UserSecret  # with the device's code or counter moved on
    spent: tuple[Write, ...]  # what goes with whatever becomes of it: the challenge is used up
    conditions: tuple[Condition, ...]  # that nobody else used the challenge meanwhile


def event_device(device: FactorDevice) -> MfaDevice:
    """How events name a device."""
    return MfaDevice(mfa_device_name=device.name, mfa_device_uuid=device.id, mfa_device_type=device.kind)


def refused_factor() -> AccessDenied:
    """The one answer to every second factor that does not hold."""
    return AccessDenied(
        "the second factor is wrong, was used before, or came too late",
        hint="try again; a code is good once, a challenge for five minutes; tsh mfa ls lists your devices",
    )


class Factors:
    """Makes challenges and checks answers."""

    def __init__(self, state: ClusterState, sites: Sites, locks: Callable[[], Awaitable[Sequence[Lock]]]) -> None:
        self._state = state
        self._sites = sites
        self._locks = locks
        self._invented: bytes | None = None
        self._challenged = RateLimit(CHALLENGES, CHALLENGE_BURST)

    async def rule(self) -> FactorRule:
        """Which devices count now."""
        return factor_rule((await self._state.preference()).spec)

    async def party(self) -> RelyingParty:
        """For whom hardware keys sign. Raises `BadRequest` when nothing says so."""
        return await self._party((await self._state.preference()).spec)

    async def _party(self, spec: AuthPreferenceSpec) -> RelyingParty:
        hosts = [_host(address).lower() for address in await self._sites.web_addresses()]
        chosen = domain_named(spec)
        if not chosen:
            # what proxies announce may change; keys that were registered stay bound to what it was then
            found = await self._state.record(records.KEY_DOMAIN, KeyDomain)
            chosen = found[0].rp_id if found is not None else next(iter(hosts), "")
        if not chosen:
            raise BadRequest(
                "hardware keys need the name under which people reach this cluster, and no proxy announces one",
                hint="set auth_service.authentication.webauthn.rp_id, or proxy_service.public_addr",
            )
        if spec.u2f is not None:
            hosts += [urlsplit(facet).hostname or "" for facet in spec.u2f.facets]
        # not every host below the domain: pages of others may live there
        return RelyingParty(chosen, frozenset({chosen, *(host for host in hosts if host.endswith(f".{chosen}"))}))

    async def remember(self, party: RelyingParty) -> None:
        """A security key is about to be bound to `party`: without a setting, its domain is that of all from now on."""
        with suppress(CompareFailed):  # one was bound before
            await self._state.commit(
                [PutOp(records.KEY_DOMAIN, KeyDomain(rp_id=party.id).encode())],
                conditions=[Absent(records.KEY_DOMAIN)],
                events=[],
            )

    # asking

    async def challenge(self, user: str, purpose: str) -> m.FactorChallenge:
        """A challenge for somebody who is known. Raises `BadRequest` when no device of theirs counts, `LimitExceeded`
        when they ask too often: each is a write."""
        if not self._challenged.allow(user, self._state.clock.monotonic()):
            raise LimitExceeded("your second factors are asked too often", hint="wait a moment and try again")
        spec = (await self._state.preference()).spec
        rule = factor_rule(spec)
        secret = await self._secret(user)
        held = {device.kind for device in secret.devices} & set(rule.kinds)
        if not held:
            raise _no_device(rule)
        return await self._ask(user, purpose, spec, FactorKind.TOTP in held, FactorKind.WEBAUTHN in held, secret)

    async def challenge_anybody(self, user: str) -> m.FactorChallenge:
        """A challenge for a login: it looks the same whoever exists and whatever they have, and costs the same."""
        spec = (await self._state.preference()).spec
        rule = factor_rule(spec)
        name = user if not check_name(user) else "-"
        secret = await self._secret(name)
        invented = await self._invent(user)
        totp, keys = FactorKind.TOTP in rule.kinds, FactorKind.WEBAUTHN in rule.kinds
        return await self._ask(user, LOGIN, spec, totp, keys, secret, invented)

    async def _ask(
        self,
        user: str,
        purpose: str,
        spec: AuthPreferenceSpec,
        totp: bool,
        keys: bool,
        secret: UserSecret,
        invented: Sequence[str] = (),
    ) -> m.FactorChallenge:
        party = await self._party(spec) if keys else None
        made, challenge = secrets.token_urlsafe(24), webauthn.encode(os.urandom(32))
        expires = self._state.clock.now() + LIFE
        record = FactorChallengeRecord(
            user=user[:256],
            purpose=purpose,
            expires=expires,
            challenge=challenge,
            rp_id=party.id if party is not None else "",
        )
        await self.keep(made, record)
        asked = None
        if party is not None:
            own = [one.credential_id for one in secret.devices if one.credential_id and one.rp_id in ("", party.id)]
            asked = m.WebauthnChallenge(challenge=challenge, rp_id=party.id, credentials=own or list(invented))
        return m.FactorChallenge(id=made, expires=expires, totp=totp, webauthn=asked)

    async def keep(self, made: str, record: FactorChallengeRecord) -> None:
        """Stores a challenge until it is answered or too old."""
        key = records.secret_key(records.FACTOR_CHALLENGES, made)
        await self._state.commit([PutOp(key, record.encode(), record.expires)], events=[])

    async def asked(self, made: str) -> tuple[FactorChallengeRecord, Write, Condition] | None:
        """A challenge that can still be answered, and what uses it up; None when there is none."""
        key = records.secret_key(records.FACTOR_CHALLENGES, made)
        found = await self._state.record(key, FactorChallengeRecord)
        if found is None or found[0].expires <= self._state.clock.now():
            return None
        return found[0], DeleteOp(key, missing_ok=True), Exists(key, found[1])

    async def _invent(self, user: str) -> list[str]:
        """Credentials for somebody who has none: the same whenever they are asked for."""
        if self._invented is None:
            found = await self._state.record(records.INVENTED_CREDENTIALS, InventedCredentials)
            if found is None:
                made = InventedCredentials(key=os.urandom(32).hex())
                try:
                    await self._state.commit(
                        [PutOp(records.INVENTED_CREDENTIALS, made.encode())],
                        conditions=[Absent(records.INVENTED_CREDENTIALS)],
                        events=[],
                    )
                except CompareFailed:
                    return await self._invent(user)  # another auth server was first
                found = (made, 0)
            self._invented = bytes.fromhex(found[0].key)
        digest = hmac.digest(self._invented, user.encode("utf-8", "surrogatepass"), "sha512")
        size = _INVENTED_SIZES[digest[0] % len(_INVENTED_SIZES)]
        return [webauthn.encode(hashlib.sha512(digest).digest()[:size])]

    # checking

    async def check(self, user: str, secret: UserSecret, answer: m.FactorResponse, purpose: str) -> Checked:
        """Whether `answer` is one of a device in `secret`; nothing is written.

        The caller commits `spent` whatever was found. When it holds, `secret` and `conditions` go into the transaction
        of what was proved, together with the condition that the record of `secret` is still as it was read. It costs
        the same work whatever is wrong.
        """
        spec = (await self._state.preference()).spec
        rule, now = factor_rule(spec), self._state.clock.now()
        known = await self.asked(answer.challenge_id) if answer.challenge_id else None
        spent = (known[1],) if known is not None else ()
        conditions = (known[2],) if known is not None else ()
        coded = _by_code(secret, answer.totp_code, now)
        reason, device = "", None
        if answer.webauthn is not None:
            if known is None or known[0].user != user or known[0].purpose != purpose or not known[0].challenge:
                reason = "the challenge is too old, was used before, or was made for something else"
            elif FactorKind.WEBAUTHN not in rule.kinds:
                reason = "hardware keys do not count here"
            else:
                try:
                    device = await asyncio.to_thread(
                        _by_key, secret, answer.webauthn, known[0], await self._party(spec), now
                    )
                except ProofRefused as error:
                    reason = str(error)
        elif FactorKind.TOTP not in rule.kinds and answer.totp_code:
            reason = "one-time codes do not count here"
        elif coded is None:
            reason = "wrong code, or one that was used before" if answer.totp_code else "no second factor was given"
        else:
            device = coded
        if device is not None:
            lock = find_lock(await self._locks(), Locked(mfa_device=device.id), now)
            if lock is not None:
                reason, device = describe(lock), None
        return Checked(reason, device, moved_on(secret, device), spent, conditions)

    async def prove(
        self,
        user: str,
        answer: m.FactorResponse,
        purpose: str,
        *,
        writes: Callable[[FactorDevice], Sequence[Write]] = lambda _: (),
        conditions: Sequence[Condition] = (),
        events: Callable[[FactorDevice], Sequence[Event]] = lambda _: (),
        change: Callable[[UserSecret], UserSecret] = lambda secret: secret,
    ) -> FactorDevice:
        """The device that answered, for somebody who is known; `writes` and `events` are one transaction with it, and
        so is what `change` makes of the user's record.

        Raises `AccessDenied` with one text for whatever is wrong; the failure counts as a failed login does.
        """
        key = records.USER_SECRETS + user
        for _ in range(_TRIES):
            found = await self._state.record(key, UserSecret)
            secret, revision = found if found is not None else (UserSecret(), 0)
            checked = await self.check(user, secret, answer, purpose)
            if checked.device is None or secret.locked(self._state.clock.now()):
                await self.failed(user, known=True, events=(), spent=checked.spent)
                raise refused_factor()
            try:
                await self._state.commit(
                    [PutOp(key, forgiven(change(checked.secret)).encode()), *checked.spent, *writes(checked.device)],
                    conditions=[Exists(key, revision), Exists(records.USERS + user), *checked.conditions, *conditions],
                    events=list(events(checked.device)),
                )
            except CompareFailed:
                continue  # another of the user's devices answered at this moment; the same answer is refused next time
            return checked.device
        raise refused_factor()

    async def failed(
        self, user: str, *, known: bool, events: Sequence[Event], spent: Sequence[Write] = (), place: str | None = None
    ) -> None:
        """Counts a failure of `user` at `place`, locks when there are too many, and writes `events`; one transaction.
        No `place`: of somebody who holds a certificate of the user.

        Somebody who is not known costs a write all the same: the time taken must not tell who exists.
        """
        for _ in range(_TRIES):
            now = self._state.clock.now()
            told = list(events)
            key, conditions, record = records.NOBODY, list[Condition](), UserSecret()
            if known:
                key = records.USER_SECRETS + user
            found = await self._state.record(key, UserSecret)
            if known:
                current, revision = found if found is not None else (UserSecret(), 0)
                conditions = [Exists(key, revision) if found is not None else Absent(key)]
                record = count_failure(current, now, place)
                if locked_at(record, place, now) and not locked_at(current, place, now):
                    told.append(
                        self._state.event(
                            UserLocked,
                            user=user,
                            until=rfc3339(now + LOCK_TIME),
                            attempts=MAX_FAILURES,
                            place=place if place and known_place(record, place, now) is not None else "",
                        )
                    )
            try:
                await self._state.commit([PutOp(key, record.encode()), *spent], conditions=conditions, events=told)
                return
            except CompareFailed:
                continue
        log.error("login: a failure of a user could not be counted: too many at once")

    async def _secret(self, user: str) -> UserSecret:
        found = await self._state.record(records.USER_SECRETS + user, UserSecret)
        return found[0] if found is not None else UserSecret()


def new_totp(name: str, secret: str, period: int, now: datetime) -> FactorDevice:
    """An authenticator program that has just shown the code of `period`."""
    return FactorDevice(
        id=str(uuid.uuid4()),
        name=name,
        kind=FactorKind.TOTP,
        added=now,
        last_used=now,
        totp_secret=secret,
        totp_last_period=period,
    )


def _by_code(secret: UserSecret, code: str, now: datetime) -> FactorDevice | None:
    """The authenticator program whose code this is, moved on to it. All are compared; one, when there is none."""
    found: FactorDevice | None = None
    devices = [device for device in secret.devices if device.kind == FactorKind.TOTP]
    for device in devices:
        period = passwords.totp_period(device.totp_secret, code, now, after=device.totp_last_period)
        if period is not None and found is None:
            found = msgspec.structs.replace(device, totp_last_period=period, last_used=now)
    if not devices:
        passwords.totp_period(NO_TOTP, code, now, after=0)
    return found


def _by_key(
    secret: UserSecret, answer: m.WebauthnAssertion, asked: FactorChallengeRecord, party: RelyingParty, now: datetime
) -> FactorDevice:
    """The hardware key that signed, with its counter moved on. Raises `ProofRefused`."""
    if asked.rp_id != party.id:
        raise ProofRefused("the challenge was made for another domain")
    keys = {device.credential_id: device for device in secret.devices if device.kind == FactorKind.WEBAUTHN}
    credential, count = webauthn.verify_assertion(
        Assertion(
            answer.credential_id, answer.client_data, answer.authenticator_data, answer.signature, answer.user_handle
        ),
        challenge=asked.challenge,
        party=party,
        credentials=[
            Credential(device.credential_id, device.public_key, device.sign_count) for device in keys.values()
        ],
        user_handle=secret.user_handle,
    )
    return msgspec.structs.replace(keys[credential.id], sign_count=count, last_used=now)


def moved_on(secret: UserSecret, device: FactorDevice | None) -> UserSecret:
    """The record with the device that answered as it is now."""
    if device is None:
        return secret
    return msgspec.structs.replace(secret, devices=[device if one.id == device.id else one for one in secret.devices])


def _host(address: str) -> str:
    return address.rpartition(":")[0].strip("[]") if ":" in address else address


def _no_device(rule: FactorRule) -> BadRequest:
    if not rule.kinds:
        return BadRequest("this cluster has no second factors: second_factor is off", hint="ask an administrator")
    return BadRequest(
        "you have no second factor that counts here",
        hint=f"tsh mfa add --type={'totp' if FactorKind.TOTP in rule.kinds else 'webauthn'}",
    )
