"""The second factors of a user: which there are, adding one, removing one.

Whoever adds or removes a device proves one that counts already; who has none that counts proves the password. A new
device proves that it works before it is kept. The last device that lets somebody log in is not removed.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import uuid
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from teleport.api import messages as m
from teleport.audit.events import Event, MfaAdd, MfaDelete
from teleport.auth.authorizer import Authorizer, Denied
from teleport.auth.caller import Caller
from teleport.auth.factors import passwords
from teleport.auth.factors.checking import LIFE, Factors, event_device, new_totp, refused_factor
from teleport.auth.factors.leases import leases_of
from teleport.auth.factors.lockout import forgiven
from teleport.auth.factors.passkeys import is_passkey, known_by_passkeys
from teleport.auth.people.logins import Logins
from teleport.auth.state import ClusterState
from teleport.authz.certificate import certificate_denial
from teleport.authz.locks import user_lock_denial
from teleport.authz.second_factor import FactorKind, FactorRule, takes_passkeys
from teleport.backend.interface import Exists, PutOp, Write
from teleport.errors import AccessDenied, AlreadyExists, BadRequest, CompareFailed, LimitExceeded, NotFound
from teleport.identity import UserIdentity
from teleport.pki import webauthn
from teleport.pki.webauthn import AttestationPolicy, ProofRefused
from teleport.resources.cluster import AuthPreferenceSpec
from teleport.resources.names import check_text
from teleport.store import records
from teleport.store.records import FactorChallengeRecord, FactorDevice, UserSecret

DEVICES: Final = "devices"  # the purpose of challenges for this
REGISTER: Final = "register "  # and of devices about to be registered, before whose
MAX_DEVICES: Final = 20
MAX_NAME: Final = 64  # characters
_TRIES: Final = 5


class Devices:
    """What `tsh mfa` asks for, and what the page behind an invitation needs."""

    def __init__(self, state: ClusterState, factors: Factors, logins: Logins, authorizer: Authorizer) -> None:
        self._state = state
        self.factors = factors
        self._logins = logins
        self._authorizer = authorizer

    async def challenge(self, caller: Caller, request: m.Empty) -> m.FactorChallenge:
        """A challenge to the caller's own devices, for adding or removing one."""
        return await self.factors.challenge(await self.own_name(caller), DEVICES)

    async def ls(self, caller: Caller, request: m.Empty) -> m.FactorDevices:
        """The caller's own devices."""
        secret, _ = await self._secret(await self.own_name(caller))
        rule = await self.factors.rule()
        return m.FactorDevices(
            devices=[
                m.FactorDeviceInfo(
                    id=one.id,
                    name=one.name,
                    type=one.kind,
                    added=one.added,
                    last_used=one.last_used,
                    passwordless=one.passwordless,
                )
                for one in secret.devices
            ],
            kinds=sorted(rule.kinds),
            passwordless=takes_passkeys((await self._state.preference()).spec),
        )

    async def begin(self, caller: Caller, request: m.BeginFactorRequest) -> m.NewFactor:
        """Begins to add a device, once an older one was proved. Raises `AccessDenied`, `AlreadyExists`,
        `BadRequest`."""
        user = await self.own_name(caller)
        name = checked_device_name(request.name)
        spec = (await self._state.preference()).spec
        rule = await self.factors.rule()
        if request.type not in rule.kinds:
            raise BadRequest(
                f"devices of the type {request.type[:32]!r} do not count here: second_factor is {spec.second_factor}",
                hint="--type=" + " or ".join(sorted(rule.kinds)) if rule.kinds else "ask an administrator",
            )
        kind = FactorKind(request.type)
        if request.passwordless:
            check_passkey(kind, spec)
        secret, _ = await self._secret(user)
        if any(device.name == name for device in secret.devices):
            raise AlreadyExists(f"you have a device {name!r} already", hint="tsh mfa add --name=ANOTHER")
        if len(secret.devices) >= MAX_DEVICES:
            raise LimitExceeded(f"a user has at most {MAX_DEVICES} devices", hint="tsh mfa rm NAME")
        made, record, reply = await self.new_factor(user, secret, kind, spec, name, passwordless=request.passwordless)
        key = records.secret_key(records.FACTOR_CHALLENGES, made)

        def begun(proved_by: str) -> Sequence[Write]:
            return [PutOp(key, msgspec.structs.replace(record, proved_by=proved_by).encode(), record.expires)]

        await self._prove(user, rule, request.factor, request.password, writes=begun, events=[])
        return reply

    async def finish(self, caller: Caller, request: m.NewFactorProof) -> m.Done:
        """Keeps a new device that has shown that it works. Raises `AccessDenied`."""
        user = await self.own_name(caller)
        for _ in range(_TRIES):
            asked = await self.factors.asked(request.id)
            if asked is None or asked[0].user != user or asked[0].purpose != REGISTER + user:
                raise AccessDenied("this registration is over, or was never begun", hint="start again: tsh mfa add")
            record, spent, unspent = asked
            secret, revision = await self._secret(user)
            if record.proved_by not in _proving(secret):
                raise AccessDenied(
                    "this registration is over: what you proved for it does not count any more",
                    hint="start again: tsh mfa add",
                )
            if record.passwordless:
                check_passkey(FactorKind.WEBAUTHN, (await self._state.preference()).spec)
            device, changed = await self.proved(secret, record, request)
            if device.kind not in (await self.factors.rule()).kinds:
                raise BadRequest(f"devices of the type {device.kind!r} do not count here any more", hint="tsh mfa ls")
            try:
                await self._state.commit(
                    [PutOp(records.USER_SECRETS + user, changed.encode()), spent, *known_by_passkeys(user, changed)],
                    conditions=[
                        Exists(records.USER_SECRETS + user, revision),
                        Exists(records.USERS + user),
                        unspent,
                    ],
                    events=[self._state.event(MfaAdd, caller, mfa_device=event_device(device))],
                )
            except CompareFailed:
                continue  # another device was used at this moment
            return m.Done()
        raise CompareFailed("your devices were changed from elsewhere at this moment", hint="tsh mfa ls")

    async def remove(self, caller: Caller, request: m.RemoveFactorRequest) -> m.Done:
        """Removes a device by name or id, once one was proved. Raises `AccessDenied`, `BadRequest`, `NotFound`."""
        user = await self.own_name(caller)
        rule = await self.factors.rule()
        secret, _ = await self._secret(user)
        device = _named(secret, request.name)
        _may_go(device, secret, rule)

        def without(now: UserSecret) -> UserSecret:
            _may_go(_named(now, device.id), now, rule)
            return msgspec.structs.replace(now, devices=[one for one in now.devices if one.id != device.id])

        told = self._state.event(MfaDelete, caller, mfa_device=event_device(device))
        leases = await leases_of(self._state, user, device.id)
        await self._prove(
            user, rule, request.factor, request.password, writes=lambda _: leases, events=[told], change=without
        )
        return m.Done()

    # parts, also of invitations

    async def new_factor(
        self,
        user: str,
        secret: UserSecret,
        kind: FactorKind,
        spec: AuthPreferenceSpec,
        name: str,
        *,
        passwordless: bool = False,
    ) -> tuple[str, FactorChallengeRecord, m.NewFactor]:
        """The id, the record to be kept and the reply for a device about to be registered."""
        made = secrets.token_urlsafe(24)
        expires = self._state.clock.now() + LIFE
        purpose = REGISTER + user
        if kind is FactorKind.TOTP:
            totp = passwords.totp_secret(os.urandom(passwords.TOTP_SECRET_BYTES))
            record = FactorChallengeRecord(
                user=user, purpose=purpose, expires=expires, totp_secret=totp, device_name=name
            )
            url = passwords.totp_url(totp, user, self._state.cluster)
            return made, record, m.NewFactor(id=made, expires=expires, totp_secret=totp, totp_url=url)
        party = await self.factors.party()
        challenge = webauthn.encode(os.urandom(32))
        handle = secret.user_handle or webauthn.encode(os.urandom(32))
        record = FactorChallengeRecord(
            user=user,
            purpose=purpose,
            expires=expires,
            challenge=challenge,
            rp_id=party.id,
            user_handle=handle,
            device_name=name,
            passwordless=passwordless,
        )
        # a key that is known already may become a passkey; a passkey is a second factor as it is
        held = [one for one in secret.devices if one.credential_id and (one.passwordless or not passwordless)]
        asked = m.WebauthnCreation(
            challenge=challenge,
            rp_id=party.id,
            rp_name=self._state.cluster,
            user_id=handle,
            user_name=user,
            algorithms=list(webauthn.ALGORITHMS),
            exclude=[one.credential_id for one in held],
            user_verification="required" if passwordless else "discouraged",
            resident_key="required" if passwordless else "discouraged",
            attestation="direct" if attestation_policy(spec).asks else "none",
        )
        return made, record, m.NewFactor(id=made, expires=expires, webauthn=asked)

    async def proved(
        self, secret: UserSecret, record: FactorChallengeRecord, proof: m.NewFactorProof
    ) -> tuple[FactorDevice, UserSecret]:
        """The new device and the user's record with it. Raises `AccessDenied` when it did not prove itself."""
        now = self._state.clock.now()
        if record.totp_secret:
            period = passwords.totp_period(record.totp_secret, proof.totp_code, now, after=0)
            if period is None:
                raise AccessDenied("the code is wrong; wait for the next one and try again")
            device = new_totp(record.device_name, record.totp_secret, period, now)
        else:
            device = await self._hardware_key(secret, record, proof)
        handle = record.user_handle or secret.user_handle
        if any(device.name == one.name for one in secret.devices):
            raise AlreadyExists(f"you have a device {device.name!r} already", hint="tsh mfa add --name=ANOTHER")
        return device, msgspec.structs.replace(secret, devices=[*secret.devices, device], user_handle=handle)

    async def _hardware_key(
        self, secret: UserSecret, record: FactorChallengeRecord, proof: m.NewFactorProof
    ) -> FactorDevice:
        now, spec, party = self._state.clock.now(), (await self._state.preference()).spec, await self.factors.party()
        refused = AccessDenied(
            "the hardware key could not be registered", hint="try again, or another key; the audit log says no more"
        )
        if proof.webauthn is None or record.rp_id != party.id:
            raise refused
        if secret.user_handle not in ("", record.user_handle):
            raise refused  # another first key was registered meanwhile
        try:
            credential = await asyncio.to_thread(
                webauthn.verify_registration,
                proof.webauthn.client_data,
                proof.webauthn.attestation_object,
                challenge=record.challenge,
                party=party,
                policy=attestation_policy(spec),
                verified_user=record.passwordless,
            )
        except ProofRefused as error:
            raise AccessDenied(f"the hardware key could not be registered: {error}", hint="try another key") from None
        if any(one.credential_id == credential.id for one in secret.devices):
            raise AlreadyExists("this hardware key is registered already", hint="tsh mfa ls")
        await self.factors.remember(party)
        return FactorDevice(
            id=str(uuid.uuid4()),
            name=record.device_name,
            kind=FactorKind.WEBAUTHN,
            added=now,
            last_used=now,
            credential_id=credential.id,
            public_key=credential.public_key,
            sign_count=credential.sign_count,
            rp_id=record.rp_id,
            aaguid=credential.aaguid,
            passwordless=record.passwordless,
        )

    async def _prove(
        self,
        user: str,
        rule: FactorRule,
        factor: m.FactorResponse | None,
        password: str,
        *,
        writes: Callable[[str], Sequence[Write]],
        events: Sequence[Event],
        change: Callable[[UserSecret], UserSecret] = lambda secret: secret,
    ) -> None:
        """Commits `writes`, `events` and `change` with the proof of a device, or of the password where none counts.

        `writes` are told which it was (`_proving`).
        """
        secret, revision = await self._secret(user)
        if not rule.kinds.isdisjoint(device.kind for device in secret.devices):
            answer = factor or m.FactorResponse()
            await self.factors.prove(
                user, answer, DEVICES, writes=lambda one: writes(one.id), events=lambda _: events, change=change
            )
            return
        stored = secret.password_hash if not secret.locked(self._state.clock.now()) else ""  # then nothing is computed
        right = await self._logins.hashed(lambda: passwords.verify_password(stored, password)) if stored else False
        if not right or secret.locked(self._state.clock.now()):
            await self.factors.failed(user, known=True, events=())
            raise AccessDenied(
                "the password is wrong", hint="you have no second factor that counts yet: prove your password"
            )
        try:
            await self._state.commit(
                [PutOp(records.USER_SECRETS + user, forgiven(change(secret)).encode()), *writes(_of_password(stored))],
                conditions=[Exists(records.USER_SECRETS + user, revision), Exists(records.USERS + user)],
                events=events,
            )
        except CompareFailed:
            raise refused_factor() from None

    async def _secret(self, user: str) -> tuple[UserSecret, int]:
        found = await self._state.record(records.USER_SECRETS + user, UserSecret)
        if found is None:
            raise NotFound(f"the user {user!r} logs in elsewhere and has no devices here")
        return found

    async def own_name(self, caller: Caller) -> str:
        """The user who asks, in the own name, for what is the own. Raises `AccessDenied`."""
        identity = caller.identity
        if not isinstance(identity, UserIdentity):
            raise AccessDenied("only users have second factors", hint="tsh login")
        if identity.impersonator:
            raise AccessDenied("nobody changes the second factors of somebody else", hint="tsh login")
        now = self._state.clock.now()
        denial = certificate_denial(
            identity,
            cluster=self._state.cluster,
            now=now,
            client_address=caller.address.rpartition(":")[0].strip("[]"),
        ) or user_lock_denial(identity, await self._authorizer.locks(), now)
        if denial is not None:
            raise Denied(denial)
        return identity.name


