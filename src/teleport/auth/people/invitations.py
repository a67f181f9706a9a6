"""Invitations and resets: a link that lets one person set a password and a second factor, once, for a while; and the
end of a lockout.

The link's secret is kept hashed. Making a reset ends the user's old password at once. Finishing is one transaction:
the token goes, the secret comes, so that a link used twice at the same moment works once.
"""

from __future__ import annotations

import os
import secrets
import shlex
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol

import msgspec

from teleport.api import messages as m
from teleport.audit.events import (
    Event,
    MfaAdd,
    ResetPasswordTokenCreate,
    SecretRevealed,
    UserCreate,
    UserPasswordChange,
    UserUnlocked,
)
from teleport.auth.authorizer import Authorizer, facts_of
from teleport.auth.caller import Caller
from teleport.auth.factors import passwords
from teleport.auth.factors.checking import event_device, new_totp
from teleport.auth.factors.leases import leases_of
from teleport.auth.factors.lockout import locked_until, unlocked
from teleport.auth.factors.passkeys import is_passkey, known_by_passkeys, unknown_to_passkeys
from teleport.auth.people.devices import Devices, check_passkey, checked_device_name
from teleport.auth.people.logins import Logins
from teleport.auth.people.web_sessions import First, WebSessions, ending_all
from teleport.auth.state import ClusterState, giving_roles
from teleport.authz.second_factor import FactorKind, FactorRule, factor_rule, takes_passkeys
from teleport.backend.interface import Absent, Condition, DeleteOp, Exists, PutOp, Write
from teleport.errors import AccessDenied, AlreadyExists, BadRequest, CompareFailed, NotFound
from teleport.resources.cluster import SecondFactor
from teleport.resources.codec import checked, to_json
from teleport.resources.kinds import Kind, Verb
from teleport.resources.metadata import Metadata
from teleport.resources.trusted_cluster import check_local_user
from teleport.resources.user import CreatedBy, Creator, User, UserSpec
from teleport.store import records
from teleport.store.records import UserSecret, UserTokenRecord

MAX_INVITE: Final = timedelta(hours=48)
MAX_RESET: Final = timedelta(hours=24)
MAX_TRIES: Final = 10  # wrong codes before a link is withdrawn
_UNLOCK_TRIES: Final = 5
_RESET_TRIES: Final = 20
FIRST_CODE: Final = "otp"  # names of devices that come with a link
FIRST_KEY: Final = "webauthn"
FIRST_PASSKEY: Final = "passkey"
_OF_LINK: Final = "link "  # before the hash of a link: the purpose of its challenges
PRESETS: Final = "access, editor, auditor"


class ProxyNames(Protocol):
    """Where people reach the proxies."""

    async def web_address(self) -> str: ...