def check_passkey(kind: FactorKind, spec: AuthPreferenceSpec) -> None:
    """Raises `BadRequest` unless a device of this kind may be registered as a passkey."""
    if kind is not FactorKind.WEBAUTHN:
        raise BadRequest("only a hardware key is a passkey", hint="--type=webauthn")
    if not takes_passkeys(spec):
        raise BadRequest("passkeys do not log in to this cluster", hint="add it as a second factor: tsh mfa add")


def attestation_policy(spec: AuthPreferenceSpec) -> AttestationPolicy:
    """Whose hardware keys may be registered; the lists of `u2f` and `webauthn` are one."""
    allowed = spec.u2f.device_attestation_cas if spec.u2f is not None else ()
    if spec.webauthn is None:
        return AttestationPolicy(allowed)
    return AttestationPolicy((*allowed, *spec.webauthn.attestation_allowed_cas), spec.webauthn.attestation_denied_cas)


def checked_device_name(name: str) -> str:
    if not name.strip() or name != name.strip() or len(name) > MAX_NAME or check_text(name):
        raise BadRequest(
            f"a device is called by 1 to {MAX_NAME} printable characters in one line", hint="tsh mfa add --name=NAME"
        )
    return name


def _named(secret: UserSecret, name: str) -> FactorDevice:
    found = [one for one in secret.devices if one.id == name] or [one for one in secret.devices if one.name == name]
    if not found:
        raise NotFound(f"you have no device {name[:MAX_NAME]!r}", hint="tsh mfa ls")
    return found[0]


def _proving(secret: UserSecret) -> set[str]:
    """Whatever a registration may rest on now: who removes a device, or is reset, ends what was begun with it."""
    return {*(device.id for device in secret.devices), _of_password(secret.password_hash)}


def _of_password(password_hash: str) -> str:
    return hashlib.sha256(password_hash.encode()).hexdigest()


def _may_go(device: FactorDevice, secret: UserSecret, rule: FactorRule) -> None:
    """Raises `BadRequest` when nobody could log in without `device`."""
    held = {one.kind for one in secret.devices}
    left = {one.kind for one in secret.devices if one.id != device.id}
    if rule.lacking(left) and not rule.lacking(held):
        raise BadRequest(
            f"{device.name!r} is the last device with which you can log in: this cluster demands a second factor",
            hint="add another one first: tsh mfa add",
        )
    alone = not secret.password_hash and is_passkey(device)
    if alone and not any(is_passkey(one) for one in secret.devices if one.id != device.id):
        raise BadRequest(
            f"{device.name!r} is the last passkey of an account without a password: nothing else logs in",
            hint="add another passkey first: tsh mfa add --allow-passwordless",
        )