class UserTokens:
    """Makes users with their invitations, and turns links into passwords."""

    def __init__(
        self,
        state: ClusterState,
        logins: Logins,
        proxies: ProxyNames,
        authorizer: Authorizer,
        devices: Devices,
        browsers: WebSessions,
    ) -> None:
        self._state = state
        self._authorizer = authorizer
        self._logins = logins
        self._proxies = proxies
        self._devices = devices
        self._browsers = browsers
        self._factors = devices.factors

    async def add_user(self, caller: Caller, request: m.AddUserRequest) -> m.UserToken:
        """A new user with a link for the first login. Raises `AlreadyExists`, `BadRequest`, `NotFound` for a role."""
        if not request.roles:
            raise BadRequest(
                f"a user needs roles, {request.name!r} was given none",
                hint=f"tctl users add {shlex.quote(request.name)} --roles=access   (presets: {PRESETS})",
            )
        check_local_user(request.name)
        now = self._state.clock.now()
        user = checked(
            User(
                metadata=Metadata(name=request.name),
                spec=UserSpec(
                    roles=tuple(request.roles),
                    traits={name: tuple(values) for name, values in request.traits.items()},
                    created_by=CreatedBy(time=now, user=Creator(name=caller.name)),
                ),
            )
        )
        await self._authorizer.require(caller, Verb.CREATE, Kind.USER, facts_of(user), reveals=True)
        known = await self._state.roles(request.roles)
        unknown = [role for role in request.roles if role not in known]
        if unknown:
            raise NotFound(
                f"there is no role {', '.join(map(repr, unknown))}", hint=f"presets: {PRESETS}; all: tctl get roles"
            )
        token, key, record = self._new(request.name, "invite", request.ttl, MAX_INVITE)
        given, roles_exist = giving_roles(request.roles)
        try:
            await self._state.commit(
                [
                    given,
                    PutOp(records.USERS + request.name, to_json(user)),
                    PutOp(records.USER_SECRETS + request.name, UserSecret().encode()),
                    PutOp(key, record.encode(), record.expires),
                ],
                conditions=[Absent(records.USERS + request.name), *roles_exist],
                events=[
                    self._state.event(UserCreate, caller, name=request.name, roles=list(request.roles)),
                    self._created(caller, record),
                ],
            )
        except CompareFailed:
            if await self._state.user(request.name) is None:
                raise NotFound("one of the roles was removed at this moment", hint="tctl get roles") from None
            raise AlreadyExists(
                f"there is a user {request.name!r} already", hint=f"tctl users reset {shlex.quote(request.name)}"
            ) from None
        return await self._reply(token, record)

    async def reset_user(self, caller: Caller, request: m.ResetUserRequest) -> m.UserToken:
        """A link that replaces password and second factor; the old ones end now, and so does a lock."""
        await self._changeable(caller, request.name, reveals=True)
        token, key, record = self._new(request.name, "reset", request.ttl, MAX_RESET)
        secret = records.USER_SECRETS + request.name
        for _ in range(_RESET_TRIES):
            found = await self._state.record(secret, UserSecret)  # before links and leases, which are made with it
            browsers, ended = await ending_all(self._state, request.name, "reset", caller.address)
            try:
                await self._state.commit(
                    [
                        PutOp(secret, UserSecret().encode()),
                        PutOp(key, record.encode(), record.expires),
                        *await self._old_links(request.name),
                        *await leases_of(self._state, request.name),
                        *browsers,
                        *(unknown_to_passkeys(found[0]) if found is not None else ()),
                    ],
                    conditions=[
                        Exists(records.USERS + request.name),
                        Exists(secret, found[1]) if found is not None else Absent(secret),
                    ],
                    events=[self._created(caller, record), *ended],
                )
            except CompareFailed:
                continue  # a factor was used, or another reset came first, at this moment
            return await self._reply(token, record)
        raise CompareFailed(f"the user {request.name!r} is being changed from elsewhere", hint="try again")

    async def unlock_user(self, caller: Caller, request: m.UnlockUserRequest) -> m.UnlockedUser:
        """Ends the lockout after failed logins and forgets these; password and second factor stay as they are."""
        await self._changeable(caller, request.name)
        key = records.USER_SECRETS + request.name
        for _ in range(_UNLOCK_TRIES):
            found = await self._state.record(key, UserSecret)
            if found is None:
                raise NotFound(f"the user {request.name!r} has no password here", hint="tctl users ls")
            record, revision = found
            locked = locked_until(record, self._state.clock.now()) is not None
            try:
                await self._state.commit(
                    [PutOp(key, unlocked(record).encode())],
                    conditions=[Exists(key, revision)],
                    events=[self._state.event(UserUnlocked, caller, name=request.name, was_locked=locked)],
                )
            except CompareFailed:
                continue  # somebody fails to log in at this very moment
            return m.UnlockedUser(was_locked=locked)
        raise CompareFailed(
            f"somebody keeps trying to log in as {request.name!r}",
            hint=f"try again: tctl users unlock {shlex.quote(request.name)}",
        )

    async def _changeable(self, caller: Caller, name: str, *, reveals: bool = False) -> None:
        """Raises `AccessDenied` when the caller may not change the user, `NotFound` when there is none."""
        user = await self._state.user(name)
        facts = facts_of(user) if user is not None else {"resource": {"metadata": {"name": name}}}
        await self._authorizer.require(caller, Verb.UPDATE, Kind.USER, facts, reveals=reveals)
        if user is None:
            raise NotFound(f"there is no user {name!r}", hint="tctl users ls")

    async def info(self, caller: Caller, request: m.UserTokenRequest) -> m.UserTokenInfo:
        """What the page behind a link shows, the second factor's secret included."""
        record, _ = await self._find(request.token)
        setting, rule = await self._rule()
        coded = FactorKind.TOTP in rule.kinds
        await self._state.tell(
            self._state.event(SecretRevealed, caller, kind="user_token", name=record.user, what="second factor")
        )
        return m.UserTokenInfo(
            user=record.user,
            kind=record.kind,
            cluster=self._state.cluster,
            expires=record.expires,
            second_factor=setting,
            totp_secret=record.totp_secret if coded else "",
            totp_url=passwords.totp_url(record.totp_secret, record.user, self._state.cluster) if coded else "",
            passwordless=takes_passkeys((await self._state.preference()).spec),
        )

    async def challenge(self, caller: Caller, request: m.UserTokenChallengeRequest) -> m.NewFactor:
        """What a new hardware key is asked with, for five minutes. Raises `BadRequest` where none counts."""
        record, _ = await self._find(request.token)
        spec = (await self._state.preference()).spec
        _, rule = await self._rule()
        if FactorKind.WEBAUTHN not in rule.kinds:
            raise BadRequest("hardware keys do not count here", hint="use an authenticator app")
        if request.passwordless:
            check_passkey(FactorKind.WEBAUTHN, spec)
        name = records.secret_key(_OF_LINK, request.token)
        called = FIRST_PASSKEY if request.passwordless else FIRST_KEY
        made, asked, reply = await self._devices.new_factor(
            record.user, UserSecret(), FactorKind.WEBAUTHN, spec, called, passwordless=request.passwordless
        )
        await self._factors.keep(made, msgspec.structs.replace(asked, purpose=name))
        return reply

    async def finish(self, caller: Caller, request: m.FinishUserTokenRequest) -> m.FinishedUserToken:
        """Sets the password, and the second factor once it has proved that the person holds it: as much as a login
        asks, so that a browser is signed in by it. A passkey needs no password beside it."""
        record, revision = await self._find(request.token)
        key = records.secret_key(records.USER_TOKENS, request.token)
        if request.password or request.proof is None:
            passwords.check_new_password(request.password, record.user)
        try:
            factor = await self._first_factor(record, request)
        except AccessDenied:
            await self._wrong_code(key, record, revision)
            raise
        secret = factor.secret
        if request.password:
            hashed: list[str] = []
            await self._logins.hashed(lambda: hashed.append(passwords.hash_password(request.password)))
            secret = msgspec.structs.replace(secret, password_hash=hashed[0])
        elif not any(map(is_passkey, secret.devices)):
            passwords.check_new_password(request.password, record.user)
        first = None
        if request.session is not None:
            first = await self._browsers.first(record.user, secret, request.session, request.client_addr)
        for begun in (first, None) if first is not None else (None,):
            try:
                await self._set(key, revision, record.user, secret, factor, begun)
            except CompareFailed:
                continue  # the user was changed at this moment, and has to sign in; or the link was used
            return m.FinishedUserToken(session=await self._browsers.told(begun) if begun is not None else None)
        raise _no_link()

    async def _set(
        self, key: str, revision: int, user: str, secret: UserSecret, factor: _FirstFactor, begun: First | None
    ) -> None:
        events: list[Event] = [self._state.event(UserPasswordChange, user=user)] if secret.password_hash else []
        events += [self._state.event(MfaAdd, user=user, mfa_device=event_device(device)) for device in secret.devices]
        kept = begun.entry.secret if begun is not None else secret
        writes: list[Write] = [PutOp(records.USER_SECRETS + user, kept.encode()), DeleteOp(key), *factor.spent]
        writes += known_by_passkeys(user, kept)
        conditions: list[Condition] = [Exists(key, revision), *factor.conditions]
        if begun is None:
            conditions.append(Exists(records.USERS + user))
        else:
            conditions.append(Exists(records.USERS + user, begun.revision))
            writes += begun.entry.writes
            events += begun.entry.events
        await self._state.commit(writes, conditions=conditions, events=events)

    # parts

    def _new(self, user: str, kind: str, ttl: float, longest: timedelta) -> tuple[str, str, UserTokenRecord]:
        if not 60 <= ttl <= longest.total_seconds():
            hours = int(longest.total_seconds() // 3600)
            raise BadRequest(f"a link lives from 1m to {hours}h, not {ttl:.0f} s", hint=f"--ttl=1h (at most {hours}h)")
        now = self._state.clock.now()
        token = secrets.token_hex(16)
        record = UserTokenRecord(
            user=user,
            kind=kind,
            totp_secret=passwords.totp_secret(os.urandom(passwords.TOTP_SECRET_BYTES)),
            created=now,
            expires=now + timedelta(seconds=ttl),
        )
        return token, records.secret_key(records.USER_TOKENS, token), record

    def _created(self, caller: Caller, record: UserTokenRecord) -> ResetPasswordTokenCreate:
        ttl = str(record.expires - record.created)
        return self._state.event(ResetPasswordTokenCreate, caller, name=record.user, expires=record.expires, ttl=ttl)

    async def _reply(self, token: str, record: UserTokenRecord) -> m.UserToken:
        address = await self._proxies.web_address()
        return m.UserToken(
            token=token, user=record.user, url=f"https://{address}/web/{record.kind}/{token}", expires=record.expires
        )

    async def _find(self, token: str) -> tuple[UserTokenRecord, int]:
        found = await self._state.record(records.secret_key(records.USER_TOKENS, token), UserTokenRecord)
        if found is None:
            raise _no_link()
        return found

    async def _old_links(self, user: str) -> list[Write]:
        links: list[Write] = []
        for item in await self._state.backend.range(records.USER_TOKENS):
            if msgspec.json.decode(item.value, type=UserTokenRecord).user == user:
                links.append(DeleteOp(item.key, missing_ok=True))
        return links

    async def remove_links(self, user: str) -> list[Write]:
        """What a deleted user leaves behind: their links stop working with them."""
        return await self._old_links(user)

    async def _wrong_code(self, key: str, record: UserTokenRecord, revision: int) -> None:
        """Counts a wrong code; after ten the link is withdrawn."""
        failures = record.failures + 1
        write: Write = (
            DeleteOp(key)
            if failures >= MAX_TRIES
            else PutOp(key, msgspec.structs.replace(record, failures=failures).encode(), record.expires)
        )
        try:
            await self._state.commit([write], conditions=[Exists(key, revision)], events=[])
        except CompareFailed:
            raise AccessDenied("this link is being used from elsewhere; try again") from None

    async def _rule(self) -> tuple[str, FactorRule]:
        """The setting as pages and tsh know it, and what it asks."""
        spec = (await self._state.preference()).spec
        setting = SecondFactor.WEBAUTHN if spec.second_factor is SecondFactor.U2F else spec.second_factor
        return str(setting), factor_rule(spec)

    async def _first_factor(self, record: UserTokenRecord, request: m.FinishUserTokenRequest) -> _FirstFactor:
        """The device that comes with a new password; none where the setting asks for none and none was given. Raises
        `AccessDenied`."""
        _, rule = await self._rule()
        name = request.device_name
        if request.proof is not None and request.proof.webauthn is not None:
            if FactorKind.WEBAUTHN not in rule.kinds:
                raise BadRequest("hardware keys do not count here", hint="use an authenticator app")
            asked = await self._factors.asked(request.proof.id)
            if asked is None or asked[0].purpose != records.secret_key(_OF_LINK, request.token):
                raise AccessDenied("the hardware key answered too late; try again")
            if asked[0].passwordless:
                check_passkey(FactorKind.WEBAUTHN, (await self._state.preference()).spec)
            called = checked_device_name(name or asked[0].device_name)
            named = msgspec.structs.replace(asked[0], device_name=called)
            _, secret = await self._devices.proved(UserSecret(), named, request.proof)
            return _FirstFactor(secret, (asked[1],), (asked[2],))
        if FactorKind.TOTP in rule.kinds and (rule.of_everybody or request.otp_token):
            now = self._state.clock.now()
            period = passwords.totp_period(record.totp_secret, request.otp_token, now, after=0)
            if period is None:
                raise AccessDenied("the code is wrong; wait for the next one and try again")
            device = new_totp(checked_device_name(name or FIRST_CODE), record.totp_secret, period, now)
            return _FirstFactor(UserSecret(devices=[device]))
        if rule.of_everybody:
            raise AccessDenied("this cluster asks for a hardware key: register one")
        return _FirstFactor(UserSecret())


@dataclass(frozen=True, slots=True)
class _FirstFactor:
    """What a new user's record says of second factors, and the challenge that this used up."""

    secret: UserSecret
    spent: tuple[Write, ...] = ()
    conditions: tuple[Condition, ...] = ()


def _no_link() -> NotFound:
    return NotFound(
        "this link was used, has expired, or never existed", hint="ask for a new one: tctl users reset NAME"
    )
